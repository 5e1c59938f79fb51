"""What a validation of influence says: tables, sentences and pictures of it.

    DIR/validation.json     all that was measured; everything here can be made again from it
    DIR/validation.md       the tables, and in words what they show, flattering or not

Knows: validations, files. Does not know: how anything was computed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vdd._check import UserError
from vdd.data import write_atomic
from vdd.influence.detection import ADVICE, CHANCE, INFLUENCE, Detector
from vdd.influence.validate import (
    EDITED,
    EXACT,
    GAUSS_NEWTON,
    IDENTITY,
    NEWTON,
    NOTHING,
    ORDERS,
    RETRAINED,
    SHARES,
    STEPPED,
    SUBSET,
    Agreement,
    Predicted,
    Removed,
)
from vdd.influence.validation import EMBEDDED, LINEAR, Detected, Validation
from vdd.plots import can_chart, ranges, removal_curves, scatters

GOALS = {LINEAR: (("pearson", "spearman"), 0.95), EMBEDDED: (("spearman",), 0.9)}
"""What the exact scores by the Hessian are to reach on each problem: which figures, and at least how much."""
POINTS = 0.5
"""Of accuracy: as near are edited parameters to be to those trained again."""
ALIKE = 0.01
"""Correlations that differ by less are called as good."""


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        title: above it.
        columns: their heads.
        rows: as many cells each.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def write(out: Path, found: Validation) -> None:
    """Write validation.json, validation.md and, where matplotlib is installed, the pictures."""
    write_atomic(out / "validation.json", json.dumps(found.to_json(), indent=1, ensure_ascii=False) + "\n")
    write_atomic(out / "validation.md", markdown(found))
    if can_chart():
        draw(out, found)


def read(path: Path) -> Validation:
    """A validation from validation.json.

    Raises:
        UserError: where it is none.
    """
    try:
        return Validation.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: no validation; wanted validation.json of `vdd influence validate`.") from error


def markdown(found: Validation) -> str:
    """All tables, and what they show in words."""
    parts = [f"### {table.title}\n\n{pipes(table)}" for table in tables(found)]
    said = "\n".join(f"- {line}" for line in findings(found))
    return "\n\n".join([*parts, f"### In words\n\n{said}", ""])


def pipes(table: Table) -> str:
    """A table in Markdown, figures to the right."""
    lines = [_pipe(table.columns), "| --- |" + " ---: |" * (len(table.columns) - 1), *map(_pipe, table.rows)]
    return "\n".join(lines)


def tables(found: Validation) -> list[Table]:
    """All of what was measured."""
    shown: list[Table] = []
    for problem in found.problems:
        alone, together = found.runs("leave-one-out", problem), found.runs("subsets", problem)
        title = f"{problem} problem, one pair left out: {_count(alone)}"
        shown.append(_agreement_table(title, found.agreements["leave-one-out", problem]))
        if together:
            title = f"{problem} problem, {SUBSET:.0%} of the pairs left out (LDS): {_count(together)}"
            shown.append(_agreement_table(title, found.agreements["subsets", problem]))
    removed = found.runs("removal", EMBEDDED)
    if removed:
        shown.append(_removal_table(removed))
    if found.percents:
        shown.append(_detection_table(found))
    return [*shown, _cost_table(found)]


def findings(found: Validation) -> list[str]:
    """What the tables show, whether it flatters influence or not."""
    said: list[str] = []
    for problem in found.problems:
        said += _agreement_words(problem, found.agreements["leave-one-out", problem])
    together = found.agreements.get(("subsets", EMBEDDED))
    if together:
        best = max(together, key=lambda name: together[name].spearman)
        told = f"random {SUBSET:.0%} left out: “{EXACT}” foretells with Spearman {together[EXACT].spearman:.3f}"
        said.append(told if best == EXACT else f"{told}; “{best}” with {together[best].spearman:.3f}")
    removed = found.runs("removal", EMBEDDED)
    if removed:
        said += _removal_words(removed)
    said += [_detection_words(found, percent) for percent in found.percents]
    if found.percents:
        said.append(f"{ADVICE}: it says what a pair does to the validation loss")
    return said


def draw(out: Path, found: Validation) -> None:
    """The pictures: leave-one-out.png, removal.png, detection.png."""
    shown = {
        problem: {
            name: [(run.estimates[name], run.true) for run in found.runs("leave-one-out", problem)]
            for name in (EXACT, GAUSS_NEWTON, NEWTON)
        }
        for problem in found.problems
    }
    told = "change of the query's loss when one pair is left out; a colour a seed"
    scatters(told, shown, ("foretold", "trained again"), out / "leave-one-out.png")
    removed = found.runs("removal", EMBEDDED)
    if removed:
        panels = {
            name: {
                order: {
                    way: [_mean(removed, NOTHING, 0.0, figure, way)]
                    + [_mean(removed, order, share, figure, way) for share in SHARES]
                    for way in (RETRAINED, EDITED, STEPPED)
                }
                for order in ORDERS
            }
            for name, figure in (("loss on dev pairs", "losses"), ("retrieval on test pairs, %", "accuracies"))
        }
        removal_curves("pairs removed from the embedded problem", (0.0, *SHARES), panels, out / "removal.png")
    if found.percents:
        areas = {}
        for percent in found.percents:
            runs = found.runs("detection", EMBEDDED, percent)
            areas[f"{percent} % exchanged"] = {
                name: _spread([_detector(run, name).auroc for run in runs]) for name in _names(runs) if name != CHANCE
            }
        ranges("finding exchanged captions", "AUROC", areas, out / "detection.png")


def _agreement_table(title: str, at: Mapping[str, Agreement]) -> Table:
    """The best estimator first."""
    rows = [
        [
            name,
            _ranged(one.pearson, one.pearson_interval),
            _ranged(one.spearman, one.spearman_interval),
            "" if one.slope != one.slope else f"{one.slope:.2f}",
        ]
        for name, one in sorted(at.items(), key=lambda item: -item[1].spearman)
    ]
    return Table(title, ("estimator", "Pearson, 95 %", "Spearman, 95 %", "slope"), rows)


def _agreement_words(problem: str, at: Mapping[str, Agreement]) -> list[str]:
    exact, flat = at[EXACT], at[IDENTITY]
    figures, least = GOALS[problem]
    reached = all(getattr(exact, name) >= least for name in figures)
    told = " and ".join(f"{name.capitalize()} {getattr(exact, name):.3f}" for name in figures)
    said = [
        f"{problem} problem: “{EXACT}” foretells leaving one out with {told}; wanted {least} at least: "
        + ("reached" if reached else "not reached")
    ]
    better = [name for name in (EXACT, GAUSS_NEWTON) if flat.spearman > at[name].spearman - ALIKE]
    if better:
        said.append(
            f"{problem} problem: the {IDENTITY}, which solves nothing, orders pairs no worse than "
            f"{' and '.join(f'“{name}”' for name in better)} (Spearman {flat.spearman:.3f}); it knows no sizes"
        )
    return said


def _removal_table(runs: Sequence[Sequence[Removed]]) -> Table:
    rows = []
    for order, share in [(NOTHING, 0.0), *((order, share) for order in ORDERS for share in SHARES)]:
        losses, hits = ([_mean(runs, order, share, figure, way) for way in (RETRAINED, EDITED, STEPPED)]
                        for figure in ("losses", "accuracies"))  # fmt: skip
        apart = [f"{hit - hits[0]:+.1f}" for hit in hits[1:]] if order != NOTHING else ["", ""]
        rows.append(
            [f"{order}, {share:.0%}", *(f"{one:.4f}" for one in losses), *(f"{one:.1f}" for one in hits), *apart]
        )
    columns = (
        "removed", "loss, trained again", "edited", "one step", "accuracy, %, trained again", "edited", "one step",
        "Δ edited, points", "Δ one step",
    )  # fmt: skip
    return Table(f"embedded problem, pairs removed: the mean over {_seeds(runs)}", columns, rows)


def _removal_words(runs: Sequence[Sequence[Removed]]) -> list[str]:
    said = []
    for way, told in ((EDITED, "edited by H⁻¹Δ"), (STEPPED, "edited by one Newton step")):
        apart = [
            (100 * (one.accuracies[way] - one.accuracies[RETRAINED]), one, seed)
            for seed, run in enumerate(runs)
            for one in run
        ]
        worst, one, seed = max(apart, key=lambda item: abs(item[0]))
        within = sum(abs(value) <= POINTS + 1e-9 for value, one, _ in apart if one.order != NOTHING)
        said.append(
            f"parameters {told} are within {POINTS} point of accuracy of training again in {within} of "
            f"{len(apart) - len(runs)} removals; at most {abs(worst):.1f} points off "
            f"({one.order}, {one.share:.0%}, seed {seed})"
        )
    share = SHARES[2]
    whole, again, *others = (
        _mean(runs, *at)
        for at in (
            (NOTHING, 0.0, "losses", RETRAINED),
            *(("harmful", share, "losses", way) for way in (RETRAINED, EDITED, STEPPED)),
        )
    )
    told = f"trained again without the {share:.0%} most harmful pairs, the loss goes from {whole:.3f} to {again:.3f}"
    if again < whole:
        edited, stepped = ((whole - loss) / (whole - again) for loss in others)
        said.append(f"{told}; edits by H⁻¹Δ go {edited:.0%} of that way, those by one Newton step {stepped:.0%}")
    else:
        said.append(f"{told}: it does not fall")
    hits = {order: _mean(runs, order, share, "accuracies", RETRAINED) for order in ORDERS}
    before = _mean(runs, NOTHING, 0.0, "accuracies", RETRAINED)
    said.append(
        f"trained again without {share:.0%} of the pairs, accuracy goes from {before:.1f} % to "
        + ", ".join(f"{hits[order]:.1f} % ({order})" for order in ORDERS)
        + ("" if hits["harmful"] > hits["random"] else "; removing the most harmful pairs is no better than chance")
    )
    return said


def _detection_table(found: Validation) -> Table:
    rows = []
    for percent in found.percents:
        runs = found.runs("detection", EMBEDDED, percent)
        for name in _names(runs):
            mine = [_detector(run, name) for run in runs]
            figures = (
                [one.auroc for one in mine],
                [one.precision[10] for one in mine],
                [one.precision[run.mismatched] for one, run in zip(mine, runs, strict=True)],
            )
            rows.append([f"{percent} %: {name}", *(_ranged(*_mean_and_range(values)) for values in figures)])
    seeds = _seeds(found.runs("detection", EMBEDDED, found.percents[0]))
    title = f"finding exchanged captions: means over {seeds} [least, most]; k is how many there are"
    return Table(title, ("exchanged, score", "AUROC", "P@10", "P@k"), rows)


def _detection_words(found: Validation, percent: int) -> str:
    runs = found.runs("detection", EMBEDDED, percent)
    areas = {name: _mean_and_range([_detector(run, name).auroc for run in runs])[0] for name in _names(runs)}
    top = max(area for name, area in areas.items() if name != CHANCE)
    best = [name for name, area in areas.items() if area == top]
    told = f"{percent} % exchanged: best found by {' and by '.join(best)}, AUROC {top:.3f}"
    return told if INFLUENCE in best else f"{told}; influence reaches {areas[INFLUENCE]:.3f}"


def _cost_table(found: Validation) -> Table:
    rows = []
    for problem in found.problems:
        costs, runs = found.runs("cost", problem), found.runs("leave-one-out", problem)
        pairs = costs[0].pairs
        again = float(np.mean([run.seconds for run in runs])) * pairs
        seconds = float(np.mean([one.seconds for one in costs]))
        rows.append(
            [
                problem,
                str(pairs),
                f"{again:.1f}",
                f"{seconds:.2f}",
                *(
                    f"{float(np.mean([getattr(one, name) for one in costs])):.3g}"
                    for name in ("prepared", "prepared_seconds", "solved", "solved_seconds", "swept_seconds")
                ),
                f"{again / seconds:.0f}",
            ]
        )
    columns = (
        "problem", "pairs", "trained again for each, s", "scored, s", "preconditioner: products", "s",
        "solve: products", "s", "sweeps, s", "ratio",
    )  # fmt: skip
    return Table("every pair's worth: training again without each, or one scoring, whose parts follow", columns, rows)


def _mean(runs: Sequence[Sequence[Removed]], order: str, share: float, figure: str, way: str) -> float:
    """A figure's mean over seeds; accuracies in %."""
    scale = 100 if figure == "accuracies" else 1
    chosen = [one for run in runs for one in run if (one.order, one.share) == (order, share)]
    return scale * float(np.mean([getattr(one, figure)[way] for one in chosen]))


def _names(runs: Sequence[Detected]) -> list[str]:
    return [one.name for one in runs[0].detectors]


def _detector(run: Detected, name: str) -> Detector:
    return next(one for one in run.detectors if one.name == name)


def _mean_and_range(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    return float(np.mean(values)), (min(values), max(values))


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    mean, (low, high) = _mean_and_range(values)
    return mean, low, high


def _ranged(value: float, about: tuple[float, float]) -> str:
    return f"{value:.3f} [{about[0]:.3f}, {about[1]:.3f}]"


def _count(runs: Sequence[Predicted]) -> str:
    return f"{len(runs[0].true)} times, {_seeds(runs)}"


def _seeds(runs: Sequence[object]) -> str:
    return f"{len(runs)} seed{'s' * (len(runs) != 1)}"


def _pipe(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
