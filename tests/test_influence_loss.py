"""The losses of one batch by their logits against slow transcriptions, and where a chance is all but 1."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import jacrev

from tests.oracles import influence as slow
from tests.strategies import grid_logits
from vdd.influence.loss import METHODS, Contrastive, Sigmoid

LOSSES = {"contrastive": Contrastive(), "sigmoid": Sigmoid()}
LOSS = st.sampled_from(sorted(LOSSES))


@st.composite
def batches(draw, most=4):
    """(logits, labels, tangent): (B, B) on a grid, B labels of which some may be equal, (B, B)."""
    size = draw(st.integers(1, most))
    square = st.lists(st.lists(grid_logits(-40, 40), min_size=size, max_size=size), min_size=size, max_size=size)
    labels = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    return tensor(draw(square)), labels, tensor(draw(square))


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def close(got, want, rtol=1e-11, atol=1e-12):
    torch.testing.assert_close(got, want, rtol=rtol, atol=atol)


@settings(max_examples=25)
@given(batches(), LOSS)
def test_values_gradient_and_curvature_are_those_of_the_printed_loss(batch, name):
    logits, labels, tangent = batch
    loss, allowed = LOSSES[name], slow.unlike(labels)
    mask = torch.tensor(allowed)
    close(loss.values(logits, mask).sum(), slow.batch_loss(name, logits, allowed))
    close(loss.gradient(logits, mask), jacrev(lambda s: slow.batch_loss(name, s, allowed))(logits))
    bend = slow.logit_hessian(name, logits, allowed)
    close(loss.curvature(logits, mask, tangent).flatten(), bend @ tangent.flatten(), atol=1e-11)


@settings(max_examples=25)
@given(batches(), LOSS, st.sampled_from(METHODS))
def test_what_each_pair_takes_out_is_the_derivative_of_the_loss_minus_the_loss_without_it(batch, name, method):
    logits, labels, tangent = batch
    allowed = slow.unlike(labels)
    pos, neg = LOSSES[name].removal(logits, torch.tensor(allowed), tangent, method)
    for n in range(len(labels)):
        own, total = (
            slow.along(lambda s, k=k, n=n: slow.leaves(name, s, allowed, [n], "sum", method)[k], logits, tangent)
            for k in (0, 1)
        )
        assert float(pos[n]) == pytest.approx(own, rel=1e-10, abs=1e-11)
        assert float(pos[n] + neg[n]) == pytest.approx(total, rel=1e-10, abs=1e-11)


@settings(max_examples=25)
@given(batches(), LOSS, st.sampled_from(METHODS), st.data())
def test_a_groups_gradient_is_that_of_the_loss_minus_the_loss_without_all_of_it(batch, name, method, data):
    logits, labels, _ = batch
    allowed = slow.unlike(labels)
    leaving = data.draw(st.lists(st.integers(0, len(labels) - 1), min_size=1, unique=True))
    flags = torch.zeros(len(labels), dtype=torch.bool)
    flags[leaving] = True
    pos, neg = LOSSES[name].removal_gradient(logits, torch.tensor(allowed), flags, method)
    own, total = (jacrev(lambda s, k=k: slow.leaves(name, s, allowed, leaving, "sum", method)[k]) for k in (0, 1))
    close(pos, own(logits))
    close(pos + neg, total(logits))


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_stack_of_batches_gives_what_each_gives_alone(name):
    logits, tangent = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(3, 4, 4, dtype=torch.bool)
    mask[1, 0, 2] = mask[1, 2, 0] = False
    loss = LOSSES[name]
    for place in range(3):
        one = logits[place], mask[place]
        close(loss.values(logits, mask)[place], loss.values(*one))
        close(loss.curvature(logits, mask, tangent)[place], loss.curvature(*one, tangent[place]))
        for got, want in zip(
            loss.removal(logits, mask, tangent, "exact"), loss.removal(*one, tangent[place], "exact"), strict=True
        ):
            close(got[place], want)


def test_the_first_order_is_exact_where_terms_are_pairwise():
    logits, tangent = torch.randn(2, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mask = torch.ones(5, 5, dtype=torch.bool)
    for got, want in zip(
        Sigmoid().removal(logits, mask, tangent, "zeta"), Sigmoid().removal(logits, mask, tangent, "exact"), strict=True
    ):
        assert torch.equal(got, want)


def certain(height, size=5):
    """Logits of which each row has one at +height, mostly off the diagonal, the others at −height with small steps."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randint(-8, 9, (size, size), generator=generator).double() / 8 - height
    for row, column in enumerate([1, 0, 2, 4, 1]):
        logits[row, column] = height
    return logits, torch.randint(-16, 17, (size, size), generator=generator).double() / 8


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("method", METHODS)
def test_a_chance_of_all_but_1_leaves_scores_finite_and_right_in_float64(name, method):
    logits, tangent = certain(500.0)
    allowed = slow.everything(5)
    mask = torch.tensor(allowed)
    pos, neg = LOSSES[name].removal(logits, mask, tangent, method)
    for n in range(5):
        _, total = slow.leaves(name, logits, allowed, [n], "sum", method)
        assert math.isfinite(float(total))
        want = slow.along(lambda s, n=n: slow.leaves(name, s, allowed, [n], "sum", method)[1], logits, tangent)
        assert float(pos[n] + neg[n]) == pytest.approx(want, rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("method", METHODS)
def test_a_chance_of_all_but_1_leaves_scores_finite_and_right_in_float32(name, method):
    logits, tangent = certain(80.0)
    mask = torch.ones(5, 5, dtype=torch.bool)
    got = LOSSES[name].removal(logits.float(), mask, tangent.float(), method)
    want = LOSSES[name].removal(logits, mask, tangent, method)
    for a, b in zip(got, want, strict=True):
        assert a.dtype == torch.float32
        close(a.double(), b, rtol=1e-5, atol=1e-5)
    leaving = torch.tensor([True, False, False, True, False])
    for a, b in zip(
        LOSSES[name].removal_gradient(logits.float(), mask, leaving, method),
        LOSSES[name].removal_gradient(logits, mask, leaving, method),
        strict=True,
    ):
        close(a.double(), b, rtol=1e-5, atol=1e-5)


def test_the_part_as_a_positive_keeps_its_digits_where_the_pair_is_almost_certain():
    logits = torch.zeros(3, 3)
    logits.fill_diagonal_(14.0)
    mask = torch.ones(3, 3, dtype=torch.bool)
    tangent = torch.tensor([[3.0, 1.0, -2.0], [0.5, 2.0, 1.5], [1.0, -1.0, 1.0]])
    got = Contrastive().removal(logits, mask, tangent, "exact")[0]
    want = Contrastive().removal(logits.double(), mask, tangent.double(), "exact")[0]
    close(got.double(), want, rtol=1e-5, atol=0)


def test_a_masked_pair_is_no_negative_of_its_like():
    logits = torch.zeros(3, 3, dtype=torch.float64)
    mask = torch.tensor(slow.unlike([0, 0, 1]))
    tangent = torch.zeros(3, 3, dtype=torch.float64)
    tangent[0, 1] = 1.0  # text 0 with image 1, which has the same text
    for loss in LOSSES.values():
        assert not torch.stack(loss.removal(logits, mask, tangent, "exact")).any()
        unmasked = torch.stack(loss.removal(logits, torch.ones(3, 3, dtype=torch.bool), tangent, "exact"))
        assert unmasked.any()


def test_gradient_and_curvature_keep_their_digits_where_pairs_are_almost_certain():
    logits = torch.tensor([[14.0, 0.0, 1.0], [0.0, 15.0, -1.0], [2.0, 13.0, 0.0]])  # text 2 goes with image 1
    mask = torch.ones(3, 3, dtype=torch.bool)
    tangent = torch.tensor([[3.0, 1.0, -2.0], [0.5, 2.0, 1.5], [1.0, -1.0, 1.0]])
    loss = Contrastive()
    close(loss.gradient(logits, mask).double(), loss.gradient(logits.double(), mask), rtol=1e-5, atol=0)
    got = loss.curvature(logits, mask, tangent).double()
    close(got, loss.curvature(logits.double(), mask, tangent.double()), rtol=1e-5, atol=0)
    leaving = torch.tensor([True, False, False])
    got = loss.removal_gradient(logits, mask, leaving, "exact")[0].double()
    close(got, loss.removal_gradient(logits.double(), mask, leaving, "exact")[0], rtol=1e-5, atol=0)
