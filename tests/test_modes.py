"""Every mode of decoding that `generate` has, debiased: the tokens of a recompute put in the same place."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import GenerationConfig, LogitsProcessor, TextIteratorStreamer

import vdd
from tests.recomputed import QUESTIONS, STRONG, Case, seeded

OLD = Version(transformers.__version__) < Version("5")
OTHERS = (
    "Qwen2.5-VL",
    "Qwen3.5",
    "Gemma3",
    "PaliGemma",
    "Mllama",
    "InstructBLIP (T5)",
    "Florence-2",
    "Janus",
)
MODES = {
    "sampling": {"do_sample": True, "temperature": 1.3, "top_k": 20, "top_p": 0.95},
    "beams": {"num_beams": 3},
    "beam sampling": {"do_sample": True, "num_beams": 3, "temperature": 1.5, "top_k": 0},
    "several of the beams": {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 0.5},
    "several samples": {"do_sample": True, "num_return_sequences": 2, "top_k": 0},
    "penalties": {"repetition_penalty": 1.3, "min_new_tokens": 5, "no_repeat_ngram_size": 2, "bad_words_ids": [[7]]},
    "renormalised": {"do_sample": True, "min_p": 0.05, "renormalize_logits": True, "typical_p": 0.9},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "beams on a static cache": {"cache_implementation": "static", "num_beams": 2},
    "guidance": {"guidance_scale": 1.5},
}
FAULTS = {
    ("Qwen3.5", "guidance"): "transformers' guidance fails on two rows of this family",
    ("InstructBLIP (T5)", "guidance"): "transformers' guidance fails on a prompt of embeddings",
}
if not OLD:
    FAULTS["Qwen2.5-VL", "guidance"] = "transformers' guidance fails on two rows of this family"
else:
    FAULTS["Qwen2.5-VL", "no cache"] = "transformers 4.57 looks for an image behind a vision-start token that was said"
    FAULTS["Mllama", "static cache"] = "transformers 4.57 gives cross-attention a static cache of another length"


DIFFERING = ("several of the beams", "several samples", "no cache", "static cache", "guidance")
GRID = [("LLaVA-1.5", mode) for mode in MODES] + [(family, mode) for family in OTHERS for mode in DIFFERING]


@pytest.mark.parametrize(("family", "mode"), GRID)
def test_the_tokens_are_those_of_a_recompute(family, mode):
    case = Case(family)
    settings = MODES[mode]
    fault = FAULTS.get((family, mode))
    if fault:
        with pytest.raises((RuntimeError, ValueError, AttributeError, IndexError)):
            case.plain([], **settings)
        pytest.skip(fault)
    got = case.new(case.debiased(**settings))
    assert got == case.new(case.plain([case.oracle()], **settings))
    assert got != case.new(case.plain([], **settings))


@pytest.mark.parametrize("name", ["offloaded", "quantized"])
def test_an_offloaded_or_quantised_cache_gives_a_recomputes_tokens_or_fails_as_without_debiasing(name):
    case = Case("LLaVA-1.5")
    try:
        case.plain([], cache_implementation=name)
    except (AssertionError, ImportError, RuntimeError) as fault:
        with pytest.raises(type(fault)):
            case.debiased(cache_implementation=name)
        return
    got = case.new(case.debiased(cache_implementation=name))
    assert got == case.new(case.plain([case.oracle()], cache_implementation=name))


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Gemma3", "Florence-2"])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"do_sample": True, "top_k": 5}], ids=str)
def test_scores_and_logits_that_are_returned_are_those_of_a_recompute(family, settings):
    case = Case(family)
    asked = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, **settings}
    got, want = case.debiased(**asked), case.plain([case.oracle()], **asked)
    assert case.new(got) == case.new(want)
    assert len(got.scores) == len(want.scores)
    for ours, theirs in zip(got.scores + got.logits, want.scores + want.logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    plain = case.plain([], **asked)
    assert torch.equal(got.logits[0], plain.logits[0])  # what the model said is returned as it was
    assert not torch.equal(got.scores[0], plain.scores[0])


class Heard:
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.tokens, self.ended = [], False

    def put(self, value) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        self.ended = True


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL", "Florence-2"])
def test_a_streamer_gets_the_debiased_tokens_in_order(family):
    case, heard = Case(family, QUESTIONS[:1]), Heard()
    got = case.debiased(streamer=heard)
    assert heard.tokens == got[0].tolist()
    assert heard.ended
    assert case.new(got) == case.new(case.plain([case.oracle()]))


def test_a_text_streamer_reads_the_answer_that_is_returned():
    case = Case("LLaVA-1.5", QUESTIONS[:1])
    streamer = TextIteratorStreamer(case.processor.tokenizer, skip_prompt=True)
    answer = case.new(case.debiased(streamer=streamer))[0]
    assert "".join(streamer).split() == case.processor.tokenizer.decode(answer).split()


@pytest.mark.parametrize("settings", [{}, {"num_beams": 2}, {"do_sample": True, "top_k": 0}], ids=str)
def test_a_stop_string_ends_the_debiased_answer_where_a_recompute_ends(settings):
    case = Case("LLaVA-1.5", QUESTIONS[1:], first=4)
    tokenizer = copy.deepcopy(case.processor.tokenizer)
    tokenizer.add_tokens(["abcdef"])  # with this word transformers finds out how tokens are written
    words = tokenizer.convert_ids_to_tokens(case.new(case.plain([case.oracle()], **settings))[0])
    stop = next(word for word in words[1:] if word.isalpha())
    asked = {"stop_strings": [stop], "tokenizer": tokenizer, **settings}
    got = case.new(case.debiased(**asked))
    assert got == case.new(case.plain([case.oracle()], **asked))
    assert stop in tokenizer.decode(got[0])
    assert len(got[0]) < len(words)


def test_further_processors_and_criteria_of_the_user_run_before_the_contrast():
    class Forbid(LogitsProcessor):
        def __call__(self, ids, scores):
            return scores.masked_fill(torch.arange(scores.shape[1]) == 24, -torch.inf)

    case = Case("LLaVA-1.5")
    asked = {"stopping_criteria": [lambda ids, _, **__: ids[:, -1] == 22], "prefix_allowed_tokens_fn": _no_pad}
    got = case.new(case.debiased(logits_processor=[Forbid()], **asked))
    assert got == case.new(case.plain([Forbid(), case.oracle()], **asked))
    assert got != case.new(case.plain([case.oracle()], **asked))
    assert all(24 not in row for row in got)


def _no_pad(_, ids):
    return list(range(1, 35))


def test_settings_in_a_generation_config_are_followed():
    case = Case("LLaVA-1.5")
    config = GenerationConfig(num_beams=3, max_new_tokens=4, pad_token_id=0, eos_token_id=2, repetition_penalty=1.2)
    got = vdd.generate(case.model, case.processor, **case.inputs, generation_config=config, **STRONG)
    want = case.model.generate(**case.inputs, generation_config=config, logits_processor=[case.oracle()])
    assert torch.equal(got, want)


@pytest.mark.parametrize("steps", [1, 2, 13])
@pytest.mark.parametrize("family", ["LLaVA-1.5", "Gemma3", "Qwen3.5"])
def test_answers_of_any_length_equal_a_recompute(family, steps):
    case = Case(family)
    asked = {"max_new_tokens": steps, "min_new_tokens": steps, "num_beams": 2}
    assert case.new(case.debiased(**asked)) == case.new(case.plain([case.oracle()], **asked))


# ---- a conversation that goes on from the cache of its first turn


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL", "Qwen3.5", "Gemma3", "PaliGemma", "Janus"])
@pytest.mark.parametrize("settings", [{}, {"do_sample": True, "top_k": 0}], ids=str)
def test_a_second_turn_from_the_first_ones_cache_equals_a_recompute_of_the_whole(family, settings):
    case = Case(family, QUESTIONS[:1])
    kept = kept_by(case)
    more = case.processor.tokenizer("no . is it blue ?", add_special_tokens=False).input_ids
    blind = case.member.blind_ids(case.processor, QUESTIONS[0])
    case.inputs = longer(case.inputs, more)
    oracle = case.oracle()
    oracle.rows = [lambda tokens: case.member.blind_logits(case.model, [*blind, *more], tokens)]
    want = case.new(case.plain([oracle], **copy.deepcopy(kept), **settings))
    assert case.new(case.debiased(**copy.deepcopy(kept), **settings)) == want
    with vdd.patch(case.model, case.processor, **STRONG):
        out = seeded(case.model.generate, 0, **case.call({**copy.deepcopy(kept), **settings}))
    assert case.new(out) == want
    assert want != case.new(case.plain([], **copy.deepcopy(kept), **settings))


def kept_by(case: Case) -> dict:
    """The cache of a first turn, under the name that this version of transformers takes it by."""
    name = "cache" if "cache" in inspect.signature(case.model.forward).parameters else "past_key_values"
    return {name: getattr(case.plain([], max_new_tokens=1, return_dict_in_generate=True), name)}


def longer(inputs, more: list[int]):
    """The whole conversation's ids; its image is in the cache already."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([more])], dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL"])
def test_a_cache_with_the_new_ids_alone_is_an_error_and_not_plain_decoding(family):
    case = Case(family, QUESTIONS[:1])
    kept = kept_by(case)
    whole = longer(case.inputs, [8, 9, 10])
    call = {
        "input_ids": whole["input_ids"][:, -3:],
        "attention_mask": whole["attention_mask"],
        **kept,
        "max_new_tokens": 3,
    }
    with pytest.raises(ValueError, match="wanted the ids of the whole conversation"):
        vdd.generate(case.model, case.processor, **call)
    with (
        vdd.patch(case.model, case.processor),
        pytest.raises(ValueError, match="wanted the ids of the whole conversation"),
    ):
        case.model.generate(**call)


# ---- what would leave the debiasing out


def test_a_paged_cache_is_an_error():
    case = Case("LLaVA-1.5")
    with pytest.raises(ValueError, match="cache_implementation='paged' generates without logits processors"):
        case.debiased(cache_implementation="paged")
    with (
        vdd.patch(case.model, case.processor),
        pytest.raises(ValueError, match="cache_implementation='paged' generates without"),
    ):
        case.model.generate(**case.inputs, cache_implementation="paged")


@pytest.mark.parametrize("name", ["generate_batch", "init_continuous_batching", "continuous_batching_context_manager"])
def test_continuous_batching_of_a_patched_model_is_an_error(name):
    case = Case("LLaVA-1.5")
    if not hasattr(case.model, name):
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    with vdd.patch(case.model, case.processor), pytest.raises(ValueError, match="without logits processors"):
        getattr(case.model, name)([[1, 2]])
    assert name not in vars(case.model)


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5},
        {"penalty_alpha": 0.5, "top_k": 4},
        {"dola_layers": "low"},
        {"num_beams": 2, "force_words_ids": [[8]]},
    ],
    ids=lambda settings: next(reversed(settings)),
)
def test_modes_that_transformers_moved_to_the_hub_ask_for_it_as_they_do_without_debiasing(settings):
    case = Case("LLaVA-1.5")
    for call in (lambda: case.plain([], **settings), lambda: case.debiased(**settings)):
        with pytest.raises(ValueError, match="requires `trust_remote_code=True`"):
            call()
