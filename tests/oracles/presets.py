"""Each preset as its paper prints it, in pure Python floats: log-probabilities of one row at one step.

Every function takes `seen`, the logits given image and text; `blind`, those of the paper's second input; `step`, 1 for
the first token; and returns the normalised log p*. Constants are the papers' own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tests.oracles.contrast import log_debias_row, log_softmax

Row = Sequence[float]


def vdd(seen: Row, blind: Row, step: int) -> list[float]:
    """arXiv:2403.05262: α = 1, β = 0.1; v' is no image at all."""
    return log_debias_row(seen, blind, 1.0, 0.1)


def vcd(seen: Row, blind: Row, step: int) -> list[float]:
    """arXiv:2311.16922, eq. 3 and 4: α = 1, β = 0.1; v' is the image after 500 steps of diffusion."""
    return log_debias_row(seen, blind, 1.0, 0.1)


def icd(seen: Row, blind: Row, step: int) -> list[float]:
    """arXiv:2403.18715: the same contrast; the second input is the same image under a disturbing instruction."""
    return log_debias_row(seen, blind, 1.0, 0.1)


def m3id(seen: Row, blind: Row, step: int) -> list[float]:
    """arXiv:2403.14003: l_c + 1[max l_c < log 0.3] · (1 − γ_t)/γ_t · (l_c − l_u), γ_t = exp(−0.02·t), l = log p."""
    log_c, log_u = log_softmax(seen), log_softmax(blind)
    gamma = math.exp(-0.02 * step)
    gate = 1.0 if max(log_c) < math.log(0.3) else 0.0
    return log_softmax([c + gate * (1 - gamma) / gamma * (c - u) for c, u in zip(log_c, log_u, strict=True)])


def nolan(seen: Row, blind: Row, step: int) -> list[float]:
    """arXiv:2602.22144, NoLan-Plus: α = 0.8·(tanh(1/D) + 1), D = half the sum of both KL divergences; no cut-off."""
    log_p, log_q = log_softmax(seen), log_softmax(blind)
    forward = math.fsum(math.exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))
    backward = math.fsum(math.exp(q) * (q - p) for p, q in zip(log_p, log_q, strict=True))
    alpha = 0.8 * (math.tanh(1 / (0.5 * (forward + backward))) + 1)
    return log_softmax([(1 + alpha) * s - alpha * b for s, b in zip(seen, blind, strict=True)])


def cutoff_only(seen: Row, blind: Row, step: int) -> list[float]:
    """arXiv:2504.10020's control: the cut-off at β = 0.1 and no subtraction."""
    top = max(seen)
    return log_softmax([x if math.exp(x - top) >= 0.1 else -math.inf for x in seen])
