"""How well scores find pairs whose caption is another's: influence beside what costs nothing.

    AUROC           the chance that a shuffled pair is more suspicious than another, a tie counting half
    precision@k     the share of shuffled ones among the k most suspicious; of ties at the edge, the expected share

A perfect influence estimate is not automatically a good detector: it says what a pair does to the validation loss, and
a shuffled pair may do little.

Source: arXiv:2411.11667 (misalignment detection); CLIP score: arXiv:2104.08718.
Knows: numbers. Does not know: models, files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vdd._check import UserError
from vdd.scoring.score import auroc

INFLUENCE, CLIP_SCORE, PAIR_LOSS, GRADIENT, CHANCE = (
    "influence", "CLIP score", "pair loss", "gradient product", "chance",
)  # fmt: skip
DEPTHS = (10, 50)
"""k of precision@k, beside the number of shuffled pairs."""
ADVICE = "a perfect influence estimate is not automatically a good detector"


@dataclass(frozen=True)
class Detector:
    """One way to find shuffled pairs.

    Attributes:
        name: of the score.
        auroc: NaN where all pairs are of one kind.
        precision: by k.
    """

    name: str
    auroc: float
    precision: Mapping[int, float]

    def to_json(self) -> dict[str, object]:
        """As JSON has it; NaN is null."""
        area = None if math.isnan(self.auroc) else self.auroc
        return {"detector": self.name, "auroc": area, "precision": {str(k): v for k, v in self.precision.items()}}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Detector:
        """From what `to_json` gave."""
        area = math.nan if record["auroc"] is None else record["auroc"]
        return cls(record["detector"], area, {int(k): value for k, value in record["precision"].items()})


def suspicions(total: Tensor, clip_score: Tensor, pair_loss: Tensor, gradient: Tensor) -> dict[str, Tensor]:
    """(N,) each, higher = more suspicious: harmful by influence or by the gradient alone, unlike, badly learnt."""
    return {INFLUENCE: -total, CLIP_SCORE: -clip_score, PAIR_LOSS: pair_loss, GRADIENT: -gradient}


def ranks(suspicion: Tensor) -> list[int]:
    """(N,): 1 for the most suspicious; of ties the earlier one."""
    return (suspicion.argsort(descending=True, stable=True).argsort() + 1).tolist()


def detectors(suspicion: Mapping[str, Tensor], shuffled: Sequence[bool | None]) -> list[Detector]:
    """Every score as a detector, and chance; pairs of which it is not known whether they are shuffled do not count.

    Raises:
        UserError: where it is known of none.
    """
    known = [place for place, truth in enumerate(shuffled) if truth is not None]
    if not known:
        raise UserError("influence: no pair says whether it is shuffled; wanted a column `shuffled`.")
    truths = torch.tensor([bool(shuffled[place]) for place in known])
    share, count = float(truths.double().mean()), int(truths.sum())
    depths = [k for k in sorted({*DEPTHS, count}) if 0 < k <= len(known)]
    found = []
    for name, values in suspicion.items():
        some = values[torch.tensor(known)].double()
        precision = {k: _precision(some, truths, k) for k in depths}
        found.append(Detector(name, auroc(some.numpy(), truths.numpy()), precision))
    area = 0.5 if 0 < share < 1 else math.nan
    return [*found, Detector(CHANCE, area, dict.fromkeys(depths, share))]


def in_words(found: Sequence[Detector]) -> str:
    """Which detector was best, and what that does not say."""
    real = [one for one in found if one.name != CHANCE]
    if any(math.isnan(one.auroc) for one in real):
        return "all pairs are of one kind, shuffled or not: there is nothing to tell apart"
    best = max(real, key=lambda one: one.auroc)
    mine = next(one for one in real if one.name == INFLUENCE)
    if best is mine:
        return f"best detector here: {best.name}, AUROC {best.auroc:.3f}"
    return (
        f"best detector here: {best.name}, AUROC {best.auroc:.3f}; influence reached {mine.auroc:.3f}; {ADVICE}: it "
        "says what a pair does to the validation loss, and a shuffled pair may do little"
    )


def _precision(values: Tensor, truths: Tensor, k: int) -> float:
    edge = values.sort(descending=True).values[k - 1]
    above, ties = values > edge, values == edge
    among_ties = float(truths[ties].double().mean())
    return (float(truths[above].sum()) + (k - int(above.sum())) * among_ties) / k
