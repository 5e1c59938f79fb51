"""Post-hoc debiasing in plain Python floats, from the printed formula; nothing of the project is imported.

    diagonal: s_i = (p_i / (p'_i + ε)) / Σ_j p_j / (p'_j + ε)        identity: s_i = p_i − (p'_i + ε)

p and p' are divided by their sums first; ε = 1e-4 as in the authors' code. Source: arXiv:2403.05262.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Row = Sequence[float]


def shares(row: Row) -> list[float]:
    """A row divided by its sum."""
    total = math.fsum(row)
    return [value / total for value in row]


def mean_of(rows: Sequence[Row]) -> list[float]:
    """The mean of rows, each divided by its sum first: `both` for two references, the set's p' for many samples."""
    return [math.fsum(column) / len(rows) for column in zip(*map(shares, rows), strict=True)]


def debiased(p: Row, prior: Row, *, mode: str = "diagonal", smoothing: float = 1e-4) -> list[float]:
    """Scores of one sample's labels."""
    seen, blind = shares(p), [value + smoothing for value in shares(prior)]
    if mode == "identity":
        return [a - b for a, b in zip(seen, blind, strict=True)]
    return shares([a / b for a, b in zip(seen, blind, strict=True)])
