"""Reports against scores computed apart from the same answer files, with and without holes in them."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from vdd._check import UserError
from vdd.config import DebiasConfig, Leg, SamplingConfig, to_json
from vdd.records import Answer, Question
from vdd.report import COLUMNS, _sureness, evaluate, markdown, table

metrics = pytest.importorskip("sklearn.metrics", reason="AUROC is checked against scikit-learn's")

NAMES = ("pope", "made", "up")
LEGS = [Leg("greedy"), Leg("vdd-none", DebiasConfig()), Leg("posthoc-none", post_hoc="none")]
SAID = {
    "greedy": ["yes", "Yes, there is.", "no", "yes", "No.", "I see a car", "yes", "yes"],
    "vdd-none": ["yes", "no", "no", "yes", "No.", "no", "yes", "no"],
    "posthoc-none": ["yes", "no", "yes", "no", "yes", "no", "yes", "no"],
}
CHANCES = {
    "greedy": [0.9, 0.7, 0.2, 0.8, 0.3, 0.55, 0.7, 0.6],
    "vdd-none": [0.8, 0.4, 0.2, 0.8, 0.1, 0.45, 0.6, 0.3],
    "posthoc-none": [0.7, 0.3, 0.6, 0.4, 0.51, 0.45, 0.6, 0.1],
}
LABELS = ["yes", "no"] * 4


def answer(number, leg, **changes) -> Answer:
    p = CHANCES[leg][number]
    raw = {"yes": 0.9 * p, "no": 0.9 * (1 - p)}
    values = {
        "question_id": number,
        "question": f"is there a fox {number} ?",
        "image": f"{number // 2}.png",
        "text": SAID[leg][number],
        "probabilities": raw,
        "margin": math.log(p / (1 - p)),
    }
    if leg.startswith("posthoc"):
        values |= {"probabilities": {"yes": 0.5, "no": 0.5}, "debiased": {"none": {"yes": p, "no": 1 - p}}}
    return Answer(**(values | changes))


def write_run(folder, *, legs=LEGS, change=lambda leg, answers: answers):
    """A finished run's folder, written by hand."""
    (folder / "answers").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"legs": [to_json(leg) for leg in legs]}))
    given = {leg.name: change(leg.name, [answer(n, leg.name) for n in range(len(LABELS))]) for leg in legs}
    some = [answer(n, "greedy") for n in range(len(LABELS))]
    asked = [Question(a.question_id, a.image, a.question, label) for a, label in zip(some, LABELS, strict=True)]
    (folder / "questions.jsonl").write_text("".join(json.dumps(vars(question)) + "\n" for question in asked))
    for name, answers in given.items():
        (folder / "answers" / f"{name}.jsonl").write_text("".join(a.to_json() + "\n" for a in answers))
    costs = [{"batch": b, "part": leg.name, "seconds": 0.25, "forwards": 6} for b in (0, 1) for leg in legs]
    (folder / "timings.jsonl").write_text("".join(json.dumps(cost) + "\n" for cost in costs))
    return folder


def read(text: str) -> str:
    """POPE's rule for these answers."""
    return "no" if {"no", "No", "not"} & set(text.split(".")[0].replace(",", "").split(" ")) else "yes"


@pytest.fixture
def results(tmp_path):
    return evaluate(write_run(tmp_path / "run"), names=NAMES)


def test_the_figures_are_those_of_counting_by_hand(results):
    for result in results:
        said = [read(text) for text in SAID[result.leg.name]]
        tp = sum(s == label == "yes" for s, label in zip(said, LABELS, strict=True))
        right = sum(s == label for s, label in zip(said, LABELS, strict=True))
        precision, recall = tp / said.count("yes"), tp / LABELS.count("yes")
        values = result.score.values
        assert values["accuracy"] == pytest.approx(right / 8)
        assert values["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
        assert values["yes_ratio"] == pytest.approx(said.count("yes") / 8)
        assert (values["n"], values["unanswered"]) == (8, 0)
    assert [result.score.values["unparsed"] for result in results] == [1, 0, 0]


def test_auroc_is_scikit_learns_on_the_margins(results):
    for result in results:
        margins = [answer(n, result.leg.name).margin for n in range(8)]
        want = metrics.roc_auc_score([label == "yes" for label in LABELS], margins)
        assert result.score.values["auroc"] == pytest.approx(want)


def test_calibration_error_is_that_of_the_answers_own_scores_in_fifteen_bins(results):
    for result in results:
        p = CHANCES[result.leg.name]
        right = [read(text) == label for text, label in zip(SAID[result.leg.name], LABELS, strict=True)]
        bins: dict[int, list[float]] = {}
        for chance, correct in zip(p, right, strict=True):
            confidence = max(chance, 1 - chance)
            bins.setdefault(math.ceil(confidence * 15 - 1e-9), []).append(correct - confidence)
        assert result.score.values["ece"] == pytest.approx(sum(abs(sum(gaps)) for gaps in bins.values()) / 8)


def test_gains_are_over_the_first_leg_and_carry_an_interval_around_them(results):
    assert results[0].gain is results[0].test is None
    for result in results[1:]:
        want = result.score.values["accuracy"] - results[0].score.values["accuracy"]
        assert result.gain.value == pytest.approx(want)
        assert -1 <= result.gain.low <= result.gain.value <= result.gain.high <= 1
        low, high = result.score.intervals["accuracy"]
        assert low <= result.score.values["accuracy"] <= high
        was = [read(t) == label for t, label in zip(SAID["greedy"], LABELS, strict=True)]
        now = [read(t) == label for t, label in zip(SAID[result.leg.name], LABELS, strict=True)]
        assert result.test.only_a == sum(a and not b for a, b in zip(was, now, strict=True))
        assert result.test.only_b == sum(b and not a for a, b in zip(was, now, strict=True))
        assert sum(result.transitions.values()) == 8


def test_costs_are_the_times_of_the_leg_per_question(results):
    for result in results:
        assert result.forwards == pytest.approx(2 * 6 / 8)
        assert result.seconds == pytest.approx(2 * 0.25 / 8)


def test_every_score_carries_its_own_signature(results):
    signatures = [result.score.signature for result in results]
    assert len(set(signatures)) == 3
    for result in results:
        assert result.score.signature.startswith("pope|made|up|n:8|parse:official|")
        assert result.leg.signature() in result.score.signature


def test_the_table_has_a_row_for_each_leg_and_so_has_its_markdown(results):
    rows = table(results)
    assert [row[0] for row in rows] == [leg.name for leg in LEGS]
    assert all(len(row) == len(COLUMNS) for row in rows)
    lines = [line for line in markdown(results).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(LEGS)
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}
    assert [line.split("|")[1].strip() for line in lines[2:]] == [leg.name for leg in LEGS]
    assert f"{100 * results[0].score.values['accuracy']:.1f}" in lines[2]
    assert results[0].score.signature in markdown(results)


def test_the_scores_file_holds_what_was_returned_and_is_strict_json(tmp_path):
    folder = write_run(tmp_path / "run")
    results = evaluate(folder, names=NAMES)
    stored = json.loads((folder / "scores.json").read_text(), parse_constant=pytest.fail)
    assert [entry["leg"] for entry in stored] == [leg.name for leg in LEGS]
    for entry, result in zip(stored, results, strict=True):
        assert entry["signature"] == result.score.signature
        assert entry["accuracy"] == result.score.values["accuracy"]
        assert entry["auroc"] == pytest.approx(result.score.values["auroc"])
        assert entry["forwards_per_question"] == result.forwards
        assert entry["gain"] == (None if result.gain is None else list(result.gain))


def test_a_report_repeats_byte_for_byte_and_its_seed_moves_only_intervals(tmp_path):
    folder = write_run(tmp_path / "run")
    evaluate(folder, names=NAMES)
    first = (folder / "scores.json").read_bytes()
    other = evaluate(folder, names=NAMES, seed=1)
    again = evaluate(folder, names=NAMES)
    assert (folder / "scores.json").read_bytes() == first
    assert [result.score.values for result in other] == [result.score.values for result in again]


def test_the_parser_is_the_one_asked_for(tmp_path):
    folder = write_run(tmp_path / "run")
    exact = evaluate(folder, names=NAMES, parser="exact")
    assert exact[0].score.values["unparsed"] == 3
    assert "parse:exact" in exact[0].score.signature
    with pytest.raises(UserError, match="unknown parser 'strict'; known: official, vcd, exact"):
        evaluate(folder, names=NAMES, parser="strict")


# ------------------------------------------------------------------------------------------------ holes and tampering


def failed(given: Answer) -> Answer:
    return Answer(given.question_id, given.question, given.image, "", error="image 1.png: no such file")


def test_questions_without_an_answer_are_wrong_counted_and_left_out_of_the_ranking(tmp_path):
    def change(leg, answers):
        return [failed(a) if n in (0, 3) else a for n, a in enumerate(answers)]

    result = evaluate(write_run(tmp_path / "run", change=change), names=NAMES)[0]
    said = [None if n in (0, 3) else read(text) for n, text in enumerate(SAID["greedy"])]
    values = result.score.values
    assert values["unanswered"] == 2
    assert values["accuracy"] == pytest.approx(sum(s == label for s, label in zip(said, LABELS, strict=True)) / 8)
    kept = [n for n in range(8) if n not in (0, 3)]
    want = metrics.roc_auc_score([LABELS[n] == "yes" for n in kept], [CHANCES["greedy"][n] for n in kept])
    assert values["auroc"] == pytest.approx(want)
    bins: dict[int, float] = {}
    for n in kept:
        confidence = max(CHANCES["greedy"][n], 1 - CHANCES["greedy"][n])
        place = math.ceil(confidence * 15 - 1e-9)
        bins[place] = bins.get(place, 0.0) + (said[n] == LABELS[n]) - confidence
    assert values["ece"] == pytest.approx(sum(map(abs, bins.values())) / len(kept))


def test_a_run_without_a_single_answer_has_a_report_all_the_same(tmp_path):
    folder = write_run(tmp_path / "run", change=lambda leg, answers: [failed(a) for a in answers])
    (folder / "timings.jsonl").write_text("")
    results = evaluate(folder, names=NAMES)
    assert [result.score.values["unanswered"] for result in results] == [8, 8, 8]
    assert [result.score.values["accuracy"] for result in results] == [0, 0, 0]
    assert len([line for line in markdown(results).splitlines() if line.startswith("|")]) == 5
    stored = json.loads((folder / "scores.json").read_text(), parse_constant=pytest.fail)
    assert stored[0]["auroc"] is None


def test_a_question_whose_labels_were_all_cut_off_has_a_report_all_the_same(tmp_path):
    def change(leg, answers):
        return [replace(answers[0], probabilities={"yes": 0.0, "no": 0.0}), *answers[1:]]

    results = evaluate(write_run(tmp_path / "run", legs=LEGS[:2], change=change), names=NAMES)
    assert all(0 <= result.score.values["ece"] <= 1 for result in results)


def test_all_questions_about_one_image_give_figures_without_intervals(tmp_path):
    folder = write_run(tmp_path / "run")
    for path in (folder / "questions.jsonl", *(folder / "answers").iterdir()):
        text = path.read_text()
        for number in range(4):
            text = text.replace(f'"{number}.png"', '"0.png"')
        path.write_text(text)
    results = evaluate(folder, names=NAMES)
    assert results[1].gain is None
    assert results[0].score.intervals == {}
    assert len(table(results)) == 3


def _drop(lines):
    return lines[:-1]


def _swap(lines):
    return [lines[1], lines[0], *lines[2:]]


def _double(lines):
    return [*lines, lines[-1]]


def _break(lines):
    return [lines[0][:20], *lines[1:]]


def _strip(lines):
    record = json.loads(lines[0])
    del record["text"]
    return [json.dumps(record), *lines[1:]]


def _bend(lines):
    return [json.dumps(json.loads(lines[0]) | {"text": 7}), *lines[1:]]


def _none(lines):
    return []


@pytest.mark.parametrize("tamper", [_drop, _swap, _double, _break, _strip, _bend, _none], ids=lambda f: f.__name__[1:])
def test_a_tampered_answer_file_is_a_users_error_that_names_the_file(tmp_path, tamper):
    folder = write_run(tmp_path / "run")
    path = folder / "answers" / "vdd-none.jsonl"
    path.write_text("".join(line + "\n" for line in tamper(path.read_text().splitlines())))
    with pytest.raises(UserError, match=r"vdd-none\.jsonl"):
        evaluate(folder, names=NAMES)


def test_a_missing_answer_file_is_a_users_error_that_names_it(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "answers" / "greedy.jsonl").unlink()
    with pytest.raises(UserError, match=r"greedy\.jsonl"):
        evaluate(folder, names=NAMES)


@pytest.mark.parametrize("missing", ["run.json", "timings.jsonl"])
def test_a_folder_that_is_no_finished_run_is_a_users_error(tmp_path, missing):
    folder = write_run(tmp_path / "run")
    (folder / missing).unlink()
    with pytest.raises(UserError, match=missing.split(".")[0]):
        evaluate(folder, names=NAMES)


def test_sampling_settings_come_back_as_they_were_stored(tmp_path):
    legs = [Leg("greedy", None, SamplingConfig(max_new_tokens=3)), *LEGS[1:]]
    results = evaluate(write_run(tmp_path / "run", legs=legs), names=NAMES)
    assert [result.leg for result in results] == legs


def test_calibration_error_is_of_the_probability_that_the_given_answer_had():
    """A sampled answer is often not the likeliest label: said "no" at 0.1 and right, the gap is 0.9."""
    asked = [Question(1, "a.png", "Is there a fox?", "no")]
    given = [Answer(1, "Is there a fox?", "a.png", "no", probabilities={"yes": 0.45, "no": 0.05}, margin=2.2)]
    assert _sureness(asked, given, ["no"], np.array([True]))["ece"] == pytest.approx(0.9)
    assert np.isnan(_sureness(asked, given, ["other"], np.array([False]))["ece"])
