"""`vdd influence trace` and `vdd eval … --diagnose` as a user gives them, on the embedded model; what they refuse."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from tests.finished_runs import LEGS, write_run
from vdd._check import UserError
from vdd.cli import app
from vdd.toy.questions import ask_existence
from vdd.toy.scenes import caption, negatives, render, scene_at

PAIRS = 12


@pytest.fixture(autouse=True)
def _small_sketch(monkeypatch):
    monkeypatch.setattr("vdd.cli.influence_tracing.RANK", 12)


def invoke(*args):
    return CliRunner().invoke(app, list(map(str, args)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """pairs.jsonl with images/, of which two pairs cannot be used; asked.jsonl with asked/."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    (folder / "asked").mkdir()
    scenes = [scene_at("train", number) for number in range(PAIRS)]
    lines = []
    for number, scene in enumerate(scenes):
        render(scene).save(folder / "images" / f"{number}.png")
        lines.append({"id": number, "image": f"images/{number}.png", "caption": caption(scene)})
    lines.append({"id": 90, "image": "images/90.png", "caption": "there is a red fox."})
    (folder / "images" / "91.png").write_bytes((folder / "images" / "1.png").read_bytes()[:200])
    lines.append({"id": 91, "image": "images/91.png", "caption": "there is a red fox."})
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def run(data):
    """A finished run's folder whose images are there."""
    (data / "data").mkdir()
    folder = write_run(data / "run", legs=LEGS[:2], n=60, images=4)
    pictures = data / "data" / "images"
    pictures.mkdir()
    for number in range(4):
        render(scene_at("dev", number)).save(pictures / f"{number}.png")
    return folder


def traced(data, *more, out):
    return invoke(
        "influence", "trace", data / "pairs.jsonl", "--images", data, "--out", out, "--top", 2, "--probes", 2,
        "--partitions", 1, "--tolerance", 0.01, "--damping", 100, *more,
    )  # fmt: skip


def lines_of(out):
    return [json.loads(line) for line in (out / "traces.jsonl").read_text().splitlines()]


# ----------------------------------------------------------------------------------------------------------- the trace


@pytest.mark.slow
def test_a_runs_wrong_answers_are_traced_resumed_and_not_traced_twice(data, run, tmp_path, monkeypatch):
    out = tmp_path / "out"
    result = traced(data, "--run", run, "--limit", 1, out=out)
    assert result.exit_code == 0, result.exception
    assert "answers of greedy are wrong" in result.stdout
    assert "2 pairs could not be used" in result.stdout
    assert "the gradient's norm is" in result.stderr
    (first,) = lines_of(out)
    assert 0 < first["probability"] < 1
    assert first["reason"] is None
    assert 1 <= len(first["harmful"]) <= 2
    for pair in first["harmful"]:
        assert pair["tied"] < 0
        assert pair["id"] in range(PAIRS)
        assert (out / "pictures" / pair["picture"]).is_file()
    with Image.open(out / "sheets" / "1.png") as sheet:
        assert sheet.width > 400
    result = traced(data, "--run", run, "--limit", 3, "--all-scores", out=out)
    assert result.exit_code == 0, result.exception
    found = lines_of(out)
    assert found[0] == first
    assert len(found) == 3
    assert len({line["question_id"] for line in found}) == 3
    assert len((out / "scores" / "2.csv").read_text().splitlines()) == 1 + PAIRS
    monkeypatch.setattr("vdd.influence.ecif.solve", lambda *_, **__: pytest.fail("solved again"))
    result = traced(data, "--run", run, "--limit", 3, out=out)
    assert result.exit_code == 0, result.exception
    assert "nothing was traced anew" in result.stdout
    assert lines_of(out) == found
    assert "other settings" in str(traced(data, "--run", run, "--leg", "vdd-none", out=out).exception)


def test_queries_of_a_file_are_traced_and_an_unreadable_image_is_said(data, tmp_path):
    texts = ["there is a fox in the image.", "there is a dog in the image."]
    queries = [
        {"image": "images/0.png", "texts": texts, "right": [0]},
        {"image": "images/none.png", "texts": texts, "right": [1], "question": "Is there a fox?"},
    ]
    path = tmp_path / "queries.jsonl"
    path.write_text("".join(json.dumps(query) + "\n" for query in queries))
    result = traced(data, "--queries", path, out=tmp_path / "out")
    assert result.exit_code == 0, result.exception
    first, second = lines_of(tmp_path / "out")
    assert first["probability"] is not None
    assert "no such file" in second["reason"]
    assert (second["probability"], second["harmful"]) == (None, [])


def test_wrong_input_is_refused_with_a_reason(data, run, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for more, said in (
        ((), "wanted either --run"),
        (("--run", run, "--queries", empty), "wanted either --run"),
        (("--queries", empty, "--leg", "greedy"), "wanted either --run"),
        (("--queries", empty), "nothing in it"),
        (("--run", tmp_path / "none"), "wanted the folder of a finished run"),
        (("--run", run, "--leg", "none"), "unknown leg"),
        (("--run", run, "--limit", 0), "limit is 0"),
        (("--run", run, "--top", 0), "top is 0"),
        (("--run", run, "--probes", 0), "probes is 0"),
        (("--run", run, "--query-images", tmp_path / "none"), "no such folder"),
        (("--run", run, "--out", tmp_path / "mine"), "no traces of vdd"),
        (("--run", run, "--model", tmp_path / "none"), "could not be loaded"),
    ):
        result = traced(data, *more, out=tmp_path / "out")
        assert isinstance(result.exception, UserError), (more, result.exception)
        assert said in str(result.exception)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------ the evaluation


@pytest.fixture(scope="module")
def pope(data):
    """A question file about four images, asked in pairs so that a prior errs."""
    scenes = [scene_at("dev", number) for number in range(4)]
    lines = []
    for number, scene in enumerate(scenes):
        render(scene).save(data / "asked" / f"{number}.png")
        wrong = negatives(scene, "adversarial", 2, np.random.default_rng(number))
        for name, there in ((scene.objects[0], True), *((name, False) for name in wrong)):
            asked = ask_existence(name, there)
            line = {"question_id": len(lines), "image": f"{number}.png", "text": asked.text, "label": asked.answer}
            lines.append(line)
    lines[0]["label"] = "no"  # a wrong answer at least
    path = data / "asked.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def evaluated(data, pope, *more, out):
    return invoke(
        "eval", "pope", "--questions", pope, "--images", data / "asked", "--out", out, "--dev-share", 0,
        "--repeats", 1, "--max-new-tokens", 2, *more,
    )  # fmt: skip


def test_nothing_of_influence_is_imported_without_the_option_with_it_wrong_answers_are_traced_and_reported(
    data, pope, tmp_path, monkeypatch
):
    out = tmp_path / "run"
    with monkeypatch.context() as before:
        for name in [*sys.modules]:
            if name.startswith(("vdd.influence", "vdd.diagnose")):
                before.delitem(sys.modules, name)
        result = evaluated(data, pope, out=out)
        assert result.exit_code == 0, result.exception
        assert not [name for name in sys.modules if name.startswith(("vdd.influence", "vdd.diagnose"))]
        assert not (out / "diagnosis").exists()
    monkeypatch.setattr("vdd.influence.trace.PROBES", 2)
    options = ("--diagnose", data / "pairs.jsonl", "--diagnose-limit", 2)
    result = evaluated(data, pope, *options, out=out)
    assert result.exit_code == 0, result.exception
    assert "wrong answers of greedy are traced" in result.stdout
    assert "the gradient's norm is" not in result.stderr  # it was trained to a minimum before
    found = lines_of(out / "diagnosis")
    assert 1 <= len(found) <= 2
    result = evaluated(data, pope, *options, out=out)
    assert "nothing was traced anew" in result.stdout
    assert lines_of(out / "diagnosis") == found
    result = invoke("report", out, "--out", tmp_path / "page.html")
    assert result.exit_code == 0, result.exception
    text = (tmp_path / "page.html").read_text()
    assert text.count('<li class="trace">') == len(found)
    assert 'src="data:image/jpeg;base64,' in text
    assert found[0]["question"] in (tmp_path / "page.md").read_text()


@pytest.mark.slow
def test_wrong_answers_on_mme_are_traced_too(data, tmp_path, monkeypatch):
    monkeypatch.setattr("vdd.influence.trace.PROBES", 1)
    folder = tmp_path / "mme" / "existence"
    folder.mkdir(parents=True)
    scene = scene_at("dev", 0)
    render(scene).save(folder / "0.png")
    asked = ask_existence(scene.objects[0], True).text
    (folder / "0.txt").write_text(f"{asked}\tYes\n{asked}\tNo\n")  # one of them is wrong, whatever it says
    result = invoke(
        "eval", "mme", "--folder", folder.parent, "--out", tmp_path / "run", "--dev-share", 0, "--repeats", 1,
        "--max-new-tokens", 2, "--diagnose", data / "pairs.jsonl", "--diagnose-limit", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.exception
    (found,) = lines_of(tmp_path / "run" / "diagnosis")
    assert (found["image"], found["reason"]) == ("existence/0.png", None)


def test_what_is_wrong_is_said_before_anything_is_answered(data, pope, tmp_path):
    out, pairs = tmp_path / "run", data / "pairs.jsonl"
    for more, said in (
        (("--diagnose", tmp_path / "none.jsonl"), "no such file"),
        (("--diagnose", pairs, "--diagnose-images", tmp_path / "none"), "no such folder"),
        (("--diagnose", pairs, "--diagnose-images", tmp_path), "none of 14 pairs"),
        (("--diagnose", pairs, "--diagnose-limit", 0), "diagnose_limit is 0"),
        (("--diagnose", pairs, "--model", "llava-hf/none"), "openai/clip-vit-large-patch14-336"),
        (("--diagnose", pairs, "--tower", tmp_path / "none"), "could not be loaded"),
        (("--tower", "toy"), "without --diagnose"),
        (("--diagnose-images", data), "without --diagnose"),
    ):
        result = evaluated(data, pope, *more, out=out)
        assert isinstance(result.exception, UserError), (more, result.exception)
        assert said in str(result.exception)
    assert not out.exists()
