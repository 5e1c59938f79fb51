"""Shape and range errors, worded the same way everywhere: who, what came, what was wanted.

Knows: numbers. Does not know: tensors, files, models.
"""

from __future__ import annotations

import math
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user passed in; the command line prints its text alone and exits with code 2."""


def real(who: str, name: str, value: float, *, low: float, high: float = math.inf) -> float:
    """Return `value` if it is a finite number in [low, high]; raise UserError otherwise."""
    bounds = f"a number ≥ {low:g}" if math.isinf(high) else f"a number in [{low:g}, {high:g}]"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise UserError(f"{who}: {name} is {value!r}; wanted {bounds}.")
    if not low <= value <= high:
        raise UserError(f"{who}: {name} is {value:g}; wanted {bounds}.")
    return float(value)


def whole(who: str, name: str, value: int, *, low: int, high: int | None = None) -> int:
    """Return `value` if it is a whole number ≥ low, and ≤ high where that is given; raise UserError otherwise."""
    bounds = f"≥ {low}" if high is None else f"from {low} to {high}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise UserError(f"{who}: {name} is {value!r}; wanted a whole number {bounds}.")
    return value


def choice(who: str, name: str, value: str, known: Iterable[str]) -> str:
    """Return `value` if it is one of `known`; raise UserError listing them otherwise."""
    known = tuple(known)
    if value not in known:
        raise UserError(f"{who}: unknown {name} {value!r}; known: {', '.join(known)}.")
    return value
