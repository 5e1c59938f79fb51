"""Read MME: the official results folder, LLaVA's answer file, and the benchmark's own folder.

    results     SUBTASK.txt                        image ⇥ question ⇥ ground truth ⇥ answer, a line each
    benchmark   SUBTASK/NAME.txt, pictures beside  question ⇥ Yes or No, two lines
                SUBTASK/questions_answers_YN/NAME.txt, pictures in SUBTASK/images/

Source: MME (arXiv:2306.13394), its calculation.py, and the script by which LLaVA's answers become a results folder.
Two questions share an image, so an id is `SUBTASK/NAME#1` or `#2`, NAME being the picture's without its suffix: the
same in all three forms, whatever their suffixes and sub-folders.

Knows: files, ids, questions. Does not know: what an answer counts as, models.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vdd._check import UserError
from vdd.data import StoredAnswer
from vdd.records import Question, QuestionId

PERCEPTION = (
    "existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR",
)  # fmt: skip
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
SUBTASKS = PERCEPTION + COGNITION

_SUFFIX = re.compile(r"\.(?:jpe?g|png|txt)$", re.IGNORECASE)
_NUMBER = re.compile(r"#\d+$")
_INSTRUCTIONS = ("Answer the question using a single word or phrase.", "Please answer yes or no.")
"""The first is LLaVA's, the second MME's, which LLaVA's question file leaves out of some questions."""


def place_of(question_id: QuestionId) -> tuple[str, str]:
    """(subtask, image) of a question's id, the image without suffix and folder; LLaVA's ids do as well.

    Raises:
        UserError: if it is no such id.

    >>> place_of("code_reasoning/0020#2"), place_of("artwork/images/10002.jpg")
    (('code_reasoning', '0020'), ('artwork', '10002'))
    """
    subtask, _, rest = str(question_id).partition("/")
    image = _SUFFIX.sub("", _NUMBER.sub("", rest.rpartition("/")[2]))
    if subtask not in SUBTASKS or not image:
        raise UserError(
            f"question_id is {question_id!r}; wanted SUBTASK/IMAGE, the subtask one of {', '.join(SUBTASKS)}."
        )
    return subtask, image


def read_results(folder: str | os.PathLike[str]) -> tuple[list[Question], list[str | None]]:
    """The questions of an official results folder, and their answers in the same order.

    Args:
        folder: one `SUBTASK.txt` or more; other files are ignored. Answers may hold tabs or be empty.

    Returns:
        The questions by subtask, in the files' order, with labels "yes" or "no"; `image` is "SUBTASK/IMAGE".

    Raises:
        UserError: if there is no such file, or a line is broken.
    """
    files = [(subtask, Path(folder, f"{subtask}.txt")) for subtask in SUBTASKS]
    files = [(subtask, path) for subtask, path in files if path.is_file()]
    if not files:
        raise UserError(f"{folder}: {_content(folder)}; wanted a file for each subtask: existence.txt, count.txt, ….")
    questions: list[Question] = []
    texts: list[str | None] = []
    for subtask, path in files:
        asked: Counter[str] = Counter()
        for where, line in _lines(path):
            parts = line.split("\t", 3)
            if len(parts) < 4:
                raise UserError(
                    f"{where}: {_short(line)} has {len(parts) - 1} tabs; wanted image, question, ground truth and "
                    "answer, with tabs between. Does an answer hold a line break?"
                )
            name = _SUFFIX.sub("", parts[0].strip())
            asked[name] += 1
            questions.append(_question(subtask, name, asked[name], parts[1], parts[2], where))
            texts.append(parts[3])
    return questions, texts


def read_key(folder: str | os.PathLike[str]) -> list[Question]:
    """The questions of the benchmark's folder, without looking for their pictures; `image` is "SUBTASK/IMAGE".

    Args:
        folder: `MME_Benchmark_release_version`, of either layout in each subtask; other folders in it are ignored.

    Returns:
        By subtask and file name, with labels "yes" or "no".

    Raises:
        UserError: if it has no subtask, or a file is not two lines of question, tab, Yes or No.
    """
    present = [subtask for subtask in SUBTASKS if Path(folder, subtask).is_dir()]
    if not present:
        raise UserError(f"{folder}: {_content(folder)}; wanted a folder for each subtask: existence, count, ….")
    questions = []
    for subtask in present:
        apart = Path(folder, subtask, "questions_answers_YN")
        texts = sorted((apart if apart.is_dir() else apart.parent).glob("*.txt"))
        if not texts:
            raise UserError(f"{apart.parent}: no questions in it; wanted a .txt file for each image.")
        for path in texts:
            lines = _lines(path)
            if len(lines) != 2:
                raise UserError(f"{path}: {len(lines)} lines; wanted two, each a question, a tab, and Yes or No.")
            for number, (where, line) in enumerate(lines, start=1):
                text, tab, label = line.strip().rpartition("\t")
                if not tab:
                    raise UserError(f"{where}: no tab in {_short(line)}; wanted a question, a tab, and Yes or No.")
                questions.append(_question(subtask, path.stem, number, text, label, where))
    return questions


def read_questions(folder: str | os.PathLike[str]) -> list[Question]:
    """The questions of the benchmark's folder, `image` being the picture's path within it.

    Raises:
        UserError: as `read_key` does, and where a question has no picture or two.
    """
    questions = read_key(folder)
    pictures: dict[tuple[str, str], list[str]] = {}
    for subtask in {place_of(question.question_id)[0] for question in questions}:
        apart = Path(folder, subtask, "images")
        for path in sorted((apart if apart.is_dir() else apart.parent).iterdir()):
            if _SUFFIX.search(path.name) and path.suffix.lower() != ".txt":
                name = path.relative_to(folder).as_posix()
                pictures.setdefault((subtask, _SUFFIX.sub("", path.name)), []).append(name)
    placed = []
    for question in questions:
        found = pictures.get(place_of(question.question_id), [])
        if len(found) != 1:
            told = f"the pictures {', '.join(found)}" if found else "no picture"
            raise UserError(f"{folder}: question {question.question_id} has {told}; wanted one .jpg, .jpeg or .png.")
        placed.append(replace(question, image=found[0]))
    return placed


def match_answers(
    questions: Sequence[Question], answers: Sequence[StoredAnswer]
) -> tuple[list[Question], list[str | None]]:
    """The questions of those subtasks that were answered, and their answers in the same order.

    Args:
        questions: of `read_key` or `read_questions`.
        answers: of `load_answers`. The id gives subtask and image, the question, whatever the prompt around it, which
            of the image's two it is. An answer without its question needs the whole id, `SUBTASK/IMAGE#1`.

    Returns:
        Questions in their order; texts, None where a question stayed unanswered.

    Raises:
        UserError: if an answer has no id or fits no question, a question has two answers, or has none while others of
            its subtask have one.
    """
    by_id = {str(question.question_id): question for question in questions}
    by_image: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        by_image.setdefault(place_of(question.question_id), []).append(question)
    answered: dict[str, StoredAnswer] = {}
    for answer in answers:
        if answer.question_id is None:
            raise UserError(f"{answer.where}: no question_id; wanted SUBTASK/IMAGE, such as code_reasoning/0020.png.")
        try:
            place = place_of(answer.question_id)
        except UserError as error:
            raise UserError(f"{answer.where}: {error}") from None
        of_image = by_image.get(place, [])
        if answer.question is None:
            fitting = [by_id[str(answer.question_id)]] if str(answer.question_id) in by_id else []
        else:
            prompt = _core(answer.question)
            fitting = [question for question in of_image if _core(question.text) in prompt]
        if not fitting:
            asked = " and ".join(_short(question.text) for question in of_image) or "nothing"
            raise UserError(
                f"{answer.where}: answers {_short(answer.question)} of {answer.question_id!r}, where the benchmark "
                f"asks {asked}; wanted one of its questions. Do the answers belong to another version of MME?"
            )
        key = str(max(fitting, key=lambda question: len(question.text)).question_id)
        if key in answered:
            raise UserError(f"{answer.where}: answers {key} again, first in {answered[key].where}; wanted one answer.")
        answered[key] = answer
    came = {place_of(key)[0] for key in answered}
    asked_for = [question for question in questions if place_of(question.question_id)[0] in came]
    missing = [str(q.question_id) for q in asked_for if str(q.question_id) not in answered]
    if missing or not asked_for:
        told = f"none to {missing[0]}" if missing else "none at all"
        raise UserError(f"{len(answered)} answers to {len(asked_for)} questions of MME, {told}; wanted one to each.")
    return asked_for, [answered[str(question.question_id)].text for question in asked_for]


def _question(subtask: str, name: str, number: int, text: str, label: str, where: str) -> Question:
    truth = label.strip().lower()
    if not name or not text.strip() or truth not in ("yes", "no"):
        raise UserError(
            f"{where}: image {_short(name)}, question {_short(text)}, ground truth {_short(label)}; "
            "wanted none empty, and Yes or No as the ground truth."
        )
    return Question(f"{subtask}/{name}#{number}", f"{subtask}/{name}", text.strip(), truth)


def _core(text: str) -> str:
    """`text` without the instructions around the question, and with single spaces."""
    for instruction in _INSTRUCTIONS:
        text = text.replace(instruction, " ")
    return " ".join(text.split())


def _lines(path: Path) -> list[tuple[str, str]]:
    """Lines that are not blank, each with where it stands; tabs at their ends stay."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save it as UTF-8."
        ) from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    return [(f"{path}, line {number}", line) for number, line in enumerate(lines, start=1) if line.strip()]


def _content(folder: str | os.PathLike[str]) -> str:
    if not os.path.isdir(folder):
        return "no such folder"
    return f"it has {_short(', '.join(sorted(os.listdir(folder))) or 'nothing')}"


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"
