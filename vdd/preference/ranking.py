"""The best of several sampled answers, by what each owes to the image.

    n samples of a model → each once, by falling grounding reward; near-ties for the first place by log p(y | image)

Source: this project's design. Knows: a pipeline, the reward. Does not know: training, files.
"""

from __future__ import annotations

from dataclasses import dataclass

from vdd._check import real, whole
from vdd.asked import Asked
from vdd.config import Leg, SamplingConfig
from vdd.images import Picture, as_picture
from vdd.pipeline import Pipeline
from vdd.preference.reward import GroundingReward, Grounds


@dataclass(frozen=True)
class RankedAnswer:
    """One of the sampled answers.

    Attributes:
        text: without special tokens.
        reward: in nats.
        times: how often it was sampled.
        grounds: what the reward is made of.
    """

    text: str
    reward: float
    times: int
    grounds: Grounds


@dataclass(frozen=True)
class Ranked:
    """Sampled answers, best first, each once."""

    answers: tuple[RankedAnswer, ...]

    @property
    def best(self) -> str:
        """The text of the best."""
        return self.answers[0].text


def rerank(
    pipeline: Pipeline,
    image: Picture,
    question: str,
    *,
    n: int = 8,
    temperature: float = 1.0,
    top_p: float = 0.95,
    max_new_tokens: int = 64,
    debias: bool = False,
    seed: int = 0,
    reward: GroundingReward | None = None,
) -> Ranked:
    """Sample answers and rank them by how much they owe to the image.

        vdd.rerank(vdd.Pipeline(*vdd.toy.load()), "photo.jpg", "Describe the image.", n=8).best

    Args:
        pipeline: answers, and by default judges.
        image: one; as for the pipeline.
        question: without image placeholders.
        n: samples, ≥ 1; the image is read once for all where the family allows it.
        temperature, top_p, max_new_tokens: of sampling; temperature > 0.
        debias: whether the samples are drawn from the debiased distribution.
        seed: decides the samples.
        reward: another judge; by default `GroundingReward` of the pipeline's model and reference, over the mean, which
            ranked captions better on dev scenes (see DEFAULT_FLOOR).

    Returns:
        The answers by falling reward; of those within a tie of the highest, the most probable given the image leads.

    Raises:
        UserError: on a setting out of range, an image that cannot be read, or what the pipeline refuses.
    """
    whole("rerank", "n", n, low=1)
    real("rerank", "temperature", temperature, low=1e-6)
    sampling = SamplingConfig(temperature=temperature, top_p=top_p, max_new_tokens=max_new_tokens)
    if reward is None:
        shown = pipeline.debias.reference
        reward = GroundingReward(pipeline.model, pipeline.processor, reference=shown, over="mean")
    picture = as_picture(image, allow_urls=pipeline.allow_urls)
    pipeline.prompt(question)
    asked = Asked(pipeline, [picture] * n, [question] * n, [""] * n)
    leg = Leg("samples", pipeline.debias if debias else None, sampling)
    texts = asked.generate(leg, seed, pipeline.strategy)
    kinds = list(dict.fromkeys(texts))
    grounds = reward.grounds([picture] * len(kinds), [question] * len(kinds), kinds)
    ranked = [
        RankedAnswer(text, reward.value(own), texts.count(text), own) for text, own in zip(kinds, grounds, strict=True)
    ]
    ranked.sort(key=lambda one: -one.reward)
    level = [one for one in ranked if not reward.prefers(ranked[0].reward, one.reward)]
    level.sort(key=lambda one: -one.grounds.seen)
    return Ranked((*level, *ranked[len(level) :]))
