"""Influence where the formula holds: parameters trained to a minimum first, kept, and said where that failed."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

from tests.oracles import influence as slow
from vdd._check import UserError
from vdd.influence import refit
from vdd.influence.curvature import least_curvature
from vdd.influence.damping import convex_damping
from vdd.influence.ecif import ECIF
from vdd.influence.encoders import Towers
from vdd.influence.query import ValidationPairs
from vdd.influence.refit import at_minimum, wanted_norm
from vdd.influence.store import Store

HOW = {"batch_size": 10, "partitions": 1}


def problem(dtype=torch.float64):
    """(towers, pairs, a query) of a small world whose loss bends down at the start."""
    world = slow.matched_world(10, seed=0)
    towers = Towers(world.image.to(dtype), world.text.to(dtype), log_scale=1.0)
    images, texts = world.images.to(dtype), world.texts.to(dtype)
    return towers, towers.pairs(images, texts), ValidationPairs(images[:4], texts[:4])


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """(an influence at its minimum, where that is kept)."""
    store = Store(tmp_path_factory.mktemp("kept"), "digest")
    return at_minimum(*problem()[:2], store=store, **HOW), store


def is_at_minimum(influence, towers, query):
    assert influence.optimality.gradient_norm <= wanted_norm(influence)
    assert influence.optimality.ratio < 1e-4
    assert torch.equal(influence.objective.anchor, torch.cat([value.flatten() for value in towers.parameters.values()]))
    assert not torch.equal(influence.theta, influence.objective.anchor)
    assert influence.scores(query).solve.converged  # a warning would be an error here


def test_scores_are_at_a_minimum_whose_regulariser_is_centred_at_the_start(found):
    towers, _, query = problem()
    is_at_minimum(found[0], towers, query)


def test_a_minimum_is_reached_in_float32_too():
    towers, pairs, query = problem(torch.float32)
    start = {name: value.clone() for name, value in towers.parameters.items()}
    is_at_minimum(at_minimum(towers, pairs, **HOW), towers, query)
    assert all(torch.equal(towers.parameters[name], value) for name, value in start.items())


def unshifted(influence):
    return replace(influence.objective, damping=0.0).at(influence.theta)


def test_the_norm_that_counts_as_a_minimum_is_the_types():
    assert wanted_norm(ECIF(*problem()[:2], damping=1.0, **HOW)) == refit.MINIMUM
    short = ECIF(*problem(torch.float32)[:2], damping=1.0, **HOW)
    fresh = short.optimality.gradient_norm / short.optimality.ratio
    assert wanted_norm(short) == pytest.approx(100 * 2**-23 * fresh)


def test_the_damping_that_is_found_makes_the_objective_convex_at_the_start(found):
    towers, pairs, _ = problem()
    influence = ECIF(towers, pairs, damping=0.5, **HOW)
    bare = influence.objective.at(influence.theta)
    columns = torch.eye(len(influence.theta), dtype=torch.float64)
    matrix = torch.stack([bare.hessian(column) for column in columns]) - 0.5 * columns
    least = float(torch.linalg.eigvalsh(matrix).min())
    assert least < 0
    assert convex_damping(unshifted(influence), 0) == pytest.approx(-least, rel=0.02)
    assert found[0].damping == pytest.approx(-3 * least, rel=0.02)


def test_where_a_damping_does_not_reach_a_minimum_the_next_is_tried(found, monkeypatch):
    towers, pairs, _ = problem()
    tried, inner = [], refit.minimise

    def stubborn(objective, *args, **more):
        tried.append(objective.damping)
        return inner(objective, *args, **{**more, "max_steps": 0 if len(tried) < 3 else more["max_steps"]})

    monkeypatch.setattr(refit, "minimise", stubborn)
    assert at_minimum(towers, pairs, **HOW).damping == tried[-1] == pytest.approx(9 * found[0].damping)


def test_where_no_damping_reaches_a_minimum_the_error_says_which_to_try(monkeypatch):
    inner = refit.minimise
    monkeypatch.setattr(refit, "minimise", lambda *args, **more: inner(*args, **{**more, "max_steps": 0}))
    towers, pairs, _ = problem()
    convex = convex_damping(unshifted(ECIF(towers, pairs, damping=0.0, **HOW)), 0)
    with pytest.raises(UserError, match=re.escape(f"The damping is {243 * convex:.3g}; try {729 * convex:.2g}")):
        at_minimum(towers, pairs, **HOW)
    with pytest.raises(
        UserError, match=re.escape(f"after 0 rounds; wanted 1e-08. The damping is 0; try {3 * convex:.2g}")
    ):
        at_minimum(towers, pairs, damping=0.0, **HOW)


def test_a_minimum_that_is_kept_is_not_searched_for_again(found, monkeypatch):
    towers, pairs, query = problem()
    influence, store = found
    assert store.get(refit.KEPT).notes["gradient_norm"] <= refit.MINIMUM
    monkeypatch.setattr(refit, "minimise", lambda *_, **__: pytest.fail("trained again"))
    again = at_minimum(towers, pairs, store=store, **HOW)
    assert again.damping == influence.damping
    assert torch.equal(again.theta, influence.theta)
    assert torch.equal(again.scores(query).total, influence.scores(query).total)


def test_the_least_curvature_is_that_of_the_matrix():
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
    matrix = basis @ torch.diag(torch.linspace(-5, 40, 12, dtype=torch.float64)) @ basis.T
    like = torch.zeros(12, dtype=torch.float64)
    assert least_curvature(lambda v: matrix @ v, like, 12, generator) == pytest.approx(-5, rel=1e-6)
    few = least_curvature(lambda v: matrix @ v, like, 4, generator)
    assert -5 <= few < 40
    assert least_curvature(lambda v: 3 * v, like, 12, generator) == pytest.approx(3)
