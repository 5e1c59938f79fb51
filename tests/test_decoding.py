"""Every way of running the image-free side: the tokens and random state of a recompute, and a report of what ran."""

from __future__ import annotations

import copy
import inspect
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GenerationMixin, LogitsProcessor, SynthIDTextWatermarkingConfig

import vdd
from tests.oracles.families import Recompute
from tests.oracles.recompute import Recompute as Recomputed
from tests.oracles.recompute import blind_logits, chat, seconds
from tests.recomputed import QUESTIONS, STRONG, Case, built
from tests.zoo import EVERY, Member
from vdd.generation import CalledLogitsProcessor
from vdd.pace import Known, Pace
from vdd.sides import Fused

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


def oracle_of(case: Case, reference: str = "none", **options: Any) -> Recompute:
    """The image-free scores computed from scratch, where it can be without copying the model for each."""
    if case.name != "LLaVA-1.5":
        alone = reference == "none" and type(case.member).blind_logits is Member.blind_logits
        copied = Case(case.name, case.questions, case.counts, case.first, still(case.name)) if alone else case
        return copied.oracle(reference, **options)
    counts = case.counts or [1] * len(case.questions)
    rows = seconds(case.processor, case.questions, reference, inputs=case.inputs, counts=counts)
    asked = (case.questions, counts, case.first, reference)
    told = [
        partial(_looked_up, (*map(str, asked), number), partial(blind_logits, case.model, row))
        for number, row in enumerate(rows)
    ]
    return Recompute([row if count else None for row, count in zip(told, counts, strict=True)], case.width, **options)


@lru_cache(maxsize=2)
def still(name: str) -> Any:
    """A model of which nothing but the oracle's texts is asked: a copy of it is the model itself."""
    model = copy.deepcopy(built(name)[0])
    vars(model)["__deepcopy__"] = lambda memo: model
    return model


_TOLD: dict[Any, Tensor] = {}


def _looked_up(key: Any, compute: Any, tokens: list[int]) -> Tensor:
    """Computed once for each text: many tests ask about the same."""
    text = (*key, *tokens)
    if text not in _TOLD:
        _TOLD[text] = compute(tokens)
    return _TOLD[text]


def recomputed(case: Case, reference: str = "none", seed: int = 0, **asked: Any) -> Ran:
    """transformers' own loop with the image-free scores computed from scratch."""
    asked = {**STRONG, **asked}
    options = {name: asked.pop(name) for name in ("alpha", "beta")}
    before = asked.pop("logits_processor", [])
    return plain(case, [*before, oracle_of(case, reference, **options)], seed, **asked)


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
    """Reads ahead whatever it costs, in rounds of AHEAD tokens, and measures nothing."""
    monkeypatch.setattr("vdd.decoding.worth_reading_ahead", lambda pace, habits, undecided: len(undecided) < AHEAD)
    monkeypatch.setattr("vdd.decoding.pace_of", lambda reader, memo, sides: paces("speculate"))


def paces(fastest: str) -> Pace:
    """Of a machine on which this strategy is the fastest."""
    return Pace(*{"skip": (1.0, 9.0, 3.1), "fuse": (1.0, 1.01, 9.0), "speculate": (1.0, 9.0, 1.0)}[fastest])


decoding = pytest.mark.parametrize("decoding", DECODING)
strategies = pytest.mark.parametrize("strategy", LOOP)


# ---- the same tokens


@pytest.mark.parametrize("member", EVERY)
def test_fusing_and_speculating_give_the_tokens_and_the_random_state_of_a_recompute(member, far_ahead):
    name = member.name
    case = Case(name)
    starts = case.width == 1  # an encoder-decoder's texts begin with a token that is not chosen
    asked_for = ({"max_new_tokens": 4}, {"max_new_tokens": 6, **SURE, **SAMPLED})
    others = name in OWN_LOOP or name in SKIPPING  # they do the same whatever is asked for
    for asked in asked_for[others:]:
        want = recomputed(case, **asked)
        assert "alpha" in asked or want.tokens != plain(case, **asked).tokens
        for strategy in ("fuse", "speculate")[others:]:
            got = debiased(case, strategy, **asked)
            assert got.is_as(want), (strategy, asked)
            report = got.report
            assert report.steps == len(want.tokens[0]) - starts
            if name in OWN_LOOP:
                assert (report.strategy, report.because) == ("skip", f"{OWN_LOOP[name]}: transformers' own loop")
            elif name in SKIPPING:
                assert report.strategy == "skip"
                assert "can neither be rolled back nor read beside another" in report.because
            else:
                assert (report.strategy, report.because) == (strategy, "")
                assert report.blind_forwards > 0 or report.skipped == report.steps


@pytest.mark.parametrize(
    ("name", "questions", "decoding"),
    [
        (name, questions, decoding)
        for name in ("LLaVA-1.5", "Qwen2.5-VL", "Gemma3", "Qwen3.5", "Kosmos-2")
        for questions, decoding in ((QUESTIONS[:1], "sampling"), (QUESTIONS, "greedy"), (QUESTIONS, "beams"))
        if decoding != "beams" or name in ("LLaVA-1.5", "Gemma3")
    ],
)
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


@pytest.mark.parametrize(
    ("reference", "questions"),
    [(name, QUESTIONS) for name in ("none", "both", "mask", "noise")]
    + [(name, QUESTIONS[:1]) for name in ("none", "mask")],
)
def test_every_strategy_goes_with_every_kind_of_reference(reference, questions, far_ahead):
    case = Case("LLaVA-1.5", questions)
    for asked in ({**STRONG, "max_new_tokens": 8}, {**SURE, **SAMPLED, "max_new_tokens": 9}):
        want = recomputed(case, reference, **asked)
        assert want.tokens != plain(case, **{name: asked[name] for name in asked if name not in SURE}).tokens
        for strategy in LOOP:
            got = debiased(case, strategy, reference=reference, **asked)
            assert got.is_as(want), (strategy, asked)
            assert got.report.strategy == strategy


@pytest.mark.parametrize(
    ("name", "questions"),
    [("LLaVA-1.5", QUESTIONS[:1]), ("LLaVA-1.5", QUESTIONS), ("Qwen2.5-VL", QUESTIONS), ("PaliGemma", QUESTIONS)],
)
def test_steps_are_skipped_and_drafts_are_kept_and_thrown_away_without_changing_a_token(name, questions, far_ahead):
    case, skipped, rejected, spared = Case(name, questions), 0, 0, 0.0
    for asked in (SURE, {**SURE, **SAMPLED}, {"alpha": 0.5, "beta": 0.3, **SAMPLED}):
        want = recomputed(case, max_new_tokens=10, **asked)
        for strategy in ("skip", "speculate"):
            got = debiased(case, strategy, max_new_tokens=10, **asked)
            assert got.is_as(want), (strategy, asked)
        skipped += got.report.skipped
        rejected += got.report.rejected
        undecided = got.report.steps - got.report.skipped
        spared += undecided - got.report.blind_forwards / len(questions)  # a forward checked more than one token
    assert min(skipped, rejected, spared) > 0


@settings(max_examples=15)
@given(
    rounds=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    options=st.sampled_from([STRONG, SURE, {"alpha": 0.5, "beta": 0.3}, {"alpha": 1.0, "beta": 0.0}]),
    asked=st.sampled_from([{}, SAMPLED, {**SAMPLED, "temperature": 0.4}, {"do_sample": True, "top_k": 3}]),
    reference=st.sampled_from(["none", "mask"]),
    rows=st.integers(1, 3),
    eos=st.lists(st.integers(5, 33), max_size=4),
    seed=st.integers(0, 3),
)
def test_rounds_of_any_length_give_the_tokens_and_the_random_state_of_a_recompute(
    rounds, options, asked, reference, rows, eos, seed
):
    case, left = Case("LLaVA-1.5", (*QUESTIONS, "is it blue ?")[:rows]), list(rounds)

    def ahead(pace, habits, undecided):
        if len(undecided) < left[0]:
            return True
        left.append(left.pop(0))
        return False

    asked = {**options, **asked, "eos_token_id": [2, *eos], "max_new_tokens": 10}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("vdd.decoding.worth_reading_ahead", ahead)
        got = debiased(case, "speculate", seed, reference=reference, **asked)
    assert got.is_as(recomputed(case, reference, seed, **asked))


@pytest.mark.parametrize("fastest", ["skip", "fuse", "speculate"])
@decoding
def test_auto_takes_what_is_fastest_and_says_so(fastest, decoding, monkeypatch):
    monkeypatch.setattr("vdd.decoding.pace_of", lambda reader, memo, sides: paces(fastest))
    monkeypatch.setattr("vdd.decoding.known_of", lambda model: Known())
    case = Case("LLaVA-1.5")
    asked = {**SURE, **DECODING[decoding], "max_new_tokens": 18}
    got = debiased(case, "auto", **asked)
    assert got.is_as(recomputed(case, **asked))
    assert got.report.strategy == fastest
    costs = dict(re.findall(r"(\w+) ([\d.]+)", got.report.because.removeprefix("expected steps a token: ")))
    assert list(costs) == ["skip", "fuse", "speculate"]
    assert min(costs, key=lambda name: float(costs[name])) == fastest


def test_auto_skips_where_few_tokens_are_wanted_and_where_a_family_can_do_nothing_else():
    case = Case("LLaVA-1.5")
    got = debiased(case, "auto", max_new_tokens=16)
    assert got.is_as(recomputed(case, max_new_tokens=16))
    assert (got.report.strategy, got.report.because) == ("skip", "at most 16 tokens are wanted")
    for name in ("Gemma3", "Mllama"):
        got = debiased(Case(name), "auto", max_new_tokens=17)
        assert got.report.strategy == "skip"
        assert "can neither be rolled back nor read beside another" in got.report.because


# ---- the embedded model: what it says is certain at most steps


@pytest.fixture(scope="module")
def toy64():
    from vdd.toy import load

    return load(torch.float64)


@cache
def captions(toy64: Any, split: str, rows: int, sampled: bool) -> tuple[Any, Ran]:
    """Images to be described, and what a recompute says of them."""
    from vdd.toy.questions import DESCRIBE
    from vdd.toy.scenes import render, scene_at

    model, processor = toy64
    questions = [DESCRIBE, "What color is the fox?", DESCRIBE, DESCRIBE][:rows]
    images = [render(scene_at(split, 8 + number)) for number in range(rows)]
    text = [chat(processor, question) for question in questions]
    inputs = processor(images=images, text=text, padding=True, padding_side="left", return_tensors="pt").to(model.dtype)
    inputs = {**inputs, "max_new_tokens": 20, **(SAMPLED if sampled else {})}
    width = inputs["input_ids"].shape[1]
    oracle = Recomputed(model, seconds(processor, questions, "none"), width)
    return inputs, told(model.generate, width, **inputs, logits_processor=[oracle])


def told(call: Any, width: int, **given: Any) -> Ran:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        out = call(**given)
        return Ran(out, out[:, width:].tolist(), torch.get_rng_state())


@pytest.mark.parametrize(("split", "rows"), [("dev", 1), ("counterfactual", 4)])
@decoding
def test_the_embedded_model_describes_images_as_a_recompute_does(toy64, split, rows, decoding, far_ahead):
    inputs, want = captions(toy64, split, rows, decoding == "sampling")
    width = inputs["input_ids"].shape[1]
    for strategy in ("auto", *LOOP):
        report = vdd.DecodingReport()
        asked = {**inputs, "strategy": strategy, "report": report}
        got = told(partial(vdd.generate, *toy64), width, **asked)
        assert got.is_as(want), strategy
        assert report.strategy == strategy or (strategy == "auto" and report.strategy in ("skip", "speculate"))
        assert (report.skipped > report.steps / 2) == (strategy != "two-pass")
    assert report.blind_forwards <= rows * (report.steps - report.skipped)
    if split == "counterfactual":
        assert report.rejected > 0


def test_auto_measures_the_embedded_model_and_says_what_it_found(toy64):
    inputs, want = captions(toy64, "dev", 1, False)
    report, width = vdd.DecodingReport(), inputs["input_ids"].shape[1]
    got = told(partial(vdd.generate, *toy64), width, **inputs, strategy="auto", report=report)
    assert got.is_as(want)
    assert report.strategy in FAST
    assert re.match(r"expected steps a token: skip [\d.]+, fuse [\d.]+, speculate [\d.]+$", report.because)


# ---- what `generate` returns


KEPT = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True}


@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.3},
        {"do_sample": True, "top_k": 7, "top_p": 0.9, "temperature": 1.4},
        {**SURE, "eos_token_id": [2, 5], "renormalize_logits": True},
    ],
    ids=["penalty", "warpers", "ends"],
)
def test_scores_and_logits_are_those_of_the_processor_in_transformers_own_loop(asked, far_ahead):
    case = Case("LLaVA-1.5")
    asked = {**STRONG, **KEPT, "max_new_tokens": 9, **asked}
    rest = {name: asked[name] for name in asked if name not in STRONG}
    want = plain(case, [plugin_of(case, alpha=asked["alpha"], beta=asked["beta"])], **rest)
    assert recomputed(case, **asked).is_as(want)
    ends = asked.get("eos_token_id", [2])
    for strategy in LOOP:
        got = debiased(case, strategy, **asked)
        assert got.is_as(want), strategy
        assert type(got.out) is type(want.out)
        assert len(got.out.scores) == len(got.out.logits) == len(want.out.scores) == len(want.tokens[0])
        for step in range(len(want.tokens[0])):  # where a row has ended, its scores say nothing
            rows = [row for row, text in enumerate(want.tokens) if not set(ends).intersection(text[:step])]
            for name in ("scores", "logits"):
                ours, theirs = got.out[name][step], want.out[name][step]
                torch.testing.assert_close(ours[rows], theirs[rows], rtol=1e-5, atol=1e-5)


def test_scores_are_returned_only_where_they_are_asked_for():
    case = Case("LLaVA-1.5")
    out = debiased(case, "fuse", return_dict_in_generate=True).out
    assert out.scores is None
    assert out.logits is None
    assert torch.is_tensor(debiased(case, "fuse", output_scores=True).out)


def cache_of(out: Any) -> Any:
    return getattr(out, "cache", None) or out.past_key_values


def same_caches(case: Case, got: Ran, want: Ran) -> bool:
    """Whether keys and values are equal in each layer wherever something real stands, and no column is beside them."""
    ones = torch.ones(len(want.tokens), len(want.tokens[0]) - 1)
    real = torch.cat([case.inputs["attention_mask"], ones], dim=1).bool()
    ours, theirs = cache_of(got.out), cache_of(want.out)
    if not ours.get_seq_length() == theirs.get_seq_length() == real.shape[1]:
        return False
    for our, their in zip(ours.layers, theirs.layers, strict=True):
        kept = real[:, -their.keys.shape[2] :]  # a sliding window holds the last columns alone
        for part in ("keys", "values"):
            pair = [getattr(layer, part).transpose(1, 2)[kept] for layer in (our, their)]
            if not torch.allclose(*pair, rtol=1e-9, atol=1e-9):
                return False
    return True


@pytest.mark.parametrize("most", [1, 8])
@pytest.mark.parametrize(
    ("name", "questions"),
    [("LLaVA-1.5", QUESTIONS[:1]), ("Qwen2.5-VL", QUESTIONS), ("PaliGemma", QUESTIONS), ("Gemma3", QUESTIONS)],
)
def test_the_cache_that_is_returned_is_the_one_of_transformers_own_loop(name, questions, most, far_ahead):
    case = Case(name, questions)
    asked = {**SURE, "max_new_tokens": most, "return_dict_in_generate": True}
    want = recomputed(case, **asked)
    for strategy in LOOP:
        got = debiased(case, strategy, **asked)
        assert got.is_as(want), strategy
        assert same_caches(case, got, want), strategy


@strategies
@pytest.mark.parametrize("reference", ["instruction", "unk", "both", "noise"])
def test_the_cache_that_is_returned_is_as_long_as_the_text_however_long_the_reference_is(strategy, reference):
    case = Case("LLaVA-1.5")
    got = debiased(case, strategy, reference=reference, return_dict_in_generate=True)
    want = plain(case, [plugin_of(case, reference=reference)], return_dict_in_generate=True)
    assert got.is_as(want)
    assert same_caches(case, got, want)


@pytest.mark.parametrize("name", ["LLaVA-1.5", "Qwen2.5-VL", "PaliGemma", "Mllama", "Qwen3.5"])
def test_a_second_turn_goes_on_from_the_returned_cache(name, far_ahead):
    case, other = Case(name, QUESTIONS[:1]), Case(name, ("is it blue ?",), counts=(2,), first=7)
    argument = "cache" if "cache" in inspect.signature(case.model.forward).parameters else "past_key_values"
    vocabulary = case.processor.tokenizer.get_vocab()
    unsaid = {"suppress_tokens": [number for word, number in vocabulary.items() if not word.strip(" Ġ▁").isalpha()]}
    asked = {**SURE, **SAMPLED, **unsaid, "return_dict_in_generate": True}
    more = case.processor.tokenizer("no . is it blue ?", add_special_tokens=False).input_ids
    want = recomputed(case, **asked)
    whole = longer(case.inputs, want.tokens[0], more)
    second = Case(name, QUESTIONS[:1])
    second.inputs = whole
    blind = [*case.member.blind_ids(case.processor, QUESTIONS[0]), *want.tokens[0], *more]
    oracle = second.oracle()
    oracle.rows = [lambda tokens: case.member.blind_logits(case.model, blind, tokens)]
    answer = plain(second, [oracle], **{argument: cache_of(want.out)}, **unsaid).tokens
    for strategy in FAST:
        plain(other, max_new_tokens=1)  # whatever it leaves on the module is not this conversation's
        got = debiased(case, strategy, **asked)
        assert got.is_as(want)
        told = debiased(second, strategy, **{argument: cache_of(got.out)}, **unsaid)
        assert told.tokens == answer, strategy
        assert told.report.because == "a KV cache that came with the call: transformers' own loop"


def longer(inputs: Any, answer: list[int], more: list[int]) -> dict[str, Tensor]:
    """The whole conversation's ids; its image is in the cache already."""
    ids = torch.cat([inputs["input_ids"], torch.tensor([answer + more])], dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


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
    asked = {**SURE, **DECODING[decoding], "max_new_tokens": 9}
    want, heard = recomputed(case, **asked), Heard()
    got = debiased(case, strategy, streamer=heard, **asked)
    assert got.is_as(want)
    assert heard.parts == [case.inputs["input_ids"][0].tolist(), *([token] for token in want.tokens[0])]
    assert heard.ended == 1


# ---- where a text ends


ENDING = {"alpha": 1.0, "beta": 0.8, "max_new_tokens": 9}


def said(case: Case, **asked: Any) -> list[int]:
    """Every other token that a recompute says to the batch."""
    return sorted({token for row in recomputed(case, **asked).tokens for token in row})[::2]


@decoding
def test_rows_end_at_their_own_end_token_within_a_draft_or_behind_one(decoding, far_ahead):
    case, places = Case("LLaVA-1.5"), set()
    asked = {**ENDING, **DECODING[decoding]}
    for token in said(case, **asked):
        want = recomputed(case, eos_token_id=[2, token], **asked)
        for strategy in FAST:
            assert debiased(case, strategy, eos_token_id=[2, token], **asked).is_as(want), (strategy, token)
        places.add(tuple(row.index(token) if token in row else None for row in want.tokens))
    assert len(places) > 3


def test_rows_that_have_ended_are_no_reason_to_ask_the_image_free_side(far_ahead):
    case, spared = Case("LLaVA-1.5"), 0
    for token in said(case, **ENDING):
        asked = {**ENDING, **KEPT, "eos_token_id": [2, token]}
        want = recomputed(case, **asked)
        several = [
            (row - row.amax(-1, keepdim=True) >= math.log(ENDING["beta"])).sum(-1) > 1 for row in want.out.logits
        ]
        needed = [
            any(one[row] for row, text in enumerate(want.tokens) if not {2, token}.intersection(text[:step]))
            for step, one in enumerate(several)
        ]
        for strategy in ("skip", "speculate"):
            assert debiased(case, strategy, **asked).report.skipped == needed.count(False), (strategy, token)
        spared += sum(bool(one.any()) for one in several) - sum(needed)
    assert spared > 0


@decoding
def test_a_criterion_of_the_users_own_ends_each_row_where_it_ends_in_transformers_own_loop(decoding, far_ahead):
    case = Case("LLaVA-1.5")
    asked = {**ENDING, **DECODING[decoding]}
    for token in said(case, **asked):

        def ended(ids, scores, token=token, **_):
            return ids[:, -1] == token

        want = recomputed(case, stopping_criteria=[ended], **asked)
        for strategy in FAST:
            assert debiased(case, strategy, stopping_criteria=[ended], **asked).is_as(want), (strategy, token)


def test_a_stop_string_ends_each_row_where_it_ends_in_transformers_own_loop(far_ahead):
    case = Case("LLaVA-1.5")
    tokenizer = copy.deepcopy(case.processor.tokenizer)
    tokenizer.add_tokens(["abcdef"])  # with this word transformers finds out how tokens are written
    asked = {**ENDING, "tokenizer": tokenizer}
    words = [word for word in tokenizer.convert_ids_to_tokens(said(case, **ENDING)) if word.isalpha()]
    assert len(words) > 1
    for word in words:
        want = recomputed(case, stop_strings=[word], **asked)
        for strategy in FAST:
            got = debiased(case, strategy, stop_strings=[word], **asked)
            assert got.is_as(want), (strategy, word)
            assert got.report.because == ""


def test_a_criterion_is_shown_the_scores_that_are_kept():
    case, seen = Case("LLaVA-1.5"), []

    def watching(ids, scores, **_):
        seen.append(None if scores is None else len(scores))
        return torch.zeros(len(ids), dtype=torch.bool)

    debiased(case, "skip", stopping_criteria=[watching], **KEPT)
    debiased(case, "skip", stopping_criteria=[watching])
    assert seen == [1, 2, 3, 4, 5, 6, *[None] * 6]


@pytest.mark.parametrize(
    "asked",
    [
        {"max_new_tokens": 1},
        {"max_length": 29, "max_new_tokens": None},
        {"min_new_tokens": 7, "max_new_tokens": 8, "eos_token_id": [2, 5, 13, 24, 29]},
        {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2},
        {"num_return_sequences": 3, **SAMPLED},
        {"top_p": 0.8, "temperature": 0.6, **SAMPLED, "repetition_penalty": 1.2},
        {"min_p": 0.1, "typical_p": 0.9, **SAMPLED, "renormalize_logits": True},
        {"eos_token_id": None, "pad_token_id": None, "max_new_tokens": 8},
        {"bad_words_ids": [[29], [24, 5]], "prefix_allowed_tokens_fn": lambda row, ids: list(range(1, 30))},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_settings_of_generate_mean_what_they_mean_in_transformers_own_loop(asked, far_ahead):
    case = Case("LLaVA-1.5")
    want = recomputed(case, **SURE, **asked)
    for strategy in LOOP:
        got = debiased(case, strategy, **SURE, **asked)
        assert got.is_as(want), strategy
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
        return scores * (1 + (ids[:, -1:] % 3)) / 2


@decoding
def test_processors_run_before_the_contrast_or_behind_it_as_they_are_listed(decoding, far_ahead):
    case = Case("LLaVA-1.5")
    asked = {**DECODING[decoding], "max_new_tokens": 8}
    options = {"alpha": 1.0, "beta": 0.02}
    before, behind = [Shifted(1.5), Spread()], [Spread(), Shifted(-4.0)]
    want = plain(case, [*before, oracle_of(case, **options), *behind], **asked)
    first = recomputed(case, logits_processor=before, **options, **asked)
    assert want.tokens != first.tokens
    for strategy in LOOP:
        listed = [*before, plugin_of(case, strategy, **options), *behind]
        assert plain(case, listed, custom_generate=vdd.decode, **asked).is_as(want), strategy
        assert debiased(case, strategy, logits_processor=before, **options, **asked).is_as(first), strategy


class Grammar(LogitsProcessor):
    """Keeps what it was shown, as processors for structured output do: each call tells it one token more."""

    def __init__(self) -> None:
        self.state: Tensor | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        self.state = torch.zeros_like(ids[:, 0]) if self.state is None else self.state * 5 + ids[:, -1]
        allowed = (torch.arange(scores.shape[1]) + self.state[:, None]) % 3 > 0
        return scores.masked_fill(~allowed, -torch.inf)


@decoding
@pytest.mark.parametrize("strategy", LOOP)
def test_a_processor_that_keeps_the_text_so_far_sees_each_token_once(decoding, strategy, far_ahead):
    case = Case("LLaVA-1.5")
    asked = {**SURE, **DECODING[decoding], "max_new_tokens": 8}
    want = recomputed(case, logits_processor=[Grammar()], **asked)
    assert want.tokens != recomputed(case, **asked).tokens
    assert debiased(case, strategy, logits_processor=[Grammar()], **asked).is_as(want)


@pytest.mark.parametrize("strategy", LOOP)
def test_a_watermark_that_keeps_the_text_so_far_is_written_as_in_transformers_own_loop(strategy, far_ahead):
    case = Case("LLaVA-1.5", QUESTIONS[1:])
    mark = SynthIDTextWatermarkingConfig(ngram_len=3, keys=[3, 14, 15, 92, 65])
    asked = {**SURE, **SAMPLED, "max_new_tokens": 12}
    want = recomputed(case, watermarking_config=mark, **asked)
    assert want.tokens != recomputed(case, **asked).tokens
    assert debiased(case, strategy, watermarking_config=mark, **asked).is_as(want)


@decoding
@pytest.mark.parametrize("name", ["LLaVA-1.5", "Qwen2.5-VL"])
def test_rows_without_an_image_are_left_alone(name, decoding, far_ahead):
    case = Case(name, (*QUESTIONS, "is there a fox ?"), counts=(2, 0, 1))
    asked = {**DECODING[decoding], "max_new_tokens": 8}
    want, lone = recomputed(case, **SURE, **asked), plain(case, **asked)
    assert want.tokens[1] == lone.tokens[1] or decoding == "sampling"
    assert want.tokens != lone.tokens
    for strategy in LOOP:
        got = debiased(case, strategy, **SURE, **asked)
        assert got.is_as(want), strategy
        assert got.report.strategy == strategy


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
@pytest.mark.filterwarnings("ignore:.*sdpa.*attention does not support:UserWarning")
@pytest.mark.filterwarnings("ignore:.output_attentions=True. is not supported:UserWarning")
def test_what_the_loop_does_not_serve_runs_in_transformers_own_and_the_report_says_why(mode):
    asked, why = OTHER[mode]
    case = Case("LLaVA-1.5", QUESTIONS[1:])
    want = recomputed(case, **asked)
    for strategy in ("two-pass", "speculate"):
        got = debiased(case, strategy, **asked)
        assert got.tokens == want.tokens
        assert got.report.because.startswith(why)
        assert got.report.because.endswith(": transformers' own loop")
        assert got.report.strategy == ("two-pass" if strategy == "two-pass" else "skip")
        if mode == "attentions":
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


@pytest.mark.parametrize("name", ["LLaVA-1.5", "Qwen2.5-VL", "Gemma3"])
def test_the_loop_is_a_custom_generate_of_transformers(name, far_ahead):
    case = Case(name)
    want = recomputed(case, **SURE, **SAMPLED)
    for strategy in LOOP:
        plugin = vdd.VDDLogitsProcessor(case.model, case.processor, inputs=case.inputs, strategy=strategy, **SURE)
        assert plain(case, [plugin], custom_generate=vdd.decode, **SAMPLED).is_as(want), strategy
        assert plugin.report.strategy == (strategy if name != "Gemma3" or strategy == "two-pass" else "skip")


def test_one_processor_serves_one_batch_after_another():
    cases = [Case("LLaVA-1.5"), Case("LLaVA-1.5", ("is it blue ?",), first=5), Case("LLaVA-1.5", QUESTIONS[1:])]
    plugin = vdd.VDDLogitsProcessor(cases[0].model, cases[0].processor, strategy="fuse", **STRONG)
    for case in (*cases, cases[0]):
        plugin.use_inputs(case.inputs)
        assert plain(case, [plugin], custom_generate=vdd.decode).is_as(recomputed(case))


@strategies
@pytest.mark.parametrize("more", [1, 3])
def test_a_processor_that_is_used_again_reads_all_of_a_prompt_that_begins_with_the_last_one(strategy, more):
    case = Case("LLaVA-1.5", QUESTIONS[1:])
    plugin = vdd.VDDLogitsProcessor(case.model, case.processor, inputs=case.inputs, strategy=strategy, **STRONG)
    first = plain(case, [plugin], custom_generate=vdd.decode).tokens[0]
    assert [first] == recomputed(case).tokens
    begun = {**case.inputs, **longer(case.inputs, first[:more], [])}
    plugin.inputs = begun
    got = case.model.generate(**begun, max_new_tokens=6, custom_generate=vdd.decode, logits_processor=[plugin])
    want = case.model.generate(**begun, max_new_tokens=6, logits_processor=[oracle_of(case, **STRONG)])
    assert torch.equal(got, want)


def test_the_hook_wants_a_processor_object_one_beam_and_a_family_that_it_reads():
    case = Case("LLaVA-1.5")
    with pytest.raises(ValueError, match=r"custom_generate=vdd\.decode came without a VDDLogitsProcessor"):
        plain(case, custom_generate=vdd.decode)
    with pytest.raises(ValueError, match=r"does not serve beams; wanted vdd\.generate"):
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
@decoding
def test_a_preset_gives_in_the_loop_what_its_processor_gives_in_transformers_own(preset, decoding, far_ahead):
    case = Case("LLaVA-1.5")
    asked = {**KEPT, **DECODING[decoding], "max_new_tokens": 7}
    own = CalledLogitsProcessor(case.model, case.processor, inputs=case.inputs, preset=preset, strategy="two-pass")
    want = plain(case, [own], **asked)
    for strategy in LOOP:
        report = vdd.DecodingReport()
        call = {"preset": preset, "strategy": strategy, "report": report, **case.call(asked)}
        got = ran(case, vdd.generate, case.model, case.processor, **call)
        assert got.is_as(want), strategy
        assert report.steps == 7
        for ours, theirs in zip(got.out.scores, want.out.scores, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# ---- what it says of its cost


@strategies
@pytest.mark.parametrize("reference", ["none", "both"])
def test_the_report_counts_every_row_of_every_forward(strategy, reference, far_ahead):
    case, rows = Case("LLaVA-1.5"), []
    hook = case.model.register_forward_pre_hook(
        lambda _, args, given: rows.append(len(given["input_ids"])), with_kwargs=True
    )
    report = debiased(case, strategy, reference=reference, max_new_tokens=10, **SURE).report
    hook.remove()
    assert report.seen_forwards + report.blind_forwards == sum(rows)
    assert report.steps == 10
    if strategy != "speculate":
        assert report.seen_forwards == 2 * 10
    if strategy == "two-pass":
        assert report.blind_forwards == (2 if reference == "none" else 4) * 10
    if strategy == "fuse":
        assert rows[-9:] == [4 if reference == "none" else 6] * 9


@pytest.mark.parametrize("preset", ["vdd", "cutoff-only"])
def test_steps_are_those_of_one_call_however_often_a_processor_is_used(preset):
    case = Case("LLaVA-1.5")
    plugin = vdd.VDDLogitsProcessor(case.model, case.processor, inputs=case.inputs, strategy="skip", preset=preset)
    for steps in (6, 4, 5):
        plain(case, [plugin], custom_generate=vdd.decode, max_new_tokens=steps)
        assert plugin.report.steps == steps
        assert plugin.report.blind_forwards <= 2 * steps


@pytest.mark.parametrize("strategy", ["two-pass", "speculate"])
def test_where_nothing_is_subtracted_the_report_says_so_and_the_image_free_side_never_runs(strategy):
    case, report = Case("LLaVA-1.5"), vdd.DecodingReport()
    call = {"preset": "cutoff-only", "strategy": strategy, "report": report, **case.call({})}
    got = ran(case, vdd.generate, case.model, case.processor, **call)
    assert got.is_as(plain(case))
    assert (report.strategy, report.steps, report.blind_forwards) == ("plain", 6, 0)
    assert report.seen_forwards == 2 * 6


def test_a_patched_model_decodes_by_the_strategy_of_the_patch(monkeypatch):
    case, ways = Case("LLaVA-1.5"), []
    monkeypatch.setattr("vdd.decoding.Fused", lambda *given: ways.append("fuse") or Fused(*given))
    with vdd.patch(case.model, case.processor, strategy="fuse", **STRONG):
        got = ran(case, case.model.generate, **case.call({}))
    assert got.is_as(recomputed(case))
    assert ways == ["fuse"]
