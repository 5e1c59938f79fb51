"""The objective's derivatives, and what pairs take out of it, against whole matrices and recomputation in float64."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

import vdd.influence.objective
from tests.oracles import influence as slow
from vdd.influence.encoders import Towers
from vdd.influence.loss import METHODS, Contrastive, Sigmoid
from vdd.influence.objective import NORMALISERS, Batches, Objective, flat, partition

COUNT = 7
PARTITIONS = ([[0, 4, 1], [6, 2], [5, 3]], [[3, 1], [2, 0, 5, 4], [6]])
"""Of uneven sizes; pairs 1 and 4, which have one text, share a batch of the first and not of the second."""
LABELS = [0, 1, 2, 3, 1, 5, 6]
LOSSES = {"contrastive": Contrastive(), "sigmoid": Sigmoid()}


def grouped(batches, weigh):
    """Batches as the objective holds them, stacked by size."""
    return [
        Batches(
            torch.tensor(same := [batch for batch in batches if len(batch) == size]),
            torch.tensor([weigh(size)] * len(same), dtype=torch.float64),
        )
        for size in sorted({len(batch) for batch in batches})
    ]


def both(loss="contrastive", normaliser="sum", masked=True, *, chunk=256, world=None, partitions=PARTITIONS):
    """(the objective at the parameters of a random world, the same as the oracle has it)."""
    world = world or make_world()
    towers = Towers(world.image, world.text, log_scale=world.log_scale, bias=world.bias, loss=LOSSES[loss], chunk=chunk)
    pairs = towers.pairs(world.images, world.texts)
    theta = flat(towers.parameters)
    bare = Objective(towers, pairs, (), normaliser, masked, 0.3, theta - 0.1)
    objective = replace(bare, partitions=[grouped(batches, bare.weigh) for batches in partitions])
    labels = pairs.texts_alike.tolist() if masked else None
    want = slow.Problem(world, list(towers.parameters), loss, normaliser, partitions, labels, 0.3, theta - 0.1)
    return objective.at(theta), want


def make_world():
    world = slow.random_world(COUNT, seed=5)
    world.texts[4] = world.texts[1]
    return world


def direction(size, seed=0):
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def relative(got, want):
    """The largest difference in units of the largest value."""
    return float((got - want).abs().max() / want.abs().max())


every_objective = pytest.mark.parametrize(
    ("loss", "normaliser", "masked"), list(itertools.product(sorted(LOSSES), NORMALISERS, (True, False)))
)
DEFAULT = {("contrastive", "sum", True), ("contrastive", "renormalised", False), ("sigmoid", "fixed", False)}
most_are_slow = pytest.mark.parametrize(
    ("loss", "normaliser", "masked"),
    [
        pytest.param(*one, marks=() if one in DEFAULT else pytest.mark.slow)
        for one in itertools.product(sorted(LOSSES), NORMALISERS, (True, False))
    ],
)
some_objectives = pytest.mark.parametrize(
    ("loss", "normaliser", "masked"), [("contrastive", "sum", True), ("sigmoid", "fixed", False)]
)


@every_objective
def test_value_and_gradient_are_those_of_the_printed_objective(loss, normaliser, masked):
    point, want = both(loss, normaliser, masked)
    assert point.value() == pytest.approx(float(want.value(want.theta())), rel=1e-12)
    assert relative(point.gradient(), want.gradient()) < 1e-12


@some_objectives
def test_the_gauss_newton_product_is_that_of_the_explicit_matrix(loss, normaliser, masked):
    point, want = both(loss, normaliser, masked)
    matrix = want.gauss_newton()
    got = torch.stack([point.gauss_newton(column) for column in torch.eye(len(matrix), dtype=torch.float64)])
    assert relative(got, matrix) < 1e-12
    assert relative(got, got.T) < 1e-12
    bare = got - 0.3 * torch.eye(len(got), dtype=torch.float64)
    assert float(torch.linalg.eigvalsh(bare).min()) > -1e-12 * float(bare.abs().max())


@pytest.mark.parametrize(
    ("loss", "normaliser", "masked"),
    [("contrastive", "sum", True), pytest.param("sigmoid", "fixed", False, marks=pytest.mark.slow)],
)
def test_the_hessian_product_is_that_of_the_explicit_matrix(loss, normaliser, masked):
    point, want = both(loss, normaliser, masked)
    matrix = want.hessian()
    got = torch.stack([point.hessian(column) for column in torch.eye(len(matrix), dtype=torch.float64)])
    assert relative(got, matrix) < 1e-12
    assert relative(got, got.T) < 1e-12


@pytest.mark.parametrize("method", METHODS)
@most_are_slow
def test_every_pairs_scores_are_derivatives_of_the_loss_minus_the_loss_without_it(loss, normaliser, masked, method):
    point, want = both(loss, normaliser, masked)
    along = direction(len(point.theta))
    pos, neg = point.sweep(point.tangents(along), method)
    own, total = zip(*(want.removal_gradients([n], method) for n in range(COUNT)), strict=True)
    assert relative(pos, torch.stack(own, 1) @ along) < 1e-10
    assert relative(pos + neg, torch.stack(total, 1) @ along) < 1e-10


GROUPS = {
    "of one pair": [4],
    "in one batch": [0, 1],
    "over several batches": [1, 2, 3, 5],
    "that is a whole batch": [2, 6],
    "with more than a batch": [0, 1, 4, 3],
}


@pytest.mark.parametrize("group", GROUPS.values(), ids=list(GROUPS))
@pytest.mark.parametrize(
    ("loss", "normaliser", "masked", "method"),
    [
        pytest.param("contrastive", "sum", True, "exact", marks=pytest.mark.slow),
        ("contrastive", "sum", False, "zeta"),
        ("contrastive", "fixed", False, "positive_only"),
        ("contrastive", "renormalised", True, "exact"),
        pytest.param("contrastive", "renormalised", False, "zeta", marks=pytest.mark.slow),
        ("sigmoid", "renormalised", True, "exact"),
        pytest.param("sigmoid", "fixed", False, "zeta", marks=pytest.mark.slow),
    ],
)
def test_a_groups_removal_is_the_derivative_of_the_loss_minus_the_loss_without_it(
    loss, normaliser, masked, method, group
):
    point, want = both(loss, normaliser, masked)
    own, total = want.removal_gradients(group, method)
    pos, neg = point.removal(group, method)
    assert relative(pos, own.mean(0)) < 1e-10
    assert relative(pos + neg, total.mean(0)) < 1e-10
    along = direction(len(point.theta))
    pos, neg = point.removal_along(group, point.tangents(along), method)
    assert relative(pos, own @ along) < 1e-10
    assert relative(pos + neg, total @ along) < 1e-10


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_what_is_left_without_a_group_is_the_objective_less_what_the_group_takes_out(loss, normaliser):
    point, want = both(loss, normaliser)
    for group in GROUPS.values():
        rest = point.objective.without(group).at(point.theta)
        _, gone = want.removed(point.theta, group, "exact")
        assert rest.value() == pytest.approx(point.value() - float(gone.mean()), rel=1e-12)
        pos, neg = point.removal(group, "exact")
        assert relative(rest.gradient(), point.gradient() - pos - neg) < 1e-12


def results(point, batch_tangent_seed=1):
    along = direction(len(point.theta), batch_tangent_seed)
    sweep = point.sweep(point.tangents(along), "exact")
    return [point.gradient(), point.gauss_newton(along), point.hessian(along), *sweep, *point.removal([0, 4], "exact")]


@pytest.mark.parametrize("chunk", [1, 3])
def test_nothing_depends_on_how_many_inputs_an_encoder_reads_at_once(chunk):
    for got, want in zip(results(both(chunk=chunk)[0]), results(both()[0]), strict=True):
        assert relative(got, want) < 1e-13


def test_nothing_depends_on_how_many_batches_are_held_at_once(monkeypatch):
    want = results(both()[0])
    monkeypatch.setattr(vdd.influence.objective, "CELLS", 1)
    for got, old in zip(results(both()[0]), want, strict=True):
        assert relative(got, old) < 1e-13


def test_pairs_in_another_order_have_the_same_scores_in_that_order():
    order = [3, 6, 0, 5, 1, 2, 4]
    moved = make_world()
    moved.images, moved.texts = moved.images[order], moved.texts[order]
    partitions = [[[order.index(pair) for pair in reversed(batch)] for batch in one] for one in PARTITIONS]
    straight, turned = both()[0], both(world=moved, partitions=partitions)[0]
    along = direction(len(straight.theta))
    assert relative(turned.gauss_newton(along), straight.gauss_newton(along)) < 1e-13
    for got, want in zip(
        turned.sweep(turned.tangents(along), "exact"), straight.sweep(straight.tangents(along), "exact"), strict=True
    ):
        assert relative(got, want[:, order]) < 1e-12


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_two_identical_pairs_in_one_batch_have_equal_scores(loss, masked):
    world = make_world()
    world.images[4] = world.images[1]
    point, want = both(loss, masked=masked, world=world, partitions=[[[0, 4, 1, 2], [3, 5, 6]]])
    along = direction(len(point.theta))
    pos, neg = point.sweep(point.tangents(along), "exact")
    for part in (pos, neg):
        assert float(part[0, 1]) == pytest.approx(float(part[0, 4]), rel=1e-12)
    _, total = want.removal_gradients([1], "exact")
    assert float((pos + neg)[0, 1]) == pytest.approx(float(total[0] @ along), rel=1e-10)


def test_a_duplicate_that_is_a_negative_counts_otherwise_than_one_that_is_masked():
    along = direction(len(both()[0].theta))
    masked, negatives = (
        sum(point.sweep(point.tangents(along), "exact")) for point, _ in (both(masked=True), both(masked=False))
    )
    assert (masked - negatives)[0, [1, 4]].abs().min() > 1e-3  # they share a batch of the first partition
    assert torch.equal(masked[1], negatives[1])  # and none of the second


def test_a_pairs_cosine_and_own_terms_are_those_of_the_world():
    for loss in LOSSES:
        point, want = both(loss, "fixed", masked=False)
        cosine, terms = point.pair_figures()
        logits = want.world.logits(want.at(point.theta), range(COUNT))
        scale, bias = want.world.log_scale.exp(), want.world.bias
        assert relative(cosine, ((logits.diagonal() - bias) / scale).detach()) < 1e-12
        if loss == "contrastive":
            own = [0.0] * COUNT
            for batch in itertools.chain(*PARTITIONS):
                inside = logits[batch][:, batch]
                for place, pair in enumerate(batch):
                    own[pair] += float(slow.positive(loss, inside, slow.everything(len(batch)), place)) / 2
            assert relative(terms, torch.tensor(own, dtype=torch.float64)) < 1e-12


@pytest.mark.parametrize(("count", "size"), [(7, 3), (8, 4), (5, 8), (9, 2)])
def test_a_partition_holds_every_pair_once_in_batches_of_nearly_one_size(count, size):
    groups = partition(count, size, float, torch.Generator().manual_seed(0))
    sizes = [group.size for group in groups for _ in group.places]
    assert sorted(torch.cat([group.places.flatten() for group in groups]).tolist()) == list(range(count))
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    for group in groups:
        assert group.weight.tolist() == [float(group.size)] * len(group.places)
