"""What a report counts, against counting again from the answer files."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tests.finished_runs import LEGS, answers_of, chance_of, labels_of, write_run
from vdd._check import UserError
from vdd.config import DebiasConfig, Leg
from vdd.records import Answer
from vdd.report import RELABELLED, confidence, evaluate, read_scores
from vdd.report_figures import KINDS, by_confidence, front, kind_of, reliability, run_reports

NAMES = ("pope", "made", "up")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = write_run(tmp_path_factory.mktemp("runs") / "run", unreadable=(4, 5), images=20)
    evaluate(out, names=NAMES, parser="vcd", seed=3)
    return out


@pytest.fixture(scope="module")
def report(folder):
    (found,) = run_reports([folder])
    return found


def test_the_results_are_those_of_the_scores_file_to_the_last_digit(folder, report):
    stored = read_scores(folder / "scores.json", LEGS)
    assert [(r.leg.name, r.draws, r.score.signature) for r in stored] == [
        (r.leg.name, r.draws, r.score.signature) for r in report.results
    ]
    for read, own in zip(stored, report.results, strict=True):
        assert read.score.values == pytest.approx(own.score.values, rel=0, abs=0, nan_ok=True)
        assert read.score.intervals == own.score.intervals
        assert (read.gain, read.test, read.transitions) == (own.gain, own.test, own.transitions)
        assert (read.forwards, read.seconds) == (own.forwards, own.seconds)


def test_names_and_parser_come_from_the_scores_else_from_the_folder(folder, report, tmp_path):
    assert (report.title, report.parser) == ("pope made up", "vcd")
    (bare,) = run_reports([write_run(tmp_path / "my | run")])
    assert (bare.title, bare.parser) == ("pope my_run", "official")


def test_two_runs_of_the_same_name_are_told_apart_by_their_folders(tmp_path):
    folders = [write_run(tmp_path / one / "run") for one in ("a", "b")]
    titles = [report.title for report in run_reports(folders)]
    assert titles == [f"pope run ({folder})" for folder in folders]


def test_a_report_writes_nothing_into_the_run(tmp_path):
    folder = write_run(tmp_path / "run")
    before = sorted(path.name for path in folder.iterdir())
    run_reports([folder])
    assert sorted(path.name for path in folder.iterdir()) == before


def test_looked_at_by_confidence_is_one_greedy_leg_of_each_kind_or_what_was_asked_for(folder, report):
    assert [one.leg.name for one in report.closely] == ["greedy", "vdd-none", "posthoc-none", "vdd-none+posthoc-none"]
    (other,) = run_reports([folder], legs=["T=1", "bias"])
    assert [one.leg.name for one in other.closely] == ["greedy", "bias", "T=1"]
    with pytest.raises(UserError, match=r"unknown leg 'vdd'; known: greedy, vdd-none, "):
        run_reports([folder], legs=["vdd"])


def test_reliability_bins_are_those_of_counting_again(folder):
    (report,) = run_reports([folder], legs=["vdd-none", "posthoc-none"])
    labels = labels_of(folder)
    for one in report.closely:
        found: dict[int, list[tuple[float, bool]]] = {}
        for answer, label in zip(answers_of(folder, one.leg.name), labels, strict=True):
            chance = chance_of(answer)
            if chance is not None:
                found.setdefault(math.ceil(chance * 15 - 1e-12), []).append((chance, answer["text"] == label))
        assert [round(bin.high * 15) for bin in one.bins] == sorted(found)
        for bin in one.bins:
            inside = found[round(bin.high * 15)]
            assert bin.count == len(inside)
            assert bin.confidence == pytest.approx(sum(chance for chance, _ in inside) / len(inside))
            assert bin.accuracy == pytest.approx(sum(right for _, right in inside) / len(inside))


def test_the_bins_make_up_the_calibration_error_over_all_draws(folder):
    (report,) = run_reports([folder], legs=[leg.name for leg in LEGS[:-1]])
    errors = {result.leg.name: result.score.values["ece"] for result in report.results}
    for one in report.closely:
        n = sum(bin.count for bin in one.bins)
        if one.leg.name == "prompt-alone":
            assert (n, math.isnan(errors["prompt-alone"])) == (0, True)
            continue
        assert n == 58 * (2 if one.leg.name == "T=1" else 1)
        want = sum(bin.count * abs(bin.accuracy - bin.confidence) for bin in one.bins) / n
        assert errors[one.leg.name] == pytest.approx(want)


def test_parts_hold_the_questions_that_the_first_leg_was_so_sure_of(folder, report):
    labels, first = labels_of(folder), answers_of(folder, "greedy")
    chances = [chance_of(answer) for answer in first]
    bounds = [(0.5, 0.6), (0.6, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 1.0)]
    for one in report.closely:
        answers = answers_of(folder, one.leg.name)
        kept = {
            low: [i for i, chance in enumerate(chances) if chance is not None and low < chance <= high]
            for low, high in bounds
        }
        assert [(part.low, part.count) for part in one.parts] == [(low, len(ids)) for low, ids in kept.items() if ids]
        for part in one.parts:
            ids = kept[part.low]
            now, was = (sum(a[i]["text"] == labels[i] for i in ids) / len(ids) for a in (answers, first))
            assert part.accuracy == pytest.approx(now)
            if one.leg.name == "greedy":
                assert part.gain is None
            else:
                assert part.gain.value == pytest.approx(now - was)
                assert part.gain.low <= part.gain.value <= part.gain.high


def test_parts_take_their_upper_bounds_in_and_what_is_below_a_half_comes_first():
    sure = np.array([0.5, 0.6, 0.6001, 1.0, 0.2, np.nan])
    parts = by_confidence(sure, np.array([[True, False, True, True, False, True]]), [*"abcdef"])
    assert [(p.low, p.high, p.count, p.accuracy) for p in parts] == [
        (0.0, 0.5, 1, 0.0),
        (0.5, 0.6, 2, 0.5),
        (0.6, 0.7, 1, 1.0),
        (0.9, 1.0, 1, 1.0),
    ]
    assert by_confidence(np.array([np.nan]), np.array([[True]]), ["a"]) == []


def test_a_part_about_one_image_has_no_interval():
    right, before = np.array([[True, True]]), np.array([False, True])
    (part,) = by_confidence(np.array([0.95, 0.97]), right, ["a", "a"], before=before)
    assert part.gain is None


def test_bins_hold_their_upper_bound_and_leave_out_what_has_no_confidence():
    bins = reliability(np.array([8 / 15, 8 / 15 + 1e-9, np.nan, 1.0]), np.array([True, False, True, True]))
    assert [(round(15 * b.high), b.count, b.accuracy) for b in bins] == [(8, 1, 1.0), (9, 1, 0.0), (15, 1, 1.0)]
    assert reliability(np.array([np.nan]), np.array([True])) == []


def test_confidence_is_what_the_answer_had_among_the_labels_and_none_without_a_margin():
    answer = Answer(1, "Is there a fox?", "a.png", "no", probabilities={"yes": 0.6, "no": 0.2}, margin=1.1)
    assert confidence(answer, "no") == pytest.approx(0.25)
    assert confidence(answer, "other") is confidence(answer, None) is None
    assert confidence(replace(answer, margin=None), "no") is None
    assert confidence(replace(answer, debiased={"unk": {"yes": 0.1, "no": 0.9}}), "no") == pytest.approx(0.9)


def test_kinds_are_what_a_reader_compares():
    cutoff = DebiasConfig(alpha=0.0)
    controls = [Leg("a"), Leg("b", bias=1.0), Leg("c", cutoff), Leg("d", prompt="{question}")]
    assert {kind_of(leg) for leg in controls} == {KINDS[0]}
    assert {kind_of(Leg("a", DebiasConfig())), kind_of(Leg("b", custom_generate="/m"))} == {KINDS[1]}
    assert (kind_of(Leg("a", post_hoc="none")), kind_of(Leg("b", cutoff, post_hoc="none"))) == (KINDS[2], KINDS[2])
    assert kind_of(Leg("a", DebiasConfig(), post_hoc="none")) == KINDS[3]


def test_the_front_is_what_nothing_is_both_as_cheap_and_as_accurate_as():
    assert front([1, 2, 2, 3, 3], [0.8, 0.9, 0.7, 0.9, 0.95]) == [True, True, False, False, True]
    assert front([1, 1], [0.5, 0.5]) == [True, True]
    assert front([1, 2], [0.5, 0.5]) == [True, False]
    assert front([1, 1], [0.5, 0.6]) == [False, True]


def test_scores_by_other_labels_are_shown_where_they_are(folder, tmp_path):
    out = write_run(tmp_path / "run")
    assert run_reports([out])[0].relabelled == []
    other = tmp_path / "coco_repope_random.json"
    lines = [json.loads(line) | {"label": "no"} for line in (out / "questions.jsonl").read_text().splitlines()[:40]]
    other.write_text("".join(json.dumps(line) + "\n" for line in lines))
    want = evaluate(out, names=("repope", "coco", "random"), relabelled=other)
    (report,) = run_reports([out])
    assert [r.score.signature for r in report.relabelled] == [r.score.signature for r in want]
    assert [r.score.values["accuracy"] for r in report.relabelled] == [r.score.values["accuracy"] for r in want]
    (out / RELABELLED).write_text('[{"leg": "greedy"}]')
    with pytest.raises(UserError, match=r"scores-relabelled\.json: holds no scores of this run's legs"):
        run_reports([out])


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1]", '[{"signature": 3}]', '[{"signature": "mme|n:3|greedy"}]'])
def test_a_scores_file_that_is_none_is_a_users_error_that_names_it(tmp_path, text):
    folder = write_run(tmp_path / "run")
    (folder / "scores.json").write_text(text)
    with pytest.raises(UserError, match=r"scores\.json: .*vdd eval pope"):
        run_reports([folder])


def test_settings_chosen_on_dev_are_shown_where_they_are(tmp_path):
    folder = write_run(tmp_path / "run")
    assert run_reports([folder])[0].chosen is None
    chosen = {"debias": {"none": {"alpha": 0.5, "beta": 0.1}}, "bias": 0.25, "dev": 12}
    (folder / "chosen.json").write_text(json.dumps(chosen))
    assert run_reports([folder])[0].chosen == chosen
    (folder / "chosen.json").write_text("[]")
    with pytest.raises(UserError, match=r"chosen\.json: holds no chosen settings"):
        run_reports([folder])
