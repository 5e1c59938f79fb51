"""The language-bias indicator, question by question in plain floats; imports nothing of the project."""

from __future__ import annotations

import math
from collections.abc import Sequence


def indicator(
    labels: Sequence[str], truth: Sequence[str], seen: Sequence[Sequence[float]], blind: Sequence[Sequence[float]]
) -> dict[str, float]:
    """Accuracies, agreement, KL over the labels, the commonest answer's share."""
    right = blindly = same = 0
    divergence = 0.0
    for answer, row, other in zip(truth, seen, blind, strict=True):
        p = [value / sum(row) for value in row]
        q = [value / sum(other) for value in other]
        first, second = labels[p.index(max(p))], labels[q.index(max(q))]
        right += first == answer
        blindly += second == answer
        same += first == second
        divergence += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)
    n = len(truth)
    return {
        "accuracy": right / n,
        "blind": blindly / n,
        "agreement": same / n,
        "kl": divergence / n,
        "majority": max(truth.count(label) for label in labels) / n,
    }
