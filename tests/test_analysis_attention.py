"""Attention's shares: those of one full forward; they add up to 1; the model is left as it was."""

from __future__ import annotations

import copy
import weakref

import pytest
import torch

from tests.oracles.attention import masses
from tests.zoo import EVERY, MEMBERS, picture
from vdd._check import UserError
from vdd.analysis.attention import CLASSES, watching
from vdd.config import SamplingConfig
from vdd.pipeline import Pipeline

ASKED = "is there a fox in the image ?"
STEPS = 3
SINGLE = 2e-6
"""transformers takes the softmax over attention scores in float32, whatever the model's dtype."""
BY_NAME = {member.name: member for member in MEMBERS}


def looked(model, processor, inputs, *, steps=STEPS):
    with watching(Pipeline(model, processor)) as watch:
        return watch.look(inputs, max_new_tokens=steps)


def hooks(model):
    return sum(len(part._forward_hooks) for part in model.modules())


def implementations(model):
    return [part.config._attn_implementation for part in model.modules() if hasattr(part, "config")]


def with_tokens(inputs, tokens):
    """One row of inputs with an answer behind it; the last token is what the last step chose, nobody reads it."""
    more = torch.tensor([list(tokens[:-1])], dtype=torch.long)
    given = dict(inputs)
    given["input_ids"] = torch.cat([given["input_ids"], more], dim=1)
    for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
        if name in given:
            fill = torch.ones_like(more) if name == "attention_mask" else torch.zeros_like(more)
            given[name] = torch.cat([given[name], fill], dim=1)
    if "cross_attention_mask" in given:
        row = given["cross_attention_mask"]
        given["cross_attention_mask"] = torch.cat([row, *[row[:, -1:]] * (len(tokens) - 1)], dim=1)
    return given


def eager_copy(model):
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    return model


def test_every_share_is_that_of_one_full_forward_that_gives_all_weights(llava):
    model, processor = llava
    inputs = Pipeline(model, processor).inputs([picture(1)], [ASKED])
    found = looked(model, processor, inputs)
    specials = set(processor.tokenizer.all_special_ids) - {4}
    classes = [0 if token == 4 else 2 if token in specials else 1 for token in inputs["input_ids"][0].tolist()]
    want = masses(eager_copy(model), with_tokens(inputs, found.tokens), classes, found.tokens, specials)
    torch.testing.assert_close(found.seen, torch.tensor(want, dtype=torch.float64), rtol=0, atol=SINGLE)
    ids = processor.tokenizer(f"<s>USER: {ASKED} ASSISTANT:", add_special_tokens=False, return_tensors="pt").input_ids
    classes = [2 if token in specials else 1 for token in ids[0].tolist()]
    blind = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    want = masses(eager_copy(model), with_tokens(blind, found.tokens), classes, found.tokens, specials)
    torch.testing.assert_close(found.blind, torch.tensor(want, dtype=torch.float64), rtol=0, atol=SINGLE)


@pytest.mark.parametrize(
    ("name", "weights", "cross"),
    [
        ("Qwen2.5-VL", [0, 1], ()),  # positions of its own for image tokens
        ("Gemma3", [0, 1], ()),  # a sliding window; an image read in both directions
        ("Qwen3.5", [3], ()),  # linear attention in the other layers
        ("Mllama", [0, 1, 2], (1,)),  # the image beside the prompt
    ],
)
def test_other_families_shares_are_those_of_a_full_forward_too(name, weights, cross):
    member = BY_NAME[name]
    if not member.available:
        pytest.skip(f"the installed transformers has no {name}")
    model, processor = member.build()
    inputs = Pipeline(model, processor).inputs([picture(1)], [ASKED])
    found = looked(model, processor, inputs)
    ids = inputs["input_ids"]
    image = member.image_places(model, inputs)[0].tolist()
    family = Pipeline(model, processor).family
    specials = (set(processor.tokenizer.all_special_ids) | family.frame_ids) - set(ids[0][image].tolist())
    rows = zip(ids[0].tolist(), image, strict=True)
    classes = [(2 if cross else 0) if own else 2 if token in specials else 1 for token, own in rows]
    given = with_tokens(inputs, found.tokens)
    want = masses(eager_copy(model), given, classes, found.tokens, specials, cross=cross)
    torch.testing.assert_close(found.seen[:, weights], torch.tensor(want, dtype=torch.float64), rtol=0, atol=SINGLE)
    others = [layer for layer in range(found.seen.shape[1]) if layer not in weights]
    assert found.seen[:, others].isnan().all()


def test_in_single_precision_the_three_shares_add_up_to_one(toy):
    model, processor = toy
    found = looked(model, processor, Pipeline(model, processor).inputs([picture(3, 96, 96)], [ASKED]), steps=8)
    for mass in (found.seen, found.blind):
        assert (mass.sum(dim=-1) - 1).abs().max() < 1e-6
        assert mass.min() >= 0
    assert found.blind[..., CLASSES.index("image")].max() == 0
    assert found.seen[..., CLASSES.index("image")].min() > 0


def test_the_answer_that_is_followed_is_the_models_plain_one(toy):
    model, processor = toy
    pipeline = Pipeline(model, processor)
    inputs = pipeline.inputs([picture(3, 96, 96)], ["Is there a fox in the image?"])
    said = pipeline.generate(inputs, debias=None, sampling=SamplingConfig(max_new_tokens=8))
    found = looked(model, processor, inputs, steps=8)
    assert [processor.tokenizer.decode(found.tokens, skip_special_tokens=True).strip()] == said
    assert found.tokens[-1] == processor.tokenizer.eos_token_id


def test_the_model_is_put_back_also_when_the_look_fails(llava):
    model, processor = llava
    before, hooked = implementations(model), hooks(model)

    def fail():
        with watching(Pipeline(model, processor)):
            during.append(model.model.language_model.config._attn_implementation)
            raise RuntimeError("half-way")

    during = []
    with pytest.raises(RuntimeError, match="half-way"):
        fail()
    assert during == ["eager"]
    assert implementations(model) == before
    assert hooks(model) == hooked
    with pytest.raises(UserError, match="2 rows"):
        looked(model, processor, Pipeline(model, processor).inputs([picture(1)] * 2, [ASKED] * 2))
    assert implementations(model) == before


def test_no_more_than_one_layers_weights_are_held(llava):
    model, processor = llava
    alive: list[weakref.ref] = []
    most = 0
    with watching(Pipeline(model, processor)) as watch:
        reduce = watch.reduce

        def counted(layer, cross, output):
            nonlocal most
            alive.append(weakref.ref(output[1]))
            most = max(most, sum(one() is not None for one in alive))
            reduce(layer, cross, output)

        watch.reduce = counted
        watch.look(Pipeline(model, processor).inputs([picture(1)], [ASKED]), max_new_tokens=STEPS)
    assert len(alive) == 2 * 2 * STEPS, "two layers, two conditions"
    assert most == 1


@pytest.mark.parametrize("name", ["InstructBLIP (T5)", "Florence-2"])
def test_an_encoder_decoder_is_refused_in_words(name):
    member = BY_NAME[name]
    if not member.available:
        pytest.skip(f"the installed transformers has no {name}")
    with pytest.raises(UserError, match="reads prompts by an encoder"), watching(Pipeline(*member.build())):
        pass


def test_weights_that_are_none_leave_a_layer_out(llava):
    with watching(Pipeline(*llava)) as watch:
        watch._classes = torch.eye(3, dtype=torch.float64)[[0, 1]]
        half = torch.full((1, 1, 1, 2), 0.5)
        for output in (half, (half,), (half, None), (half, half[0]), (half, 2 * half), (half, half.expand(2, 1, 1, 2))):
            watch.reduce(0, False, output)
        assert watch._taken().isnan().all()
        watch.reduce(1, False, (half, half))
        assert watch._taken()[1].tolist() == [0.5, 0.5, 0.0]


@pytest.mark.slow
@pytest.mark.parametrize("member", EVERY)
def test_every_family_adds_up_to_one_and_is_put_back(member):
    if not member.available:
        pytest.skip(f"the installed transformers has no {member.name}")
    model, processor = member.build()
    before = implementations(model)
    inputs = member.inputs(processor, [ASKED], [[picture(1)]])
    if Pipeline(model, processor).family.encoder_decoder:
        with pytest.raises(UserError, match="encoder"):
            looked(model, processor, inputs)
        return
    found = looked(model, processor, inputs)
    for mass in (found.seen, found.blind):
        known = mass[~mass.isnan().any(dim=-1)]
        assert len(known)
        assert (known.sum(dim=-1) - 1).abs().max() < 1e-12
    assert implementations(model) == before
