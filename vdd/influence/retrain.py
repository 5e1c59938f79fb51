"""The minimum of an objective, to a gradient norm: what influence scores suppose, and what they are held against.

    step = argmin_p ⟨∇L, p⟩ + ½ ⟨p, H p⟩  with ‖p‖ ≤ radius,  by conjugate gradients, to the edge where H bends down

Source: truncated conjugate gradients in a trust region (Steihaug 1983; Nocedal and Wright, Numerical Optimization,
2006, Algorithms 7.2 and 4.1); lengths by the preconditioner (Conn, Gould and Toint, Trust-Region Methods, 2000, 7.5.1).
Knows: objectives. Does not know: influence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vdd.influence.curvature import Product
from vdd.influence.objective import Objective, Point

ACCEPTED, POOR, GOOD = 1e-4, 0.25, 0.75
"""Shares of the fall that the quadratic model foretells: enough to move; to look less far; to look further."""
ROUNDING = 1e3
"""Falls below so many machine epsilons of the loss are rounding: there the gradient's norm decides."""


@dataclass(frozen=True)
class Minimum:
    """Where the search ended.

    Attributes:
        theta: (P,).
        gradient_norm: ‖∇L‖ there.
        steps: rounds of the trust region, refused ones included.
        converged: whether the norm is at most what was wanted.
    """

    theta: Tensor
    gradient_norm: float
    steps: int
    converged: bool


@dataclass(frozen=True)
class _Step:
    """A step, (P,), its length, the fall of the loss that the model foretells, and whether it ends at the edge."""

    change: Tensor
    length: float
    fall: float
    at_edge: bool


def minimise(
    objective: Objective,
    start: Tensor,
    *,
    gradient_norm: float,
    max_steps: int = 100,
    max_products: int = 500,
    precondition: Product | None = None,
) -> Minimum:
    """A minimum near `start`, (P,).

    Args:
        gradient_norm: at which the search ends.
        max_steps: rounds.
        max_products: with the Hessian, a round.
        precondition: r → M⁻¹ r of the steps' linear systems.
    """
    point, radius, steps = objective.at(start), math.inf, 0
    gradient = point.gradient()
    norm = float(torch.linalg.vector_norm(gradient))
    while norm > gradient_norm and steps < max_steps:
        steps += 1
        step = _step(point, gradient, radius, min(0.1, norm**0.5), max_products, precondition)
        ahead = objective.at(point.theta + step.change)
        value = point.value()
        share = (value - ahead.value()) / step.fall if step.fall > 0 else 0.0
        there = ahead.gradient()
        norm_there = float(torch.linalg.vector_norm(there))
        rounding = step.fall <= ROUNDING * torch.finfo(start.dtype).eps * abs(value)
        if rounding:
            share = float(norm_there < norm)
        if not share >= POOR:
            radius = POOR * step.length
        elif share > GOOD and step.at_edge:
            radius = 2 * step.length
        if share > ACCEPTED:
            point, gradient, norm = ahead, there, norm_there
        elif rounding:
            break
    return Minimum(point.theta, norm, steps, norm <= gradient_norm)


def _step(
    point: Point, gradient: Tensor, radius: float, tolerance: float, max_products: int, precondition: Product | None
) -> _Step:
    """The model's minimum within the radius, until its residual is a share `tolerance` of the gradient.

    With no radius yet, a direction that bends down is followed as far as one that bends up as much would be.
    """
    precondition = precondition or (lambda residual: residual)
    change, bent = torch.zeros_like(gradient), torch.zeros_like(gradient)
    residual = gradient
    ahead = precondition(residual)
    direction, alignment = -ahead, float(residual @ ahead)
    done, across, long = 0.0, 0.0, alignment  # ‖p‖², ⟨p, d⟩ and ‖d‖², all in the preconditioner's lengths
    target, at_edge = tolerance * float(torch.linalg.vector_norm(gradient)), False
    for _ in range(max_products):
        image = point.hessian(direction)
        bend = float(direction @ image)
        to_edge = _to_edge(done, across, long, radius)
        share = alignment / bend if bend > 0 else math.inf
        at_edge = share >= to_edge or bend <= 0
        if at_edge:
            share = to_edge if math.isfinite(to_edge) else alignment / max(-bend, 1e-12 * long)
        change, bent = change + share * direction, bent + share * image
        done += 2 * share * across + share**2 * long
        residual = residual + share * image
        if at_edge or float(torch.linalg.vector_norm(residual)) <= target:
            break
        ahead = precondition(residual)
        alignment, before = float(residual @ ahead), alignment
        ratio = alignment / before
        direction = -ahead + ratio * direction
        across, long = ratio * (across + share * long), alignment + ratio**2 * long
    return _Step(change, max(done, 0.0) ** 0.5, -float(gradient @ change + change @ bent / 2), at_edge)


def _to_edge(done: float, across: float, long: float, radius: float) -> float:
    """t ≥ 0 with ‖p + t d‖ = radius."""
    if math.isinf(radius):
        return math.inf
    room = max(radius**2 - done, 0.0)
    return (math.sqrt(across**2 + long * room) - across) / long
