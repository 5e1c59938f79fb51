"""Figures of yes/no answers that are known as probabilities: exact expectations, and F1 by drawing.

    accuracy = mean_i p_i(label_i)      yes_ratio = Σ_i p_i(yes) / Σ_i (p_i(yes) + p_i(no))
    F1 = mean over draws of 2·TP / (2·TP + FP + FN),   answers drawn from p_i

What neither label takes counts as wrong, as an answer without yes or no does under `exact`.

Knows: NumPy. Does not know: where the probabilities come from.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd._check import UserError, whole

Array = NDArray[np.float64]


def expected_figures(
    chances: ArrayLike, positive: Sequence[bool] | NDArray[np.bool_], *, rng: np.random.Generator, draws: int = 1000
) -> dict[str, float]:
    """The figures that answers drawn from `chances` have in expectation.

    Args:
        chances: (n, 2) probabilities of "yes" and of "no"; each row sums to at most 1.
        positive: (n,) whether "yes" is right; n ≥ 1.
        rng: of the draws behind F1; advanced.
        draws: how many of these, ≥ 1.

    Returns:
        accuracy, balanced_accuracy, tpr, fpr, yes_ratio: exact; f1: the mean over the draws, exact where no answer is
        left to chance; undecided: mean probability of neither.

    Raises:
        UserError: on other shapes, or probabilities out of range.
    """
    table, right = np.asarray(chances, dtype=np.float64), np.asarray(positive, dtype=bool)
    whole("expected_figures", "draws", draws, low=1)
    if table.shape != (len(right), 2) or not len(right):
        raise UserError(f"expected_figures: chances are {table.shape} for {len(right)} labels; wanted (n, 2), n ≥ 1.")
    if not (np.all(table >= -1e-9) and np.all(table.sum(axis=1) <= 1 + 1e-6)):
        raise UserError("expected_figures: chances are out of range; wanted rows in [0, 1] that sum to 1 at most.")
    yes, no = table[:, 0], table[:, 1]
    tpr = float(yes[right].mean()) if right.any() else 0.0
    tnr = float(no[~right].mean()) if (~right).any() else 0.0
    sides = int(right.any()) + int((~right).any())
    decided = float(table.sum())
    return {
        "accuracy": float(np.where(right, yes, no).mean()),
        "balanced_accuracy": (tpr + tnr) / sides,
        "tpr": tpr,
        "fpr": float(yes[~right].mean()) if (~right).any() else 0.0,
        "yes_ratio": float(yes.sum()) / decided if decided else 0.0,
        "f1": _f1(yes, right, rng, draws),
        "undecided": float(1 - table.sum(axis=1).mean()),
    }


def _f1(yes: Array, right: NDArray[np.bool_], rng: np.random.Generator, draws: int) -> float:
    """Mean of F1 over draws; only questions that are left to chance are drawn."""
    open_ = (yes > 0) & (yes < 1)
    sure = yes >= 1
    hits = np.full(draws, float((sure & right).sum()))
    false = np.full(draws, float((sure & ~right).sum()))
    for found, side in ((hits, right), (false, ~right)):
        chance = yes[open_ & side]
        if len(chance):
            found += (rng.random((draws, len(chance)), dtype=np.float32) < chance.astype(np.float32)).sum(axis=1)
    below = hits + false + right.sum()  # 2·TP + FP + FN = TP + FP + P
    return float(np.divide(2 * hits, below, out=np.zeros(draws), where=below > 0).mean())
