"""Definitions of the statistics, one pair, one bin, one coin toss at a time, in plain Python."""

from __future__ import annotations

from fractions import Fraction
from math import comb


def auroc(scores: list[float], positive: list[bool]) -> float:
    won = pairs = Fraction(0)
    for s, is_positive in zip(scores, positive, strict=True):
        for t, other_is_positive in zip(scores, positive, strict=True):
            if is_positive and not other_is_positive:
                pairs += 1
                won += 1 if s > t else Fraction(1, 2) if s == t else 0
    return float(won / pairs)


def expected_calibration_error(confidence: list[float], correct: list[bool], bins: int) -> float:
    total = 0.0
    for m in range(1, bins + 1):
        inside = [
            (c, right)
            for c, right in zip(confidence, correct, strict=True)
            if (m - 1) / bins < c <= m / bins or (m == 1 and c == 0)
        ]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            mean_confidence = sum(c for c, _ in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - mean_confidence)
    return total


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Twice the chance of at most this few heads in fair tosses, at most 1."""
    tosses = only_a + only_b
    few = sum(Fraction(comb(tosses, k), 2**tosses) for k in range(min(only_a, only_b) + 1))
    return float(min(Fraction(1), 2 * few))


def redraw(rows: list, clusters: list, times: list[int]) -> list:
    """The rows of a resample, written out: those of the i-th distinct cluster `times[i]` times."""
    distinct = list(dict.fromkeys(clusters))
    return [
        row
        for cluster, count in zip(distinct, times, strict=True)
        for row, owner in zip(rows, clusters, strict=True)
        if owner == cluster
        for _ in range(count)
    ]
