"""What the circle found, from its records alone: a table of figures, gains with intervals, how the pairs came about.

Knows: the files of `vdd.preference.circle`. Does not know: models, training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdd._check import UserError
from vdd.data import write_atomic
from vdd.preference.circle import BASE, FOLDER, LEGS, PLAIN, WITH_VDD
from vdd.preference.exam import FIGURES, Answers, figures, gain

WAYS: Mapping[str, str] = {PLAIN: "", WITH_VDD: " + VDD"}
COLUMNS = ("model", *(title for _, title in FIGURES.values()), "words")
GAINED = ("adversarial_accuracy", "counter_color", "chair_s", "recall")
"""Figures whose gain over the base model is told with its interval."""


@dataclass(frozen=True)
class Circled:
    """One seed's records.

    Attributes:
        seed: of scenes, pairs and training.
        pairs: how they came about.
        legs: name → its record.
        values: name of a row of the table → its figures, in %.
    """

    seed: int
    pairs: Mapping[str, Any]
    legs: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, Mapping[str, float]]

    def answers(self, row: str) -> Answers:
        """What one row of the table said."""
        leg = row.removesuffix(WAYS[WITH_VDD])
        answers: Answers = self.legs[leg]["answers"][PLAIN if row == leg else WITH_VDD]
        return answers


def read_circle(out: Path) -> list[Circled]:
    """The finished seeds below a folder, by number.

    Raises:
        UserError: where there is none.
    """
    found = []
    for folder in sorted((out / FOLDER).glob("seed-*"), key=lambda one: int(one.name.rpartition("-")[2])):
        files = {leg: folder / f"{leg}.json" for leg in (BASE, *LEGS)}
        if not all(path.is_file() for path in files.values()):
            continue
        legs = {leg: json.loads(path.read_text(encoding="utf-8")) for leg, path in files.items()}
        values = {
            leg + mark: figures(record["answers"][way]) for leg, record in legs.items() for way, mark in WAYS.items()
        }
        pairs = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
        found.append(Circled(int(folder.name.rpartition("-")[2]), pairs, legs, values))
    if not found:
        raise UserError(f"{out}: holds no seed whose legs are all done; wanted what `vdd demo --train` leaves.")
    return found


def table(seeds: Sequence[Circled]) -> list[list[str]]:
    """Rows below COLUMNS; of several seeds the mean and, in brackets, the lowest and the highest."""
    return [
        [row, *(_spread([one.values[row][name] for one in seeds]) for name in (*FIGURES, "words"))]
        for row in seeds[0].values
    ]


def gains(seeds: Sequence[Circled]) -> list[list[str]]:
    """Each row's gain over the plain base model in points, with its 95 % interval over images; of the first seed."""
    first = seeds[0]
    base = first.answers(BASE)
    rows = []
    for row in list(first.values)[1:]:
        told = [gain(base, first.answers(row), name) for name in GAINED]
        rows.append([row, *(f"{one.value:+.1f} [{one.low:+.1f}, {one.high:+.1f}]" for one in told)])
    return rows


def chart_rows(seeds: Sequence[Circled]) -> dict[str, dict[str, tuple[float, float, float]]]:
    """Figure's title → row → (mean, lowest, highest) over the seeds, in %; what `vdd.plots.circle_chart` draws."""
    found: dict[str, dict[str, tuple[float, float, float]]] = {}
    for name in GAINED:
        drawn = found[FIGURES[name][1]] = {}
        for row in seeds[0].values:
            values = [one.values[row][name] for one in seeds]
            drawn[row] = (sum(values) / len(values), min(values), max(values))
    return found


def markdown(seeds: Sequence[Circled]) -> str:
    """The whole report."""
    first = seeds[0]
    asked = {name: len(rows) for name, rows in first.answers(BASE).items()}
    numbers = ", ".join(f"{count} {name}" for name, count in asked.items())
    several = f"seeds {', '.join(str(one.seed) for one in seeds)}: mean (lowest–highest)" if len(seeds) > 1 else ""
    titles = [FIGURES[name][1] for name in GAINED]
    parts = [
        "## The circle on the embedded model\n",
        f"Test scenes, greedy, in %; {numbers} asked; words: the captions' mean length. {several}".rstrip() + "\n",
        _grid(COLUMNS, table(seeds)),
        f"\nGain over the base model in points, 95 % interval over images, seed {first.seed}:\n",
        _grid(["model", *titles], gains(seeds)),
        "\nPairs:\n",
        _grid(PAIR_COLUMNS, [_pair_row(one) for one in seeds]),
        f"\nSimilarity by {first.pairs['measure']}, ε = {first.pairs['epsilon']:g}. Too similar, by iteration, seed "
        f"{first.seed}: {_similar(first.pairs['similar'])}.\n",
        "\nTraining:\n",
        _grid(TUNING_COLUMNS, [_tuning(seeds, leg) for leg in LEGS]),
        "",
    ]
    return "\n".join(parts)


TUNING_COLUMNS = ("leg", "method", "β", "supervised term", "learning rate", "seconds")
PAIR_COLUMNS = ("seed", "rows", "pairs", "changed, %", "changed by random words, %", "seconds")


def write_report(out: Path, seeds: Sequence[Circled]) -> Path:
    """Write `circle.md` into `out`; returns its path."""
    path = out / "circle.md"
    write_atomic(path, markdown(seeds))
    return path


def _pair_row(one: Circled) -> list[str]:
    pairs = one.pairs
    shares = [f"{100 * pairs[name]:.1f}" for name in ("changed_share", "control_changed_share")]
    return [str(one.seed), str(pairs["rows"]), str(pairs["pairs"]), *shares, f"{pairs['seconds']:.0f}"]


def _tuning(seeds: Sequence[Circled], leg: str) -> list[str]:
    tuning = seeds[0].legs[leg]["tuning"]
    dpo = ("", "") if tuning["method"] == "sft" else (f"{tuning['beta']:g}", f"{tuning['sft_weight']:g}")
    seconds = _spread([one.legs[leg]["training_seconds"] for one in seeds], digits=0)
    return [leg, tuning["method"], *dpo, f"{tuning['learning_rate']:g}", seconds]


def _similar(counts: Mapping[str, Sequence[int]]) -> str:
    return ", ".join(f"{alike} of {tries}" for tries, alike in counts.values())


def _spread(values: Sequence[float], digits: int = 1) -> str:
    mean = f"{sum(values) / len(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def _grid(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---", *["---:"] * (len(columns) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
