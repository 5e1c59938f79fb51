"""What a run of BDHS came to, and what its rates of similar answers say of ρ.

    differing after i tries = Σ_{j ≤ i} (tries_j − too similar_j) / tries_1

Source: arXiv:2407.02477, §3.4: at the best ρ, 74 % of the rows and more differ after one try, 90 % and more after four.
Knows: figures, one file. Does not know: pairs, models.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from vdd._check import UserError
from vdd.data import write_atomic

SUMMARY = "summary.json"
DIFFER_AFTER_ONE, DIFFER_AFTER_FOUR = 0.74, 0.90
"""Shares of rows that have another answer after one and after four tries, in the paper at its best ρ."""
ENOUGH = 20
"""Rows from which on a rate says something."""


@dataclass(frozen=True)
class Summary:
    """A whole run in figures.

    Attributes:
        rows: that were sampled from.
        pairs: that became of them.
        refused: rows that became none.
        unread: entries of the source that became no row.
        rho, epsilon, measure: of the run; no ρ where no image token was hidden.
        similar: iteration → (tries, how many were too similar).
        taken: iteration → pairs that it gave.
        parquet: whether pairs.parquet was written; not without `datasets`.
    """

    rows: int
    pairs: int
    refused: int
    unread: int
    rho: float | None
    epsilon: float
    measure: str
    similar: Mapping[int, tuple[int, int]]
    taken: Mapping[int, int]
    parquet: bool

    def differing(self, tries: int) -> float:
        """Share of rows that had an answer of their own after so many tries; 0 where nothing was tried."""
        first = self.similar.get(1, (0, 0))[0]
        counted = [counts for iteration, counts in self.similar.items() if iteration <= tries]
        return sum(total - alike for total, alike in counted) / first if first else 0.0


def write_summary(out: Path, summary: Summary) -> None:
    """Write it into the folder: from then on the run is whole."""
    write_atomic(out / SUMMARY, json.dumps(asdict(summary), indent=1, ensure_ascii=False) + "\n")


def read_summary(out: Path) -> Summary:
    """The figures of a whole run.

    Raises:
        UserError: where the folder holds none.
    """
    try:
        found = json.loads((out / SUMMARY).read_text(encoding="utf-8"))
        similar = {int(one): (tries, alike) for one, (tries, alike) in found.pop("similar").items()}
        taken = {int(one): count for one, count in found.pop("taken").items()}
        return Summary(**found, similar=similar, taken=taken)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{out}: holds no finished run of `vdd prefer`; wanted one with {SUMMARY}.") from error


def advice(summary: Summary) -> str:
    """What the rates of similar answers say of ρ, in a sentence or two."""
    if summary.rho is None:
        return "No image token was hidden: there is no ρ to choose."
    first = summary.similar.get(1, (0, 0))[0]
    if first < ENOUGH:
        return f"{first} rows are too few to say whether ρ = {summary.rho:g} is right."
    one, four = summary.differing(1), summary.differing(4)
    said = f"{one:.0%} of the rows have another answer after one try"
    if max(summary.similar) > 1:
        said += f", {four:.0%} after {min(4, max(summary.similar))}"
    wanted = f"the paper's ρ gave {DIFFER_AFTER_ONE:.0%} and {DIFFER_AFTER_FOUR:.0%}"
    if one < DIFFER_AFTER_ONE or (max(summary.similar) >= 4 and four < DIFFER_AFTER_FOUR):
        if summary.rho < 1:
            return f"{said}; {wanted}: too few, so a ρ above {summary.rho:g}, or an ε above {summary.epsilon:g}, helps."
        return (
            f"{said}; {wanted}: too few, and ρ cannot rise. These answers may follow from the questions alone; an ε "
            f"above {summary.epsilon:g} lets more pass."
        )
    if one == 1.0 and summary.rho > 0:
        return f"{said}: ρ need not rise; below {summary.rho:g}, rejected answers come closer to the good ones."
    return f"{said}; {wanted}: ρ = {summary.rho:g} may stay."
