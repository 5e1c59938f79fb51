"""POPE and RePOPE: accuracy, precision, recall and F1 on "yes", and how often a model says yes.

    precision = TP/(TP+FP)   recall = TP/(TP+FN)   F1 = 2·precision·recall/(precision+recall)   accuracy = (TP+TN)/n

Source: POPE's evaluate.py (arXiv:2305.10355), met to the last digit; labels: RePOPE, arXiv:2504.15707. What that script
leaves open: a quotient with denominator 0 is 0. A question without an answer, or whose answer is neither yes nor no
(`exact` only), is wrong: it counts in n, and among the missed where its label is "yes". (lmms-eval leaves such answers
out of recall, and its "yes_ratio" is that of the labels.)

Knows: questions, texts. Does not know: how answers were generated, tensors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd._check import UserError, choice
from vdd.records import Question, Score
from vdd.scoring.score import Array, Statistic, interval, resample, signature
from vdd.scoring.words import LABELS, PARSERS, Prediction, is_unparsed

SAID = ("yes", "no", "other", None)
"""What an answer can count as; None is a question without one. The last axis of `outcomes`."""

_FILE_NAME = re.compile(r"(coco|aokvqa|gqa)_(pope|repope)_(?:seem_)?(random|popular|adversarial)", re.IGNORECASE)


def name_parts_of(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The names in the signature of a question file: what its own name tells, else ("pope", its stem).

    >>> name_parts_of("POPE/coco_pope_adversarial.json"), name_parts_of("coco_repope_random.json")
    (('pope', 'coco', 'adversarial'), ('repope', 'coco', 'random'))
    """
    stem = Path(path).stem
    known = _FILE_NAME.fullmatch(stem)
    if known is None:
        return ("pope", re.sub(r"[|\s]+", "_", stem))
    images, benchmark, split = known.group(1, 2, 3)
    return (benchmark.lower(), images.lower(), split.lower())


def predictions(
    questions: Sequence[Question], texts: Sequence[str | None], *, parser: str = "official"
) -> list[Prediction | None]:
    """What each answer counts as; None where there is none.

    Args:
        questions: labels "yes" or "no".
        texts: one per question, in the same order.
        parser: of PARSERS.

    Raises:
        UserError: on an unknown parser, unequal lengths, or another label.
    """
    read = PARSERS[choice("predictions", "parser", parser, PARSERS)]
    if len(texts) != len(questions):
        raise UserError(f"predictions: {len(texts)} texts for {len(questions)} questions; wanted one for each.")
    return [None if t is None else read(t, label) for label, t in zip(_labels(questions), texts, strict=True)]


def outcomes(questions: Sequence[Question], said: Sequence[str | None]) -> NDArray[np.int64]:
    """One count per question, at its label and what was said: the rows that every figure and its bootstrap come from.

    Args:
        questions: labels "yes" or "no".
        said: predictions, in the same order.

    Returns:
        (n, 2, 4): label by LABELS, prediction by SAID; a single 1 in each row.

    Raises:
        UserError: on unequal lengths, another label or prediction.
    """
    labels = _labels(questions)
    if len(said) != len(labels):
        raise UserError(f"outcomes: {len(said)} predictions for {len(labels)} questions; wanted one for each.")
    strange = next((s for s in said if s not in SAID), None)
    if strange is not None:
        raise UserError(f"outcomes: prediction {strange!r}; wanted one of {', '.join(map(repr, SAID))}.")
    table = np.zeros((len(labels), len(LABELS), len(SAID)), dtype=np.int64)
    rows = np.arange(len(labels))
    table[rows, [LABELS.index(label) for label in labels], [SAID.index(s) for s in said]] = 1
    return table


def _ratio(above: Array, below: Array) -> Array:
    """above / below, 0 where `below` is 0."""
    return np.divide(above, below, out=np.zeros(np.shape(above)), where=np.asarray(below) != 0)


def figures(counts: ArrayLike) -> dict[str, Array]:
    """The figures of a table of counts, or of many at once.

    Args:
        counts: (…, 2, 4), sums of `outcomes`.

    Returns:
        (…) each, in [0, 1]: accuracy, precision, recall, f1; yes_ratio, of the questions that were answered;
        balanced_accuracy, the mean over the labels that occur of the share that is right; tpr (the recall) and fpr, the
        shares of the "yes" and of the "no" questions that were answered "yes".
    """
    table = np.asarray(counts, dtype=np.float64)
    positives, negatives = table[..., 0, :].sum(axis=-1), table[..., 1, :].sum(axis=-1)
    tp, fp, tn = table[..., 0, 0], table[..., 1, 0], table[..., 1, 1]
    precision, recall = _ratio(tp, tp + fp), _ratio(tp, positives)
    occurring = (positives > 0) * 1.0 + (negatives > 0)
    return {
        "accuracy": _ratio(tp + tn, positives + negatives),
        "precision": precision,
        "recall": recall,
        "f1": _ratio(2 * precision * recall, precision + recall),
        "yes_ratio": _ratio(tp + fp, table[..., :3].sum(axis=(-2, -1))),
        "balanced_accuracy": _ratio(recall + _ratio(tn, negatives), occurring),
        "tpr": recall,
        "fpr": _ratio(fp, negatives),
    }


FIGURES = tuple(figures(np.zeros((2, 4))))
"""The names of the figures."""


def statistic(name: str) -> Statistic:
    """A figure, for `bootstrap_interval` and `paired_bootstrap` on rows made by `outcomes`.

    Raises:
        UserError: if it is none of FIGURES.
    """
    choice("statistic", "figure", name, FIGURES)
    return lambda totals, n: figures(totals)[name]


def score_pope(
    questions: Sequence[Question],
    texts: Sequence[str | None],
    *,
    parser: str = "official",
    name_parts: Sequence[str] = ("pope",),
    decoding: str = "",
    rng: np.random.Generator | None = None,
    samples: int = 2000,
) -> Score:
    """Score answers to POPE's questions.

    Args:
        questions: with labels "yes" or "no"; at least one.
        texts: their answers in the same order, None where a question stayed unanswered; see `match_answers`.
        parser: how answers are read, of PARSERS.
        name_parts: what opens the signature; see `name_parts_of`.
        decoding: how the answers came about, as `Leg.signature()` says it; "" where that is unknown.
        rng: with it, 95 % bootstrap intervals clustered by image, for every figure; there are none for a single image.
        samples: resamples of these, ≥ 1.

    Returns:
        Values: the FIGURES, then n, unparsed (answers on which the parser had nothing to go by, `is_unparsed`) and
        unanswered (None).

    Raises:
        UserError: without questions, on unequal lengths, an unknown parser, or a label that is neither "yes" nor "no".
    """
    if not questions:
        raise UserError("score_pope: no questions; wanted at least one.")
    rows = outcomes(questions, predictions(questions, texts, parser=parser))
    values: dict[str, float] = {name: float(value) for name, value in figures(rows.sum(axis=0)).items()}
    values["n"] = len(questions)
    values["unparsed"] = sum(text is not None and is_unparsed(text, parser=parser) for text in texts)
    values["unanswered"] = sum(text is None for text in texts)
    images = [question.image for question in questions]
    intervals: Mapping[str, tuple[float, float]] = {}
    if rng is not None and len(set(images)) > 1:
        totals, _ = resample(rows, images, rng=rng, samples=samples)
        intervals = {name: interval(drawn) for name, drawn in figures(totals).items()}
    return Score(values, signature(name_parts, questions, parser=parser, decoding=decoding), intervals)


def _labels(questions: Sequence[Question]) -> list[str]:
    for question in questions:
        if question.label not in LABELS:
            raise UserError(
                f"question {question.question_id!r}: label is {question.label!r}; wanted yes or no. "
                "Load the file with labels=('yes', 'no')."
            )
    return [str(question.label) for question in questions]
