"""What answers tell an analysis: counted again from the answer files alone."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from tests.finished_runs import LEGS, answers_of, chance_of, labels_of, write_run
from vdd.analysed import (
    BiasFigures,
    ConfidencePart,
    Failure,
    QuestionRead,
    keep_picture,
    read_kind,
    read_picture,
    write_records,
)
from vdd.analysis_answers import LEFT_OUT, bias_figures, confidence_parts, failures, said, write_found
from vdd.finished import read_run

YES_NO = ("yes", "no")
SOME = {"broken": 2, "mended": 1}


@pytest.fixture
def run(tmp_path):
    """A finished run in OUT/answered, and a folder of half its images."""
    write_run(tmp_path / "answered", unreadable=(5, 6), bare=())
    (tmp_path / "images").mkdir()
    for number in range(10):
        Image.new("RGB", (300, 200), (number, 0, 0)).save(tmp_path / "images" / f"{number}.png")
    return tmp_path


def right(out, leg):
    """Whether each question's answer is its label; the runs answer with bare words."""
    pairs = zip(answers_of(out / "answered", leg), labels_of(out / "answered"), strict=True)
    return [answer["text"] == label for answer, label in pairs]


def test_accuracy_by_confidence_is_that_of_the_questions_on_which_the_first_leg_was_so_sure(run):
    found = confidence_parts(read_run(run / "answered"), YES_NO)
    sure = [chance_of(answer) for answer in answers_of(run / "answered", "greedy")]
    assert {part.leg for part in found} == {leg.name for leg in LEGS if not leg.repeat} | {"T=1"}
    for part in found:
        own = [n for n, chance in enumerate(sure) if chance is not None and part.low < chance <= part.high]
        assert part.questions == len(own)
        assert part.accuracy == pytest.approx(sum(right(run, part.leg)[n] for n in own) / len(own))
        assert (part.gain_low is None) == (part.leg == "greedy")
    few = confidence_parts(read_run(run / "answered"), YES_NO, legs=("vdd-none",))
    assert {part.leg for part in few} == {"greedy", "vdd-none"}


def test_what_debiasing_breaks_and_mends_is_marked_where_other_labels_differ(run):
    relabelled = run / "other.json"
    lines = [json.loads(line) for line in (run / "answered" / "questions.jsonl").read_text().splitlines()]
    flipped = {line["question_id"]: "no" if line["label"] == "yes" else "yes" for line in lines[:30]}
    kept = [line | {"label": flipped.get(line["question_id"], line["label"])} for line in lines[10:50]]
    relabelled.write_text("".join(json.dumps(line) + "\n" for line in kept))
    read = read_run(run / "answered")
    found = failures(read, YES_NO, run / "images", run, relabelled=relabelled, pictures=SOME)
    before = right(run, "greedy")
    for leg in LEGS[1:-2]:
        after = right(run, leg.name)
        unread = (5, 6)
        want = {n: "broken" if before[n] else "mended" for n in range(60) if before[n] != after[n] and n not in unread}
        own = {one.question_id: one for one in found if one.leg == leg.name}
        assert {n: one.kind for n, one in own.items()} == want
        for number, one in own.items():
            other = flipped.get(number, one.label) if 10 <= number < 50 else LEFT_OUT
            assert one.relabelled == other
            assert one.doubtful == (number < 30 or number >= 50)
        for kind, most in SOME.items():
            of_kind = [one for one in own.values() if one.kind == kind]
            assert [one.doubtful for one in of_kind] == sorted(one.doubtful for one in of_kind)
            shown = [one for one in of_kind[:most] if int(one.image.split(".")[0]) < 10]
            assert [one for one in of_kind if one.picture] == shown
    assert failures(read, YES_NO, run / "images", run, pictures=SOME)[0].relabelled is None


def test_small_pictures_are_kept_once_and_a_lost_one_is_none(run):
    name = keep_picture(run, run / "images", "3.png")
    assert keep_picture(run, run / "images", "3.png") == name
    assert max(read_picture(run, name).size) == 192
    for lost in ("../answered/run.json", "gone.png", "/etc/passwd"):
        assert keep_picture(run, run / "images", lost) is None
        assert read_picture(run, lost) is None


def test_free_answers_are_held_against_their_labels_word_for_word(run):
    lines = [json.loads(line) for line in (run / "answered" / "questions.jsonl").read_text().splitlines()]
    lines = [line | {"label": ("Red", "blue", None)[n % 3]} for n, line in enumerate(lines)]
    (run / "answered" / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for leg in LEGS:
        path = run / "answered" / "answers" / f"{leg.name}.jsonl"
        answers = [json.loads(line) for line in path.read_text().splitlines()]
        texts = (" red. ", "blue", "green") if leg.name == "greedy" else ("red", "a blue one", "green")
        answers = [answer | {"text": texts[n % 3]} for n, answer in enumerate(answers)]
        path.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    read = read_run(run / "answered", labels=None)
    assert said(read, read.legs[0].answers[0], ())[:3] == ["red", "blue", "green"]
    assert said(read, read.legs[1].answers[0], ("red", "blue"))[:3] == ["red", None, None]
    found = failures(read, ("red", "blue"), run / "images", run, pictures=SOME)
    assert {(one.label, one.kind) for one in found} == {("blue", "broken")}
    assert confidence_parts(read, ()) == []


def of(number, *, label="yes", subset="", seen=0.9, blind=0.5):
    chances = {"image": {"yes": seen, "no": 1 - seen}, "none": {"yes": blind, "no": 1 - blind}}
    return QuestionRead(
        question_id=number, image=f"{number}", label=label, subset=subset, labels=chances, kl_vocabulary={"none": 2.0}
    )


def test_language_bias_is_told_of_all_questions_and_of_every_subset_of_those_with_a_label():
    read = [of(n, subset="b", label="Yes ") for n in range(6)] + [of(n, subset="a", label="no") for n in range(6, 10)]
    read += [of(11, label=None), of(12, label="perhaps")]
    found = bias_figures(read, YES_NO)
    assert [(one.subset, one.questions, one.accuracy) for one in found] == [
        ("all", 10, 0.6),
        ("a", 4, 0.0),
        ("b", 6, 1.0),
    ]
    assert found[0].blind["none"]["kl_vocabulary"] == 2.0
    assert bias_figures([of(1, label=None)], YES_NO) == bias_figures(read, ()) == []


def test_everything_is_written_and_read_back_the_same(run):
    read = [of(n, label=label) for n, label in enumerate(labels_of(run / "answered"))]
    write_records(run, QuestionRead, read, {"n": 1})
    assert read_kind(run, QuestionRead) == read
    write_found(run, YES_NO, run / "images", {"n": 1}, pictures=SOME)
    for kind in (ConfidencePart, Failure, BiasFigures):
        assert read_kind(run, kind)
    assert read_kind(run, BiasFigures) == bias_figures(read, YES_NO)
