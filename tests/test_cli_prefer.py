"""`vdd prefer` and `vdd prefer check`, as a user gives them, on the embedded model."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from vdd._check import UserError
from vdd.cli.prefer import preferences
from vdd.preference.dataset import read_pairs
from vdd.toy.questions import DESCRIBE, ask_existence
from vdd.toy.scenes import caption, render, scene_at

COUNT = 12


def invoke(*args):
    return CliRunner().invoke(preferences, list(map(str, args)))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(file, folder): captions and yes-no answers about scenes; one image is broken, one is missing."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    records = []
    for index in range(COUNT):
        scene, name = scene_at("train", 9_500_000 + index), f"{index}.png"
        render(scene).save(folder / "images" / name)
        asked = ask_existence(scene.objects[0], True)
        records.append({"id": index, "image": name, "prompt": DESCRIBE, "answer": caption(scene)})
        records.append({"id": f"asked-{index}", "image": name, "prompt": asked.text, "answer": asked.answer})
    (folder / "images" / "3.png").write_bytes(b"broken")
    (folder / "images" / "4.png").unlink()
    (folder / "rows.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "objects.txt").write_text("fox, foxes\nbus\napple\n")
    return folder / "rows.jsonl", folder / "images"


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run's folder, and what was said."""
    out = tmp_path_factory.mktemp("run") / "out"
    result = invoke("--data", data[0], "--images", data[1], "--out", out, "--batch-size", 8, "--iterations", 3)
    assert result.exit_code == 0, result.exception
    return out, result


def test_pairs_are_made_and_their_rates_are_shown(run, data):
    out, result = run
    pairs = read_pairs(out / "pairs.jsonl", data[1])
    assert len(pairs) == 2 * (COUNT - 2)
    assert all(pair.chosen != pair.rejected and pair.rho == 0.99 and pair.model == "toy" for pair in pairs)
    summary = json.loads((out / "summary.json").read_text())
    tries, alike = summary["similar"]["1"]
    assert f"{alike / tries:.1%}" in result.stdout
    assert "similarity: words (no embedder); too similar from ε = 0.95 on, ρ = 0.99" in result.stdout
    assert "of the rows have another answer after one try" in result.stdout
    assert f"{len(pairs)} pairs of {len(pairs) + 2} rows" in result.stdout
    assert "2 rows and 2 entries of the data became none" in result.stdout
    assert str(out / "pairs.jsonl") in result.stdout
    reasons = {one["id"]: one["reason"] for one in map(json.loads, (out / "refused.jsonl").read_text().splitlines())}
    assert set(reasons) == {3, "asked-3", 4, "asked-4"}
    assert "no such file" in reasons[4]
    assert "not an image" in reasons[3]


def test_the_same_command_goes_on_and_another_is_refused(run, data):
    out, first = run
    options = ("--data", data[0], "--images", data[1], "--out", out, "--iterations", 3)
    again = invoke(*options, "--batch-size", 8)
    assert again.stdout == first.stdout
    other = invoke(*options, "--batch-size", 8, "--rho", 0.5)
    assert isinstance(other.exception, UserError)
    assert "other rho" in str(other.exception)


def test_a_limit_and_a_list_of_objects_are_taken(data, tmp_path):
    objects = data[0].parent / "objects.txt"
    out = tmp_path / "out"
    result = invoke(
        "--data", data[0], "--images", data[1], "--out", out, "--objects", objects, "--limit", 2, "--iterations", 2
    )
    assert result.exit_code == 0, result.exception
    assert "similarity: named things (no embedder); too similar from ε = 1 on" in result.stdout
    assert "2 rows are too few to say" in result.stdout
    assert json.loads((out / "run.json").read_text())["measure"] == "named things (no embedder)"


def test_without_datasets_the_way_to_parquet_is_told(data, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    result = invoke("--data", data[0], "--images", data[1], "--out", tmp_path / "out", "--limit", 1)
    assert result.exit_code == 0, result.exception
    assert "for pairs.parquet: pip install 'visual-debias-decoding[train]'" in result.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rho", 1.5), "rho is 1.5"),
        (("--epsilon", "nan"), "epsilon is nan"),
        (("--iterations", 0), "iterations is 0"),
        (("--variant", "dark"), "unknown variant 'dark'; known: attention, noise, unguided"),
        (("--temperature", -1), "temperature is -1"),
        (("--top-p", 0), "top_p is 0"),
        (("--max-new-tokens", 0), "max_new_tokens is 0"),
        (("--batch-size", 0), "batch_size is 0"),
        (("--limit", 0), "limit is 0"),
        (("--seed", -1), "seed is -1"),
        (("--embedder", "a", "--objects", "b"), "wanted one measure"),
        (("--objects", "/gone.txt"), "/gone.txt"),
        (("--dtype", "int8"), "unknown dtype"),
        (("--data", "/gone.jsonl"), "/gone.jsonl: no such file"),
        (("--images", "/gone"), "/gone: no such folder"),
    ],
)
def test_a_wrong_option_is_told_before_anything_is_written(data, tmp_path, options, message):
    result = invoke("--data", data[0], "--images", data[1], "--out", tmp_path / "out", *options)
    assert isinstance(result.exception, UserError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_named(data):
    result = invoke("--data", data[0])
    assert isinstance(result.exception, UserError)
    assert "--images, --out missing" in str(result.exception)


def test_a_foreign_folder_is_left_alone(data, tmp_path):
    (tmp_path / "diary.txt").write_text("dear")
    result = invoke("--data", data[0], "--images", data[1], "--out", tmp_path)
    assert "no run of vdd" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]


def test_check_ends_with_0_on_good_pairs_and_2_on_others(run, data, tmp_path):
    out, _ = run
    good = invoke("check", out / "pairs.jsonl", "--images", data[1])
    assert (good.exit_code, good.exception) == (0, None)
    assert f"{2 * (COUNT - 2)} rows, all of them pairs" in good.stdout
    elsewhere = invoke("check", out / "pairs.jsonl")
    assert elsewhere.exit_code == 2
    assert "is it below another folder (--images)?" in elsewhere.stdout
    lines = (out / "pairs.jsonl").read_text().splitlines()
    broken = json.loads(lines[1]) | {"rho": 7}
    (tmp_path / "p.jsonl").write_text("\n".join([lines[0], json.dumps(broken), "{"]))
    bad = invoke("check", tmp_path / "p.jsonl", "--images", data[1])
    assert bad.exit_code == 2
    assert f"p.jsonl, line 2 (id {broken['id']}): rho is 7; wanted a number in [0, 1]" in bad.stdout
    assert "p.jsonl, line 3: broken JSON" in bad.stdout
    assert "3 rows, 2 of them wrong" in bad.stdout


def test_check_reads_a_runs_folder_without_its_images(run, tmp_path):
    pytest.importorskip("datasets", reason="extra `train` is not installed")
    copy = tmp_path / "copy"
    shutil.copytree(run[0], copy)
    result = invoke("check", copy)
    assert result.exit_code == 0, result.stdout
    assert "pairs.parquet" in result.stdout
