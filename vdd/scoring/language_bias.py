"""Does a benchmark need its images? How well a model answers it blind, beside how well it answers it seeing.

    gain      = accuracy(argmax p) − accuracy(argmax p')          p given the image, p' given a reference in its place
    agreement = share of the questions with argmax p = argmax p'
    KL(p‖p')  = Σ p log p / p', in nats, mean over the questions

Where the gain's interval stays below NEEDED, the benchmark does not need its images, so far as this model can tell, and
debiasing will not help on it. Where the model does no better than a guess with its images, it can say nothing of the
benchmark.

Source: arXiv:2403.05262; intervals are this package's, clustered by image.
Knows: NumPy. Does not know: models, files, how the probabilities came about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd._check import UserError
from vdd.scoring.score import Difference, bootstrap_interval, paired_bootstrap

NEEDED = 0.05
"""Accuracy that images must add to count as needed: 5 points. This package's own line; the intervals are printed with
the verdict, so that every reader can draw another."""

FEW = 20
"""Images below which a bootstrap over them says too little for a verdict."""

VERDICTS: Mapping[str, str] = {
    "needed": "its images are needed: they add at least {low} points of accuracy (the line is at {wanted})",
    "not needed": "this benchmark does not need its images: they add at most {high} points of accuracy (the line is at "
    "{wanted}); debiasing will not help here",
    "undecided": "cannot be told: images add {low} to {high} points of accuracy (the line is at {wanted}); more "
    "questions would tell",
    "at chance": "nothing can be said: with its images this model does no better than guessing among {labels} labels",
    "too few": "cannot be told from questions about {images} of {few} images that it takes at least",
}
"""By verdict, in words."""

TINY = 1e-12
"""Probabilities of p' below it are raised to it in KL, which would be infinite."""


@dataclass(frozen=True)
class BlindFigures:
    """What one reference in the image's place comes to.

    Attributes:
        accuracy: blind.
        agreement: share of answers that stay the same.
        gain: accuracy with the image above it, with its 95 % interval; None where all questions are about one image.
        kl_labels: mean KL(p‖p') over the labels, in nats.
        kl_vocabulary: the same over the vocabulary; None where that is not known.
    """

    accuracy: float
    agreement: float
    gain: Difference | None
    kl_labels: float
    kl_vocabulary: float | None


@dataclass(frozen=True)
class LanguageBias:
    """How far one set of questions can be answered without its images.

    Attributes:
        questions, images: how many.
        labels: to choose between.
        accuracy: with the images, of the likeliest label.
        interval: of that, 95 %; None where all questions are about one image.
        majority: share of the commonest right answer: what a constant answer earns.
        blind: by reference.
        verdict: one of VERDICTS, by the reference with the highest accuracy.
    """

    questions: int
    images: int
    labels: int
    accuracy: float
    interval: tuple[float, float] | None
    majority: float
    blind: Mapping[str, BlindFigures]
    verdict: str

    @property
    def strongest(self) -> str:
        """The reference that is answered best; of equals the first."""
        return max(self.blind, key=lambda name: self.blind[name].accuracy)

    def in_words(self) -> str:
        """The verdict as a sentence, with its figures and its threshold."""
        gain = self.blind[self.strongest].gain or Difference(0.0, 0.0, 0.0)
        low, high = (f"{100 * end + 0.0:.1f}".replace("-", "−") for end in gain[1:])
        return VERDICTS[self.verdict].format(
            low=low, high=high, wanted=f"{100 * NEEDED:g}", labels=self.labels, images=self.images, few=FEW
        )


def language_bias(
    labels: Sequence[str],
    truth: Sequence[str],
    seen: ArrayLike,
    blind: Mapping[str, ArrayLike],
    images: Sequence[str],
    *,
    kl_vocabulary: Mapping[str, ArrayLike] | None = None,
    seed: int = 0,
    samples: int = 2000,
) -> LanguageBias:
    """The indicator on one set of questions.

    Args:
        labels: (L,) the answers to choose between, two at least.
        truth: (n,) right answers, of `labels`; n ≥ 1.
        seen: (n, L) probabilities given the image, ≥ 0; each row is normalised first.
        blind: reference → (n, L) the same in the image's place; one reference at least.
        images: (n,) what each question is about.
        kl_vocabulary: reference → (n,) KL(p‖p') over the vocabulary, in nats, where it is known.
        seed: of the bootstrap; every reference is held against the same resamples.
        samples: its resamples.

    Raises:
        UserError: on no questions or references, unequal lengths, a truth that is no label, or rows that are no
            probabilities.
    """
    n = len(truth)
    if not n or len(images) != n or not blind or len(labels) < 2:
        raise UserError(
            f"language_bias: {n} right answers, {len(images)} images, {len(blind)} references and {len(labels)} labels "
            "came; wanted one image for each question, one reference and two labels at least."
        )
    place = {label: number for number, label in enumerate(labels)}
    strange = next((label for label in truth if label not in place), None)
    if strange is not None:
        raise UserError(f"language_bias: right answer {strange!r}; wanted one of {', '.join(labels)}.")
    right = np.array([place[label] for label in truth])
    p = _shares("seen", seen, n, len(labels))
    said = p.argmax(axis=1)
    is_right = said == right
    several = len(set(images)) > 1
    figures = {}
    for name, values in blind.items():
        other = _shares(name, values, n, len(labels))
        answered = other.argmax(axis=1)
        gain = None
        if several:
            rng = np.random.default_rng(seed)
            gain = paired_bootstrap(answered == right, is_right, images, rng=rng, samples=samples)
        known = None if kl_vocabulary is None else kl_vocabulary.get(name)
        figures[name] = BlindFigures(
            float((answered == right).mean()),
            float((answered == said).mean()),
            gain,
            float(kl(p, other).mean()),
            None if known is None else float(np.mean(np.asarray(known, dtype=np.float64))),
        )
    interval = None
    if several:
        interval = bootstrap_interval(is_right, images, rng=np.random.default_rng(seed), samples=samples)
    found = LanguageBias(
        n,
        len(set(images)),
        len(labels),
        float(is_right.mean()),
        interval,
        max(Counter(truth).values()) / n,
        figures,
        "too few",
    )
    return found if interval is None or found.images < FEW else _judged(found, interval)


def kl(p: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) Σ p log(p / other) of (n, L) probabilities, in nats; 0 · log 0 is 0."""
    raised = np.maximum(other, TINY)
    logs = np.log(np.where(p > 0, p, 1.0)) - np.log(raised)
    return np.asarray(np.maximum((p * logs).sum(axis=1), 0.0))


def _judged(found: LanguageBias, interval: tuple[float, float]) -> LanguageBias:
    gain = found.blind[found.strongest].gain
    low, high = gain[1:] if gain is not None else (0.0, 0.0)
    if low >= NEEDED:
        verdict = "needed"
    elif interval[0] <= 1 / found.labels:
        verdict = "at chance"
    else:
        verdict = "not needed" if high < NEEDED else "undecided"
    return replace(found, verdict=verdict)


def _shares(name: str, values: ArrayLike, rows: int, columns: int) -> NDArray[np.float64]:
    table = np.asarray(values, dtype=np.float64)
    if table.shape != (rows, columns):
        raise UserError(f"language_bias: probabilities {name} are {table.shape}; wanted ({rows}, {columns}).")
    total = table.sum(axis=1, keepdims=True)
    if not (np.isfinite(table).all() and (table >= 0).all() and (total > 0).all()):
        raise UserError(
            f"language_bias: probabilities {name} have NaN, negative or all-zero rows; wanted probabilities."
        )
    return np.asarray(table / total)
