"""What the embedded world asks a model before and after training, and what its answers are worth.

    random, popular, adversarial   POPE's questions: accuracy, share of "yes"
    colors                         the colour of every object that does not wear its typical one: accuracy
    captions                       CHAIRs, recall, mean length in words

Source: POPE (arXiv:2305.10355), CHAIR (arXiv:1809.02156); the questions are those of `vdd.toy.measure`, by greedy
decoding. Intervals of gains draw whole images, the same ones for both models.
Knows: the world's scenes, a pipeline. Does not know: training, files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from vdd.asked import Asked
from vdd.config import DebiasConfig, Leg, SamplingConfig
from vdd.pipeline import Pipeline
from vdd.scoring import chair
from vdd.scoring.score import Array, Difference, Statistic, mean, paired_bootstrap
from vdd.sets.captions import Caption, Vocabulary
from vdd.toy.questions import DESCRIBE, IMAGES, POPE_IMAGES, color_questions, image_name, pope_questions
from vdd.toy.scenes import OBJECTS, Negatives, Scene, render, scene_at

Place = Literal["dev", "test"]
Answers = dict[str, list[tuple[str, str, str]]]
"""Question set → (image, truth, what was said); the truth of a caption is its image's objects, parted by spaces."""

POPE: tuple[str, ...] = get_args(Negatives)
COLORS, CAPTIONS = "colors", "captions"
FIGURES: Mapping[str, tuple[str, str]] = {
    **{f"{kind}_accuracy": (kind, f"{kind} accuracy") for kind in POPE},
    "adversarial_yes": ("adversarial", "adversarial yes"),
    "counter_color": (COLORS, "counter-typical colour"),
    "chair_s": (CAPTIONS, "CHAIRs"),
    "recall": (CAPTIONS, "recall"),
}
"""Figure → the question set that it is of, and what tables call it; all in %."""
BATCH = 96
WORDS = Vocabulary({name: name for name in OBJECTS}, {})


def examine(
    pipeline: Pipeline,
    place: Place,
    *,
    debias: DebiasConfig | None = None,
    images: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Ask every question of a split, greedily; each image is read once for all its short questions.

    Args:
        pipeline: the model.
        place: "dev" to choose by, "test" to measure on.
        debias: None for plain answers.
        images: only the first so many; all by default.
        progress: called with questions answered, and questions in all.
    """
    scenes = [scene_at(place, index) for index in range(min(images or IMAGES[place], IMAGES[place]))]
    asked = questions(scenes, POPE_IMAGES[place])
    short = sorted({(image, text) for name, rows in asked.items() if name != CAPTIONS for image, text, _ in rows})
    long = [(image, DESCRIBE) for image, _, _ in asked[CAPTIONS]]
    drawn = {image_name(number): render(scene) for number, scene in enumerate(scenes)}
    said: dict[tuple[str, str], str] = {}
    for pairs, tokens in ((short, 4), (long, 48)):
        leg = Leg("exam", debias, SamplingConfig(max_new_tokens=tokens))
        for start in range(0, len(pairs), BATCH):
            part = pairs[start : start + BATCH]
            names = [image for image, _ in part]
            batch = Asked(pipeline, [drawn[name] for name in names], [text for _, text in part], names)
            said.update(zip(part, batch.generate(leg, 0, "auto"), strict=True))
            if progress is not None:
                progress(len(said), len(short) + len(long))
    return {name: [(image, truth, said[image, text]) for image, text, truth in rows] for name, rows in asked.items()}


def questions(scenes: Sequence[Scene], about: int) -> Answers:
    """Question set → (image, question, truth); POPE asks about the first `about` images."""
    sets: dict[str, list[dict[str, Any]]] = {kind: pope_questions(scenes[:about], kind) for kind in get_args(Negatives)}
    sets[COLORS] = color_questions(scenes, typical=False)
    found = {name: [(row["image"], row["text"], row["label"]) for row in rows] for name, rows in sets.items()}
    found[CAPTIONS] = [(image_name(n), DESCRIBE, " ".join(scene.objects)) for n, scene in enumerate(scenes)]
    return found


def figures(answers: Answers) -> dict[str, float]:
    """The FIGURES of one model's answers, in %, and the captions' mean length in `words`."""
    found = {}
    for name in FIGURES:
        rows, statistic = _counted(answers, name)
        found[name] = 100 * float(statistic(rows.sum(axis=0, keepdims=True), np.array([float(len(rows))]))[0])
    texts = [text for _, _, text in answers[CAPTIONS]]
    found["words"] = sum(len(text.split()) for text in texts) / len(texts)
    return found


def gain(before: Answers, after: Answers, name: str, *, seed: int = 0, samples: int = 2000) -> Difference:
    """By how much a figure rose from one model's answers to another's, in points of %, with its 95 % interval.

    Args:
        before, after: to the same questions.
        name: one of FIGURES.
        seed: of the bootstrap.
        samples: of it.
    """
    (first, statistic), (second, _) = _counted(before, name), _counted(after, name)
    images = [image for image, _, _ in before[FIGURES[name][0]]]
    rng = np.random.default_rng([seed, 71])
    found = paired_bootstrap(first, second, images, rng=rng, samples=samples, statistic=statistic)
    return Difference(*(100 * value for value in found))


def _counted(answers: Answers, name: str) -> tuple[Array, Statistic]:
    """What each question adds to a figure, and how the figure comes of the sums."""
    rows = answers[FIGURES[name][0]]
    if FIGURES[name][0] == CAPTIONS:
        objects = {image: frozenset(truth.split()) for image, truth, _ in rows}
        counts = chair.outcomes([Caption(image, text) for image, _, text in rows], objects, WORDS)
        return counts.astype(np.float64), chair.statistic(name)
    yes = name.endswith("_yes")
    return np.array([float(said == ("yes" if yes else truth)) for _, truth, said in rows]), mean
