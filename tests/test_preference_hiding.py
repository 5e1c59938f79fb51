"""Hidden images in every family in small: scores at every place, nothing of the pixels, one encode for all tries."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from functools import lru_cache

import pytest
import torch

from tests.oracles.preference import hidden_scores, removed_scores
from tests.tiny import tiny_llava
from tests.zoo import EVERY, MEMBERS, picture
from vdd._check import UserError
from vdd.batch import batch_of
from vdd.families import family_of
from vdd.preference import writer
from vdd.preference.hiding import EncodedOnce, check_hides, hidden_prompt, image_tokens, noised_prompt
from vdd.preference.writer import Place, TooLong, write_tails
from vdd.reader import Reader

QUESTIONS = ["is it red ?", "what color is the dog in the image ?"]
ANSWER = "yes it is a red fox . the dog has a car ."
STEPS = 2
REFUSED = {
    "Qwen3.5": "linear attention",
    "Qwen3.5-MoE": "linear attention",
    "InstructBLIP (T5)": "an encoder reads its prompt",
    "Florence-2": "an encoder reads its prompt",
}
"""Families that hide no image; Mllama, whose images stand beside the text, can only be shown noise."""
LOOSE = {"GLM-4.5V": 1e-6, "Llama 4": 1e-6}
"""Where a part is computed in float32, whatever the model's dtype."""
LONG = 4096
every = pytest.mark.parametrize("member", EVERY, scope="module")


@lru_cache(maxsize=2)
def built(member):
    """(model, processor, family); sliding windows, which are tiny here, are as long as a published model's."""
    if not member.available:
        pytest.skip(f"this version of transformers has no {member.model_class}")
    model, processor = member.build()
    text = model.config.get_text_config(decoder=True)
    for name in ("sliding_window", "attention_chunk_size"):
        if getattr(text, name, None):
            setattr(text, name, LONG)
    return model, processor, family_of(model, processor)


def hides(member, family, variant="attention") -> bool:
    why = REFUSED.get(member.name) or (member.name == "Mllama" and variant != "noise" and "beside the text")
    if not why:
        check_hides(family, variant)
        return True
    with pytest.raises(UserError, match=rf"cannot be hidden in the family '{family.kind}': .*{why}.*; wanted "):
        check_hides(family, variant)
    return False


def prompts(member, processor, family, first=1):
    """(inputs of two rows, their batch, where image features stand)."""
    shown = [[picture(first)], [picture(first + 1)]]
    inputs = member.inputs(processor, QUESTIONS, shown)
    batch = batch_of(inputs["input_ids"], family, processor=processor, inputs=inputs)
    return inputs, batch, image_tokens(batch, family, processor)


def answers_of(processor):
    words = [processor.tokenizer(word, add_special_tokens=False).input_ids[-1] for word in ANSWER.split()]
    return [words, words[3:9]]


def places_of(answers, draws):
    """The prompt's end, a head there, a sentence further on with and without a head, a row of another length."""
    long, short = answers
    cut = [(0, 0, []), (0, 0, long[:2]), (0, 7, long[7:9]), (0, 7, []), (1, 4, short[4:5]), (1, 0, [])]
    return [Place(row, start, head, draws[number], lambda _: False) for number, (row, start, head) in enumerate(cut)]


@contextmanager
def scores_kept():
    """The scores that each step draws from, step by step."""
    kept, own = [], writer.drawn

    def spy(scores, draws, **how):
        kept.append(scores.clone())
        return own(scores, draws, **how)

    writer.drawn = spy
    try:
        yield kept
    finally:
        writer.drawn = own


def written(model, family, prompt, answers, steps=STEPS):
    """(places, their scores by step)."""
    draws = torch.rand(8, steps, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    places = places_of(answers, draws)
    never = sorted(family.image_ids | family.frame_ids)
    with scores_kept() as kept:
        write_tails(Reader(model, family), prompt, answers, places, temperature=1.0, top_p=0.95, ends=(), never=never)
    return places, kept


def apart(got, want) -> float:
    """How far scores are apart, where a token may be written at all."""
    may = got > -torch.inf
    return float((got - want)[may].abs().max())


@every
def test_scores_at_every_place_are_those_of_an_explicit_mask_in_one_whole_forward(member):
    model, processor, family = built(member)
    if not hides(member, family):
        return
    _, batch, places_of_images = prompts(member, processor, family)
    hidden = places_of_images & (torch.rand(places_of_images.shape, generator=torch.Generator().manual_seed(1)) < 0.6)
    answers = answers_of(processor)
    places, kept = written(model, family, hidden_prompt(batch, family, processor, hidden), answers)
    assert 0 < int(hidden.sum()) < int(places_of_images.sum())
    alone = [member.inputs(processor, [QUESTIONS[row]], [[picture(1 + row)]]) for row in (0, 1)]
    for number, place in enumerate(places):
        own = hidden[place.row][batch.mask[place.row].bool()]
        for step in range(STEPS):
            read = [*answers[place.row][: place.start], *place.head, *place.tail[:step]]
            want = hidden_scores(member, model, alone[place.row], own, read)
            assert apart(kept[step][number], want) <= LOOSE.get(member.name, 1e-9), (number, step)
    plain = member.seen_logits(model, alone[0], [])
    assert apart(kept[0][0], plain) > 1e-3  # it did hide something


@every
def test_under_noise_scores_at_every_place_are_those_of_a_whole_forward_with_the_noised_image(member):
    model, processor, family = built(member)
    if not hides(member, family, "noise"):
        return
    _, batch, _ = prompts(member, processor, family)
    answers = answers_of(processor)
    places, kept = written(model, family, noised_prompt(batch, family, processor), answers)
    for row in (0, 1):
        alone = member.inputs(processor, [QUESTIONS[row]], [[picture(1 + row)]])
        one = batch_of(alone["input_ids"], family, processor=processor, inputs=alone)
        noised = {**alone, **noised_prompt(one, family, processor).pixels}
        for number, place in enumerate(places):
            if place.row == row:
                want = member.seen_logits(model, noised, [*answers[row][: place.start], *place.head])
                assert apart(kept[0][number], want) <= LOOSE.get(member.name, 1e-9), number
                assert place.start or apart(want, member.seen_logits(model, alone, place.head)) > 1e-6


@every
def test_with_every_image_token_hidden_nothing_depends_on_the_pixels_bit_for_bit(member):
    model, processor, family = built(member)
    if not hides(member, family):
        return
    found = []
    for first in (1, 7):
        _, batch, images = prompts(member, processor, family, first)
        all_, none = (hidden_prompt(batch, family, processor, images & hide) for hide in (True, False))
        found.append(
            (written(model, family, all_, answers_of(processor)), written(model, family, none, answers_of(processor)))
        )
    (one, other), (plain, plain_too) = ([run[which] for run in found] for which in (0, 1))
    assert all(map(torch.equal, one[1], other[1]))
    assert [place.tail for place in one[0]] == [place.tail for place in other[0]]
    assert not torch.equal(plain[1][0], plain_too[1][0])


@every
@pytest.mark.parametrize(
    "images",
    [(1, 1, 1), (2, 1), pytest.param((1, 1), marks=pytest.mark.slow)],
    ids=["one each", "two and one", "two rows"],
)
def test_rows_that_go_on_without_the_others_read_the_features_of_their_own_images(member, images):
    model, processor, family = built(member)
    if not hides(member, family):
        return
    if max(images) > member.max_images:
        pytest.skip(f"{member.name} takes one image")
    shown = [[picture(10 * row + number) for number in range(count)] for row, count in enumerate(images)]
    asked = [QUESTIONS[row % 2] for row in range(len(images))]
    reader, everyone = Reader(model, family), list(range(len(images)))

    def scores(rows):
        inputs = member.inputs(processor, [asked[row] for row in rows], [shown[row] for row in rows])
        batch = batch_of(inputs["input_ids"], family, processor=processor, inputs=inputs)
        nobody = torch.zeros_like(batch.ids, dtype=torch.bool)
        with torch.no_grad():
            return reader.prefill(hidden_prompt(batch, family, processor, nobody))[0]

    with EncodedOnce(model, images) as encoded:
        for rows in (everyone, everyone[-1:], everyone[:1], everyone[::2], everyone):
            encoded.show(rows)
            got = scores(rows)
            encoded.show([])  # what is compared with is encoded by itself
            kept, encoded._kept = encoded._kept, None
            torch.testing.assert_close(got, scores(rows), rtol=0, atol=1e-12)
            encoded._kept = kept


# ---- one LLaVA


@pytest.fixture
def tiny(llava):
    model, processor = llava
    return MEMBERS[0], model, processor, family_of(model, processor)


def test_hiding_columns_is_leaving_them_out_and_keeping_the_places_of_the_others(tiny):
    member, model, processor, family = tiny
    _, batch, images = prompts(member, processor, family)
    hidden = images.clone()
    hidden[:, images[0].nonzero()[1]] = False
    answers = answers_of(processor)
    places, kept = written(model, family, hidden_prompt(batch, family, processor, hidden), answers)
    for number, place in enumerate(places):
        alone = member.inputs(processor, [QUESTIONS[place.row]], [[picture(1 + place.row)]])
        own = hidden[place.row][batch.mask[place.row].bool()]
        want = removed_scores(model, alone, own, [*answers[place.row][: place.start], *place.head])
        assert apart(kept[0][number], want) <= 1e-9


def test_the_models_own_method_is_back_after_the_context_also_where_it_failed(tiny):
    _, model, *_ = tiny
    before = set(vars(model.model))

    def fails():
        with EncodedOnce(model, [1]):
            assert "get_image_features" in vars(model.model)
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert set(vars(model.model)) == before
    mine = copy.copy(model.model.get_image_features)
    model.model.get_image_features = mine
    try:
        with EncodedOnce(model, [1]):
            assert model.model.get_image_features is not mine
        assert model.model.get_image_features is mine
    finally:
        del model.model.get_image_features


def test_a_tail_ends_where_it_is_told_and_the_others_go_on_as_if_it_had_not(tiny):
    member, model, processor, family = tiny
    _, batch, images = prompts(member, processor, family)
    prompt, answers = hidden_prompt(batch, family, processor, images), answers_of(processor)
    draws = torch.rand(6, 9, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    free, told, ended = (places_of(answers, draws) for _ in range(3))
    how = {"temperature": 1.0, "top_p": 0.95, "never": [4]}
    write_tails(Reader(model, family), prompt, answers, free, ends=(), **how)
    lengths = [1, 4, 2, 9, 3, 6]
    for place, length in zip(told, lengths, strict=True):
        place.stops = lambda tail, length=length: len(tail) == length
    write_tails(Reader(model, family), prompt, answers, told, ends=(), **how)
    assert [place.tail for place in told] == [place.tail[:n] for place, n in zip(free, lengths, strict=True)]
    end = free[1].tail[3]
    for place in ended:
        place.may_be_empty = True
    write_tails(Reader(model, family), prompt, answers, ended, ends=(end,), **how)
    assert [place.tail for place in ended] == [
        place.tail[: place.tail.index(end)] if end in place.tail else place.tail for place in free
    ]


def test_a_tail_has_one_token_at_least_and_never_one_of_an_images(tiny):
    member, model, processor, family = tiny
    _, batch, images = prompts(member, processor, family)
    prompt, answers = hidden_prompt(batch, family, processor, images), answers_of(processor)
    draws = torch.rand(6, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    ends = [token for token in range(len(processor.tokenizer)) if token != 9]
    places = places_of(answers, draws)
    write_tails(Reader(model, family), prompt, answers, places, temperature=0.0, top_p=1.0, ends=ends, never=[4, 999])
    assert all(place.tail[0] == 9 for place in places)
    places = places_of(answers, draws)
    write_tails(Reader(model, family), prompt, answers, places, temperature=3.0, top_p=1.0, ends=(), never=[4, 7])
    assert not {4, 7}.intersection(token for place in places for token in place.tail)
    assert all(len(place.tail) == 30 for place in places)


@pytest.mark.parametrize("name", ["Gemma3", pytest.param("Llama 4", marks=pytest.mark.slow)])
def test_a_sliding_window_that_hidden_columns_would_fill_is_an_error(name):
    member = next(one for one in MEMBERS if one.name == name)
    if not member.available:
        pytest.skip(f"this version of transformers has no {member.model_class}")
    model, processor = member.build()
    family = family_of(model, processor)
    _, batch, images = prompts(member, processor, family)
    with pytest.raises(TooLong, match=r"have \d+ columns, and the model's sliding window has 8; wanted a shorter"):
        written(model, family, hidden_prompt(batch, family, processor, images), answers_of(processor))


def test_more_positions_than_the_model_has_are_an_error(tiny):
    member, _, processor, family = tiny
    model, _ = tiny_llava()
    _, batch, images = prompts(member, processor, family)
    prompt, answers = hidden_prompt(batch, family, processor, images), answers_of(processor)
    takes = int(prompt.position_ids.max()) + 1 + 9 + STEPS  # the furthest head ends behind nine tokens
    model.config.text_config.max_position_embeddings = takes
    written(model, family, prompt, answers)
    model.config.text_config.max_position_embeddings = takes - 1
    with pytest.raises(TooLong, match=rf"take {takes} positions, and the model has {takes - 1}; wanted a shorter"):
        written(model, family, prompt, answers)
