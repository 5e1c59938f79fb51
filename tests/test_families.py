"""Every family on a tiny random model: the tokens of a from-scratch recompute, an untouched main branch, any batch."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
import transformers
from transformers import GenerationMixin, LogitsProcessor

import vdd
from tests.oracles.families import Recompute, blind_rows, masked_logits
from tests.zoo import EVERY, KINDS, MEMBERS, Member, picture
from tests.zoo.member import REFERENCES
from vdd.config import DebiasConfig
from vdd.families import family_of
from vdd.generation import CalledLogitsProcessor
from vdd.pixels import degraded
from vdd.placeholders import Placeholders

STEPS = 5
QUESTIONS = ["is it red ?", "what color is the dog in the image ?"]
DECODING = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 1.3, "top_k": 0},
    "beams": {"do_sample": False, "num_beams": 3},
}
STRONG = {"alpha": 2.0, "beta": 0.02}
PIXELS = ("noise", "zero", "one")


@pytest.fixture(autouse=True)
def reported(request, record_property):
    """Names family and version in the test report: benchmarks/families.py makes the README's table from it."""
    member = request.getfixturevalue("member") if "member" in request.fixturenames else None
    if member is not None and member.available:
        record_property("family", member.name)
        record_property("transformers", transformers.__version__)


@lru_cache(maxsize=4)
def built(member: Member):
    if not member.available:
        pytest.skip(f"this version of transformers has no {member.model_class}")
    return member.build()


def pictures(member: Member, questions, first: int = 0):
    return [[picture(first + n)] for n in range(len(questions))]


def width_of(model, inputs) -> int:
    """Columns of the prompt as processors see it: an encoder-decoder's begin with one start token."""
    return (
        1
        if model.config.is_encoder_decoder or model.config.get_text_config().is_encoder_decoder
        else inputs["input_ids"].shape[1]
    )


def generated(model, inputs, plugins, seed: int = 0, **decoding) -> list[list[int]]:
    """The new tokens of each row; Janus' own `generate` leaves processors out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        call = type(model).generate
        if model.config.model_type == "janus":
            call = GenerationMixin.generate
        out = call(model, **inputs, max_new_tokens=STEPS, logits_processor=plugins, **decoding)
    return new_tokens(out, inputs)


def new_tokens(out, inputs) -> list[list[int]]:
    width = inputs["input_ids"].shape[1]
    shown = out.shape[1] > width and torch.equal(
        out[:: len(out) // len(inputs["input_ids"]), :width], inputs["input_ids"]
    )
    return out[:, width if shown else 0 :].tolist()


def plugin_for(member, model, processor, inputs, **options) -> CalledLogitsProcessor:
    return CalledLogitsProcessor(model, processor, inputs=inputs, **options)


everyone = pytest.mark.parametrize("member", EVERY, scope="module")


@everyone
@pytest.mark.parametrize("decoding", DECODING)
def test_tokens_equal_a_recompute_from_scratch(member, decoding, record_property):
    model, processor = built(member)
    shown = pictures(member, QUESTIONS)
    inputs = member.inputs(processor, QUESTIONS, shown)
    oracle = Recompute(
        blind_rows(member, model, processor, QUESTIONS, shown, "none"), width_of(model, inputs), **STRONG
    )
    want = generated(model, inputs, [oracle], **DECODING[decoding])
    got = generated(model, inputs, [plugin_for(member, model, processor, inputs, **STRONG)], **DECODING[decoding])
    assert got == want
    assert decoding == "sampling" or got != generated(model, inputs, [], **DECODING[decoding])
    record_property("works", "none")


@pytest.mark.parametrize(
    ("member", "reference"),
    [
        pytest.param(
            member,
            name,
            id=f"{name}-{member.name}",
            marks=pytest.mark.slow if member.name not in KINDS else [],
        )
        for member in MEMBERS
        for name in REFERENCES
        if name != "none"
    ],
)
def test_each_reference_equals_a_recompute_or_is_a_clear_error(member, reference, record_property):
    model, processor = built(member)
    shown = pictures(member, QUESTIONS)
    inputs = member.inputs(processor, QUESTIONS, shown)
    plugin = plugin_for(member, model, processor, inputs, reference=reference, **STRONG)
    if reference not in member.references:
        with pytest.raises(ValueError, match=r"vdd: .*(makes no sense|unknown token)"):
            generated(model, inputs, [plugin])
        return
    oracle = Recompute(
        blind_rows(member, model, processor, QUESTIONS, shown, reference), width_of(model, inputs), **STRONG
    )
    assert generated(model, inputs, [plugin]) == generated(model, inputs, [oracle])
    record_property("works", reference)


class Watching(LogitsProcessor):
    """Keeps the scores it is shown, lets a plugin run, and returns them as they were."""

    def __init__(self, plugin=None) -> None:
        self.plugin, self.scores = plugin, []

    def __call__(self, input_ids, scores):
        self.scores.append(scores.clone())
        if self.plugin is not None:
            self.plugin(input_ids, scores)
        return scores


@everyone
def test_the_main_branchs_logits_are_untouched_bit_for_bit(member):
    model, processor = built(member)
    inputs = member.inputs(processor, QUESTIONS, pictures(member, QUESTIONS))
    alone = Watching()
    generated(model, inputs, [alone])
    for reference in [name for name in member.references if name != "both"]:
        beside = Watching(plugin_for(member, model, processor, inputs, reference=reference))
        generated(model, inputs, [beside])
        assert all(map(torch.equal, alone.scores, beside.scores)), reference


@everyone
def test_a_second_generate_equals_the_first_and_another_batch_between_changes_nothing(member):
    model, processor = built(member)
    inputs = member.inputs(processor, QUESTIONS, pictures(member, QUESTIONS))
    other = member.inputs(processor, QUESTIONS[:1], pictures(member, QUESTIONS[:1], first=9))
    plugin = plugin_for(member, model, processor, inputs)
    first = generated(model, inputs, [plugin], num_beams=2)
    plugin.use_inputs(other)
    between = generated(model, other, [plugin])
    assert between == generated(model, other, [plugin_for(member, model, processor, other)])
    plugin.use_inputs(inputs)
    assert generated(model, inputs, [plugin], num_beams=2) == first
    if "noise" in member.references:
        plugin = plugin_for(member, model, processor, inputs, reference="noise")
        first = generated(model, inputs, [plugin])
        assert generated(model, inputs, [plugin]) == first


@everyone
def test_batch_mates_do_not_change_a_row(member):
    model, processor = built(member)
    questions = QUESTIONS if member.padded else ["is it red ?", "is it blue ?"]
    shown = pictures(member, questions)
    together = generated(model, *_with_plugin(member, model, processor, questions, shown))
    for row, question in enumerate(questions):
        alone = generated(model, *_with_plugin(member, model, processor, [question], [shown[row]]))[0]
        assert together[row][: len(alone)] == alone


def _with_plugin(member, model, processor, questions, shown):
    inputs = member.inputs(processor, questions, shown)
    return inputs, [plugin_for(member, model, processor, inputs)]


@pytest.mark.parametrize("member", EVERY, scope="module")
def test_several_images_a_prompt_and_rows_without_one(member, record_property):
    model, processor = built(member)
    shown = [[picture(n) for n in range(member.max_images)], [picture(5)]]
    questions = list(QUESTIONS)
    if member.mixed:
        shown.append([])
        questions.append("is there a fox ?")
    if member.max_images == 1 and not member.mixed:
        pytest.skip(f"{member.name} takes one image in every prompt")
    inputs = member.inputs(processor, questions, shown)
    for reference in ("none", *(name for name in PIXELS if name in member.references)):
        plugin = plugin_for(member, model, processor, inputs, reference=reference, **STRONG)
        rows = blind_rows(member, model, processor, questions, shown, reference)
        want = generated(model, inputs, [Recompute(rows, width_of(model, inputs), **STRONG)])
        assert generated(model, inputs, [plugin]) == want, reference
    record_property("works", "mixed batches")


@everyone
def test_generate_and_patch_give_the_same_and_leave_the_model_as_it_was(member):
    model, processor = built(member)
    inputs = member.inputs(processor, QUESTIONS, pictures(member, QUESTIONS))
    want = generated(model, inputs, [plugin_for(member, model, processor, inputs, alpha=2.0)])
    before = set(vars(model))
    out = vdd.generate(model, processor, **inputs, alpha=2.0, max_new_tokens=STEPS)
    assert new_tokens(out, inputs) == want
    with vdd.patch(model, processor, alpha=2.0):
        assert new_tokens(model.generate(**inputs, max_new_tokens=STEPS), inputs) == want
    assert set(vars(model)) == before


@pytest.mark.parametrize("member", [m for m in MEMBERS if hasattr(m, "video_inputs")], ids=lambda member: member.name)
@pytest.mark.parametrize("reference", ["none", "mask", "noise"])
def test_a_video_is_taken_out_like_an_image(member, reference):
    model, processor = built(member)
    inputs = member.video_inputs(processor, QUESTIONS[0])
    plugin = plugin_for(member, model, processor, inputs, reference=reference, **STRONG)
    if reference == "none":
        rows = [lambda tokens: member.blind_logits(model, member.blind_ids(processor, QUESTIONS[0]), tokens)]
    elif reference == "mask":
        rows = [lambda tokens: masked_logits(member, model, inputs, tokens)]
    else:
        changed = {name: degraded(name, tensor, inputs, DebiasConfig("noise")) for name, tensor in inputs.items()}
        rows = [lambda tokens: member.seen_logits(model, changed, tokens)]
    assert generated(model, inputs, [plugin]) == generated(
        model, inputs, [Recompute(rows, width_of(model, inputs), **STRONG)]
    )


@everyone
def test_the_plug_in_alone_takes_the_image_tokens_out_or_says_what_it_lacks(member):
    model, processor = built(member)
    inputs = member.inputs(processor, QUESTIONS[:1], pictures(member, QUESTIONS[:1]))
    if member.name in ("InstructBLIP (T5)", "Florence-2", "Kosmos-2"):
        with pytest.raises(ValueError, match=r"vdd: .*wanted"):
            generated(model, inputs, [CalledLogitsProcessor(model)])
        return
    plugin = CalledLogitsProcessor(model)
    tokens = generated(model, inputs, [plugin])
    (prompt,) = plugin.prompt.blind
    kept = prompt.input_ids[0].tolist()
    row = inputs["input_ids"][0][inputs["attention_mask"][0].bool()].tolist()
    assert not plugin.family.image_ids.intersection(kept)
    rest = iter(row)
    assert all(token in rest for token in kept)  # in order, nothing added
    blind = [lambda tokens: member.blind_logits(model, kept, tokens)]
    assert tokens == generated(model, inputs, [Recompute(blind, width_of(model, inputs))])


@everyone
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # InternVL's processor in 4.57
def test_a_conversation_of_several_turns_is_rendered_without_its_images(member):
    model, processor = built(member)
    if not getattr(processor, "chat_template", None) or member.name == "Mllama" or member.name.startswith("GLM"):
        pytest.skip("no chat template, one that adds a system prompt, or a tiny tokenizer that lacks its words")
    image = [{"type": "image"}]
    seen, blind = (
        processor.apply_chat_template(
            [
                {"role": "user", "content": [*shown, {"type": "text", "text": "is it red ?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
                {"role": "user", "content": [*shown, {"type": "text", "text": "what color is the dog ?"}]},
            ],
            add_generation_prompt=True,
        )
        for shown in (image, [])
    )
    images = [picture(0), picture(1)]
    try:
        ids = processor(text=[seen], images=[images], return_tensors="pt", add_special_tokens=False)["input_ids"]
    except (AttributeError, ValueError):  # some take the images of a batch in one list
        ids = processor(text=[seen], images=images, return_tensors="pt", add_special_tokens=False)["input_ids"]
    got = Placeholders(family_of(model, processor), processor).without(ids[0].tolist())
    want = processor.tokenizer(blind, add_special_tokens=False).input_ids
    assert got[-len(want) :] == want  # some processors write a beginning of their own


# ---- families that nobody has told us about


@pytest.fixture
def stranger():
    """A LLaVA under a name that the table does not hold."""
    model, processor = MEMBERS[0].build()
    model.config.model_type = "unheard_of"
    return model, processor


def test_an_unknown_family_is_an_error_that_says_how_to_pass_the_image_free_input(stranger):
    model, processor = stranger
    with pytest.raises(ValueError, match=r"family 'unheard_of', whose image-free input is not known; .*blind_inputs="):
        vdd.VDDLogitsProcessor(model, processor)
    with pytest.raises(ValueError, match="unheard_of"), vdd.patch(model, processor):
        pass


@pytest.mark.parametrize("decoding", DECODING)
def test_an_image_free_input_given_by_hand_serves_any_family(stranger, decoding):
    model, processor = stranger
    member = MEMBERS[0]
    shown = pictures(member, QUESTIONS)
    inputs = member.inputs(processor, QUESTIONS, shown)
    rows = blind_rows(member, model, processor, QUESTIONS, shown, "none")
    want = generated(model, inputs, [Recompute(rows, width_of(model, inputs))], **DECODING[decoding])
    blind = processor.tokenizer(
        [member.prompt(processor, q, 0) for q in QUESTIONS], padding=True, return_tensors="pt", add_special_tokens=False
    )
    plugin = vdd.VDDLogitsProcessor(model, blind_inputs=dict(blind))
    assert generated(model, inputs, [plugin], **DECODING[decoding]) == want
    if decoding == "greedy":
        out = vdd.generate(model, **inputs, blind_inputs=dict(blind), max_new_tokens=STEPS)
        assert new_tokens(out, inputs) == want


def test_image_free_input_by_hand_may_be_padded_on_the_right_and_must_hold_ids(stranger):
    model, processor = stranger
    inputs = MEMBERS[0].inputs(processor, QUESTIONS, pictures(MEMBERS[0], QUESTIONS))
    prompts = [MEMBERS[0].prompt(processor, question, 0) for question in QUESTIONS]
    left, right = (
        processor.tokenizer(prompts, padding=True, padding_side=side, return_tensors="pt", add_special_tokens=False)
        for side in ("left", "right")
    )
    answers = [
        generated(model, inputs, [vdd.VDDLogitsProcessor(model, blind_inputs=dict(blind))]) for blind in (left, right)
    ]
    assert answers[0] == answers[1]
    with pytest.raises(ValueError, match="blind_inputs has inputs_embeds; wanted at least input_ids"):
        generated(model, inputs, [vdd.VDDLogitsProcessor(model, blind_inputs={"inputs_embeds": torch.ones(2, 3, 4)})])


def test_image_free_input_for_another_number_of_prompts_is_an_error(stranger):
    model, processor = stranger
    inputs = MEMBERS[0].inputs(processor, QUESTIONS, pictures(MEMBERS[0], QUESTIONS))
    blind = {"input_ids": torch.ones(3, 4, dtype=torch.long)}
    with pytest.raises(ValueError, match="works on 2 rows and blind_inputs has 3"):
        generated(model, inputs, [vdd.VDDLogitsProcessor(model, blind_inputs=blind)])


def test_an_encoder_decoder_is_served_by_hand_too():
    member = next(member for member in MEMBERS if member.name == "Florence-2")
    model, processor = member.build()
    shown = pictures(member, QUESTIONS)
    inputs = member.inputs(processor, QUESTIONS, shown)
    rows = blind_rows(member, model, processor, QUESTIONS, shown, "none")
    want = generated(model, inputs, [Recompute(rows, 1)], num_beams=2)
    model.config.model_type = "unheard_of"
    ids = [member.blind_ids(processor, question) for question in QUESTIONS]
    width = max(map(len, ids))
    blind = {
        "input_ids": torch.tensor([row + [0] * (width - len(row)) for row in ids]),
        "attention_mask": torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids]),
    }
    plugin = vdd.VDDLogitsProcessor(model, blind_inputs=blind)
    assert generated(model, inputs, [plugin], num_beams=2) == want
