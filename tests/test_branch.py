"""The image-free branch against a forward pass from scratch, whatever is asked of it in whatever order."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracles.recompute import Second, next_logits, picture
from tests.strategies import WALK
from tests.tiny import Called
from vdd.branch import Branch
from vdd.families import ADAPTERS, Family
from vdd.memory import Memory
from vdd.reader import Reader
from vdd.reference import BlindPrompt

#: Of a tiny vocabulary: the third extends the first, the fourth repeats it, the sixth is the second turned round.
PROMPTS = [
    [1, 5, 8, 9, 10, 6],
    [1, 5, 19, 20, 21, 22, 13, 6],
    [1, 5, 8, 9, 10, 6, 24, 5, 8, 6],
    [1, 5, 8, 9, 10, 6],
    [1, 6],
    [1, 5, 13, 22, 21, 20, 19, 6],
]
VOCAB = 34
FAMILY = Family("llava", frozenset({4}), ADAPTERS["llava"])


def padded(rows: list[list[int]], *, width: int = 0, hidden: int | None = None, pixels=None) -> BlindPrompt:
    """A left-padded prompt; tokens equal to `hidden` are masked; `pixels` holds one image to a row."""
    width = max(width, *map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    real = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    mask = real if hidden is None else real * (ids != hidden)
    positions = (real.cumsum(-1) - 1).clamp(min=0)
    if pixels is None:
        return BlindPrompt(ids, mask, positions)
    return BlindPrompt(ids, mask, positions, pixels={"pixel_values": pixels}, sources=tuple(range(len(rows))))


def from_scratch(model, rows: list[list[int]], tokens: torch.Tensor) -> torch.Tensor:
    pairs = zip(rows, tokens.tolist(), strict=True)
    return torch.stack([next_logits(model, Second(row), sofar) for row, sofar in pairs])


def agrees(model, branch: Branch, rows: list[list[int]], tokens, *, width: int = 0) -> None:
    tokens = torch.as_tensor(tokens, dtype=torch.long).reshape(len(rows), -1)
    got = branch.logits(padded(rows, width=width), tokens)
    torch.testing.assert_close(got, from_scratch(model, rows, tokens), rtol=1e-9, atol=1e-9)


def drawn(rows: int, count: int, seed: int) -> torch.Tensor:
    return torch.randint(5, VOCAB, (rows, count), generator=torch.Generator().manual_seed(seed))


# ---- one operation each


@pytest.mark.parametrize("picked", [[0], [0, 1], [4, 1, 2], [0, 0, 3]], ids=["one", "padded", "three", "equal"])
@pytest.mark.parametrize(
    "lengths",
    [[0, 1, 2, 3], [0, 4], [3], [2, 6], [3, 3], [0, 0], [5, 4], [5, 2], [5, 0], [5, 0, 1], [4, 2, 4], [3, 1, 1, 5, 0]],
    ids=str,
)
def test_extending_repeating_and_rolling_back_equal_a_forward_from_scratch(llava, picked, lengths):
    model, _ = llava
    rows, branch = [PROMPTS[n] for n in picked], Branch(Reader(model, FAMILY))
    tokens = drawn(len(rows), 8, 1)
    for length in lengths:
        agrees(model, branch, rows, tokens[:, :length])


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_rolling_back_below_a_divergence_equals_a_forward_from_scratch(llava, kept):
    model, _ = llava
    rows, branch = PROMPTS[:2], Branch(Reader(model, FAMILY))
    first, second = drawn(2, 4, 1), drawn(2, 4, 2)
    agrees(model, branch, rows, first)
    agrees(model, branch, rows, torch.cat([first[:, :kept], second[:, kept:]], dim=1))
    agrees(model, branch, rows, first)


@pytest.mark.parametrize("order", [[1, 0, 2], [2, 2, 2], [0, 2, 1], [1, 1, 0]])
@pytest.mark.parametrize("equal", [True, False])
def test_reordered_beams_equal_a_forward_from_scratch(llava, order, equal):
    model, _ = llava
    rows = [PROMPTS[0]] * 3 if equal else [PROMPTS[1], PROMPTS[0], PROMPTS[2]]
    branch, tokens = Branch(Reader(model, FAMILY)), drawn(3, 4, 1)
    agrees(model, branch, rows, tokens)
    moved = tokens[order] if equal else tokens
    agrees(model, branch, [rows[n] for n in order] if not equal else rows, torch.cat([moved, drawn(3, 1, 2)], dim=1))


def test_equal_rows_that_part_and_meet_again_equal_a_forward_from_scratch(llava):
    model, _ = llava
    branch, rows = Branch(Reader(model, FAMILY)), [PROMPTS[0]] * 4
    for tokens in (
        [[], [], [], []],
        [[9], [9], [9], [9]],
        [[9, 8], [9, 8], [9, 30], [9, 8]],
        [[9, 8, 7], [9, 8, 6], [9, 30, 7], [9, 30, 8]],
        [[9, 30, 8, 9]] * 4,
        [[9], [8], [7], [6]],
        [[], [], [], []],
    ):
        agrees(model, branch, rows, tokens)


def test_rows_of_one_prompt_with_different_texts_are_each_matched_to_their_own(llava):
    model, _ = llava
    branch = Branch(Reader(model, FAMILY))
    rows = [PROMPTS[0], PROMPTS[1]] * 2
    tokens = torch.tensor([[9, 8, 7], [9, 8, 7], [9, 8, 6], [9, 8, 6]])
    agrees(model, branch, rows, tokens)
    agrees(model, branch, rows, tokens[[2, 3, 0, 1]])
    agrees(model, branch, [PROMPTS[1], PROMPTS[0]], tokens[[3, 0]], width=8)


def test_batches_of_other_sizes_new_prompts_and_longer_ones_equal_a_forward_from_scratch(llava):
    model, _ = llava
    branch = Branch(Reader(model, FAMILY))
    for picked, length in [([0, 1, 2], 3), ([1], 3), ([2, 0], 1), ([0], 2), ([2], 2), ([0, 3], 2), ([1], 0), ([5], 2)]:
        agrees(model, branch, [PROMPTS[n] for n in picked], drawn(len(picked), length, 4))


def test_a_prompt_that_is_the_former_one_with_its_answer_equals_a_forward_from_scratch(llava):
    model, _ = llava
    branch = Branch(Reader(model, FAMILY))
    agrees(model, branch, [PROMPTS[0]], [[24, 5, 8]])
    agrees(model, branch, [PROMPTS[2]], [[9]])
    agrees(model, branch, [PROMPTS[0]], [[24, 5, 8, 6]])


def test_the_same_prompt_padded_wider_equals_a_forward_from_scratch(llava):
    model, _ = llava
    branch = Branch(Reader(model, FAMILY))
    for width in (6, 9, 7, 9):
        agrees(model, branch, [PROMPTS[0], PROMPTS[4]], [[9, 8], [7, 8]], width=width)


# ---- random walks


def moved(step, rows: list[list[int]], tokens: torch.Tensor) -> tuple[list[list[int]], torch.Tensor]:
    """Prompts and tokens after one operation of a walk."""
    name, count, seed = step
    generator = torch.Generator().manual_seed(seed)
    if name == "extend":
        tokens = torch.cat([tokens, drawn(len(rows), count, seed) % 3 + 8], dim=1)
    elif name == "roll back":
        tokens = tokens[:, : max(0, tokens.shape[1] - count)]
    elif name == "diverge":
        kept = max(0, tokens.shape[1] - count)
        tokens = torch.cat([tokens[:, :kept], drawn(len(rows), count, seed) % 3 + 8], dim=1)
    elif name == "reorder":
        tokens = tokens[torch.randint(len(rows), (len(rows),), generator=generator)]
    elif name == "take rows":
        order = torch.randint(len(rows), (count,), generator=generator).tolist()
        rows, tokens = [rows[n] for n in order], tokens[order]
    elif name == "new prompt":
        rows = [PROMPTS[n] for n in torch.randint(len(PROMPTS), (count,), generator=generator)]
        tokens = drawn(count, seed % 3, seed) % 3 + 8
    return rows, tokens


@settings(max_examples=40)
@given(WALK)
def test_any_walk_of_operations_equals_a_forward_from_scratch(llava, walk):
    model, _ = llava
    branch, rows, tokens = Branch(Reader(model, FAMILY)), PROMPTS[:2], drawn(2, 0, 0)
    for step in walk:
        rows, tokens = moved(step, rows, tokens)
        agrees(model, branch, rows, tokens, width=10 if step[2] % 2 else 0)


# ---- scores at several positions


def agree_at(model, branch: Branch, rows: list[list[int]], tokens: torch.Tensor, last: int, *, width: int = 0) -> None:
    """The scores at the last positions are those of a forward from scratch over the text up to each."""
    got, count = branch.scores(padded(rows, width=width), tokens, last), tokens.shape[1]
    want = [from_scratch(model, rows, tokens[:, :length]) for length in range(count + 1 - last, count + 1)]
    torch.testing.assert_close(got, torch.stack(want, dim=1), rtol=1e-9, atol=1e-9)


@settings(max_examples=30)
@given(WALK, st.lists(st.integers(0, 10), min_size=8, max_size=8), st.booleans())
def test_after_any_walk_the_scores_at_any_last_positions_equal_forwards_from_scratch(llava, walk, asked, remembers):
    model, _ = llava
    memory = Memory() if remembers else None
    branch, rows, tokens = Branch(Reader(model, FAMILY), memory), PROMPTS[:2], drawn(2, 0, 0)
    for step, last in zip(walk, asked, strict=False):
        rows, tokens = moved(step, rows, tokens)
        agree_at(model, branch, rows, tokens, 1 + last % (tokens.shape[1] + 1), width=10 if step[2] % 2 else 0)


@pytest.mark.parametrize("last", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("begun", [None, 0, 1, 3, 4])
def test_scores_at_every_number_of_last_positions_whatever_was_read_before(llava, last, begun):
    model, _ = llava
    branch, tokens = Branch(Reader(model, FAMILY)), drawn(2, 4, 1)
    if begun is not None:
        agrees(model, branch, PROMPTS[:2], tokens[:, :begun])
    agree_at(model, branch, PROMPTS[:2], tokens, last)
    agree_at(model, branch, PROMPTS[:2], drawn(2, 4, 2), last)


def test_scores_at_several_positions_cost_one_forward_and_none_is_read_twice_that_need_not_be(llava):
    model, _ = llava
    columns = []

    def counting(**kwargs):
        columns.append(tuple(kwargs["input_ids"].shape))
        return model(**kwargs)

    branch, rows, tokens = Branch(Reader(Called(model, counting), FAMILY)), PROMPTS[:2], drawn(2, 9, 1)
    agree_at(model, branch, rows, tokens[:, :3], 2)  # prompt and tokens at once
    agree_at(model, branch, rows, tokens[:, :6], 3)  # three more
    agree_at(model, branch, rows, tokens[:, :6], 1)  # known
    agree_at(model, branch, rows, tokens[:, :7], 3)  # one more, and two again
    agree_at(model, branch, rows, tokens[:, :4], 1)  # rolled back
    agree_at(model, branch, rows, tokens[:, :0], 1)  # the prompt's end is kept
    assert columns == [(2, 8 + 3), (2, 3), (2, 3), (2, 1)]
    assert branch.forwards == 2 * 4


@pytest.mark.parametrize("last", [1, 2, 4])
def test_scores_at_several_positions_behind_an_image_equal_forwards_from_scratch(llava, last):
    model, processor = llava
    row, pixels = [1, 5, 4, 4, 4, 4, 7, 8, 6], shown(processor, [0, 1])
    branch, tokens = Branch(Reader(model, FAMILY)), drawn(2, 3, 1)
    got = branch.scores(padded([row, row], pixels=pixels), tokens, last)
    for place, length in enumerate(range(4 - last, 4)):
        for n in range(2):
            want = next_logits(model, Second(row, pixels=pixels[n : n + 1]), tokens[n, :length].tolist())
            torch.testing.assert_close(got[n, place], want, rtol=1e-9, atol=1e-9)


# ---- its cost


def test_forwards_counts_rows_and_equal_rows_are_prefilled_once(llava):
    model, _ = llava
    branch, rows = Branch(Reader(model, FAMILY)), [PROMPTS[0], PROMPTS[1], PROMPTS[3], PROMPTS[0]]
    agrees(model, branch, rows, [[]] * 4)
    assert branch.forwards == 2
    agrees(model, branch, rows, [[]] * 4)
    assert branch.forwards == 2
    agrees(model, branch, rows, [[8], [9], [8], [9]])
    assert branch.forwards == 2 + 4
    agrees(model, branch, rows, [[8], [9], [8], [9]])
    assert branch.forwards == 2 + 4
    agrees(model, branch, rows, [[8, 9, 8, 9]] * 4)
    assert branch.forwards <= 2 + 4 + 4


def test_several_tokens_are_caught_up_with_in_one_forward_and_beams_cost_no_prefill(llava):
    model, _ = llava
    columns = []

    def counting(**kwargs):
        columns.append(tuple(kwargs["input_ids"].shape))
        return model(**kwargs)

    branch, rows = Branch(Reader(Called(model, counting), FAMILY)), [PROMPTS[0]] * 3
    tokens = drawn(3, 6, 1)
    for wanted in (tokens[:, :0], tokens[:, :1], tokens[:, :5], tokens[[2, 0, 0]]):
        agrees(model, branch, rows, wanted)
    assert columns == [(1, 6), (3, 1), (3, 4), (3, 1)]
    assert branch.forwards == 1 + 3 + 3 + 3


def test_reset_forgets_and_the_next_call_starts_over(llava):
    model, _ = llava
    branch = Branch(Reader(model, FAMILY))
    agrees(model, branch, PROMPTS[:1], [[8, 9]])
    branch.reset()
    assert branch.memo is None
    agrees(model, branch, PROMPTS[:1], [[8, 9, 10]])


# ---- what must not happen


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_a_forward_that_fails_half_way_leaves_the_branch_usable(llava, failing):
    model, _ = llava
    calls = []

    def flaky(**kwargs):
        calls.append(1)
        if len(calls) == failing:
            model(**kwargs)  # the cache is filled before it fails
            raise RuntimeError("out of memory")
        return model(**kwargs)

    branch, rows, tokens = Branch(Reader(Called(model, flaky), FAMILY)), PROMPTS[:2], drawn(2, 4, 1)
    for number, length in enumerate((0, 1, 3), start=1):
        if number < failing:
            agrees(model, branch, rows, tokens[:, :length])
        elif number == failing:
            with pytest.raises(RuntimeError, match="out of memory"):
                branch.logits(padded(rows), tokens[:, :length])
    agrees(model, branch, rows, tokens[:, :3])
    agrees(model, branch, rows, tokens)


def test_a_caller_that_overwrites_its_tokens_in_place_does_not_fool_the_memo(llava):
    model, _ = llava
    branch, rows, buffer = Branch(Reader(model, FAMILY)), PROMPTS[:2], drawn(2, 3, 1)
    agrees(model, branch, rows, buffer)
    buffer.copy_(drawn(2, 3, 9))
    agrees(model, branch, rows, buffer)


def test_logits_returned_earlier_do_not_change_later(llava):
    model, _ = llava
    branch, prompt, tokens = Branch(Reader(model, FAMILY)), padded(PROMPTS[:2]), drawn(2, 4, 1)
    first = branch.logits(prompt, tokens[:, :2])
    copy = first.clone()
    branch.logits(prompt, tokens)
    branch.logits(prompt, tokens.flip(0))
    assert torch.equal(first, copy)


def shown(processor, seeds, size: int = 16) -> torch.Tensor:
    pictures = [picture(seed, size) for seed in seeds]
    return processor.image_processor(pictures, return_tensors="pt")["pixel_values"].double()


def test_rows_that_differ_in_pixels_alone_never_share(llava):
    model, processor = llava
    row = [1, 5, 4, 4, 4, 4, 7, 8, 6]
    branch = Branch(Reader(model, FAMILY))
    for seeds in ([0, 1], [1, 0], [0, 0], [2, 1], [2, 2]):
        pixels = shown(processor, seeds)
        for tokens in ([[], []], [[8], [8]], [[8, 9], [8, 9]]):
            got = branch.logits(padded([row, row], pixels=pixels), torch.tensor(tokens, dtype=torch.long))
            want = torch.stack([next_logits(model, Second(row, pixels=pixels[n : n + 1]), tokens[n]) for n in range(2)])
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_equal_bytes_of_another_shape_or_type_are_other_pixels():
    row = [1, 5, 4, 6]
    shapes = [(1, 3, 16, 8), (1, 3, 8, 16), (1, 3, 4, 32), (1, 3, 128, 1)]
    keys = [padded([row], pixels=torch.zeros(shape)).keys for shape in shapes]
    keys += [padded([row], pixels=torch.zeros(shapes[0], dtype=torch.int32)).keys]
    assert len(set(keys)) == len(keys)


def test_rows_that_differ_in_the_mask_or_the_positions_alone_never_share():
    row = [1, 5, 4, 4, 6]
    plain, hidden = padded([row]), padded([row], hidden=4)
    shifted = BlindPrompt(plain.input_ids, plain.attention_mask, plain.position_ids + 1)
    assert len({plain.keys, hidden.keys, shifted.keys}) == 3


def test_hidden_tokens_stay_hidden_through_every_operation(llava):
    model, _ = llava
    row = [1, 5, 4, 4, 4, 4, 7, 8, 6]
    second = Second(row, hidden=[i == 4 for i in row])
    branch, prompt = Branch(Reader(model, FAMILY)), padded([row, row], hidden=4)
    for tokens in ([[], []], [[8, 4], [9, 4]], [[9, 4, 8], [9, 4, 9]], [[9], [9]], [[], []]):
        got = branch.logits(prompt, torch.tensor(tokens, dtype=torch.long))
        want = torch.stack([next_logits(model, second, sofar) for sofar in tokens])
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def test_the_models_own_results_stay_bit_for_bit_the_same(llava):
    model, _ = llava
    ids = torch.tensor([PROMPTS[1]])
    before, weights = model(input_ids=ids).logits, {k: v.clone() for k, v in model.state_dict().items()}
    branch, tokens = Branch(Reader(model, FAMILY)), drawn(3, 5, 1)
    for length in (0, 2, 5, 1):
        branch.logits(padded(PROMPTS[:3]), tokens[:, :length])
    assert torch.equal(model(input_ids=ids).logits, before)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
