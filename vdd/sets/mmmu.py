"""Read MMMU's key and answers to it.

    key       {"validation_Math_15": {"question_type": "short-answer", "ground_truth": ["24/7", "3.429"]}, …}, which is
              the official answer_dict_val.json; or records with id, question_type, answer and options, as the question
              files and the official output.json have them
    answers   {"validation_Math_15": "3.43", …}; or records with id or question_id, and response, text or answer

Source: MMMU (arXiv:2311.16502), its main_eval_only.py and main_parse_and_eval.py. Records are JSON lines or an array.

Knows: JSON. Does not know: subjects, what an answer counts as.
"""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdd._check import UserError
from vdd.data import read_records

MULTIPLE_CHOICE = "multiple-choice"
_KINDS = (MULTIPLE_CHOICE, "short-answer", "open")


@dataclass(frozen=True)
class KeyItem:
    """What is right for one question.

    Attributes:
        question_id: `validation_Accounting_1`: split, subject, number.
        answers: at least one; each of them is right. Letters for multiple choice.
        options: the texts behind A, B, …; empty where the key has none, and for open questions.
        is_open: whether the answer is a text or number of its own, not a letter.
    """

    question_id: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    is_open: bool = False


def read_key(path: str | os.PathLike[str]) -> list[KeyItem]:
    """The items of a key, in the file's order.

    Args:
        path: as above. `options` is a list, or a list written out as a string, as the question files have it; or
            `index2ans`, the texts by letter, as output.json has it.

    Raises:
        UserError: if the file is broken, an id comes twice, or an item lacks its type or answer.
    """
    return [_key_item(question_id, value, where) for where, question_id, value in _entries(path)]


def read_answers(path: str | os.PathLike[str]) -> dict[str, str | None]:
    """Answers by question id; None where a record has an `error` in the answer's place.

    Raises:
        UserError: if the file is broken, an id comes twice, or an answer is missing or no string.
    """
    return {question_id: _answer(value, where) for where, question_id, value in _entries(path)}


def match_answers(key: Sequence[KeyItem], answers: Mapping[str, str | None]) -> tuple[list[KeyItem], list[str | None]]:
    """The items of those subjects that were answered, and their answers, in the key's order.

    Raises:
        UserError: if an answer's id is not in the key, or an item has none while others of its subject have one.
    """
    known = {item.question_id for item in key}
    unknown = [question_id for question_id in answers if question_id not in known]
    came = {_stem(question_id) for question_id in answers}
    items = [item for item in key if _stem(item.question_id) in came]
    missing = [item.question_id for item in items if item.question_id not in answers]
    faults = {"not in the key": unknown, "without an answer, though others of their subject have one": missing}
    for fault, ids in faults.items():
        if ids:
            shown = ", ".join(ids[:5]) + (", …" if len(ids) > 5 else "")
            raise UserError(
                f"MMMU: {len(ids)} ids {fault} ({shown}); wanted one answer to each question of a subject. "
                "Do they belong to another split?"
            )
    return items, [answers[item.question_id] for item in items]


def _stem(question_id: str) -> str:
    """Split and subject."""
    return question_id.rpartition("_")[0]


def _entries(path: str | os.PathLike[str]) -> list[tuple[str, str, Any]]:
    """(where, id, value) of each entry of an object by id, or of each record."""
    whole = _object(path)
    if whole is not None and not {"id", "question_id"}.intersection(whole):
        found = [(f"{path}, {question_id}", question_id, value) for question_id, value in whole.items()]
    else:
        found = []
        for where, record in read_records(path):
            question_id = record.get("id", record.get("question_id"))
            if not isinstance(question_id, str) or not question_id:
                raise UserError(f"{where}: id is {question_id!r}; wanted a string such as 'validation_Accounting_1'.")
            found.append((where, question_id, record))
    first: dict[str, str] = {}
    for where, question_id, _ in found:
        if first.setdefault(question_id, where) != where:
            raise UserError(f"{where}: {question_id} again, first in {first[question_id]}; wanted each id once.")
    if not found:
        raise UserError(f"{path}: there is nothing in it; wanted MMMU's questions by id.")
    return found


def _object(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The file as one JSON object, None where it is anything else, which `read_records` then reads or refuses."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise UserError(f"{path}: {twice!r} twice in one object; wanted each id once.")
        return value

    try:
        value = json.loads(Path(path).read_text("utf-8-sig"), object_pairs_hook=once)
    except UserError:
        raise
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _key_item(question_id: str, value: Any, where: str) -> KeyItem:
    if not isinstance(value, dict):
        raise UserError(f"{where}: {_short(value)}; wanted an object of question_type and ground_truth. Is it a key?")
    kind = value.get("question_type")
    if kind not in _KINDS:
        raise UserError(f"{where}: question_type is {_short(kind)}; wanted one of {', '.join(_KINDS)}.")
    truth = value.get("ground_truth", value.get("answer"))
    is_open = kind != MULTIPLE_CHOICE
    listed = _texts(truth) if isinstance(truth, list) or is_open else None
    answers: tuple[Any, ...] = (truth,) if listed is None else listed
    if not answers or not all(isinstance(answer, str) and answer for answer in answers):
        raise UserError(f"{where}: ground_truth is {_short(truth)}; wanted a string, or several, none empty.")
    options: tuple[str, ...] | None = ()
    if not is_open and "options" in value:
        options = _texts(value["options"])
    elif not is_open and "index2ans" in value:
        by_letter = value["index2ans"]
        in_order = isinstance(by_letter, dict) and [*by_letter] == [chr(ord("A") + i) for i in range(len(by_letter))]
        options = _texts(list(by_letter.values())) if in_order else None
    if options is None:
        raise UserError(f"{where}: options are {_short(value.get('options', value.get('index2ans')))}; wanted strings.")
    return KeyItem(question_id, answers, options, is_open)


def _texts(value: Any) -> tuple[str, ...] | None:
    """A list of strings, also where it is written out as a string; None for anything else."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return tuple(value) if isinstance(value, list) and all(isinstance(text, str) for text in value) else None


def _answer(value: Any, where: str) -> str | None:
    if isinstance(value, dict):
        if value.get("error") is not None:
            return None
        if "question_type" in value and "response" not in value and "text" not in value:
            raise UserError(f"{where}: holds a question and no response to it; was the key passed as answers?")
        value = next((value[name] for name in ("response", "text", "answer") if name in value), None)
    if not isinstance(value, str):
        raise UserError(f"{where}: the answer is {_short(value)}; wanted a string, as response, text or answer.")
    return value


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"
