"""Figures from records alone: all of them, the same bytes every time, whatever stands in the records."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from vdd._check import UserError
from vdd.analysed import (
    AttentionShare,
    BiasFigures,
    ConfidencePart,
    Failure,
    Likely,
    PriorShare,
    figures_of_run,
    keep_picture,
    read_kind,
    write_records,
)
from vdd.analysis_figures import draw_all, draw_bias, draw_confidence, draw_likeliest, draw_prior
from vdd.analysis_report import markdown, tables, verdicts
from vdd.page import page
from vdd.page_pictures import pictures
from vdd.plots import can_chart
from vdd.plots_analysis import token_bars

pytestmark = pytest.mark.skipif(not can_chart(), reason="matplotlib is not installed")

ODD = ("$x$", "图", "␣" * 40, "<script>", "", "\\frac", "é", "a_b^c")


def likely(condition, scope=""):
    return Likely(scope, 3, condition, ODD, [0.4 / 2**n for n in range(8)], [0.1] * 8)


def attention(condition, layer, step):
    image = 0.5 if condition == "image" else 0.0
    return AttentionShare(condition, layer, step, image, 0.9 - image, 0.1, 4)


def confidence(leg, low, accuracy, gain=None):
    return ConfidencePart(leg, low, low + 0.1, 7, accuracy, *((None, None) if gain is None else gain))


def bias(subset, verdict="needed", interval=(0.7, 0.9)):
    blind = {"accuracy": 0.5, "agreement": 0.6, "gain": [0.3, 0.2, 0.4], "kl_labels": 1.5, "kl_vocabulary": None}
    return BiasFigures(subset, 40, 20, 2, 0.8, interval, 0.5, verdict, f"{subset} in $words$", {"none": blind})


def prior(name, label, truth):
    return PriorShare(name, label, 9, {"image": 0.5, "none": 0.5}, {"image": 0.9, "none": 0.8}, truth, 3)


@pytest.fixture
def out(tmp_path):
    """An analysis' folder, its records written by hand."""
    return written(tmp_path)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """(folder, paths) of such an analysis with its figures, and two files that were there before."""
    out = written(tmp_path_factory.mktemp("drawn"))
    (out / "figures").mkdir()
    (out / "figures" / "prior-9.svg").write_text("of an earlier analysis")
    (out / "figures" / "my own.svg").write_text("somebody's")
    return out, draw_all(out)


def written(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (40, 30), "red").save(tmp_path / "images" / "a.png")
    kept = keep_picture(tmp_path, tmp_path / "images", "a.png")
    failure = {"question_id": 1, "image": "a.png", "question": "Is there a $5 fox?", "label": "yes"}
    failure |= {"plain": "yes", "debiased": "", "picture": kept}
    records = {
        Likely: [likely("image"), likely("none"), likely("image", "what?"), likely("none", "what?")],
        AttentionShare: [attention(c, layer, None) for c in ("image", "none") for layer in (0, 2)]
        + [attention("image", None, 1)],
        ConfidencePart: [
            confidence("greedy", 0.5, 0.5),
            confidence("greedy", 0.9, 1.0),
            confidence("vdd", 0.5, 0.75, (0.1, 0.4)),
        ],
        BiasFigures: [bias("all"), bias("a" * 60, "too few", None)],
        PriorShare: [prior("a, b", "a", 0.25), prior("a, b", "b" * 50, 0.75), prior("c, d", "c", None)],
        Failure: [
            Failure(leg="vdd", kind="broken", relabelled="no", **failure),
            Failure(leg="vdd", kind="mended", **failure | {"picture": None}),
        ],
    }
    for kind, rows in records.items():
        write_records(tmp_path, kind, rows, {})
    return tmp_path


def files(out):
    return {path.name: path.read_bytes() for path in (out / "figures").iterdir()}


@pytest.mark.slow
def test_every_record_has_its_figure_as_png_and_svg_and_the_same_records_give_the_same_bytes(drawn):
    out, paths = drawn
    first = files(out)
    names = ("likeliest", "question", "attention", "confidence", "bias", "prior", "prior-2")
    want = {f"{name}.{ending}" for name in names for ending in ("png", "svg")} | {"failures-vdd.png"}
    assert {path.name for path in paths} == want
    assert set(first) == want | {"my own.svg"}
    command = (
        "import sys; from vdd.cli import app\n"
        "try: app(['analyse', 'draw', sys.argv[1]])\n"
        "except SystemExit as done: assert not done.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules"
    )
    (out / "images" / "a.png").unlink()
    subprocess.run([sys.executable, "-c", command, str(out)], check=True, capture_output=True, timeout=120)
    second = files(out)
    assert {name for name in first if first[name] != second[name]} == set()
    with Image.open(out / "figures" / "bias.png") as picture:
        assert min(picture.size) > 200


def test_an_svg_holds_no_date_and_no_script(out):
    draw_bias([bias("<script>alert(1)</script>")], out)
    text = (out / "bias.svg").read_text()
    assert "<dc:date>" not in text
    assert "<script" not in text


def test_one_of_everything_is_enough_and_nothing_draws_nothing(tmp_path):
    assert draw_likeliest([], tmp_path) == draw_confidence([], tmp_path) == draw_bias([], tmp_path) == []
    assert draw_prior([prior("x", "only", None)], tmp_path)
    draw_confidence([confidence("greedy", 0.5, math.nan)], tmp_path)
    token_bars("title", {"image": [("a", 0.0, 0.0)]}, tmp_path / "one")
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".svg"}
    (tmp_path / "records").mkdir()
    assert draw_all(tmp_path) == []


def test_records_that_were_changed_by_hand_are_a_mistake_in_words(out):
    path = out / "records" / "bias.jsonl"
    path.write_text('{"about": {}}\n{"subset": "all"}\n')
    with pytest.raises(UserError, match=r"bias\.jsonl, line 2: no record of bias"):
        read_kind(out, BiasFigures)
    for name in ("likeliest", "attention", "confidence"):
        (out / "records" / f"{name}.jsonl").unlink()
    write_records(out, BiasFigures, [BiasFigures("all", 1, 1, 2, 0.5, None, 0.5, "needed", "words", {"none": {}})], {})
    with pytest.raises(UserError, match="cannot be drawn"):
        draw_all(out)


def test_the_tables_and_the_page_of_markdown_say_what_the_records_say(out):
    shown = {table.caption: table for table in tables(out)}
    assert shown["Answers that debiasing changed"].rows == [["vdd", "1", "1", "1", "0"]]
    (first, second) = shown["Does the benchmark need its images?"].rows
    assert first[:6] == ["all, none", "40", "80.0 [70.0, 90.0]", "50.0", "50.0", "+30.0 [+20.0, +40.0]"]
    assert second[2] == "80.0"
    text = markdown(out, [Path("bias.png"), Path("bias.svg")], {"model": "toy"}, ["something"])
    assert text.count("(figures/") == 1
    assert "- model: toy" in text
    assert "- something" in text
    assert "<script>" not in markdown(out, [], {"model": "<script>"}, ["<script>"])
    assert verdicts(out)[0] == "all: all in $words$"
    for table in shown.values():
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_a_runs_report_shows_the_figures_of_the_analysis_that_rests_on_it_as_they_are(drawn):
    out, _ = drawn
    from tests.finished_runs import write_run
    from vdd.report_figures import run_reports

    write_run(out / "answered")
    (report,) = run_reports([out / "answered"])
    assert len(report.analysis) == 8
    text = page([report])
    assert text.count('src="data:image/svg+xml;base64,') == 7
    assert text.count('src="data:image/png;base64,') == 1
    assert "img-src data:" in text
    assert text.count(' alt="') >= 8
    write_run(out / "another")
    (report,) = run_reports([out / "another"])
    assert not report.analysis
    assert "img-src" not in page([report])
    assert figures_of_run(out / "nowhere" / "answered") == []
    assert pictures([]) == '<div class="pictures"></div>'
