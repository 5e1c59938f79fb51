"""The problems that influence is held against stand at their minimum, and are what they are said to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vdd.influence.problems import LINEAR_PAIRS, embedded, exchange, linear
from vdd.influence.refit import MINIMUM


@pytest.fixture(scope="module")
def problem():
    return linear(0, curvature="hessian")


def norm_at(objective, theta):
    return float(objective.at(theta).gradient().norm())


@pytest.mark.parametrize(("count", "percent", "moved"), [(72, 20, 14), (40, 10, 4), (10, 0, 0), (10, 100, 10)])
def test_so_many_texts_are_exchanged_and_each_is_still_there_once(count, percent, moved):
    whose = exchange(count, percent, np.random.default_rng(3))
    assert sorted(whose.tolist()) == list(range(count))
    assert int((whose != np.arange(count)).sum()) == moved


def test_the_linear_problem_is_at_its_minimum_which_bends_up(problem):
    objective, theta = problem.ecif.objective, problem.ecif.theta
    assert norm_at(objective, theta) <= MINIMUM
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        direction = torch.randn(len(theta), generator=generator, dtype=theta.dtype)
        assert float(direction @ objective.at(theta).hessian(direction)) > 0
    assert len(problem.mismatched) == LINEAR_PAIRS
    assert problem.mismatched.sum() == round(0.2 * LINEAR_PAIRS)


def test_training_again_without_a_pair_ends_at_the_minimum_of_the_others(problem):
    theta = problem.retrained([5])
    assert norm_at(problem.ecif.objective.without([5]), theta) <= MINIMUM
    assert norm_at(problem.ecif.objective, theta) > 1e3 * MINIMUM
    assert problem.loss(theta) != problem.loss(problem.ecif.theta)


def test_a_seed_is_a_problem_and_another_seed_another(problem):
    again, other = linear(0, curvature="hessian"), linear(1, curvature="hessian")
    assert torch.equal(again.ecif.theta, problem.ecif.theta)
    assert problem.loss(other.ecif.theta) != problem.loss(problem.ecif.theta)


def test_accuracy_is_that_of_both_directions_on_pairs_not_trained_on(problem):
    named = problem.ecif.objective.named(problem.ecif.theta)
    at = problem.ecif.towers.embed(problem.held_out, named)
    cosines = (at.texts @ at.images.T).tolist()
    count = len(cosines)
    right = sum(max(range(count), key=row.__getitem__) == place for place, row in enumerate(cosines))
    right += sum(
        max(range(count), key=lambda row, column=column: cosines[row][column]) == column for column in range(count)
    )
    assert problem.accuracy(problem.ecif.theta) == pytest.approx(right / (2 * count))
    assert 0.1 < problem.accuracy(problem.ecif.theta) < 1


def test_both_curvatures_share_one_preconditioner(problem):
    other = problem.ecif.with_curvature("ggn")
    before = other.preparation.products
    other.direction(problem.query)
    assert other.preparation.products == before


@pytest.mark.slow
def test_the_embedded_problem_is_at_its_minimum_with_scenes_of_its_own_for_every_seed():
    first, second = (embedded(seed, pairs=40, curvature="hessian") for seed in (0, 1))
    assert norm_at(first.ecif.objective, first.ecif.theta) <= MINIMUM
    assert 0 < first.mismatched.sum() <= 8
    assert len(first.held_out) == 300
    images = torch.cat([one.ecif.data.images for one in (first, second)])
    assert len(images.unique(dim=0)) > 70
