"""Wrong answers of a run are found, traced one by one into a folder that survives a kill, and shown on the page."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from PIL import Image

from tests.finished_runs import LEGS, write_run
from tests.page_reader import Reader
from vdd._check import UserError
from vdd.config import SamplingConfig
from vdd.diagnose import read_queries, trace_all, wrong_answers
from vdd.diagnosis import Misread, Traced, TracedPair, check_settings, claim, keep, read_diagnosis
from vdd.finished import read_run
from vdd.page import page
from vdd.page_style import TRACES
from vdd.pipeline import Pipeline
from vdd.report_figures import run_reports
from vdd.report_files import csv_text, markdown
from vdd.scoring.words import is_right

EVIL = "<script>alert(\"1\")</script> & 'quoted' 名前 مرحبا"
SETTINGS = {"tower": "made up", "of": "greedy", "wrong": 30}


def pair(number=0, **changes):
    return replace(
        TracedPair(number, f"{number}.png", f"caption {number}", -0.5, -0.6, -0.1, 0.01, 0.3, 2.0), **changes
    )


MISREAD = Misread(7, "7.png", "Is there a fox?", "yes", "no", ("there is a dog.", "there is a fox."), (0,))
TRACED = Traced(MISREAD, 0.25, [pair(1), pair(2)], [pair(3, tied=0.5)])


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (300, 200), (50 * number, 0, 0)).save(folder / f"{number}.png")
    return folder


# -------------------------------------------------------------------------------------------------------- the folder


def test_a_trace_survives_the_way_through_a_folder(tmp_path, pictures):
    folder = tmp_path / "out"
    assert claim(folder, SETTINGS) == []
    kept = keep(folder, TRACED, picture=pictures / "0.png", images=pictures)
    none = keep(folder, Traced(replace(MISREAD, question_id="b"), reason="no such file"), picture=pictures / "9.png")
    assert claim(folder, SETTINGS) == [
        replace(kept, misread=replace(MISREAD, texts=list(MISREAD.texts), right=[0])),
        replace(none, harmful=[], helpful=[], misread=replace(none.misread, texts=list(MISREAD.texts), right=[0])),
    ]
    found = read_diagnosis(folder)
    assert found.settings == SETTINGS
    assert set(found.pictures) == {kept.picture, *(one.picture for one in (*kept.harmful, *kept.helpful))}
    for name, content in found.pictures.items():
        with Image.open(folder / "pictures" / name) as small:
            assert max(small.size) == 192
        assert content[:2] == b"\xff\xd8"
    assert none.picture is None


def test_what_is_no_number_is_null_and_comes_back_as_none():
    line = replace(TRACED, harmful=[pair(1, standard_error=math.nan)]).to_json()
    assert "NaN" not in line
    assert math.isnan(Traced.from_json(json.loads(line)).harmful[0].standard_error)


def test_half_a_line_that_a_kill_left_is_dropped_and_not_shown(tmp_path):
    folder = tmp_path / "out"
    claim(folder, SETTINGS)
    keep(folder, TRACED)
    with open(folder / "traces.jsonl", "ab") as file:
        file.write(b'{"question_id": 8, "im')
    assert len(read_diagnosis(folder).traces) == 1
    assert len(claim(folder, SETTINGS)) == 1
    keep(folder, replace(TRACED, misread=replace(MISREAD, question_id=8)))
    assert [one.misread.question_id for one in claim(folder, SETTINGS)] == [7, 8]


def test_a_folder_of_other_settings_or_of_something_else_is_refused(tmp_path):
    folder = tmp_path / "out"
    check_settings(folder, SETTINGS)
    assert not folder.exists()
    claim(folder, SETTINGS)
    check_settings(folder, {"tower": "made up"})
    with pytest.raises(UserError, match=r"other settings \(of, wrong\)"):
        claim(folder, {**SETTINGS, "wrong": 31, "of": "vdd"})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for other in (tmp_path / "mine", tmp_path / "mine" / "letter.txt"):
        with pytest.raises(UserError, match="no traces of vdd"):
            claim(other, SETTINGS)


@pytest.mark.parametrize("line", ["{}", "[]", "null", '{"question_id": 1}', "{", '"a"'])
def test_a_changed_file_is_an_error_that_names_the_line(tmp_path, line):
    claim(tmp_path / "out", SETTINGS)
    (tmp_path / "out" / "traces.jsonl").write_text(f"{TRACED.to_json()}\n{line}\n")
    with pytest.raises(UserError, match="line 2: no trace"):
        read_diagnosis(tmp_path / "out")


@pytest.mark.parametrize("text", ["[]", "null", "{", '"a"'])
def test_settings_that_are_none_are_an_error_that_names_the_file(tmp_path, text):
    claim(tmp_path / "out", SETTINGS)
    keep(tmp_path / "out", TRACED)
    (tmp_path / "out" / "trace.json").write_text(text)
    with pytest.raises(UserError, match=r"trace\.json"):
        read_diagnosis(tmp_path / "out")


def test_without_a_folder_and_before_the_first_trace_there_is_no_diagnosis(tmp_path):
    assert read_diagnosis(tmp_path / "out") is None
    claim(tmp_path / "out", SETTINGS)
    assert read_diagnosis(tmp_path / "out") is None


# -------------------------------------------------------------------------------------------------- the wrong answers


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return read_run(write_run(tmp_path_factory.mktemp("run") / "popular", unreadable=(3, 7)))


def test_wrong_answers_are_counted_and_the_surest_come_first(run):
    found = wrong_answers(run)
    answers = run.legs[0].answers[0]
    rows = [(q, a) for q, a in zip(run.questions, answers, strict=True) if a.error is None and a.text != q.label]
    assert (found.leg, found.wrong, found.answered) == ("greedy", len(rows), len(answers) - 2)
    margins = {question.question_id: abs(answer.margin) for question, answer in rows}
    assert [margins[one.question_id] for one in found.asked] == sorted(margins.values(), reverse=True)
    assert {one.question_id for one in found.asked} == set(margins)
    first = found.asked[0]
    label = next(q.label for q in run.questions if q.question_id == first.question_id)
    assert (first.truth, first.answer) == (label, {"yes": "no", "no": "yes"}[label])
    assert all(0 < len(one.right) < len(one.texts) for one in found.asked)


def test_a_leg_is_asked_for_by_name_and_an_unknown_one_lists_them(run):
    assert wrong_answers(run, leg="vdd-none").leg == "vdd-none"
    with pytest.raises(UserError, match="known: greedy"):
        wrong_answers(run, leg="nobody")
    with pytest.raises(UserError, match="parser"):
        wrong_answers(run, parser="mine")


def test_answers_that_say_neither_are_wrong_but_not_asked_about(tmp_path):
    folder = write_run(tmp_path / "run", legs=LEGS[:1], n=4)
    lines = [json.loads(line) for line in (folder / "answers" / "greedy.jsonl").read_text().splitlines()]
    for line, text in zip(lines, ("no.", "A red car.", "Yes", "No, there is none."), strict=True):
        line["text"] = text
    (folder / "answers" / "greedy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = wrong_answers(read_run(folder))
    assert (found.wrong, [one.question_id for one in found.asked]) == (2, [0])


def test_queries_of_a_file_are_read_and_what_is_wrong_in_them_is_said(tmp_path):
    path = tmp_path / "queries.jsonl"
    good = {"image": "a.png", "texts": ["x", "y", "z"], "right": [2, 0], "question": "which?"}
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | {"question_id": "b"}) + "\n")
    first, second = read_queries(path)
    assert (first.question_id, first.texts, first.right, first.question) == (1, ("x", "y", "z"), (0, 2), "which?")
    assert second.question_id == "b"
    for change, said in (
        ({"image": ""}, "image is ''"),
        ({"image": None}, "image is None"),
        ({"texts": "xy"}, "texts is 'xy'"),
        ({"texts": ["x"]}, "two or more"),
        ({"texts": ["x", "x"]}, "different"),
        ({"texts": ["x", 1]}, "texts is"),
        ({"texts": ["x", " "]}, "texts is"),
        ({"right": []}, "right is"),
        ({"right": [0, 1, 2]}, "not all"),
        ({"right": [3]}, "right is"),
        ({"right": [-1]}, "right is"),
        ({"right": [True]}, "right is"),
        ({"right": 0}, "right is"),
        ({"question": 3}, "no string"),
        ({"question_id": 1.5}, "question_id is 1.5"),
    ):
        path.write_text(json.dumps(good | change) + "\n")
        with pytest.raises(UserError, match=said) as caught:
            read_queries(path)
        assert "line 1" in str(caught.value)
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | {"question_id": 1}) + "\n")
    with pytest.raises(UserError, match="twice"):
        read_queries(path)


class MadeUp:
    """A tracer that finds the same for every question, and remembers what it was asked."""

    def __init__(self):
        self.asked = []

    def attempt(self, misread, picture, top, *, hear=None):
        self.asked.append((misread.question_id, picture.name, top))
        if hear is not None and misread.question_id != 2:
            hear("figures")
        return Traced(misread, 0.75, [pair(1)])

    def rows(self, found):
        assert found == "figures"
        return [pair(1), pair(2, tied=0.25, standard_error=math.nan)]


def test_each_wrong_answer_is_traced_once_and_written_as_it_is_done(tmp_path, pictures):
    folder = tmp_path / "out"
    asked = [replace(MISREAD, question_id=number, image=f"{number}.png") for number in range(3)]
    asked.append(replace(MISREAD, question_id="up", image="../secret.png"))
    tracer, told = MadeUp(), []
    options = {"images": pictures, "top": 4, "tables": True}
    done = claim(folder, SETTINGS)
    trace_all(tracer, asked[:2], pictures, folder, done=done, **options)
    found = trace_all(
        tracer, asked, pictures, folder, done=claim(folder, SETTINGS), progress=lambda *n: told.append(n), **options
    )
    assert tracer.asked == [(0, "0.png", 4), (1, "1.png", 4), (2, "2.png", 4)]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [one.misread.question_id for one in found] == [0, 1, 2, "up"]
    assert "'..'" in found[3].reason
    assert [one.misread.question_id for one in read_diagnosis(folder).traces] == [0, 1, 2, "up"]
    assert sorted(path.name for path in (folder / "scores").iterdir()) == ["1.csv", "2.csv"]
    head, first, second = (folder / "scores" / "1.csv").read_text().splitlines()
    assert head.startswith("rank,id,image,caption,tied,free,delta_loss_on_removal,standard_error")
    assert first == "1,1,1.png,caption 1,-0.5,-0.6,-0.1,0.01,0.3,2.0"
    assert second == "2,2,2.png,caption 2,0.25,-0.6,-0.1,,0.3,2.0"


# ------------------------------------------------------------------------------------------------------- the pipeline


def test_a_pipeline_hands_over_wrong_answers_where_the_truth_is_known(llava):
    heard = []
    pipe = Pipeline(*llava, on_misprediction=heard.append)
    picture = Image.new("RGB", (16, 16), "red")
    short = SamplingConfig(max_new_tokens=3)
    answer = pipe(picture, "is there a fox ?", sampling=short)
    assert heard == []
    pipe(picture, "is there a fox ?", sampling=short, truth=f" {answer.text.upper()} ")
    assert heard == []
    again = pipe([picture], "is there a fox ?", sampling=short, truth="something else")
    (found,) = heard
    assert (list(found.images), found.question, found.truth) == ([picture], "is there a fox ?", "something else")
    assert found.answer == again == answer
    assert Pipeline(*llava)(picture, "is there a fox ?", sampling=short, truth="something else") == answer


@pytest.mark.parametrize(
    ("text", "truth", "right"),
    [
        ("yes", "Yes", True),
        ("NO", "no", True),
        ("No, there is no fox.", "yes", False),
        ("There is not. Yes.", "no", True),
        (" Red ", "red", True),
        ("a red one", "red", False),
    ],
)
def test_an_answer_is_right_by_the_rule_of_its_truth(text, truth, right):
    assert is_right(text, truth) == right


# ----------------------------------------------------------------------------------------------------------- the page


@pytest.fixture
def traced(tmp_path, pictures):
    """(run's folder, its report without and with traces)."""
    folder = write_run(tmp_path / "run", legs=LEGS[:2], n=8)
    before = run_reports([folder])
    evil = replace(MISREAD, question=f"Is there {EVIL}?", answer=EVIL, texts=(EVIL, "b"), image=f"{EVIL}.png")
    claim(folder / "diagnosis", {**SETTINGS, "tower": EVIL})
    keep(folder / "diagnosis", replace(TRACED, misread=evil), picture=pictures / "0.png", images=pictures)
    keep(folder / "diagnosis", Traced(replace(MISREAD, question_id=9), reason=f"image {EVIL}: no such file"))
    well = replace(TRACED, misread=replace(MISREAD, question_id=10), probability=0.9, harmful=[], helpful=[])
    keep(folder / "diagnosis", well, picture=pictures / "9.png")
    return folder, before, run_reports([folder])


def test_a_page_without_traces_is_what_it_was(traced):
    _, before, after = traced
    assert before[0].diagnosis is None
    text = page(before)
    assert page([replace(after[0], diagnosis=None)]) == text
    for new in ("<img", "img-src", "data:", "traced", TRACES):
        assert new not in text
    assert markdown([replace(after[0], diagnosis=None)]) == markdown(before)
    assert csv_text(after) == csv_text(before)


def test_the_page_shows_question_answers_tower_and_pairs_with_pictures_of_its_own(traced):
    _, _, after = traced
    text = page(after)
    read = Reader(text)
    words = " ".join("".join(read.words).split())
    assert f"Is there {EVIL}?" in words
    assert f"Answered {EVIL}; right is no." in words
    assert "The tower alone gives what is right 25.0 %: it did not see what is right." in words
    assert "The tower alone gives what is right 90.0 %: it saw what is right." in words
    assert "In 1 of 2 the tower itself holds what is right for likelier" in words
    assert "Not traced: image" in words
    assert "No pair harmed." in words
    assert "3 of 30 wrong answers of greedy" in words
    for shown in ("−0.5", "caption 1", "caption 2", "caption 3", "CLIP score +0.3, pair loss 2"):
        assert shown in words
    sources = [value for tag, name, value in read.attributes if (tag, name) == ("img", "src")]
    assert len(sources) == 4
    assert all(value.startswith("data:image/jpeg;base64,/9j/") for value in sources)
    assert all(value for tag, name, value in read.attributes if (tag, name) == ("img", "alt"))
    assert [v for _, name, v in read.attributes if name == "content"][-1].endswith("; img-src data:")
    assert "<script" not in text
    for outside in ("http:", "https:", "url(", "@import", "<link", "<iframe"):
        assert outside not in text, outside


def test_markdown_has_a_row_a_wrong_answer(traced):
    _, _, after = traced
    text = markdown(after)
    assert "### Wrong answers, traced to the training pairs of the vision tower" in text
    rows = [line for line in text.splitlines() if "caption 1" in line]
    assert len(rows) == 1
    assert rows[0].endswith("| no | 25.0 | 1: caption 1 | −0.5 |")
    assert text.count("<script") == text.count("\\<script") > 0


def test_a_picture_outside_the_folder_is_not_shown(traced):
    folder, _, _ = traced
    path = folder / "diagnosis" / "traces.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["picture"] = "../../run.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(UserError, match=r"'\.\.'"):
        run_reports([folder])
