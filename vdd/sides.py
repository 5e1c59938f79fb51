"""Both sides of the contrast as a decoding loop asks them: each by itself, or both in one forward.

    fused cache   the image's rows above, the image-free rows below, columns aligned on the right:
                  the image-free texts are shorter, and what is missing of them is masked

Source: design of this project. Exact where every layer attends to all that the mask shows it.
Knows: branches, states, prompts. Does not know: `generate`, which token is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vdd.branch import Branch
from vdd.processor import Prompt, VDDLogitsProcessor
from vdd.reader import State
from vdd.reference import BlindPrompt


@dataclass
class Seen:
    """The image's side of a batch: its branch, and the prompts that it reads or has read."""

    branch: Branch
    prompt: BlindPrompt

    def logits(self, tokens: Tensor) -> Tensor:
        """(rows, vocab) scores behind (rows, t) tokens."""
        return self.branch.logits(self.prompt, tokens)

    def cache(self, tokens: Tensor) -> Any:
        """The KV cache over the prompts and `tokens`."""
        memo = self.branch.open(self.prompt) if tokens.shape[1] == 0 else None
        if memo is None:
            self.logits(tokens)
            memo = self.branch.memo
        return getattr(getattr(memo, "state", None), "cache", None)


class Sides(Protocol):
    """Both sides' scores, however they are read."""

    def seen(self, tokens: Tensor, /) -> Tensor:
        """(rows, vocab) scores given the image, behind (rows, t) tokens."""

    def blind(self, tokens: Tensor, last: int, /) -> Tensor:
        """(rows, last, vocab) scores of the reference behind each of the last positions."""

    def seen_cache(self, tokens: Tensor, /) -> Any:
        """The image side's KV cache over the prompts and `tokens`."""


@dataclass
class Apart:
    """Each side reads by itself, when it is asked."""

    image: Seen
    plugin: VDDLogitsProcessor
    prompt: Prompt

    def seen(self, tokens: Tensor) -> Tensor:
        """As Sides."""
        return self.image.logits(tokens)

    def blind(self, tokens: Tensor, last: int) -> Tensor:
        """As Sides."""
        return self.plugin.blind_scores(self.prompt, tokens, last)

    def seen_cache(self, tokens: Tensor) -> Any:
        """As Sides."""
        return self.image.cache(tokens)


class Fused:
    """All sides read in one forward, their caches one below the other; the prompts apart.

    Args:
        image: the image's side.
        plugin: with the image-free branches.
        prompt: what these read.
    """

    def __init__(self, image: Seen, plugin: VDDLogitsProcessor, prompt: Prompt) -> None:
        self.plugin = plugin
        pairs = [(image.branch, image.prompt), *zip(plugin.branches, prompt.blind, strict=True)]
        memos = [branch.open(read) for branch, read in pairs]
        self.rows, self.image = len(memos[0].tokens), image
        self.parts = [memo.first for memo in memos]
        states: list[Any] = [memo.state for memo in memos]
        self.state = State.stacked(states)
        for branch, _ in pairs:
            branch.reset()  # its cache stands in the common one
        width = max(memo.mask.shape[1] for memo in memos)
        self.mask = torch.cat([_widened(memo.mask, width) for memo in memos])
        axes = max(memo.next_position.ndim for memo in memos)
        self.position = torch.cat([_with_axes(memo.next_position, axes) for memo in memos], dim=-2)
        self.read = 0

    def seen(self, tokens: Tensor) -> Tensor:
        """As Sides; one token more at every call."""
        if tokens.shape[1] > self.read:
            fresh = tokens[:, self.read :].repeat(len(self.parts), 1)
            self.mask = torch.cat([self.mask, torch.ones_like(fresh)], dim=1)
            steps = torch.arange(fresh.shape[1], device=fresh.device)
            scores = self.plugin.reader.step(fresh, self.mask, self.position + steps, self.state)[:, 0]
            self.parts, self.read = list(scores.split(self.rows)), tokens.shape[1]
            self.position = self.position + fresh.shape[1]
            self.image.branch.forwards += self.rows
            for branch in self.plugin.branches:
                branch.forwards += self.rows
        return self.parts[0]

    def blind(self, tokens: Tensor, last: int) -> Tensor:
        """As Sides, of what was read last."""
        return self.plugin.mean(self.parts[1:])[:, None]

    def seen_cache(self, tokens: Tensor) -> Any:
        """As Sides."""
        self.seen(tokens)
        self.state.take(torch.arange(self.rows, device=tokens.device))
        self.state.keep_last(self.image.prompt.input_ids.shape[1] + self.read)
        return self.state.cache


def _widened(mask: Tensor, width: int) -> Tensor:
    """(rows, width) with zeros put in front."""
    return torch.nn.functional.pad(mask, (width - mask.shape[1], 0))


def _with_axes(position: Tensor, axes: int) -> Tensor:
    """(rows, 1) as (3, rows, 1) where another side has positions on three axes."""
    return position.expand(3, -1, -1) if position.ndim < axes else position
