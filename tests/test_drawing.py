"""Figures: marks stand where their numbers say, axes have round numbers, text is escaped."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdd.axes import core, cut, padded, said, ticks
from vdd.drawing import WIDTH, Bar, Line, Mark, dots, lines, reliability, scatter
from vdd.markup import Markup, element, joined


def circles(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r'<circle [^>]*cx="([\d.]+)" cy="([\d.]+)"', text)]


def test_text_is_escaped_and_markup_is_not():
    assert (
        element("p", "<b>", element("i", '"&'), title='"<') == '<p title="&quot;&lt;">&lt;b&gt;<i>&quot;&amp;</i></p>'
    )
    assert isinstance(joined("<", Markup("<br>")), Markup)
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert element("line", x1=1.0, x2=2.345, width=3, class_=None) == '<line x1="1" x2="2.35" width="3"></line>'


@given(st.floats(-100, 100), st.floats(0.01, 200))
def test_ticks_are_round_within_bounds_and_few(low, span):
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-6 <= tick <= low + span + 1e-6 for tick in found)
    assert len(set(said(found))) == len(found)
    step = found[1] - found[0]
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9)) in (1, 2, 5)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9))
def test_an_axis_spans_its_values_with_room_to_spare(values):
    low, high = padded(values)
    assert low < min(values) <= max(values) < high


def test_outliers_do_not_stretch_an_axis_and_are_a_quarter_at_most():
    assert core([1, 2, 3, 4, -27]) == (1, 4)
    assert core([1, 2, 3, 99]) == (1, 3)
    assert core([1, 2, 9]) == (1, 9)
    assert core([1, 2, 3, 99, -99, 4, 5]) == (1, 99)
    assert core([0.0] * 4) == (0.0, 0.0)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=12))
def test_the_core_of_values_holds_three_quarters_of_them_at_least(values):
    low, high = core(values)
    assert sum(low <= value <= high for value in values) >= 0.75 * len(values)


def test_a_dot_beyond_the_axis_is_an_arrow_at_its_edge():
    marks = [Mark("far", 0, False, -30.0, low=-33.0, high=-27.0), *(Mark("near", 0, False, n / 4) for n in range(9))]
    text = dots("k", "t", "d", marks, reference=0.0, signed=True)
    assert len(circles(text)) == 9
    assert "<title>far: −30.0, 95 % interval −33.0 to −27.0, beyond the axis</title>" in text
    places = [Mark(mark.label, 0, False, 1.0, 90 + mark.x, named=True) for mark in marks]
    text = scatter("k", "t", "d", places, "ms")
    assert len(circles(text)) == 9
    assert "far: 60.0 % at 1.00 ms, beyond the axis" in text


def test_a_label_is_cut_by_the_room_that_its_letters_take():
    assert cut("x" * 26) == "x" * 26
    assert cut("x" * 27) == "x" * 25 + "…"
    assert cut("名" * 13) == "名" * 13
    assert cut("名" * 14) == "名" * 12 + "…"


@given(st.lists(st.floats(0, 100), min_size=2, max_size=3))
def test_dots_stand_in_the_order_of_their_values_within_the_figure(values):
    marks = [Mark("a", 0, False, value, low=value - 1, high=value + 1) for value in values]
    found = circles(dots("k", "t", "d", marks, reference=50.0, signed=False))
    assert [y for _, y in found] == sorted(y for _, y in found)
    xs = [x for x, _ in found]
    for (x, a), (y, b) in pairwise(zip(xs, values, strict=True)):
        assert (x <= y) if a <= b else (x >= y)
    assert all(0 <= x <= WIDTH for x in xs)


def test_a_dot_says_its_value_and_interval():
    text = dots("k", "t", "d", [Mark("leg", 1, True, -0.5, low=-1.0, high=0.25)], reference=0.0, signed=True)
    assert "<title>leg: −0.5, 95 % interval −1.0 to +0.2</title>" in text
    assert 'class="mark hollow"' in text
    assert "interval" not in dots("k", "t", "d", [Mark("leg", 0, False, 1.0)], reference=0.0, signed=True)


def test_reliability_has_a_dot_a_bar_and_a_count_for_each_bin():
    bars = [Bar(53.3, 60.0, 12, 57.0, 57.0), Bar(93.3, 100.0, 3400, 97.0, 80.0)]
    text = reliability("k", "t", "d", bars, 0)
    assert text.count('class="bar"') == text.count('class="count"') == 2
    assert re.findall(r'class="small"[^>]*>(\d+)<', text) == ["12", "3400"]
    assert "12 answers of confidence 53.3 to 60.0 %, on average 57.0 %: 57.0 % right" in text
    x1, y1, x2, y2 = map(float, re.search(r'"equality" x1="(.+?)" y1="(.+?)" x2="(.+?)" y2="(.+?)"', text).groups())
    (x, y), (_, below) = circles(text)
    assert y == pytest.approx(y1 + (x - x1) / (x2 - x1) * (y2 - y1), abs=0.05)
    assert below > y2 + 10
    assert text.count("pale") == 0
    low = reliability("k", "t", "d", [Bar(0.0, 6.7, 1, 5.0, 0.0)], 0)
    assert low.count("rotate(-90)") == low.count("pale") == 1


def test_lines_leave_out_nothing_and_stay_inside():
    series = [Line(name, kind % 2, False, kind // 2, [50.0, 100.0]) for kind, name in enumerate("abcd")]
    text = lines("k", "t", "d", [("0.5–0.6", 3), ("0.9–1.0", 4)], series)
    assert re.findall(r'class="through (dash\d)"', text) == ["dash0", "dash0", "dash1", "dash1"]
    assert [f"<title>{name}, {part}: {value} %</title>" in text for name in "abcd"
            for part, value in (("0.5–0.6", "50.0"), ("0.9–1.0", "100.0"))] == [True] * 8  # fmt: skip
    assert "n 3" in text


def test_labels_of_a_scatter_do_not_cover_each_other():
    marks = [Mark(f"leg {n}", 0, False, 1 + n / 50, 90 + n / 50, named=n % 2 == 0) for n in range(12)]
    text = scatter("k", "t", "d", marks, "forwards per question")
    found = [float(y) for y in re.findall(r'<text [^>]*y="([\d.]+)"[^>]*class="named"', text)]
    assert len(found) == 6
    assert all(above - below >= 11.99 for above, below in pairwise(found))
    assert len(circles(text)) == 12


def test_a_scatter_of_one_free_leg_is_drawn():
    assert len(circles(scatter("k", "t", "d", [Mark("leg", 0, False, 0.0, 0.0, named=True)], "ms"))) == 1
