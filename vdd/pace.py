"""Which way of running the image-free side is fastest here: by measured forwards and counted agreement.

With t1 seconds of a step, t2 of a step of all sides in one forward, c(n) of a forward over n tokens, u the share of
steps at which the image-free side can change the outcome, a the share of those at which it does not, L the tokens of a
text and w those of the image-free prompt, seconds a token:

    skip       t1 + u · c(1/u) + r
    fuse       t2 + c(w) / L
    speculate  min over n of (n · t1 + c(n)) / E(n) + r,   E(n) = Σ_{i<n} q^i,   q = 1 − u · (1 − a)

where r = (1 − (1 − u)^L) · (c(w) − c(1)) / L is the image-free prompt, read with what follows it once it is needed.

Knows: seconds, counts, a memo to time a reader on. Does not know: tokens, contrasts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch

from vdd.branch import Memo
from vdd.reader import Reader, State

CHUNK = 8
"""Tokens of the forward that is measured; other lengths are reckoned along the line through it and one token."""

ROUNDS = 4
"""Of which the fastest counts: other work on the machine only ever slows a forward down."""
LONGEST = 64
"""Tokens that are read ahead at most."""


@dataclass
class Pace:
    """Seconds of one forward.

    Attributes:
        step: every row reads one token.
        together: the rows of all sides read one token each; infinite where they cannot be read together.
        chunk: every row reads CHUNK tokens.
    """

    step: float
    together: float
    chunk: float

    def reading(self, tokens: float) -> float:
        """Seconds of a forward in which every row reads so many tokens."""
        return self.step + (tokens - 1) * max(self.chunk - self.step, 0.0) / (CHUNK - 1)


@dataclass
class Habits:
    """How often the image-free side mattered so far. The first counts stand for what is not known yet.

    Attributes:
        texts: texts, or batches of texts, begun.
        steps: tokens chosen.
        undecided: of these, at which it could change the outcome.
        compared: of those, at which the image side's own choice was known.
        agreed: of these, at which it was the outcome.
    """

    texts: int = 1
    steps: int = 20
    undecided: int = 8
    compared: int = 8
    agreed: int = 7

    @property
    def undecided_share(self) -> float:
        """u, in (0, 1]."""
        return self.undecided / self.steps

    @property
    def agreement(self) -> float:
        """a, in (0, 1]."""
        return self.agreed / self.compared

    @property
    def length(self) -> float:
        """L, in tokens."""
        return self.steps / self.texts

    def seconds_a_token(self, pace: Pace, width: int) -> dict[str, float]:
        """Strategy → what a token is expected to take, behind an image-free prompt of so many tokens."""
        needed = 1 - (1 - self.undecided_share) ** self.length
        late = needed * (pace.reading(width) - pace.reading(1)) / self.length
        share, survival = self.undecided_share, 1 - self.undecided_share * (1 - self.agreement)
        ahead = [
            (n * pace.step + pace.reading(n)) / math.fsum(survival**i for i in range(n)) for n in range(1, LONGEST + 1)
        ]
        return {
            "skip": pace.step + share * pace.reading(1 / share) + late,
            "fuse": pace.together + pace.reading(width) / self.length,
            "speculate": min(ahead) + late,
        }


@dataclass
class Known:
    """What was found out about one model: paces by device, dtype and rows; habits by rows and settings."""

    paces: dict[Hashable, Pace] = field(default_factory=dict)
    habits: dict[Hashable, Habits] = field(default_factory=dict)


_KNOWN: WeakKeyDictionary[Any, Known] = WeakKeyDictionary()


def known_of(model: Any) -> Known:
    """What was found out about `model` in this process."""
    return _KNOWN.setdefault(model, Known())


def pace_of(reader: Reader, memo: Memo, sides: int) -> Pace:
    """The pace of a reader's model with as many rows as `memo` has; measured once, on copies of its cache.

    Args:
        reader: whose forwards.
        memo: prompts that were read.
        sides: how many sides `fuse` would read together, the image's among them.
    """
    paces = known_of(reader.model).paces
    key = (str(memo.logits.device), str(reader.model.dtype), len(memo.tokens), sides)
    if key not in paces:
        paces[key] = _measured(reader, memo, sides)
    return paces[key]


def worth_reading_ahead(pace: Pace, habits: Habits, undecided: list[bool]) -> bool:
    """Whether to choose one more token before the image-free side is asked about those that were chosen.

    A round of n tokens costs, beyond their steps, one forward over n and the steps that follow a rejected token. Going
    on lowers that cost a token until what one more token adds exceeds the mean so far.

    Args:
        pace: of the model.
        habits: how often tokens are kept.
        undecided: for each token of the round, whether the image-free side could change it.
    """
    count, kept, wasted = len(undecided), 1.0, 0.0
    for could_change in undecided:
        wasted += (1 - kept) * pace.step
        kept *= habits.agreement if could_change else 1.0
    more = (1 - kept) * pace.step + pace.reading(count + 1) - pace.reading(count)
    return count < LONGEST and more < (pace.reading(count) + wasted) / count


def _measured(reader: Reader, memo: Memo, sides: int) -> Pace:
    state = memo.state
    can_stack = isinstance(state, State) and state.can_stack
    taken: dict[str, list[float]] = {"step": [], "together": [], "chunk": []}
    for number in range(1 + ROUNDS):
        for name, work in (
            ("step", lambda: _read(reader, memo, 1, 1)),
            ("together", lambda: _read(reader, memo, 1, sides)),
            ("chunk", lambda: _read(reader, memo, CHUNK, 1)),
        ):
            if name != "together" or can_stack:
                seconds = _seconds(work, memo.logits.device)
                taken[name] += [seconds] if number else []  # the first round warms up
    return Pace(**{name: min(values, default=math.inf) for name, values in taken.items()})


def _read(reader: Reader, memo: Memo, count: int, sides: int) -> None:
    """One forward behind the memo's prompts, on a copy of its cache."""
    state: Any = memo.state
    state = state.fork() if sides == 1 else State.stacked([state] * sides)
    tokens = memo.mask.new_zeros(len(memo.tokens) * sides, count)
    mask = torch.cat([torch.cat([memo.mask] * sides), torch.ones_like(tokens)], dim=1)
    positions = torch.cat([memo.next_position] * sides, dim=-2) + torch.arange(count, device=tokens.device)
    reader.step(tokens, mask, positions, state)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
