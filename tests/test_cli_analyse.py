"""`vdd analyse`: from a question file to records, figures and a verdict; what it does again, and its mistakes."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from vdd._check import UserError
from vdd.analysed import AttentionShare, BiasFigures, Failure, Likely, PriorShare, QuestionRead, read_kind
from vdd.cli import app
from vdd.plots import can_chart
from vdd.toy.questions import color_questions, pope_questions
from vdd.toy.scenes import render, scene_at

KINDS = ("likeliest", "attention", "confidence", "bias", "prior", "failures", "questions")


def vdd(*arguments) -> str:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def no_charts(monkeypatch):
    """As without matplotlib: drawing is tested elsewhere, and takes longest here."""
    monkeypatch.setattr("vdd.plots.can_chart", lambda: False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures of the embedded world, and questions: yes/no with a category, colours, and free ones without a label."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    scenes = [scene_at("test", number) for number in range(6)]
    for number, scene in enumerate(scenes):
        render(scene).save(folder / "images" / f"{number:05d}.png")
    asked = [
        line | {"category": ("first", "second")[n % 2], "label": line["label"].capitalize()}
        for n, line in enumerate(pope_questions(scenes, "random"))
    ]
    colors = color_questions(scenes, typical=True)
    free = [{"question_id": f"f{n}", "image": f"{n:05d}.png", "text": "Describe the image."} for n in (0, 1, 99)]
    other = [line | {"label": "no"} for line in asked[1:]]
    for name, lines in (("asked", asked), ("colors", colors), ("free", free), ("other", other)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def options(data, name, out):
    return ("analyse", "--questions", data / f"{name}.jsonl", "--images", data / "images", "--out", out)


@pytest.fixture(scope="module")
def analysed(data, tmp_path_factory):
    """(folder, what was printed) of an analysis of the yes/no questions, without charts."""
    out = tmp_path_factory.mktemp("analysed") / "out"
    more = ("--subset", "category", "--attention", 2, "--relabelled", data / "other.jsonl", "--label-set", "yes-no")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vdd.plots.can_chart", lambda: False)
        return out, vdd(*options(data, "asked", out), *more, "--label-set", "colors")


def test_an_analysis_leaves_records_tables_and_a_verdict(data, analysed):
    out, printed = analysed
    assert {path.name for path in (out / "records").glob("*.jsonl")} == {f"{kind}.jsonl" for kind in KINDS}
    n = len((data / "asked.jsonl").read_text().splitlines())
    assert len(read_kind(out, QuestionRead)) == n
    assert {one.condition for one in read_kind(out, Likely)} == {"image", "none", "unk", "noise", "zero", "one"}
    assert all(len(one.tokens) == 15 for one in read_kind(out, Likely))
    assert [one.subset for one in read_kind(out, BiasFigures)] == ["all", "first", "second"]
    assert {one.label_set for one in read_kind(out, PriorShare)} == {"yes-no", "colors"}
    assert {one.questions for one in read_kind(out, AttentionShare)} == {2}
    assert {one.relabelled for one in read_kind(out, Failure)} <= {"no", "left out"}
    text = (out / "analysis.md").read_text()
    for record in read_kind(out, BiasFigures):
        assert record.words in printed
        assert f"{record.subset}: {record.words}" in text
    assert "colors: pink, white, gray" in printed


def test_the_same_command_asks_the_model_nothing_again_and_another_folder_is_refused(
    data, analysed, tmp_path, no_charts
):
    out = tmp_path / "out"
    shutil.copytree(analysed[0], out)
    kept = [out / "records" / f"{kind}.jsonl" for kind in ("likeliest", "prior", "questions", "attention")]
    before = [path.stat().st_mtime_ns for path in kept]
    more = ("--subset", "category", "--attention", 2, "--relabelled", data / "other.jsonl", "--label-set", "yes-no")
    printed = vdd(*options(data, "asked", out), *more, "--label-set", "colors")
    assert printed.replace(str(out), "OUT") == analysed[1].replace(str(analysed[0]), "OUT")
    assert "pip install 'visual-debias-decoding[plot]', then `vdd analyse draw`" in printed
    assert [path.stat().st_mtime_ns for path in kept] == before
    with pytest.raises(UserError, match="holds the results of another run"):
        vdd(*options(data, "colors", out))


@pytest.mark.slow
@pytest.mark.skipif(not can_chart(), reason="matplotlib is not installed")
def test_charts_come_with_the_analysis_and_the_report_shows_them(data, tmp_path):
    vdd(*options(data, "asked", tmp_path / "out"), "--attention", 2)
    names = {path.name for path in (tmp_path / "out" / "figures").glob("*.svg")}
    assert names == {f"{name}.svg" for name in ("likeliest", "question", "attention", "confidence", "bias", "prior")}
    vdd("report", tmp_path / "out", "--out", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text().count("data:image/svg+xml;base64,") == 6


def test_a_folder_without_records_cannot_be_drawn(tmp_path):
    with pytest.raises(UserError, match=r"wanted the folder of `vdd analyse`"):
        vdd("analyse", "draw", tmp_path)


def test_other_labels_than_yes_and_no_are_taken_from_the_file(data, tmp_path, no_charts):
    printed = vdd(*options(data, "colors", tmp_path / "out"), "--attention", 0)
    assert "cannot be told from questions about 6 of 20 images" in printed
    (bias,) = read_kind(tmp_path / "out", BiasFigures)
    assert bias.labels == len({json.loads(line)["label"] for line in (data / "colors.jsonl").read_text().splitlines()})
    assert bias.accuracy == bias.blind["none"]["accuracy"] == 1.0
    assert not (tmp_path / "out" / "records" / "attention.jsonl").exists()


def test_free_questions_get_what_makes_sense_for_them(data, tmp_path, no_charts):
    more = ("--attention", 3, "--attention-question", "Is there a fox in the image?", "--max-new-tokens", 4)
    printed = vdd(*options(data, "free", tmp_path / "out"), *more)
    assert "the questions have no few labels" in printed
    assert "1 of 3 questions: their images could not be read" in printed
    assert {one.questions for one in read_kind(tmp_path / "out", Likely)} == {1, 2}
    assert {one.questions for one in read_kind(tmp_path / "out", AttentionShare)} == {2}
    assert read_kind(tmp_path / "out", BiasFigures) == read_kind(tmp_path / "out", PriorShare) == []


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--questions", "gone.json"), "no such file"),
        (("--images", "gone"), "no such folder"),
        (("--subset", "colour"), "no 'colour' in it"),
        (("--label-set", "fruits"), "label set 'fruits'"),
        (("--labels", "yes"), "label set 'yes'"),
        (("--reference", "noise"), "unknown reference 'noise'"),
        (("--question", "77"), "no question_id '77'"),
        (("--attention", -1), "attention is -1"),
        (("--limit", 0), "limit is 0"),
        (("--alpha", -1), "alpha is -1"),
        (("--relabelled", "gone.json"), "no such file"),
        (("--prompt", "Answer."), "wanted {question} in it"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(data, tmp_path, more, message):
    with pytest.raises(UserError, match=message):
        vdd(*options(data, "asked", tmp_path / "out"), *more)
    assert not (tmp_path / "out").exists()


def test_what_it_cannot_do_without_is_asked_for(tmp_path):
    with pytest.raises(UserError, match="--questions and --images did not come"):
        vdd("analyse", "--out", tmp_path / "out")
    assert "draw" in vdd("analyse", "--help")
