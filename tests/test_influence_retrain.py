"""The minimum that scores suppose is reached, from where the loss bends down too."""

from __future__ import annotations

import pytest
import torch

from tests.oracles import influence as slow
from vdd.influence.ecif import ECIF
from vdd.influence.encoders import Towers
from vdd.influence.loss import Contrastive, Sigmoid
from vdd.influence.retrain import minimise


def problem(loss, seed=0, bias=0.0):
    world = slow.matched_world(10, seed=seed)
    towers = Towers(world.image, world.text, log_scale=1.0, bias=bias, loss=loss)
    influence = ECIF(towers, towers.pairs(world.images, world.texts), batch_size=6, partitions=1, damping=2.0)
    return world, towers, influence


def whole(world, towers, influence, name, bias=0.0):
    partitions = [
        [places.tolist() for group in groups for places in group.places] for groups in influence.objective.partitions
    ]
    world.log_scale.data.fill_(1.0)
    world.bias.data.fill_(bias)
    anchor = influence.objective.anchor
    return slow.Problem(world, list(towers.parameters), name, "sum", partitions, None, influence.damping, anchor)


@pytest.fixture(scope="module")
def solved():
    """(the objective, its minimum, the same objective as the oracle has it, where the search began)."""
    world, towers, influence = problem(Contrastive())
    start = influence.theta.clone()
    found = minimise(influence.objective, influence.theta, gradient_norm=1e-9)
    assert torch.equal(influence.theta, start)
    return influence.objective, found, whole(world, towers, influence, "contrastive"), start


def is_minimum(want, found, start):
    assert found.converged
    assert found.gradient_norm <= 1e-9
    assert float(torch.func.grad(want.value)(found.theta).norm()) < 2e-9
    assert float(torch.linalg.eigvalsh(torch.func.hessian(want.value)(found.theta)).min()) > 0
    assert float(want.value(found.theta)) < float(want.value(start))


def test_the_gradients_norm_that_was_asked_for_is_reached_though_the_loss_bends_down_at_the_start(solved):
    _, found, want, start = solved
    assert float(torch.linalg.eigvalsh(torch.func.hessian(want.value)(start)).min()) < -1
    is_minimum(want, found, start)


def test_the_sigmoid_losses_minimum_is_found_too():
    world, towers, influence = problem(Sigmoid(), seed=1, bias=-1.5)
    found = minimise(influence.objective, influence.theta, gradient_norm=1e-9)
    is_minimum(whole(world, towers, influence, "sigmoid", bias=-1.5), found, influence.theta)


def test_a_minimum_is_left_alone(solved):
    objective, found, _, _ = solved
    again = minimise(objective, found.theta, gradient_norm=1e-9)
    assert again.steps == 0
    assert torch.equal(again.theta, found.theta)


@pytest.mark.parametrize("steps", [1, 3])
def test_a_search_that_is_cut_short_says_so_and_has_not_risen(solved, steps):
    objective, _, _, start = solved
    found = minimise(objective, start, gradient_norm=1e-9, max_steps=steps)
    assert not found.converged
    assert found.steps == steps
    assert objective.at(found.theta).value() <= objective.at(start).value()


@pytest.mark.slow
def test_a_preconditioner_changes_the_way_and_not_the_minimum(solved):
    objective, found, want, _ = solved
    inverse = torch.linalg.inv(torch.func.hessian(want.value)(found.theta))
    rest = objective.without([2])
    helped, bare = (
        minimise(rest, found.theta, gradient_norm=1e-7, precondition=how) for how in (lambda r: inverse @ r, None)
    )
    assert helped.converged
    assert bare.converged
    torch.testing.assert_close(helped.theta, bare.theta, rtol=0, atol=1e-6)


def test_a_norm_below_rounding_ends_the_search_without_a_claim(solved):
    objective, found, _, _ = solved
    again = minimise(objective, found.theta, gradient_norm=1e-30)
    assert not again.converged
    assert again.steps < 20
    assert again.gradient_norm <= found.gradient_norm
