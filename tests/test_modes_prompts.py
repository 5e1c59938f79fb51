"""Padding on either side, masks with holes, and prompts nobody thought of: a recompute's tokens or a clear error."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import LogitsProcessor

import vdd
from tests.oracles.recompute import encode
from tests.recomputed import QUESTIONS, STRONG, Case
from tests.tiny import tiny_llava

FAMILIES = ("LLaVA-1.5", "Qwen2.5-VL", "Gemma3", "PaliGemma", "Florence-2")


def debiased(case: Case, **settings):
    return case.new(case.debiased(**settings))


def with_plugin(case: Case, processor=None, inputs=None, **settings):
    plugin = vdd.VDDLogitsProcessor(case.model, processor or case.processor, inputs=inputs, **STRONG)
    return case.new(case.plain([plugin], **settings))


# ---- padding


def right_padded(inputs):
    mask = inputs["attention_mask"]
    ahead = (mask.cumsum(-1) == 0).sum(-1).tolist()

    def rolled(tensor):
        return torch.stack([row.roll(-n, dims=0) for row, n in zip(tensor, ahead, strict=True)])

    return {name: rolled(tensor) if tensor.shape[:2] == mask.shape else tensor for name, tensor in inputs.items()}


@pytest.mark.parametrize("family", [*FAMILIES, "InstructBLIP (T5)"])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}], ids=str)
def test_right_padded_rows_are_debiased_by_their_own_prompts(family, settings):
    case = Case(family)
    oracle = case.oracle()
    case.inputs = right_padded(case.inputs)
    assert not case.inputs["attention_mask"][:, -1].all()
    want = case.new(case.plain([oracle], **settings))
    assert debiased(case, **settings) == want
    if family not in ("Florence-2", "InstructBLIP (T5)"):
        assert with_plugin(case, inputs=case.inputs, **settings) == want


@pytest.mark.parametrize("reference", ["noise", "mask"])
def test_right_padded_rows_keep_their_own_images(reference):
    case = Case("LLaVA-1.5")
    oracle = case.oracle(reference)
    case.inputs = right_padded(case.inputs)
    assert debiased(case, reference=reference) == case.new(case.plain([oracle]))


@pytest.mark.parametrize("family", FAMILIES[:4])
def test_left_padding_is_found_without_the_inputs(family):
    case = Case(family)
    assert not case.inputs["attention_mask"][:, 0].all()
    assert with_plugin(case) == case.new(case.plain([case.oracle()]))


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Gemma3"])
def test_a_padding_token_that_is_the_end_token_is_padding_before_a_prompt(family):
    case = Case(family)
    processor = copy.deepcopy(case.processor)
    processor.tokenizer.pad_token = processor.tokenizer.eos_token
    eos = processor.tokenizer.eos_token_id
    case.inputs = dict(case.inputs)
    case.inputs["input_ids"] = case.inputs["input_ids"].masked_fill(case.inputs["attention_mask"] == 0, eos)
    want = case.new(case.plain([case.oracle()], pad_token_id=eos))
    assert with_plugin(case, processor, pad_token_id=eos) == want
    case.processor = processor
    assert debiased(case, pad_token_id=eos) == want


@pytest.mark.parametrize("family", FAMILIES)
def test_words_that_the_mask_hides_are_hidden_from_the_branch_too(family):
    case = Case(family, QUESTIONS[1:])
    ids = case.member.blind_ids(case.processor, QUESTIONS[1])
    hidden = [-4, -3]
    mask = case.inputs["attention_mask"].clone()
    mask[0, hidden] = 0
    case.inputs = {**case.inputs, "attention_mask": mask}
    assert ids[-4:] == case.inputs["input_ids"][0, -4:].tolist()
    kept = ids[:-4] + ids[-2:]
    oracle = case.oracle()
    oracle.rows = [lambda tokens: case.member.blind_logits(case.model, kept, tokens)]
    assert debiased(case) == case.new(case.plain([oracle]))


# ---- prompts nobody thought of


class Saying(LogitsProcessor):
    """Makes the model say these tokens at these steps; None leaves the step to it."""

    def __init__(self, width: int, words) -> None:
        self.width, self.words = width, words

    def __call__(self, ids, scores):
        step = ids.shape[1] - self.width
        if step >= len(self.words) or self.words[step] is None:
            return scores
        said = torch.full_like(scores, -30.0)
        said[:, self.words[step]] = 0.0
        return said


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL", "Gemma3", "PaliGemma", "Chameleon", "Idefics3"])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}], ids=str)
def test_an_image_token_that_the_model_says_is_a_word_in_the_branch(family, settings):
    case = Case(family)
    image = case.model.config.image_token_id
    saying = Saying(case.width, [None, image, None, image, image])
    want = case.new(case.plain([saying, case.oracle()], **settings))
    assert debiased(case, logits_processor=[saying], **settings) == want


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL"])
@pytest.mark.parametrize("reference", ["none", "mask"])
def test_a_prompt_that_is_only_an_image_is_an_error_where_nothing_would_be_left_of_it(family, reference):
    case = Case(family, QUESTIONS[:1])
    place = case.member.image_places(case.model, case.inputs)[0]
    mask = case.inputs["attention_mask"]
    cut = {name: own[:, place] if own.shape[:2] == mask.shape else own for name, own in case.inputs.items()}
    with pytest.raises(ValueError, match="a prompt is nothing but an image"):
        vdd.generate(case.model, case.processor, **cut, reference=reference, max_new_tokens=3)
    out = vdd.generate(case.model, case.processor, **cut, reference="noise", max_new_tokens=3)
    assert out.shape[1] > cut["input_ids"].shape[1]


def test_one_prompt_that_is_only_an_image_is_an_error_beside_others():
    case = Case("LLaVA-1.5")
    ids, mask = case.inputs["input_ids"].clone(), case.inputs["attention_mask"].clone()
    ids[0, -4:], mask[0, :-4] = 4, 0
    ids[0, :-4] = 0
    with pytest.raises(ValueError, match="a prompt is nothing but an image"):
        vdd.generate(case.model, case.processor, **case.call({"input_ids": ids, "attention_mask": mask}))


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL", "Gemma3"])
def test_a_prompt_of_one_token_is_an_error_and_plain_inside_the_patch(family):
    case = Case(family, QUESTIONS[:1])
    one = {"input_ids": torch.tensor([[1]]), "attention_mask": torch.tensor([[1]]), "max_new_tokens": 3}
    with pytest.raises(ValueError, match="none of the 1 prompts has an image token"):
        vdd.generate(case.model, case.processor, **one)
    with vdd.patch(case.model, case.processor):
        assert torch.equal(case.model.generate(**one), type(case.model).generate(case.model, **one))


@pytest.mark.parametrize("rows", ["no rows", "no columns"])
def test_an_empty_batch_fails_as_it_does_without_debiasing(rows):
    case = Case("LLaVA-1.5", QUESTIONS[:1])
    ids = case.inputs["input_ids"]
    ids = ids[:0] if rows == "no rows" else ids[:, :0]
    call = {"input_ids": ids, "attention_mask": ids, "max_new_tokens": 3}
    with pytest.raises((RuntimeError, IndexError)) as plain:
        case.model.generate(**call)
    with vdd.patch(case.model, case.processor), pytest.raises(plain.type) as ours:
        case.model.generate(**call)
    assert str(ours.value) == str(plain.value)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"do_sample": True, "num_return_sequences": 2}], ids=str)
def test_a_prompt_that_begins_another_of_the_same_batch_keeps_its_own_answer(settings):
    questions = ["what color ?", "what color ? is it red ?"]
    case = Case("LLaVA-1.5", questions)
    rows = [case.member.blind_ids(case.processor, question)[:-1] for question in questions]  # without "ASSISTANT:"
    assert rows[1][: len(rows[0])] == rows[0]
    case.inputs = {
        name: own[:, :-1] if own.shape[:2] == case.inputs["attention_mask"].shape else own
        for name, own in case.inputs.items()
    }
    oracle = case.oracle(width=case.width)
    oracle.rows = [lambda tokens, row=row: case.member.blind_logits(case.model, row, tokens) for row in rows]
    assert debiased(case, **settings) == case.new(case.plain([oracle], **settings))


@pytest.mark.parametrize("reference", ["none", "noise"])
def test_the_same_question_about_two_images_in_one_batch_is_answered_for_each(reference):
    case = Case("LLaVA-1.5", [QUESTIONS[1]] * 3)
    want = case.new(case.plain([case.oracle(reference)]))
    assert debiased(case, reference=reference) == want
    assert len({tuple(row) for row in want}) == 3


@pytest.mark.parametrize("asked", [1, 4, 12])
def test_a_later_prompt_with_one_more_image_is_read_anew_even_where_the_first_answer_was_longer(asked):
    case = Case("LLaVA-1.5", ["is it red ?"])
    plugin = vdd.VDDLogitsProcessor(case.model, case.processor, **STRONG)
    case.plain([plugin], max_new_tokens=asked, min_new_tokens=asked)
    more = torch.tensor([[5, 4, 4, 4, 4, 7, 8, 6]])  # USER: <image> and so on
    ids = torch.cat([case.inputs["input_ids"], more], dim=1)
    scores = torch.linspace(0, 1, 35)[None]
    fresh = vdd.VDDLogitsProcessor(case.model, case.processor, **STRONG)
    torch.testing.assert_close(plugin(ids, scores), fresh(ids, scores), rtol=0, atol=0)


def test_scores_that_are_all_alike_are_debiased_unless_they_are_the_look_ups():
    case = Case("LLaVA-1.5", QUESTIONS[:1])
    ids = case.inputs["input_ids"]
    blind = case.oracle().rows[0]([])
    for alike in (0.0, -3.5):
        plugin = vdd.VDDLogitsProcessor(case.model, case.processor, alpha=1.0, beta=0.1)
        got = plugin(ids, torch.full((1, len(blind)), alike, dtype=torch.float64))
        torch.testing.assert_close(got[0], (-blind).log_softmax(-1), rtol=0, atol=1e-9)
    ones = torch.ones(1, len(blind))
    assert torch.equal(plugin(ids, ones), ones)


def test_a_mask_of_another_width_than_the_ids_is_an_error_that_shows_both():
    model, processor = tiny_llava()
    inputs = dict(encode(processor, ["is it red ?"]))
    wider = {**inputs, "attention_mask": torch.ones(1, inputs["input_ids"].shape[1] + 3, dtype=torch.long)}
    plugin = vdd.VDDLogitsProcessor(model, processor, inputs=wider)
    scores = torch.zeros(1, model.config.text_config.vocab_size)
    with pytest.raises(ValueError, match=r"input_ids \(1, \d+\) and attention_mask \(1, \d+\); wanted one value"):
        plugin(inputs["input_ids"], scores)
