"""From stored answers to figures that can be believed: one row a leg, with its interval, its cost and its signature.

Knows: answer files, scoring. Does not know: models. Reruns in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vdd._check import UserError
from vdd.config import Leg, from_json
from vdd.data import load_questions, read_records, write_atomic
from vdd.records import Answer, Question, Score
from vdd.run_folder import leg_costs
from vdd.scoring.pope import predictions, score_pope
from vdd.scoring.score import Difference, McNemar, auroc, expected_calibration_error, mcnemar, paired_bootstrap
from vdd.scoring.score import transitions as count_transitions

COLUMNS = ("leg", "acc", "95 %", "Δ greedy, 95 %", "F1", "yes", "AUROC", "ECE", "fwd", "ms")
"""Of the table, figures in %; forwards and milliseconds are per question."""


@dataclass(frozen=True)
class LegResult:
    """How one leg did.

    Attributes:
        leg: what was run.
        score: accuracy, f1, … with intervals, `auroc` and `ece` among them, and the signature.
        gain: accuracy above the first leg's, with its paired interval; None for the first leg.
        test: McNemar's against the first leg; None for the first leg.
        transitions: how many answers changed from the first leg, by kind ("FN→TP", …).
        forwards: rows × forward passes per question.
        seconds: per question.
    """

    leg: Leg
    score: Score
    gain: Difference | None
    test: McNemar | None
    transitions: Mapping[str, int]
    forwards: float
    seconds: float


def evaluate(out: Path, *, names: Sequence[str], parser: str = "official", seed: int = 0) -> list[LegResult]:
    """Score a finished run's answers to POPE-form questions, and write DIR/scores.json.

    Args:
        out: folder of a run.
        names: what opens the signatures; see `vdd.scoring.pope.name_parts_of`.
        parser: of `vdd.scoring.words.PARSERS`, for generated text.
        seed: of the bootstrap.
    """
    for name in ("run.json", "questions.jsonl", "timings.jsonl"):
        if not (out / name).is_file():
            raise UserError(f"{out}: has no {name}; wanted the folder of a finished run.")
    legs = [from_json(Leg, values) for values in json.loads((out / "run.json").read_text(encoding="utf-8"))["legs"]]
    questions = load_questions(out / "questions.jsonl", labels=("yes", "no"))
    costs = leg_costs(out)
    answers = {leg.name: _answers(out / "answers" / f"{leg.name}.jsonl", questions) for leg in legs}
    results: list[LegResult] = []
    for leg in legs:
        baseline = answers[legs[0].name] if results else None
        forwards, seconds = costs.get(leg.name, (0.0, 0.0))
        results.append(_result(leg, questions, answers[leg.name], baseline, names, parser, seed, (forwards, seconds)))
    write_atomic(out / "scores.json", json.dumps([_plain(result) for result in results], indent=1) + "\n")
    return results


def table(results: Sequence[LegResult]) -> list[list[str]]:
    """The results as text, a row a leg, in COLUMNS' order."""
    return [_row(result) for result in results]


def markdown(results: Sequence[LegResult]) -> str:
    """The results as a Markdown table, and the signature of the first leg's score."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(row) + " |" for row in table(results)]
    return "\n".join([*lines, "", f"First leg: `{results[0].score.signature}`", ""])


def _result(
    leg: Leg,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    baseline: Sequence[Answer] | None,
    names: Sequence[str],
    parser: str,
    seed: int,
    cost: tuple[float, float],
) -> LegResult:
    texts = _texts(answers)
    score = score_pope(
        questions,
        texts,
        parser=parser,
        name_parts=names,
        decoding=leg.signature(),
        rng=np.random.default_rng(seed),
    )
    said = predictions(questions, texts, parser=parser)
    right = np.array([p == q.label for p, q in zip(said, questions, strict=True)])
    score = Score({**score.values, **_sureness(questions, answers, said, right)}, score.signature, score.intervals)
    if baseline is None:
        return LegResult(leg, score, None, None, {}, *cost)
    before = predictions(questions, _texts(baseline), parser=parser)
    was_right = np.array([p == q.label for p, q in zip(before, questions, strict=True)])
    images = [question.image for question in questions]
    gain = None
    if len(set(images)) > 1:
        gain = paired_bootstrap(was_right, right, images, rng=np.random.default_rng(seed))
    labels = [question.label or "" for question in questions]
    changed = count_transitions(before, said, labels)
    return LegResult(leg, score, gain, mcnemar(was_right, right), changed, *cost)


def _sureness(
    questions: Sequence[Question], answers: Sequence[Answer], said: Sequence[str | None], right: Any
) -> dict[str, float]:
    """AUROC of the margin, and expected calibration error of the probability that the given answer had.

    Over the questions with a margin; of these, for the calibration error, the ones answered with a label.
    """
    ranked = [i for i, answer in enumerate(answers) if answer.margin is not None]
    shares = [_shares(answer) for answer in answers]
    sure = [i for i in ranked if said[i] in shares[i]]
    values = {"auroc": float("nan"), "ece": float("nan")}
    if ranked:
        margins = [float(answers[i].margin or 0.0) for i in ranked]
        values["auroc"] = auroc(margins, [questions[i].label == "yes" for i in ranked])
    if sure:
        values["ece"] = expected_calibration_error([shares[i][said[i] or ""] for i in sure], right[sure])
    return values


def _shares(answer: Answer) -> dict[str, float]:
    """The labels' probabilities, renormalised; empty where none is known."""
    found = next(iter(answer.debiased.values())) if answer.debiased else answer.probabilities or {}
    total = sum(found.values())
    return {label: value / total for label, value in found.items()} if total > 0 else {}


def _texts(answers: Sequence[Answer]) -> list[str | None]:
    return [None if answer.error is not None else answer.text for answer in answers]


def _answers(path: Path, questions: Sequence[Question]) -> list[Answer]:
    answers = []
    for where, record in read_records(path):
        try:
            answers.append(Answer.from_json(record))
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
    if [answer.question_id for answer in answers] != [question.question_id for question in questions]:
        raise UserError(f"{path}: its answers are not to the questions beside it; was the file changed by hand?")
    return answers


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
        **json.loads(result.score.to_json()),
        "gain": None if result.gain is None else list(result.gain),
        "mcnemar": None if result.test is None else result.test._asdict(),
        "transitions": dict(result.transitions),
        "forwards_per_question": result.forwards,
        "seconds_per_question": result.seconds,
    }
