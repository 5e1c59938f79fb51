"""The image-free branch: a model's next-token scores for rows of ids, from a KV cache kept as a memo.

The scores depend on the branch's complete input alone (ids, mask, positions, pixels). So the cache is a memo of that
input: each call compares the rows asked for with the rows consumed, then extends, reorders (beams), rolls back (a
rejected draft), or starts over (a new prompt). Rows with the same content share one row of the cache until their texts
part. It does not see a model's weights change: `reset` it then.

Source: design of this project; the obvious alternative, a second `generate` state stepped in lockstep, breaks on
beams, on reuse, and on assisted decoding.
Knows: tensors, a reader of prompts by Protocol. Does not know: transformers, tokenizers, contrasts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

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

    def prefill(self, prompt: BlindPrompt, /) -> tuple[Tensor, Any]:
        """Read a prompt: scores of the next token, and the state."""

    def step(self, tokens: Tensor, mask: Tensor, positions: Tensor, state: Any, /) -> Tensor:
        """Read on: scores of the next token; the state is changed."""


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

    def surplus(self, shared: int, tokens: Tensor) -> int:
        """How many columns must be forgotten to go on to `tokens`, of which the first `shared` were consumed.

        One more than what differs where nothing is left to consume: the scores behind it are gone, unless it is the
        prompt's end.
        """
        again = int(tokens.shape[1] == shared and shared > 0)
        beyond = self.tokens.shape[1] - shared
        return beyond + again if beyond else 0

    def take(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be taken twice."""
        self.state.take(rows)
        self.keys = tuple(self.keys[row] for row in rows.tolist())
        self.tokens, self.mask = self.tokens[rows], self.mask[rows]
        self.next_position = self.next_position[..., rows, :]
        self.first, self.logits = self.first[rows], self.logits[rows]


@dataclass
class BlindBranch:
    """Next-token scores of a model for prompts and what follows them.

    Attributes:
        reader: the model, by its family's call; never changed.
        forwards: rows × calls run so far: the branch's cost.
    """

    reader: Reader
    forwards: int = 0
    memo: Memo | None = None

    def reset(self) -> None:
        """Forget everything; the next call starts over."""
        self.memo = None

    @torch.no_grad()
    def logits(self, prompt: BlindPrompt, tokens: Tensor) -> Tensor:
        """Scores of the token after `prompt` and `tokens`.

        Args:
            prompt: the image-free prompts, one per row.
            tokens: (rows, t) what was generated behind each, t ≥ 0.

        Returns:
            (rows, vocab) in the model's dtype. Not to be modified.
        """
        memo, self.memo = self.memo, None  # what fails half-way, or starts over, leaves nothing behind
        parents, shared = None, 0
        if memo is not None and memo.width == prompt.input_ids.shape[1] and set(prompt.keys) <= set(memo.keys):
            shared, parents = _common(memo, prompt.keys, tokens)
            if memo.surplus(shared, tokens) and not memo.state.can_roll_back:
                memo = None
        else:
            memo = None
        if memo is None:
            memo, parents = self._start(prompt)
            shared = 0
        self.memo, parents = self._advance(memo, parents, shared, tokens)
        return self.memo.logits if parents is None else self.memo.logits[parents]

    def _start(self, prompt: BlindPrompt) -> tuple[Memo, Tensor | None]:
        """Prefill each distinct row of the prompt once."""
        first: dict[bytes, int] = {}
        for row, key in enumerate(prompt.keys):
            first.setdefault(key, row)
        distinct = prompt.select(list(first.values()))
        scores, state = self.reader.prefill(distinct)
        self.forwards += len(distinct.input_ids)
        memo = Memo(
            keys=tuple(first),
            width=distinct.input_ids.shape[1],
            tokens=distinct.input_ids[:, :0],
            mask=distinct.attention_mask,
            next_position=distinct.position_ids[..., -1:] + 1,
            state=state,
            first=scores,
            logits=scores,
        )
        place = {key: number for number, key in enumerate(first)}
        if len(place) == len(prompt.keys):
            return memo, None
        return memo, torch.tensor([place[key] for key in prompt.keys], device=distinct.input_ids.device)

    def _advance(self, memo: Memo, parents: Tensor | None, shared: int, tokens: Tensor) -> tuple[Memo, Tensor | None]:
        """Roll `memo` back to `shared` tokens, take the rows in `parents`, and consume the rest of `tokens`."""
        surplus = memo.surplus(shared, tokens)
        if not surplus and tokens.shape[1] == shared:
            return memo, parents
        if parents is not None:
            memo.take(parents)
        if surplus:
            memo.state.roll_back(surplus)
            memo.mask = memo.mask[:, : memo.mask.shape[1] - surplus]
            memo.next_position = memo.next_position - surplus
        fresh = tokens[:, memo.mask.shape[1] - memo.width :]
        if fresh.shape[1]:
            steps = torch.arange(fresh.shape[1], device=fresh.device)
            memo.mask = torch.cat([memo.mask, memo.mask.new_ones(fresh.shape)], dim=1)
            scores = self.reader.step(fresh, memo.mask, memo.next_position + steps, memo.state)
            memo.next_position = memo.next_position + fresh.shape[1]
            self.forwards += len(fresh)
        else:
            scores = memo.first
        memo.tokens, memo.logits = tokens.clone(), scores  # the caller may go on writing into its own
        return memo, None


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
