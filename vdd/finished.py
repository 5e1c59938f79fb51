"""A finished run, read back: what was asked of whom, every leg's answers, what they cost.

Knows: a run's files. Does not know: models, scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vdd._check import UserError
from vdd.config import Leg, from_json
from vdd.data import load_questions, read_records
from vdd.records import Answer, Question, QuestionId
from vdd.run_folder import leg_costs, leg_extras


@dataclass(frozen=True)
class Drawn:
    """A leg and its answers; several draws of one way of answering are one leg.

    Attributes:
        leg: the first draw's.
        answers: by draw, then by question.
        forwards: rows × forward passes per question, the mean over draws.
        seconds: per question, the mean over draws.
        extras: `skipped` and `peak_mib` of the first draw; see `vdd.run_folder.leg_extras`.
    """

    leg: Leg
    answers: Sequence[Sequence[Answer]]
    forwards: float
    seconds: float
    extras: Mapping[str, float]


@dataclass(frozen=True)
class FinishedRun:
    """A run whose every question was asked in every leg.

    Attributes:
        description: what run.json holds.
        questions: with labels "yes" or "no", unless others were asked for.
        legs: in the run's order; what others are compared with is the first.
    """

    description: Mapping[str, Any]
    questions: Sequence[Question]
    legs: Sequence[Drawn]


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The runs among folders, and of a folder that is no run, those in it; each once, in the given order.

    A folder that the runs' images are in, as `vdd demo` leaves one beside its runs, is left out.

    Raises:
        UserError: where another folder is no run and holds none.
    """
    found: dict[Path, Path] = {}
    others = []
    for folder in folders:
        inside = [folder] if _is_run(folder) else []
        if not inside and folder.is_dir():
            inside = sorted(filter(_is_run, folder.iterdir()))
        for one in inside:
            found.setdefault(one.resolve(), one)
        others += [] if inside else [folder]
    for folder in others:
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; wanted that of a finished run.")
        images = (Path(str(_description(run).get("images", "/"))) for run in found.values())
        if not any(path.is_relative_to(folder.resolve()) for path in images):
            raise UserError(f"{folder}: is no run (it has no run.json) and holds none; wanted that of a finished run.")
    return list(found.values())


def read_run(out: Path, *, relabelled: Path | None = None, labels: Sequence[str] | None = ("yes", "no")) -> FinishedRun:
    """Read a finished run's folder.

    Args:
        out: the folder.
        relabelled: question file with other labels of the same questions, such as RePOPE's; those that it leaves out
            are left out.
        labels: that its questions may have; None takes any, and none.

    Raises:
        UserError: where the folder is no finished run, a file of it was changed, or the other labels are not those of
            its questions.
    """
    for name in ("run.json", "questions.jsonl", "timings.jsonl"):
        if not (out / name).is_file():
            raise UserError(f"{out}: has no {name}; wanted the folder of a finished run.")
    description = _description(out)
    legs = [from_json(Leg, values) for values in description["legs"]]
    asked = load_questions(out / "questions.jsonl", labels=labels)
    truths = {question.question_id: question.label for question in asked}
    if relabelled is not None:
        truths = _labels_of(relabelled, asked, labels)
    kept = [place for place, question in enumerate(asked) if question.question_id in truths]
    costs, extras = leg_costs(out), leg_extras(out)
    draws: dict[str, list[Leg]] = {}
    for leg in legs:
        draws.setdefault(leg.name.rpartition(".")[0] if leg.repeat else leg.name, []).append(leg)
    drawn = []
    for group in draws.values():
        stored = [_answers(out / "answers" / f"{leg.name}.jsonl", asked) for leg in group]
        spent = [costs.get(leg.name, (0.0, 0.0)) for leg in group]
        forwards, seconds = (sum(one[which] for one in spent) / len(spent) for which in (0, 1))
        answers = [[one[place] for place in kept] for one in stored]
        drawn.append(Drawn(group[0], answers, forwards, seconds, extras.get(group[0].name, {})))
    questions = [replace(asked[place], label=truths[asked[place].question_id]) for place in kept]
    return FinishedRun(description, questions, drawn)


def texts_of(answers: Sequence[Answer]) -> list[str | None]:
    """What was said to each question; None where it stayed unanswered."""
    return [None if answer.error is not None else answer.text for answer in answers]


def _is_run(folder: Path) -> bool:
    return (folder / "run.json").is_file()


def _description(out: Path) -> Mapping[str, Any]:
    """What run.json holds."""
    path = out / "run.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values["legs"], list) and values["legs"]:
            return dict(values)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); wanted what a run of vdd writes.") from error
    raise UserError(f"{path}: has no legs; wanted what a run of vdd writes.")


def _labels_of(path: Path, asked: Sequence[Question], labels: Sequence[str] | None) -> dict[QuestionId, str | None]:
    """The labels of a question file for questions of another, by id; their texts and images must be the same."""
    known = {question.question_id: question for question in asked}
    found = {q.question_id: q for q in load_questions(path, labels=labels) if q.question_id in known}
    for question_id, other in found.items():
        mine = known[question_id]
        if (mine.image, mine.text) != (other.image, other.text):
            raise UserError(
                f"{path}: question {question_id!r} is {other.text!r} about {other.image}, and the run asked "
                f"{mine.text!r} about {mine.image}; wanted other labels of the same questions."
            )
    if not found:
        raise UserError(f"{path}: has none of the run's questions; wanted other labels of the same questions.")
    return {question_id: other.label for question_id, other in found.items()}


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
