"""Pictures of trainings, by matplotlib: how one went, and what came of several.

Knows: records. Computes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from vdd.plots import FAINT, INK, RIGHT, WRONG, blank_figure, save_figure


def training_curves(title: str, records: Sequence[Mapping[str, float]], path: Path) -> None:
    """Save how a training went: loss, the chosen's and the rejected's rewards, accuracy, share of fresh pairs.

    Args:
        title: above the chart.
        records: of `vdd.preference.watch.read_curves`, one an update.
        path: of the picture; its ending chooses the format.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    panels: dict[str, dict[str, tuple[str, str]]] = {
        "loss": {"loss": ("loss", INK)},
        "reward, nats × β": {"reward_chosen": ("chosen", RIGHT), "reward_rejected": ("rejected", WRONG)},
        "share of pairs": {"accuracy": ("chosen above rejected", RIGHT), "fresh": ("sampled anew", FAINT)},
    }
    figure = blank_figure(3.6 * len(panels) + 0.8, 3.2)
    steps = [record["step"] for record in records]
    for axis, (name, lines) in zip(figure.subplots(1, len(panels)), panels.items(), strict=True):
        for key, (label, color) in lines.items():
            values = [record.get(key, float("nan")) for record in records]
            axis.plot(steps, values, color=color, linewidth=1.4, label=label)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("update", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
        if len(lines) > 1:
            axis.legend(fontsize=8, frameon=False)
    save_figure(figure, title, path)


def circle_chart(title: str, panels: Mapping[str, Mapping[str, tuple[float, float, float]]], path: Path) -> None:
    """Save a dot and a range for each model, from top to bottom; a panel with a scale of its own for each figure.

    Args:
        title: above the chart.
        panels: figure → model → (mean, lowest, highest), in %; the first model's value is drawn through as a line.
        path: of the picture; its ending chooses the format.

    Raises:
        ValueError: where matplotlib is not installed.
    """
    names = list(next(iter(panels.values())))
    figure = blank_figure(1.8 + 2.4 * len(panels), 1.3 + 0.3 * len(names))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (panel, rows) in zip(axes, panels.items(), strict=True):
        axis.axvline(rows[names[0]][0], color="#d0d5dd", linewidth=1, zorder=0)
        for place, name in enumerate(names):
            value, low, high = rows[name]
            color = RIGHT if "VDD" in name else FAINT
            axis.plot([low, high], [place, place], color=color, linewidth=2)
            axis.plot(value, place, "o", color=color, markersize=6)
        axis.set_title(panel, fontsize=10)
        axis.set_xlabel("%", fontsize=9)
        axis.margins(x=0.12)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    save_figure(figure, title, path)
