"""The pipeline on every family in small: its inputs, label probabilities, prefill and reliance against from scratch."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from functools import lru_cache
from unittest import mock

import pytest
import torch

import vdd
from tests.legs import standard_legs
from tests.test_families import new_tokens
from tests.zoo import KINDS, MEMBERS, picture
from vdd.config import DebiasConfig, SamplingConfig
from vdd.job import Run
from vdd.pipeline import Pipeline
from vdd.records import Answer, Question
from vdd.runner import run

QUESTIONS = ["is it red ?", "what color is the dog in the image ?"]
SHORT = SamplingConfig(max_new_tokens=4)
DECODING = {
    "greedy": SHORT,
    "sampling": replace(SHORT, temperature=1.3),
    "beams": replace(SHORT, num_beams=3),
}
LABELS = {
    "two tokens": {"fox": ["red fox"], "dog": ["brown dog", "red dog"]},
    "one token": {"yes": ["yes"], "no": ["no"]},
}

everyone = pytest.mark.parametrize("member", MEMBERS, ids=lambda member: member.name, scope="module")


def crossed(name, values):
    """Every family with the first of `values`, one of each kind with them all; the rest are slow."""
    first, *_ = values
    every = [
        pytest.param(
            member,
            value,
            id=f"{value}-{member.name}",
            marks=[] if value == first or member.name in KINDS else pytest.mark.slow,
        )
        for member in MEMBERS
        for value in values
    ]
    return pytest.mark.parametrize(("member", name), every)


class AsPublished:
    """A small processor where it differs from the published one in what it is called with.

    Args:
        twin: the small processor.
        flat: it does not take each question's images as a list of their own.
        fixed: what its small model wants besides, such as another number of image places.
    """

    def __init__(self, twin, *, flat=False, **fixed) -> None:
        self.__dict__.update(vars(twin))
        self.twin, self.flat, self.fixed = twin, flat, fixed

    def __call__(self, *, images, **kwargs):
        images = [image for own in images for image in own] if self.flat else images
        return self.twin(images=images, **self.fixed, **kwargs)

    def __getattr__(self, name):
        return getattr(self.__dict__["twin"], name)


def small(pipe):
    """The member's own processor."""
    return getattr(pipe.processor, "twin", pipe.processor)


@lru_cache(maxsize=3)
def built(member):
    if not member.available:
        pytest.skip(f"this version of transformers has no {member.model_class}")
    model, processor = member.build()
    if member.name == "Kosmos-2":
        processor = AsPublished(processor, num_image_tokens=member.places)
    if member.name == "Phi-4-multimodal":
        processor = AsPublished(processor, flat=True)
    return vdd.Pipeline(model, processor, alpha=2.0, beta=0.02)


@pytest.fixture(autouse=True)
def quiet():
    """transformers 4 hands numpy a tensor."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array_wrap__", DeprecationWarning)
        yield


@everyone
@pytest.mark.parametrize("rows", [1, 2, "two images"])
def test_the_inputs_are_those_that_the_familys_processor_makes_of_its_prompt(member, rows):
    pipe = built(member)
    images = [[picture(0), picture(1)]] if rows == "two images" else [[picture(n)] for n in range(rows)]
    if max(map(len, images)) > member.max_images:
        pytest.skip(f"{member.name} takes one image")
    want = member.inputs(small(pipe), QUESTIONS[: len(images)], images)
    got = pipe.inputs(images, QUESTIONS[: len(images)])
    assert set(got) == set(want)
    for name, tensor in want.items():
        assert got[name].dtype == tensor.dtype, name
        assert torch.equal(got[name], tensor), name


def log_probability(logits, tokens) -> float:
    """log p(tokens) by the softmax rows of `logits`, a function of the tokens before."""
    return sum(float(logits(list(tokens[:n])).log_softmax(-1)[token]) for n, token in enumerate(tokens))


def label_probabilities(labels, logits) -> list[float]:
    return [sum(torch.tensor(log_probability(logits, form)).exp().item() for form in forms) for forms in labels.forms]


@crossed("words", LABELS)
def test_label_probabilities_are_those_of_forwards_from_scratch(member, words):
    pipe = built(member)
    labels = pipe.labels(LABELS[words])
    assert labels.single_token is (words == "one token")
    answer = pipe(picture(0), QUESTIONS[1], labels=LABELS[words], sampling=SHORT)
    inputs = pipe.inputs([picture(0)], [QUESTIONS[1]])
    near = {"rel": getattr(member, "tolerance", 1e-6), "abs": 1e-12}
    want = label_probabilities(labels, lambda tokens: member.seen_logits(pipe.model, inputs, tokens))
    assert list(answer.probabilities.values()) == pytest.approx(want, **near)
    ids = {"none": member.blind_ids(small(pipe), QUESTIONS[1])}
    if "unk" in member.references:
        ids["unk"] = member.unk_ids(small(pipe), QUESTIONS[1], 1)
    assert set(answer.blind_probabilities) == {*ids, *(["both"] if "unk" in ids else [])}
    for name, row in ids.items():
        want = label_probabilities(labels, lambda tokens, row=row: member.blind_logits(pipe.model, row, tokens))
        assert list(answer.blind_probabilities[name].values()) == pytest.approx(want, **near), name


@crossed("decoding", DECODING)
def test_answers_are_those_of_generate_with_or_without_a_prefill(member, decoding):
    pipe = built(member)
    inputs = pipe.inputs([picture(0), picture(1)], QUESTIONS)
    prefill = pipe.prefill(inputs)
    for debias in (None, DebiasConfig(alpha=2.0, beta=0.02)):
        how = {"debias": debias, "sampling": DECODING[decoding], "seed": 3}
        alone = pipe.generate(inputs, **how)
        for _ in range(2):
            assert pipe.generate(inputs, **how, prefill=prefill) == alone
    ids = generated(pipe, inputs, DECODING[decoding], 3)
    texts = pipe.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert alone == [text.strip() for text in texts]


def generated(pipe, inputs, sampling, seed) -> list[list[int]]:
    """The ids of debiased answers by `vdd.generate`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out = vdd.generate(pipe.model, pipe.processor, **inputs, alpha=2.0, beta=0.02, **sampling.generate_kwargs())
    start = 1 if pipe.family.encoder_decoder else 0  # a decoder's start token
    return [row[start:] for row in new_tokens(out, inputs)]


def reads_otherwise_with_beams(pipe, inputs) -> bool:
    """Whether plain `generate` gives other first logits with beams than without: its own matter."""
    if pipe.model.config.model_type == "janus":
        return False
    how = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    greedy, beams = (pipe.model.generate(**inputs, **how, num_beams=n).logits[0][0] for n in (1, 2))
    return not torch.allclose(greedy, beams, atol=1e-4)


@crossed("decoding", DECODING)
def test_reliance_is_the_log_ratio_of_forwards_from_scratch(member, decoding):
    pipe = built(member)
    inputs = pipe.inputs([picture(0)], [QUESTIONS[0]])
    if decoding == "beams" and reads_otherwise_with_beams(pipe, inputs):
        pytest.skip(f"with beams this transformers puts the tiles of {member.name}'s image in another order")
    answer = pipe(picture(0), QUESTIONS[0], sampling=DECODING[decoding], seed=5)
    (ids,) = generated(pipe, inputs, DECODING[decoding], 5)
    assert len(answer.reliance) == len(answer.tokens) == len(ids)
    row = member.blind_ids(small(pipe), QUESTIONS[0])
    seen = log_probability(lambda tokens: member.seen_logits(pipe.model, inputs, tokens), ids)
    blind = log_probability(lambda tokens: member.blind_logits(pipe.model, row, tokens), ids)
    assert sum(answer.reliance) == pytest.approx(seen - blind, abs=max(1e-3, getattr(member, "tolerance", 0)))


SERVED = ("LLaVA-NeXT", "Qwen2.5-VL", "InternVL", "Gemma3", "SmolVLM", "Florence-2", "InstructBLIP (Vicuna)", "Janus")


@pytest.mark.parametrize("member", [m for m in MEMBERS if m.name in SERVED], ids=lambda member: member.name)
def test_a_run_stores_what_the_pipeline_says(member, tmp_path):
    pipe = built(member)
    for number in range(3):
        picture(number).save(tmp_path / f"{number}.png")
    asked = [Question(n, f"{n}.png", QUESTIONS[n % 2], "yes") for n in range(3)]
    legs = [
        leg for leg in standard_legs(beta=0.02, max_new_tokens=3, priors=pipe.priors) if leg.sampling.temperature == 0
    ]
    labels = pipe.labels(LABELS["one token"])
    with mock.patch.object(Pipeline, "labels", return_value=labels):  # this tokenizer knows no "Yes"
        run(pipe, Run("small", asked, tmp_path, legs, batch_size=2), tmp_path / "out")
    for leg in legs:
        lines = (tmp_path / "out" / "answers" / f"{leg.name}.jsonl").read_text().splitlines()
        for number, line in enumerate(lines):
            stored = Answer.from_json(json.loads(line))
            inputs = pipe.inputs([picture(number)], [QUESTIONS[number % 2]])
            if leg.post_hoc is None:
                assert [stored.text] == pipe.generate(inputs, debias=leg.debias, sampling=leg.sampling), leg.name
            if leg.debias is None:
                want = pipe.label_probabilities(inputs, labels)["image"][0].tolist()
                assert list(stored.probabilities.values()) == pytest.approx(want, rel=1e-5), leg.name
        assert len(lines) == len(asked)
