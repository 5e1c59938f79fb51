"""Read what users have: question files and answer files; write files that are never half there.

Question files: POPE, RePOPE and LLaVA, JSON lines or one JSON array. Answer files: ours, LLaVA's and POPE's own.
Every error names the file and the line, what stood there and what was wanted.

Knows: JSON. Does not know: models, prompts, scores, images.
"""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdd._check import UserError, choice
from vdd.records import Question, QuestionId

_SHOWN = 5  # ids listed in an error before "and … more"


@dataclass(frozen=True)
class StoredAnswer:
    """One answer as it stood in a file.

    Attributes:
        where: file and line, for error messages.
        question_id: None where the file carries none (POPE's own form).
        question: the question or the whole prompt; None where the file carries none.
        text: the answer; None where `error` is set, that is where the question stayed unanswered.
        error: why there is no answer.
    """

    where: str
    question_id: QuestionId | None
    question: str | None
    text: str | None
    error: str | None = None


def read_records(path: str | os.PathLike[str]) -> list[tuple[str, dict[str, Any]]]:
    """Every JSON object of a file, each with where it stands (`answers.jsonl, line 3`).

    Args:
        path: UTF-8, with or without a byte-order mark; JSON lines (blank ones are skipped) or one JSON array.

    Raises:
        UserError: if the file cannot be read, is not UTF-8, is empty, or a record is broken or not an object.
    """
    text = _read_text(path)
    if text.lstrip().startswith("["):
        values = _parse(text, path, line=1)
        records = [(f"{path}, item {number}", value) for number, value in enumerate(values, start=1)]
    else:
        # Not splitlines(): a raw U+2028 or U+0085 inside a JSON string does not end its line.
        lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
        records = [(f"{path}, line {number}", _parse(line, path, line=number)) for number, line in lines]
    if not records:
        raise UserError(f"{path}: there is nothing in it; wanted one JSON object per line, or a JSON array of objects.")
    for where, value in records:
        if not isinstance(value, dict):
            raise UserError(f"{where}: found {_short(value)}; wanted a JSON object.")
    return records


def load_questions(path: str | os.PathLike[str], *, labels: Iterable[str] | None = None) -> list[Question]:
    """The questions of a POPE, RePOPE or LLaVA file, in the file's order.

    Args:
        path: records with `question_id` (whole number or string; 1 and "1" are the same), `image`, `text`, and
            `label` where there is one; other keys are ignored.
        labels: the labels that may occur; then every question must have one, and it is stored in lower case without
            surrounding spaces. None takes labels as they are, missing ones included.

    Raises:
        UserError: on anything else; see `read_records`.
    """
    known = None if labels is None else tuple(label.strip().lower() for label in labels)
    questions: list[Question] = []
    first_seen: dict[str, str] = {}
    for where, record in read_records(path):
        for key in ("question_id", "image", "text"):
            if key not in record:
                has = ", ".join(record) or "nothing"
                raise UserError(f"{where}: no {key!r} in it (it has {has}); wanted question_id, image, text, label.")
        question_id = _question_id(record, where)
        if str(question_id) in first_seen:
            earlier = first_seen[str(question_id)]
            raise UserError(f"{where}: question_id {question_id!r} again, first in {earlier}; wanted each id once.")
        first_seen[str(question_id)] = where
        label = record.get("label")
        if known is not None:
            if label is None:
                raise UserError(f"{where}: no label; wanted one of {', '.join(known)}.")
            cleaned = label.strip().lower() if isinstance(label, str) else label
            if cleaned not in known:
                raise UserError(f"{where}: label is {_short(label)}; wanted one of {', '.join(known)}.")
            label = cleaned
        elif not isinstance(label, (str, type(None))):
            raise UserError(f"{where}: label is {_short(label)}; wanted a string.")
        questions.append(Question(question_id, _filled(record, "image", where), _filled(record, "text", where), label))
    return questions


def load_answers(path: str | os.PathLike[str]) -> list[StoredAnswer]:
    """The answers of a file, in the file's order: our own `Answer` lines, LLaVA's, POPE's, or a JSON array of such.

    Args:
        path: records with `question_id`, or the question as `question` or `prompt`, or both; and the answer as `text`
            or `answer`, a string that may be empty. A record with an `error` needs no answer: it has text None.

    Raises:
        UserError: on anything else; see `read_records`. Whether ids fit the questions is for `match_answers` to say.
    """
    return [_stored_answer(record, where) for where, record in read_records(path)]


def match_answers(
    questions: Sequence[Question], answers: Sequence[StoredAnswer], *, unknown: str = "error"
) -> list[str | None]:
    """The answers' texts in the order of the questions; None where a question stayed unanswered.

    By question_id where the answers carry ids, else by position. Where an answer carries its question, that must hold
    the question's text, whatever the case, the spaces and the prompt around it: POPE's splits all number their
    questions from 1 to 3,000, so that ids alone would let one split's answers be scored against another's questions.

    Args:
        questions: ids unique.
        answers: as many as questions.
        unknown: what to do with answers to ids that are not among the questions: "error", or "drop" them, as RePOPE
            needs it, which keeps POPE's ids but leaves out the questions that nobody can answer.

    Raises:
        UserError: on missing, duplicated or unknown ids, other counts, other questions, or a question file in the
            answers' place.
    """
    choice("match_answers", "unknown", unknown, ("error", "drop"))
    without_id = [answer for answer in answers if answer.question_id is None]
    if not without_id:
        ordered = _by_id(questions, answers, unknown)
    elif len(without_id) < len(answers):
        raise UserError(f"{without_id[0].where}: no question_id, but other answers have one; wanted it in all or none.")
    elif len(answers) != len(questions):
        raise UserError(
            f"match_answers: {len(answers)} answers without question_id for {len(questions)} questions; "
            "wanted as many, in the same order."
        )
    else:
        ordered = list(answers)
    pairs = list(zip(questions, ordered, strict=True))
    differing = [(q, a) for q, a in pairs if a.question is not None and _plain(q.text) not in _plain(a.question)]
    if differing:
        question, answer = differing[0]
        raise UserError(
            f"{answer.where}: answers {_short(answer.question)}, but question {question.question_id!r} is "
            f"{_short(question.text)}; {len(differing)} of {len(pairs)} differ. Do the answers belong to another split?"
        )
    if pairs and all(a.text is not None and _plain(a.text) == _plain(q.text) for q, a in pairs):
        raise UserError(f"{ordered[0].where}: the answers are the questions; was the question file passed twice?")
    return [answer.text for answer in ordered]


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write `content`, text as UTF-8, to `path` so that readers see the old file or the new one, never a part of it.

    Args:
        path: in an existing folder; a symbolic link keeps pointing where it does.
        content: written as it is, without translating line ends.

    Raises:
        UserError: if the folder is missing or not writable, or `path` is a folder.
    """
    with draft_of(path) as draft:
        draft.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def draft_of(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A new file beside `path` that takes its place, whole and on the disk, once the block has written it.

    Raises:
        UserError: see `write_atomic`.
    """
    target = Path(os.path.realpath(path))
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield draft
        with open(draft, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(draft, target)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}).") from error
    finally:
        with suppress(OSError):  # there is none once it has taken the target's place
            draft.unlink()


def _read_text(path: str | os.PathLike[str]) -> str:
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder; wanted a file of JSON lines.")
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; wanted a file of JSON lines.") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; save it as UTF-8."
        ) from None


def _parse(text: str, path: str | os.PathLike[str], *, line: int) -> Any:
    """The JSON value of `text`, which begins on line `line` of the file."""
    wanted = "wanted one JSON object per line, or a JSON array of objects"
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise UserError(f"{path}, line {line}: half of a surrogate pair in it; {wanted}.") from None
    except json.JSONDecodeError as error:
        shown = _short(text.split("\n")[error.lineno - 1].strip())
        at = f"{path}, line {line + error.lineno - 1}"
        raise UserError(f"{at}: broken JSON ({error.msg} at column {error.colno}): {shown}; {wanted}.") from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, endless nesting
        raise UserError(f"{path}, line {line}: unreadable JSON ({error}); {wanted}.") from None


def _stored_answer(record: Mapping[str, Any], where: str) -> StoredAnswer:
    question_id = _question_id(record, where) if record.get("question_id") is not None else None
    question = next((_filled(record, key, where) for key in ("question", "prompt") if key in record), None)
    if question_id is None and question is None:
        has = ", ".join(record) or "nothing"
        raise UserError(f"{where}: no question_id and no question in it (it has {has}); wanted one of them.")
    if record.get("error") is not None:
        return StoredAnswer(where, question_id, question, text=None, error=str(record["error"]))
    texts = [record[key] for key in ("text", "answer") if key in record]
    if not texts:
        has = ", ".join(record)
        raise UserError(f"{where}: no answer in it (it has {has}); wanted it as text or answer, or else an error.")
    if not isinstance(texts[0], str):
        raise UserError(f"{where}: the answer is {_short(texts[0])}; wanted a string.")
    if texts[0] != texts[-1]:
        raise UserError(f"{where}: text is {_short(texts[0])} but answer is {_short(texts[1])}; wanted one of them.")
    return StoredAnswer(where, question_id, question, text=texts[0])


def _by_id(questions: Sequence[Question], answers: Sequence[StoredAnswer], unknown: str) -> list[StoredAnswer]:
    by_id = {str(answer.question_id): answer for answer in answers}
    wanted = [str(question.question_id) for question in questions]
    among = set(wanted)
    faults = {
        "duplicated": [key for key, count in Counter(str(a.question_id) for a in answers).items() if count > 1],
        "missing": [key for key in wanted if key not in by_id],
        "unknown": [key for key in by_id if key not in among] if unknown == "error" else [],
        "duplicated among the questions": [key for key, count in Counter(wanted).items() if count > 1],
    }
    if any(faults.values()):
        told = "; ".join(f"{len(ids)} {fault} ({_listed(ids)})" for fault, ids in faults.items() if ids)
        raise UserError(
            f"match_answers: {len(answers)} answers do not fit {len(questions)} questions by question_id: {told}; "
            "wanted one answer to each question. Do they belong to another question file?"
        )
    return [by_id[key] for key in wanted]


def _question_id(record: Mapping[str, Any], where: str) -> QuestionId:
    value = record["question_id"]
    if isinstance(value, bool) or not isinstance(value, (int, str)) or value == "":
        raise UserError(f"{where}: question_id is {_short(value)}; wanted a whole number or a string.")
    return value


def _filled(record: Mapping[str, Any], key: str, where: str) -> str:
    value = record[key]
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{where}: {key} is {_short(value)}; wanted a string that is not empty.")
    return value


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def _listed(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(ids[:_SHOWN]) + more
