"""Whether debiasing helps this model on this task, and which kind of it does.

Every image is in one of K folds. For each fold the settings of each kind are chosen on the other folds and applied to
this one, so that every question has an answer by settings that did not see it (cross-fitting). A kind is recommended
where its accuracy is above plain greedy decoding by more than chance (paired bootstrap, clustered by image), and no
other kind is better than it by more than chance; of several the cheapest: a bias, then post-hoc, then VDD. Else nothing
is. Of every kind the answer is the more probable label, so that they differ by nothing else.

Knows: stored rows, legs, costs. Does not know: models, tables, the command line.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vdd._version import __version__
from vdd.calibrate import AffineCalibration, average_prior
from vdd.config import DebiasConfig, Leg, SamplingConfig, to_json
from vdd.data import write_atomic
from vdd.protocol import ALPHAS, BETAS, fitted_bias
from vdd.scoring.score import Difference, paired_bootstrap
from vdd.search import Stored, chances
from vdd.split import folds_by_image

Array = NDArray[np.float64]

FOLDS = 5
NOTHING, BIAS, POST_HOC, VDD = "nothing", "bias", "post-hoc", "vdd"
KINDS = (NOTHING, BIAS, POST_HOC, VDD)
"""From the cheapest."""


@dataclass(frozen=True)
class Option:
    """One kind of debiasing.

    Attributes:
        kind: of KINDS.
        leg: with the settings that all questions together choose.
        accuracy: of answers by settings that did not see them.
        gain: the same above plain greedy decoding, and its 95 % interval.
        right: (n,) those answers: 1 where right.
    """

    kind: str
    leg: Leg
    accuracy: float
    gain: Difference
    right: Array


@dataclass(frozen=True)
class Advice:
    """What to do.

    Attributes:
        kind: of KINDS.
        options: every kind, in their order.
    """

    kind: str
    options: Sequence[Option]

    @property
    def chosen(self) -> Option:
        """The option that is recommended."""
        return next(option for option in self.options if option.kind == self.kind)

    def in_words(self) -> str:
        """The advice, in sentences."""
        plain, chosen = self.options[0], self.chosen
        count = len(plain.right)
        tried = "; ".join(
            f"{_NAMES[o.kind]} {100 * o.gain.value:+.1f} [{100 * o.gain.low:+.1f}, {100 * o.gain.high:+.1f}]"
            for o in self.options[1:]
        )
        measured = (
            f"On {count} questions the label that plain decoding finds more probable is right in "
            f"{100 * plain.accuracy:.1f} %. Against it, in points, by settings that never saw the answers they are "
            f"scored on: {tried}."
        )
        if self.kind == NOTHING:
            return f"Nothing helps here beyond chance: leave this model as it is. {measured}"
        return f"Debiasing helps here: {100 * chosen.gain.value:+.1f} points. {_WHY[self.kind]} {measured}"


_WHY = {
    BIAS: "A mere bias towards one answer does; what is said without the image adds nothing to it beyond chance.",
    POST_HOC: "Dividing out what the model says without the image does; contrasting adds nothing to it beyond chance.",
    VDD: "Contrasting does; what is cheaper does not beyond chance, or less by more than chance.",
}
_NAMES = {NOTHING: "nothing", BIAS: "a bias", POST_HOC: "post-hoc", VDD: "VDD"}


def advise(stored: Stored, margins: Mapping[Any, float], *, folds: int = FOLDS, seed: int = 0) -> Advice:
    """Compare the kinds of debiasing on a labelled dev set.

    Args:
        stored: a finished run with plain greedy answers, labels yes and no.
        margins: question_id → log-odds of yes against no in plain decoding.
        folds: ≥ 2; there must be as many images.
        seed: of the folds and the bootstrap.
    """
    questions = stored.questions
    images = [question.image for question in questions]
    fold = np.array(folds_by_image(images, folds, seed=seed))
    positive = np.array([question.label == "yes" for question in questions])
    odds = np.array([margins[question.question_id] for question in questions])
    greedy = SamplingConfig()
    plain = np.where((odds > 0) == positive, 1.0, 0.0)
    tried: dict[str, tuple[list[Leg], Array]] = {
        POST_HOC: _post_hoc(stored, greedy),
        VDD: _contrasts(stored, greedy),
    }
    options = [Option(NOTHING, Leg("greedy"), float(plain.mean()), Difference(0.0, 0.0, 0.0), plain)]

    def add(kind: str, leg: Leg, right: Array) -> None:
        gain = paired_bootstrap(plain, right, images, rng=np.random.default_rng(seed))
        options.append(Option(kind, leg, float(right.mean()), gain, right))

    biased = np.zeros(len(questions))
    for others in (fold != number for number in range(folds)):
        moved = odds[~others] + fitted_bias(odds[others], positive[others])
        biased[~others] = (moved > 0) == positive[~others]
    add(BIAS, Leg("bias", bias=fitted_bias(odds, positive)), biased)
    for kind, (legs, right) in tried.items():
        outside = np.zeros(len(questions))
        for others in (fold != number for number in range(folds)):
            outside[~others] = right[right[:, others].mean(axis=1).argmax()][~others]
        add(kind, legs[int(right.mean(axis=1).argmax())], outside)
    return Advice(_recommended(options, images, seed), options)


def write_decoding(path: Path, advice: Advice) -> None:
    """Write vdd.json: the decoding that is recommended, and what that rests on; `vdd.config.load_leg` reads it."""
    body = {
        "vdd": __version__,
        "advice": advice.kind,
        "because": advice.in_words(),
        "decoding": to_json(advice.chosen.leg),
    }
    write_atomic(path, json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def _recommended(options: Sequence[Option], images: Sequence[str], seed: int) -> str:
    helping = [option for option in options if option.gain.low > 0]
    for option in helping:
        better = (
            paired_bootstrap(option.right, other.right, images, rng=np.random.default_rng(seed)).low > 0
            for other in helping
            if other is not option
        )
        if not any(better):
            return option.kind
    return NOTHING


def _post_hoc(stored: Stored, greedy: SamplingConfig) -> tuple[list[Leg], Array]:
    """Legs, and (legs, n) whether their answers are right."""
    seen = torch.from_numpy(stored.label_mass("image"))
    prior = {name: torch.from_numpy(stored.label_mass(name)) for name in stored.index}
    if "both" in stored.references:
        prior["both"] = average_prior(prior["none"], prior["unk"])
    legs = [Leg(f"posthoc-{name}", None, greedy, post_hoc=name) for name in stored.references]
    scores = [AffineCalibration.from_prior(prior[name])(seen).numpy() for name in stored.references]
    positive = np.array([question.label == "yes" for question in stored.questions])
    return legs, np.stack([((one[:, 0] >= one[:, 1]) == positive).astype(np.float64) for one in scores])


def _contrasts(stored: Stored, greedy: SamplingConfig) -> tuple[list[Leg], Array]:
    """Legs, and (legs, n) whether the label that is more probable under the contrast is the right one."""
    legs = [
        Leg("vdd", DebiasConfig(reference=reference, alpha=alpha, beta=beta), greedy)
        for reference in stored.references
        for alpha in ALPHAS
        for beta in BETAS
    ]
    found = chances(stored, [replace(leg, sampling=replace(greedy, temperature=1.0)) for leg in legs])
    positive = np.array([question.label == "yes" for question in stored.questions])
    left = found.sum(axis=-1) > 0  # a cut-off may leave no label: then the answer is wrong
    return legs, (((found[..., 0] > found[..., 1]) == positive) & left).astype(np.float64)
