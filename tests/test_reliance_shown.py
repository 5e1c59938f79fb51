"""Reliance of any answer against two forwards from scratch, row by row, for every family."""

from __future__ import annotations

import copy
import math
import warnings
from functools import lru_cache

import pytest
import torch
from transformers import GenerationConfig

import vdd
from tests.oracles.recompute import blind_logits, encode, next_logits, picture, seconds
from tests.test_pipeline_families import AsPublished
from tests.zoo import KINDS, MEMBERS
from tests.zoo import picture as zoo_picture
from vdd._check import UserError
from vdd.config import DebiasConfig, SamplingConfig
from vdd.pipeline import Pipeline
from vdd.records import DecodingReport

QUESTIONS = ["is there a fox ?", "what color is the car in the image ?", "dog ?"]
STRONG = {"alpha": 2.0, "beta": 0.02}
REFERENCES = ("none", "unk", "both", "mask", "noise", "zero")
FLOAT32 = 2e-5  # `generate` rounds its scores to float32
WAYS = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 1.3},
    "beams": {"num_beams": 3},
    "several sequences": {"do_sample": True, "num_return_sequences": 2},
    "several beams": {"num_beams": 3, "num_return_sequences": 2},
}


def by_hand(model, processor, question, image, tokens, reference="none") -> list[float]:
    """log p(token | image) − log p(token | reference) for each token, both sides from scratch in float64."""
    inputs = encode(processor, [question], first=image)
    ((seen,),) = seconds(processor, [question], "seen", inputs=inputs)
    (blind,) = seconds(processor, [question], reference, inputs=inputs)
    found = []
    for number, token in enumerate(tokens):
        before = list(tokens[:number])
        both = next_logits(model, seen, before), blind_logits(model, blind, before)
        with_image, without = (float(scores.log_softmax(-1)[token]) for scores in both)
        found.append(with_image - without)
    return found


def ids_of(processor, answer) -> list[int]:
    return processor.tokenizer.convert_tokens_to_ids([token.strip(" ") for token in answer.tokens])


# --------------------------------------------------------------------------------------------- plain answers, any text


@pytest.mark.parametrize("reference", REFERENCES)
def test_a_plain_answer_is_explained_as_two_forwards_from_scratch_say(llava, reference):
    model, processor = llava
    pipe = Pipeline(model, processor, reference=reference)
    how = SamplingConfig(max_new_tokens=6)
    answer = pipe.explain(picture(0), QUESTIONS[1], sampling=how)
    plain = pipe(picture(0), QUESTIONS[1], debias=False, sampling=how)
    assert (answer.text, answer.tokens) == (plain.text, plain.tokens)
    want = by_hand(model, processor, QUESTIONS[1], 0, ids_of(processor, answer), reference)
    assert answer.reliance == pytest.approx(want, abs=1e-9)
    assert max(map(abs, want)) > 0.01


@pytest.mark.parametrize("sampling", [{"temperature": 1.4}, {"num_beams": 3}, {"repetition_penalty": 1.7}])
def test_sampled_and_beam_answers_are_explained_as_they_were_written(llava, sampling):
    model, processor = llava
    pipe, how = Pipeline(model, processor), SamplingConfig(max_new_tokens=6, **sampling)
    for seed in range(2):
        answer = pipe.explain(picture(1), QUESTIONS[0], sampling=how, seed=seed)
        assert answer.text == pipe(picture(1), QUESTIONS[0], debias=False, sampling=how, seed=seed).text
        want = by_hand(model, processor, QUESTIONS[0], 1, ids_of(processor, answer))
        assert answer.reliance == pytest.approx(want, abs=1e-9)


def test_any_text_is_explained_and_nothing_is_a_text_too(llava):
    model, processor = llava
    pipe = Pipeline(model, processor)
    answer = pipe.explain(picture(2), QUESTIONS[0], "the brown dog has one car .")
    ids = processor.tokenizer("the brown dog has one car .", add_special_tokens=False).input_ids
    assert [token.strip() for token in answer.tokens] == ["the", "brown", "dog", "has", "one", "car", "."]
    assert answer.reliance == pytest.approx(by_hand(model, processor, QUESTIONS[0], 2, ids), abs=1e-9)
    nothing = pipe.explain(picture(2), QUESTIONS[0], "")
    assert (nothing.text, nothing.tokens, nothing.reliance) == ("", (), ())


def test_a_debiased_answer_explained_as_a_text_is_the_debiased_answer(llava):
    pipe = Pipeline(*llava, **STRONG)
    answer = pipe(picture(0), QUESTIONS[1], sampling=SamplingConfig(max_new_tokens=6))
    words = [token for token in answer.tokens if token.strip() != "</s>"]
    again = pipe.explain(picture(0), QUESTIONS[1], "".join(words).strip())
    assert again.tokens == tuple(words)
    assert again.reliance == pytest.approx(answer.reliance[: len(words)], abs=FLOAT32)


def test_what_is_subtracted_does_not_matter_to_an_explanation(llava):
    image, question = picture(0), QUESTIONS[1]
    want = Pipeline(*llava).explain(image, question)
    for settings in ({"alpha": 0.0}, {"alpha": 3.0, "beta": 0.5}, {"preset": "cutoff-only"}, {"preset": "m3id"}):
        assert Pipeline(*llava, **settings).explain(image, question).reliance == want.reliance, settings


def test_a_batch_is_explained_row_by_row(llava):
    pipe = Pipeline(*llava)
    images = [picture(n) for n in range(3)]
    tokens = torch.randint(5, 30, (3, 4), generator=torch.Generator().manual_seed(0))
    together = pipe.reliance(pipe.inputs(images, QUESTIONS), tokens, pipe.debias)
    for row, (image, question) in enumerate(zip(images, QUESTIONS, strict=True)):
        alone = pipe.reliance(pipe.inputs([image], [question]), tokens[row : row + 1], pipe.debias)
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-10)
        want = by_hand(*llava, question, row, tokens[row].tolist())
        assert together[row].tolist() == pytest.approx(want, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (([], QUESTIONS[0]), "no image came with the question"),
        ((picture(0), QUESTIONS[0], "a <image> fox"), "holds '<image>'"),
        ((picture(0), QUESTIONS[0], 7), "is int; wanted text"),
        ((picture(0), "what <image> ?"), "holds '<image>'"),
    ],
)
def test_what_cannot_be_explained_is_a_users_error(llava, arguments, complaint):
    with pytest.raises(UserError, match=complaint):
        Pipeline(*llava).explain(*arguments)


# ------------------------------------------------------------------------------------------------- vdd.generate(trace=)


@pytest.mark.parametrize("way", WAYS)
def test_generate_traces_every_row_of_a_padded_batch(llava, way):
    model, processor = llava
    inputs, trace = encode(processor, QUESTIONS), vdd.Trace()
    torch.manual_seed(3)
    out = vdd.generate(model, processor, **inputs, **STRONG, **WAYS[way], max_new_tokens=6, trace=trace)
    torch.manual_seed(3)
    assert torch.equal(out, vdd.generate(model, processor, **inputs, **STRONG, **WAYS[way], max_new_tokens=6))
    new = out[:, inputs["input_ids"].shape[1] :].tolist()
    repeats = len(new) // len(QUESTIONS)
    assert len(trace.tokens) == len(trace.reliance) == len(new)
    for row, (tokens, owed) in enumerate(zip(trace.tokens, trace.reliance, strict=True)):
        assert list(tokens) == new[row][: len(tokens)]
        assert set(new[row][len(tokens) :]) <= {0}
        want = by_hand(model, processor, QUESTIONS[row // repeats], row // repeats, tokens)
        assert owed == pytest.approx(want, abs=FLOAT32)


@pytest.mark.parametrize("strategy", ["two-pass", "skip", "fuse", "speculate"])
def test_every_strategy_traces_the_same(llava, strategy):
    model, processor = llava
    inputs, trace, report = encode(processor, QUESTIONS[:1]), vdd.Trace(), DecodingReport()
    how = {**inputs, **STRONG, "max_new_tokens": 8, "strategy": strategy}
    vdd.generate(model, processor, **how, trace=trace, report=report)
    want = by_hand(model, processor, QUESTIONS[0], 0, trace.tokens[0])
    assert trace.reliance[0] == pytest.approx(want, abs=FLOAT32)
    assert report == trace.report
    assert report.strategy == strategy


@pytest.mark.parametrize("way", WAYS)
def test_a_trace_is_no_part_of_the_cost_that_the_report_tells(llava, way):
    model, processor = llava
    how = {**encode(processor, QUESTIONS[:1]), **STRONG, **WAYS[way], "max_new_tokens": 6, "strategy": "skip"}
    reports = DecodingReport(), DecodingReport()
    for report, trace in zip(reports, (vdd.Trace(), None), strict=True):
        torch.manual_seed(0)
        vdd.generate(model, processor, **how, report=report, trace=trace)
    assert reports[0] == reports[1]
    assert reports[0].steps


def test_a_row_ends_with_its_first_end_token(llava):
    model, processor = llava
    inputs = encode(processor, QUESTIONS)
    how = {**inputs, **STRONG, "do_sample": True, "temperature": 1.5}
    torch.manual_seed(1)
    free = vdd.generate(model, processor, **how, max_new_tokens=8)[:, inputs["input_ids"].shape[1] :].tolist()
    ends = [free[0][2], free[1][4]]
    torch.manual_seed(1)
    trace = vdd.Trace()
    vdd.generate(model, processor, **how, max_new_tokens=8, eos_token_id=ends, trace=trace)
    assert sorted(map(len, trace.tokens))[0] < 8
    for tokens, owed, row in zip(trace.tokens, trace.reliance, range(3), strict=True):
        assert len(owed) == len(tokens)
        assert not set(tokens[:-1]) & set(ends)
        assert tokens[-1] in ends or len(tokens) == max(map(len, trace.tokens))
        want = by_hand(model, processor, QUESTIONS[row], row, tokens)
        assert owed == pytest.approx(want, abs=FLOAT32)


def test_drafts_are_traced_too(llava):
    model, processor = llava
    inputs, trace = encode(processor, QUESTIONS[:1]), vdd.Trace()
    vdd.generate(model, processor, **inputs, **STRONG, max_new_tokens=8, prompt_lookup_num_tokens=3, trace=trace)
    assert trace.tokens[0]
    want = by_hand(model, processor, QUESTIONS[0], 0, trace.tokens[0])
    assert trace.reliance[0] == pytest.approx(want, abs=FLOAT32)


def test_a_traced_call_returns_what_was_asked_for(llava):
    model, processor = llava
    inputs = encode(processor, QUESTIONS[:1])
    out = vdd.generate(model, processor, **inputs, max_new_tokens=3, trace=vdd.Trace(), return_dict_in_generate=True)
    assert torch.equal(out.sequences, vdd.generate(model, processor, **inputs, max_new_tokens=3))
    config = GenerationConfig(max_new_tokens=3, return_dict_in_generate=True, eos_token_id=2, pad_token_id=0)
    trace = vdd.Trace()
    by_config = vdd.generate(model, processor, **inputs, generation_config=config, trace=trace)
    assert torch.equal(by_config.sequences, out.sequences)
    assert trace.reliance
    assert config.output_logits is not True
    trace = vdd.Trace(reliance=((1.0,),))
    vdd.generate(model, processor, **inputs, max_new_tokens=3, alpha=0.0, trace=trace)
    assert trace.tokens[0]
    assert trace.reliance is None


def test_scores_that_are_no_numbers_are_a_users_error(llava):
    model = copy.deepcopy(llava[0])
    model.lm_head.weight.data[5] = math.nan
    with pytest.raises(UserError, match=r"scores are NaN or infinite; wanted finite ones"):
        Pipeline(model, llava[1]).explain(picture(0), QUESTIONS[0], "red dog")


def test_another_decoding_method_that_keeps_no_logits_is_a_users_error(llava):
    model, processor = llava

    def other(model, input_ids, logits_processor, stopping_criteria, generation_config, **given):
        logits_processor(input_ids, torch.zeros(len(input_ids), model.config.text_config.vocab_size))
        return torch.cat([input_ids, input_ids[:, -1:]], dim=1)

    how = {**encode(processor, QUESTIONS[:1]), "max_new_tokens": 1, "custom_generate": other}
    with pytest.raises(UserError, match="returned no logits"):
        vdd.generate(model, processor, **how, trace=vdd.Trace())


def test_a_row_without_an_image_owes_it_nothing(llava):
    model, processor = llava
    inputs, trace = encode(processor, QUESTIONS[:2], counts=[1, 0]), vdd.Trace()
    how = {**inputs, **STRONG, "max_new_tokens": 5, "reference": "instruction"}
    vdd.generate(model, processor, **how, trace=trace)
    assert any(trace.reliance[0])
    assert set(trace.reliance[1]) == {0.0}
    tokens = torch.tensor([trace.tokens[0][:3]] * 2)
    again = Pipeline(model, processor).reliance(inputs, tokens, DebiasConfig(reference="instruction"))
    assert again[1].tolist() == [0.0] * 3


# ------------------------------------------------------------------------------------------------ a model without eyes


@pytest.fixture(scope="module")
def eyeless(llava):
    """A LLaVA whose layers add nothing and whose numbers are whole: its scores follow from the last token alone."""
    model, processor = copy.deepcopy(llava[0]), llava[1]
    generator = torch.Generator().manual_seed(0)
    text = model.model.language_model
    for name, weight in text.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            weight.data.zero_()
    text.norm.weight.data.fill_(1.0)
    text.norm.variance_epsilon = 0.0
    table = text.embed_tokens.weight.data
    table.copy_(torch.randint(0, 2, table.shape, generator=generator) * 2 - 1)
    head = model.lm_head.weight.data
    head.copy_(torch.randint(-2, 3, head.shape, generator=generator))
    return model, processor


@pytest.mark.parametrize("reference", ["none", "unk", "both", "mask", "zero"])
def test_the_answer_of_a_model_without_eyes_owes_the_image_exactly_nothing(eyeless, reference):
    pipe = Pipeline(*eyeless, reference=reference, **STRONG)
    how = SamplingConfig(max_new_tokens=8)
    for question in QUESTIONS:
        debiased = pipe(picture(0), question, sampling=how)
        plain = pipe.explain(picture(0), question, sampling=how)
        assert debiased.tokens
        assert plain.tokens
        assert set(debiased.reliance) == set(plain.reliance) == {0.0}


# -------------------------------------------------------------------------------------------------------- every family

FAST = ("Qwen2.5-VL", "Gemma3", "Florence-2")


@lru_cache(maxsize=2)
def built(member):
    if not member.available:
        pytest.skip(f"this version of transformers has no {member.model_class}")
    model, processor = member.build()
    if member.name == "Kosmos-2":
        processor = AsPublished(processor, num_image_tokens=member.places)
    if member.name == "Phi-4-multimodal":
        processor = AsPublished(processor, flat=True)
    return Pipeline(model, processor)


@pytest.mark.parametrize(
    "member",
    [pytest.param(one, id=one.name, marks=[] if one.name in FAST else pytest.mark.slow) for one in MEMBERS],
)
def test_every_familys_plain_answer_is_explained_as_forwards_from_scratch_say(member):
    assert set(FAST) <= set(KINDS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array_wrap__", DeprecationWarning)  # transformers 4 hands numpy a tensor
        pipe = built(member)
        inputs = pipe.inputs([zoo_picture(0)], ["is it red ?"])
        answer = pipe.explain(zoo_picture(0), "is it red ?", sampling=SamplingConfig(max_new_tokens=4))
        trace = vdd.reliance.Trace()
        pipe.generate(inputs, debias=None, sampling=SamplingConfig(max_new_tokens=4), trace=trace)
        (ids,) = trace.tokens
        row = member.blind_ids(getattr(pipe.processor, "twin", pipe.processor), "is it red ?")
        want = []
        for number, token in enumerate(ids):
            seen = member.seen_logits(pipe.model, inputs, ids[:number]).log_softmax(-1)
            blind = member.blind_logits(pipe.model, row, ids[:number]).log_softmax(-1)
            want.append(float(seen[token] - blind[token]))
    assert len(answer.reliance) == len(answer.tokens) == len(ids) > 0
    assert answer.reliance == pytest.approx(want, abs=max(1e-6, getattr(member, "tolerance", 0)))
