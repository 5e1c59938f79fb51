"""From a finished run on MME to its sums: one row a leg, with its interval, its cost and its signature.

Knows: answer files, scoring. Does not know: models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vdd.config import Leg
from vdd.data import write_atomic
from vdd.finished import read_run, texts_of
from vdd.records import Answer, Question, Score
from vdd.scoring.mme import GROUPS, prediction, score_mme
from vdd.scoring.score import Difference, McNemar, mcnemar, paired_bootstrap

COLUMNS = ("leg", *GROUPS, "acc", "Δ greedy, 95 %", "other", "fwd", "ms")
"""Of the table; sums in points, accuracy over all questions in %, forwards and milliseconds per question. The intervals
of the sums are in scores.json."""


@dataclass(frozen=True)
class LegSums:
    """How one leg did; where it was drawn several times, the mean over the draws.

    Attributes:
        leg: what was run.
        draws: how often each question was answered.
        score: the sums and subtasks of `vdd.scoring.mme`, and `accuracy`; with intervals where it was drawn once.
        gain: accuracy above the first leg's, with its paired interval; None for the first leg and for a single image.
        test: McNemar's against the first leg, of the first draw; None for the first leg.
        forwards, seconds: per question.
    """

    leg: Leg
    draws: int
    score: Score
    gain: Difference | None
    test: McNemar | None
    forwards: float
    seconds: float


def evaluate(out: Path, *, seed: int = 0) -> list[LegSums]:
    """Score a finished run's answers to MME's questions, and write DIR/scores.json.

    Args:
        out: folder of a run.
        seed: of the bootstrap.
    """
    run = read_run(out)
    images = [question.image for question in run.questions]
    results: list[LegSums] = []
    first: NDArray[np.float64] | None = None
    for drawn in run.legs:
        scores = [
            score_mme(
                run.questions,
                texts_of(answers),
                decoding=drawn.leg.signature(),
                rng=np.random.default_rng(seed),
            )
            for answers in drawn.answers
        ]
        right = np.array([_right(run.questions, answers) for answers in drawn.answers])  # (draws, questions)
        values = {name: float(np.mean([score.values[name] for score in scores])) for name in scores[0].values}
        values |= {"accuracy": float(right.mean()), **drawn.extras}
        score = Score(values, scores[0].signature, scores[0].intervals if len(scores) == 1 else {})
        gain = test = None
        if first is None:
            first = right[0]
        else:
            test = mcnemar(first, right[0])
            if len(set(images)) > 1:
                gain = paired_bootstrap(first, right.mean(axis=0), images, rng=np.random.default_rng(seed))
        results.append(LegSums(drawn.leg, len(scores), score, gain, test, drawn.forwards, drawn.seconds))
    records = [
        {"leg": one.leg.name, "draws": one.draws, **json.loads(one.score.to_json())}
        | {
            "gain": None if one.gain is None else list(one.gain),
            "mcnemar": None if one.test is None else one.test._asdict(),
            "forwards_per_question": one.forwards,
            "seconds_per_question": one.seconds,
        }
        for one in results
    ]
    write_atomic(out / "scores.json", json.dumps(records, indent=1) + "\n")
    return results


def _right(questions: Sequence[Question], answers: Sequence[Answer]) -> list[float]:
    return [
        float(text is not None and prediction(text) == question.label)
        for question, text in zip(questions, texts_of(answers), strict=True)
    ]


def table(results: Sequence[LegSums]) -> list[list[str]]:
    """The results as text, a row a leg, in COLUMNS' order."""
    rows = []
    for one in results:
        values = one.score.values
        sums = [f"{values[name]:.1f}" if name in values else "–" for name in GROUPS]
        gain = "" if one.gain is None else "{:+.1f} [{:+.1f},{:+.1f}]".format(*(100 * x for x in one.gain))
        cost = [f"{one.forwards:.2f}", f"{1000 * one.seconds:.1f}"]
        rows.append([one.leg.name, *sums, f"{100 * values['accuracy']:.1f}", gain, f"{values['other']:g}", *cost])
    return rows


def markdown(results: Sequence[LegSums]) -> str:
    """The results as a Markdown table, and the signature of the first leg's score."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in table(results)]
    return "\n".join([*lines, "", f"First leg: `{results[0].score.signature}`", ""])
