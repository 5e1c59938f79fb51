"""Questions that cannot be asked, and processors that cannot ask them: a clear error before the model runs."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch

import vdd
from tests.tiny import tiny_processor
from tests.zoo import MEMBERS, picture
from vdd._check import UserError
from vdd.prompts import CARDS, check_inputs

NAMED = {member.name: member for member in MEMBERS}


@lru_cache(maxsize=4)
def built(name):
    if not NAMED[name].available:
        pytest.skip(f"this version of transformers has no {name}")
    return NAMED[name].build()


@pytest.mark.parametrize("name", ["BLIP-2 (OPT)", "InstructBLIP (Vicuna)", "Florence-2", "Kosmos-2"])
def test_more_images_than_a_family_takes_are_a_users_error(name):
    pipe = vdd.Pipeline(*built(name))
    with pytest.raises(UserError, match=r"2 images came with a question; the family '.*' takes one\. Ask once each"):
        pipe([picture(0), picture(1)], "is it red ?")


@pytest.mark.parametrize(
    ("name", "held"),
    [
        ("LLaVA-1.5", "<image>"),
        ("Qwen2.5-VL", "<|image_pad|>"),
        ("Qwen2.5-VL", "<|vision_start|>"),
        ("Qwen2.5-VL", "<|video_pad|>"),
        ("Gemma3", "<start_of_image>"),
        ("Gemma3", "<image_soft_token>"),
        ("Idefics3", "<fake_token_around_image>"),
        ("PaliGemma", "<image>"),
        ("Kosmos-2", "<image>"),
        ("Florence-2", "<image>"),
    ],
)
def test_a_question_with_a_token_of_images_is_a_users_error(name, held):
    pipe = vdd.Pipeline(*built(name))
    with pytest.raises(UserError) as caught:
        pipe(picture(0), f"is it {held} red ?")
    assert held in str(caught.value)
    assert "wanted text alone" in str(caught.value)


def test_a_question_that_is_no_text_is_a_users_error(llava):
    with pytest.raises(UserError, match="the question is list; wanted text"):
        vdd.Pipeline(*llava)(picture(0), ["is it red ?"])


@pytest.mark.parametrize(
    ("model", "processor"),
    [("LLaVA-1.5", "Qwen2.5-VL"), ("LLaVA-1.5", "Aria"), ("Idefics3", "LLaVA-NeXT")],
)
def test_a_processor_of_another_family_is_a_users_error(model, processor):
    pipe = vdd.Pipeline(built(model)[0], built(processor)[1])
    with pytest.raises(
        UserError, match=r"does not belong to .* wanted the processor that was published with this model"
    ):
        pipe(picture(0), "is it red ?")


def test_a_family_whose_prompts_only_a_template_can_write_says_so():
    model, processor = built("Qwen2.5-VL")
    pipe = vdd.Pipeline(model, processor)
    kept = processor.chat_template
    try:
        processor.chat_template = None
        with pytest.raises(UserError, match=r"has no chat template; wanted one in `processor.chat_template`"):
            pipe(picture(0), "is it red ?")
    finally:
        processor.chat_template = kept


SHARING = ("LLaVA-1.5", "Qwen2.5-VL", "InternVL", "Idefics3", "LLaVA-OneVision")


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # transformers 4 hands numpy a tensor
def test_shared_prompts_are_the_processors_own_cut_behind_what_a_group_has_in_common(name):
    pipe, member = vdd.Pipeline(*built(name)), NAMED[name]
    images, asked = [[picture(0)], [picture(1, 16, 32)]], [["is it red ?", "is it red and blue ?"], ["dog ?"] * 2]
    shared = pipe.shared(images, asked)
    flat = [(own, question) for own, group in zip(images, asked, strict=True) for question in group]
    alone = [member.inputs(pipe.processor, [question], [own])["input_ids"][0].tolist() for own, question in flat]
    assert list(shared.rows) == alone
    assert shared.owners == (0, 0, 1, 1)
    for number, cut in enumerate(shared.cuts):
        own = [place for place, owner in enumerate(shared.owners) if owner == number]
        begun = alone[own[0]][:-cut]
        assert cut == len(shared.tails[own[0]])
        assert [begun + shared.tails[place] for place in own] == [alone[place] for place in own]
        firsts = {shared.tails[place][0] for place in own}
        assert len(firsts) > 1 or min(len(shared.tails[place]) for place in own) == 1, "more is in common"
        marks = pipe.family.image_ids | pipe.family.frame_ids
        assert not any(marks.intersection(shared.tails[place]) for place in own)
        assert [token for token in begun if token in marks] == [token for token in alone[own[0]] if token in marks]
    first = pipe.inputs(images, [group[0] for group in asked])
    assert all(torch.equal(shared.first[key], first[key]) for key in first)


def test_prompts_that_a_processor_ends_in_its_own_way_are_not_shared(llava):
    model, processor = llava

    class Ending:
        """A processor that writes one more token behind every prompt."""

        def __call__(self, **given):
            made = processor(**given)
            made["input_ids"] = torch.nn.functional.pad(made["input_ids"], (0, 1), value=2)
            made["attention_mask"] = torch.nn.functional.pad(made["attention_mask"], (0, 1), value=1)
            return made

        def __getattr__(self, name):
            return getattr(processor, name)

    groups = [[picture(0)]], [["is it red ?", "dog ?"]]
    assert vdd.Pipeline(model, processor).shared(*groups) is not None
    assert vdd.Pipeline(model, Ending()).shared(*groups) is None


@pytest.mark.parametrize("places", [1, 4])
def test_prompts_that_put_an_image_behind_the_question_are_not_shared(llava, places):
    processor = tiny_processor()
    processor.patch_size = 16 if places == 1 else 8
    processor.chat_template = "<s>{{ messages[0]['content'][-1]['text'] }} <image> ASSISTANT:"
    pipe = vdd.Pipeline(llava[0], processor)
    assert int((pipe.inputs([picture(0)], ["dog ?"])["input_ids"] == 4).sum()) == places
    assert pipe.shared([[picture(0)]], [["is it red ?", "dog ?"]]) is None
    assert pipe.shared([[picture(0)], [picture(1)]], [["is it red ?"], ["is it red ?", "is it blue ?"]]) is None


def test_every_cards_prompt_holds_the_question_once_and_images_where_they_were_asked_for():
    for card in CARDS.values():
        assert card.count("{question}") == 1
        assert card.count("{images}") <= 1


def test_a_template_wins_over_the_card(llava):
    model = llava[0]
    processor = tiny_processor()
    processor.chat_template = "<image> {{ messages[0]['content'][1]['text'] }} yes"
    assert vdd.Pipeline(model, processor).prompt("is it red ?") == "<image> is it red ? yes"


def test_what_wraps_a_model_takes_anything_and_what_is_wrapped_is_asked(llava):
    model, processor = llava

    class Wrapping:
        """As PEFT's: everything by name, handed on."""

        config, dtype = model.config, model.dtype

        def forward(self, *args, **kwargs):
            return model(*args, **kwargs)

        def get_base_model(self):
            return model

        def get_input_embeddings(self):
            return model.get_input_embeddings()

    family = vdd.Pipeline(model, processor).family
    inputs = dict(vdd.Pipeline(model, processor).inputs([picture(0)], ["is it red ?"]))
    check_inputs(Wrapping(), processor, family, inputs)
    with pytest.raises(UserError, match="which that does not take"):
        check_inputs(Wrapping(), processor, family, {**inputs, "strange": inputs["input_ids"]})
