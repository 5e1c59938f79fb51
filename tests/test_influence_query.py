"""What influence is asked about, against plain floats; and what is refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.oracles import influence as slow
from vdd._check import UserError
from vdd.influence.ecif import ECIF
from vdd.influence.encoders import Embeddings, Towers
from vdd.influence.loss import Contrastive, Sigmoid
from vdd.influence.query import Choice, ValidationPairs

SCALE, BIAS = 3.0, -0.5


def embeddings(texts, images):
    generator = torch.Generator().manual_seed(2)
    units = [
        nn.functional.normalize(torch.randn(n, 4, generator=generator, dtype=torch.float64), dim=1)
        for n in (texts, images)
    ]
    return Embeddings(*units, torch.tensor([SCALE, BIAS], dtype=torch.float64))


def scores(at, image):
    return [
        SCALE * math.fsum(a * b for a, b in zip(text, at.images[image].tolist(), strict=True)) + BIAS
        for text in at.texts.tolist()
    ]


@pytest.mark.parametrize(("name", "loss"), [("contrastive", Contrastive()), ("sigmoid", Sigmoid())])
def test_validation_is_the_mean_loss_of_the_pairs_in_batches_of_one_draw(name, loss):
    at = embeddings(5, 5)
    logits = torch.tensor([scores(at, image) for image in range(5)], dtype=torch.float64).T
    whole = float(slow.batch_loss(name, logits, slow.everything(5)))
    assert float(ValidationPairs(None, None).value(at, loss)) == pytest.approx(whole / 5, rel=1e-12)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(4)).tolist()
    batches = [order[:2], order[2:4], order[4:]]
    parts = [float(slow.batch_loss(name, logits[b][:, b], slow.everything(len(b)))) for b in batches]
    got = float(ValidationPairs(None, None, batch_size=2, seed=4).value(at, loss))
    assert got == pytest.approx(math.fsum(parts) / 5, rel=1e-12)


@pytest.mark.parametrize("right", [[0], [2], [1, 3]])
def test_a_choice_is_the_surprise_at_the_right_texts(right):
    at = embeddings(4, 1)
    chances = [math.exp(score) for score in scores(at, 0)]
    want = -math.log(math.fsum(chances[place] for place in right) / math.fsum(chances))
    assert float(Choice(None, None, right).value(at, Contrastive())) == pytest.approx(want, rel=1e-12)


@pytest.mark.parametrize("right", [[], [0, 1, 2], [3], [-1]])
def test_a_choice_needs_right_texts_among_others(right):
    with pytest.raises(UserError, match=r"right is .* of 3 texts"):
        Choice(None, None, right).value(embeddings(3, 1), Contrastive())


@pytest.mark.parametrize("right", [0, None, "0", [True], [0.5]])
def test_right_texts_are_given_by_their_positions(right):
    with pytest.raises(UserError, match=r"right is .*; wanted positions of the right texts, such as \[0\]"):
        Choice(None, None, right)


def test_validation_needs_two_pairs():
    for texts, images in ((1, 1), (3, 2)):
        with pytest.raises(UserError, match=f"{images} validation images with {texts} texts"):
            ValidationPairs(None, None).value(embeddings(texts, images), Contrastive())


def test_validation_batches_hold_two_pairs_at_least():
    with pytest.raises(UserError, match="batch_size"):
        ValidationPairs(None, None, batch_size=1).value(embeddings(3, 3), Contrastive())


def test_a_query_has_the_gradient_that_recomputation_has():
    world = slow.random_world(6, seed=1)
    towers = Towers(world.image, world.text, log_scale=world.log_scale, bias=world.bias)
    influence = ECIF(towers, towers.pairs(world.images, world.texts), damping=0.1)
    problem = slow.Problem(world, list(towers.parameters), "contrastive", "sum", (), None, 0.0, influence.theta)

    def surprise(theta):
        column = world.logits(problem.at(theta), range(6))[:4, 0]
        return column.logsumexp(0) - column[[1, 2]].logsumexp(0)

    want = torch.func.grad(surprise)(problem.theta())
    got = influence.query_gradient(Choice(world.images[0], world.texts[:4], [1, 2]))
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


def test_images_and_texts_may_be_lists_of_tensors():
    world = slow.random_world(6, seed=1)
    towers = Towers(world.image, world.text, log_scale=world.log_scale)
    pairs = towers.pairs(list(world.images), list(world.texts))
    influence = ECIF(towers, pairs, damping=0.1)
    lists, tensors = (
        influence.query_gradient(ValidationPairs(kind(world.images[:3]), kind(world.texts[:3])))
        for kind in (list, torch.as_tensor)
    )
    assert torch.equal(lists, tensors)
