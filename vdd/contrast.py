"""Contrast what a model says with an image against what it says without one.

    log p'(t) = (1+α)·log p(t | image, text) − α·log p(t | text) + const,
    among tokens with p(t | image, text) ≥ β · max p.

Source: arXiv:2403.05262 (VDD); cut-off: arXiv:2210.15097.
Knows: tensors. Does not know: models, tokenizers, files, randomness.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vdd._check import UserError, real

FLOOR = 50.0
"""How far below its maximum (in nats) an image-free score may lie before it is raised to that: e⁻⁵⁰ ≈ 2e-22.
Without it a token that the image-free branch forbids (−inf) would win by an infinite margin."""

BLOCK = 64
"""Neighbouring tokens that are searched together: where the largest score of a block is cut off, all of it is."""

MAX_EXPONENT = 80.0
"""Where M3ID's exponential growth stops: e⁸⁰ is finite in float32."""


def contrast(seen: Tensor, blind: Tensor, *, alpha: float | Tensor, beta: float) -> Tensor:
    """Move `seen` away from `blind`, among plausible tokens only.

    Args:
        seen: (batch, vocab) scores given the image; logits or log-probabilities, any float dtype.
        blind: (batch, vocab) scores given no image, same vocabulary.
        alpha: contrast strength, dimensionless, ≥ 0; 0 leaves only the cut-off. One number, or (batch, 1).
        beta: cut-off as a fraction of the top probability, in [0, 1]; 0 keeps every token.

    Returns:
        (batch, vocab) normalised log-probabilities, at least float32; −inf where cut off. Inputs are not modified.

    Raises:
        ValueError: on unequal shapes, NaN or +inf scores, a row without a finite score, alpha or beta out of range.

    >>> contrast(torch.tensor([[2.0, 1.0]]), torch.tensor([[2.0, 0.0]]), alpha=1.0, beta=0.1).exp()
    tensor([[0.5000, 0.5000]])
    """
    _check_pair(seen, blind)
    log_beta = math.log(beta) if real("contrast", "beta", beta, low=0.0, high=1.0) > 0 else -math.inf
    if not isinstance(alpha, Tensor):
        alpha = real("contrast", "alpha", alpha, low=0.0)
    elif not bool(((alpha >= 0) & torch.isfinite(alpha)).all()):
        raise UserError("contrast: `alpha` has a row that is NaN, infinite or below 0; wanted finite numbers ≥ 0.")
    blind, blocks = blind.to(seen.device), _blocks(seen)
    peaks = upcast(blocks.amax(dim=-1))
    seen_top, blind_top = _top(peaks, "seen"), _top(blind, "blind")
    strength = torch.as_tensor(alpha, dtype=seen_top.dtype, device=seen.device).expand(len(seen), 1)
    if beta == 0:
        above = upcast(seen) - seen_top
        return torch.log_softmax(_moved(above, blind.to(above) - blind_top.to(above), strength), dim=-1)

    # Few tokens are kept: find their blocks, then the tokens in these, and work on those alone.
    # index_select, since it copies whole blocks; an index starts threads and copies score by score.
    rows, places = (peaks - seen_top >= log_beta).nonzero(as_tuple=True)
    above = upcast(blocks.flatten(0, 1).index_select(0, rows * blocks.shape[1] + places)) - seen_top[rows]
    found, offset = (above >= log_beta).nonzero(as_tuple=True)
    rows, columns, above = rows[found], BLOCK * places[found] + offset, above[found, offset]
    below = blind[rows, columns].to(above) - blind_top[rows, 0].to(above)
    log_probs = above.new_full(seen.shape, -math.inf)
    log_probs[rows, columns] = _log_softmax(_moved(above, below, strength[rows, 0]), rows, len(seen))
    return log_probs


def m3id_alpha(seen: Tensor, step: int, *, decay: float, confidence: float) -> Tensor:
    """M3ID's strength: it grows with the length of the text, and is 0 where the model is sure already.

        α_t = 1[max log p(·|image, text) < log confidence] · (1 − γ_t) / γ_t,   γ_t = exp(−decay · t)

    Args:
        seen: (batch, vocab) scores given the image.
        step: t, the number of the token being chosen, 1 for the first.
        decay: λ, per token, ≥ 0.
        confidence: probability of the top token from which on nothing is subtracted, in (0, 1].

    Returns:
        (batch, 1), ≥ 0.

    Source: arXiv:2403.14003.
    """
    scores = upcast(seen)
    unsure = torch.log_softmax(scores, dim=-1).amax(dim=-1, keepdim=True) < math.log(confidence)
    return unsure.to(scores) * math.expm1(min(decay * step, MAX_EXPONENT))


def nolan_alpha(seen: Tensor, blind: Tensor, *, scale: float) -> Tensor:
    """NoLan's strength: strong where the two branches agree, half of that where they part.

        α = scale · (tanh(1 / D) + 1),   D = ½·[KL(p‖p') + KL(p'‖p)]

    Args:
        seen: (batch, vocab) scores given the image.
        blind: (batch, vocab) scores given no image.
        scale: dimensionless, ≥ 0.

    Returns:
        (batch, 1), in (scale, 2·scale].

    Source: arXiv:2602.22144.
    """
    log_p = torch.log_softmax(_below_top(seen, "seen").clamp(min=-FLOOR), dim=-1)
    log_q = torch.log_softmax(_below_top(blind, "blind").clamp(min=-FLOOR), dim=-1).to(log_p)
    divergence = 0.5 * ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=-1, keepdim=True)
    return scale * (torch.tanh(1 / divergence.clamp(min=torch.finfo(divergence.dtype).tiny)) + 1)


def several_plausible(seen: Tensor, *, beta: float) -> Tensor:
    """(rows,) True where the cut-off keeps other than one token, so that a contrast can change the outcome.

    Scores that `contrast` refuses (NaN, none finite) keep none: they count as True, for it to say what is wrong.

    Args:
        seen: (batch, vocab) scores given the image.
        beta: cut-off as a fraction of the top probability, in [0, 1].
    """
    log_beta = math.log(beta) if beta > 0 else -math.inf
    scores = upcast(seen)
    return (scores - scores.amax(dim=-1, keepdim=True) >= log_beta).sum(dim=-1) != 1


def _check_pair(seen: Tensor, blind: Tensor) -> None:
    if seen.ndim != 2 or seen.shape != blind.shape:
        raise UserError(
            f"contrast: `seen` is {tuple(seen.shape)} and `blind` is {tuple(blind.shape)}; both must be (batch, vocab) "
            "and equal. Was the image-free branch run on another batch, or on a model with another vocabulary?"
        )


def upcast(scores: Tensor) -> Tensor:
    """`scores` in float32 at least: float64 stays."""
    return scores if scores.dtype == torch.float64 else scores.float()


def _top(scores: Tensor, name: str) -> Tensor:
    """(rows, 1) maxima, upcast; an error where one is not finite, as it is if any score of its row is NaN or +inf."""
    top = upcast(scores.amax(dim=-1, keepdim=True))
    if not bool(torch.isfinite(top).all()):
        rows = (~torch.isfinite(top[:, 0])).nonzero()[:, 0].tolist()
        raise UserError(
            f"contrast: `{name}` has rows ({', '.join(map(str, rows[:8]))}) whose largest score is NaN or infinite; "
            "wanted at least one finite score and no NaN. Did a float16 model overflow? bfloat16 or float32 avoids it."
        )
    return top


def _below_top(scores: Tensor, name: str) -> Tensor:
    """Scores upcast, and shifted so that each row's maximum is 0; the shift cancels in a normalised result."""
    return upcast(scores) - _top(scores, name)


def _blocks(scores: Tensor) -> Tensor:
    """(rows, blocks, BLOCK), a view where BLOCK divides the vocabulary; elsewhere −inf fills up the last block."""
    if spare := -scores.shape[1] % BLOCK:
        scores = torch.nn.functional.pad(scores, (0, spare), value=-math.inf)
    return scores.unflatten(-1, (-1, BLOCK))


def _moved(above: Tensor, below: Tensor, alpha: Tensor) -> Tensor:
    """The formula without its constant, from scores relative to their row's maximum."""
    return (1 + alpha) * above - alpha * below.clamp(min=-FLOOR)


def _log_softmax(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """`values` normalised within each of `count` rows; `rows`, the row of each value, ascends."""
    place = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    # Each row is a column of the table: to normalise lines, torch starts threads, however few and short they are.
    table = values.new_full((int(place.max()) + 1, count), -math.inf)
    table[place, rows] = values
    return torch.log_softmax(table, dim=0)[place, rows]
