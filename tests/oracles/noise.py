"""VCD's diffusion noise in pure Python floats.

    β_s = sigmoid(linspace(−6, 6, 1000))_s · (0.5e-2 − 1e-5) + 1e-5,   ᾱ_t = Π_{s ≤ t} (1 − β_s),   t counted from 0
    v' = √ᾱ_t · v + √(1 − ᾱ_t) · ε,   ε ~ N(0, 1)

Source: arXiv:2311.16922 and its authors' `add_diffusion_noise`. ε is an argument, so that nothing here is random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

STEPS = 1000


def kept(step: int) -> float:
    """ᾱ at `step`, 0 … 999."""
    product = 1.0
    for number in range(step + 1):
        x = -6 + 12 * number / (STEPS - 1)
        product *= 1 - ((0.5e-2 - 1e-5) / (1 + math.exp(-x)) + 1e-5)
    return product


def noised(pixels: Sequence[float], epsilon: Sequence[float], step: int) -> list[float]:
    """Each pixel after `step` steps."""
    share = kept(step)
    return [math.sqrt(share) * v + math.sqrt(1 - share) * e for v, e in zip(pixels, epsilon, strict=True)]
