"""Wrong answers of a finished run, and wrong choices that a user lists → what the tower is asked, traced one by one.

Knows: finished runs, tracers. Does not know: how models are opened, printing.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from vdd._check import UserError, choice
from vdd.data import read_records, write_atomic
from vdd.diagnosis import Misread, Traced, keep
from vdd.finished import FinishedRun, texts_of
from vdd.images import ImageError, image_path
from vdd.influence.statements import contrasted
from vdd.influence.trace import Influences, Tracer
from vdd.records import Question
from vdd.scoring.pope import predictions
from vdd.scoring.words import is_unparsed

SCORES = "scores"
"""Folder of the tables of every pair."""
_COLUMNS = (
    "rank", "id", "image", "caption", "tied", "free", "delta_loss_on_removal", "standard_error", "clip_score",
    "pair_loss",
)  # fmt: skip


@dataclass(frozen=True)
class WrongAnswers:
    """One leg's wrong answers.

    Attributes:
        leg: its name.
        wrong: how many answers are wrong.
        answered: how many there are.
        asked: what a tower can be asked about of them, those that the model was surest of first.
    """

    leg: str
    wrong: int
    answered: int
    asked: Sequence[Misread]


def wrong_answers(run: FinishedRun, *, leg: str | None = None, parser: str = "official") -> WrongAnswers:
    """The wrong answers of a run's leg, of its first draw where there are several.

    Args:
        run: its questions' labels are yes or no.
        leg: its name; the first one where None.
        parser: of `vdd.scoring.words.PARSERS`. An answer that it makes a yes or a no of though neither is said is wrong
            or right as it says, and is not asked about.

    Raises:
        UserError: where there is no such leg.
    """
    named = {drawn.leg.name: drawn for drawn in run.legs}
    drawn = run.legs[0] if leg is None else named[choice("trace", "leg", leg, named)]
    answers = drawn.answers[0]
    said = predictions(run.questions, texts_of(answers), parser=parser)
    by_image: dict[str, list[Question]] = {}
    for question in run.questions:
        by_image.setdefault(question.image, []).append(question)
    wrong, found = 0, []
    for question, answer, word in zip(run.questions, answers, said, strict=True):
        if word is None or word == question.label:
            continue
        wrong += 1
        if is_unparsed(answer.text, parser=parser):
            continue
        misread = Misread(question.question_id, question.image, question.text, answer.text, question.label or "")
        asked = contrasted(misread, word, by_image[question.image])
        if asked is not None:
            found.append((-abs(answer.margin or 0.0), asked))
    found.sort(key=lambda one: one[0])
    answered = sum(word is not None for word in said)
    return WrongAnswers(drawn.leg.name, wrong, answered, [asked for _, asked in found])


def read_queries(path: Path) -> list[Misread]:
    """Choices of a file: records with image, texts (two or more) and right (positions of the right ones); where there
    are such, question_id (else the record's number), question, answer, truth.

    Raises:
        UserError: on anything else.
    """
    found: list[Misread] = []
    for number, (where, record) in enumerate(read_records(path), 1):
        texts: Any = record.get("texts")
        right: Any = record.get("right")
        if not isinstance(record.get("image"), str) or not record["image"].strip():
            raise UserError(f"{where}: image is {record.get('image')!r}; wanted a name below the images' folder.")
        if not _are(texts, str) or len(set(texts)) < max(len(texts), 2) or not all(text.strip() for text in texts):
            raise UserError(f"{where}: texts is {texts!r}; wanted two or more different strings.")
        if not _are(right, int) or not 0 < len(set(right)) < len(texts) or not all(0 <= r < len(texts) for r in right):
            raise UserError(
                f"{where}: right is {right!r}; wanted positions of one or more of {len(texts)} texts, and not all."
            )
        words = {name: record.get(name, "") for name in ("question", "answer", "truth")}
        if not all(isinstance(word, str) for word in words.values()):
            raise UserError(f"{where}: question, answer or truth is no string; wanted strings, or none.")
        one = record.get("question_id", number)
        if isinstance(one, bool) or not isinstance(one, (int, str)):
            raise UserError(f"{where}: question_id is {one!r}; wanted a whole number or a string.")
        found.append(Misread(one, record["image"], **words, texts=tuple(texts), right=tuple(sorted(set(right)))))
    ids = [str(one.question_id) for one in found]
    if len(set(ids)) < len(ids):
        raise UserError(f"{path}: a question_id occurs twice; wanted each once.")
    return found


def trace_all(
    tracer: Tracer,
    asked: Sequence[Misread],
    pictures: Path,
    folder: Path,
    *,
    done: Sequence[Traced],
    images: Path,
    top: int,
    tables: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Traced]:
    """Trace one wrong answer after the other, each written as it is done.

    Args:
        asked: with their texts.
        pictures: folder of the questions' images.
        folder: claimed.
        done: what it holds already, which is not traced again.
        images: folder of the pairs' images.
        top: pairs of either kind at most.
        tables: whether every pair's figures are written too, as FOLDER/scores/N.csv.
        progress: called with (done, in all).

    Returns:
        the traces of `asked`, in its order.

    Raises:
        NotSolvedError: see `ECIF.scores`; what was traced before stays.
    """
    known = {one.misread.question_id: one for one in done}
    for number, misread in enumerate(asked):
        if misread.question_id not in known:
            path: Path | None = None
            try:
                path = image_path(pictures, misread.image)
            except ImageError as error:
                traced = Traced(misread, reason=str(error))
            if path is not None:
                table = partial(_write_table, tracer, folder / SCORES / f"{number + 1}.csv") if tables else None
                traced = tracer.attempt(misread, path, top, hear=table)
            known[misread.question_id] = keep(folder, traced, picture=path, images=images)
        if progress is not None:
            progress(number + 1, len(asked))
    return [known[misread.question_id] for misread in asked]


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)


def _write_table(tracer: Tracer, path: Path, found: Influences) -> None:
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    for rank, pair in enumerate(tracer.rows(found), 1):
        row = {"rank": rank, **asdict(pair)}
        writer.writerow({key: "" if value != value else value for key, value in row.items()})
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, out.getvalue())
