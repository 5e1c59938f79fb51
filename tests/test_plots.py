"""Pictures: they exist, are of a sane size, and survive texts of any length."""

from __future__ import annotations

import pytest
from PIL import Image

import vdd.plots
from vdd.plots import RIGHT, WRONG, Example, accuracy_chart, can_chart, example_sheet
from vdd.records import Score

LONG = "there is a very long sentence about a fox, a car and a mailbox. " * 12


def example(before="a brown fox.", after="a blue fox.", **changes) -> Example:
    size = changes.pop("size", (96, 96))
    mode = changes.pop("mode", "RGB")
    return Example(Image.new(mode, size), "What color is the fox?", "a blue fox.", before, after, **changes)


def colors(path) -> set[tuple[int, ...]]:
    with Image.open(path) as image:
        return {color for _, color in image.convert("RGB").getcolors(maxcolors=2**24)}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_sheet_is_a_png_with_a_column_for_each_example(tmp_path, count):
    example_sheet("Three foxes", [example() for _ in range(count)], tmp_path / "new" / "sheet.png")
    with Image.open(tmp_path / "new" / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert 300 * count <= sheet.width <= 400 * max(count, 1)
        assert sheet.height < 1500


@pytest.mark.parametrize(
    "odd",
    [
        example(before="", after=""),
        example(before=LONG, after=LONG),
        example(before="x" * 500),
        example(after="käse 图 🦊 \n\t\x00 [bold]"),
        example(size=(1, 1)),
        example(size=(3000, 2)),
        example(mode="L"),
        example(mode="RGBA"),
        example(mode="P"),
    ],
    ids=["empty", "long", "one word", "unicode", "1×1", "3000×2", "grey", "transparent", "palette"],
)
def test_a_sheet_survives_odd_texts_and_pictures(tmp_path, odd):
    example_sheet("t", [odd, example()], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert 600 <= sheet.width <= 800
        assert 400 <= sheet.height <= 3000


def size_of(path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_a_longer_text_makes_the_sheet_higher_so_that_nothing_is_cut(tmp_path):
    for name, text in (("short", "a fox."), ("long", LONG)):
        example_sheet("t", [example(before=text)], tmp_path / f"{name}.png")
    assert size_of(tmp_path / "long.png")[1] > size_of(tmp_path / "short.png")[1] + 200


TITLE = (
    "24 pictures that break the world's habits: debiasing changes 20 descriptions; 22 are wrong before, 5 after, "
    "and no mammoth wore a crown"
)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_title_longer_than_the_sheet_is_wide_stays_inside_it(tmp_path, count):
    example_sheet(TITLE, [example()] * count, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        edge = sheet.convert("L").crop((sheet.width - 4, 0, sheet.width, sheet.height))
    assert edge.getextrema() == (255, 255), "something runs off the right edge"


def test_wrong_words_are_set_off(tmp_path):
    red = tuple(int(WRONG[i : i + 2], 16) for i in (1, 3, 5))
    example_sheet("t", [example()], tmp_path / "plain.png")
    example_sheet("t", [example(wrong_before=frozenset({"brown"}))], tmp_path / "wrong.png")
    assert red not in colors(tmp_path / "plain.png")
    assert red in colors(tmp_path / "wrong.png")


SCORES = [
    (name, Score({"accuracy": a}, "s", {"accuracy": (a - 0.1, a + 0.1)}))
    for name, a in (("greedy", 0.7), ("vdd-none", 0.8), ("T=1", 0.6))
]


@pytest.mark.parametrize("name", ["chart.png", "chart.pdf", "chart.svg"])
def test_a_chart_is_saved_in_the_format_of_its_name(tmp_path, name):
    pytest.importorskip("matplotlib", reason="charts need matplotlib (extra `plot`)")
    path = tmp_path / "new" / name
    accuracy_chart("Accuracy", {"random": SCORES, "popular": SCORES}, path)
    start = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}[name.split(".")[1]]
    assert path.read_bytes().startswith(start)
    if name.endswith("png"):
        with Image.open(path) as chart:
            assert 500 < chart.width < 3000
            assert 200 < chart.height < 2000
        green = tuple(int(RIGHT[i : i + 2], 16) for i in (1, 3, 5))
        assert green in colors(path)


def test_a_chart_without_matplotlib_is_a_users_error_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(vdd.plots, "find_spec", lambda name: None)
    assert not can_chart()
    with pytest.raises(ValueError, match=r"pip install 'visual-debias-decoding\[plot\]'"):
        accuracy_chart("t", {"random": SCORES}, tmp_path / "chart.png")
