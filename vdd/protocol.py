"""The legs that a careful reader asks for, and their settings: chosen on images apart from those that are scored.

Always together: greedy decoding; each method greedily; T = 1; each method at T = 1; the cut-off alone at T = 1
(greedily it is greedy decoding itself); the prompt alone; a scalar bias fitted on dev; post-hoc debiasing alone and on
top of each method. Most of what contrastive decoding gains on POPE is matched by one of the controls
(arXiv:2504.10020). Sampling is drawn several times.

Knows: legs, stored rows, the runner. Does not know: scores, tables, the command line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd._check import UserError, whole
from vdd.config import PRIORS, DebiasConfig, Leg, SamplingConfig
from vdd.data import write_atomic
from vdd.images import ImageError, image_path
from vdd.job import Run
from vdd.pipeline import Pipeline
from vdd.records import Question
from vdd.run_folder import CHOSEN, DEV
from vdd.runner import ALONE, Progress, run
from vdd.search import Stored, chances, load_margins, load_stored, rightness
from vdd.split import split_by_image
from vdd.workers import Workers

ALPHAS = (1.0, 0.5, 1.5, 0.25, 2.0)
BETAS = (0.1, 0.2, 0.05, 0.5)
"""What is tried on dev; of equals the first wins, so that the paper's settings stay where they do not matter."""

PROMPT_ALONE = "Answer yes whenever that is possible."
"""The control that moves answers by words alone, after arXiv:2504.10020; the wording is this package's."""

REPEATS = 5
"""Draws of each sampling leg."""


@dataclass(frozen=True)
class Settings:
    """What the legs are run with.

    Attributes:
        debias: VDD's settings by reference.
        bias: added to the log-odds of the first label; None where none was fitted.
        dev: questions that these were chosen on; 0 where they were given.
    """

    debias: Mapping[str, DebiasConfig]
    bias: float | None = None
    dev: int = 0

    @classmethod
    def given(cls, references: Sequence[str], *, alpha: float, beta: float) -> Settings:
        """The same for every reference, nothing fitted."""
        return cls({name: DebiasConfig(reference=name, alpha=alpha, beta=beta) for name in references})

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"debias": {name: asdict(one) for name, one in self.debias.items()}, "bias": self.bias, "dev": self.dev}


def choose_settings(
    stored: Stored,
    margins: Mapping[Any, float],
    *,
    alphas: Sequence[float] = ALPHAS,
    betas: Sequence[float] = BETAS,
) -> Settings:
    """The settings that greedy answers to the dev questions are most accurate with.

    Args:
        stored: a finished run on the dev questions, labels yes and no.
        margins: question_id → log-odds of yes against no in plain decoding.
        alphas, betas: what is tried; of equals the first wins.
    """
    greedy = SamplingConfig(max_new_tokens=1)
    best: dict[str, DebiasConfig] = {}
    for reference in stored.references:
        tried = [DebiasConfig(reference=reference, alpha=alpha, beta=beta) for alpha in alphas for beta in betas]
        found = chances(stored, [Leg("", debias, greedy) for debias in tried])
        right = rightness(stored.questions, found).mean(axis=1)
        best[reference] = tried[int(right.argmax())]
    return Settings(best, fitted_bias(*_with_labels(stored.questions, margins)), len(stored.questions))


def chosen_on_dev(
    pipeline: Pipeline,
    job: Run,
    dev: Sequence[Question],
    out: Path,
    *,
    otherwise: Settings,
    dev_images: Path | None = None,
    alphas: Sequence[float] = ALPHAS,
    betas: Sequence[float] = BETAS,
    progress: Progress | None = None,
    workers: Workers = ALONE,
) -> Settings:
    """Answer the dev questions greedily, into OUT/dev, and choose by these answers.

    Args:
        pipeline: the model.
        job: the run on the test questions; all but its questions and legs is the dev run's too.
        dev: questions about none of the job's images.
        out: the job's folder.
        otherwise: what stays of VDD's settings where labels take several tokens of the model: then the bias is fitted.
        dev_images: their folder, where that is not the job's.
        alphas, betas: what is tried; of equals the first wins.
        progress: as for `vdd.runner.run`.
        workers: as for `vdd.runner.run`.

    Raises:
        UserError: where a picture is in dev and in test, by its content, or no dev image can be read.
    """
    folder = dev_images or job.images
    tested = set(digests(job.images, job.questions).values())
    both = sorted(name for name, content in digests(folder, dev).items() if content in tested)
    if both:
        raise UserError(
            f"eval: {len(both)} images are in the dev questions and in the test questions, {both[0]} among them; "
            "wanted others, or what is chosen has seen them."
        )
    greedy = Leg("greedy", None, SamplingConfig(max_new_tokens=1))
    asked = replace(job, questions=dev, images=folder, legs=[greedy])
    run(pipeline, asked, out / DEV, progress=progress, workers=workers)
    pipeline.memory.clear()  # what was said of dev texts would make the test run look cheaper than it is
    margins = load_margins(out / DEV, greedy)
    if not margins:
        raise UserError(
            f"eval: none of the {len(dev)} dev questions has a readable image in {folder}; wanted --dev-images, or "
            "--dev-share 0 to choose nothing."
        )
    if pipeline.labels(job.labels).single_token:
        return choose_settings(load_stored(out / DEV), margins, alphas=alphas, betas=betas)
    odds, positive = _with_labels(dev, margins)
    return replace(otherwise, bias=fitted_bias(odds, positive), dev=len(odds))


def write_settings(out: Path, settings: Settings) -> None:
    """Write OUT/chosen.json beside the run that was made with these settings."""
    write_atomic(out / CHOSEN, json.dumps(settings.to_json(), indent=1) + "\n")


def split_dev(
    questions: Sequence[Question], folder: Path, share: float, *, seed: int = 0
) -> tuple[list[Question], list[Question]]:
    """(dev, test) by `vdd.split`, a picture that has several names counting as one.

    Args:
        questions: about two pictures at least.
        folder: of their images.
        share: of the pictures that go to dev.
        seed: other seeds draw other pictures.
    """
    known = digests(folder, questions)
    return split_by_image(questions, share, seed=seed, key=lambda question: known.get(question.image, question.image))


def digests(folder: Path, questions: Sequence[Question]) -> dict[str, str]:
    """Name → digest of the questions' pictures, of those that can be read."""
    found: dict[str, str] = {}
    for name in dict.fromkeys(question.image for question in questions):
        with suppress(OSError, ImageError):
            found[name] = _digest(image_path(folder, name))
    return found


@cache
def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def fitted_bias(margins: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """A number b for which `margin + b > 0` is most often right: 0 where that is one, else midway between two margins.

    Args:
        margins: (n,) log-odds of yes against no.
        positive: (n,) whether yes is right.
    """
    order = np.argsort(margins)
    ranked, yes = margins[order], positive[order]
    right = np.concatenate([[yes.sum()], yes.sum() + np.cumsum(~yes) - np.cumsum(yes)])  # the k lowest answered no
    edges = np.concatenate([[ranked[0] - 1.0], (ranked[1:] + ranked[:-1]) / 2, [ranked[-1] + 1.0]])
    apart = np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])
    best = edges[apart & (right == right[apart].max())]
    plain = ((margins > 0) == positive).sum()
    return 0.0 if plain == right[apart].max() else float(-best[np.abs(best).argmin()])


def _with_labels(
    questions: Sequence[Question], margins: Mapping[Any, float]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Margins, and whether yes is right, of the questions that have an answer."""
    answered = [question for question in questions if question.question_id in margins]
    positive = np.array([question.label == "yes" for question in answered])
    return np.array([margins[question.question_id] for question in answered]), positive


def protocol_legs(
    settings: Settings,
    *,
    prompt: str = "{question}",
    max_new_tokens: int = 16,
    repeats: int = REPEATS,
    presets: Mapping[str, DebiasConfig] | None = None,
    custom_generate: Sequence[str] = (),
    labelled: bool = True,
) -> list[Leg]:
    """Every leg, greedy decoding first.

    Args:
        settings: VDD's, and the bias.
        prompt: the run's wording, to which the prompt-alone leg adds its sentence.
        max_new_tokens: of generated answers.
        repeats: draws of each sampling leg, ≥ 1.
        presets: further methods by name, such as those of `vdd.PRESETS`.
        custom_generate: further methods, as `Leg.custom_generate` names them.
        labelled: whether the answers are one of a few labels; free answers have no prior and no bias, and no sentence
            that asks for yes.
    """
    whole("eval", "repeats", repeats, low=1)
    greedy = SamplingConfig(max_new_tokens=max_new_tokens)
    hot = replace(greedy, temperature=1.0)
    main = next(iter(settings.debias))
    methods = {f"vdd-{name}": debias for name, debias in settings.debias.items()} | dict(presets or {})
    custom = {custom_name(one): one for one in custom_generate}
    clashing = sorted(custom.keys() & {"greedy", *methods})
    if clashing or len(custom) < len(custom_generate):
        name = clashing[0] if clashing else next(iter(custom))
        raise UserError(f"eval: a decoding method is called {name!r}, as another is; wanted other folder names.")
    legs = [Leg("greedy", None, greedy)]
    legs += [Leg(name, debias, greedy) for name, debias in methods.items()]
    if labelled:
        legs += [Leg(f"posthoc-{name}", None, greedy, post_hoc=name) for name in settings.debias]
        legs += [
            Leg(f"{name}+posthoc-{_on(debias, main)}", debias, greedy, post_hoc=_on(debias, main))
            for name, debias in methods.items()
        ]
        legs += [Leg("bias", None, greedy, bias=settings.bias)] if settings.bias is not None else []
        legs.append(Leg("prompt-alone", None, greedy, prompt=f"{prompt} {PROMPT_ALONE}"))
    legs += [Leg(name, None, greedy, custom_generate=one) for name, one in custom.items()]
    cutoff = DebiasConfig(alpha=0.0, beta=settings.debias[main].beta)
    sampled = [Leg("T=1", None, hot), Leg("cutoff-only@T=1", cutoff, hot)]
    for name, debias in methods.items():
        if name.startswith("vdd-") and name != f"vdd-{main}":
            continue
        sampled.append(Leg(f"{name}@T=1", debias, hot))
        if labelled:
            on = _on(debias, main)
            sampled.append(Leg(f"{name}+posthoc-{on}@T=1", debias, hot, post_hoc=on))
    return legs + [
        replace(leg, name=leg.name + (f".{draw + 1}" if draw else ""), repeat=draw)
        for leg in sampled
        for draw in range(repeats)
    ]


def custom_name(method: str) -> str:
    """A further method's name as a leg: its folder's, with what it is called with."""
    folder, *settings = method.split(",")
    return re.sub(r"[^\w@=+.-]+", "-", ",".join([Path(folder).name, *settings]).replace(",", "+"))


def _on(debias: DebiasConfig, main: str) -> str:
    """The reference whose prior is divided out on top of a method: its own where it has one."""
    return debias.reference if debias.reference in PRIORS else main
