"""The contrast in pure Python floats, one row at a time, from the printed formula.

    l*(y) = (1+α)·l(y | v, x) − α·l(y | v', x)     for y with p(y | v, x) ≥ β · max_w p(w | v, x), else −∞
    p*    = softmax(l*)

Source: arXiv:2403.05262, equation of VDD; the cut-off is that of arXiv:2210.15097. The floor (an image-free
log-probability is raised to its maximum − 50) is this project's own, for tokens which the image-free branch forbids.
Whether a token reaches the cut-off is decided with 40 decimal digits: p/max p = exp(l − max l) against β.
Knows: lists of floats. Imports nothing of this project.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal, localcontext

FLOOR = 50.0
FORBIDDEN = -math.inf


def log_softmax(logits: Sequence[float]) -> list[float]:
    """log p of each token; −∞ stays −∞."""
    top = max(logits)
    total = math.log(math.fsum(math.exp(x - top) for x in logits))
    return [x - top - total for x in logits]


def plausible(seen: Sequence[float], beta: float) -> list[bool]:
    """Which tokens have p ≥ β · max p; β = 0 keeps all."""
    top = max(seen)
    if beta == 0:
        return [True] * len(seen)
    with localcontext() as context:
        context.prec = 40
        return [x != FORBIDDEN and (Decimal(x) - Decimal(top)).exp() >= Decimal(beta) for x in seen]


def raised(blind: Sequence[float], floor: float = FLOOR) -> list[float]:
    """No score lies more than `floor` below the largest."""
    return [max(x, max(blind) - floor) for x in blind]


def log_debias_row(seen: Sequence[float], blind: Sequence[float], alpha: float, beta: float) -> list[float]:
    """log p* of each token."""
    low = raised(blind)
    kept = plausible(seen, beta)
    moved = [
        (1 + alpha) * s - alpha * b if keep and s != FORBIDDEN else FORBIDDEN
        for s, b, keep in zip(seen, low, kept, strict=True)
    ]
    return log_softmax(moved)


def debias_row(seen: Sequence[float], blind: Sequence[float], alpha: float, beta: float) -> list[float]:
    """p* of each token."""
    return [math.exp(x) for x in log_debias_row(seen, blind, alpha, beta)]
