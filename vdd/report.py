"""From stored answers to figures that can be believed: one row a leg, with its interval, its cost and its signature.

Knows: finished runs, scoring. Does not know: models. Reruns in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vdd._check import UserError
from vdd.config import Leg
from vdd.data import write_atomic
from vdd.finished import Drawn, FinishedRun, read_run, texts_of
from vdd.records import Answer, Question, Score
from vdd.scoring.pope import predictions, score_pope
from vdd.scoring.score import (
    Difference,
    McNemar,
    auroc,
    expected_calibration_error,
    mcnemar,
    paired_bootstrap,
    signature,
)
from vdd.scoring.score import transitions as count_transitions

COLUMNS = ("leg", "acc", "95 %", "Δ greedy, 95 %", "F1", "yes", "AUROC", "ECE", "fwd", "ms")
"""Of the table, figures in %; forwards and milliseconds are per question."""

SCORES, RELABELLED = "scores.json", "scores-relabelled.json"


@dataclass(frozen=True)
class LegResult:
    """How one leg did; where it was drawn several times, over all draws.

    Attributes:
        leg: what was run.
        draws: how often each question was answered.
        score: accuracy, f1, … with intervals, `auroc`, `ece`, `skipped` and `peak_mib` among them, and the signature.
        gain: accuracy above the first leg's, with its paired interval; None for the first leg.
        test: McNemar's against the first leg; None for the first leg.
        transitions: how many answers changed from the first leg, by kind ("FN→TP", …).
        forwards: rows × forward passes per question.
        seconds: per question.
    """

    leg: Leg
    draws: int
    score: Score
    gain: Difference | None
    test: McNemar | None
    transitions: Mapping[str, int]
    forwards: float
    seconds: float


def evaluate(
    out: Path, *, names: Sequence[str], parser: str = "official", seed: int = 0, relabelled: Path | None = None
) -> list[LegResult]:
    """Score a finished run's answers to POPE-form questions, and write DIR/scores.json.

    Args:
        out: folder of a run.
        names: what opens the signatures; see `vdd.scoring.pope.name_parts_of`.
        parser: of `vdd.scoring.words.PARSERS`, for generated text.
        seed: of the bootstrap.
        relabelled: question file with other labels of the same questions, such as RePOPE's; those that it leaves out
            are left out, and the file is DIR/scores-relabelled.json.
    """
    results = score_run(read_run(out, relabelled=relabelled), names=names, parser=parser, seed=seed)
    file = SCORES if relabelled is None else RELABELLED
    write_atomic(out / file, json.dumps([_plain(result) for result in results], indent=1) + "\n")
    return results


def score_run(run: FinishedRun, *, names: Sequence[str], parser: str = "official", seed: int = 0) -> list[LegResult]:
    """One result a leg; the first is what the others are compared with. Writes nothing; otherwise as `evaluate`."""
    first = run.legs[0].answers[0]
    return [
        _result(drawn, run.questions, first if place else None, names, parser, seed)
        for place, drawn in enumerate(run.legs)
    ]


def read_scores(path: Path, legs: Sequence[Leg]) -> list[LegResult]:
    """The results that `evaluate` wrote into a file.

    Args:
        path: DIR/scores.json or DIR/scores-relabelled.json.
        legs: of the run, by whose names the results are found.

    Raises:
        UserError: where the file is none of those, or is of other legs.
    """
    known = {leg.name: leg for leg in legs}
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return [_from_plain(entry, known[entry["leg"]]) for entry in entries]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{path}: holds no scores of this run's legs ({type(error).__name__}: {error}); wanted the file as "
            "`vdd eval pope` writes it. Run it again: what is answered stays."
        ) from error


def table(results: Sequence[LegResult]) -> list[list[str]]:
    """The results as text, a row a leg, in COLUMNS' order."""
    return [_row(result) for result in results]


def markdown(results: Sequence[LegResult]) -> str:
    """The results as a Markdown table, and the signature of the first leg's score."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in table(results)]
    return "\n".join([*lines, "", f"First leg: `{results[0].score.signature}`", ""])


def read(questions: Sequence[Question], answers: Sequence[Answer], *, parser: str) -> list[str | None]:
    """What each answer counts as, by the rule `parser` of `vdd.scoring.words.PARSERS`; None where there is none."""
    return [*predictions(questions, texts_of(answers), parser=parser)]


def confidence(answer: Answer, said: str | None) -> float | None:
    """The probability that what was said had among the labels, in [0, 1].

    None without a margin, without probabilities, and where no label was said: such answers have no calibration.
    """
    shares = _shares(answer)
    return shares.get(said or "") if answer.margin is not None else None


def _result(
    drawn: Drawn,
    questions: Sequence[Question],
    baseline: Sequence[Answer] | None,
    names: Sequence[str],
    parser: str,
    seed: int,
) -> LegResult:
    """Each draw counts as answers to the same questions about the same images."""
    leg, draws = drawn.leg, len(drawn.answers)
    every, said_all = [*questions] * draws, [answer for one in drawn.answers for answer in one]
    texts = texts_of(said_all)
    score = score_pope(every, texts, parser=parser, name_parts=names, rng=np.random.default_rng(seed))
    decoding = leg.signature() + (f"|draws:{draws}" if draws > 1 else "")
    said = read(every, said_all, parser=parser)
    right = np.array([p == q.label for p, q in zip(said, every, strict=True)])
    totals = {name: int(score.values[name]) for name in ("unparsed", "unanswered")}
    counts = {name: total / draws if total % draws else total // draws for name, total in totals.items()}  # of a draw
    score = Score(
        {**score.values, "n": len(questions), **counts, **_sureness(every, said_all, said, right), **drawn.extras},
        signature(names, questions, parser=parser, decoding=decoding),
        score.intervals,
    )
    costs = (drawn.forwards, drawn.seconds)
    if baseline is None:
        return LegResult(leg, draws, score, None, None, {}, *costs)
    before = read(questions, baseline, parser=parser) * draws
    was_right = np.array([p == q.label for p, q in zip(before, every, strict=True)])
    images = [question.image for question in every]
    gain = None
    if len(set(images)) > 1:
        gain = paired_bootstrap(was_right, right, images, rng=np.random.default_rng(seed))
    once = slice(len(questions))  # McNemar's test wants independent pairs: the first draw alone
    changed = count_transitions(before[once], said[once], [question.label or "" for question in questions])
    return LegResult(leg, draws, score, gain, mcnemar(was_right[once], right[once]), changed, *costs)


def _sureness(
    questions: Sequence[Question], answers: Sequence[Answer], said: Sequence[str | None], right: Any
) -> dict[str, float]:
    """AUROC of the margin, and expected calibration error of the probability that the given answer had.

    Over the questions with a margin; of these, for the calibration error, the ones answered with a label.
    """
    ranked = [i for i, answer in enumerate(answers) if answer.margin is not None]
    chances = {i: confidence(answers[i], said[i]) for i in ranked}
    sure = {i: chance for i, chance in chances.items() if chance is not None}
    values = {"auroc": float("nan"), "ece": float("nan")}
    if ranked:
        margins = [float(answers[i].margin or 0.0) for i in ranked]
        values["auroc"] = auroc(margins, [questions[i].label == "yes" for i in ranked])
    if sure:
        values["ece"] = expected_calibration_error([*sure.values()], right[[*sure]])
    return values


def _shares(answer: Answer) -> dict[str, float]:
    """The labels' probabilities, renormalised; empty where none is known."""
    found = next(iter(answer.debiased.values())) if answer.debiased else answer.probabilities or {}
    total = sum(found.values())
    return {label: value / total for label, value in found.items()} if total > 0 else {}


def _row(result: LegResult) -> list[str]:
    values = result.score.values
    low, high = result.score.intervals.get("accuracy", (float("nan"),) * 2)
    gain = "" if result.gain is None else "{:+.1f} [{:+.1f},{:+.1f}]".format(*(100 * x for x in result.gain))
    return [
        result.leg.name,
        f"{100 * values['accuracy']:.1f}",
        f"[{100 * low:.1f},{100 * high:.1f}]",
        gain,
        f"{100 * values['f1']:.1f}",
        f"{100 * values['yes_ratio']:.1f}",
        f"{100 * values['auroc']:.1f}",
        f"{100 * values['ece']:.1f}",
        f"{result.forwards:.2f}",
        f"{1000 * result.seconds:.1f}",
    ]


def _plain(result: LegResult) -> dict[str, Any]:
    return {
        "leg": result.leg.name,
        "draws": result.draws,
        **json.loads(result.score.to_json()),
        "gain": None if result.gain is None else list(result.gain),
        "mcnemar": None if result.test is None else result.test._asdict(),
        "transitions": dict(result.transitions),
        "forwards_per_question": result.forwards,
        "seconds_per_question": result.seconds,
    }


_BESIDE_VALUES = (
    "leg", "draws", "intervals", "signature", "gain", "mcnemar", "transitions",
    "forwards_per_question", "seconds_per_question",
)  # fmt: skip


def _from_plain(entry: Mapping[str, Any], leg: Leg) -> LegResult:
    """The inverse of `_plain`; null is NaN."""
    values = {name: _number(value) for name, value in entry.items() if name not in _BESIDE_VALUES}
    intervals = {name: (_number(low), _number(high)) for name, (low, high) in entry.get("intervals", {}).items()}
    return LegResult(
        leg,
        entry["draws"],
        Score(values, entry["signature"], intervals),
        None if entry["gain"] is None else Difference(*entry["gain"]),
        None if entry["mcnemar"] is None else McNemar(**entry["mcnemar"]),
        entry["transitions"],
        entry["forwards_per_question"],
        entry["seconds_per_question"],
    )


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
