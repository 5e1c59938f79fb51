"""Figures as SVG inside a page, which gives the colours: dots with intervals, reliability, lines, scatter.

Every figure is drawn for a phone's width and has a title and a description that say in words what it shows.
Colours come from the page's style by class: `k0` … `k3` for the kinds of what is compared, which have shapes too.

Knows: numbers, labels. Does not know: runs, files. Computes nothing but places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vdd.axes import core, cut, framed, grid_x, grid_y, padded, scale, ticks, words
from vdd.markup import Markup, element

WIDTH, NARROW = 380.0, 290.0
"""Of a figure, and of a reliability diagram."""

DASHES = 3
"""Ways of breaking a line, the first unbroken."""

FEW = 10
"""Answers below which a bin of a reliability diagram is drawn pale."""


@dataclass(frozen=True)
class Mark:
    """A point of a figure.

    Attributes:
        label: what it is.
        kind: 0 … 3, of its colour and shape.
        hollow: drawn as an outline.
        x: across; for rows of dots the value itself.
        y: up; unused for rows of dots.
        low, high: the interval's ends; NaN for none.
        named: whether a scatter says its label beside it.
    """

    label: str
    kind: int
    hollow: bool
    x: float
    y: float = 0.0
    low: float = math.nan
    high: float = math.nan
    named: bool = False


@dataclass(frozen=True)
class Bar:
    """A bin of a reliability diagram, everything in %: its bounds, how many answers, mean confidence, share right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Line:
    """A series over the groups of a line chart.

    Attributes:
        label: what it is.
        kind: 0 … 3, of its colour and shape.
        hollow: whether its points are outlines.
        dash: 0, 1, …; tells lines of one kind apart.
        values: one a group.
    """

    label: str
    kind: int
    hollow: bool
    dash: int
    values: Sequence[float]


def dots(key: str, title: str, description: str, marks: Sequence[Mark], *, reference: float, signed: bool) -> Markup:
    """A row a mark: label, dot, interval and value; an arrow at the edge where the value is beyond the axis.

    Args:
        key: unique in the page; opens the ids.
        title, description: for those who do not see it.
        marks: from top to bottom.
        reference: where a line is drawn through all rows.
        signed: whether values are shown with their sign.
    """
    left, right, top, step = 164.0, WIDTH - 46, 8.0, 21.0
    bottom = top + step * len(marks)
    least, most = core([mark.x for mark in marks])
    inside = [mark for mark in marks if least <= mark.x <= most]
    ends = [end for mark in inside for end in (mark.x, mark.low, mark.high) if not math.isnan(end)]
    low, high = padded([*ends, reference])
    across = scale(low, high, left, right)
    parts = [*grid_x(across, ticks(low, high), top, bottom, signed=signed)]
    parts.append(element("line", class_="reference", x1=across(reference), x2=across(reference), y1=top, y2=bottom))
    for row, mark in enumerate(marks):
        y = top + step * (row + 0.5)
        value = _shown(mark.x, signed=signed)
        whole = f"{mark.label}: {value}"
        drawn = []
        if not math.isnan(mark.low):
            whole += f", 95 % interval {_shown(mark.low, signed=signed)} to {_shown(mark.high, signed=signed)}"
            x1, x2 = (across(min(max(end, low), high)) for end in (mark.low, mark.high))
            drawn = [element("line", class_="interval", x1=x1, x2=x2, y1=y, y2=y)] if x1 < x2 else []
        point = shape(mark.kind, across(mark.x), y, hollow=mark.hollow)
        if not low <= mark.x <= high:
            whole += ", beyond the axis"
            point = _arrow((right, y), (6, 0)) if mark.x > high else _arrow((left, y), (-6, 0))
        label = words(cut(mark.label), left - 9, y + 4, "end", "label")
        shown = words(value, WIDTH - 2, y + 4, "end", "value")
        parts.append(element("g", element("title", whole), label, *drawn, point, shown, class_=f"k{mark.kind}"))
    return framed(key, title, description, (WIDTH, bottom + 22), parts)


def reliability(key: str, title: str, description: str, bars: Sequence[Bar], kind: int) -> Markup:
    """Accuracy over confidence with the line of equality, and below it how many answers each bin has."""
    left, right, top, bottom = 30.0, NARROW - 12, 8.0, 190.0
    floor = 0.0 if min(bar.low for bar in bars) < 40 else 40.0
    across, up = scale(floor, 100, left, right), scale(0, 100, bottom, top)
    base, most = bottom + 76, max(bar.count for bar in bars)
    parts = [*grid_x(across, ticks(floor, 100), top, bottom), *grid_y(up, ticks(0, 100), left, right)]
    parts.append(element("line", class_="equality", x1=across(floor), y1=up(floor), x2=across(100), y2=up(100)))
    for bar in bars:
        x, wide = across(bar.low) + 1, across(bar.high) - across(bar.low) - 2
        tall = 30 * bar.count / most
        told = f"{bar.count} answers of confidence {bar.low:.1f} to {bar.high:.1f} %, on average {bar.confidence:.1f} %"
        parts.append(
            element(
                "g",
                element("title", f"{told}: {bar.accuracy:.1f} % right"),
                element("rect", class_="bar", x=x, y=up(bar.accuracy), width=wide, height=bottom - up(bar.accuracy)),
                shape(kind, across(bar.confidence), up(bar.accuracy), hollow=False),
                element("rect", class_="count", x=x, y=base - tall, width=wide, height=tall),
                _count(bar.count, x + wide / 2, base - tall - 3, narrow=wide < 20),
                class_=f"k{kind} pale" if bar.count < FEW else f"k{kind}",
            )
        )
    parts.append(element("line", class_="axis", x1=left, x2=right, y1=base, y2=base))
    parts.append(words("answers in each bin", right, base + 14, "end", "note"))
    return framed(key, title, description, (NARROW, base + 20), parts)


def lines(key: str, title: str, description: str, groups: Sequence[tuple[str, int]], series: Sequence[Line]) -> Markup:
    """Values over ordered groups, each group with its name and its size; a group's points are set a little apart."""
    left, right, top, bottom = 34.0, WIDTH - 8, 10.0, 190.0
    low, high = padded([value for one in series for value in one.values])
    up, wide = scale(low, high, bottom, top), (right - left) / len(groups)
    parts = [*grid_y(up, ticks(low, min(high, 100.0)), left, right)]
    for place, (name, count) in enumerate(groups):
        middle = left + wide * (place + 0.5)
        parts.append(words(name, middle, bottom + 15, "middle"))
        parts.append(words(f"n {count}", middle, bottom + 29, "middle", "note"))
    for number, one in enumerate(series):
        aside = 8.0 * (number - (len(series) - 1) / 2)
        points = [
            (left + wide * (place + 0.5) + aside, up(value), f"{one.label}, {groups[place][0]}: {value:.1f} %")
            for place, value in enumerate(one.values)
        ]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in points)
        drawn = [
            element("g", element("title", told), shape(one.kind, x, y, hollow=one.hollow)) for x, y, told in points
        ]
        parts.append(element("g", element("path", class_=_dashed(one.dash), d=path), *drawn, class_=f"k{one.kind}"))
    return framed(key, title, description, (WIDTH, bottom + 36), parts)


def scatter(key: str, title: str, description: str, marks: Sequence[Mark], across_name: str) -> Markup:
    """Points by two figures, an arrow at the edge for one beyond the axis; the `named` ones are labelled and joined."""
    left, right, top, bottom = 34.0, WIDTH - 8, 10.0, 150.0
    low, high = padded(core([mark.y for mark in marks]))
    most = 1.08 * max(mark.x for mark in marks) or 1.0
    across, up = scale(0.0, most, left, right), scale(low, high, bottom, top)
    parts = [*grid_x(across, ticks(0.0, most), top, bottom), *grid_y(up, ticks(low, high), left, right)]
    chosen = sorted((mark for mark in marks if mark.named), key=lambda mark: (mark.x, mark.y))
    shown = [(across(mark.x), up(mark.y), mark.label) for mark in chosen if low <= mark.y <= high]
    if shown:
        parts.append(element("path", class_="front", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in shown)))
    for mark in marks:
        told, x = f"{mark.label}: {mark.y:.1f} % at {mark.x:.2f} {across_name}", across(mark.x)
        if low <= mark.y <= high:
            point = shape(mark.kind, x, up(mark.y), hollow=mark.hollow)
        else:
            told += ", beyond the axis"
            point = _arrow((x, bottom), (0, 6)) if mark.y < low else _arrow((x, top), (0, -6))
        parts.append(element("g", element("title", told), point, class_=f"k{mark.kind}"))
    for (x, y, label), place in zip(shown, _apart([y for _, y, _ in shown], top + 4, bottom - 4), strict=True):
        side, anchor = (14, "start") if x < (left + right) / 2 else (-14, "end")
        parts.append(element("line", class_="leader", x1=x, y1=y, x2=x + 0.8 * side, y2=place))
        parts.append(words(cut(label), x + side, place + 4, anchor, "named"))
    parts.append(words(across_name, right, bottom + 30, "end", "note"))
    return framed(key, title, description, (WIDTH, bottom + 36), parts)


def shape(kind: int, x: float, y: float, *, hollow: bool) -> Markup:
    """The mark of a kind: circle, square, triangle, diamond."""
    look = "mark hollow" if hollow else "mark"
    if kind == 0:
        return element("circle", class_=look, cx=x, cy=y, r=4.5)
    outline = {
        1: ((-4, -4), (4, -4), (4, 4), (-4, 4)),
        2: ((0, -5), (5, 4), (-5, 4)),
        3: ((0, -5.5), (5.5, 0), (0, 5.5), (-5.5, 0)),
    }[kind]
    return element("polygon", class_=look, points=" ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in outline))


def key_line(one: Line) -> Markup:
    """A piece of a line with a point on it, for a legend."""
    path = element("path", class_=_dashed(one.dash), d="M0 7L34 7")
    drawn = element("g", path, shape(one.kind, 17.0, 7.0, hollow=one.hollow), class_=f"k{one.kind}")
    return element("svg", drawn, viewBox="0 0 34 14", width=34, height=14, aria_hidden="true")


def key_mark(kind: int, *, hollow: bool = False) -> Markup:
    """A mark by itself, for a legend; the words beside it say what it is."""
    drawn = element("g", shape(kind, 7.0, 7.0, hollow=hollow), class_=f"k{kind}")
    return element("svg", drawn, viewBox="0 0 14 14", width=14, height=14, aria_hidden="true")


def _dashed(dash: int) -> str:
    return f"through dash{dash % DASHES}"


def _arrow(at: tuple[float, float], toward: tuple[float, float]) -> Markup:
    """Points out of the figure, from its edge."""
    (x, y), (dx, dy) = at, toward
    corners = ((x + dx, y + dy), (x + dy * 0.8, y + dx * 0.8), (x - dy * 0.8, y - dx * 0.8))
    return element("polygon", class_="mark", points=" ".join(f"{a:.1f},{b:.1f}" for a, b in corners))


def _apart(places: Sequence[float], top: float, bottom: float, room: float = 12.0) -> list[float]:
    """Heights near those that are wanted, from the lowest up, at least `room` apart and not above `top`."""
    found: list[float] = []
    for place in places:
        found.append(min(place, found[-1] - room if found else bottom))
    for number in range(len(found) - 1, -1, -1):
        found[number] = max(found[number], found[number + 1] + room if number + 1 < len(found) else top)
    return found


def _shown(value: float, *, signed: bool) -> str:
    """To one decimal, with a true minus, never −0.0."""
    return f"{round(value, 1) + 0.0:{'+' if signed else ''}.1f}".replace("-", "−")


def _count(count: int, x: float, y: float, *, narrow: bool) -> Markup:
    """How many, above a bar; upright where the bar is narrow."""
    if not narrow:
        return words(str(count), x, y, "middle", "small")
    return element("text", str(count), class_="small", transform=f"translate({x + 3:.1f} {y:.1f}) rotate(-90)")
