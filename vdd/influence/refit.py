"""Influence at a minimum: what it supposes of the parameters, brought about by training these to it.

    θ̂ = argmin L(θ), near θ₀, with δ/2 ‖θ − θ₀‖²

Where the scores speak of the heads alone this takes seconds, on features that are there already. Where no δ is given
and training does not end by the usual one, it is tried by three times as much, and again.

Source: arXiv:2411.11667 supposes the minimum; the regulariser is centred at the pretrained parameters.
Knows: influence, minimisation, stores. Does not know: transformers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vdd._check import UserError
from vdd.influence.damping import convex_damping
from vdd.influence.ecif import ECIF
from vdd.influence.encoders import Pairs, Towers
from vdd.influence.objective import Objective, unflat
from vdd.influence.retrain import Minimum, minimise
from vdd.influence.store import Store

MINIMUM = 1e-8
"""The gradient norm that training ends at, where rounding lets it."""
ROUNDINGS = 100
"""Machine epsilons of what as many fresh pairs' gradient would be: nearer to 0 than that no norm is asked to come. In
float32 that is 1e-5 of it; what was reached on the embedded model's heads is 0.2e-5 to 0.5e-5."""
FACTOR, TRIES, ROUNDS = 3.0, 5, 20
"""From one damping to the next; how many are tried; after how many rounds of training a next one is. Where training
ended at all on the embedded model's heads with the usual damping, it did after 5 to 15."""
KEPT = "minimum"
"""The minimum's name in a store."""


def at_minimum(
    towers: Towers, data: Pairs, *, gradient_norm: float | None = None, store: Store | None = None, **options: Any
) -> ECIF:
    """Influence at the minimum that is nearest downhill from the towers' parameters, where the regulariser is centred.

    Args:
        towers, data, **options: of `ECIF`; a `damping` of None is as the head of this file says.
        gradient_norm: ‖∇L‖ that training ends at; None for `wanted_norm`.
        store: for as long as nothing changes: a minimum that is kept there is taken, one that is found is kept.

    Raises:
        ValueError: where training did not reach it.
    """
    if options.get("anchor") is None:
        options["anchor"] = towers.parameters
    known = None if store is None else store.get(KEPT)
    if known is None:
        began = time.perf_counter()
        before, theta = _trained(towers, data, gradient_norm, options)
        notes = {
            "damping": before.damping,
            "gradient_norm": float(torch.linalg.vector_norm(before.objective.at(theta).gradient())),
            "gradient_norm_before": before.optimality.gradient_norm,
            "distance": float(torch.linalg.vector_norm(theta - before.theta)),
            "seconds": time.perf_counter() - began,
        }
        known = (store or Store(None, "")).put(KEPT, {"theta": theta}, notes)
    found = unflat(known.tensors["theta"].to(towers.device), towers.parameters)
    return ECIF(towers.with_parameters(found), data, **{**options, "damping": known.notes["damping"]})


def minimum(objective: Objective, ecif: ECIF, *, gradient_norm: float | None = None) -> Tensor:
    """(P,): the minimum of an objective, from an influence's parameters and with its preconditioner.

    Args:
        gradient_norm: ‖∇L‖ that training ends at; None for `wanted_norm`.

    Raises:
        ValueError: where it was not reached.
    """
    wanted = wanted_norm(ecif) if gradient_norm is None else gradient_norm
    found = minimise(objective, ecif.theta, gradient_norm=wanted, precondition=ecif.precondition)
    _refuse_unfinished(found, wanted, ecif)
    return found.theta


def _trained(
    towers: Towers, data: Pairs, gradient_norm: float | None, options: Mapping[str, Any]
) -> tuple[ECIF, Tensor]:
    """The influence where training begins, with the damping that it ended by, and where it ended, (P,)."""
    before = ECIF(towers, data, **options)
    if options.get("damping") is not None:
        return before, minimum(before.objective, before, gradient_norm=gradient_norm)
    damping = before.damping
    for number in range(TRIES):
        if number:
            before = ECIF(towers, data, **{**options, "damping": damping * FACTOR**number})
        wanted = wanted_norm(before) if gradient_norm is None else gradient_norm
        how = before.precondition
        found = minimise(before.objective, before.theta, gradient_norm=wanted, max_steps=ROUNDS, precondition=how)
        if found.converged:
            break
    _refuse_unfinished(found, wanted, before)
    return before, found.theta


def _refuse_unfinished(found: Minimum, wanted: float, ecif: ECIF) -> None:
    if not found.converged:
        convex = convex_damping(replace(ecif.objective, damping=0.0).at(ecif.theta), ecif.seed)
        enough = FACTOR * max(convex, ecif.damping)
        raise UserError(
            f"influence: training to a minimum ended at a gradient norm of {found.gradient_norm:.3g} after "
            f"{found.steps} rounds; wanted {wanted:.2g}. The damping is {ecif.damping:.3g}; try {enough:.2g}, or "
            "parameters in float64."
        )


def wanted_norm(ecif: ECIF) -> float:
    """The gradient norm that counts as a minimum: 1e-8, or what rounding leaves of as many fresh pairs' gradient."""
    norm, ratio = ecif.optimality.gradient_norm, ecif.optimality.ratio
    fresh = norm / ratio if ratio > 0 else 0.0
    return max(MINIMUM, ROUNDINGS * torch.finfo(ecif.theta.dtype).eps * fresh)
