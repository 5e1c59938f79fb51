"""A model as users have it, and its influence."""

from __future__ import annotations

import pytest
import torch

from vdd import toy
from vdd._check import UserError
from vdd.influence import ECIF, HubTowers, Towers, ValidationPairs, influence_of
from vdd.toy.scenes import caption, render, scene_at

SCENES = [scene_at("train", index) for index in range(12)]
PAIRS = [(render(scene), caption(scene)) for scene in SCENES]
HOW = {"damping": 300.0, "partitions": 1, "tolerance": 1e-3}


@pytest.fixture(scope="module")
def embedded():
    return influence_of(data=PAIRS, ids=[f"scene {number}" for number in range(12)], **HOW)


def test_the_embedded_clip_is_what_is_opened_without_a_name(embedded):
    assert isinstance(embedded.towers, HubTowers)
    assert embedded.data.ids[3] == "scene 3"
    query = ValidationPairs([image for image, _ in PAIRS[:6]], [text for _, text in PAIRS[:6]])
    assert embedded.scores_along(*embedded.direction(query)).total.shape == (12,)


def test_a_model_with_its_processor_is_the_same_as_its_name(embedded):
    model, processor = toy.load_clip()
    given = influence_of(model, PAIRS, processor=processor, **HOW)
    assert torch.equal(given.theta, embedded.theta)
    assert torch.equal(given.point.embeddings.images, embedded.point.embeddings.images)


def test_other_parameters_are_asked_for_by_name(embedded):
    one = influence_of("toy", PAIRS, params=r"text_model\.final_layer_norm", **HOW)
    assert len(one.theta) == 2 * 128 < len(embedded.theta)


def test_a_pair_of_encoders_takes_its_own_inputs_and_is_trained_to_the_minimum_where_asked():
    generator = torch.Generator().manual_seed(0)
    images, texts = (torch.randn(10, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    towers = Towers(*(torch.nn.Linear(4, 4, bias=False, dtype=torch.float64) for _ in range(2)), log_scale=1.0)
    towers = towers.with_parameters({name: torch.eye(4, dtype=torch.float64) for name in towers.parameters})
    data = list(zip(images, texts, strict=True))
    assert isinstance(influence_of(towers, data, damping=50.0), ECIF)
    assert influence_of(towers, data, damping=50.0, refit=True).optimality.ratio < 1e-6
    assert influence_of(towers, towers.pairs(images, texts), damping=50.0).objective.pairs.ids == range(10)


def test_a_model_without_its_processor_is_refused():
    with pytest.raises(UserError, match="a CLIPModel came without its processor"):
        influence_of(toy.load_clip()[0], PAIRS)
