"""Influence of pairs on a contrastive model, slowly and from the printed formulas, by recomputation.

    contrastive   L(B) = Σ_i [−log softmax(S_i*)_i − log softmax(S_*i)_i]
    sigmoid       L(B) = Σ_ij −log σ(z_ij S_ij),  z = 1 on the diagonal, −1 elsewhere
    objective     L(θ) = 1/R Σ_r Σ_B c(B) L(B) + δ/2 ‖θ − θ₀‖²,  c = 1, or ½/|B| (contrastive), 1/|B| (sigmoid)
    what leaves   c(B) L(B) − c(B∖D) L(B∖D), the second of the logits without D's rows and columns
    ζ             Σ_{n∈D} Pos_n + Σ_{i∉D} Σ_{n∈D} (P_in + Q_ni), in place of L(B) − L(B∖D)

Source: arXiv:2411.11667; losses arXiv:2103.00020 and arXiv:2303.15343. Everything is a scalar function of the
parameters or logits that torch differentiates; curvatures are whole matrices.
Knows: torch's automatic differentiation. Imports nothing of this project.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, hessian, jacrev

Batch = list[int]
Named = dict[str, Tensor]
FACTOR = {"contrastive": 0.5, "sigmoid": 1.0}


def everything(count: int) -> list[list[bool]]:
    """A mask that leaves no term out."""
    return [[True] * count for _ in range(count)]


def unlike(labels: Sequence[int]) -> list[list[bool]]:
    """A mask that leaves out other pairs with the same label."""
    return [[i == j or a != b for j, b in enumerate(labels)] for i, a in enumerate(labels)]


def positive(loss: str, logits: Tensor, mask: list[list[bool]], n: int) -> Tensor:
    """Pair n's own terms: −log P_nn − log Q_nn, or −log σ(S_nn)."""
    if loss == "sigmoid":
        return -nn.functional.logsigmoid(logits[n, n])
    row = torch.stack([logits[n, j] for j in range(len(logits)) if mask[n][j]])
    column = torch.stack([logits[i, n] for i in range(len(logits)) if mask[i][n]])
    return row.logsumexp(0) + column.logsumexp(0) - 2 * logits[n, n]


def batch_loss(loss: str, logits: Tensor, mask: list[list[bool]]) -> Tensor:
    """L(B); 0 of no pairs."""
    places = range(len(logits))
    total = sum((positive(loss, logits, mask, n) for n in places), logits.new_zeros(()))
    if loss == "sigmoid":
        for i in places:
            for j in places:
                if i != j and mask[i][j]:
                    total = total - nn.functional.logsigmoid(-logits[i, j])
    return total


def without(logits: Tensor, mask: list[list[bool]], leaving: Iterable[int]) -> tuple[Tensor, list[list[bool]]]:
    """The logits and the mask of the others."""
    kept = [n for n in range(len(logits)) if n not in set(leaving)]
    return logits[kept][:, kept], [[mask[i][j] for j in kept] for i in kept]


def weight(loss: str, normaliser: str, size: int) -> float:
    """c(B) of a batch of this size."""
    return 1.0 if normaliser == "sum" else FACTOR[loss] / max(size, 1)


def leaves(
    loss: str, logits: Tensor, mask: list[list[bool]], leaving: Sequence[int], normaliser: str, method: str
) -> tuple[Tensor, Tensor]:
    """What one batch loses with these pairs, as positives, and in all; scalars."""
    before = weight(loss, normaliser, len(logits))
    rest = len(logits) - len(leaving)
    after = weight(loss, normaliser, rest) if normaliser == "renormalised" and rest else before
    own = sum(positive(loss, logits, mask, n) for n in leaving)
    if method == "positive_only":
        return after * own, after * own
    whole = batch_loss(loss, logits, mask)
    if method == "zeta" and loss == "contrastive":
        rows = logits.masked_fill(~torch.tensor(mask), -math.inf).softmax(1)
        columns = logits.masked_fill(~torch.tensor(mask), -math.inf).softmax(0)
        staying = [i for i in range(len(logits)) if i not in leaving]
        gone = own + sum(rows[i, n] + columns[n, i] for i in staying for n in leaving)
    else:
        gone = whole - batch_loss(loss, *without(logits, mask, leaving))
    return after * own, after * gone + (before - after) * whole


@dataclass
class World:
    """Random encoders and pairs; in float64.

    Attributes:
        image, text: modules to (n, d).
        log_scale, bias: parameters.
        images, texts: (N, a), (N, b).
    """

    image: nn.Module
    text: nn.Module
    log_scale: nn.Parameter
    bias: nn.Parameter
    images: Tensor
    texts: Tensor

    def named(self) -> Named:
        """Every parameter by name."""
        parts = {"image": self.image, "text": self.text}
        inner = {f"{which}.{name}": p for which, part in parts.items() for name, p in part.named_parameters()}
        return {"log_scale": self.log_scale, "bias": self.bias} | inner

    def logits(self, at: Named, places: Sequence[int]) -> Tensor:
        """(B, B): S_ij = exp(log_scale) cos(text_i, image_j) + bias."""
        image, text = (
            functional_call(part, {k.removeprefix(f"{which}."): v for k, v in at.items() if k.startswith(which)}, given)
            for which, part, given in (
                ("image", self.image, (self.images[list(places)],)),
                ("text", self.text, (self.texts[list(places)],)),
            )
        )
        cosine = (text / text.norm(dim=-1, keepdim=True)) @ (image / image.norm(dim=-1, keepdim=True)).T
        return at["log_scale"].exp() * cosine + at["bias"]


def random_world(count: int, *, seed: int, width: int = 2, hidden: int = 2) -> World:
    """A `World` of so many unrelated pairs."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def encoder(given: int) -> nn.Module:
        layers = nn.Sequential(nn.Linear(given, hidden), nn.Tanh(), nn.Linear(hidden, width)).double()
        for parameter in layers.parameters():
            parameter.data = draw(*parameter.shape)
        return layers

    scale, bias = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (1.2, -0.3))
    return World(encoder(3), encoder(2), scale, bias, draw(count, 3), draw(count, 2))


def matched_world(count: int, *, seed: int, shuffled: int = 0) -> World:
    """Pairs of one hidden cause each and linear encoders; the texts of the first `shuffled` have changed places."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    causes = draw(count, 3)
    images = causes @ draw(3, 4) + 0.3 * draw(count, 4)
    texts = causes @ draw(3, 3) + 0.3 * draw(count, 3)
    texts[:shuffled] = texts[:shuffled].roll(1, 0)
    image, text = nn.Linear(4, 4, bias=False).double(), nn.Linear(3, 4, bias=False).double()
    image.weight.data, text.weight.data = draw(4, 4), draw(4, 3)
    scale, bias = (nn.Parameter(torch.tensor(value, dtype=torch.float64)) for value in (1.5, 0.0))
    return World(image, text, scale, bias, images, texts)


@dataclass
class Problem:
    """An objective over a world's flat parameters.

    Attributes:
        world: encoders and pairs.
        names: of the parameters in θ, in order.
        partitions: lists of batches.
        labels: equal where texts count as the same; None masks nothing.
        anchor: θ₀.
    """

    world: World
    names: Sequence[str]
    loss: str
    normaliser: str
    partitions: Sequence[Sequence[Batch]]
    labels: Sequence[int] | None
    damping: float
    anchor: Tensor

    def theta(self) -> Tensor:
        """(P,): the world's own."""
        return torch.cat([self.world.named()[name].detach().reshape(-1) for name in self.names])

    def at(self, theta: Tensor) -> Named:
        """θ by names."""
        known, found, start = {k: v.detach() for k, v in self.world.named().items()}, {}, 0
        for name in self.names:
            size = known[name].numel()
            found[name] = theta[start : start + size].view(known[name].shape)
            start += size
        return known | found

    def mask(self, batch: Batch) -> list[list[bool]]:
        """Of one batch."""
        return everything(len(batch)) if self.labels is None else unlike([self.labels[place] for place in batch])

    def value(self, theta: Tensor) -> Tensor:
        """The objective."""
        named, total = self.at(theta), 0.5 * self.damping * (theta - self.anchor).square().sum()
        for batches in self.partitions:
            for batch in batches:
                one = batch_loss(self.loss, self.world.logits(named, batch), self.mask(batch))
                total = total + weight(self.loss, self.normaliser, len(batch)) * one / len(self.partitions)
        return total

    def removed(self, theta: Tensor, pairs: Sequence[int], method: str) -> tuple[Tensor, Tensor]:
        """(R,) each: what every partition loses with these pairs, as positives, and in all."""
        named, found = self.at(theta), []
        for batches in self.partitions:
            own, total = theta.new_zeros(()), theta.new_zeros(())
            for batch in batches:
                leaving = [place for place, pair in enumerate(batch) if pair in pairs]
                if leaving:
                    logits = self.world.logits(named, batch)
                    more = leaves(self.loss, logits, self.mask(batch), leaving, self.normaliser, method)
                    own, total = own + more[0], total + more[1]
            found.append(torch.stack([own, total]))
        return tuple(torch.stack(found).T)

    def removal_gradients(self, pairs: Sequence[int], method: str) -> tuple[Tensor, Tensor]:
        """(R, P) each: `removed`'s derivatives at the world's own parameters."""
        return jacrev(lambda theta: self.removed(theta, pairs, method))(self.theta())

    def gradient(self) -> Tensor:
        """(P,): ∇L."""
        return jacrev(self.value)(self.theta())

    def hessian(self) -> Tensor:
        """(P, P): ∇²L."""
        return hessian(self.value)(self.theta())

    def gauss_newton(self) -> Tensor:
        """(P, P): Σ_B c(B)/R Jᵀ Λ J + δ I, with J of the logits and Λ the Hessian of the loss by them."""
        theta = self.theta()
        total = self.damping * torch.eye(len(theta), dtype=theta.dtype)
        for batches in self.partitions:
            for batch in batches:
                slopes = jacrev(lambda t, b=batch: self.world.logits(self.at(t), b).flatten())(theta)
                bend = logit_hessian(self.loss, self.world.logits(self.at(theta), batch).detach(), self.mask(batch))
                share = weight(self.loss, self.normaliser, len(batch)) / len(self.partitions)
                total = total + share * slopes.T @ bend @ slopes
        return total


def logit_hessian(loss: str, logits: Tensor, mask: list[list[bool]]) -> Tensor:
    """(B², B²): a batch loss's Hessian by its logits."""
    size = len(logits)
    return hessian(lambda flat: batch_loss(loss, flat.view(size, size), mask))(logits.flatten())


def along(function: Callable[[Tensor], Tensor], at: Tensor, tangent: Tensor) -> float:
    """The derivative of a scalar function along a direction, by reverse mode."""
    return float((jacrev(function)(at) * tangent).sum())


def pearson(a: Sequence[float], b: Sequence[float]) -> float:
    """Correlation of two lists."""
    x, y = ([value - math.fsum(values) / len(values) for value in values] for values in (a, b))
    return math.fsum(p * q for p, q in zip(x, y, strict=True)) / math.sqrt(
        math.fsum(p * p for p in x) * math.fsum(q * q for q in y)
    )


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Correlation of the ranks of two lists without ties."""
    return pearson(*([sorted(values).index(value) for value in values] for values in (a, b)))
