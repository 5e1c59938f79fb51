"""CLIP and SigLIP as towers: cached features give what whole encoders give, whatever parameters are chosen."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPVisionConfig,
    SiglipConfig,
    SiglipModel,
    SiglipTextConfig,
    SiglipVisionConfig,
)

from vdd._check import UserError
from vdd.influence.ecif import ECIF
from vdd.influence.query import Choice, ValidationPairs
from vdd.influence.towers import HubTowers
from vdd.toy import load_clip
from vdd.toy.model import BOS, EOS, PAD, build_image_processor, build_tokenizer, vocabulary
from vdd.toy.scenes import caption, render, scene_at

pytestmark = pytest.mark.filterwarnings("ignore::vdd.influence.ecif.NotOptimalWarning")
COUNT = 6
#: The parameters that "heads" speaks of, by their names in the whole towers.
HEADS = {
    "clip": r"projection|log_scale",
    "siglip": r"head\.(layernorm|mlp)|text_model\.head|log_scale|^bias$",
}
SHAPE = {"hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}


def scenes(count=COUNT):
    shown = [scene_at("dev", index) for index in range(count)]
    return [render(scene) for scene in shown], [caption(scene) for scene in shown]


def tools():
    processor = build_image_processor()
    processor.size, processor.crop_size = {"shortest_edge": 16}, {"height": 16, "width": 16}
    return SimpleNamespace(image_processor=processor, tokenizer=build_tokenizer(close=True))


def tiny(kind, **settings):
    """A random model of a few hundred parameters, in float64 and eval mode."""
    words = vocabulary()
    special = {
        "bos_token_id": words.index(BOS),
        "eos_token_id": words.index(EOS),
        "pad_token_id": words.index(PAD),
        "vocab_size": len(words),
    }
    text = SHAPE | special | {"max_position_embeddings": 60} | settings
    vision = SHAPE | {"image_size": 16, "patch_size": 8} | settings
    with torch.random.fork_rng(devices=[]):
        if kind == "clip":
            text, vision = (
                one(**(given | {"projection_dim": 5})).to_dict()
                for one, given in ((CLIPTextConfig, text), (CLIPVisionConfig, vision))
            )
            model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=5))
        else:
            model = SiglipModel(
                SiglipConfig(
                    text_config=SiglipTextConfig(**text).to_dict(), vision_config=SiglipVisionConfig(**vision).to_dict()
                )
            )
    generator = torch.Generator().manual_seed(1)
    for name, parameter in sorted(model.named_parameters()):
        parameter.data.normal_(std=0.5, generator=generator)
        if name.startswith("logit"):
            parameter.data.fill_(1.0)
    return model.double().eval()


def towers(kind, params="heads", **settings):
    if kind == "embedded":
        return HubTowers(*load_clip(dtype=torch.float64), params=params)
    return HubTowers(tiny(kind, **settings), tools(), params=params, chunk=4)


def scores(of, count=COUNT, **settings):
    images, texts = scenes(count)
    influence = ECIF(
        of, of.pairs(images, texts), **{"damping": 30.0, "batch_size": 3, "partitions": 2, "rank": 4} | settings
    )
    return influence, influence.scores(ValidationPairs(images[:4], texts[:4]))


MORE_EDITED = [("siglip", "heads"), ("clip", r"layers\.1\.mlp\.fc1")]
SLOW_SIGLIP = pytest.mark.parametrize("kind", ["clip", pytest.param("siglip", marks=pytest.mark.slow)])
KIND = pytest.mark.parametrize("kind", ["clip", "siglip", "embedded"])


@pytest.fixture
def double():
    """torch's default type is float64, without which CLIP of transformers 4 cannot run in it."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@KIND
@pytest.mark.usefixtures("double")
def test_features_and_heads_give_the_models_own_embeddings_and_logits(kind):
    images, texts = scenes()
    heads = towers(kind)
    whole = towers(kind, "all")
    at, again = (of.embed(of.pairs(images, texts), of.parameters) for of in (heads, whole))
    for name in ("texts", "images", "joint"):
        torch.testing.assert_close(getattr(at, name), getattr(again, name), rtol=1e-10, atol=1e-10)
    pixels = heads.processor.image_processor(images=images, return_tensors="pt").pixel_values.double()
    ids = heads.processor.tokenizer(texts, return_tensors="pt", padding="max_length", max_length=60, truncation=True)
    with torch.no_grad():
        own = heads.model(input_ids=ids.input_ids, pixel_values=pixels)
    torch.testing.assert_close(at.texts, F.normalize(own.text_embeds, dim=-1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(at.images, F.normalize(own.image_embeds, dim=-1), rtol=1e-9, atol=1e-9)
    logits = at.joint[0] * at.texts @ at.images.T + at.joint[1]
    torch.testing.assert_close(logits, own.logits_per_text, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [pytest.param("clip", marks=pytest.mark.slow), "siglip"])
def test_heads_on_features_have_the_scores_of_the_same_parameters_in_whole_encoders(kind):
    alone, by_heads = scores(towers(kind), tolerance=1e-10)
    within, by_name = scores(towers(kind, HEADS[kind]), tolerance=1e-10)
    assert len(alone.theta) == len(within.theta)
    torch.testing.assert_close(by_heads.total, by_name.total, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(by_heads.pos, by_name.pos, rtol=1e-8, atol=1e-10)


@SLOW_SIGLIP
def test_all_parameters_are_differentiated_through_attention(kind):
    of = towers(kind, "all")
    assert {id(p) for p in of.model.parameters()} >= {id(p) for p in of._module.parameters()}
    images, texts = scenes()
    point = ECIF(of, of.pairs(images, texts), damping=30.0, batch_size=3, partitions=2, rank=4).point
    direction = torch.randn(len(point.theta), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    step = 1e-5 / direction.norm()
    ahead, behind = (point.objective.at(point.theta + sign * step * direction) for sign in (1, -1))
    slope = float(point.gradient() @ direction)
    assert (ahead.value() - behind.value()) / (2 * step) == pytest.approx(slope, rel=1e-6)
    bend = (ahead.gradient() - behind.gradient()) / (2 * step)
    torch.testing.assert_close(point.hessian(direction), bend, rtol=1e-5, atol=1e-6 * float(bend.abs().max()))
    other = direction.flip(0)
    assert float(other @ point.gauss_newton(direction)) == pytest.approx(float(direction @ point.gauss_newton(other)))


class Adapted(nn.Module):
    """A linear layer with a low-rank addition, its parts named as PEFT names them."""

    def __init__(self, base):
        super().__init__()
        self.base_layer = base
        generator = torch.Generator().manual_seed(4)
        self.lora_A = nn.Linear(base.in_features, 2, bias=False).double()
        self.lora_B = nn.Linear(2, base.out_features, bias=False).double()
        for part in (self.lora_A, self.lora_B):
            part.weight.data = 0.3 * torch.randn(part.weight.shape, generator=generator, dtype=torch.float64)

    def forward(self, given):
        return self.base_layer(given) + self.lora_B(self.lora_A(given))


def test_low_rank_adapters_are_found_by_their_names():
    model = tiny("clip")
    for tower in (model.vision_model, model.text_model):
        attention = tower.encoder.layers[-1].self_attn
        attention.q_proj = Adapted(attention.q_proj)
    model.get_base_model = lambda: model  # as PEFT's wrapper has it
    of = HubTowers(model, tools(), params="lora")
    assert len(of.parameters) == 4
    assert all("lora_" in name for name in of.parameters)
    images, texts = scenes()
    influence = ECIF(of, of.pairs(images, texts), damping=30.0, batch_size=3, partitions=2, rank=4)
    found = influence.scores(ValidationPairs(images[:4], texts[:4]))
    assert found.total.isfinite().all()
    assert found.total.abs().max() > 0
    changed = of.named_in_model(influence.edit([0]))
    assert sorted(changed) == sorted(name for name, _ in model.named_parameters() if "lora_" in name)


def test_a_model_without_adapters_is_told_so():
    with pytest.raises(UserError, match="params is 'lora_'"):
        towers("clip", "lora")


@pytest.mark.parametrize(
    ("kind", "params"),
    [("clip", "heads"), *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE_EDITED)],
)
def test_edited_parameters_load_into_the_model_and_change_nothing_else(kind, params):
    of = towers(kind, params)
    images, texts = scenes()
    influence = ECIF(of, of.pairs(images, texts), damping=30.0, batch_size=3, partitions=2, rank=4)
    edited = influence.edit([1, 4])
    model = copy.deepcopy(of.model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    missing, unexpected = model.load_state_dict(of.named_in_model(edited), strict=False)
    assert not unexpected
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(of.named_in_model(edited))
    assert len(missing) == len(before) - len(changed)
    reader = HubTowers(model, of.processor, params=params)
    for name, value in reader.parameters.items():
        assert torch.equal(value, edited[name])


@pytest.mark.parametrize("params", ["heads", "all"])
def test_a_model_that_trains_with_dropout_is_refused(params):
    model = tiny("clip", attention_dropout=0.1).train()
    with pytest.raises(UserError, match=r"dropout of 0\.1 active.*eval mode"):
        HubTowers(model, tools(), params=params)
    HubTowers(model.eval(), tools(), params=params)


def test_another_family_is_refused_by_its_name():
    with pytest.raises(UserError, match="the model is 'bert'; wanted one of clip, siglip"):
        HubTowers(SimpleNamespace(config=SimpleNamespace(model_type="bert")), tools())
    with pytest.raises(UserError, match="the model is 'Linear'"):
        HubTowers(nn.Linear(2, 2), tools())


def test_a_siglip_without_a_pooling_head_is_refused():
    with pytest.raises(UserError, match=r"no pooling head \(vision_use_head=False\)"):
        HubTowers(tiny("siglip", vision_use_head=False), tools())


@pytest.mark.parametrize("params", ["heads", "all"])
def test_no_inputs_at_all_are_refused(params):
    of = towers("clip", params)
    for use in (of.image_inputs, of.text_inputs, lambda none: of.pairs(none, none)):
        with pytest.raises(UserError, match="no images or no texts"):
            use([])


def test_a_logit_scale_at_clips_clamp_is_frozen():
    model = tiny("clip")
    model.logit_scale.data.fill_(4.6051702)
    assert "log_scale" not in HubTowers(model, tools()).parameters
    assert "log_scale" in towers("clip").parameters


def test_the_embedded_model_traces_a_choice_in_float32_too():
    images, texts = scenes(12)
    found = {}
    for dtype in (torch.float32, torch.float64):
        of = HubTowers(*load_clip(dtype=dtype))
        influence = ECIF(of, of.pairs(images, texts), damping=300.0, batch_size=6, partitions=2, rank=4)
        found[dtype] = influence.scores(Choice(images[0], [texts[0], texts[1]]))
        assert found[dtype].solve.converged
    single, double = (found[dtype].total.double() for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(single, double, rtol=1e-3, atol=1e-3 * float(double.abs().max()))


def test_images_are_read_when_asked_for_and_kept_as_long_as_there_is_room(monkeypatch):
    images, _ = scenes(3)
    of = towers("clip", "all")
    calls = []
    inner = of.processor.image_processor

    def counted(images, return_tensors):
        calls.append(len(images))
        return inner(images=images, return_tensors=return_tensors)

    of.processor.image_processor = counted
    monkeypatch.setattr("vdd.influence.towers.KEPT_PIXELS", 2 * 3 * 16 * 16)
    inputs = of.image_inputs(images)
    assert calls == []
    assert len(inputs) == 3
    first = inputs[torch.arange(3)]
    again = inputs[torch.arange(3)]
    assert torch.equal(first, again)
    assert len(calls) == 3 + 1  # two were kept
