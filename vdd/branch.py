"""The image-free branch: a model's next-token scores for rows of ids, from a KV cache kept as a memo.

The scores depend on the branch's complete input alone (ids, mask, positions, pixels). So the cache is a memo of that
input: each call compares the rows asked for with the rows consumed, then extends, reorders (beams), rolls back (a
rejected draft), or starts over (a new prompt). Rows with the same content share one row of the cache until their texts
part.

Source: design of this project; the obvious alternative, a second `generate` state stepped in lockstep, breaks on
beams, on reuse, and on assisted decoding.
Knows: tensors, a model by Protocol, which it never changes. Does not know: transformers, tokenizers, contrasts.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from vdd.reference import BlindPrompt


class Cache(Protocol):
    """What the memo asks of a KV cache (transformers' DynamicCache has it)."""

    def crop(self, tokens: int, /) -> None:
        """Forget the last −tokens positions (tokens < 0)."""

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order; a row may be taken twice."""


class Output(Protocol):
    """What a model returns."""

    logits: Tensor
    past_key_values: Any


class Model(Protocol):
    """A causal language model's call, as transformers' models have it."""

    def __call__(self, **kwargs: Any) -> Output:
        """Run one forward pass."""


@dataclass
class Memo:
    """The rows consumed so far and what was computed for them.

    Attributes:
        keys: one content digest per row of the prompt it started from.
        width: columns of the prompt.
        tokens: (rows, consumed) tokens behind the prompt.
        mask: (rows, width + consumed).
        next_position: (rows, 1).
        cache: the model's KV cache over `mask`'s columns.
        logits: (rows, vocab) scores after the last column.
    """

    keys: tuple[bytes, ...]
    width: int
    tokens: Tensor
    mask: Tensor
    next_position: Tensor
    cache: Cache
    logits: Tensor


@dataclass
class BlindBranch:
    """Next-token scores of a model for prompts and what follows them.

    Attributes:
        model: called with keyword arguments; never changed.
        forwards: rows × calls run so far: the branch's cost.
    """

    model: Model
    forwards: int = 0
    memo: Memo | None = None
    _prefill_extras: dict[str, Any] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Look up once whether the model can skip the scores of all but the last position."""
        parameters = inspect.signature(getattr(self.model, "forward", self.model)).parameters
        self._prefill_extras = {"logits_to_keep": 1} if "logits_to_keep" in parameters else {}

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
        memo = self.memo
        if memo is None or memo.width != prompt.input_ids.shape[1] or not set(prompt.keys) <= set(memo.keys):
            memo, parents = self._start(prompt)
            shared = 0
        else:
            shared, parents = _common(memo, prompt.keys, tokens)
        self.memo = None  # a forward that fails half-way must not leave a half-changed cache behind
        self.memo, parents = self._advance(memo, parents, shared, prompt, tokens)
        return self.memo.logits if parents is None else self.memo.logits[parents]

    def _start(self, prompt: BlindPrompt) -> tuple[Memo, Tensor | None]:
        """Prefill each distinct row of the prompt once."""
        first: dict[bytes, int] = {}
        for row, key in enumerate(prompt.keys):
            first.setdefault(key, row)
        distinct = prompt.select(list(first.values()))
        output = self._forward(
            input_ids=distinct.input_ids,
            attention_mask=distinct.attention_mask,
            position_ids=distinct.position_ids,
            **distinct.pixels,
        )
        memo = Memo(
            keys=tuple(first),
            width=distinct.input_ids.shape[1],
            tokens=distinct.input_ids[:, :0],
            mask=distinct.attention_mask,
            next_position=distinct.position_ids[:, -1:] + 1,
            cache=output.past_key_values,
            logits=output.logits[:, -1],
        )
        place = {key: number for number, key in enumerate(first)}
        if len(place) == len(prompt.keys):
            return memo, None
        return memo, torch.tensor([place[key] for key in prompt.keys], device=distinct.input_ids.device)

    def _advance(
        self, memo: Memo, parents: Tensor | None, shared: int, prompt: BlindPrompt, tokens: Tensor
    ) -> tuple[Memo, Tensor | None]:
        """Roll `memo` back to `shared` tokens, take the rows in `parents`, and consume the rest of `tokens`."""
        surplus = memo.tokens.shape[1] - shared
        if surplus == 0 and tokens.shape[1] == shared:
            return memo, parents
        if parents is not None:
            memo.cache.batch_select_indices(parents)
            memo.keys = tuple(memo.keys[parent] for parent in parents.tolist())
            memo.tokens, memo.mask = memo.tokens[parents], memo.mask[parents]
            memo.next_position, memo.logits = memo.next_position[parents], memo.logits[parents]
        again = 1 if tokens.shape[1] == shared else 0  # its scores are gone: run the last column once more
        fresh = torch.cat([prompt.input_ids[:, -1:], tokens], dim=1)[:, 1 + shared - again :]
        if surplus + again:
            memo.cache.crop(-(surplus + again))
            memo.mask = memo.mask[:, : memo.mask.shape[1] - surplus - again]
            memo.next_position = memo.next_position - surplus - again
        steps = torch.arange(fresh.shape[1], device=fresh.device)
        mask = torch.cat([memo.mask, memo.mask.new_ones(fresh.shape)], dim=1)
        output = self._forward(
            input_ids=fresh,
            attention_mask=mask,
            position_ids=memo.next_position + steps,
            past_key_values=memo.cache,
        )
        advanced = Memo(
            keys=memo.keys,
            width=memo.width,
            tokens=tokens.clone(),  # the caller may go on writing into its own
            mask=mask,
            next_position=memo.next_position + fresh.shape[1],
            cache=output.past_key_values,
            logits=output.logits[:, -1],
        )
        return advanced, None

    def _forward(self, **kwargs: Any) -> Output:
        self.forwards += len(kwargs["input_ids"])
        return self.model(**kwargs, use_cache=True, return_dict=True, **self._prefill_extras)


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
