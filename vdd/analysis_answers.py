"""What a finished run's answers tell an analysis: accuracy by confidence, answers that debiasing breaks, language bias.

Knows: finished runs, an analysis' records, scores. Does not know: models, figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd.analysed import (
    ANSWERED,
    BiasFigures,
    ConfidencePart,
    Failure,
    QuestionRead,
    keep_picture,
    read_kind,
    write_records,
)
from vdd.finished import Drawn, FinishedRun, read_run
from vdd.records import Answer, QuestionId
from vdd.report import confidence, read
from vdd.report_figures import by_confidence
from vdd.scoring.language_bias import LanguageBias, language_bias
from vdd.scoring.words import LABELS, is_right

LEFT_OUT = "left out"
"""What stands for the other label of a question that the other file leaves out."""


def write_found(
    out: Path,
    labels: Sequence[str],
    images: Path,
    about: Mapping[str, Any],
    *,
    relabelled: Path | None = None,
    pictures: Mapping[str, int],
    seed: int = 0,
) -> None:
    """Write the records `confidence`, `failures` and `bias`, from OUT/answered and what was read of each question.

    Args:
        out: the analysis' folder.
        labels: the possible answers; none where answers are free.
        images: folder of the images.
        about: what the records depend on.
        relabelled, pictures: as for `failures`.
        seed: of the intervals.
    """
    run = read_run(out / ANSWERED, labels=None)
    found = failures(run, labels, images, out, relabelled=relabelled, pictures=pictures)
    write_records(out, ConfidencePart, confidence_parts(run, labels, seed=seed), about)
    write_records(out, Failure, found, about)
    write_records(out, BiasFigures, bias_figures(read_kind(out, QuestionRead), labels, seed=seed), about)


def confidence_parts(
    run: FinishedRun, labels: Sequence[str], *, legs: Sequence[str] = (), seed: int = 0
) -> list[ConfidencePart]:
    """Every leg's accuracy where the first one was how sure; none where no question has a label or a confidence.

    Args:
        run: whose legs are compared, the first draw of each.
        labels: the possible answers; none where answers are free.
        legs: names of those that are looked at beside the first; without any, all.
        seed: of the bootstrap.
    """
    kept = [place for place, question in enumerate(run.questions) if question.label is not None]
    if not kept or not labels:
        return []
    images = [run.questions[place].image for place in kept]
    first = run.legs[0].answers[0]
    sure = np.array(
        [_number(confidence(a, s)) for a, s in zip(first, said(run, first, labels), strict=True)], dtype=np.float64
    )
    before: NDArray[np.bool_] | None = None
    found = []
    for leg in run.legs:
        if legs and leg is not run.legs[0] and leg.leg.name not in legs:
            continue
        right = rightness(run, leg.answers[0], labels)
        parts = by_confidence(sure[kept], right[None, kept], images, before=before, seed=seed)
        before = right[kept] if before is None else before
        found += [
            ConfidencePart(
                leg=leg.leg.name,
                low=part.low,
                high=part.high,
                questions=part.count,
                accuracy=part.accuracy,
                gain_low=None if part.gain is None else part.gain.low,
                gain_high=None if part.gain is None else part.gain.high,
            )
            for part in parts
        ]
    return found


def failures(
    run: FinishedRun,
    labels: Sequence[str],
    images: Path,
    out: Path,
    *,
    relabelled: Path | None = None,
    pictures: Mapping[str, int],
) -> list[Failure]:
    """The questions whose answer a debiased leg breaks or mends, leg by leg, those with undisputed labels first.

    Args:
        run: the first leg is the plain one.
        labels: the possible answers.
        images: folder of the images.
        out: the analysis' folder, where small pictures are kept.
        relabelled: question file with other labels of the same questions, such as RePOPE's.
        pictures: kind ("broken", "mended") → how many pictures a leg keeps at most.
    """
    others: Mapping[QuestionId, str | None] | None = None
    if relabelled is not None:
        again = read_run(out / ANSWERED, relabelled=relabelled, labels=None)
        others = {question.question_id: question.label for question in again.questions}
    plain, *debiased = run.legs
    before = rightness(run, plain.answers[0], labels)
    found = []
    for leg in debiased:
        after = rightness(run, leg.answers[0], labels)
        changed = (_failure(run, plain, leg, int(place), after, others) for place in np.flatnonzero(before != after))
        own = [one for one in changed if one is not None]
        own.sort(key=lambda one: (one.kind, one.doubtful))
        left = dict(pictures)
        for one in own:
            left[one.kind] -= 1
            picture = keep_picture(out, images, one.image) if left[one.kind] >= 0 else None
            found.append(Failure(**{**vars(one), "picture": picture}))
    return found


def bias_figures(read_questions: Sequence[QuestionRead], labels: Sequence[str], *, seed: int = 0) -> list[BiasFigures]:
    """The language-bias indicator of all questions, then of each subset by name; of those with one of the labels.

    Args:
        read_questions: what was read of each question.
        labels: the possible answers.
        seed: of the bootstrap.
    """
    known = {label.strip().casefold(): label for label in labels}
    kept = [one for one in read_questions if one.label is not None and one.label.strip().casefold() in known]
    if not kept or not labels:
        return []
    found = [_of_subset("all", kept, labels, known, seed)]
    names = sorted({one.subset for one in kept} - {""})
    if names != ["all"]:
        found += [_of_subset(n, [one for one in kept if one.subset == n], labels, known, seed) for n in names]
    return found


def rightness(run: FinishedRun, answers: Sequence[Answer], labels: Sequence[str]) -> NDArray[np.bool_]:
    """(n,) whether each answer is right; a question without a label or an answer never is."""
    words = said(run, answers, labels)
    return np.array(
        [
            q.label is not None and w is not None and is_right(w, q.label)
            for q, w in zip(run.questions, words, strict=True)
        ],
        dtype=np.bool_,
    )


def said(run: FinishedRun, answers: Sequence[Answer], labels: Sequence[str]) -> list[str | None]:
    """What each answer counts as: by POPE's rule for yes and no, else the label that it is; without labels its text."""
    if {*labels} == {*LABELS} and all(question.label in LABELS for question in run.questions):
        return read(run.questions, answers, parser="official")
    texts = [None if answer.error is not None else answer.text.strip().rstrip(".").strip() for answer in answers]
    if not labels:
        return texts
    return [None if text is None else next((one for one in labels if is_right(text, one)), None) for text in texts]


def _failure(
    run: FinishedRun,
    plain: Drawn,
    leg: Drawn,
    place: int,
    after: NDArray[np.bool_],
    others: Mapping[QuestionId, str | None] | None,
) -> Failure | None:
    question = run.questions[place]
    if question.label is None or plain.answers[0][place].error is not None:
        return None
    return Failure(
        leg=leg.leg.name,
        kind="mended" if after[place] else "broken",
        question_id=question.question_id,
        image=question.image,
        question=question.text,
        label=question.label,
        plain=plain.answers[0][place].text,
        debiased=leg.answers[0][place].text,
        relabelled=None if others is None else others.get(question.question_id) or LEFT_OUT,
    )


def _of_subset(
    name: str, own: Sequence[QuestionRead], labels: Sequence[str], known: Mapping[str, str], seed: int
) -> BiasFigures:
    conditions = [condition for condition in own[0].labels if condition != "image"]

    def table(condition: str) -> list[list[float]]:
        return [[one.labels[condition][label] for label in labels] for one in own]

    found: LanguageBias = language_bias(
        labels,
        [known[(one.label or "").strip().casefold()] for one in own],
        table("image"),
        {condition: table(condition) for condition in conditions},
        [one.image for one in own],
        kl_vocabulary={condition: [one.kl_vocabulary[condition] for one in own] for condition in conditions},
        seed=seed,
    )
    return BiasFigures(
        subset=name,
        questions=found.questions,
        images=found.images,
        labels=found.labels,
        accuracy=found.accuracy,
        interval=None if found.interval is None else list(found.interval),
        majority=found.majority,
        verdict=found.verdict,
        words=found.in_words(),
        blind={
            condition: {**vars(figures), "gain": None if figures.gain is None else list(figures.gain)}
            for condition, figures in found.blind.items()
        },
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
