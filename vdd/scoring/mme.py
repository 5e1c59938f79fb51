"""MME: 14 subtasks of yes/no questions, two to an image.

    subtask = 100·acc + 100·acc+     acc: questions right / questions     acc+: images with both right / images

    perception = Σ of its ten subtasks, ≤ 2000     cognition = Σ of its four, ≤ 800
    hallucination = existence + count + position + color, ≤ 800

Source: MME's calculation.py (arXiv:2306.13394), met to the last digit. An answer is what its first four characters say,
in lower case: "yes" where they hold it, else "no" where they hold that ("Not", "know"), else "other", which is wrong.
The sums are over the subtasks that came; the signature names the missing ones.

Knows: questions with the ids of vdd.sets.mme, texts. Does not know: files, how answers were generated, tensors.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd._check import UserError, choice
from vdd.records import Question, Score
from vdd.scoring.score import Array, Statistic, interval, resample, signature
from vdd.scoring.words import LABELS, Prediction
from vdd.sets.mme import COGNITION, PERCEPTION, SUBTASKS, place_of

HALLUCINATION = ("existence", "count", "position", "color")
GROUPS: Mapping[str, tuple[str, ...]] = {
    "perception": PERCEPTION,
    "cognition": COGNITION,
    "hallucination": HALLUCINATION,
}
"""What is summed up, by name."""

_PREFIX = 4  # calculation.py


def prediction(text: str) -> Prediction:
    """What an answer counts as.

    >>> prediction("Yes, it is."), prediction("Nothing."), prediction("It is yes")
    ('yes', 'no', 'other')
    """
    start = text.lower()[:_PREFIX]
    if "yes" in start:
        return "yes"
    return "no" if "no" in start else "other"


def missing(questions: Sequence[Question]) -> tuple[str, ...]:
    """The subtasks that no question belongs to, in MME's order."""
    came = {place_of(question.question_id)[0] for question in questions}
    return tuple(subtask for subtask in SUBTASKS if subtask not in came)


def outcomes(questions: Sequence[Question], texts: Sequence[str | None]) -> NDArray[np.int64]:
    """One row of counts per question: the rows that every figure and its bootstrap come from.

    Args:
        questions: two to an image, labels "yes" or "no".
        texts: their answers in the same order; None is wrong.

    Returns:
        (n, 14, 3): by SUBTASKS; asked, right, and, on the image's first question, both right.

    Raises:
        UserError: on unequal lengths, another label or id, or an image with other than two questions.
    """
    if len(texts) != len(questions):
        raise UserError(f"outcomes: {len(texts)} texts for {len(questions)} questions; wanted one for each.")
    places = [place_of(question.question_id) for question in questions]
    odd = next(((place, count) for place, count in Counter(places).items() if count != 2), None)
    if odd is not None:
        (subtask, image), count = odd
        raise UserError(f"outcomes: image {image!r} of {subtask} has {count} questions; wanted two. Is a line missing?")
    strange = next((question for question in questions if question.label not in LABELS), None)
    if strange is not None:
        raise UserError(f"question {strange.question_id!r}: label is {strange.label!r}; wanted yes or no.")
    table = np.zeros((len(questions), len(SUBTASKS), 3), dtype=np.int64)
    rows, columns = np.arange(len(questions)), [SUBTASKS.index(subtask) for subtask, _ in places]
    table[rows, columns, 0] = 1
    first: dict[tuple[str, str], tuple[int, bool]] = {}
    for row, (place, column, question, text) in enumerate(zip(places, columns, questions, texts, strict=True)):
        right = text is not None and prediction(text) == question.label
        table[row, column, 1] = right
        earlier, was_right = first.setdefault(place, (row, right))
        if earlier != row:
            table[earlier, column, 2] = right and was_right
    return table


def figures(counts: ArrayLike) -> dict[str, Array]:
    """The figures of a table of counts, or of many at once.

    Args:
        counts: (…, 14, 3), sums of `outcomes`.

    Returns:
        (…) each: perception in [0, 2000], cognition and hallucination in [0, 800]; each subtask's score in [0, 200],
        its `…_acc` and `…_acc_plus` in [0, 1]. A subtask without questions scores 0.
    """
    table = np.asarray(counts, dtype=np.float64)
    asked, right, both = np.moveaxis(table, -1, 0)
    acc = np.divide(right, asked, out=np.zeros(asked.shape), where=asked != 0)
    acc_plus = np.divide(both, asked / 2, out=np.zeros(asked.shape), where=asked != 0)
    scores = {name: 100 * acc[..., i] + 100 * acc_plus[..., i] for i, name in enumerate(SUBTASKS)}
    zero = np.zeros(asked.shape[:-1])
    values = {group: sum((scores[name] for name in names), start=zero) for group, names in GROUPS.items()}
    for i, name in enumerate(SUBTASKS):
        values |= {name: scores[name], f"{name}_acc": acc[..., i], f"{name}_acc_plus": acc_plus[..., i]}
    return values


FIGURES = tuple(figures(np.zeros((len(SUBTASKS), 3))))
"""The names of the figures."""


def statistic(name: str) -> Statistic:
    """A figure, for `bootstrap_interval` and `paired_bootstrap` on rows made by `outcomes`.

    Raises:
        UserError: if it is none of FIGURES.
    """
    choice("statistic", "figure", name, FIGURES)
    return lambda totals, n: figures(totals)[name]


def _resampled(
    rows: NDArray[np.int64], places: Sequence[tuple[str, str]], rng: np.random.Generator, samples: int
) -> Array:
    """(samples, 14, 3) sums over resamples of the images within each subtask, so that none is ever left without any."""
    totals = np.zeros((samples, *rows.shape[1:]))
    for subtask in SUBTASKS:
        own = [row for row, (name, _) in enumerate(places) if name == subtask]
        images = [places[row] for row in own]
        if len(set(images)) > 1:
            totals += resample(rows[own], images, rng=rng, samples=samples)[0]
        else:
            totals += rows[own].sum(axis=0)
    return totals


def score_mme(
    questions: Sequence[Question],
    texts: Sequence[str | None],
    *,
    decoding: str = "",
    rng: np.random.Generator | None = None,
    samples: int = 2000,
) -> Score:
    """Score answers to MME's questions.

    Args:
        questions: with ids that `place_of` understands, two to an image, labels "yes" or "no"; at least one subtask.
        texts: their answers in the same order, None where a question stayed unanswered.
        decoding: how the answers came about, as `Leg.signature()` says it; "" where that is unknown.
        rng: with it, 95 % bootstrap intervals for every figure, whole images drawn within each subtask; there are none
            for a single image.
        samples: resamples of these, ≥ 1.

    Returns:
        Values: the FIGURES of the subtasks that came and of the sums that have one of them; n, other and unanswered
        (None), which are both wrong; each subtask's `…_other`.

    Raises:
        UserError: without questions, and as `outcomes` does.
    """
    if not questions:
        raise UserError("score_mme: no questions; wanted at least one subtask.")
    rows = outcomes(questions, texts)
    counts = rows.sum(axis=0)
    came = [subtask for subtask, (asked, _, _) in zip(SUBTASKS, counts, strict=True) if asked]
    absent = [subtask for subtask in SUBTASKS if subtask not in came]
    names = [group for group, subtasks in GROUPS.items() if set(came).intersection(subtasks)]
    names += [f"{subtask}{part}" for subtask in came for part in ("", "_acc", "_acc_plus")]
    observed = figures(counts)
    values: dict[str, float] = {name: float(observed[name]) for name in names}
    places = [place_of(question.question_id) for question in questions]
    other = Counter(
        subtask
        for (subtask, _), text in zip(places, texts, strict=True)
        if text is not None and prediction(text) == "other"
    )
    values |= {"n": len(questions), "other": other.total(), "unanswered": sum(text is None for text in texts)}
    values |= {f"{subtask}_other": other[subtask] for subtask in came}
    intervals: Mapping[str, tuple[float, float]] = {}
    if rng is not None and len(set(places)) > 1:
        drawn = figures(_resampled(rows, places, rng, samples))
        intervals = {name: interval(drawn[name]) for name in names}
    name_parts = ["mme", *(["without:" + "+".join(absent)] if absent else [])]
    signed = [replace(question, image="/".join(place)) for question, place in zip(questions, places, strict=True)]
    return Score(values, signature(name_parts, signed, parser="official", decoding=decoding), intervals)
