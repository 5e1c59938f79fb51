"""Pairs sampled from the model while it trains, in place of those that came; each by chance, for itself.

    with probability `offline` the pair as it came, else y⁻ (and with "ranked" y⁺ too) from the model as it is

All chance comes from (seed, step, pair), never from a stream, so that a resumed training draws the same.

Source: arXiv:2407.02477, eq. 4 and §3.4 (online). Knows: models, pairs. Does not know: trainers, losses, files.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Protocol

from vdd.config import SamplingConfig
from vdd.families import tokenizer_of, unwrapped
from vdd.images import as_picture
from vdd.pipeline import Pipeline
from vdd.preference.alignment import AlignConfig
from vdd.preference.bdhs import BDHS
from vdd.preference.lent import resting
from vdd.preference.pairs import Pair, Refused, Row
from vdd.preference.similarity import Similarity

CUT = "a sample came to no end"
"""Why a pair is refused whose answer would teach to stop in the middle."""


class Source(Protocol):
    """Makes pairs anew."""

    def __call__(self, policy: Any, pairs: Sequence[Pair], seeds: Sequence[int]) -> list[Pair | Refused]:
        """One for each of `pairs`, in their order, from the model as it is; `seeds` decide all that is random."""


@dataclass
class FromBias:
    """The chosen answers stay; the rejected ones are what the model's own bias makes of them.

    Attributes:
        processor: the model's.
        config: rho, epsilon, iterations, variant, temperature, top_p, max_new_tokens.
        measure: what tells answers apart; None for the fallback.
    """

    processor: Any
    config: AlignConfig
    measure: Similarity | None = None
    _bias: BDHS | None = field(default=None, init=False)

    def __call__(self, policy: Any, pairs: Sequence[Pair], seeds: Sequence[int]) -> list[Pair | Refused]:
        """As `Source`."""
        model, how = unwrapped(policy), self.config
        if self._bias is None or self._bias.pipeline.model is not model:
            self._bias = BDHS(
                model,
                self.processor,
                rho=how.rho,
                epsilon=how.epsilon,
                iterations=how.iterations,
                variant=how.variant,
                embedder=self.measure,
                temperature=how.temperature,
                top_p=how.top_p,
                max_new_tokens=how.max_new_tokens,
                name="policy",
            )
        return self._bias.sample([Row(pair.id, pair.images, pair.prompt, pair.chosen) for pair in pairs], seeds=seeds)


@dataclass(frozen=True)
class Ranked:
    """Two samples of the model, the better one by the grounding reward of the model as it was before training.

    Attributes:
        processor: the model's.
        config: temperature, top_p, max_new_tokens.
        frozen: the model before training; None where that is the trained one without its adapters.
    """

    processor: Any
    config: AlignConfig
    frozen: Any = None

    def __call__(self, policy: Any, pairs: Sequence[Pair], seeds: Sequence[int]) -> list[Pair | Refused]:
        """As `Source`; the first of the seeds decides for all pairs, which are sampled together."""
        from vdd.preference.reward import GroundingReward

        images = [[as_picture(one) for one in pair.images] for pair in pairs]
        prompts = [pair.prompt for pair in pairs]
        how = SamplingConfig(
            temperature=self.config.temperature, top_p=self.config.top_p, max_new_tokens=self.config.max_new_tokens
        )
        pipeline = Pipeline(unwrapped(policy), self.processor)
        inputs = pipeline.inputs([*images, *images], [*prompts, *prompts])
        texts = pipeline.generate(inputs, debias=None, sampling=how, seed=seeds[0])
        drawn = list(zip(texts[: len(pairs)], texts[len(pairs) :], strict=True))
        found: list[Pair | Refused] = [
            Refused(pair.id, self._fault(both)) for pair, both in zip(pairs, drawn, strict=True)
        ]
        sound = [place for place, one in enumerate(found) if isinstance(one, Refused) and not one.reason]
        if not sound:
            return found
        with policy.disable_adapter() if self.frozen is None else nullcontext():
            judge = GroundingReward(unwrapped(policy) if self.frozen is None else self.frozen, self.processor)
            shown = [images[place] for place in sound for _ in range(2)]
            asked = [prompts[place] for place in sound for _ in range(2)]
            rewards = judge.score(shown, asked, [text for place in sound for text in drawn[place]])
        for number, place in enumerate(sound):
            first, second = rewards[2 * number : 2 * number + 2]
            better, worse = drawn[place] if first > second else drawn[place][::-1]
            if judge.prefers(max(first, second), min(first, second)):
                seed = seeds[0]
                found[place] = replace(
                    pairs[place], chosen=better, rejected=worse, source="ranked", rho=None, iteration=1, seed=seed
                )
            else:
                found[place] = Refused(pairs[place].id, "both samples owe as much to the image")
        return found

    def _fault(self, both: tuple[str, str]) -> str:
        """Why two samples make no pair; "" where they may."""
        tokenizer = tokenizer_of(self.processor)
        if not all(text.strip() for text in both):
            return "a sample is empty"
        if both[0] == both[1]:
            return "both samples are the same"
        lengths = [len(tokenizer(text, add_special_tokens=False).input_ids) for text in both]
        return CUT if max(lengths) >= self.config.max_new_tokens else ""


@dataclass(frozen=True)
class Drawn:
    """What is trained on now.

    Attributes:
        pairs: one for each that came, in their order.
        asked: how many were to be fresh.
        fresh: how many are.
        cut: how many are not as a sample came to no end.
    """

    pairs: list[Pair]
    asked: int = 0
    fresh: int = 0
    cut: int = 0


@dataclass
class Mixture:
    """Takes pairs as they came, or fresh; where none can be made, as they came.

    Attributes:
        source: makes fresh pairs; not asked where `offline` is 1.
        offline: the probability of taking a pair as it came.
        seed: of the choice and of the sampling.
        refusal: why the last pair could not be made.
    """

    source: Source | None
    offline: float
    seed: int
    refusal: str = field(default="", init=False)

    def __call__(self, policy: Any, pairs: Sequence[Pair], step: int) -> Drawn:
        """The pairs of one forward.

        Args:
            policy: the model that trains.
            pairs: as they came.
            step: the number of the update, of which each pair is drawn once.
        """
        seeds = [seed_of(self.seed, step, pair.id) for pair in pairs]
        places = [place for place, seed in enumerate(seeds) if random.Random(seed).random() >= self.offline]
        if not places or self.source is None:
            return Drawn(list(pairs))
        taken, cut, fresh = list(pairs), 0, 0
        with resting(policy):
            made = self.source(policy, [pairs[place] for place in places], [seeds[place] for place in places])
        for place, one in zip(places, made, strict=True):
            if isinstance(one, Pair):
                taken[place], fresh = one, fresh + 1
            else:
                self.refusal, cut = one.reason, cut + (one.reason == CUT)
        return Drawn(taken, len(places), fresh, cut)


def seed_of(*parts: int | str) -> int:
    """56 bits that stand for the parts."""
    return int.from_bytes(sha256(":".join(map(repr, parts)).encode()).digest()[:7], "big")
