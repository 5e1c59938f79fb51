"""Encoders as functions of chosen parameters: what is refused, what is frozen, and how derivatives are found."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.oracles import influence as slow
from vdd._check import UserError
from vdd.influence.ecif import ECIF
from vdd.influence.encoders import SCALE_LIMIT, Towers
from vdd.influence.query import ValidationPairs

pytestmark = pytest.mark.filterwarnings("ignore::vdd.influence.ecif.NotOptimalWarning")
COUNT = 6


def world():
    return slow.random_world(COUNT, seed=3)


def towers(image=None, text=None, **settings):
    w = world()
    return Towers(image or w.image, text or w.text, **{"log_scale": w.log_scale, "bias": w.bias} | settings)


def scores(of, damping=0.5, **settings):
    w = world()
    influence = ECIF(of, of.pairs(w.images, w.texts), damping=damping, batch_size=3, partitions=1, **settings)
    return influence.scores(ValidationPairs(w.images[:4], w.texts[:4])).total


def test_chosen_parameters_alone_are_spoken_of_and_no_graph_of_the_others_is_kept():
    some = towers(params=r"image\.2|log_scale")
    assert list(some.parameters) == ["log_scale", "image.2.weight", "image.2.bias"]
    w = world()
    point = ECIF(some, some.pairs(w.images, w.texts), damping=0.5).point
    vector = torch.ones_like(point.theta)
    for value in (point.gradient(), point.gauss_newton(vector), point.hessian(vector), *point.removal([1], "exact")):
        assert not value.requires_grad


def test_functions_without_parameters_may_stand_for_an_encoder():
    w = world()
    frozen = w.text.requires_grad_(False)
    by_function = towers(text=lambda given: frozen(given), params="image")
    torch.testing.assert_close(scores(by_function), scores(towers(params="image")), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("scale", [math.log(100), 4.7])
def test_a_logit_scale_at_its_limit_is_frozen(scale):
    at_limit = towers(log_scale=nn.Parameter(torch.tensor(scale)), params="scale|image")
    assert "log_scale" not in at_limit.parameters
    below = towers(log_scale=nn.Parameter(torch.tensor(SCALE_LIMIT - 0.01, dtype=torch.float64)))
    assert "log_scale" in below.parameters


def test_a_scale_that_is_a_number_is_as_exact_as_the_parameters_are():
    w = world()
    of = towers(log_scale=0.7, bias=0.1)
    at = of.embed(of.pairs(w.images, w.texts), of.parameters)
    assert at.joint.tolist() == pytest.approx([math.exp(0.7), 0.1], rel=1e-15)


@pytest.mark.parametrize(
    ("layer", "what"), [(nn.BatchNorm1d(2), "batch normalisation"), (nn.Dropout(0.25), "dropout of 0.25")]
)
def test_batch_normalisation_and_dropout_are_refused_where_active_and_taken_in_eval_mode(layer, what):
    encoder = nn.Sequential(nn.Linear(3, 2), layer).double().train()
    with pytest.raises(UserError, match=f"{what} active.*eval mode"):
        towers(image=encoder)
    of = towers(image=encoder.eval())
    assert scores(of).isfinite().all()
    w = world()
    influence = ECIF(of, of.pairs(w.images, w.texts), damping=0.5)
    encoder.train()
    with pytest.raises(UserError, match=what):
        influence.query_gradient(ValidationPairs(w.images, w.texts))


def test_a_dropout_of_0_is_none():
    assert scores(towers(image=nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.0)).double().train())).isfinite().all()


class Sine(torch.autograd.Function):
    """Sine with a gradient and without a forward-mode derivative."""

    @staticmethod
    def forward(x):
        return x.sin()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved_tensors[0].cos()


class Waves(nn.Module):
    """A linear layer and a sine."""

    def __init__(self, given, sine, seed):
        super().__init__()
        self.layer, self.sine = nn.Linear(given, 3).double(), sine
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)

    def forward(self, given):
        return self.sine(self.layer(given))


@pytest.mark.parametrize(
    ("which", "curvature"),
    [
        ("image", "hessian"),
        pytest.param("text", "ggn", marks=pytest.mark.slow),
        pytest.param("image", "ggn", marks=pytest.mark.slow),
        pytest.param("text", "hessian", marks=pytest.mark.slow),
    ],
)
def test_an_operation_without_a_forward_mode_is_differentiated_by_central_differences(which, curvature):
    def pair(image, text):
        return towers(image=Waves(3, image, 1), text=Waves(2, text, 2))

    image = Sine.apply if which == "image" else torch.sin
    text = Sine.apply if which == "text" else torch.sin
    damping = 200.0 if curvature == "hessian" else 0.5  # far from a minimum the Hessian bends down without it
    settings = {"curvature": curvature, "damping": damping, "tolerance": 1e-8}
    got = scores(pair(image, text), **settings)
    want = scores(pair(torch.sin, torch.sin), **settings)
    assert float((got - want).abs().max()) < 1e-5 * float(want.abs().max())


def test_another_error_in_an_encoder_is_no_reason_for_central_differences():
    def broken(given):
        if torch.is_grad_enabled():
            return given
        raise RuntimeError("the disc is full")

    w = world()
    of = towers(text=broken, params="image")
    with pytest.raises(RuntimeError, match="the disc is full"):
        of.tangents(of.pairs(w.images, w.texts), of.parameters, of.parameters)


def test_embeddings_are_of_unit_length_and_in_order_whatever_the_chunk():
    w = world()
    for chunk in (1, 4, COUNT):
        of = towers(chunk=chunk)
        at = of.embed(of.pairs(w.images, w.texts), of.parameters)
        torch.testing.assert_close(at.texts, F.normalize(w.text(w.texts), dim=1).detach(), rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(at.images, F.normalize(w.image(w.images), dim=1).detach(), rtol=1e-13, atol=1e-13)


def test_some_of_the_pairs_are_those_pairs():
    w = world()
    of = towers()
    some = of.pairs(w.images, w.texts, ids=list("abcdef")).at(torch.tensor([4, 1]))
    assert some.ids == ["e", "b"]
    assert torch.equal(some.images[torch.tensor([1, 0])], w.images[[1, 4]])
    twice = some.at(torch.tensor([1]))
    assert torch.equal(twice.texts[torch.tensor([0])], w.texts[[1]])


def test_texts_that_are_the_same_are_known_as_such():
    w = world()
    w.texts[5] = w.texts[2]
    alike = towers().pairs(w.images, w.texts).texts_alike.tolist()
    assert alike[5] == alike[2]
    assert len(set(alike)) == COUNT - 1


def test_values_that_are_no_numbers_are_said_to_be_where_they_are():
    of = towers()
    pairs = of.pairs(torch.ones(3, 3, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64), ["a", "b", "c"])
    pairs.images[1, 0] = math.nan
    with pytest.raises(UserError, match="of 1 of 3 images are NaN or infinite, the first of them of pair 'b'"):
        of.embed(pairs, of.parameters)
    with pytest.raises(UserError, match=r"text.* has values that are NaN or infinite"):
        of.with_parameters({name: value / ("text" not in name) for name, value in of.parameters.items()})
    with pytest.raises(UserError, match=r"exp\(log_scale\), bias has values that are NaN"):
        towers(log_scale=1e4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"params": "no such"}, "no parameter has such a name; there are log_scale, bias, image"),
        ({"params": "("}, "no regular expression"),
        ({"chunk": 0}, "chunk"),
        ({"log_scale": nn.Parameter(torch.tensor(1.0)), "params": ".*"}, "2 types or devices"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        towers(**settings)


def test_pairs_that_are_none_are_refused():
    w = world()
    of = towers()
    with pytest.raises(UserError, match="6 images, 5 texts"):
        of.pairs(w.images, w.texts[:5])
    with pytest.raises(UserError, match="1 ids occur twice"):
        of.pairs(w.images, w.texts, ids=[1, 2, 3, 4, 5, 1])
