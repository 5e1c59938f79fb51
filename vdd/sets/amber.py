"""Read AMBER: annotations, associated words, safe words, and responses.

    annotations  [{"id": 1, "type": "generative", "truth": ["sky"], "hallu": ["sun"]},
                  {"id": 1005, "type": "discriminative-attribute-state", "truth": "yes"}, …]
    association  {"sky": [], "grass": ["ground"], …}                                       relation.json
    safe words   one on a line                                                             safe_words.txt
    responses    [{"id": 1, "response": "A …"}, …], or our own answers; JSON lines as well

Source: AMBER's repository (arXiv:2311.07397). Its metrics.txt only starts its script's counters and is not read.
Knows: these forms. Does not know: what a response counts as, images.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vdd._check import UserError
from vdd.data import read_records
from vdd.sets.values import read_lines, read_object

KINDS: Mapping[str, str] = {
    "generative": "generative",
    "discriminative-hallucination": "existence",
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-relation": "relation",
    "relation": "relation",
}
"""An annotation's type → the kind of its item; the file calls relations by two names."""


@dataclass(frozen=True)
class Item:
    """What is true of one item.

    Attributes:
        item_id: AMBER's number.
        kind: of KINDS' values.
        present: generative: what is in the image.
        imagined: generative: what people would imagine in it.
        label: otherwise: "yes" or "no".
    """

    item_id: int
    kind: str
    present: tuple[str, ...] = ()
    imagined: tuple[str, ...] = ()
    label: str | None = None


def load_annotations(path: str | os.PathLike[str]) -> dict[int, Item]:
    """The items of an `annotations.json`, by id.

    Raises:
        UserError: if a record has no id of its own, an unknown type, or not the truth that its type has.
    """
    items: dict[int, Item] = {}
    for where, record in read_records(path):
        item_id = _id(record, where)
        if item_id in items:
            raise UserError(f"{where}: id {item_id} again; wanted each id once.")
        kind = KINDS.get(str(record.get("type")))
        if kind is None:
            raise UserError(f"{where}: type is {record.get('type')!r}; wanted one of {', '.join(KINDS)}.")
        if kind == "generative":
            items[item_id] = Item(item_id, kind, _words(record, "truth", where), _words(record, "hallu", where))
        elif record.get("truth") in ("yes", "no"):
            items[item_id] = Item(item_id, kind, label=record["truth"])
        else:
            raise UserError(f"{where}: truth is {record.get('truth')!r}; wanted yes or no.")
    return items


def load_association(path: str | os.PathLike[str]) -> dict[str, tuple[str, ...]]:
    """The words of a `relation.json`, each with those that may stand for it.

    Raises:
        UserError: if it is not one JSON object from words to lists of words.
    """
    tables = read_object(path, wanted="one JSON object from words to lists of words")
    return {word: _words(tables, word, str(path)) for word in tables}


def load_safe_words(path: str | os.PathLike[str]) -> frozenset[str]:
    """The words of a `safe_words.txt`, which are never hallucinated."""
    return frozenset(word for _, word in read_lines(path, wanted="a word on each line"))


def load_responses(path: str | os.PathLike[str]) -> dict[int, str]:
    """The responses of a file by the item's id, in the file's order.

    Args:
        path: records with `id` or `question_id`, and `response`, `text` or `answer`.

    Raises:
        UserError: on anything else, or an id that comes twice.
    """
    responses: dict[int, str] = {}
    for where, record in read_records(path):
        item_id = _id(record, where)
        text = next((record[key] for key in ("response", "text", "answer") if key in record), None)
        if not isinstance(text, str):
            has = ", ".join(record)
            raise UserError(f"{where}: no response in it (it has {has}); wanted a string as response, text or answer.")
        if item_id in responses:
            raise UserError(f"{where}: id {item_id} again; wanted one response to each item.")
        responses[item_id] = text
    return responses


def _id(record: Mapping[str, Any], where: str) -> int:
    value = record.get("id", record.get("question_id"))
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{where}: id is {value!r}; wanted AMBER's number as id or question_id.")
    return value


def _words(record: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    words = record.get(key)
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{where}: {key} is {words!r:.80}; wanted a list of words.")
    return tuple(words)
