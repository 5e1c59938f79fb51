"""Every way of running the image-free side: the tokens and random state of a recompute, and a report of what ran."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GenerationMixin, LogitsProcessor

import vdd
from tests.oracles.recompute import Recompute, chat, seconds
from tests.recomputed import QUESTIONS, STRONG, Case
from tests.zoo import MEMBERS
from vdd.generation import CalledLogitsProcessor
from vdd.pace import CHUNK, Habits, Pace

LOOP = ("two-pass", "skip", "fuse", "speculate")
FAST = LOOP[1:]
SURE = {"alpha": 1.0, "beta": 0.7}  # often a single token is plausible, and the sides often agree
SAMPLED = {"do_sample": True, "top_k": 0}
DECODING = {"greedy": {}, "sampling": SAMPLED}
AHEAD = 5  # tokens of a round

#: Families that transformers' own loop serves, by what the report says of it.
OWN_LOOP = {
    "InstructBLIP (Vicuna)": "a family whose language model generates by itself",
    "BLIP-2 (OPT)": "a family whose language model generates by itself",
    "Kosmos-2": "a family whose language model generates by itself",
    "InstructBLIP (T5)": "an encoder-decoder",
    "Florence-2": "an encoder-decoder",
}
#: Families some of whose layers keep something else than a column for each position: they skip.
SKIPPING = (
    "Qwen3.5",
    "Qwen3.5-MoE",
    "Gemma3",
    "Gemma3n",
    "Gemma4",
    "Gemma4 E2B/E4B",
    "PaliGemma 2",
    "Mllama",
    "Llama 4",
    "Aya Vision",
    "Command A Vision",
)


# ---- one generation and what it leaves behind


@dataclass
class Ran:
    """What `generate` returned, the new tokens in it, the random state behind it, and the report."""

    out: Any
    tokens: list[list[int]]
    random: Tensor
    report: vdd.DecodingReport | None = None

    def is_as(self, want: Ran) -> bool:
        return self.tokens == want.tokens and torch.equal(self.random, want.random)


def ran(case: Case, call: Any, *args: Any, seed: int = 0, **given: Any) -> Ran:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out = call(*args, **given)
        return Ran(out, case.new(out), torch.get_rng_state())


def plain(case: Case, plugins: Sequence[Any] = (), seed: int = 0, **asked: Any) -> Ran:
    """transformers' own loop with these processors."""
    owner = GenerationMixin if case.model.config.model_type == "janus" else type(case.model)
    return ran(case, owner.generate, case.model, seed=seed, logits_processor=list(plugins), **case.call(asked))


def recomputed(case: Case, reference: str = "none", seed: int = 0, **asked: Any) -> Ran:
    """transformers' own loop with the image-free scores computed from scratch."""
    asked = {**STRONG, **asked}
    options = {name: asked.pop(name) for name in ("alpha", "beta")}
    before = asked.pop("logits_processor", [])
    return plain(case, [*before, case.oracle(reference, **options)], seed, **asked)


def debiased(case: Case, strategy: str, seed: int = 0, **asked: Any) -> Ran:
    """`vdd.generate`."""
    report = vdd.DecodingReport()
    given = {**STRONG, **case.call(asked), "strategy": strategy, "report": report}
    got = ran(case, vdd.generate, case.model, case.processor, seed=seed, **given)
    got.report = report
    return got


def plugin_of(case: Case, strategy: str = "two-pass", **options: Any) -> CalledLogitsProcessor:
    return CalledLogitsProcessor(
        case.model, case.processor, inputs=case.inputs, strategy=strategy, **{**STRONG, **options}
    )


@pytest.fixture
def far_ahead(monkeypatch):
    """Reads ahead whatever it costs: rounds of AHEAD tokens."""
    monkeypatch.setattr("vdd.decoding.worth_reading_ahead", lambda pace, habits, undecided: len(undecided) < AHEAD)


everyone = pytest.mark.parametrize("name", [member.name for member in MEMBERS])
decoding = pytest.mark.parametrize("decoding", DECODING)
strategies = pytest.mark.parametrize("strategy", LOOP)
batches = pytest.mark.parametrize("questions", [QUESTIONS[:1], QUESTIONS], ids=["one", "padded"])


# ---- the same tokens


@everyone
@decoding
def test_fusing_and_speculating_give_the_tokens_and_the_random_state_of_a_recompute(name, decoding, far_ahead):
    case = Case(name)
    asked = {**({} if decoding == "greedy" else SURE), **DECODING[decoding]}
    want = recomputed(case, **asked)
    assert decoding == "sampling" or want.tokens != plain(case).tokens
    for strategy in ("fuse", "speculate"):
        got = debiased(case, strategy, **asked)
        assert got.is_as(want), strategy
        assert got.report.steps == len(want.tokens[0])
        if name in OWN_LOOP:
            assert (got.report.strategy, got.report.because) == ("skip", f"{OWN_LOOP[name]}: transformers' own loop")
        elif name in SKIPPING:
            assert got.report.strategy == "skip"
            assert "can neither be rolled back nor read beside another" in got.report.because
        else:
            assert (got.report.strategy, got.report.because) == (strategy, "")
            assert got.report.seen_forwards > 0 < got.report.blind_forwards


@pytest.mark.parametrize(
    "name", ["LLaVA-1.5", "Qwen2.5-VL", "PaliGemma", "Gemma3", "Qwen3.5", "Mllama", "InstructBLIP (T5)", "Kosmos-2"]
)
@batches
@pytest.mark.parametrize("decoding", ["greedy", "sampling", "beams"])
def test_asking_at_every_step_and_skipping_give_the_tokens_and_the_random_state_of_a_recompute(
    name, questions, decoding
):
    case = Case(name, questions)
    asked = {**SURE, **{**DECODING, "beams": {"num_beams": 3}}[decoding]}
    want = recomputed(case, **asked)
    for strategy in ("two-pass", "skip"):
        got = debiased(case, strategy, **asked)
        assert got.is_as(want), strategy
        assert got.report.strategy == strategy
        assert got.report.skipped == 0 or strategy == "skip"
        if name in OWN_LOOP:
            assert got.report.because == f"{OWN_LOOP[name]}: transformers' own loop" or decoding == "beams"
        else:
            assert got.report.because == ("beam search: transformers' own loop" if decoding == "beams" else "")


@pytest.mark.parametrize("reference", ["none", "both", "mask", "noise"])
@batches
@decoding
def test_every_strategy_goes_with_every_kind_of_reference(reference, questions, decoding, far_ahead):
    case = Case("LLaVA-1.5", questions)
    for options in (STRONG, SURE):
        asked = {**options, **DECODING[decoding], "max_new_tokens": 9}
        want = recomputed(case, reference, **asked)
        for strategy in LOOP:
            got = debiased(case, strategy, reference=reference, **asked)
            assert got.is_as(want), (strategy, options)
            assert got.report.strategy == strategy


@pytest.mark.parametrize("name", ["LLaVA-1.5", "Qwen2.5-VL", "PaliGemma", "Janus", "Idefics2"])
@batches
def test_steps_are_skipped_and_drafts_are_kept_and_thrown_away_without_changing_a_token(name, questions, far_ahead):
    case, skipped, rejected, spared = Case(name, questions), 0, 0, 0
    for asked in (SURE, {**SURE, **SAMPLED}, {"alpha": 0.5, "beta": 0.3, **SAMPLED}):
        want = recomputed(case, max_new_tokens=14, **asked)
        for strategy in ("skip", "fuse", "speculate"):
            got = debiased(case, strategy, max_new_tokens=14, **asked)
            assert got.is_as(want), (strategy, asked)
            skipped += got.report.skipped
            if strategy != "speculate":
                undecided = got.report.steps - got.report.skipped
                assert got.report.rejected == 0
        rejected += got.report.rejected
        spared += undecided - got.report.blind_forwards / len(questions)  # a forward checked more than one token
    assert min(skipped, rejected, spared) > 0


@settings(max_examples=25)
@given(
    rounds=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    options=st.sampled_from([STRONG, SURE, {"alpha": 0.5, "beta": 0.3}, {"alpha": 1.0, "beta": 0.0}]),
    asked=st.sampled_from([{}, SAMPLED, {**SAMPLED, "temperature": 0.4}, {"do_sample": True, "top_k": 3}]),
    reference=st.sampled_from(["none", "both", "mask"]),
    rows=st.sampled_from([QUESTIONS[:1], QUESTIONS, (*QUESTIONS, "is it blue ?")]),
    eos=st.lists(st.integers(5, 33), max_size=4),
    seed=st.integers(0, 3),
)
def test_rounds_of_any_length_give_the_tokens_and_the_random_state_of_a_recompute(
    rounds, options, asked, reference, rows, eos, seed
):
    case, left = Case("LLaVA-1.5", rows), list(rounds)

    def ahead(pace, habits, undecided):
        if len(undecided) < left[0]:
            return True
        left.append(left.pop(0))
        return False

    asked = {**options, **asked, "eos_token_id": [2, *eos], "max_new_tokens": 12}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("vdd.decoding.worth_reading_ahead", ahead)
        got = debiased(case, "speculate", seed, reference=reference, **asked)
    assert got.is_as(recomputed(case, reference, seed, **asked))


def paces(fastest: str) -> Pace:
    """Of a machine on which this strategy is the fastest."""
    costs = {"skip": (1.0, 9.0, 9.0 * CHUNK), "fuse": (1.0, 1.01, 9.0), "speculate": (1.0, 9.0, 1.0)}
    return Pace(*costs[fastest])


@pytest.mark.parametrize("fastest", ["skip", "fuse", "speculate"])
@decoding
def test_auto_takes_what_is_fastest_and_says_so(fastest, decoding, monkeypatch):
    monkeypatch.setattr("vdd.decoding.pace_of", lambda reader, memo, sides: paces(fastest))
    monkeypatch.setattr("vdd.decoding.known_of", lambda model: vdd.pace.Known())
    case = Case("LLaVA-1.5")
    asked = {**SURE, **DECODING[decoding], "max_new_tokens": 18}
    got = debiased(case, "auto", **asked)
    assert got.is_as(recomputed(case, **asked))
    assert got.report.strategy == fastest
    costs = Habits().seconds_a_token(paces(fastest))
    assert got.report.because == (
        f"expected steps a token: skip {costs['skip']:.2f}, fuse {costs['fuse']:.2f}, "
        f"speculate {costs['speculate']:.2f}"
    )


def test_auto_skips_where_few_tokens_are_wanted_and_where_a_family_can_do_nothing_else():
    case = Case("LLaVA-1.5")
    got = debiased(case, "auto", max_new_tokens=16)
    assert got.is_as(recomputed(case, max_new_tokens=16))
    assert (got.report.strategy, got.report.because) == ("skip", "at most 16 tokens are wanted")
    for name in ("Gemma3", "Mllama"):
        got = debiased(Case(name), "auto", max_new_tokens=20)
        assert got.report.strategy == "skip"
        assert "can neither be rolled back nor read beside another" in got.report.because


# ---- the embedded model: what it says is certain at most steps


@pytest.fixture(scope="module")
def toy64():
    from vdd.toy import load

    return load(torch.float64)


@cache
def captions(toy64: Any, rows: int, sampled: bool) -> tuple[Any, Ran]:
    """What describes the first dev images, and what a recompute says of them."""
    from vdd.toy.questions import DESCRIBE
    from vdd.toy.scenes import render, scene_at

    model, processor = toy64
    questions = [DESCRIBE, "What color is the fox?", DESCRIBE, DESCRIBE][:rows]
    images = [render(scene_at("dev", number)) for number in range(rows)]
    text = [chat(processor, question) for question in questions]
    inputs = processor(images=images, text=text, padding=True, padding_side="left", return_tensors="pt").to(model.dtype)
    inputs = {**inputs, "max_new_tokens": 22, **(SAMPLED if sampled else {})}
    width = inputs["input_ids"].shape[1]
    oracle = Recompute(model, seconds(processor, questions, "none"), width)
    return inputs, told(model.generate, width, **inputs, logits_processor=[oracle])


def told(call: Any, width: int, **given: Any) -> Ran:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = call(**given)
        return Ran(out, out[:, width:].tolist(), torch.get_rng_state())


@pytest.mark.parametrize("strategy", [*LOOP, "auto"])
@pytest.mark.parametrize("rows", [1, 4])
@decoding
def test_the_embedded_model_describes_images_as_a_recompute_does(toy64, strategy, rows, decoding, far_ahead):
    (model, processor), report = toy64, vdd.DecodingReport()
    inputs, want = captions(toy64, rows, decoding == "sampling")
    width = inputs["input_ids"].shape[1]
    got = told(
        lambda **given: vdd.generate(model, processor, **given), width, **inputs, strategy=strategy, report=report
    )
    assert got.is_as(want)
    assert strategy in ("auto", report.strategy)
    assert (report.skipped > report.steps / 2) == (strategy != "two-pass")
    if strategy == "speculate":
        assert report.blind_forwards < rows * (1 + report.steps - report.skipped)
        assert report.rejected > 0 or rows == 1
    if strategy == "auto":
        assert report.because.startswith("expected steps a token")


# ---- what `generate` returns


KEPT = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


def going_on(tokens: list[list[int]], step: int, eos: int = 2) -> list[int]:
    """Rows that had not ended before a step."""
    return [row for row, text in enumerate(tokens) if eos not in text[:step]]


@strategies
@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.3},
        {"do_sample": True, "top_k": 7, "top_p": 0.9, "temperature": 1.4},
        {**SURE, "eos_token_id": [2, 5], "renormalize_logits": True},
    ],
    ids=["penalty", "warpers", "ends"],
)
def test_scores_and_logits_are_those_of_the_processor_in_transformers_own_loop(strategy, asked, far_ahead):
    case = Case("LLaVA-1.5")
    asked = {**KEPT, "max_new_tokens": 9, **asked}
    options = {name: asked[name] for name in ("alpha", "beta") if name in asked}
    rest = {name: asked[name] for name in asked if name not in options}
    want = plain(case, [plugin_of(case, **options)], **rest)
    assert recomputed(case, **asked).tokens == want.tokens
    got = debiased(case, strategy, **asked)
    assert got.is_as(want)
    assert type(got.out) is type(want.out)
    assert len(got.out.scores) == len(got.out.logits) == len(want.out.scores) == len(want.tokens[0])
    for name in ("scores", "logits"):
        for step, (ours, theirs) in enumerate(zip(got.out[name], want.out[name], strict=True)):
            assert ours.dtype == theirs.dtype
            rows = [
                row for row in going_on(want.tokens, step) if 5 not in want.tokens[row][:step] or "alpha" not in asked
            ]
            torch.testing.assert_close(ours[rows], theirs[rows], rtol=1e-5, atol=1e-5)


def test_scores_are_returned_only_where_they_are_asked_for():
    case = Case("LLaVA-1.5")
    out = debiased(case, "fuse", return_dict_in_generate=True).out
    assert out.scores is None
    assert out.logits is None
    assert torch.is_tensor(debiased(case, "fuse", output_scores=True).out)


def cache_of(out: Any) -> Any:
    return getattr(out, "cache", None) or out.past_key_values


def columns(cache: Any, mask: Tensor) -> list[Tensor]:
    """Keys and values of each layer, (positions, heads, size), where something real stands."""
    assert cache.get_seq_length() == mask.shape[1]
    return [tensor.transpose(1, 2)[mask.bool()] for layer in cache.layers for tensor in (layer.keys, layer.values)]


@pytest.mark.parametrize("name", ["LLaVA-1.5", "Qwen2.5-VL", "PaliGemma", "Janus"])
@pytest.mark.parametrize("most", [1, 2, 8])
@batches
def test_the_cache_that_is_returned_is_the_one_of_transformers_own_loop(name, most, questions, far_ahead):
    case = Case(name, questions)
    asked = {**SURE, "max_new_tokens": most, "return_dict_in_generate": True}
    want = recomputed(case, **asked)
    mask = torch.cat([case.inputs["attention_mask"], torch.ones(len(questions), len(want.tokens[0]) - 1)], dim=1)
    for strategy in LOOP:
        got = debiased(case, strategy, **asked)
        assert got.is_as(want), strategy
        for ours, theirs in zip(columns(cache_of(got.out), mask), columns(cache_of(want.out), mask), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@strategies
@pytest.mark.parametrize("reference", ["instruction", "unk", "both", "noise"])
def test_the_cache_that_is_returned_holds_the_texts_columns_whatever_the_reference_is_as_long_as(strategy, reference):
    case = Case("LLaVA-1.5")
    got = debiased(case, strategy, reference=reference, return_dict_in_generate=True)
    want = plain(case, [plugin_of(case, reference=reference)], return_dict_in_generate=True)
    assert got.tokens == want.tokens
    mask = torch.cat([case.inputs["attention_mask"], torch.ones(2, len(want.tokens[0]) - 1)], dim=1)
    for ours, theirs in zip(columns(cache_of(got.out), mask), columns(cache_of(want.out), mask), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def longer(inputs: Any, answer: list[int], more: list[int]) -> dict[str, Tensor]:
    """The whole conversation's ids; its image is in the cache already."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer + more])], dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.parametrize("name", ["LLaVA-1.5", "Qwen2.5-VL", "GLM-4V", "PaliGemma", "InternVL", "Gemma3", "Qwen3.5"])
@pytest.mark.parametrize("strategy", FAST)
@decoding
def test_a_second_turn_goes_on_from_the_returned_cache(name, strategy, decoding, far_ahead):
    case, other = Case(name, QUESTIONS[:1]), Case(name, ("is it blue ?",), counts=(2,), first=7)
    argument = "cache" if "cache" in inspect.signature(case.model.forward).parameters else "past_key_values"
    asked = {**SURE, **DECODING[decoding], "return_dict_in_generate": True}
    first = recomputed(case, **asked)
    more = case.processor.tokenizer("no . is it blue ?", add_special_tokens=False).input_ids
    whole = longer(case.inputs, first.tokens[0], more)
    want = case.model.generate(**whole, **{argument: cache_of(first.out)}, max_new_tokens=6)
    plain(other, max_new_tokens=1)  # whatever it leaves on the module is not this conversation's
    got = debiased(case, strategy, **asked)
    assert got.is_as(first)
    kept = {argument: copy.deepcopy(cache_of(got.out))}
    assert torch.equal(case.model.generate(**whole, **{argument: cache_of(got.out)}, max_new_tokens=6), want)
    # and debiased: the conversation without its image is what the second turn is held against
    blind = [*case.member.blind_ids(case.processor, QUESTIONS[0]), *first.tokens[0], *more]
    second = Case(name, QUESTIONS[:1])
    second.inputs = whole
    oracle = second.oracle()
    oracle.rows = [lambda tokens: case.member.blind_logits(case.model, [*blind, *tokens], [])]
    told = debiased(second, strategy, **copy.deepcopy(kept), max_new_tokens=4)
    assert told.tokens == plain(second, [oracle], **copy.deepcopy(kept), max_new_tokens=4).tokens
    assert told.report.because == "a KV cache that came with the call: transformers' own loop"


class Heard:
    """A streamer that keeps what it is given."""

    def __init__(self) -> None:
        self.parts: list[list[int]] = []
        self.ended = 0

    def put(self, value: Tensor) -> None:
        assert not self.ended
        self.parts.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended += 1


@strategies
@decoding
def test_a_streamer_gets_the_prompt_then_each_final_token_and_the_end_once(strategy, decoding, far_ahead):
    case = Case("LLaVA-1.5", QUESTIONS[1:])
    asked = {**SURE, **DECODING[decoding], "max_new_tokens": 12}
    want, heard = recomputed(case, **asked), Heard()
    got = debiased(case, strategy, streamer=heard, **asked)
    assert got.is_as(want)
    assert heard.parts == [case.inputs["input_ids"][0].tolist(), *([token] for token in want.tokens[0])]
    assert heard.ended == 1


# ---- where a text ends


def said(case: Case, **asked: Any) -> list[int]:
    """The tokens that a recompute says to the batch, each once."""
    return sorted({token for row in recomputed(case, **asked).tokens for token in row})


@strategies
@decoding
def test_rows_end_at_their_own_end_token_within_a_draft_or_behind_one(strategy, decoding, far_ahead):
    case, lengths = Case("LLaVA-1.5"), set()
    asked = {**SURE, **DECODING[decoding], "max_new_tokens": 14}
    for token in said(case, **asked):
        want = recomputed(case, eos_token_id=[2, token], **asked)
        assert debiased(case, strategy, eos_token_id=[2, token], **asked).is_as(want), token
        lengths.add(tuple(row.index(token) if token in row else None for row in want.tokens))
    assert len(lengths) > 5


@strategies
@decoding
def test_a_criterion_of_the_users_own_ends_each_row_where_it_ends_in_transformers_own_loop(
    strategy, decoding, far_ahead
):
    case = Case("LLaVA-1.5")
    asked = {"alpha": 1.0, "beta": 0.8, **DECODING[decoding], "max_new_tokens": 14}
    for token in said(case, **asked):

        def ended(ids, scores, token=token, **_):
            return ids[:, -1] == token

        want = recomputed(case, stopping_criteria=[ended], **asked)
        assert debiased(case, strategy, stopping_criteria=[ended], **asked).is_as(want), token


@strategies
def test_a_stop_string_ends_each_row_where_it_ends_in_transformers_own_loop(strategy, far_ahead):
    case = Case("LLaVA-1.5")
    tokenizer = copy.deepcopy(case.processor.tokenizer)
    tokenizer.add_tokens(["abcdef"])  # with this word transformers finds out how tokens are written
    asked = {"alpha": 1.0, "beta": 0.8, "max_new_tokens": 14, "tokenizer": tokenizer}
    words = [word for word in tokenizer.convert_ids_to_tokens(said(case, **asked)) if word.isalpha()]
    assert len(words) > 5
    for word in words:
        want = recomputed(case, stop_strings=[word], **asked)
        got = debiased(case, strategy, stop_strings=[word], **asked)
        assert got.is_as(want), word
        assert got.report.because == ""


def test_a_criterion_that_wants_scores_is_given_them():
    case, seen = Case("LLaVA-1.5"), []

    def watching(ids, scores, **_):
        seen.append(None if scores is None else len(scores))
        return torch.zeros(len(ids), dtype=torch.bool)

    debiased(case, "skip", stopping_criteria=[watching], **KEPT)
    debiased(case, "skip", stopping_criteria=[watching])
    assert seen == [1, 2, 3, 4, 5, 6, *[None] * 6]


@strategies
@pytest.mark.parametrize(
    "asked",
    [
        {"max_new_tokens": 1},
        {"max_new_tokens": None, "max_length": 29},
        {"min_new_tokens": 7, "max_new_tokens": 8, "eos_token_id": [2, 5, 13, 24, 29]},
        {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
        {**SAMPLED, "num_return_sequences": 3},
        {"do_sample": True, "top_k": 0, "top_p": 0.8, "temperature": 0.6, "repetition_penalty": 1.2},
        {"do_sample": True, "min_p": 0.1, "typical_p": 0.9, "renormalize_logits": True},
        {"eos_token_id": None, "pad_token_id": None, "max_new_tokens": 8},
        {"bad_words_ids": [[29], [24, 5]], "prefix_allowed_tokens_fn": lambda row, ids: list(range(1, 30))},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_settings_of_generate_mean_what_they_mean_in_transformers_own_loop(strategy, asked, far_ahead):
    case = Case("LLaVA-1.5")
    for options in (STRONG, SURE):
        got = debiased(case, strategy, **options, **asked)
        assert got.is_as(recomputed(case, **options, **asked))
        assert (got.report.strategy, got.report.because) == (strategy, "")


class Shifted(LogitsProcessor):
    """Adds to every other token's score."""

    def __init__(self, by: float) -> None:
        self.by = by

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        return scores + self.by * (torch.arange(scores.shape[1]) % 2)


class Spread(LogitsProcessor):
    """Scales every score by a factor that depends on the text so far."""

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        return scores * (1 + (ids[:, -1:] % 3))


@strategies
@decoding
def test_processors_run_before_the_contrast_or_behind_it_as_they_are_listed(strategy, decoding, far_ahead):
    case = Case("LLaVA-1.5")
    asked = {**DECODING[decoding], "max_new_tokens": 9}
    before, behind = [Shifted(1.5), Spread()], [Spread(), Shifted(0.5)]
    want = plain(case, [*before, case.oracle(**SURE), *behind], **asked)
    hooked = {**asked, "custom_generate": vdd.decode}
    assert plain(case, [*before, plugin_of(case, strategy, **SURE), *behind], **hooked).is_as(want)
    first = recomputed(case, logits_processor=before, **SURE, **asked)
    assert debiased(case, strategy, logits_processor=before, **SURE, **asked).is_as(first)
    assert want.tokens != first.tokens or decoding == "greedy"


@strategies
@decoding
@pytest.mark.parametrize("name", ["LLaVA-1.5", "Qwen2.5-VL"])
def test_rows_without_an_image_are_left_alone(name, strategy, decoding, far_ahead):
    case = Case(name, (*QUESTIONS, "is there a fox ?"), counts=(2, 0, 1))
    for options in (STRONG, SURE):
        asked = {**options, **DECODING[decoding], "max_new_tokens": 8}
        got = debiased(case, strategy, **asked)
        assert got.is_as(recomputed(case, **asked))
        assert got.report.strategy == strategy
    lone = plain(case, **DECODING[decoding], max_new_tokens=8)
    assert got.tokens[1] == lone.tokens[1] or decoding == "sampling"
    assert got.tokens != lone.tokens


# ---- whatever else `generate` can do


OTHER = {
    "beams": ({"num_beams": 2}, "beam search"),
    "beam sampling": ({**SAMPLED, "num_beams": 2}, "beam sample"),
    "drafts from the prompt": ({"prompt_lookup_num_tokens": 3}, "assisted generation"),
    "attentions": ({"output_attentions": True, "return_dict_in_generate": True}, "attentions or hidden states"),
    "hidden states": ({"output_hidden_states": True, "return_dict_in_generate": True}, "attentions or hidden states"),
    "static cache": ({"cache_implementation": "static"}, "a cache_implementation"),
    "no cache": ({"use_cache": False}, "use_cache=False"),
    "guidance": ({"guidance_scale": 1.5}, "guidance_scale"),
}


@pytest.mark.parametrize("mode", OTHER)
@pytest.mark.parametrize("strategy", ["two-pass", "speculate"])
@pytest.mark.filterwarnings("ignore:.*sdpa.*attention does not support:UserWarning")
def test_what_the_loop_does_not_serve_runs_in_transformers_own_and_the_report_says_why(mode, strategy):
    asked, why = OTHER[mode]
    case = Case("LLaVA-1.5", QUESTIONS[1:])
    got, want = debiased(case, strategy, **asked), recomputed(case, **asked)
    assert got.tokens == want.tokens
    assert got.report.because.startswith(why)
    assert got.report.because.endswith(": transformers' own loop")
    assert got.report.strategy == ("two-pass" if strategy == "two-pass" else "skip")
    if "output_attentions" in asked:
        assert len(got.out.attentions) == len(want.out.attentions)


def test_an_assistants_drafts_run_in_transformers_own_loop_and_the_report_says_so():
    case = Case("LLaVA-1.5", QUESTIONS[1:])
    got = debiased(case, "speculate", assistant_model=copy.deepcopy(case.model))
    assert got.tokens == recomputed(case).tokens
    assert got.report.because == "assisted generation: transformers' own loop"


def test_a_generation_config_is_followed_and_can_lead_to_transformers_own_loop():
    case = Case("LLaVA-1.5")
    config = copy.deepcopy(case.model.generation_config)
    config.update(do_sample=True, top_k=5, max_new_tokens=8, repetition_penalty=1.2)
    asked = {"generation_config": config, "max_new_tokens": 7}
    got = debiased(case, "fuse", **asked)
    assert got.is_as(recomputed(case, **asked))
    assert (got.report.strategy, len(got.tokens[0])) == ("fuse", 7)
    config.update(num_beams=2)
    assert debiased(case, "fuse", **asked).report.because == "beam sample: transformers' own loop"


# ---- transformers' own hook


@strategies
@decoding
@pytest.mark.parametrize("name", ["LLaVA-1.5", "Qwen2.5-VL", "Gemma3"])
def test_the_loop_is_a_custom_generate_of_transformers(name, strategy, decoding, far_ahead):
    case = Case(name)
    asked = {**DECODING[decoding], "max_new_tokens": 7}
    plugin = vdd.VDDLogitsProcessor(case.model, case.processor, inputs=case.inputs, strategy=strategy, **SURE)
    got = plain(case, [plugin], custom_generate=vdd.decode, **asked)
    assert got.is_as(recomputed(case, **SURE, **asked))
    assert plugin.report.strategy == (strategy if name != "Gemma3" or strategy == "two-pass" else "skip")


def test_one_processor_serves_one_batch_after_another():
    cases = [Case("LLaVA-1.5"), Case("LLaVA-1.5", ("is it blue ?",), first=5), Case("LLaVA-1.5", QUESTIONS[1:])]
    plugin = vdd.VDDLogitsProcessor(cases[0].model, cases[0].processor, strategy="fuse", **STRONG)
    for case in (*cases, cases[0]):
        plugin.use_inputs(case.inputs)
        assert plain(case, [plugin], custom_generate=vdd.decode).is_as(recomputed(case))


@strategies
@pytest.mark.parametrize("more", [1, 2, 3])
def test_a_processor_that_is_used_again_reads_all_of_a_prompt_that_begins_with_the_last_one(strategy, more):
    case = Case("LLaVA-1.5", QUESTIONS[1:])
    plugin = vdd.VDDLogitsProcessor(case.model, case.processor, inputs=case.inputs, strategy=strategy, **STRONG)
    first = plain(case, [plugin], custom_generate=vdd.decode).tokens[0]
    assert [first] == recomputed(case).tokens
    begun = {**case.inputs, **longer(case.inputs, first[:more], [])}
    plugin.inputs = begun
    got = case.model.generate(**begun, max_new_tokens=6, custom_generate=vdd.decode, logits_processor=[plugin])
    want = case.model.generate(**begun, max_new_tokens=6, logits_processor=[case.oracle()])
    assert torch.equal(got, want)


def test_the_hook_wants_a_processor_object_one_beam_and_a_family_that_it_reads():
    case = Case("LLaVA-1.5")
    with pytest.raises(ValueError, match="custom_generate=vdd.decode came without a VDDLogitsProcessor"):
        plain(case, custom_generate=vdd.decode)
    with pytest.raises(ValueError, match="does not serve beams; wanted vdd.generate"):
        plain(case, [plugin_of(case)], custom_generate=vdd.decode, num_beams=2)
    other = Case("BLIP-2 (OPT)")
    with pytest.raises(ValueError, match="does not serve a family whose language model generates by itself"):
        plain(other, [plugin_of(other)], custom_generate=vdd.decode)


def test_an_unknown_strategy_is_an_error_that_lists_the_known_ones():
    case = Case("LLaVA-1.5")
    with pytest.raises(ValueError, match=r"strategy.*auto.*two-pass.*skip.*fuse.*speculate"):
        debiased(case, "fast")


# ---- presets


@pytest.mark.parametrize("preset", vdd.PRESETS)
@strategies
def test_a_preset_gives_in_the_loop_what_its_processor_gives_in_transformers_own(preset, strategy, far_ahead):
    case = Case("LLaVA-1.5")
    for asked in ({**KEPT, "max_new_tokens": 8}, {**KEPT, **SAMPLED, "max_new_tokens": 8, "temperature": 0.7}):
        plugin = CalledLogitsProcessor(
            case.model, case.processor, inputs=case.inputs, preset=preset, strategy="two-pass"
        )
        want = plain(case, [plugin], **asked)
        report = vdd.DecodingReport()
        call = {"preset": preset, "strategy": strategy, "report": report, **case.call(asked)}
        got = ran(case, vdd.generate, case.model, case.processor, **call)
        assert got.is_as(want)
        assert report.steps == 8
        for ours, theirs in zip(got.out.scores, want.out.scores, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# ---- what it says of its cost


@strategies
@pytest.mark.parametrize("reference", ["none", "both"])
def test_the_report_counts_every_row_of_every_forward(strategy, reference, far_ahead):
    case, rows = Case("LLaVA-1.5"), []
    debiased(case, strategy, reference=reference)  # the pace is measured once
    hook = case.model.register_forward_pre_hook(
        lambda _, args, given: rows.append(given["input_ids"].shape), with_kwargs=True
    )
    got = debiased(case, strategy, reference=reference, max_new_tokens=10, **SURE)
    hook.remove()
    report = got.report
    assert report.seen_forwards + report.blind_forwards == sum(shape[0] for shape in rows)
    assert report.steps == 10
    if strategy != "speculate":
        assert report.seen_forwards == 2 * 10
    if strategy == "two-pass":
        assert report.blind_forwards == (2 if reference == "none" else 4) * 10
    if strategy == "fuse":
        assert [shape[0] for shape in rows[-9:]] == [4 if reference == "none" else 6] * 9


def test_every_call_fills_a_report_of_its_own():
    case = Case("LLaVA-1.5")
    plugin = vdd.VDDLogitsProcessor(case.model, case.processor, inputs=case.inputs, strategy="skip", **STRONG)
    reports = []
    for _ in range(2):
        plain(case, [plugin], custom_generate=vdd.decode)
        reports.append(copy.copy(plugin.report))
    assert reports[0] == reports[1]
