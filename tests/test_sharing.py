"""Questions that share an image, references that are remembered, batches that shrink: no answer differs for it."""

from __future__ import annotations

import itertools
import json
import random
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import accelerate
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import vdd.distributions
import vdd.runner
from tests.legs import standard_legs
from tests.oracles.families import blind_row
from tests.oracles.recompute import (
    Recompute,
    blind_logits,
    chat,
    debias,
    encode,
    next_logits,
    picture,
    seconds,
)
from tests.test_pipeline_families import LABELS, built, small
from tests.tiny import WORDS, tiny_processor
from tests.zoo import EVERY, MEMBERS
from tests.zoo import picture as sized
from vdd._check import UserError
from vdd.asked import Asked
from vdd.config import DebiasConfig, Leg, SamplingConfig
from vdd.job import Run
from vdd.pipeline import Pipeline
from vdd.records import Answer, Question
from vdd.reference import BlindPrompt
from vdd.runner import run

FOX, CAR, DOG = "is there a fox ?", "what color is the car in the image ?", "dog ?"
GROUPS = {
    "ends of many lengths": {0: [FOX, CAR, DOG], 1: ["is it red and blue ?", "color ?"]},
    "three, two and one": {0: [FOX, CAR, DOG], 1: [DOG, FOX], 2: [CAR]},
    "one image": {3: [CAR, DOG, FOX, "is it red ?"]},
    "one image, ends of one length": {3: ["is it red ?", "is it blue ?", "is it brown ?"]},
    "the same texts of each image": {0: [FOX, CAR], 1: [FOX, CAR], 2: [FOX, CAR]},
    "a question twice": {0: [FOX, FOX], 1: [CAR, FOX]},
    "every question twice": {0: [FOX, FOX], 1: [CAR, CAR]},
    "more in common than the template": {
        0: ["is there a red fox ?", "is there a red car in it ?"],
        1: [FOX, FOX + " yes"],
    },
    "all but the last word": {0: ["is there a fox", "is there a dog", "is there a cat"]},
    "first the longest": {0: [CAR, DOG], 1: [FOX, "?"]},
    "first the shortest": {0: [DOG, CAR], 1: ["?", FOX]},
    "one begins the next": {0: ["is there a fox", "is there a fox in the image", "is there"]},
    "one ends the next": {0: [DOG, "red dog ?", "is there a red dog ?"]},
    "no words": {0: ["", DOG], 1: ["", ""]},
    "words of the template": {
        0: ["<pad> <pad> dog ?", "</s> <s> ?", "\n\n USER: ASSISTANT: no"],
        1: ["<pad>", "<unk>"],
    },
}
LEGS = [leg for leg in standard_legs(beta=0.02, max_new_tokens=4) if leg.post_hoc is None]
GREEDY = [leg for leg in LEGS if leg.sampling.temperature == 0]
HOT = [leg for leg in LEGS if leg.sampling.temperature]
SOME = ("greedy", "vdd-both", "posthoc-both", "vdd+posthoc-both", "vdd-none@T=1")

every_group = pytest.mark.parametrize("groups", GROUPS.values(), ids=GROUPS)


@pytest.fixture(autouse=True)
def hurry(monkeypatch):
    """accelerate collects garbage before a run and at each halving: 0.4 s among this many modules."""
    monkeypatch.setattr(accelerate.utils.memory, "clear_device_cache", lambda **_: None)


@pytest.fixture
def pipe(llava):
    return Pipeline(*llava)


class ByHand:
    """What the tiny LLaVA says, one row at a time, without caches or padding."""

    def __init__(self, model, processor) -> None:
        self.model, self.processor, self.known = model, processor, {}

    def logits(self, condition, question, tokens=()):
        """(vocab,) scores; `condition` is a picture's number or a reference."""
        key = (condition, question, *tokens)
        if key not in self.known:
            name, first = ("seen", condition) if isinstance(condition, int) else (condition, 0)
            inputs = encode(self.processor, [question], first=first)
            (row,) = seconds(self.processor, [question], name, inputs=inputs)
            self.known[key] = blind_logits(self.model, row, list(tokens))
        return self.known[key]

    def debiased(self, number, question, config, tokens):
        """(vocab,) log-probabilities of a leg's next token."""
        config = config or DebiasConfig(alpha=0.0, beta=0.0)
        blind = self.logits(config.reference, question, tokens)
        return debias(self.logits(number, question, tokens), blind, config.alpha, config.beta)

    def greedy(self, number, question, leg) -> str:
        tokens = []
        while len(tokens) < leg.sampling.max_new_tokens and 2 not in tokens:
            tokens.append(int(self.debiased(number, question, leg.debias, tokens).argmax()))
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def labels(self, labels, scores) -> list[float]:
        """p(label); `scores` gives the log-probabilities behind some tokens."""

        def of(form):
            return sum(float(scores(form[:n]).log_softmax(-1)[token]) for n, token in enumerate(form))

        return [sum(np.exp(of(form)) for form in forms) for forms in labels.forms]


@pytest.fixture(scope="module")
def hand(llava):
    return ByHand(*llava)


def pairs(groups):
    return [(number, question) for number, questions in groups.items() for question in questions]


def work_on(pipe, groups, **how) -> Asked:
    numbers, questions = zip(*pairs(groups), strict=True)
    return Asked(pipe, [picture(n) for n in numbers], questions, [f"{n}.png" for n in numbers], **how)


def is_shared(work) -> bool:
    return "pixel_values" not in work.inputs


def close(got, want) -> None:
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------------------------------------ against from scratch


@every_group
def test_first_token_rows_are_those_of_forwards_from_scratch(pipe, hand, groups):
    work = work_on(pipe, groups)
    assert is_shared(work)
    rows = pipe.distributions(work.inputs, ("image", "none", "unk"), prefill=work.prefill)
    for place, (number, question) in enumerate(pairs(groups)):
        for condition, got in rows.items():
            want = hand.logits(number if condition == "image" else condition, question)
            close(got[place], want.log_softmax(-1))


@every_group
def test_label_probabilities_are_those_of_forwards_from_scratch(pipe, hand, groups):
    work, config = work_on(pipe, groups), DebiasConfig(reference="both", beta=0.0)
    rows = pipe.distributions(work.inputs, ("image", "none", "unk"), prefill=work.prefill)
    for words in LABELS.values():
        labels = pipe.labels(words)
        found = pipe.label_probabilities(work.inputs, labels, rows=rows, prefill=work.prefill)
        moved = pipe.debiased_label_probabilities(work.inputs, labels, config, rows, prefill=work.prefill)
        for place, (number, question) in enumerate(pairs(groups)):
            for condition, got in found.items():
                asked = number if condition == "image" else condition
                close(got[place], hand.labels(labels, partial(hand.logits, asked, question)))
            close(moved[place], hand.labels(labels, partial(hand.debiased, number, question, config)))


@every_group
def test_greedy_texts_are_those_of_decoding_by_hand(pipe, hand, groups):
    work = work_on(pipe, groups)
    for leg in (leg for leg in GREEDY if leg.name in ("greedy", "vdd-none", "vdd-both")):
        assert work.generate(leg, 0, "skip") == [hand.greedy(*pair, leg) for pair in pairs(groups)], leg.name


@pytest.mark.parametrize("name", ["ends of many lengths", "three, two and one", "a question twice"])
@pytest.mark.parametrize("leg", HOT, ids=lambda leg: leg.name)
def test_sampled_texts_are_those_of_transformers_own_loop_with_the_same_seed(llava, pipe, name, leg):
    model, processor = llava
    numbers, questions = zip(*pairs(GROUPS[name]), strict=True)
    texts = [chat(processor, question) for question in questions]
    inputs = processor(images=[picture(n) for n in numbers], text=texts, padding=True, return_tensors="pt")
    width = inputs["input_ids"].shape[1]
    config = leg.debias or DebiasConfig(alpha=0.0, beta=0.0)
    oracle = Recompute(model, seconds(processor, questions, "none"), width, alpha=config.alpha, beta=config.beta)
    work = work_on(pipe, GROUPS[name])
    for seed in (0, 5):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            ids = model.generate(
                **inputs.to(torch.float64), **leg.sampling.generate_kwargs(), logits_processor=[oracle]
            )
        want = processor.tokenizer.batch_decode(ids[:, width:], skip_special_tokens=True)
        assert work.generate(leg, seed, "skip") == [text.strip() for text in want]


@settings(max_examples=30)
@given(
    st.dictionaries(
        st.integers(0, 3),
        st.lists(st.lists(st.sampled_from(["is", "a", "fox", "?"]), max_size=6).map(" ".join), min_size=1, max_size=4),
        min_size=1,
        max_size=3,
    )
)
def test_any_questions_in_any_groups_get_their_own_rows(llava, hand, groups):
    pipe = Pipeline(*llava)
    work = work_on(pipe, groups)
    assert is_shared(work) is any(len(questions) > 1 for questions in groups.values())
    tokens = tuple(llava[1].tokenizer.convert_tokens_to_ids(["red", "dog"]))
    first, third = (
        pipe.distributions(work.inputs, ("image",), tokens=given, prefill=work.prefill)["image"]
        for given in ((), tokens)
    )
    for place, pair in enumerate(pairs(groups)):
        close(first[place], hand.logits(*pair).log_softmax(-1))
        close(third[place], hand.logits(*pair, tokens).log_softmax(-1))


def test_several_images_may_belong_to_a_question(llava, pipe):
    images, questions = [[picture(0), picture(1)], [picture(2)]], [[CAR, DOG], [FOX, DOG, CAR]]
    shared = pipe.shared(images, questions)
    prefill = pipe.prefill_shared(shared, pipe.reads(shared))
    rows = [(own, question) for own, asked in zip(images, questions, strict=True) for question in asked]
    for place, (own, question) in enumerate(rows):
        count, first = len(own), 0 if len(own) == 2 else 2
        inputs = encode(llava[1], [question], first=first, counts=[count])
        ((seen,),) = seconds(llava[1], [question], "seen", inputs=inputs, counts=[count])
        close(prefill.logits[place], next_logits(llava[0], seen, []))


# ----------------------------------------------------------------------------------------------- against not sharing


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(8):
        picture(number).save(folder / f"{number}.png")
    return folder


def questions_of(groups, seed=0) -> list[Question]:
    """The questions of groups, out of order."""
    asked = [Question(n, f"{number}.png", text, "yes") for n, (number, text) in enumerate(pairs(groups))]
    return random.Random(seed).sample(asked, len(asked))


MANY = {
    0: [FOX, CAR, DOG, FOX],
    1: [CAR, DOG],
    2: [DOG],
    3: [FOX, DOG, "is it red ?"],
    4: [CAR, FOX, DOG, "?", "yes ?"],
}


@pytest.fixture
def job(images):
    return Run("tiny", questions_of(MANY), images, GREEDY[:2], batch_size=4)


def answers(out: Path, leg: str) -> list[Answer]:
    lines = (out / "answers" / f"{leg}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Answer.from_json(json.loads(line)) for line in lines]


def texts(out: Path, leg: str = "greedy") -> dict[int, str]:
    """Each question's answer; each once, in the order of their ids."""
    found = answers(out, leg)
    assert [answer.question_id for answer in found] == sorted({answer.question_id for answer in found})
    return {answer.question_id: answer.text for answer in found}


def stored(out: Path) -> dict[str, bytes]:
    """Every file of a run but the one that holds times."""
    files = {str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()}
    files.pop("timings.jsonl")
    return files


def values(answer: Answer) -> list[float]:
    parts = [answer.probabilities, *(answer.blind_probabilities or {}).values(), *(answer.debiased or {}).values()]
    return [answer.margin or 0.0, *(value for part in parts if part for value in part.values())]


@pytest.mark.parametrize(("labels", "size"), [(("yes", "no"), 4), (("red fox", "brown dog"), 16)], ids=str)
def test_a_run_stores_the_same_with_and_without_sharing(llava, job, tmp_path, labels, size):
    broken = [Question(100 + n, "missing.png", FOX, "yes") for n in range(3)]
    legs = [leg for leg in standard_legs(beta=0.02, max_new_tokens=3) if leg.name in SOME]
    job = replace(job, questions=[*job.questions, *broken], legs=legs, labels=labels, batch_size=size)
    for share in (True, False):
        run(Pipeline(*llava), replace(job, share_images=share), tmp_path / str(share))
    for leg in legs:
        pair = [answers(tmp_path / str(share), leg.name) for share in (True, False)]
        assert len(pair[0]) == len(job.questions)
        for shared, alone in zip(*pair, strict=True):
            assert (shared.question_id, shared.text, shared.error) == (alone.question_id, alone.text, alone.error)
            assert values(shared) == pytest.approx(values(alone), rel=1e-9, abs=1e-12)
    rows, want = (load_file(tmp_path / str(share) / "rows.safetensors") for share in (True, False))
    assert set(rows) == set(want)
    np.testing.assert_allclose(rows["image"], want["image"], rtol=1e-6)
    for name in ("none", "unk"):
        np.testing.assert_array_equal(rows[name][rows[f"{name}_index"]], want[name][want[f"{name}_index"]])


@pytest.mark.parametrize("name", ["three, two and one", "a question twice"])
def test_every_strategy_goes_on_from_shared_images_with_the_same_tokens(pipe, name):
    work, alone = work_on(pipe, GROUPS[name]), work_on(pipe, GROUPS[name], share=False)
    assert is_shared(work) > is_shared(alone)
    for leg in (leg for leg in LEGS if leg.name in SOME):
        leg = replace(leg, sampling=replace(leg.sampling, max_new_tokens=7))
        want = alone.generate(leg, 3, "two-pass")
        for strategy in ("two-pass", "skip", "fuse", "speculate"):
            assert work.generate(leg, 3, strategy) == want, (strategy, leg.name)


@pytest.mark.parametrize(
    "leg",
    [
        *(Leg(name, DebiasConfig(reference=name, beta=0.01)) for name in ("mask", "noise", "zero", "instruction")),
        Leg("beams", DebiasConfig(beta=0.02), SamplingConfig(num_beams=3)),
        Leg("ids", DebiasConfig(derive="ids", beta=0.02)),
        Leg("a patch each", DebiasConfig(reference="unk", unk_per="patch", beta=0.02)),
        Leg("growing", DebiasConfig(schedule="m3id", beta=0.0)),
    ],
    ids=lambda leg: leg.name,
)
def test_legs_that_want_pixels_or_beams_work_beside_shared_images(pipe, leg):
    leg = replace(leg, sampling=replace(leg.sampling, max_new_tokens=5))
    work, alone = (work_on(pipe, GROUPS["three, two and one"], share=share) for share in (True, False))
    assert is_shared(work)
    assert work.generate(leg, 0, "skip") == alone.generate(leg, 0, "skip")


@contextmanager
def looking(model):
    """The number of images that the model's vision tower was shown in each of its forwards."""
    shown = []
    hook = model.model.vision_tower.register_forward_hook(
        lambda _, args, given, out: shown.append(len(args[0] if args else given["pixel_values"])), with_kwargs=True
    )
    try:
        yield shown
    finally:
        hook.remove()


@pytest.mark.parametrize(("size", "want"), [(5, [5, 2, 2, 1]), (16, [5])], ids=str)
def test_the_model_looks_at_an_image_once_a_batch(llava, job, tmp_path, size, want):
    """Of 15 questions about five images, 4, 2, 1, 3 and 5 each."""
    legs = [leg for leg in standard_legs(max_new_tokens=2) if leg.name in SOME]
    job = replace(job, legs=legs, batch_size=size)
    with looking(llava[0]) as shown:
        run(Pipeline(*llava), job, tmp_path / "shared")
        shared = shown.copy()
        shown.clear()
        run(Pipeline(*llava), replace(job, share_images=False), tmp_path / "alone")
    assert sum(shown) == 15
    assert sum(shared) == 5
    assert len(shared) == len(shown)
    assert texts(tmp_path / "shared") == texts(tmp_path / "alone")


def test_an_image_that_falls_into_two_batches_is_looked_at_in_each(llava, job, tmp_path):
    job = replace(job, questions=questions_of({0: [FOX, CAR, DOG, FOX, CAR]}), batch_size=2)
    with looking(llava[0]) as shown:
        run(Pipeline(*llava), job, tmp_path / "out")
    assert shown == [1, 1, 1]


def test_images_of_one_question_each_are_read_as_they_always_were(pipe):
    work = work_on(pipe, {0: [FOX], 1: [CAR]})
    assert not is_shared(work)


def test_a_prompt_that_puts_the_question_before_the_image_is_not_shared(llava, hand):
    processor = tiny_processor()
    processor.chat_template = "<s>{{ messages[0]['content'][-1]['text'] }} <image> ASSISTANT:"
    pipe, before = Pipeline(llava[0], processor), ByHand(llava[0], processor)
    for groups in (GROUPS["three, two and one"], {0: ["is there a fox", "is there a dog"]}):
        work = work_on(pipe, groups)
        assert not is_shared(work)
        for place, pair in enumerate(pairs(groups)):
            close(work.prefill.logits[place], before.logits(*pair))
    twice = work_on(pipe, GROUPS["every question twice"])  # may be shared: nothing but the end differs
    for place, pair in enumerate(pairs(GROUPS["every question twice"])):
        close(twice.prefill.logits[place], before.logits(*pair))


@pytest.mark.parametrize("axes", [1, 3])
def test_a_prompt_without_its_end_is_what_stands_before_it(axes):
    rows, cuts = [[5, 6, 7, 8], [9, 10], [11, 12, 13]], (1, 1, 2)
    width = max(map(len, rows))

    def padded(values):
        return [[0] * (width - len(row)) + list(row) for row in values]

    positions = torch.tensor([padded([[100 * axis + token for token in row] for row in rows]) for axis in range(axes)])
    prompt = BlindPrompt(
        torch.tensor(padded(rows)),
        torch.tensor(padded([[1] * len(row) for row in rows])),
        positions[0] if axes == 1 else positions,
        pixels={"pixel_values": torch.ones(3)},
    )
    begun = prompt.without_ends(cuts)
    want = [row[:-cut] for row, cut in zip(rows, cuts, strict=True)]
    real = begun.attention_mask.bool()
    assert begun.input_ids.shape == real.shape == (3, 3)
    assert [row[mask].tolist() for row, mask in zip(begun.input_ids, real, strict=True)] == want
    assert bool(real[:, -1].all())
    for axis in range(axes):
        found = begun.position_ids if axes == 1 else begun.position_ids[axis]
        assert [row[mask].tolist() for row, mask in zip(found, real, strict=True)] == [
            [100 * axis + token for token in row] for row in want
        ]
    assert begun.pixels is prompt.pixels


# ----------------------------------------------------------------------------------------------------- every family

BOTH_WAYS = "the prompt is read in both directions"
NOT_ALL = "not every layer attends to all that was read"
ANOTHER = "another part of the model reads the text"
ENCODER = "an encoder reads each prompt as a whole"
UNSHARED = {
    **dict.fromkeys(["Gemma3", "Gemma4", "Gemma4 E2B/E4B", "PaliGemma", "PaliGemma 2"], BOTH_WAYS),
    **dict.fromkeys(["Qwen3.5", "Qwen3.5-MoE", "Llama 4", "Aya Vision", "Command A Vision", "Gemma3n"], NOT_ALL),
    **dict.fromkeys(["InstructBLIP (Vicuna)", "BLIP-2 (OPT)", "Kosmos-2"], ANOTHER),
    **dict.fromkeys(["InstructBLIP (T5)", "Florence-2"], ENCODER),
    "Mllama": "images stand beside the prompt",
}
QUESTION_FIRST = ("Chameleon",)
PADS_PIXELS = ("Emu3",)  # before it looks at them: what it sees of an image depends on its batch-mates
SIZES = {"a.png": (16, 16), "b.png": (16, 32), "c.png": (32, 16)}
FAMILY_ASKED = [
    *(("a.png", text) for text in ("is it red ?", "what color is the dog in the image ?", "is it red and blue ?")),
    *(("b.png", text) for text in ("what color is the dog ?", "is it ?")),
    ("c.png", "is it red ?"),
]


@pytest.mark.parametrize("member", EVERY)
def test_every_family_answers_alike_whether_it_can_share_or_not(member):
    with warnings.catch_warnings():  # transformers 4 hands numpy a tensor
        warnings.filterwarnings("ignore", "__array_wrap__", DeprecationWarning)
        _ask_a_family(member)


def _ask_a_family(member) -> None:
    pipe = built(member)
    sizes = dict.fromkeys(SIZES, (16, 16)) if member.name in PADS_PIXELS else SIZES
    pictures = {name: sized(n, *size) for n, (name, size) in enumerate(sizes.items())}
    names, questions = zip(*FAMILY_ASKED, strict=True)
    images = [pictures[name] for name in names]
    works = [Asked(pipe, images, questions, names)]
    assert pipe.unshared == UNSHARED.get(member.name, "")
    assert is_shared_by(pipe, works[0]) is (member.name not in (*UNSHARED, *QUESTION_FIRST))
    works += [Asked(pipe, images, questions, names, share=False)] if is_shared_by(pipe, works[0]) else []

    near = max(getattr(member, "tolerance", 0), 1e-6)
    greedy, hot = GREEDY[0], HOT[1]
    first = works[0].prefill.logits.log_softmax(-1).clamp(min=-1e4)
    said = works[0].generate(greedy, 0, "skip")
    for place in (1, 3):
        name, question = FAMILY_ASKED[place]
        inputs = member.inputs(small(pipe), [question], [[pictures[name]]])
        scores = member.seen_logits(pipe.model, inputs, [])
        torch.testing.assert_close(first[place], scores.log_softmax(-1).clamp(min=-1e4), rtol=near, atol=near)
        real = works[0].inputs["attention_mask"][place].bool()
        assert torch.equal(works[0].inputs["input_ids"][place][real], inputs["input_ids"][0])
        tokens = [int(scores.argmax())]
        while place == 3 and member.padded and len(tokens) < 3 and tokens[-1] != 2:
            tokens.append(int(member.seen_logits(pipe.model, inputs, tokens).argmax()))
        decoded = pipe.processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        assert said[place].startswith(decoded) or not member.padded

    if len(works) == 2:
        labels = pipe.labels(LABELS["two tokens"])
        rows, want = ({"image": work.prefill.logits.log_softmax(-1)} for work in works)
        torch.testing.assert_close(rows["image"], want["image"], rtol=near, atol=near)
        probabilities = [
            pipe.label_probabilities(work.inputs, labels, rows=own, prefill=work.prefill)["image"]
            for work, own in zip(works, (rows, want), strict=True)
        ]
        torch.testing.assert_close(*probabilities, rtol=near, atol=1e-12)
        assert said == works[1].generate(greedy, 0, "skip")
        assert works[0].generate(hot, 4, "skip") == works[1].generate(hot, 4, "skip")


def is_shared_by(pipe, work) -> bool:
    return not set(pipe.family.pixel_inputs).intersection(work.inputs)


# ------------------------------------------------------------------------------------------------------------ batches


@st.composite
def files_of_questions(draw):
    """Questions about images, one to seven each, of one to six words, in any order."""
    counts = draw(st.lists(st.integers(1, 7), min_size=1, max_size=6))
    lengths = draw(st.lists(st.integers(1, 6), min_size=sum(counts), max_size=sum(counts)))
    names = [f"{n}.png" for n, count in enumerate(counts) for _ in range(count)]
    ids = draw(st.permutations(range(len(names))))
    asked = [
        Question(i, name, " ".join(WORDS[:length]), "yes") for i, name, length in zip(ids, names, lengths, strict=True)
    ]
    return draw(st.permutations(asked))


def batches_of(pipe, questions, size) -> list[list[Question]]:
    """How a run cuts these questions."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(vdd.runner, "_answer") as answer:
        run(pipe, Run("tiny", questions, Path(folder), GREEDY[:1], batch_size=size), Path(folder) / "out")
    return answer.call_args.args[3]


@settings(max_examples=25)
@given(files_of_questions(), st.integers(1, 8), st.randoms(use_true_random=False))
def test_batches_keep_an_images_questions_and_like_lengths_together(llava, questions, size, randomness):
    pipe = Pipeline(*llava)
    batches = batches_of(pipe, questions, size)
    flat = [question for batch in batches for question in batch]
    assert sorted(q.question_id for q in flat) == sorted(q.question_id for q in questions)
    assert all(1 <= len(batch) <= size for batch in batches)
    groups = {q.image: [one for one in flat if one.image == q.image] for q in flat}
    for image, group in groups.items():
        holding = [batch for batch in batches if any(q.image == image for q in batch)]
        assert len(holding) == -(-len(group) // size), "an image was torn apart"
        start = flat.index(group[0])
        assert flat[start : start + len(group)] == group, "an image's questions lie apart"
    longest = [max(len(q.text.split()) for q in group) for group in groups.values()]
    assert longest == sorted(longest)
    for batch, after in itertools.pairwise(batches):
        assert len(batch) + min(len(groups[after[0].image]), size) > size, "a batch was left emptier than it need be"

    shuffled = list(questions)
    randomness.shuffle(shuffled)
    assert batches_of(pipe, shuffled, size) == batches


def test_files_are_in_the_order_of_ids_whatever_the_batches(llava, job, tmp_path):
    for size in (3, 50):
        run(Pipeline(*llava), replace(job, batch_size=size), tmp_path / str(size))
    for leg in job.legs:
        assert texts(tmp_path / "3", leg.name) == texts(tmp_path / "50", leg.name)
    rows, whole = (load_file(tmp_path / size / "rows.safetensors") for size in ("3", "50"))
    np.testing.assert_allclose(rows["image"], whole["image"], rtol=1e-6)
    np.testing.assert_array_equal(rows["none"][rows["none_index"]], whole["none"][whole["none_index"]])


# ------------------------------------------------------------------------------------------------------ out of memory


def too_much_for_this_machine() -> None:
    torch.empty(2**50)


def too_much_for_a_gpu() -> None:
    raise torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB of which 1.04 GiB is "
        "free. Process 1 has 14.72 GiB memory in use."
    )


class Cramped(Pipeline):
    """Reads at most so many questions at once, or goes on from at most so many.

    Attributes:
        sizes: how many questions each attempt had.
        seeds: of each sampling.
    """

    def __init__(self, pair, most, fail=too_much_for_a_gpu, when="prefill") -> None:
        super().__init__(*pair)
        self.most, self.fail, self.when, self.sizes, self.seeds = most, fail, when, [], []

    def _look_at(self, when, count) -> None:
        if when == "prefill":
            self.sizes.append(count)
        if when == self.when and count > self.most:
            self.fail()

    def prefill(self, inputs):
        self._look_at("prefill", len(inputs["input_ids"]))
        return super().prefill(inputs)

    def prefill_shared(self, shared, inputs):
        self._look_at("prefill", len(shared.owners))
        return super().prefill_shared(shared, inputs)

    def generate(self, inputs, *, debias, **how):
        if debias is not None:
            self._look_at("generate", len(inputs["input_ids"]))
        self.seeds += [how["seed"]] if how["sampling"].temperature else []
        return super().generate(inputs, debias=debias, **how)


@pytest.fixture(scope="module")
def roomy(llava, images, tmp_path_factory):
    """The same questions in small batches."""
    out = tmp_path_factory.mktemp("roomy") / "out"
    run(Pipeline(*llava), Run("tiny", questions_of(MANY), images, GREEDY[:2], batch_size=2), out)
    return out


@pytest.mark.parametrize(
    ("fail", "when", "share"),
    [
        (too_much_for_a_gpu, "prefill", True),
        (too_much_for_a_gpu, "prefill", False),
        (too_much_for_a_gpu, "generate", True),
        (too_much_for_this_machine, "prefill", True),
        (too_much_for_this_machine, "generate", False),
    ],
)
def test_batches_shrink_until_they_fit_and_no_answer_is_lost(llava, job, roomy, tmp_path, fail, when, share):
    broken = [Question(100 + n, "missing.png", FOX, "yes") for n in range(3)]
    legs = [*job.legs, HOT[1]]
    job = replace(job, questions=[*job.questions, *broken], batch_size=12, share_images=share, legs=legs)
    cramped = Cramped(llava, 3, fail, when)
    run(cramped, job, tmp_path / "out")
    assert max(cramped.sizes) > 6
    assert max(cramped.sizes[-3:]) <= 3
    assert len(set(cramped.seeds[-5:])) == len(cramped.seeds[-5:]) == 5, "two parts of a batch draw the same numbers"
    for leg in legs:
        found = texts(tmp_path / "out", leg.name)
        assert list(found) == [*range(15), 100, 101, 102]
        if leg in GREEDY:
            assert {number: found[number] for number in range(15)} == texts(roomy, leg.name)
    rows, want = (load_file(out / "rows.safetensors") for out in (tmp_path / "out", roomy))
    np.testing.assert_allclose(rows["image"], want["image"], rtol=1e-6)
    assert len(rows["none_index"]) == 15


def test_later_batches_start_from_the_size_that_fitted(llava, images, tmp_path):
    groups = {n: [FOX, CAR, DOG, FOX, CAR, DOG, FOX, CAR] for n in range(2)}
    cramped = Cramped(llava, 2)
    run(cramped, Run("tiny", questions_of(groups), images, GREEDY[:1], batch_size=8), tmp_path / "out")
    assert cramped.sizes == [8, 4] + [2] * 8


def test_batches_that_fitted_before_the_memory_ended_are_kept(llava, images, tmp_path):
    groups = {0: [DOG] * 2, 1: [FOX] * 4, 2: [CAR] * 4}  # in the order of their lengths
    cramped = Cramped(llava, 3)
    run(cramped, Run("tiny", questions_of(groups), images, GREEDY[:1], batch_size=4), tmp_path / "out")
    assert cramped.sizes == [2, 4, 2, 2, 2, 2]


def test_progress_never_goes_back_when_batches_shrink(llava, images, tmp_path):
    groups = {0: [DOG] * 3, 1: [FOX] * 3, 2: [CAR] * 4}
    job, seen = Run("tiny", questions_of(groups), images, GREEDY[:1], batch_size=4), []
    run(Cramped(llava, 3), job, tmp_path / "out", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (10, 10)
    assert seen == sorted(seen)


def test_a_question_for_which_the_memory_does_not_suffice_by_itself_is_an_error_that_says_so(llava, job, tmp_path):
    cramped = Cramped(llava, 0)
    with pytest.raises((UserError, RuntimeError), match="memory"):
        run(cramped, job, tmp_path / "out")
    assert cramped.sizes == [4, 2, 1]


@pytest.mark.parametrize(
    "error",
    [RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"), ValueError("no"), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_no_reason_to_try_again(llava, job, tmp_path, error):
    def fail():
        raise error

    cramped = Cramped(llava, 2, fail)
    with pytest.raises(type(error)) as caught:
        run(cramped, job, tmp_path / "out")
    assert caught.value is error
    assert len(cramped.sizes) == 1


class Killed(Exception):
    """What stands for a kill in these tests."""


def die_after(questions):
    def progress(done, total):
        if done >= questions:
            raise Killed

    return progress


@pytest.mark.parametrize("most", [2, 12], ids=["as little memory", "more memory"])
def test_a_run_that_shrank_and_was_killed_goes_on_to_the_same_greedy_answers(llava, job, roomy, tmp_path, most):
    job = replace(job, batch_size=5)
    for after in (5, 10):
        with pytest.raises(Killed):
            run(Cramped(llava, 2), job, tmp_path / "killed", progress=die_after(after))
    run(Cramped(llava, most), job, tmp_path / "killed")
    for leg in job.legs:
        assert texts(tmp_path / "killed", leg.name) == texts(roomy, leg.name)


def test_a_run_that_shrank_and_was_killed_repeats_its_bytes_where_the_memory_is_the_same(llava, job, tmp_path):
    job = replace(job, batch_size=5, legs=HOT[1:2])
    run(Cramped(llava, 2), job, tmp_path / "whole")
    with pytest.raises(Killed):
        run(Cramped(llava, 2), job, tmp_path / "killed", progress=die_after(5))
    run(Cramped(llava, 2), job, tmp_path / "killed")
    assert stored(tmp_path / "killed") == stored(tmp_path / "whole")


# -------------------------------------------------------------------------------------------------------- remembering


@contextmanager
def image_free(model):
    """The texts that the model reads from their beginning without an image."""
    read = []

    def hook(_, args, given):
        cache = given.get("cache", given.get("past_key_values"))
        ids = given["input_ids"]
        if cache.get_seq_length() == 0 and not bool((ids == 4).any()):
            read.extend(tuple(row) for row in ids.tolist())

    handle = model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield read
    finally:
        handle.remove()


@pytest.mark.parametrize(("size", "share"), [(2, True), (5, False), (50, True)])
def test_a_run_reads_each_text_once_for_each_reference_whatever_the_batches(llava, job, tmp_path, size, share):
    model, processor = llava
    legs = [leg for leg in standard_legs(max_new_tokens=1) if leg.name in SOME]
    job = replace(job, batch_size=size, share_images=share, legs=legs)
    different = sorted({question.text for question in job.questions})
    with image_free(model) as read:
        run(Pipeline(model, processor), job, tmp_path / "out")
    want = [tuple(row[0].ids) for name in ("none", "unk") for row in seconds(processor, different, name)]
    assert sorted(read) == sorted(want)
    costs = [json.loads(line) for line in (tmp_path / "out" / "timings.jsonl").read_text().splitlines()]
    for name in ("none", "unk"):
        assert sum(cost["forwards"] for cost in costs if cost["part"] == name) == len(different)


def test_a_second_run_of_a_pipeline_reads_no_text_again(llava, job, tmp_path):
    legs = [leg for leg in standard_legs(max_new_tokens=1) if leg.name in ("greedy", "vdd-none", "vdd-both")]
    pipe, job = Pipeline(*llava), replace(job, legs=legs)
    run(pipe, job, tmp_path / "first")
    with image_free(llava[0]) as read:
        run(pipe, replace(job, batch_size=3), tmp_path / "second")
        assert read == []
        run(Pipeline(*llava), job, tmp_path / "third")
    assert len(read) == 2 * len({question.text for question in job.questions})
    assert stored(tmp_path / "third") == stored(tmp_path / "first")
    for leg in legs:
        assert texts(tmp_path / "second", leg.name) == texts(tmp_path / "first", leg.name)


def test_what_one_reference_says_is_never_taken_for_anothers(llava, hand):
    """`unk` of one question and `none` of another may be of one length and at the same positions."""
    pipe = Pipeline(*llava)
    for _ in range(2):
        for groups in ({0: ["is there a fox"], 1: ["is there"]}, {0: ["fox", "is there a fox"]}):
            work = work_on(pipe, groups)
            for name in ("none", "unk"):
                rows = pipe.distributions(work.inputs, (name,), prefill=work.prefill)[name]
                for place, (_, question) in enumerate(pairs(groups)):
                    close(rows[place], hand.logits(name, question).log_softmax(-1))
            for leg in GREEDY:
                assert work.generate(leg, 0, "skip") == [hand.greedy(*pair, leg) for pair in pairs(groups)]


FEW = [
    member
    for member in MEMBERS
    if member.name in ("Qwen2.5-VL", "Idefics3", "Mllama", "InstructBLIP (T5)", "Florence-2", "Kosmos-2")
]


@pytest.mark.parametrize("member", FEW, ids=lambda member: member.name)
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_what_is_remembered_of_a_row_of_a_padded_batch_is_what_it_says_from_scratch(member):
    pipe = built(member)
    pipe.memory.clear()
    asked, pictures = ["what color is the dog in the image ?", "is it red ?"], [sized(0), sized(1)]
    inputs = pipe.inputs(pictures, asked)
    near = max(getattr(member, "tolerance", 0), 1e-6)
    for reference in ("none", "unk", "mask", "noise", "one"):
        if reference in member.references:
            with mock.patch.object(vdd.distributions, "CALIBRATION_NOISE_STEP", 500):  # the oracle's
                rows = pipe.distributions(inputs, (reference,))[reference]
            for row, question, own in zip(rows, asked, pictures, strict=True):
                want = blind_row(member, pipe.model, small(pipe), question, [own], reference)([]).log_softmax(-1)
                torch.testing.assert_close(row, want, rtol=near, atol=near, msg=f"{reference} of {question!r}")


@pytest.mark.parametrize("member", FEW, ids=lambda member: member.name)
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")
def test_a_text_is_read_once_whatever_it_was_padded_to(member):
    pipe = built(member)
    pipe.memory.clear()
    asked, before = ["is it red ?", "what color is the dog in the image ?", "is it ?"], pipe.memory.misses
    for batch in ([0], [0, 1], [2, 0], [1, 2]):
        pipe.distributions(pipe.inputs([sized(n) for n in batch], [asked[n] for n in batch]), ("none",))
        pipe.reset()
    assert pipe.memory.misses - before == 3


# -------------------------------------------------------------------------------------------------- the embedded model


TOY_LEGS = [
    leg for leg in standard_legs(max_new_tokens=3) if leg.name in ("greedy", "vdd-both", "posthoc-unk", "vdd-none@T=1")
]


@pytest.fixture(scope="module")
def toy_job(images):
    """Float32; questions of several lengths, most of them about several images."""
    names = ["apple", "banana", "bus", "fox", "frog", "mailbox", "hydrant"]
    asked = [f"Is there a {name} in the image?" for name in names] + ["What color is the fox?"]
    groups = {n: [asked[(n + 3 * k) % 8] for k in range((4, 1, 6, 3, 2)[n])] for n in range(5)}
    return Run("toy", questions_of(groups), images, TOY_LEGS, batch_size=6)


def test_a_killed_and_resumed_run_with_shared_images_repeats_its_bytes_in_float32(toy, toy_job, tmp_path):
    ends = []
    run(Pipeline(*toy), toy_job, tmp_path / "whole", progress=lambda done, total: ends.append(done))
    assert len(ends) >= 3
    for after in ends[:2]:
        with pytest.raises(Killed):
            run(Pipeline(*toy), toy_job, tmp_path / "resumed", progress=die_after(after))
    run(Pipeline(*toy), toy_job, tmp_path / "resumed")
    assert stored(tmp_path / "resumed") == stored(tmp_path / "whole")


def test_equal_texts_have_one_image_free_row_to_the_last_bit_in_float32(toy, toy_job, tmp_path):
    different = {question.text for question in toy_job.questions}
    found = []
    for size, share in ((6, True), (4, False), (50, True)):
        job = replace(toy_job, batch_size=size, share_images=share, legs=toy_job.legs[:1])
        run(Pipeline(*toy), job, tmp_path / f"{size}")
        found.append(load_file(tmp_path / f"{size}" / "rows.safetensors"))
    for rows in found:
        for name in ("none", "unk"):
            assert len(rows[name]) == len(different)
            np.testing.assert_array_equal(rows[name], found[0][name])
            np.testing.assert_array_equal(rows[f"{name}_index"], found[0][f"{name}_index"])
        np.testing.assert_allclose(rows["image"], found[0]["image"], rtol=1e-3, atol=1e-3)
    for size in ("4", "50"):
        assert texts(tmp_path / size) == texts(tmp_path / "6")
