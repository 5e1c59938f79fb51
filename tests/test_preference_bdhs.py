"""BDHS: tails from the true text under the mask, any batch, what chance decides, one encode for all tries."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
import torch
from scipy.stats import binomtest, chisquare

from tests.oracles.preference import hidden_scores
from tests.tiny import tiny_llava
from tests.zoo import MEMBERS, picture
from vdd.batch import batch_of
from vdd.preference import bdhs as module
from vdd.preference.bdhs import BDHS
from vdd.preference.pairs import VARIANTS, Pair, Refused, Row
from vdd.preference.sentences import same, sentences, swapped
from vdd.preference.similarity import Words

TEXTS = [
    ("is it red ?", "yes it is a red fox . no dog is in the image . a cat is there ."),
    ("what color is the dog in the image ?", "the dog is brown ."),
    ("is there a car ?", "no"),
    ("is there a fox ?", "yes , there is one . it is on the car"),
    ("what is it ?", "one fox and one dog"),
]
ROWS = [Row(number, (picture(number),), *texts) for number, texts in enumerate(TEXTS)]
SEEDS = [11, 5, 7, 2**62, 0]
IMAGE, END = 4, 2


class Told:
    """A measure that says what it is told, try by try; it keeps what it was asked."""

    name, epsilon = "told", 0.5

    def __init__(self, *values) -> None:
        self.values, self.asked = list(values), []

    def __call__(self, chosen, rejected):
        self.asked.append((list(chosen), list(rejected)))
        value = self.values[min(len(self.asked), len(self.values)) - 1]
        return value(chosen) if callable(value) else [value] * len(chosen)


@pytest.fixture
def written(monkeypatch):
    """What `write_tails` was given and wrote, call by call."""
    calls, own = [], module.write_tails

    def spy(reader, prompt, answers, places, **how):
        own(reader, prompt, answers, places, **how)
        calls.append((prompt, answers, copy.deepcopy(list(places)), how))

    monkeypatch.setattr(module, "write_tails", spy)
    return calls


@pytest.fixture
def unread(monkeypatch):
    """No model is asked: every tail is the same word and the sentence's end."""
    calls = []

    def stub(reader, prompt, answers, places, **how):
        for place in places:
            place.tail = reader.words
        calls.append((prompt, answers, places))

    monkeypatch.setattr(module, "write_tails", stub)
    return calls


def stubbed(llava, **options) -> BDHS:
    found = BDHS(*llava, embedder=Told(0.0), **options)
    found.pipeline.reader.words = llava[1].tokenizer("blue .", add_special_tokens=False).input_ids
    return found


def starts_of(processor, answer) -> list[int]:
    parts = sentences(answer)
    ids = (processor.tokenizer("".join(parts[:n]), add_special_tokens=False).input_ids for n in range(len(parts)))
    return [len(row) for row in ids]


# ---- tails


def test_every_tail_goes_on_from_the_true_text_as_one_whole_forward_under_the_mask_does(llava, written):
    model, processor = llava
    bdhs = BDHS(model, processor, rho=0.5, temperature=0.0, max_new_tokens=5, iterations=2, embedder=Told(1.0, 0.0))
    pairs = bdhs.sample(ROWS, seeds=SEEDS)
    closing = {processor.tokenizer.convert_tokens_to_ids(sign) for sign in "?."}
    assert len(written) == 2
    for number, (prompt, answers, places, how) in enumerate(written):
        assert (how["ends"], IMAGE in how["never"]) == ([END], True)
        for place in places:
            row = ROWS[place.row]
            truth = processor.tokenizer(row.answer, add_special_tokens=False).input_ids
            assert answers[place.row] == truth
            told = processor.decode([*truth[: place.start], *place.head]).split()
            starts = starts_of(processor, row.answer)
            if number == 1:
                assert (place.start, place.head) == (0, [])
            else:
                sentence = sentences(row.answer)[starts.index(place.start)]
                before = processor.decode(truth[: place.start]).split()
                heads = [text.split() for text in (sentence, swapped(sentence) or sentence)]
                assert any(told == before + head[: len(told) - len(before)] for head in heads)
                assert len(told) - len(before) < len(heads[0])
            alone = bdhs.pipeline.inputs([list(row.images)], [row.prompt])
            real = batch_of(alone["input_ids"], bdhs.pipeline.family, processor=processor, inputs=alone).ids[0]
            width = len(real)
            hidden = (real == IMAGE) & (prompt.attention_mask[place.row, -width:] == 0)
            want: list[int] = []
            for step in range(5):
                scores = hidden_scores(MEMBERS[0], model, alone, hidden, [*truth[: place.start], *place.head, *want])
                scores[[IMAGE, END] if step == 0 else [IMAGE]] = -torch.inf
                token = int(scores.argmax())
                if token == END:
                    break
                want.append(token)
                if number == 0 and token in closing:
                    break
            assert place.tail[:5] == want
            assert len(place.tail) <= (5 if number == 0 else max(5, 2 * len(truth)))
    assert all(isinstance(pair, Pair) and pair.iteration == 2 for pair in pairs)


def test_a_rejected_answer_is_every_sentence_with_its_own_head_and_tail_and_the_space_between(llava, unread):
    row = Row(0, (picture(0),), "is it ?", " the dog is red .\n\n it is  on the car .  a cat")
    form = (
        r" (the (dog (is (red )?)?)?)?blue \.\n\n "
        r"(it (is ( on (the (car )?)?)?)?)?blue \.  "
        r"(a )?blue \."
    )
    bdhs, found = stubbed(llava), set()
    for seed in range(60):
        (pair,) = bdhs.sample([row], seeds=[seed])
        assert re.fullmatch(form, pair.rejected)
        found.add(pair.rejected)
    assert len(found) > 10
    *_, places = unread[-1]
    assert [place.start for place in places] == starts_of(llava[1], row.answer)


def test_heads_are_cut_evenly_a_yes_is_turned_every_other_time_and_tokens_are_hidden_as_often_as_rho(llava, unread):
    answer, count = "yes it is a fox . the dog is red .", 400
    bdhs = stubbed(llava, rho=0.8, batch_size=100)
    bdhs.sample([Row(n, (picture(0),), "is it ?", answer) for n in range(count)], seeds=range(count))
    yes, no = (llava[1].tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
    truth = llava[1].tokenizer(answer, add_special_tokens=False).input_ids
    first = [place.head for *_, places in unread for place in places if place.start == 0]
    second = [len(place.head) for *_, places in unread for place in places if place.start == 6]
    turned = [head for head in first if head[:1] == [no]]
    assert binomtest(len(turned), count, 0.5).pvalue > 0.01
    assert all(head == [no, *truth[1 : len(head)]] for head in turned)
    assert all(head == truth[: len(head)] for head in first if head[:1] != [no])
    assert yes in {head[0] for head in first if head}
    assert chisquare([second.count(n) for n in range(5)]).pvalue > 0.01
    hidden = sum(int((prompt.attention_mask[prompt.input_ids == IMAGE] == 0).sum()) for prompt, *_ in unread)
    assert binomtest(hidden, 4 * count, 0.8).pvalue > 0.01


def test_a_one_word_yes_becomes_a_no_without_asking_the_model_or_is_rewritten_whole(llava, unread):
    bdhs = stubbed(llava)
    rows = [Row(n, (picture(0),), "is it ?", "Yes") for n in range(40)]
    said = {pair.rejected for pair in bdhs.sample(rows, seeds=range(40))}
    assert said == {"No", "blue ."}


# ---- pixels


@pytest.mark.parametrize("variant", VARIANTS)
def test_with_everything_hidden_two_images_give_the_same_answers(llava, variant):
    said = []
    for other, rho in ((0, 1.0), (50, 1.0), (0, 0.0), (50, 0.0)):
        rows = [replace(row, images=(picture(row.id + other),)) for row in ROWS]
        pairs = BDHS(*llava, rho=rho, variant=variant, max_new_tokens=8).sample(rows, seeds=SEEDS)
        said.append([(pair.rejected, pair.iteration, pair.similarity) for pair in pairs])
    assert (said[0] == said[1]) == (variant != "noise")
    assert said[2] != said[3]


# ---- tries


def test_a_try_as_similar_as_epsilon_is_followed_by_another_and_the_last_is_what_the_model_says_freely(llava, written):
    measure = Told(0.5, 0.9, 0.49)
    bdhs = BDHS(*llava, rho=1.0, embedder=measure, iterations=4, max_new_tokens=6)
    (pair,) = bdhs.sample(ROWS[:1], seeds=[3])
    assert (pair.iteration, pair.similarity, pair.measure) == (3, 0.49, "told")
    assert bdhs.similar == {1: (1, 1), 2: (1, 1), 3: (1, 0)}
    assert [len(places) for _, _, places, _ in written] == [3, 3, 3]
    assert [asked[0] for asked in measure.asked] == [[ROWS[0].answer]] * 3
    assert measure.asked[-1][1] == [pair.rejected]
    assert len({asked[1][0] for asked in measure.asked}) == 3
    bdhs = BDHS(*llava, rho=1.0, embedder=Told(1.0), iterations=2, max_new_tokens=6)
    (pair,) = bdhs.sample(ROWS[:1], seeds=[3])
    ((_, _, places, _),) = written[-1:]
    assert (pair.iteration, pair.similarity) == (2, 1.0)
    assert [(place.start, place.head) for place in places] == [(0, [])]
    assert pair.rejected == llava[1].decode(places[0].tail, skip_special_tokens=True).strip()
    assert len(places[0].draws) == 2 * len(llava[1].tokenizer(ROWS[0].answer, add_special_tokens=False).input_ids)


def test_one_try_alone_is_a_rewriting_and_is_refused_where_it_is_too_similar(llava, written):
    bdhs = BDHS(*llava, embedder=Told(0.7), iterations=1, epsilon=0.7, max_new_tokens=6)
    (refused,) = bdhs.sample(ROWS[:1], seeds=[3])
    assert refused == Refused(0, "too much like the good answer in all 1 tries")
    assert len(written[0][2]) == 3
    (pair,) = BDHS(*llava, embedder=Told(0.7), iterations=1, epsilon=0.71, max_new_tokens=6).sample(ROWS[:1], seeds=[3])
    assert pair.iteration == 1


def test_unguided_every_try_is_free(llava, written):
    bdhs = BDHS(*llava, variant="unguided", embedder=Told(1.0, 0.0), max_new_tokens=4)
    pairs = bdhs.sample(ROWS, seeds=SEEDS)
    assert all((place.start, place.head) == (0, []) for _, _, places, _ in written for place in places)
    assert {pair.source for pair in pairs} == {"bdhs-unguided"}
    assert {pair.iteration for pair in pairs} == {2}


def test_what_says_the_same_is_never_a_pair_whatever_the_measure_says(llava, monkeypatch):
    def truthful(reader, prompt, answers, places, **how):
        for place in places:
            rest = answers[place.row][place.start + len(place.head) :]
            place.tail = rest if place.start else [*rest[: rest.index(dot) + 1]] if place.head else answers[place.row]

    dot = llava[1].tokenizer.convert_tokens_to_ids(".")
    monkeypatch.setattr(module, "write_tails", truthful)
    row = Row("x", (picture(0),), "is it ?", "it is red .")
    bdhs = BDHS(*llava, embedder=Told(0.0), iterations=3)
    assert bdhs.sample([row], seeds=[1]) == [Refused("x", "too much like the good answer in all 3 tries")]
    assert bdhs.similar == {1: (1, 1), 2: (1, 1), 3: (1, 1)}


def test_a_pair_says_how_it_was_made(llava):
    for variant in VARIANTS:
        bdhs = BDHS(*llava, variant=variant, rho=0.9, name="tiny", max_new_tokens=6)
        for row, seed, pair in zip(ROWS, SEEDS, bdhs.sample(ROWS, seeds=SEEDS), strict=True):
            assert (pair.id, pair.images, pair.prompt, pair.chosen) == (row.id, row.images, row.prompt, row.answer)
            assert (pair.source, pair.seed, pair.model) == (f"bdhs-{variant}", seed, "tiny")
            assert pair.rho == (None if variant == "noise" else 0.9)
            assert pair.measure == Words().name
            assert [pair.similarity] == pytest.approx(Words()([pair.chosen], [pair.rejected]))
            assert not same(pair.chosen, pair.rejected)
        assert sum(tries for tries, _ in bdhs.similar.values()) == len(ROWS) + sum(
            bad for _, bad in bdhs.similar.values()
        )


# ---- reproducible


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_rows_pair_depends_on_its_seed_and_not_on_its_batch_mates_their_order_or_number(llava, variant):
    how = {"variant": variant, "rho": 0.6, "max_new_tokens": 7, "epsilon": 0.3}
    together = BDHS(*llava, **how).sample(ROWS, seeds=SEEDS)
    assert {pair.iteration for pair in together} != {1}
    assert BDHS(*llava, **how, batch_size=2).sample(ROWS, seeds=SEEDS) == together
    assert BDHS(*llava, **how).sample(ROWS[::-1], seeds=SEEDS[::-1]) == together[::-1]
    alone = [BDHS(*llava, **how).sample([row], seeds=[seed])[0] for row, seed in zip(ROWS, SEEDS, strict=True)]
    assert alone == together
    assert BDHS(*llava, **how).sample(ROWS, seeds=[seed + 1 for seed in SEEDS]) != together


def test_the_same_generator_gives_the_same_pairs_and_global_chance_is_left_alone(llava):
    bdhs = BDHS(*llava, rho=0.6, max_new_tokens=7)
    before = torch.random.get_rng_state()
    first, again, other = (bdhs.sample(ROWS, generator=torch.Generator().manual_seed(n)) for n in (4, 4, 5))
    assert first == again
    assert [pair.rejected for pair in first] != [pair.rejected for pair in other]
    assert bdhs.sample(ROWS) == bdhs.sample(ROWS, generator=torch.Generator().manual_seed(0))
    assert bdhs.sample(ROWS, seeds=[pair.seed for pair in first]) == first
    assert len({pair.seed for pair in first}) == len(ROWS)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_model_is_as_it_was_also_where_something_failed():
    model, processor = tiny_llava()
    BDHS(model, processor, max_new_tokens=1).sample(ROWS[:1])  # transformers itself notes something at a first call
    model.train()
    model.model.vision_tower.eval()
    modes = [one.training for one in model.modules()]
    names = [set(vars(one)) for one in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    bdhs = BDHS(model, processor, max_new_tokens=4)
    assert bdhs.sample(ROWS[:2], seeds=[1, 2]) == BDHS(*tiny_llava(), max_new_tokens=4).sample(ROWS[:2], seeds=[1, 2])

    def fails(chosen):
        assert not any(one.training for one in model.modules())
        raise KeyError("measure")

    bdhs.measure = Told(fails)
    with pytest.raises(KeyError, match="measure"):
        bdhs.sample(ROWS[:2], seeds=[1, 2])
    assert [one.training for one in model.modules()] == modes
    assert [set(vars(one)) for one in model.modules()] == names
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# ---- one encode


@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # InternVL's processor in 4.57
@pytest.mark.parametrize("name", ["LLaVA-1.5", "LLaVA-NeXT", "Qwen2.5-VL", "InternVL"])
def test_one_encode_serves_all_sentences_and_tries_also_where_only_some_rows_go_on(name):
    member = next(one for one in MEMBERS if one.name == name)
    if not member.available:
        pytest.skip(f"this version of transformers has no {member.model_class}")
    model, processor = member.build()
    calls = []
    tower = getattr(model.model, "vision_tower", None) or model.model.visual
    tower.register_forward_pre_hook(lambda *_: calls.append(1))
    rows = [replace(row, images=(picture(row.id), picture(row.id + 20))[: 1 + row.id % 2]) for row in ROWS]

    def some(chosen):
        return [0.0 if text == ROWS[0].answer else 1.0 for text in chosen]

    def more(chosen):
        return [0.0 if text in (ROWS[2].answer, ROWS[3].answer) else 1.0 for text in chosen]

    how = {"rho": 0.5, "max_new_tokens": 5, "iterations": 4}
    bdhs = BDHS(model, processor, embedder=Told(some, 1.0, more, 1.0), **how)
    pairs = bdhs.sample(rows, seeds=SEEDS)
    assert [pair.iteration for pair in pairs] == [1, 4, 3, 3, 4]
    assert (len(calls), bdhs.encodes) == (1, 1)
    for row, seed, pair in zip(rows, SEEDS, pairs, strict=True):
        values = [1.0] * (pair.iteration - 1) + [0.0]
        (alone,) = BDHS(model, processor, embedder=Told(*values), **how).sample([row], seeds=[seed])
        assert alone.rejected == pair.rejected
