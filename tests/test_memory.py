"""What is remembered, of what, for how long; and that no score is another for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vdd
from tests.oracles.families import blind_rows
from tests.oracles.recompute import Second, degraded, next_logits
from tests.recomputed import QUESTIONS, STRONG, Case
from tests.test_branch import FAMILY, PROMPTS, agrees, drawn, padded, shown
from tests.zoo import KINDS, picture
from vdd.branch import Branch
from vdd.generation import CalledLogitsProcessor
from vdd.memory import Memory
from vdd.reader import Reader
from vdd.reference import BlindPrompt

MEGABYTE = 2**20


class Model:
    """What a memory asks of a model."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.dtype = dtype


def row_of(number: int, quarters: int = 1) -> Tensor:
    """A row that takes so many quarters of a megabyte."""
    return torch.full((quarters * MEGABYTE // 32,), float(number), dtype=torch.float64)


def ask(memory: Memory, model: Any, content: int, quarters: int = 1) -> bool:
    """Whether the row was known; it is the right one in any case."""
    computed = []

    def compute() -> Tensor:
        computed.append(1)
        return row_of(content, quarters)

    assert torch.equal(memory.row(model, str(content).encode(), compute), row_of(content, quarters))
    return not computed


# ---- the table


@settings(max_examples=100)
@given(asked=st.lists(st.integers(0, 7), max_size=40), megabytes=st.integers(1, 2))
def test_a_bounded_table_forgets_the_row_that_was_not_asked_for_longest(asked, megabytes):
    memory, model, order, hits = Memory(megabytes), Model(), [], 0
    for content in asked:
        known = content in order
        assert ask(memory, model, content) == known
        hits += known
        order = [*(other for other in order if other != content), content][-4 * megabytes :]
        assert len(memory) == len(order)
        assert memory.size == len(order) * MEGABYTE // 4 <= megabytes * MEGABYTE
    assert (memory.hits, memory.misses) == (hits, len(asked) - hits)


@given(st.lists(st.tuples(st.integers(0, 7), st.integers(1, 6)), max_size=25))
def test_rows_of_any_size_fit_and_one_too_large_is_kept_until_the_next(asked):
    memory, model, sizes, order = Memory(1), Model(), {}, []
    for content, quarters in asked:
        quarters = sizes.setdefault(content, quarters)
        assert ask(memory, model, content, quarters) == (content in order)
        order = [*(other for other in order if other != content), content]
        while len(order) > 1 and sum(sizes[other] for other in order) > 4:
            order.pop(0)
        assert len(memory) == len(order)
        assert memory.size == sum(sizes[other] for other in order) * MEGABYTE // 4


def test_models_dtypes_and_contents_are_told_apart():
    memory, one, other = Memory(), Model(), Model()
    assert [ask(memory, model, content) for model in (one, other) for content in (1, 2)] == [False] * 4
    assert [ask(memory, model, content) for model in (one, other) for content in (1, 2)] == [True] * 4
    one.dtype = torch.float16
    assert not ask(memory, one, 1)
    one.dtype = torch.float64
    assert ask(memory, one, 1)
    assert (memory.hits, memory.misses, len(memory)) == (5, 5, 5)


def test_a_model_in_the_place_of_one_that_is_gone_is_another():
    memory, places = Memory(), set()
    for _ in range(50):
        model = Model()
        places.add(id(model))
        assert not ask(memory, model, 1)
        del model
    assert len(places) < 50  # some stood where another had stood


def test_clearing_forgets_the_rows_and_not_what_was_counted():
    memory, model = Memory(), Model()
    ask(memory, model, 1)
    ask(memory, model, 1)
    memory.clear()
    assert (len(memory), memory.size, memory.hits, memory.misses) == (0, 0, 1, 1)
    assert not ask(memory, model, 1)
    assert memory.size == MEGABYTE // 4


def test_a_row_that_cannot_be_computed_is_not_remembered():
    memory, model = Memory(), Model()

    def fails() -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        memory.row(model, b"1", fails)
    assert (len(memory), memory.size) == (0, 0)
    assert not ask(memory, model, 1)


@pytest.mark.parametrize("megabytes", [0, -1, 0.5, "many", None, True])
def test_a_size_that_is_no_whole_number_above_0_is_an_error(megabytes):
    with pytest.raises(ValueError, match=r"memory.*megabytes"):
        Memory(megabytes)


# ---- a branch with a memory


def scores(branch: Branch, prompt: BlindPrompt, tokens: Tensor | None = None) -> Tensor:
    return branch.logits(prompt, prompt.input_ids[:, :0] if tokens is None else tokens)


@settings(max_examples=30)
@given(
    asked=st.lists(st.tuples(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.integers(0, 3)), max_size=6),
    width=st.sampled_from([0, 10]),
)
def test_in_any_order_of_questions_the_scores_are_those_of_a_forward_from_scratch(llava, asked, width):
    model, _ = llava
    memory, told = Memory(), set()
    for picked, length in asked:
        branch = Branch(Reader(model, FAMILY), memory)
        rows, tokens = [PROMPTS[n] for n in picked], drawn(len(picked), 3, 1)
        agrees(model, branch, rows, tokens[:, :0], width=width)
        new = {tuple(row) for row in rows} - told
        assert branch.forwards == len(new)  # each text is read once, whoever asks
        told |= new
        for more in range(1, length + 1):
            agrees(model, branch, rows, tokens[:, :more], width=width)
    assert len(memory) == memory.misses == len(told)
    assert memory.hits == sum(len(picked) for picked, _ in asked) - memory.misses


@pytest.mark.parametrize("first", ["alone", "padded"])
def test_padding_changes_neither_what_a_row_is_known_by_nor_its_bits(llava, first):
    model, _ = llava
    memory, wide, alone = Memory(), padded(PROMPTS[1:3], width=14), padded(PROMPTS[1:2])
    assert wide.keys[0] != alone.keys[0]
    assert wide.alone(0).keys == alone.alone(0).keys == alone.keys
    branches = [Branch(Reader(model, FAMILY), memory) for _ in range(2)]
    order = [wide, alone] if first == "padded" else [alone, wide]
    told = [scores(branch, prompt)[0] for branch, prompt in zip(branches, order, strict=True)]
    assert torch.equal(*told)
    assert (memory.misses, memory.hits) == (2, 1)
    assert torch.equal(told[0], scores(Branch(Reader(model, FAMILY), Memory()), alone)[0])


def test_a_branch_that_has_begun_goes_on_and_asks_the_memory_only_at_a_prompts_end(llava):
    model, _ = llava
    memory = Memory()
    branch, rows, tokens = Branch(Reader(model, FAMILY), memory), PROMPTS[:2], drawn(2, 4, 1)
    for length in (0, 1, 2, 4, 0, 3):
        agrees(model, branch, rows, tokens[:, :length])
    assert (memory.misses, memory.hits) == (2, 0)
    agrees(model, Branch(Reader(model, FAMILY), memory), rows, tokens[:, :0])
    assert (memory.misses, memory.hits) == (2, 2)


def test_prompts_that_differ_in_positions_or_the_mask_alone_do_not_share(llava):
    model, _ = llava
    row = [1, 5, 4, 4, 19, 20, 6]
    plain, hidden = padded([row]), padded([row], hidden=4)
    apart = plain.position_ids + (torch.arange(len(row)) > 3) * 5
    shifted = BlindPrompt(plain.input_ids, plain.attention_mask, apart)
    memory = Memory()
    told = [scores(Branch(Reader(model, FAMILY), memory), prompt)[0] for prompt in (plain, hidden, shifted)]
    assert (memory.misses, memory.hits) == (3, 0)
    assert not torch.allclose(told[0], told[1])
    assert not torch.allclose(told[0], told[2])
    for one, prompt in zip(told, (plain, hidden, shifted), strict=True):
        assert torch.allclose(one, scores(Branch(Reader(model, FAMILY)), prompt)[0], rtol=1e-9, atol=1e-9)
    assert torch.allclose(told[1], next_logits(model, Second(row, hidden=[i == 4 for i in row]), []), atol=1e-9)


# ---- what references share


def plugin_of(case: Case, memory: Memory | None = None, **options: Any) -> CalledLogitsProcessor:
    return CalledLogitsProcessor(case.model, case.processor, inputs=case.inputs, memory=memory, **options)


def first_ids(case: Case) -> Tensor:
    """What `generate` first shows a processor."""
    ids = case.inputs["input_ids"]
    return (
        torch.full((len(ids), 1), case.model.generation_config.decoder_start_token_id or 2) if case.width == 1 else ids
    )


def blind(case: Case, memory: Memory | None = None, **options: Any) -> Tensor:
    """(rows, vocab) of the image-free side behind the prompts."""
    plugin = plugin_of(case, memory, **options)
    ids = first_ids(case)
    return plugin.blind_scores(plugin.find_prompt(ids), ids[:, :0], 1)[:, 0]


def recomputed(case: Case, reference: str) -> Tensor:
    rows = blind_rows(case.member, case.model, case.processor, case.questions, case.shown, reference)
    return torch.stack([row([]) for row in rows])


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-9, atol=1e-9)


def test_equal_questions_about_different_images_share_what_is_said_without_one():
    memory, question = Memory(), QUESTIONS[0]
    cases = [Case("LLaVA-1.5", (question,) * 2, first=number) for number in (0, 5)]
    told = [blind(case, memory) for case in cases]
    assert (memory.misses, memory.hits) == (1, 3)
    for case, one in zip(cases, told, strict=True):
        assert close(one, recomputed(case, "none"))


def test_both_references_of_a_question_are_remembered():
    memory, case = Memory(), Case("LLaVA-1.5")
    told = [blind(case, memory, reference="both") for _ in range(2)]
    assert (memory.misses, memory.hits) == (4, 4)
    assert torch.equal(*told)
    assert close(told[0], recomputed(case, "both"))
    blind(case, memory)
    assert (memory.misses, memory.hits) == (4, 6)  # `none` is one of both


def sized(name: str, sizes: list[tuple[int, int]]) -> list[Case]:
    """One question about an image of each size."""
    cases = [Case(name, QUESTIONS[:1], first=100 + number) for number in range(len(sizes))]
    for case, size in zip(cases, sizes, strict=True):
        case.shown = [[picture(1, *size)]]
    return cases


@pytest.mark.parametrize("name", ["LLaVA-NeXT", "Qwen2.5-VL"])
def test_images_of_two_sizes_do_not_share_what_is_said_with_their_tokens_masked(name):
    small, large = sized(name, [(16, 16), (64, 32)])
    assert small.width != large.width
    for order in ([small, large, small], [large, small, large]):
        memory = Memory()
        for case in order:
            assert close(blind(case, memory, reference="mask"), recomputed(case, "mask"))
        assert (memory.misses, memory.hits) == (2, 1)
        shared = [blind(case, memory) for case in order]
        assert memory.misses == 3  # without any image token there is one text
        assert torch.equal(shared[0], shared[1])


@pytest.mark.parametrize("name", ["LLaVA-1.5", "InternVL", "Janus"])
def test_rows_of_a_batch_share_where_their_pixels_are_equal(name):
    case = Case(name, QUESTIONS[:1] * 2)
    for reference, misses in (("zero", 1), ("one", 1), ("noise", 2)):
        memory = Memory()
        told = blind(case, memory, reference=reference)
        assert (memory.misses, memory.hits) == (misses, 2 - misses), reference
        assert torch.equal(*told) == (misses == 1)
        assert close(told, recomputed(case, reference))
        alone = Case(name, QUESTIONS[:1], first=1)  # the second of them, by itself
        assert torch.equal(blind(alone, memory, reference=reference)[0], told[1])
        assert memory.misses == misses


def test_rows_that_differ_in_pixels_alone_never_share_an_entry(llava):
    model, processor = llava
    row, memory = [1, 5, 4, 4, 4, 4, 7, 8, 6], Memory()
    for seeds in ([0, 1], [1, 0], [0, 0], [2, 1]):
        pixels = shown(processor, seeds)
        prompt = padded([row, row], pixels=pixels)
        prompt = BlindPrompt(**{**vars_of(prompt), "all_shown": True})
        told = scores(Branch(Reader(model, FAMILY), memory), prompt)
        want = torch.stack([next_logits(model, Second(row, pixels=pixels[n : n + 1]), []) for n in range(2)])
        assert close(told, want)
    assert (memory.misses, memory.hits) == (3, 5)


def vars_of(prompt: BlindPrompt) -> dict[str, Any]:
    return {name: getattr(prompt, name) for name in prompt.__dataclass_fields__}


@pytest.mark.parametrize("counts", [(2, 0), (0, 2), (2, 0, 1), (1, 2, 0), (2, 2), (1, 1)])
@pytest.mark.parametrize("reference", ["noise", "zero"])
def test_rows_with_other_numbers_of_images_are_never_taken_for_one_another(counts, reference):
    case = Case("LLaVA-1.5", ("is it red ?",) * len(counts), counts=counts)
    seen = [row for row, count in enumerate(counts) if count]
    want = {row: case.member.seen_logits(case.model, noised(case, row, reference), []) for row in seen}
    memory = Memory()
    for _ in range(2):
        told = blind(case, memory, reference=reference)
        assert all(close(told[row], want[row]) for row in seen)
        turned = Case("LLaVA-1.5", case.questions, counts=counts[::-1])
        assert close(blind(turned, memory, reference=reference), blind(turned, reference=reference))
    assert len(memory) <= 2 * len(counts)


def noised(case: Case, row: int, reference: str) -> Any:
    """One row's own inputs, its images changed."""
    alone = case.member.inputs(case.processor, [case.questions[row]], [case.shown[row]])
    return {**alone, "pixel_values": degraded(alone["pixel_values"], reference, seed=0, step=500)}


@pytest.mark.parametrize("name", KINDS)
def test_in_every_kind_of_family_a_padded_batch_is_remembered_as_a_question_alone(name):
    case, alone = Case(name), Case(name, QUESTIONS[:1])  # the shorter question: in the batch it has padding
    exact = 1e-4 if name.startswith("Qwen3.5") else 1e-9  # linear attention computes in float32, and reads padding
    for reference in ("none", "noise"):
        if reference not in case.member.references:
            continue
        memory = Memory()
        told = blind(case, memory, reference=reference)
        torch.testing.assert_close(told, blind(case, reference=reference), rtol=exact, atol=exact)
        misses = memory.misses
        row = blind(alone, memory, reference=reference)[0]
        torch.testing.assert_close(row, told[0], rtol=exact, atol=exact)
        assert reference == "noise" or memory.misses == misses == 2  # a text is known whoever it stood beside


# ---- the tokens


@pytest.mark.parametrize("reference", ["none", "both", "mask", "noise"])
@pytest.mark.parametrize("strategy", ["two-pass", "skip"])
def test_a_processor_with_a_memory_gives_a_recomputes_tokens(reference, strategy):
    case, memory = Case("LLaVA-1.5"), Memory()
    want = case.new(case.plain([case.oracle(reference)]))
    for _ in range(2):
        plugin = plugin_of(case, memory, reference=reference, strategy=strategy, **STRONG)
        assert case.new(case.plain([plugin])) == want
    assert memory.hits == memory.misses > 0


@pytest.mark.parametrize("strategy", ["two-pass", "skip", "fuse", "speculate"])
def test_the_loop_uses_a_memory_or_reads_without_one_and_gives_a_recomputes_tokens(strategy):
    cases, memory = [Case("LLaVA-1.5"), Case("LLaVA-1.5", QUESTIONS[::-1], first=3)], Memory()
    for case in (*cases, *cases):
        plugin = vdd.VDDLogitsProcessor(
            case.model, case.processor, inputs=case.inputs, memory=memory, strategy=strategy, **STRONG
        )
        got = case.new(case.plain([plugin], custom_generate=vdd.decode))
        assert got == case.new(case.plain([case.oracle()]))
    if strategy in ("two-pass", "skip"):  # the others read on from a cache of their own
        assert (memory.misses, memory.hits) == (2, 6)
