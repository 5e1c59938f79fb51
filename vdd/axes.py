"""Places of numbers in a figure: bounds that one outlier does not stretch, round ticks, grid lines, words.

Knows: numbers, markup. Does not know: what is shown.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Sequence
from itertools import pairwise

from vdd.markup import Markup, element

LABEL = 26
"""Widths of a Latin letter that a label may take; the whole is in its mark's title."""

Scale = Callable[[float], float]


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """The straight line through (low, start) and (high, end)."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def core(values: Sequence[float]) -> tuple[float, float]:
    """The least and the greatest of values without outliers.

    An outlier lies so far out that the others together span less than half of what they span with it. At most a quarter
    of the values are.
    """
    kept = sorted(values)
    for _ in range(len(values) // 4):
        above, below = kept[-1] - kept[1], kept[-2] - kept[0]
        if min(above, below) >= (kept[-1] - kept[0]) / 2:
            break
        kept = kept[1:] if above < below else kept[:-1]
    return kept[0], kept[-1]


def padded(values: Sequence[float]) -> tuple[float, float]:
    """The bounds of an axis: a little more than its values span."""
    low, high = min(values), max(values)
    margin = max(0.06 * (high - low), 0.5)
    return low - margin, high + margin


def ticks(low: float, high: float) -> list[float]:
    """Two to six round numbers within bounds."""
    raw = (high - low) / 5
    unit = 10 ** math.floor(math.log10(raw))
    step = next(size * unit for size in (1, 2, 5, 10) if size * unit >= raw)
    return [step * number for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def said(places: Sequence[float], *, signed: bool = False) -> list[str]:
    """Ticks as words, all with as many decimals as tell them apart."""
    step = min((b - a for a, b in pairwise(places)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    form = f"{{:{'+' if signed else ''}.{decimals}f}}"
    return [("0" if abs(tick) < step / 2 else form.format(tick)).replace("-", "−") for tick in places]


def grid_x(across: Scale, places: Sequence[float], top: float, bottom: float, *, signed: bool = False) -> list[Markup]:
    """Upright lines at the ticks, their names beneath."""
    parts = []
    for tick, name in zip(places, said(places, signed=signed), strict=True):
        parts.append(element("line", class_="grid", x1=across(tick), x2=across(tick), y1=top, y2=bottom))
        parts.append(words(name, across(tick), bottom + 15, "middle", "note"))
    return parts


def grid_y(up: Scale, places: Sequence[float], left: float, right: float) -> list[Markup]:
    """Level lines at the ticks, their names to the left."""
    parts = []
    for tick, name in zip(places, said(places), strict=True):
        parts.append(element("line", class_="grid", x1=left, x2=right, y1=up(tick), y2=up(tick)))
        parts.append(words(name, left - 5, up(tick) + 4, "end", "note"))
    return parts


def words(text: str, x: float, y: float, anchor: str, look: str | None = None) -> Markup:
    """Text in a figure; `anchor` is start, middle or end."""
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=look)


def cut(label: str) -> str:
    """A label of LABEL widths at most; wide letters, as of Chinese, take two."""
    room = LABEL
    for place, letter in enumerate(label):
        room -= 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if room < 0:
            return label[: place - 1] + "…"
    return label


def framed(key: str, title: str, description: str, size: tuple[float, float], parts: Sequence[Markup]) -> Markup:
    """A figure of a width and a height, which says in words what it shows; `key` opens its ids."""
    return element(
        "svg",
        element("title", title, id=f"{key}-title"),
        element("desc", description, id=f"{key}-desc"),
        *parts,
        viewBox=f"0 0 {size[0]:.0f} {size[1]:.0f}",
        role="img",
        aria_labelledby=f"{key}-title {key}-desc",
    )
