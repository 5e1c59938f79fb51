"""Two small problems at their minimum, on which influence can be held against leaving pairs out and training again.

    linear     two noisy linear views of one latent vector, linear heads, the pairs in batches of twelve
    embedded   the embedded CLIP's heads on captioned scenes of its world, in batches of 64

In both a share of the texts is exchanged between pairs.

Source: this project's own; scenes: `vdd.toy`.
Knows: towers, the toy's scenes. Does not know: what is measured, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vdd.influence.ecif import ECIF
from vdd.influence.encoders import Embeddings, Pairs, Towers
from vdd.influence.query import Query, ValidationPairs, loss_of
from vdd.influence.refit import at_minimum, minimum
from vdd.influence.towers import HubTowers
from vdd.toy import load_clip
from vdd.toy.questions import IMAGES, TRAIN_PAIRS, TRAIN_PAIRS_START
from vdd.toy.scenes import Split, caption, render, scene_at

LINEAR_PAIRS, LATENT, IMAGE_WIDTH, TEXT_WIDTH = 72, 16, 24, 20
"""Fewer dimensions make poor problems: a mismatched pair is then best served by an embedding of length 0, where the
cosine has no derivative, and training ends nowhere."""
PERCENT = 20
"""Of the texts, exchanged, where nothing else is asked."""
LINEAR_DAMPING = 3000.0
"""δ; of 300, 1000 and 3000 the one that leaves the lowest loss on fresh pairs."""
EMBEDDED_DAMPING = 300.0
"""δ; of 100, 300 and 1000 the one by which most dev scenes are retrieved."""


@dataclass(frozen=True)
class Problem:
    """A model at its minimum with all that its influence is measured by.

    Attributes:
        name: "linear" or "embedded".
        ecif: at the minimum.
        query: the loss that removals change.
        mismatched: (N,) bool, whether a pair's text is another's.
        held_out: pairs that accuracy is measured on.
    """

    name: str
    ecif: ECIF
    query: Query
    mismatched: NDArray[np.bool_]
    held_out: Pairs

    def retrained(self, without: Sequence[int]) -> Tensor:
        """(P,): the minimum of the other pairs' objective, from the whole one's."""
        return minimum(self.ecif.objective.without(without), self.ecif)

    def loss(self, theta: Tensor) -> float:
        """The query's loss at θ, (P,)."""
        return loss_of(self.query, self.ecif.towers.with_parameters(self.ecif.objective.named(theta)))

    def accuracy(self, theta: Tensor) -> float:
        """Share of the held-out images and texts that find each other, in both directions."""
        at: Embeddings = self.ecif.towers.embed(self.held_out, self.ecif.objective.named(theta))
        cosines = at.texts @ at.images.T
        own = torch.arange(len(cosines))
        return float(torch.cat([cosines.argmax(0) == own, cosines.argmax(1) == own]).double().mean())


def linear(seed: int, *, percent: int = PERCENT, **options: Any) -> Problem:
    """The linear problem.

    Args:
        seed: of features, heads, exchange and batches.
        percent: of the texts, exchanged.
        **options: of `ECIF`.
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    seen, said = draw(LATENT, IMAGE_WIDTH), draw(LATENT, TEXT_WIDTH)

    def views(count: int) -> tuple[Tensor, Tensor]:
        latent = draw(count, LATENT)
        return latent @ seen + draw(count, IMAGE_WIDTH), latent @ said + draw(count, TEXT_WIDTH)

    images, texts = views(LINEAR_PAIRS)
    moved = exchange(LINEAR_PAIRS, percent, np.random.default_rng(seed))
    heads = []
    for view in (seen, said):
        head = nn.Linear(view.shape[1], LATENT, bias=False, dtype=torch.float64)
        head.weight = nn.Parameter(torch.linalg.pinv(view).T.contiguous())  # finds the latent vector but for the noise
        heads.append(head)
    towers = Towers(*heads, log_scale=nn.Parameter(torch.tensor(2.0, dtype=torch.float64)))
    ecif = at_minimum(
        towers, towers.pairs(images, texts[moved]), damping=LINEAR_DAMPING, batch_size=12, seed=seed, **options
    )
    query = ValidationPairs(*views(48), batch_size=12)
    return _prepared("linear", ecif, query, moved != np.arange(LINEAR_PAIRS), towers.pairs(*views(200)))


def embedded(seed: int, *, percent: int = PERCENT, pairs: int = TRAIN_PAIRS, **options: Any) -> Problem:
    """The embedded problem: pairs of training scenes behind those of the shipped training, query on dev, accuracy on
    test scenes.

    Args:
        seed: of the scenes, the exchange and the batches.
        percent: of the captions, exchanged.
        pairs: how many.
        **options: of `ECIF`.
    """
    hub = _embedded_towers()
    start = TRAIN_PAIRS_START + seed * pairs
    scenes = [scene_at("train", start + index) for index in range(pairs)]
    moved = exchange(pairs, percent, np.random.default_rng([percent, seed]))
    texts = [caption(scenes[place]) for place in moved]
    data = hub.pairs([render(scene) for scene in scenes], texts)
    heads = Towers(hub.model.visual_projection, hub.model.text_projection, log_scale=hub.model.logit_scale)
    ecif = at_minimum(heads, data, damping=EMBEDDED_DAMPING, batch_size=64, duplicates="masked", seed=seed, **options)
    mismatched = np.array([text != caption(scene) for text, scene in zip(texts, scenes, strict=True)])
    dev, test = _known_pairs("dev"), _known_pairs("test")
    return _prepared("embedded", ecif, ValidationPairs(dev.images, dev.texts, batch_size=64), mismatched, test)


def _prepared(name: str, ecif: ECIF, query: Query, mismatched: NDArray[np.bool_], held_out: Pairs) -> Problem:
    """A problem whose preconditioner is there: what `with_curvature` makes of it then has it too."""
    ecif.precondition(ecif.theta)
    return Problem(name, ecif, query, mismatched, held_out)


@cache
def _embedded_towers() -> HubTowers:
    return HubTowers(*load_clip(dtype=torch.float64))


@cache
def _known_pairs(split: Split) -> Pairs:
    """Scenes of a split with their own captions, as features."""
    scenes = [scene_at(split, index) for index in range(IMAGES[split])]
    return _embedded_towers().pairs([render(scene) for scene in scenes], [caption(scene) for scene in scenes])


def exchange(count: int, percent: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(count,): whose text each pair has: `percent` % have that of another of them, the others their own."""
    chosen = rng.permutation(count)[: round(count * percent / 100)]
    moved = np.arange(count)
    moved[chosen] = np.roll(chosen, 1)
    return moved
