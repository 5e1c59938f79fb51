"""Pictures from records: examples before and after, contact sheets, by Pillow; accuracies and grids, by matplotlib.

Knows: records, images. Computes nothing. The only place that imports matplotlib (extra `plot`).
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from vdd._check import UserError
from vdd.records import Score

INK, FAINT, WRONG, RIGHT = "#1a1a1a", "#6b7280", "#b42318", "#067647"
_SHADES = (RIGHT, WRONG, "#175cd3", FAINT)


@dataclass(frozen=True)
class Example:
    """One picture and what was said about it.

    Attributes:
        image: as the model saw it.
        question: what was asked.
        truth: the right answer, shown beneath.
        before: the plain answer.
        after: the debiased answer.
        wrong_before: words of `before` to set off as wrong, in lower case.
        wrong_after: those of `after`.
    """

    image: Image.Image
    question: str
    truth: str
    before: str
    after: str
    wrong_before: frozenset[str] = frozenset()
    wrong_after: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Captioned:
    """One picture of a contact sheet.

    Attributes:
        image: of any size; it is shown whole.
        head: a short line above the caption, such as a score.
        caption: what was said of it.
        color: of the head.
    """

    image: Image.Image
    head: str
    caption: str
    color: str = INK


def can_chart() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def example_sheet(title: str, examples: Sequence[Example], path: Path) -> None:
    """Save the examples side by side as a PNG: picture, question, answer before, answer after, truth."""
    side, margin, line = 300, 28, 22
    head, body = ImageFont.load_default(22), ImageFont.load_default(16)
    columns = [_lines(example, width=34) for example in examples]
    width = margin + max(len(examples), 1) * (side + margin)
    heading = textwrap.wrap(title, width // 15)
    top = margin + 30 * len(heading) + 12
    sheet = Image.new("RGB", (width, top + side + line * max(map(len, columns), default=0) + 2 * margin), "white")
    draw = ImageDraw.Draw(sheet)
    for row, text in enumerate(heading):
        draw.text((margin, margin + 30 * row), text, fill=INK, font=head)
    for number, (example, lines) in enumerate(zip(examples, columns, strict=True)):
        left = margin + number * (side + margin)
        picture = example.image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(picture, (left, top))
        draw.rectangle((left, top, left + side, top + side), outline="#d0d5dd")
        for row, words in enumerate(lines):
            x: float = left
            for word, color in words:
                draw.text((x, top + side + 14 + row * line), word, fill=color, font=body)
                x += draw.textlength(word + " ", font=body)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def contact_sheet(title: str, cells: Sequence[Captioned], path: Path, *, columns: int = 4) -> None:
    """Save pictures in rows as a PNG, each with its head and its caption beneath; with none, the title alone.

    Args:
        title: above the pictures.
        cells: from left to right, row by row.
        path: of the PNG.
        columns: pictures a row at most.
    """
    side, margin, line, longest = 220, 24, 20, 6
    head, body = ImageFont.load_default(20), ImageFont.load_default(14)
    columns = max(min(columns, len(cells)), 2)
    width = margin + columns * (side + margin)
    heading = textwrap.wrap(title, width // 13)
    texts = [textwrap.wrap(cell.caption, 30, max_lines=longest, placeholder=" …") for cell in cells]
    top = margin + 28 * len(heading) + 8
    tall = [line * (1 + max(map(len, texts[start : start + columns]))) for start in range(0, len(cells), columns)]
    sheet = Image.new("RGB", (width, top + sum(side + 12 + rows + margin for rows in tall) + margin // 2), "white")
    draw = ImageDraw.Draw(sheet)
    for row, text in enumerate(heading):
        draw.text((margin, margin + 28 * row), text, fill=INK, font=head)
    for number, (cell, lines) in enumerate(zip(cells, texts, strict=True)):
        row, column = divmod(number, columns)
        left, upper = margin + column * (side + margin), top + sum(side + 12 + rows + margin for rows in tall[:row])
        picture = cell.image.convert("RGB")
        picture = picture.resize([max(round(length * side / max(picture.size)), 1) for length in picture.size])
        sheet.paste(picture, (left + (side - picture.width) // 2, upper + (side - picture.height) // 2))
        draw.rectangle((left, upper, left + side, upper + side), outline="#d0d5dd")
        draw.text((left, upper + side + 8), cell.head, fill=cell.color, font=body)
        for place, text in enumerate(lines, 1):
            draw.text((left, upper + side + 8 + line * place), text, fill=INK, font=body)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)


def accuracy_chart(title: str, panels: Mapping[str, Sequence[tuple[str, Score]]], path: Path) -> None:
    """Save a dot and its 95 % interval for each leg, a panel for each question set.

    Args:
        title: above the chart.
        panels: question set → (leg, score) from top to bottom; the first leg's accuracy is drawn through as a line.
        path: of the picture; its ending chooses the format.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    legs = [name for name, _ in next(iter(panels.values()))]
    figure = blank_figure(2.2 + 3.2 * len(panels), 1.4 + 0.3 * len(legs))
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (panel, rows) in zip(axes, panels.items(), strict=True):
        axis.axvline(100 * rows[0][1].values["accuracy"], color="#d0d5dd", linewidth=1, zorder=0)
        for place, (name, score) in enumerate(rows):
            low, high = (100 * edge for edge in score.intervals["accuracy"])
            color = RIGHT if "vdd" in name or "posthoc" in name else FAINT
            axis.plot([low, high], [place, place], color=color, linewidth=2)
            axis.plot(100 * score.values["accuracy"], place, "o", color=color, markersize=6)
        axis.set_title(panel, fontsize=10)
        axis.set_xlabel("accuracy, %")
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(legs)), legs)
    axes[0].invert_yaxis()
    save_figure(figure, title, path)


def heat_maps(
    title: str,
    panels: Mapping[str, Sequence[Sequence[float]]],
    rows: tuple[str, Sequence[float]],
    columns: tuple[str, Sequence[float]],
    path: Path,
) -> None:
    """Save a grid of percentages for each panel, all on one scale of colour, the highest of each framed.

    Args:
        title: above the chart.
        panels: name → fractions by row and column.
        rows: what the rows are, and their values.
        columns: what the columns are, and their values.
        path: of the picture; its ending chooses the format.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    figure = blank_figure(0.9 * len(columns[1]) * len(panels) + 1.6, 0.5 * len(rows[1]) + 1.6)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    values = [100 * value for grid in panels.values() for row in grid for value in row]
    for axis, (panel, grid) in zip(axes, panels.items(), strict=True):
        percent = [[100 * value for value in row] for row in grid]
        axis.imshow(percent, vmin=min(values), vmax=max(values), cmap="Greens", aspect="auto")
        best = max(max(row) for row in percent)
        for y, row in enumerate(percent):
            for x, value in enumerate(row):
                dark = value - min(values) > 0.6 * (max(values) - min(values))
                weight = "bold" if value == best else "normal"
                color = "white" if dark else INK
                axis.text(x, y, f"{value:.1f}", ha="center", va="center", fontsize=8, color=color, fontweight=weight)
        axis.set_title(panel, fontsize=10)
        axis.set_xticks(range(len(columns[1])), [f"{value:g}" for value in columns[1]], fontsize=8)
        axis.set_xlabel(columns[0], fontsize=9)
        axis.spines[:].set_visible(False)
        axis.tick_params(length=0)
    axes[0].set_yticks(range(len(rows[1])), [f"{value:g}" for value in rows[1]], fontsize=8)
    axes[0].set_ylabel(rows[0], fontsize=9)
    save_figure(figure, title, path)


def curves(title: str, panels: Mapping[str, tuple[Sequence[str], Mapping[str, Sequence[float]]]], path: Path) -> None:
    """Save a line of percentages for each method, a panel for each setting that is moved.

    Args:
        title: above the chart.
        panels: setting → its values as they stand below the axis, and method → fractions.
        path: of the picture; its ending chooses the format.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    figure = blank_figure(3.6 * len(panels) + 0.8, 3.2)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (setting, (ticks, lines)) in zip(axes, panels.items(), strict=True):
        for (method, values), color in zip(lines.items(), (FAINT, RIGHT, WRONG, INK), strict=False):
            axis.plot([100 * value for value in values], color=color, marker=".", linewidth=1.4, label=method)
        shown = range(0, len(ticks), max(len(ticks) // 7, 1))
        axis.set_xticks(shown, [ticks[place] for place in shown], fontsize=8)
        axis.set_xlabel(setting, fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy, %", fontsize=9)
    axes[0].legend(fontsize=8, frameon=False)
    save_figure(figure, title, path)


def scatters(
    title: str,
    rows: Mapping[str, Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]]],
    axes: tuple[str, str],
    path: Path,
) -> None:
    """Save dots of one figure against another, and the line where both are equal; a row of panels for each problem.

    Args:
        title: above the chart.
        rows: problem → panel → for each draw, shaded alike, (across, up).
        axes: what is across, and what is up.
        path: of the picture; its ending chooses the format.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    columns = max(map(len, rows.values()))
    figure = blank_figure(2.5 * columns + 0.6, 2.5 * len(rows) + 0.6)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (problem, panels) in zip(grid, rows.items(), strict=True):
        for axis, (panel, draws) in zip(line, panels.items(), strict=False):
            for (across, up), color in zip(draws, _SHADES * len(draws), strict=False):
                axis.plot(across, up, "o", color=color, markersize=3, alpha=0.7, markeredgewidth=0)
            axis.axline((0, 0), slope=1, color="#d0d5dd", linewidth=1, zorder=0)
            axis.set_title(panel, fontsize=9)
            axis.set_xlabel(axes[0], fontsize=8)
            axis.tick_params(labelsize=7)
            axis.ticklabel_format(scilimits=(-2, 3))
            axis.locator_params(nbins=5)
            axis.xaxis.get_offset_text().set_size(7)
            axis.yaxis.get_offset_text().set_size(7)
            axis.spines[["top", "right"]].set_visible(False)
        line[0].set_ylabel(f"{problem}\n{axes[1]}", fontsize=8)
        for axis in line[len(panels) :]:
            axis.set_visible(False)
    save_figure(figure, title, path)


def removal_curves(
    title: str, shares: Sequence[float], panels: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]], path: Path
) -> None:
    """Save what is left after removing more and more: a panel for each figure, a colour for each order, a stroke for
    each way.

    Args:
        title: above the chart.
        shares: removed, as fractions.
        panels: figure → order → way → its values by share.
        path: of the picture; its ending chooses the format.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    figure = blank_figure(4.2 * len(panels) + 0.8, 3.4)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (name, orders) in zip(axes, panels.items(), strict=True):
        for (order, ways), color in zip(orders.items(), (WRONG, RIGHT, FAINT), strict=True):
            for (way, values), stroke in zip(ways.items(), ("-", "--", ":"), strict=False):
                axis.plot([100 * share for share in shares], values, stroke, color=color, label=f"{order}, {way}")
        axis.set_xlabel("pairs removed, %", fontsize=9)
        axis.set_ylabel(name, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=7, frameon=False, loc="outside lower center", ncols=3)
    save_figure(figure, title, path)


def ranges(title: str, unit: str, panels: Mapping[str, Mapping[str, tuple[float, float, float]]], path: Path) -> None:
    """Save a dot and a range for each name, from top to bottom, a panel for each setting.

    Args:
        title: above the chart.
        unit: what is across.
        panels: setting → name → (value, low, high); the first panel's names are all panels'.
        path: of the picture; its ending chooses the format.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    names = list(next(iter(panels.values())))
    figure = blank_figure(1.8 + 2.4 * len(panels), 1.3 + 0.3 * len(names))
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (panel, rows) in zip(axes, panels.items(), strict=True):
        for place, name in enumerate(names):
            value, low, high = rows[name]
            color = RIGHT if place == 0 else FAINT
            axis.plot([low, high], [place, place], color=color, linewidth=2)
            axis.plot(value, place, "o", color=color, markersize=6)
        axis.set_title(panel, fontsize=10)
        axis.set_xlabel(unit, fontsize=9)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    save_figure(figure, title, path)


def blank_figure(width: float, height: float) -> Any:
    """A figure of so many inches; UserError where matplotlib is not installed."""
    if not can_chart():
        raise UserError("plots: charts need matplotlib: pip install 'visual-debias-decoding[plot]'.")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, title: str, path: Path) -> None:
    """Save a figure under a title; equal figures give equal files."""
    from matplotlib import rc_context

    figure.suptitle(title, fontsize=11)
    _settle(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with rc_context({"svg.hashsalt": "vdd"}):
        figure.savefig(path, dpi=150, metadata=metadata)


def _settle(figure: Any) -> None:
    """Lay a figure out once, at rounded places: the solver's last digits differ from process to process."""
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.execute(figure)
        figure.set_layout_engine("none")
        for axis in figure.axes:
            axis.set_position([round(edge, 4) for edge in axis.get_position().bounds])


def _lines(example: Example, *, width: int) -> list[list[tuple[str, str]]]:
    """Wrapped lines of (word, colour)."""
    rows: list[list[tuple[str, str]]] = [[(word, INK)] for word in textwrap.wrap(example.question, width)]
    parts = (
        ("plain", example.before, example.wrong_before),
        ("debiased", example.after, example.wrong_after),
        ("truth", example.truth, frozenset[str]()),
    )
    for name, text, marked in parts:
        rows.append([])
        rows.append([(name, FAINT)])
        for wrapped in textwrap.wrap(text, width) or ["(nothing)"]:
            rows.append([(word, WRONG if word.strip(".,").lower() in marked else INK) for word in wrapped.split()])
    return rows
