"""What a search and an advice say, as tables, files and pictures.

Knows: searches, advice, files. Does not know: models, how anything was computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd.advise import BIAS, NOTHING, POST_HOC, Advice
from vdd.config import Leg, to_json
from vdd.data import write_atomic
from vdd.plots import can_chart, curves, heat_maps
from vdd.records import Question
from vdd.search import ONE_TOKEN, Choice, on_dev, rightness

Table = tuple[str, tuple[str, ...], list[list[str]]]
"""Title, columns, rows."""


def write_search(
    out: Path,
    questions: Sequence[Question],
    legs: Sequence[Leg],
    found: NDArray[np.float64],
    choices: Sequence[Choice],
    *,
    share: float,
    undecided: float,
) -> Table:
    """Write search.json, table.md and pictures; the best on the first draw's dev images, as a table.

    Args:
        out: an existing folder.
        questions, legs, found: as for `vdd.search.choose`.
        choices: by seed from 0, at least one.
        share: of the images in dev.
        undecided: mean probability of first tokens that stand for no label.
    """
    right = rightness(questions, found)
    dev = on_dev(questions, share, seed=0)
    said = found[:, ~dev].sum(axis=1)
    yes = said[:, 0] / np.maximum(said.sum(axis=-1), 1e-300)
    order = np.argsort(-right[:, dev].mean(axis=1), kind="stable")
    rows: list[dict[str, Any]] = [
        {
            "name": leg.name,
            "dev_accuracy": float(right[number, dev].mean()),
            "test_accuracy": float(right[number, ~dev].mean()),
            "yes_ratio": float(yes[number]),
            "leg": to_json(leg),
        }
        for number, leg in enumerate(legs)
    ]
    body = {
        "questions": len(questions),
        "dev_share": share,
        "undecided": undecided,
        "choices": [_plain(choice, seed) for seed, choice in enumerate(choices)],
        "configurations": rows,
    }
    write_atomic(out / "search.json", json.dumps(body, indent=1) + "\n")
    shown = ("dev_accuracy", "test_accuracy", "yes_ratio")
    cells = [[legs[n].name, *(f"{100 * rows[n][key]:.1f}" for key in shown)] for n in order]
    best: Table = ("the best on dev, and what they are on test", ("configuration", "dev", "test", "yes"), cells)
    stable = choice_table(choices)
    write_atomic(out / "table.md", "\n".join([_markdown(stable), _markdown((best[0], best[1], cells[:50]))]))
    if can_chart():
        _pictures(out, legs, right[:, dev].mean(axis=1), choices[0].leg)
    return best


def choice_table(choices: Sequence[Choice]) -> Table:
    """What was chosen on each draw of the dev images, and what it is worth."""
    rows = [
        [
            str(seed),
            choice.leg.name,
            f"{100 * choice.dev:.1f}",
            f"{100 * choice.test['accuracy']:.1f}",
            f"{100 * choice.plain['accuracy']:.1f}",
            _points(choice.gain),
            f"{100 * choice.best_on_test:.1f}",
        ]
        for seed, choice in enumerate(choices)
    ]
    columns = ("seed", "chosen on dev", "dev", "test", "greedy", "Δ, 95 %", "best if chosen on test")
    return "how stable the choice is", columns, rows


def advice_table(advice: Advice, costs: Mapping[str, tuple[float, float]]) -> Table:
    """Every kind with its gain and cost.

    Args:
        advice: what was found.
        costs: leg → (forwards, seconds) per question, from `vdd.run_folder.leg_costs`.
    """
    rows = []
    for option in advice.options:
        forwards, seconds = costs[_costs_as(option.kind, option.leg)]
        rows.append(
            [
                option.kind + (" ←" if option.kind == advice.kind else ""),
                _settings(option.leg),
                f"{100 * option.accuracy:.1f}",
                "" if option.kind == NOTHING else _points(option.gain),
                f"{forwards:.2f}",
                f"{1000 * seconds:.1f}",
            ]
        )
    return "does debiasing help here?", ("kind", "settings", "acc", "Δ greedy, 95 %", "fwd", "ms"), rows


def write_advice(path: Path, advice: Advice, costs: Mapping[str, tuple[float, float]], undecided: float) -> None:
    """The advice in words and its table, in Markdown."""
    notes = [
        advice.in_words(),
        _markdown(advice_table(advice, costs)),
        f"First tokens that decide nothing by themselves: {100 * undecided:.2f} % on average.",
        "",
    ]
    write_atomic(path, "\n\n".join(notes))


def _costs_as(kind: str, leg: Leg) -> str:
    """The leg of the advice's run that costs what a kind costs."""
    if kind in (NOTHING, BIAS):
        return "greedy"
    if kind == POST_HOC:
        return leg.name
    return f"vdd-{leg.debias.reference}" if leg.debias else "greedy"


def _settings(leg: Leg) -> str:
    if leg.bias is not None:
        return f"bias {leg.bias:+.2f}"
    if leg.post_hoc:
        return leg.post_hoc
    return f"{leg.debias.reference}, α {leg.debias.alpha:g}, β {leg.debias.beta:g}" if leg.debias else ""


def _points(gain: tuple[float, float, float]) -> str:
    return "{:+.1f} [{:+.1f},{:+.1f}]".format(*(100 * value for value in gain))


def _plain(choice: Choice, seed: int) -> dict[str, Any]:
    return {
        "seed": seed,
        "chosen": choice.leg.name,
        "leg": to_json(choice.leg),
        "dev_accuracy": choice.dev,
        "test": choice.test,
        "greedy": choice.plain,
        "gain": list(choice.gain),
        "best_if_chosen_on_test": choice.best_on_test,
    }


def _markdown(table: Table) -> str:
    title, columns, rows = table
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return "\n".join([f"### {title}", "", *lines, *("| " + " | ".join(row) + " |" for row in rows), ""])


def _pictures(out: Path, legs: Sequence[Leg], dev: NDArray[np.float64], chosen: Leg) -> None:
    """Accuracy on dev by strength and cut-off, and along each setting of sampling."""
    at = dict(zip(legs, dev.tolist(), strict=True))
    greedy = {leg.debias: at[leg] for leg in legs if leg.sampling.temperature == 0 and leg.debias is not None}
    alphas = sorted({debias.alpha for debias in greedy})
    betas = sorted({debias.beta for debias in greedy})
    grids: dict[str, list[list[float]]] = {}
    for reference in dict.fromkeys(debias.reference for debias in greedy):
        found = {(one.alpha, one.beta): value for one, value in greedy.items() if one.reference == reference}
        grids[reference] = [[found[alpha, beta] for beta in betas] for alpha in alphas]
    if grids:
        heat_maps("greedy accuracy on dev, %", grids, ("α", alphas), ("β", betas), out / "alpha-beta.png")
    methods = {"plain": None, "VDD": chosen.debias or next(iter(greedy), None)}
    panels: dict[str, tuple[list[str], dict[str, list[float]]]] = {}
    for setting in ("temperature", "top_p", "top_k"):
        ticks: list[str] = []
        lines: dict[str, list[float]] = {}
        for method, debias in methods.items():
            moved = {_value(leg, setting): at[leg] for leg in legs if leg.debias == debias and _moves(leg, setting)}
            if moved:
                ticks = [f"{value:g}" for value in sorted(moved)]
                lines[method] = [moved[value] for value in sorted(moved)]
        if lines:
            panels[setting.replace("_", "-")] = (ticks, lines)
    if panels:
        curves("accuracy on dev along each setting, the others at T = 1", panels, out / "sampling.png")


def _moves(leg: Leg, setting: str) -> bool:
    """Whether a leg is the default but for one setting."""
    sampling = leg.sampling
    if sampling.temperature == 0:
        return False
    if setting == "temperature":
        return sampling.top_p == 1 and not sampling.top_k
    if setting == "top_p":
        return sampling.temperature == 1 and not sampling.top_k
    return bool(sampling.top_k)


def _value(leg: Leg, setting: str) -> float:
    value = float(getattr(leg.sampling, setting))
    return 0.0 if value == ONE_TOKEN else value
