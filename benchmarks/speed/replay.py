"""A debiasing whose decisions are those that the embedded model made, whatever model runs.

Random weights make every token plausible and no two sides agree, so rates of skipping and of kept drafts measured on
them say nothing. Here all forwards and formulas run in full on the model at hand; only what they decide is replaced by
what was decided at the same step of a caption of the embedded model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vdd.generation import CalledLogitsProcessor, decoded
from vdd.pipeline import Pipeline
from vdd.processor import Prompt
from vdd.records import DecodingReport
from vdd.toy.questions import DESCRIBE
from vdd.toy.scenes import render, scene_at

CAPTION = 48


@dataclass(frozen=True)
class Decision:
    """At one step of a caption: whether several tokens were plausible, and whether the image side's choice stood."""

    undecided: bool
    agreed: bool


class Recording(CalledLogitsProcessor):
    """Keeps what was decided at each step of one caption."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, strategy="two-pass", **kwargs)
        self.decisions: list[Decision] = []

    def debiased(self, scores: Tensor, blind: Tensor, prompt: Prompt, step: int) -> Tensor:
        """As VDDLogitsProcessor."""
        outcome = super().debiased(scores, blind, prompt, step)
        undecided = bool(self.undecided(scores, prompt, step)[0])
        self.decisions.append(Decision(undecided, bool(scores.argmax() == outcome.argmax())))
        return outcome


class Replaying(CalledLogitsProcessor):
    """Runs everything, and decides as was recorded: row by row, step by step, over and over."""

    rows: Sequence[Sequence[Decision]] = ()

    def undecided(self, scores: Tensor, prompt: Prompt, step: int) -> Tensor:
        """As VDDLogitsProcessor."""
        super().undecided(scores, prompt, step)
        return torch.tensor([self._at(row, step).undecided for row in range(len(scores))], device=scores.device)

    def debiased(self, scores: Tensor, blind: Tensor, prompt: Prompt, step: int) -> Tensor:
        """As VDDLogitsProcessor; the image side's choice where it stood, the next best token where it did not."""
        outcome = super().debiased(scores, blind, prompt, step)
        best = scores.topk(2, dim=-1).indices
        places = torch.tensor([int(not self._at(row, step).agreed) for row in range(len(scores))], device=scores.device)
        return outcome.scatter(-1, best.gather(-1, places[:, None]), torch.inf)

    def _at(self, row: int, step: int) -> Decision:
        own = self.rows[row % len(self.rows)]
        return own[step % len(own)]


def recorded(model: Any, processor: Any, count: int, tokens: int) -> list[list[Decision]]:
    """What VDD-None decided in captions of so many scenes that break the habits of its world, in texts of `tokens`.

    The captions stand one behind the other; of the texts that they are cut into, the ones that are most like the mean,
    in how many steps were undecided and how many of these disagreed, come first.
    """
    pipeline, stream = Pipeline(model, processor), list[Decision]()
    for number in range(count):
        inputs = pipeline.inputs([render(scene_at("counterfactual", number))], [DESCRIBE])
        plugin = Recording(model, processor, inputs=inputs)
        call = {**inputs, "max_new_tokens": CAPTION}
        decoded(model, model.generate, call, pipeline.family, processor=processor, plugin=plugin)
        stream += plugin.decisions
    texts = [stream[start : start + tokens] for start in range(0, len(stream) - tokens + 1, tokens)] or [stream]
    counts = torch.tensor([[sum(one.undecided for one in text), sum(not one.agreed for one in text)] for text in texts])
    distances = (counts - counts.float().mean(dim=0)).abs().sum(dim=1).tolist()
    return [texts[place] for place in sorted(range(len(texts)), key=lambda place: distances[place])]


def replayed(
    model: Any, processor: Any, inputs: Any, rows: Sequence[Sequence[Decision]], strategy: str, **settings: Any
) -> DecodingReport:
    """One generation that decides as `rows`; its report."""
    plugin = Replaying(model, processor, inputs=inputs, strategy=strategy)
    plugin.rows = rows
    decoded(model, model.generate, {**inputs, **settings}, plugin.family, processor=processor, plugin=plugin)
    return plugin.report
