"""Pictures of an analysis: likeliest tokens, attention, accuracy by confidence, language bias, priors; by matplotlib.

Each is saved as PNG and as SVG, and equal records give equal SVG files.

Knows: names and numbers. Computes nothing. Beside `plots` the only place that asks for matplotlib.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vdd.plots import FAINT, INK, RIGHT, WRONG, blank_figure, save_figure

IMAGE_INK, BLIND_INK, OTHER_INK, RULE = "#0b62c4", "#b04a06", "#0a7266", "#d0d5dd"
"""With the image, without it, a third; told apart by the colour-blind too."""

Ends = tuple[float, float] | None


def token_bars(title: str, panels: Mapping[str, Sequence[tuple[str, float, float]]], path: Path) -> None:
    """Save the likeliest tokens of each condition from top to bottom, the first panel's in one colour.

    Args:
        title: above the chart.
        panels: condition → (token, its probability, that with the image, drawn as a tick).
        path: without an ending; PNG and SVG are written.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    longest = max(map(len, panels.values()))
    most = max(100 * value for rows in panels.values() for _, *both in rows for value in both) or 100.0
    names = {name: [_short(token) for token, _, _ in rows] for name, rows in panels.items()}
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    label = 0.2 + 0.078 * max(len(token) for own in names.values() for token in own)  # inches
    width, height = columns * (2.2 + label) + 0.2, lines * (0.2 * longest + 0.85) + 0.6
    figure = blank_figure(width, height)
    figure.set_layout_engine("none")
    edges = {"left": label / width, "right": 1 - 0.2 / width, "top": 1 - 0.65 / height, "bottom": 0.85 / height}
    spaces = {"wspace": label / 2.2, "hspace": 0.75 / (0.2 * longest)}
    grid = figure.subplots(lines, columns, squeeze=False, gridspec_kw={**edges, **spaces}).ravel()
    for place, (axis, (name, rows)) in enumerate(zip(grid, panels.items(), strict=False)):
        shares = [100 * value for _, value, _ in rows]
        axis.barh(range(len(rows)), shares, height=0.68, alpha=0.85, color=BLIND_INK if place else IMAGE_INK)
        if place:
            given = [100 * value for _, _, value in rows]
            axis.plot(given, range(len(rows)), "|", color=IMAGE_INK, markersize=9, markeredgewidth=2)
        for row, (_, value, other) in enumerate(rows):
            behind = place and value <= other < value + 0.14 * most / 100  # the tick would cross the number
            end = (100 * (other if behind else value), row)
            where = {"textcoords": "offset points", "va": "center"}
            axis.annotate(_percent(value), end, (5, 0), fontsize=7.5, color=FAINT, **where)
            axis.annotate(_literal(names[name][row]), (0, row), (-5, 0), fontsize=8.5, color=INK, ha="right", **where)
        axis.set_yticks([])  # as ticks, every token would be measured several times over
        axis.set_ylim(longest - 0.4, -0.6)
        axis.set_xlim(0, most * 1.2)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("probability, %", fontsize=8.5)
        _plain(axis, "left")
    for axis in grid[len(panels) :]:
        axis.set_visible(False)
    if len(panels) > 1:
        from matplotlib.lines import Line2D

        key = Line2D([], [], marker="|", color=IMAGE_INK, markersize=9, markeredgewidth=2, linestyle="")
        figure.legend([key], ["the same token with the image"], loc="lower center", frameon=False, fontsize=8.5)
    _save(figure, title, path)


def attention_chart(
    title: str, panels: Mapping[str, tuple[Sequence[int], Mapping[str, Mapping[str, Sequence[float]]]]], path: Path
) -> None:
    """Save lines of attention shares, a panel for layers and one for steps: drawn through with the image, else dashed.

    Args:
        title: above the chart.
        panels: what is across → its values, and class → condition ("with the image", "without") → shares, NaN for gaps.
        path: without an ending.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    figure = blank_figure(4.6 * len(panels) + 0.6, 3.9)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (across, (values, classes)) in zip(axes, panels.items(), strict=True):
        for (name, conditions), color in zip(classes.items(), (IMAGE_INK, BLIND_INK, FAINT), strict=False):
            for (condition, shares), stroke in zip(conditions.items(), ("-", "--"), strict=False):
                percent = [100 * share for share in shares]
                style = {"color": color, "marker": "o", "markersize": 4, "linewidth": 1.7}
                axis.plot(values, percent, stroke, label=f"{name}, {condition}", **style)
        axis.set_xlabel(across, fontsize=9)
        axis.set_ylim(-2, 102)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(axis="y", color=RULE, linewidth=0.6)
        _plain(axis)
    axes[0].set_ylabel("share of the attention, %", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    _save(figure, title, path)


def confidence_chart(
    title: str,
    parts: Sequence[tuple[str, int]],
    legs: Mapping[str, tuple[Sequence[float], Sequence[tuple[float, Ends]]]],
    path: Path,
) -> None:
    """Save each leg's accuracy where the first one was how sure, its gain over the first, and how many questions.

    Args:
        title: above the chart.
        parts: (bounds as they stand below the axis, questions).
        legs: leg → accuracy by part, and (gain, ends of its interval or None) by part; NaN for gaps.
        path: without an ending.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    first = next(iter(legs))
    figure = blank_figure(6.6, 5.8)
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=(4, 3, 1))
    colors = (FAINT, RIGHT, IMAGE_INK, BLIND_INK, WRONG, OTHER_INK)
    for place, (name, (accuracies, gains)) in enumerate(legs.items()):
        x = [number + 0.1 * (place - (len(legs) - 1) / 2) for number in range(len(parts))]
        style = {"color": colors[place % len(colors)], "marker": "os^Dv"[place % 5], "markersize": 6.5}
        above.plot(x, [100 * value for value in accuracies], linewidth=1, alpha=0.85, label=name, **style)
        for across, (gain, ends) in zip(x, gains if place else (), strict=False):
            if ends is not None:
                middle.plot([across, across], [100 * end for end in ends], color=style["color"], linewidth=2)
            middle.plot(across, 100 * gain, **style)
    middle.axhline(0, color=FAINT, linewidth=1, zorder=0)
    above.set_ylabel("accuracy, %", fontsize=9)
    middle.set_ylabel(f"gain over {first}, points", fontsize=9)
    for axis in (above, middle):
        axis.grid(axis="y", color=RULE, linewidth=0.6)
        _plain(axis)
    above.legend(loc="best", frameon=False, fontsize=8.5)
    below.bar(range(len(parts)), [count for _, count in parts], color=RULE, width=0.6)
    for place, (_, count) in enumerate(parts):
        place_of = {"xy": (place, count), "xytext": (0, 2), "textcoords": "offset points", "ha": "center"}
        below.annotate(str(count), fontsize=8, color=INK, **place_of).set_in_layout(False)
    below.set_ylim(0, 1.6 * max(count for _, count in parts))
    below.set_yticks([])
    below.set_ylabel("questions", fontsize=9)
    below.set_xticks(range(len(parts)), [name for name, _ in parts], fontsize=8.5)
    below.set_xlabel(f"confidence of {first}", fontsize=9)
    _plain(below, "left")
    _save(figure, title, path)


def blind_chart(
    title: str, rows: Sequence[tuple[str, Mapping[str, float], Ends, float]], path: Path, *, note: str = ""
) -> None:
    """Save for each subset the accuracy with the images, with its interval, the blind ones, and a constant answer's.

    Args:
        title: above the chart.
        rows: (subset, name → accuracy with the image first, ends of that one's interval, commonest answer's share).
        path: without an ending.
        note: a line beneath.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    figure = blank_figure(7.4, 0.5 * len(rows) + 1.9)
    axis = figure.subplots()
    looks = ((IMAGE_INK, "o", "full"), (BLIND_INK, "D", "full"), (OTHER_INK, "s", "none"), (WRONG, "^", "none"))
    for place, (_, figures, ends, majority) in enumerate(rows):
        axis.plot([0, 100], [place, place], color=RULE, linewidth=0.6, zorder=0)
        if ends is not None:
            axis.plot([100 * end for end in ends], [place, place], color=IMAGE_INK, linewidth=2.2)
        label = "commonest answer" if place == 0 else None
        axis.plot(100 * majority, place, "|", color=INK, markersize=15, markeredgewidth=1.6, label=label)
        for (name, value), (color, mark, filled) in zip(figures.items(), looks, strict=False):
            style = {"color": color, "fillstyle": filled, "markersize": 7 if filled == "full" else 10}
            label = name if place == 0 else None
            axis.plot(100 * value, place, mark, label=label, markeredgewidth=1.6, clip_on=False, **style)
    axis.set_yticks(range(len(rows)), [_literal(name) for name, *_ in rows], fontsize=9)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(-2, 102)
    axis.set_xlabel("accuracy, %" + (f"\n{_literal(note)}" if note else ""), fontsize=9)
    _plain(axis, "left")
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    _save(figure, title, path)


def prior_chart(
    title: str, rows: Sequence[tuple[str, Mapping[str, float], float | None]], path: Path, *, over: str
) -> None:
    """Save bars of each label's share by condition, and the true share as a tick.

    Args:
        title: above the chart.
        rows: (label, condition → share with the image first, true share or None).
        path: without an ending.
        over: what the mean is over.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    conditions = list(rows[0][1])
    height = 0.78 / len(conditions)
    figure = blank_figure(6.8, (0.17 * len(conditions) + 0.12) * len(rows) + 1.7)
    axis = figure.subplots()
    for number, condition in enumerate(conditions):
        y = [place + height * (number - (len(conditions) - 1) / 2) for place in range(len(rows))]
        color = (IMAGE_INK, BLIND_INK, OTHER_INK, WRONG)[number % 4]
        values = [100 * shares[condition] for _, shares, _ in rows]
        name = "with the image" if condition == "image" else f"without: {condition}"
        axis.barh(y, values, height=0.92 * height, color=color, alpha=0.85, label=name)
    label = "of the right answers"
    for place, (_, _, truth) in enumerate(rows):
        if truth is not None:
            axis.plot([100 * truth] * 2, [place - 0.43, place + 0.43], color=INK, linewidth=2, label=label)
            label = "_"
    axis.set_yticks(range(len(rows)), [_literal(_short(name, 28)) for name, *_ in rows], fontsize=9)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_xlim(left=0)
    axis.set_xlabel(f"share among these labels, %, mean over {over}", fontsize=9)
    _plain(axis, "left")
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8.5)
    _save(figure, title, path)


def _plain(axis: Any, *more: str) -> None:
    """Without the frame's upper and right edge, and those in `more`; no ticks where an edge is gone."""
    axis.spines[["top", "right", *more]].set_visible(False)
    axis.tick_params(labelsize=8.5)
    if "left" in more:
        axis.tick_params(axis="y", length=0)


def _literal(text: str) -> str:
    """Text in which matplotlib sees no formula."""
    return text.replace("$", r"\$")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}" if fraction >= 0.0005 else "< 0.1"


def _short(text: str, width: int = 18) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _save(figure: Any, title: str, path: Path) -> None:
    with warnings.catch_warnings():  # letters that its font lacks are drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        for ending in (".png", ".svg"):
            save_figure(figure, _literal(title), path.with_name(path.name + ending))
