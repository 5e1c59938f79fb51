"""One side of the contrast: a model's next-token scores for rows of ids, from a KV cache kept as a memo.

The scores depend on the branch's complete input alone (ids, mask, positions, pixels). So the cache is a memo of that
input: each call compares the rows asked for with the rows consumed, then extends, reorders (beams), rolls back (a
rejected draft), or starts over (a new prompt). Rows with the same content share one row of the cache until their texts
part. Tokens that were not asked about when they came are read later, several in one forward. It does not see a model's
weights change: `reset` it then.

Source: design of this project; the obvious alternative, a second `generate` state stepped in lockstep, breaks on
beams, on reuse, and on assisted decoding.
Knows: tensors, a reader of prompts by Protocol. Does not know: transformers, tokenizers, contrasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from vdd.memory import Memory
from vdd.reference import BlindPrompt


class State(Protocol):
    """What a reader keeps of the rows it has read (`vdd.reader.State`)."""

    @property
    def can_roll_back(self) -> bool:
        """Whether the last positions can be forgotten."""

    def roll_back(self, positions: int, /) -> None:
        """Forget so many of the last positions."""

    def take(self, rows: Tensor, /) -> None:
        """Keep these rows, in this order; a row may be taken twice."""


class Reader(Protocol):
    """What the branch asks of a model (`vdd.reader.Reader`)."""

    @property
    def model(self) -> Any:
        """Whose scores these are."""

    def prefill(self, prompt: BlindPrompt, last: int = 1, /) -> tuple[Tensor, Any]:
        """Read a prompt: (rows, last, vocab) scores at its last positions, and the state."""

    def prefills_on(self, prompt: BlindPrompt, /) -> bool:
        """Whether what follows the prompt may be read in one forward with it."""

    def step(self, tokens: Tensor, mask: Tensor, positions: Tensor, state: Any, last: int = 1, /) -> Tensor:
        """Read on: (rows, last, vocab) scores at the last positions; the state is changed."""


@dataclass
class Memo:
    """The rows consumed so far and what was computed for them.

    Attributes:
        keys: one content digest per row of the prompt it started from.
        width: columns of the prompt.
        tokens: (rows, consumed) tokens behind the prompt.
        mask: (rows, width + consumed).
        next_position: (rows, 1), or (3, rows, 1).
        state: the reader's, over `mask`'s columns.
        first: (rows, vocab) scores after the prompt.
        logits: (rows, vocab) scores after the last column.
    """

    keys: tuple[bytes, ...]
    width: int
    tokens: Tensor
    mask: Tensor
    next_position: Tensor
    state: State
    first: Tensor
    logits: Tensor

    def surplus(self, shared: int, tokens: Tensor, last: int) -> int:
        """How many columns must be forgotten to score the `last` positions of `tokens`, the first `shared` consumed.

        None where these are the consumed tokens and only the scores behind them are asked for: those are kept.
        """
        consumed = self.tokens.shape[1]
        if last == 1 and consumed == shared == tokens.shape[1]:
            return 0
        return max(consumed - min(shared, max(tokens.shape[1] - last, 0)), 0)

    def take(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be taken twice."""
        self.state.take(rows)
        self.keys = tuple(self.keys[row] for row in rows.tolist())
        self.tokens, self.mask = self.tokens[rows], self.mask[rows]
        self.next_position = self.next_position[..., rows, :]
        self.first, self.logits = self.first[rows], self.logits[rows]


@dataclass
class Branch:
    """Next-token scores of a model for prompts and what follows them.

    Attributes:
        reader: the model, by its family's call; never changed.
        memory: scores behind whole prompts, shared with others; None where they are not remembered.
        forwards: rows × calls run so far: the branch's cost.
    """

    reader: Reader
    memory: Memory | None = None
    forwards: int = 0
    memo: Memo | None = None

    def reset(self) -> None:
        """Forget what was read; the next call starts over."""
        self.memo = None

    def logits(self, prompt: BlindPrompt, tokens: Tensor) -> Tensor:
        """Scores of the token after `prompt` and `tokens`.

        Args:
            prompt: the prompts, one per row.
            tokens: (rows, t) what was generated behind each, t ≥ 0.

        Returns:
            (rows, vocab) in the model's dtype. Not to be modified.
        """
        return self.scores(prompt, tokens, 1)[:, 0]

    @torch.no_grad()
    def scores(self, prompt: BlindPrompt, tokens: Tensor, last: int) -> Tensor:
        """Scores at the last positions of `prompt` and `tokens`: of the token after each, in as few forwards as can be.

        Args:
            prompt: the prompts, one per row.
            tokens: (rows, t) what was generated behind each, t ≥ 0.
            last: how many positions, 1 to t + 1; t + 1 begins with the prompt's end.

        Returns:
            (rows, last, vocab) in the model's dtype. Not to be modified.
        """
        memo, self.memo = self.memo, None  # what fails half-way, or starts over, leaves nothing behind
        parents, shared = None, 0
        if memo is not None and memo.width == prompt.input_ids.shape[1] and set(prompt.keys) <= set(memo.keys):
            shared, parents = _common(memo, prompt.keys, tokens)
            if memo.surplus(shared, tokens, last) and not memo.state.can_roll_back:
                memo = None
        else:
            memo = None
        if memo is None:
            known = self._remembered(prompt) if tokens.shape[1] == 0 else None
            if known is not None:
                return known[:, None]
            if tokens.shape[1] and self.reader.prefills_on(prompt):
                return self._read_at_once(prompt, tokens)[:, -last:]
            memo, parents = self._start(prompt)
            shared = 0
        return self._advance(memo, parents, shared, tokens, last)

    def open(self, prompt: BlindPrompt) -> Memo:
        """What is known behind the prompts alone, row for row."""
        memo = self.memo
        if memo is None or memo.tokens.shape[1] or memo.width != prompt.input_ids.shape[1] or memo.keys != prompt.keys:
            if memo is None or memo.tokens.shape[1] or not set(prompt.keys) <= set(memo.keys):
                memo, _ = self._start(prompt)
            memo.take(torch.tensor([memo.keys.index(key) for key in prompt.keys], device=memo.mask.device))
        self.memo = memo
        return memo

    def _remembered(self, prompt: BlindPrompt) -> Tensor | None:
        """(rows, vocab) scores behind the prompts, each read alone unless it is known; None without a memory."""
        alone = [prompt.alone(row) for row in range(len(prompt.input_ids))] if self.memory is not None else []
        if self.memory is None or any(row is None for row in alone):
            return None

        def read(row: BlindPrompt) -> Tensor:
            self.forwards += 1
            return self.reader.prefill(row)[0][0, 0]

        return torch.stack(
            [self.memory.row(self.reader.model, row.keys[0], partial(read, row)) for row in alone if row is not None]
        )

    def _read_at_once(self, prompt: BlindPrompt, tokens: Tensor) -> Tensor:
        """Start over with what follows the prompt: (rows, t + 1, vocab) scores from the prompt's end on."""
        width = prompt.input_ids.shape[1]
        whole = prompt.followed_by(tokens)
        scores, state = self.reader.prefill(whole, tokens.shape[1] + 1)
        self.forwards += len(tokens)
        self.memo = Memo(
            keys=prompt.keys,
            width=width,
            tokens=tokens.clone(),
            mask=whole.attention_mask,
            next_position=whole.position_ids[..., -1:] + 1,
            state=state,
            first=scores[:, 0],
            logits=scores[:, -1],
        )
        return scores

    def _start(self, prompt: BlindPrompt) -> tuple[Memo, Tensor | None]:
        """Prefill each distinct row of the prompt once."""
        first: dict[bytes, int] = {}
        for row, key in enumerate(prompt.keys):
            first.setdefault(key, row)
        distinct = prompt.select(list(first.values()))
        scores, state = self.reader.prefill(distinct)
        self.forwards += len(distinct.input_ids)
        memo = memo_after(distinct, scores[:, 0], state)
        place = {key: number for number, key in enumerate(first)}
        if len(place) == len(prompt.keys):
            return memo, None
        return memo, torch.tensor([place[key] for key in prompt.keys], device=distinct.input_ids.device)

    def _advance(self, memo: Memo, parents: Tensor | None, shared: int, tokens: Tensor, last: int) -> Tensor:
        """Roll `memo` back to `shared` tokens, take the rows in `parents`, consume the rest, and keep it."""
        self.memo = memo
        surplus = memo.surplus(shared, tokens, last)
        if not surplus and tokens.shape[1] == shared:
            return (memo.logits if parents is None else memo.logits[parents])[:, None]
        if parents is not None:
            memo.take(parents)
        if surplus:
            memo.state.roll_back(surplus)
            memo.mask = memo.mask[:, : memo.mask.shape[1] - surplus]
            memo.next_position = memo.next_position - surplus
        fresh = tokens[:, memo.mask.shape[1] - memo.width :]
        parts = [memo.first[:, None]] if last > tokens.shape[1] else []
        if fresh.shape[1]:
            self.memo = None
            steps = torch.arange(fresh.shape[1], device=fresh.device)
            memo.mask = torch.cat([memo.mask, memo.mask.new_ones(fresh.shape)], dim=1)
            kept = last - len(parts)
            parts.append(self.reader.step(fresh, memo.mask, memo.next_position + steps, memo.state, kept))
            memo.next_position = memo.next_position + fresh.shape[1]
            self.forwards += len(fresh)
        scores = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        memo.tokens, memo.logits = tokens.clone(), scores[:, -1]  # the caller may go on writing into its own
        self.memo = memo
        return scores


def memo_after(prompt: BlindPrompt, scores: Tensor, state: State) -> Memo:
    """What is known once a prompt was read; `scores` (rows, vocab) are those behind it."""
    return Memo(
        keys=prompt.keys,
        width=prompt.input_ids.shape[1],
        tokens=prompt.input_ids[:, :0],
        mask=prompt.attention_mask,
        next_position=prompt.position_ids[..., -1:] + 1,
        state=state,
        first=scores,
        logits=scores,
    )


def _common(memo: Memo, keys: tuple[bytes, ...], tokens: Tensor) -> tuple[int, Tensor | None]:
    """How many tokens every row shares with some consumed row, and which; None where it is row for row."""
    length = min(tokens.shape[1], memo.tokens.shape[1])
    if keys == memo.keys and torch.equal(tokens[:, :length], memo.tokens[:, :length]):
        return length, None
    number = {key: i for i, key in enumerate(dict.fromkeys(memo.keys))}
    device = tokens.device
    wanted = torch.tensor([number[key] for key in keys], device=device)
    had = torch.tensor([number[key] for key in memo.keys], device=device)
    same = tokens[:, None, :length] == memo.tokens[None, :, :length]
    run = same.cumprod(dim=-1).sum(dim=-1)
    run = torch.where(wanted[:, None] == had[None, :], run, -1)
    best, parents = run.max(dim=-1)
    return int(best.min()), parents
