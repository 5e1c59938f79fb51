"""Influence at a minimum: what it supposes of the parameters, brought about by training these to it.

    θ̂ = argmin L(θ), near θ₀, with δ/2 ‖θ − θ₀‖²

Where the scores speak of the heads alone this takes seconds, on features that are there already.

Source: arXiv:2411.11667 supposes it; the regulariser is centred at the pretrained parameters.
Knows: influence, minimisation. Does not know: transformers, files.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from vdd._check import UserError
from vdd.influence.ecif import ECIF
from vdd.influence.encoders import Pairs, Towers
from vdd.influence.objective import Objective
from vdd.influence.retrain import minimise

MINIMUM = 1e-8
"""The gradient norm that training ends at in float64; in shorter types, the same share of their precision."""


def at_minimum(towers: Towers, data: Pairs, *, gradient_norm: float = MINIMUM, **options: Any) -> ECIF:
    """Influence at the minimum that is nearest downhill from the towers' parameters, where the regulariser is centred.

    Args:
        towers, data, **options: of `ECIF`.
        gradient_norm: ‖∇L‖ that training ends at.

    Raises:
        ValueError: where training did not reach it.
    """
    before = ECIF(towers, data, **options)
    found = before.objective.named(minimum(before.objective, before, gradient_norm=gradient_norm))
    kept = {**options, "damping": before.damping, "anchor": towers.parameters}
    return ECIF(towers.with_parameters(found), data, **kept)


def minimum(objective: Objective, ecif: ECIF, *, gradient_norm: float = MINIMUM) -> Tensor:
    """(P,): the minimum of an objective, from an influence's parameters and with its preconditioner.

    Raises:
        ValueError: where it was not reached.
    """
    found = minimise(objective, ecif.theta, gradient_norm=gradient_norm, precondition=ecif.precondition)
    if not found.converged:
        raise UserError(
            f"influence: training ended at a gradient norm of {found.gradient_norm:.3g} after {found.steps} steps; "
            f"wanted {gradient_norm:g}. A larger damping makes the minimum easier to reach."
        )
    return found.theta
