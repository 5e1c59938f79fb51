"""`vdd eval pope --dataset`: a set in the Hub's form in the place of a question file and a folder of images."""

from __future__ import annotations

import io
import json

import pytest
from typer.testing import CliRunner

from tests.hub_rows import pope_row, pope_set, write
from vdd._check import UserError


@pytest.fixture(scope="module")
def pope(tmp_path_factory):
    return pope_set(tmp_path_factory.mktemp("pope"))


def invoke(*arguments):
    from vdd.cli import app

    return CliRunner().invoke(app, ["eval", "pope", *map(str, arguments)])


def test_eval_takes_a_data_set_in_the_place_of_a_question_file_and_says_the_same(tmp_path):
    from vdd.toy.scenes import render, scene_at

    rows = []
    for number in range(1, 5):
        stream = io.BytesIO()
        render(scene_at("dev", number // 3)).save(stream, "PNG")
        stored = {"bytes": stream.getvalue(), "path": None}
        text = f"Is there a {('fox', 'car')[number % 2]} in the image?"
        rows.append(pope_row(number, "popular", question=text, image=stored, image_source=f"COCO_{number // 3}"))
    source = write(tmp_path / "set" / "test-00000-of-00001.parquet", rows)
    short = ("--max-new-tokens", 2, "--batch-size", 2, "--dev-share", 0, "--repeats", 1)
    first = invoke(
        "--dataset", source.parent, "--category", "popular", "--images", tmp_path / "i", "--out", tmp_path / "a", *short
    )
    assert first.exit_code == 0, first.exception
    file = tmp_path / "coco_pope_popular.json"
    lines = [
        {"question_id": n, "image": f"COCO_{n // 3}.jpg", "text": row["question"], "label": row["answer"]}
        for n, row in enumerate(rows, start=1)
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    second = invoke("--questions", file, "--images", tmp_path / "i", "--out", tmp_path / "b", *short)
    assert second.exit_code == 0, second.exception
    same = ("run.json", "questions.jsonl", "scores.json", "answers/greedy.jsonl", "rows.safetensors")
    scores = [json.loads((tmp_path / out / "scores.json").read_text()) for out in "ab"]
    assert scores[0][0]["signature"].startswith("pope|coco|popular|n:4|")
    assert [entry["signature"] for entry in scores[0]] == [entry["signature"] for entry in scores[1]]
    for name in (name for name in same if name != "scores.json"):  # scores hold seconds
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert "could not be read" not in first.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "either --questions, or --dataset"),
        (["--questions", "q.json", "--dataset", "set"], "either --questions, or --dataset"),
        (["--questions", "q.json", "--category", "popular"], "either --questions, or --dataset"),
        (["--dataset", "nowhere"], "no such file or folder"),
    ],
)
def test_eval_takes_exactly_one_of_both_ways(tmp_path, arguments, complaint):
    result = invoke(*arguments, "--images", tmp_path / "images", "--out", tmp_path / "out")
    assert isinstance(result.exception, UserError)
    assert complaint in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_eval_writes_no_pictures_into_its_own_folder_or_beside_another_things(pope, tmp_path):
    result = invoke("--dataset", pope, "--images", tmp_path / "out" / "images", "--out", tmp_path / "out")
    assert "wanted a folder beside it" in str(result.exception)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "thesis.tex").write_text("mine")
    result = invoke("--dataset", pope, "--images", tmp_path.parent / "images", "--out", tmp_path)
    assert "holds files that are no run" in str(result.exception)
    assert not (tmp_path.parent / "images").exists()
