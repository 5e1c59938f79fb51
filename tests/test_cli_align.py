"""`vdd align` as a user gives it: what it writes and says, what it refuses before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from vdd._check import UserError
from vdd.cli.align import align
from vdd.preference.dataset import write_pairs
from vdd.preference.pairs import Pair
from vdd.toy.scenes import caption, render, scene_at

app = typer.Typer()
app.command()(align)

QUICK = ("--lora-rank", 4, "--lora-alpha", 8, "--learning-rate", 1e-3, "--batch-size", 4, "--max-steps", 3)


def invoke(*args: Any) -> Any:
    return CliRunner().invoke(app, list(map(str, args)))


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any) -> tuple[Any, ...]:
    """Eight pairs about pictures of the embedded world, one of which the tokenizer cannot tell apart."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "images").mkdir()
    pairs = []
    for place in range(8):
        scene = scene_at("train", 910_000 + place)
        render(scene).save(folder / "images" / f"{place}.png")
        good = caption(scene)
        bad = "there is a red fox in the center." if place else good.upper()
        image = folder / "images" / f"{place}.png"
        pairs.append(Pair(place, (image,), "Describe the image.", good, bad, source="test"))
    write_pairs(pairs, folder / "pairs.jsonl", images=folder / "images")
    return ("--pairs", folder / "pairs.jsonl", "--images", folder / "images")


def test_it_trains_shows_what_came_of_it_and_does_nothing_twice(files: tuple[Any, ...], tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="the extra `train` is not installed")
    out = tmp_path / "out"
    result = invoke(*files, "--out", out, *QUICK, "--merged")
    assert result.exit_code == 0, result.exception
    for told in ("dpo: 3 updates on 7 pairs", "margin between chosen", "1 pairs were left out", "adapter", "merged"):
        assert told in result.output
    summary = json.loads((out / "summary.json").read_text())
    assert summary["first"]["loss"] == pytest.approx(0.6931, abs=1e-3)
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    before = {path: path.stat().st_mtime_ns for path in (out / "adapter").iterdir()}
    again = invoke(*files, "--out", out, *QUICK, "--merged")
    assert again.exit_code == 0, again.exception
    assert {path: path.stat().st_mtime_ns for path in (out / "adapter").iterdir()} == before
    from vdd.loading import load

    model, processor = load(str(out / "merged"))
    assert type(model).__name__ == "LlavaForConditionalGeneration"
    assert processor.chat_template


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--method", "ppo"), "unknown method 'ppo'; known: dpo, online-dpo, mixed-dpo, sft"),
        (("--beta", 0), "beta is 0"),
        (("--mix", 2), "mix is 2"),
        (("--fresh", "judge"), "unknown fresh"),
        (("--limit", 0), "limit is 0"),
        (("--pairs", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(
    more: tuple[Any, ...], told: str, files: tuple[Any, ...], tmp_path: Path, monkeypatch: Any
) -> None:
    pytest.importorskip("trl", reason="the extra `train` is not installed")

    def opened(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("vdd.cli.models.open_pipeline", opened)
    result = invoke(*files, "--out", tmp_path / "out", *more)
    assert isinstance(result.exception, UserError), result.exception
    assert told in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_refused(files: tuple[Any, ...], tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    result = invoke(*files, "--out", tmp_path)
    assert isinstance(result.exception, UserError)
    assert "no run of vdd" in str(result.exception) or "[train]" in str(result.exception)


def test_without_the_extra_its_name_is_said(files: tuple[Any, ...], tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("vdd.preference.train.find_spec", lambda name: None)
    result = invoke(*files, "--out", tmp_path / "out")
    assert isinstance(result.exception, UserError)
    assert "visual-debias-decoding[train]" in str(result.exception)
