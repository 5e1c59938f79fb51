"""From a finished run on MME to its sums: one row a leg, with its interval, its cost and its signature.

Knows: answer files, scoring. Does not know: models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vdd.config import Leg
from vdd.data import write_atomic
from vdd.finished import read_run
from vdd.records import Score
from vdd.scoring.mme import GROUPS, score_mme

COLUMNS = ("leg", *GROUPS, "95 % of the first", "other", "fwd", "ms")
"""Of the table; sums in points, forwards and milliseconds per question."""


@dataclass(frozen=True)
class LegSums:
    """How one leg did; where it was drawn several times, the mean over the draws, and the first draw's intervals.

    Attributes:
        leg: what was run.
        draws: how often each question was answered.
        score: the sums and subtasks of `vdd.scoring.mme`.
        forwards, seconds: per question.
    """

    leg: Leg
    draws: int
    score: Score
    forwards: float
    seconds: float


def evaluate(out: Path, *, seed: int = 0) -> list[LegSums]:
    """Score a finished run's answers to MME's questions, and write DIR/scores.json.

    Args:
        out: folder of a run.
        seed: of the bootstrap.
    """
    run = read_run(out)
    results = []
    for drawn in run.legs:
        scores = [
            score_mme(
                run.questions,
                [None if answer.error is not None else answer.text for answer in answers],
                decoding=drawn.leg.signature(),
                rng=np.random.default_rng(seed),
            )
            for answers in drawn.answers
        ]
        first = scores[0]
        values = {name: float(np.mean([score.values[name] for score in scores])) for name in first.values}
        score = Score(values, first.signature, first.intervals)
        results.append(LegSums(drawn.leg, len(scores), score, drawn.forwards, drawn.seconds))
    records = [
        {"leg": one.leg.name, "draws": one.draws, **json.loads(one.score.to_json())}
        | {"forwards_per_question": one.forwards, "seconds_per_question": one.seconds}
        for one in results
    ]
    write_atomic(out / "scores.json", json.dumps(records, indent=1) + "\n")
    return results


def table(results: Sequence[LegSums]) -> list[list[str]]:
    """The results as text, a row a leg, in COLUMNS' order."""
    rows = []
    for one in results:
        values = one.score.values
        sums = [f"{values[name]:.1f}" if name in values else "–" for name in GROUPS]
        came = next((name for name in GROUPS if name in one.score.intervals), None)
        low, high = one.score.intervals[came] if came else (float("nan"), float("nan"))
        cost = [f"{one.forwards:.2f}", f"{1000 * one.seconds:.1f}"]
        rows.append([one.leg.name, *sums, f"[{low:.1f},{high:.1f}]", f"{values['other']:g}", *cost])
    return rows


def markdown(results: Sequence[LegSums]) -> str:
    """The results as a Markdown table, and the signature of the first leg's score."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in table(results)]
    return "\n".join([*lines, "", f"First leg: `{results[0].score.signature}`", ""])
