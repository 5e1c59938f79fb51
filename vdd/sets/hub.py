"""POPE and MME as the Hub holds them: parquet with the pictures inside; questions out, pictures into a folder.

    lmms-lab/POPE   id, question_id, question, answer, image_source, image, category    random, popular, adversarial
    lmms-lab/MME    question_id, image, question, answer, category                      a category a subtask

Sources: the sets' own lists of columns. POPE's `image_source` lacks the ".jpg" of POPE's own files; with it, and with
one category chosen, the questions are those of the category's file, and a score has the same signature in either form.
MME's `question_id` is subtask/file and stands for two questions; their ids are those of `vdd.sets.mme`.

Knows: columns, records. Does not know: parquet, models, scores, what is in a picture.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from vdd._check import UserError, choice, whole
from vdd.records import Question, QuestionId
from vdd.sets.mme import place_of
from vdd.sets.parquet import IMAGE, Part, parquet_files
from vdd.sets.pictures import PictureFolder

COLUMNS = {
    "pope": ("question_id", "question", "answer", "category", "image_source"),
    "mme": ("question_id", "question", "answer", "category"),
}
"""What is read beside the pictures, by benchmark."""

LABELS = ("yes", "no")


def load_hub(
    source: str | os.PathLike[str],
    images: str | os.PathLike[str],
    *,
    benchmark: str = "pope",
    category: str | None = None,
    limit: int | None = None,
) -> list[Question]:
    """The questions of a set in its order; afterwards their pictures lie in `images`, each once.

    Nothing is written where a question has a fault. After a killed call the same call writes what is missing.

    Args:
        source: parquet file, folder of such, or a name on the Hub; see `parquet_files`.
        images: folder for the pictures; need not exist. They are stored byte for byte, undecoded.
        benchmark: "pope" or "mme".
        category: the only one that is taken. POPE's categories number their questions alike, so that its ids are
            question_id with it, category/question_id without.
        limit: only the first so many, ≥ 1.

    Returns:
        Questions labelled "yes" or "no", with unique ids.

    Raises:
        UserError: as `parquet_files` and `Part` raise it; on values other than wanted, or an id that comes twice; where
            there is no question of the category, or a picture cannot be kept.
    """
    columns = COLUMNS[choice("load_hub", "benchmark", benchmark, COLUMNS)]
    if limit is not None:
        whole("load_hub", "limit", limit, low=1)
    parts = [Part(path, (*columns, IMAGE)) for path in parquet_files(source)]
    questions: list[Question] = []
    rows: list[dict[int, str]] = [{} for _ in parts]  # of each part: row → image
    for place, number, question in _asked(parts, columns, benchmark, category):
        questions.append(question)
        rows[place][number] = question.image
        if len(questions) == limit:
            break
    kept = PictureFolder(Path(images))
    for part, names in zip(parts, rows, strict=True):
        for number, content in part.pictures(names):
            kept.keep(names[number], content, part.where(number))
    return questions


def name_parts(benchmark: str, questions: Sequence[Question], *, category: str | None = None) -> tuple[str, ...]:
    """The names in the signature of questions from `load_hub`, as `name_parts_of` gives those of a question file.

    >>> name_parts("pope", [Question(1, "COCO_val2014_000000310196.jpg", "?", "yes")], category="random")
    ('pope', 'coco', 'random')
    """
    of_coco = all(question.image.startswith("COCO_") for question in questions)
    names = (benchmark, "coco" if of_coco else "", re.sub(r"[|\s]+", "_", category or ""))
    return tuple(name for name in names if name)


def _asked(
    parts: Sequence[Part], columns: Sequence[str], benchmark: str, category: str | None
) -> Iterator[tuple[int, int, Question]]:
    """(part, row, question) of every question that is wanted; UserError after the last row if there was none."""
    first_seen: dict[QuestionId, str] = {}
    categories: dict[str, None] = {}
    times: Counter[str] = Counter()
    for place, part in enumerate(parts):
        for number, row in enumerate(part.rows(columns)):
            where = part.where(number)
            found = _filled(row, "category", where)
            categories[found] = None
            if category not in (None, found):
                continue
            times[str(row["question_id"])] += 1
            if benchmark == "pope":
                question = _of_pope(row, where, alone=category is not None)
            else:
                question = _of_mme(row, where, times[str(row["question_id"])])
            earlier = first_seen.setdefault(question.question_id, where)
            if earlier != where:
                raise UserError(
                    f"{where}: question {question.question_id!r} again, first in {earlier}; wanted it once."
                )
            yield place, number, question
    if not first_seen:
        told = f"unknown category {category!r}; known: {', '.join(categories)}" if categories else "no rows in it"
        raise UserError(f"{parts[0].path}: {told}.")


def _of_pope(row: Mapping[str, Any], where: str, *, alone: bool) -> Question:
    name = _filled(row, "image_source", where)
    image = name if PurePosixPath(name).suffix else f"{name}.jpg"
    own = _question_id(row, where)
    return Question(own if alone else f"{row['category']}/{own}", image, *_text_and_label(row, where))


def _of_mme(row: Mapping[str, Any], where: str, number: int) -> Question:
    name = _filled(row, "question_id", where)
    try:
        subtask, picture = place_of(name)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return Question(f"{subtask}/{picture}#{number}", name, *_text_and_label(row, where))


def _question_id(row: Mapping[str, Any], where: str) -> QuestionId:
    """The id; a whole number where it is one, as in POPE's own files, also if it is stored as a string."""
    value = row["question_id"]
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    name = _filled(row, "question_id", where)
    return int(name) if re.fullmatch(r"0|[1-9][0-9]{0,17}", name) else name


def _text_and_label(row: Mapping[str, Any], where: str) -> tuple[str, str]:
    text, answer = _filled(row, "question", where).strip(), _filled(row, "answer", where)
    label = answer.strip().lower()
    if label not in LABELS:
        raise UserError(f"{where}: answer is {answer!r}; wanted one of {', '.join(LABELS)}.")
    return text, label


def _filled(row: Mapping[str, Any], column: str, where: str) -> str:
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {column} is {value!r}; wanted a string that is not empty.")
    return value
