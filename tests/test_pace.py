"""What each way of running the image-free side is expected to cost, against rounds that are played out by hand."""

from __future__ import annotations

import gc
import itertools
import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.recomputed import Case
from tests.test_branch import FAMILY, PROMPTS, agrees, padded
from vdd import pace as pace_module
from vdd.branch import Branch
from vdd.families import family_of
from vdd.pace import CHUNK, LONGEST, Habits, Pace, known_of, pace_of, worth_reading_ahead
from vdd.reader import Reader

SECONDS = st.integers(1, 64).map(lambda n: n / 8)
PACES = st.builds(Pace, step=SECONDS, together=SECONDS, chunk=SECONDS)


def forward(pace: Pace, tokens: int) -> float:
    """Seconds of a forward over so many tokens: CHUNK of them take `chunk`, each other as much more as the last."""
    seconds, each = pace.step, max(pace.chunk - pace.step, 0) / (CHUNK - 1)
    for _ in range(tokens - 1):
        seconds += each
    return seconds


# ---- the pace of reading


@given(PACES)
def test_one_token_takes_a_step_and_a_chunk_what_was_measured_unless_that_was_less(pace):
    assert pace.reading(1) == pace.step
    assert pace.reading(CHUNK) == pytest.approx(max(pace.chunk, pace.step))


@given(PACES, st.integers(1, 200))
def test_other_lengths_lie_on_the_line_through_both(pace, tokens):
    assert pace.reading(tokens) == pytest.approx(forward(pace, tokens))


# ---- what a token is expected to take


@given(pace=PACES, gap=st.integers(1, 5), length=st.integers(1, 8), width=st.integers(1, 40))
def test_skipping_costs_what_a_text_costs_in_which_every_so_manieth_token_is_undecided(pace, gap, length, width):
    spent, unread = 0.0, 0
    for token in range(gap * 6):
        spent, unread = spent + pace.step, unread + 1
        if (token + 1) % gap == 0:
            spent, unread = spent + forward(pace, unread), 0
    needed = sum(
        math.prod(1 / gap if undecided else 1 - 1 / gap for undecided in text)
        for text in itertools.product([False, True], repeat=length)
        if any(text)
    )
    prompt = needed * (forward(pace, width) - forward(pace, 1)) / length
    habits = Habits(texts=10 * gap, steps=10 * gap * length, undecided=10 * length)
    assert habits.seconds_a_token(pace, width)["skip"] == pytest.approx(spent / (gap * 6) + prompt)


@given(pace=PACES, length=st.integers(1, 30), width=st.integers(1, 40))
def test_fusing_costs_a_forward_of_all_sides_and_each_text_its_image_free_prompt(pace, length, width):
    habits = Habits(texts=7, steps=7 * length)
    want = (pace.together * length + forward(pace, width)) / length
    assert habits.seconds_a_token(pace, width)["fuse"] == pytest.approx(want)


def gained(ahead: int, kept: float) -> float:
    """Expected tokens of a round: the first always counts, and the rest of the round does where it was kept."""
    return 1 + kept * gained(ahead - 1, kept) if ahead > 1 else 1.0


@given(pace=PACES, undecided=st.integers(1, 16), agreed=st.integers(1, 16))
def test_speculating_costs_what_rounds_of_the_best_length_cost(pace, undecided, agreed):
    habits = Habits(texts=1, steps=16, undecided=undecided, compared=16, agreed=agreed)
    kept = 1 - undecided / 16 * (1 - agreed / 16)
    best = min((ahead * pace.step + forward(pace, ahead)) / gained(ahead, kept) for ahead in range(1, LONGEST + 1))
    assert habits.seconds_a_token(pace, 1)["speculate"] == pytest.approx(best)
    needed = 1 - (1 - undecided / 16) ** 16
    prompt = needed * (forward(pace, 33) - forward(pace, 1)) / 16
    assert habits.seconds_a_token(pace, 33)["speculate"] == pytest.approx(best + prompt)


@given(st.integers(1, 6), st.floats(0, 1))
def test_a_rounds_expected_tokens_are_those_of_every_way_it_can_go(ahead, kept):
    total = 0.0
    for outcome in itertools.product([True, False], repeat=ahead - 1):  # whether each token but the last is kept
        chance = math.prod(kept if one else 1 - kept for one in outcome)
        total += chance * (1 + next((n for n, one in enumerate(outcome) if not one), ahead - 1))
    assert gained(ahead, kept) == pytest.approx(total)


def test_what_is_fastest_follows_the_machine_and_the_habits():
    def fastest(pace: Pace, **habits: int) -> str:
        seconds = Habits(**habits).seconds_a_token(pace, 4)
        return min(seconds, key=lambda name: seconds[name])

    assert fastest(Pace(1.0, 1.1, 8.0)) == "fuse"
    assert fastest(Pace(1.0, math.inf, 8.0), undecided=1) == "skip"
    assert fastest(Pace(1.0, 2.0, 1.0), undecided=20, agreed=8) == "speculate"
    assert fastest(Pace(1.0, 3.0, 1.0), undecided=20, agreed=1) == "skip"


# ---- how far to read ahead


def stops(pace: Pace, habits: Habits, could_change: list[bool]) -> int:
    """After how many tokens of a round the image-free side is asked; these say at which it could change something."""
    return next(
        (n for n in range(1, len(could_change) + 1) if not worth_reading_ahead(pace, habits, could_change[:n])),
        len(could_change) + 1,
    )


ROUND = st.lists(st.booleans(), max_size=LONGEST + 4).map(lambda rest: [True, *rest])


def agreeing(share: float) -> Habits:
    return Habits(compared=1000, agreed=round(1000 * share))


@given(PACES, ROUND, st.integers(1, 1000))
def test_nothing_is_read_further_ahead_than_the_longest_round(pace, could_change, agreed):
    habits = Habits(compared=1000, agreed=agreed)
    assert stops(pace, habits, could_change) <= LONGEST
    assert not worth_reading_ahead(pace, habits, [True] + [False] * (LONGEST - 1))


@given(PACES, ROUND)
def test_without_any_risk_it_goes_on_as_long_as_a_token_in_a_forward_is_cheaper_than_a_forward(pace, could_change):
    cheap = pace.reading(2) - pace.reading(1) < pace.step
    most = min(LONGEST, len(could_change) + 1)
    assert stops(pace, agreeing(1.0), could_change) == (most if cheap else 1)


@given(PACES, ROUND, st.integers(1, 999), st.integers(1, 999))
def test_lower_agreement_never_reads_further(pace, could_change, one, other):
    low, high = (Habits(compared=1000, agreed=count) for count in sorted([one, other]))
    assert stops(pace, low, could_change) <= stops(pace, high, could_change)


def test_ever_smaller_risk_reads_ever_further():
    pace = Pace(1.0, 2.0, 1.5)
    lengths = [stops(pace, agreeing(share), [True] * LONGEST) for share in (0.1, 0.5, 0.8, 0.95, 0.99, 0.999)]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) >= 5
    assert lengths[-1] > 20


@settings(max_examples=100)
@given(PACES, st.lists(st.booleans(), max_size=8).map(lambda rest: [True, *rest]), st.integers(1, 99))
def test_a_round_ends_where_a_kept_or_wasted_step_costs_least_on_average(pace, could_change, agreed):
    share = agreed / 100
    means = []
    for count in range(1, len(could_change) + 1):
        wasted = 0.0  # steps behind the first rejected token, over every way in which the round can go
        risky = [place for place in range(count) if could_change[place]]
        for outcome in itertools.product([True, False], repeat=len(risky)):
            chance = math.prod(share if one else 1 - share for one in outcome)
            first = next((place for place, one in zip(risky, outcome, strict=True) if not one), count - 1)
            wasted += chance * (count - 1 - first)
        means.append((forward(pace, count) + wasted * pace.step) / count)
    best = means.index(min(means)) + 1
    assume(sorted(means)[:2] == [min(means)] or sorted(means)[1] - min(means) > 1e-9)  # no ties
    got = stops(pace, Habits(compared=100, agreed=agreed), could_change)
    assert min(got, len(could_change)) == best


# ---- measuring


@pytest.fixture
def counted(llava):
    """(reader, shape of what each forward since has read)."""
    model, _ = llava
    shapes: list[tuple[int, ...]] = []

    def count(_, args, given):
        shapes.append(tuple(given["input_ids"].shape if "input_ids" in given else given["inputs_embeds"].shape[:2]))

    hook = model.register_forward_pre_hook(count, with_kwargs=True)
    known_of(model).paces.clear()
    with torch.no_grad():
        yield Reader(model, FAMILY), shapes
    hook.remove()
    known_of(model).paces.clear()


def test_a_pace_is_measured_once_for_every_device_dtype_number_of_rows_and_sides(counted):
    reader, shapes = counted
    memos = {rows: Branch(reader).open(padded(PROMPTS[:rows])) for rows in (1, 2)}
    for rows, sides in ((1, 2), (2, 2), (2, 3)):
        shapes.clear()
        first = pace_of(reader, memos[rows], sides)
        assert set(shapes) == {(rows, 1), (rows, CHUNK), (rows * sides, 1)}
        assert 0 < min(first.step, first.together, first.chunk) < math.inf
        shapes.clear()
        assert pace_of(reader, memos[rows], sides) is first
        assert pace_of(Reader(reader.model, FAMILY), Branch(reader).open(padded(PROMPTS[:rows])), sides) is first
        assert set(shapes) == {(rows, 8 if rows == 2 else 6)}  # a new branch reads its prompt, nothing else
    assert len(known_of(reader.model).paces) == 3


def test_measuring_leaves_the_memo_and_its_cache_as_they_were(counted):
    reader, shapes = counted
    branch, rows = Branch(reader), PROMPTS[:2]
    memo = branch.open(padded(rows))
    layers = memo.state.cache.layers
    before = [(layer.keys, layer.keys.clone(), layer.values, layer.values.clone()) for layer in layers]
    mask, position, state = memo.mask.clone(), memo.next_position.clone(), torch.get_rng_state()
    pace_of(reader, memo, 2)
    assert shapes
    assert branch.memo is memo
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(memo.mask, mask)
    assert torch.equal(memo.next_position, position)
    assert memo.state.cache.layers is layers
    for layer, (keys, were, values, had) in zip(layers, before, strict=True):
        assert layer.keys is keys
        assert layer.values is values
        assert torch.equal(keys, were)
        assert torch.equal(values, had)
    agrees(reader.model, branch, rows, [[8, 9], [9, 24]])


def test_sides_that_cannot_be_read_together_are_never_the_fastest():
    case = Case("Gemma3")
    reader = Reader(case.model, family_of(case.model, case.processor))
    known_of(case.model).paces.clear()
    ids = case.member.blind_ids(case.processor, "is it red ?")
    with torch.no_grad():
        pace = pace_of(reader, Branch(reader).open(padded([ids])), 2)
    assert pace.together == math.inf
    assert Habits().seconds_a_token(pace, len(ids))["fuse"] == math.inf


def test_what_was_found_out_about_a_model_is_forgotten_with_it(llava):
    class Model:
        pass

    model = Model()
    assert known_of(model) is known_of(model)
    assert known_of(model) is not known_of(llava[0])
    count = len(pace_module._KNOWN)
    del model
    gc.collect()
    assert len(pace_module._KNOWN) < count
