"""What the parameters minimise, over several partitions of the pairs into batches, and its derivatives at one point.

    L(θ) = 1/R Σ_r Σ_{B in partition r} c(B) · loss(S_B) + δ/2 ‖θ − θ₀‖²

    c(B)   sum            1                          the paper's
           fixed          ½/|B| (CLIP), 1/|B| (SigLIP), of the batch as it was: what is removed leaves a gap
           renormalised   the same of the batch as it is: what is removed is not replaced, the mean is over the others

Source: arXiv:2411.11667; several partitions, since a pair's negatives are drawn anew in every epoch.
Knows: towers, pair losses. Does not know: linear systems, queries, files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from vdd.influence.encoders import Embeddings, Pairs, Parameters, Towers
from vdd.influence.loss import Method

Normaliser = Literal["sum", "fixed", "renormalised"]
NORMALISERS: tuple[Normaliser, ...] = ("sum", "fixed", "renormalised")
CELLS = 1 << 20
"""Logits that are held at once; a batch that has more is held alone."""


@dataclass(frozen=True)
class Batches:
    """Batches of one size.

    Attributes:
        places: (k, B) int64, positions of pairs.
        weight: (k,) what each batch's loss is multiplied by.
    """

    places: Tensor
    weight: Tensor

    @property
    def size(self) -> int:
        """Pairs a batch."""
        return self.places.shape[1]


def partition(count: int, batch_size: int, weigh: Callable[[int], float], generator: torch.Generator) -> list[Batches]:
    """Positions 0 to count − 1 in random batches, whose sizes differ by one at most and are at most `batch_size`."""
    order = torch.randperm(count, generator=generator)
    return _by_size([(part, weigh(len(part))) for part in torch.tensor_split(order, -(-count // batch_size))])


def _by_size(batches: Sequence[tuple[Tensor, float]]) -> list[Batches]:
    sizes = sorted({len(places) for places, _ in batches if len(places)})
    return [
        Batches(
            torch.stack([places for places, _ in batches if len(places) == size]),
            torch.tensor([weight for places, weight in batches if len(places) == size], dtype=torch.float64),
        )
        for size in sizes
    ]


@dataclass(frozen=True)
class Objective:
    """A loss as a function of the parameters, which are one flat vector θ here.

    Attributes:
        towers: encoders; their own parameters are where `start` is.
        pairs: what they are trained on.
        partitions: of the positions of `pairs`; equally weighted.
        normaliser: see the head of this file.
        masked: whether pairs with the same text are no negatives of each other.
        damping: δ ≥ 0.
        anchor: θ₀, (P,).
        share: of the pairs that these stand for; the loss is scaled up to all of them.
    """

    towers: Towers
    pairs: Pairs
    partitions: Sequence[Sequence[Batches]]
    normaliser: Normaliser
    masked: bool
    damping: float
    anchor: Tensor
    share: float = 1.0

    def at(self, theta: Tensor) -> Point:
        """The objective's derivatives at θ, (P,)."""
        return Point(self, theta)

    def drawn(self, partitions: int, batch_size: int, seed: int) -> Objective:
        """The objective over so many random partitions into batches of at most this size."""
        generator = torch.Generator().manual_seed(seed)
        parts = [
            partition(len(self.pairs), batch_size, lambda size: self.weigh(size) / self.share, generator)
            for _ in range(partitions)
        ]
        return replace(self, partitions=parts)

    def of_some(self, count: int, seed: int) -> Objective:
        """The objective of so many random pairs, scaled up to all; its partitions are yet to be drawn."""
        chosen = torch.randperm(len(self.pairs), generator=torch.Generator().manual_seed(seed))[:count]
        return replace(self, pairs=self.pairs.at(chosen), partitions=(), share=count / len(self.pairs))

    def without(self, leaving: Sequence[int]) -> Objective:
        """The objective of the others, in the batches as they are."""
        return replace(self, partitions=[self._kept(batches, leaving) for batches in self.partitions])

    def weigh(self, size: int) -> float:
        """c(B) of a batch of this size."""
        return 1.0 if self.normaliser == "sum" else self.towers.loss.factor / max(size, 1)

    def weight_after(self, weight: float, size: int) -> float:
        """c(B) of a batch of which so many are left."""
        return weight if self.normaliser != "renormalised" or not size else self.weigh(size)

    def mask(self, places: Tensor) -> Tensor:
        """(…, B, B) bool: which terms count in batches of these pairs, (…, B)."""
        own = torch.eye(places.shape[-1], dtype=torch.bool, device=places.device).expand(*places.shape, -1)
        if not self.masked:
            return torch.ones_like(own)
        alike = self.pairs.texts_alike[places]
        return own | (alike.unsqueeze(-1) != alike.unsqueeze(-2))

    def named(self, theta: Tensor) -> Parameters:
        """A flat vector as the towers' parameters."""
        return unflat(theta, self.towers.parameters)

    def _kept(self, groups: Sequence[Batches], leaving: Sequence[int]) -> list[Batches]:
        gone = torch.tensor(sorted(leaving), dtype=torch.int64)
        batches = []
        for group in groups:
            for places, weight in zip(group.places, group.weight.tolist(), strict=True):
                kept = places[~torch.isin(places, gone)]
                changed = len(kept) < len(places)
                batches.append((kept, self.weight_after(weight, len(kept)) if changed else weight))
        return _by_size(batches)


def flat(parameters: Parameters) -> Tensor:
    """Named tensors as one vector, in their order."""
    return torch.cat([value.reshape(-1) for value in parameters.values()])


def unflat(theta: Tensor, like: Parameters) -> Parameters:
    """The inverse of `flat`: a vector as tensors of these names and shapes."""
    pieces = theta.split([value.numel() for value in like.values()])
    return {name: piece.view(value.shape) for (name, value), piece in zip(like.items(), pieces, strict=True)}


class Point:
    """An objective at one θ."""

    def __init__(self, objective: Objective, theta: Tensor) -> None:
        self.objective, self.theta = objective, theta
        self.named = objective.named(theta)

    @cached_property
    def embeddings(self) -> Embeddings:
        """Every pair's."""
        return self.objective.towers.embed(self.objective.pairs, self.named)

    def value(self) -> float:
        """The objective."""
        loss, total = self.objective.towers.loss, 0.0
        for batches, logits, mask in self._batches():
            values = loss.values(logits, mask).sum(-1).double()
            total += float((values * batches.weight.to(values.device)).sum())
        return total / len(self.objective.partitions) + self._damped()

    def gradient(self) -> Tensor:
        """(P,): its derivative."""
        back = self.objective.towers.gradient(self.objective.pairs, self.named, self._by_embeddings)
        return flat(back) + self.objective.damping * (self.theta - self.objective.anchor)

    def gauss_newton(self, direction: Tensor) -> Tensor:
        """(P,): (Jᵀ ∇²_S L J + δ) v, positive semi-definite; J is the Jacobian of the logits."""
        towers, pairs = self.objective.towers, self.objective.pairs
        tangents = self.tangents(direction)
        total = _zeros_like(self.embeddings)
        for batches, logits, mask in self._batches():
            tangent = self._logit_tangents(batches.places, logits, tangents)
            change = towers.loss.curvature(logits, mask, tangent)
            self._pull(total, batches, logits, self._weighted(batches, change))
        return flat(towers.gradient(pairs, self.named, total)) + self.objective.damping * direction

    def hessian(self, direction: Tensor) -> Tensor:
        """(P,): (∇²L) v, damping included."""
        towers, pairs = self.objective.towers, self.objective.pairs
        tangents = self.tangents(direction)
        total = _zeros_like(self.embeddings)
        for batches, logits, mask in self._batches():
            tangent = self._logit_tangents(batches.places, logits, tangents)
            first = self._weighted(batches, towers.loss.gradient(logits, mask))
            change = self._weighted(batches, towers.loss.curvature(logits, mask, tangent))
            self._pull(total, batches, logits, change)
            self._pull_tangent(total, batches, first, tangents)
        along = self.objective.named(direction)
        bent = towers.gradient_tangent(pairs, self.named, along, self._by_embeddings)
        straight = towers.gradient(pairs, self.named, total)
        return flat(straight) + flat(bent) + self.objective.damping * direction

    def tangents(self, direction: Tensor) -> Embeddings:
        """The embeddings' derivatives along a direction, (P,)."""
        towers, pairs = self.objective.towers, self.objective.pairs
        return towers.tangents(pairs, self.named, self.objective.named(direction))

    def sweep(self, tangents: Embeddings, method: Method) -> tuple[Tensor, Tensor]:
        """⟨v, ∇[L(all) − L(without n)]⟩ for every pair n, for the direction v of these tangents.

        Returns:
            (R, N) as a positive, and (R, N) as a negative, for each partition as if it were the only one.
        """
        objective, loss = self.objective, self.objective.towers.loss
        shape = (len(objective.partitions), len(objective.pairs))
        pos, neg = (torch.zeros(shape, dtype=self.theta.dtype, device=self.theta.device) for _ in range(2))
        for number, groups in enumerate(objective.partitions):
            for batches, logits, mask in self._stacks(groups):
                tangent = self._logit_tangents(batches.places, logits, tangents)
                as_pos, as_neg = loss.removal(logits, mask, tangent, method)
                after = self._after(batches, 1)
                if objective.normaliser == "renormalised" and method != "positive_only":
                    whole = (loss.gradient(logits, mask) * tangent).sum((-1, -2))
                    before = batches.weight.to(whole)
                    as_neg = as_neg + ((before / after - 1) * whole).unsqueeze(-1)
                pos[number, batches.places] = as_pos * after.unsqueeze(-1)
                neg[number, batches.places] = as_neg * after.unsqueeze(-1)
        return pos, neg

    def removal(self, leaving: Sequence[int], method: Method) -> tuple[Tensor, Tensor]:
        """(P,) each: the gradient of L(all) − L(without these pairs), as positives and as negatives."""
        towers, pairs = self.objective.towers, self.objective.pairs
        totals = [_zeros_like(self.embeddings) for _ in range(2)]
        for _, batches, logits, parts in self._removals(leaving, method):
            for total, part in zip(totals, parts, strict=True):
                self._pull(total, batches, logits, part.unsqueeze(0) / len(self.objective.partitions))
        pos, neg = (flat(towers.gradient(pairs, self.named, total)) for total in totals)
        return pos, neg

    def removal_along(self, leaving: Sequence[int], tangents: Embeddings, method: Method) -> tuple[Tensor, Tensor]:
        """(R,) each: ⟨v, ∇[L(all) − L(without these pairs)]⟩, as `sweep` has it for single ones."""
        found = torch.zeros(2, len(self.objective.partitions), dtype=self.theta.dtype, device=self.theta.device)
        for number, batches, logits, parts in self._removals(leaving, method):
            tangent = self._logit_tangents(batches.places, logits, tangents)[0]
            for which, part in enumerate(parts):
                found[which, number] += (part * tangent).sum()
        return found[0], found[1]

    def pair_figures(self) -> tuple[Tensor, Tensor]:
        """(N,) each: cosine of the pair's embeddings, and its own terms of the loss, the mean over partitions."""
        losses = torch.zeros(len(self.objective.pairs), dtype=self.theta.dtype, device=self.theta.device)
        for batches, logits, mask in self._batches():
            values = self.objective.towers.loss.values(logits, mask)
            losses.index_add_(0, batches.places.reshape(-1).to(losses.device), values.reshape(-1))
        cosine = (self.embeddings.texts * self.embeddings.images).sum(-1)
        return cosine, losses / len(self.objective.partitions)

    @cached_property
    def _by_embeddings(self) -> Embeddings:
        """The loss's derivatives by the embeddings, without the damping."""
        total = _zeros_like(self.embeddings)
        for batches, logits, mask in self._batches():
            slope = self.objective.towers.loss.gradient(logits, mask)
            self._pull(total, batches, logits, self._weighted(batches, slope))
        return total

    def _damped(self) -> float:
        return 0.5 * self.objective.damping * float((self.theta - self.objective.anchor).double().square().sum())

    def _removals(
        self, leaving: Sequence[int], method: Method
    ) -> Iterator[tuple[int, Batches, Tensor, tuple[Tensor, Tensor]]]:
        """Of every batch that some leave: its partition, itself, logits (1, B, B), and what leaves, by each logit."""
        loss = self.objective.towers.loss
        gone = torch.tensor(sorted(leaving), dtype=torch.int64)
        for number, groups in enumerate(self.objective.partitions):
            for group in groups:
                for place in torch.isin(group.places, gone).any(-1).nonzero().flatten().tolist():
                    batches = Batches(group.places[place : place + 1], group.weight[place : place + 1])
                    flags = torch.isin(batches.places[0], gone)
                    mask = self.objective.mask(batches.places).to(self.theta.device)
                    logits = self._logits(batches.places)
                    pos, neg = loss.removal_gradient(logits[0], mask[0], flags.to(mask.device), method)
                    after = float(self._after(batches, int(flags.sum())))
                    if method != "positive_only":
                        neg = neg + (float(batches.weight) / after - 1) * loss.gradient(logits[0], mask[0])
                    yield number, batches, logits, (pos * after, neg * after)

    def _after(self, batches: Batches, leaving: int) -> Tensor:
        """(k,): what the loss of each batch is multiplied by once so many have left it."""
        left = [self.objective.weight_after(weight, batches.size - leaving) for weight in batches.weight.tolist()]
        return torch.tensor(left, dtype=self.theta.dtype, device=self.theta.device)

    def _batches(self) -> Iterator[tuple[Batches, Tensor, Tensor]]:
        for groups in self.objective.partitions:
            yield from self._stacks(groups)

    def _stacks(self, groups: Sequence[Batches]) -> Iterator[tuple[Batches, Tensor, Tensor]]:
        """As many batches at once as `CELLS` allows, with their logits and masks."""
        for group in groups:
            count = max(CELLS // group.size**2, 1)
            for start in range(0, len(group.places), count):
                some = slice(start, start + count)
                batches = Batches(group.places[some], group.weight[some])
                yield batches, self._logits(batches.places), self.objective.mask(batches.places).to(self.theta.device)

    def _logits(self, places: Tensor) -> Tensor:
        scale, bias = self.embeddings.joint
        texts, images = self.embeddings.texts[places], self.embeddings.images[places]
        return scale * (texts @ images.mT) + bias

    def _logit_tangents(self, places: Tensor, logits: Tensor, tangents: Embeddings) -> Tensor:
        """Ṡ = scale˙ · cos + scale · cos˙ + bias˙."""
        scale, bias = self.embeddings.joint
        turning = tangents.texts[places] @ self.embeddings.images[places].mT
        turning += self.embeddings.texts[places] @ tangents.images[places].mT
        return tangents.joint[0] / scale * (logits - bias) + scale * turning + tangents.joint[1]

    def _weighted(self, batches: Batches, values: Tensor) -> Tensor:
        return values * (batches.weight.to(values) / len(self.objective.partitions))[:, None, None]

    def _pull(self, total: Embeddings, batches: Batches, logits: Tensor, by: Tensor) -> None:
        """Add to `total` the derivatives by the embeddings that follow from those by the logits, `by`."""
        scale, bias = self.embeddings.joint
        places = batches.places.reshape(-1).to(by.device)
        texts, images = self.embeddings.texts[batches.places], self.embeddings.images[batches.places]
        total.texts.index_add_(0, places, (scale * (by @ images)).flatten(0, 1))
        total.images.index_add_(0, places, (scale * (by.mT @ texts)).flatten(0, 1))
        total.joint.add_(torch.stack([(by * (logits - bias)).sum() / scale, by.sum()]))

    def _pull_tangent(self, total: Embeddings, batches: Batches, by: Tensor, tangents: Embeddings) -> None:
        """Add to `total` how `_pull` of a fixed `by` changes along the tangents."""
        scale = self.embeddings.joint[0]
        places = batches.places.reshape(-1).to(by.device)
        texts, images = self.embeddings.texts[batches.places], self.embeddings.images[batches.places]
        text_tangents, image_tangents = tangents.texts[batches.places], tangents.images[batches.places]
        growing = tangents.joint[0]
        total.texts.index_add_(0, places, (by @ (growing * images + scale * image_tangents)).flatten(0, 1))
        total.images.index_add_(0, places, (by.mT @ (growing * texts + scale * text_tangents)).flatten(0, 1))
        turning = text_tangents @ images.mT + texts @ image_tangents.mT
        total.joint[0] += (by * turning).sum()


def _zeros_like(embeddings: Embeddings) -> Embeddings:
    return Embeddings(*(torch.zeros_like(part) for part in (embeddings.texts, embeddings.images, embeddings.joint)))
