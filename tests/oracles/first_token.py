"""What a decoding configuration makes of a first-token distribution, token by token; imports nothing of the project.

    p_c(t) ∝ p'(t)^(1/T), first over the k most probable tokens, then over the fewest of these whose mass reaches p
    p' = p, or p moved away from the blind p by α among the tokens with p ≥ β · max p

Source: transformers' order of warpers; arXiv:2403.05262.
"""

from __future__ import annotations

import math


def moved(seen: list[float], blind: list[float], alpha: float, beta: float) -> dict[int, float]:
    """Token → score, of the tokens that are left; `seen` and `blind` are log-probabilities."""
    floor = max(seen) + (math.log(beta) if beta else -math.inf)
    return {t: (1 + alpha) * s - alpha * b for t, (s, b) in enumerate(zip(seen, blind, strict=True)) if s >= floor}


def chances(scores: dict[int, float], temperature: float, top_k: int, top_p: float) -> dict[int, float]:
    """Token → probability of being drawn."""
    ranked = sorted(scores, key=lambda token: -scores[token])
    if temperature == 0:
        return {ranked[0]: 1.0}
    if top_k:
        ranked = ranked[:top_k]
    top = scores[ranked[0]]
    weight = {token: math.exp((scores[token] - top) / temperature) for token in ranked}
    total = sum(weight.values())
    kept, mass = [], 0.0
    for token in ranked:
        if kept and mass >= top_p:
            break
        kept.append(token)
        mass += weight[token] / total
    left = sum(weight[token] for token in kept)
    return {token: weight[token] / left for token in kept}


def label_chances(drawn: dict[int, float], forms: list[list[int]]) -> list[float]:
    """The probability of each label."""
    return [sum(drawn.get(token, 0.0) for token in own) for own in forms]
