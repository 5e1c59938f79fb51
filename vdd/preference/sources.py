"""Files of questions about images with good answers → rows, and which of them cannot be used.

    image | images    a file's name below the folder of the images, or several        id    optional; else the line
    prompt | question | text                                                          answer | chosen

JSON lines, one JSON array, CSV, TSV, or parquet with names (PyArrow, extra `eval`); and LLaVA's instruction form:

    {"id": …, "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nWhat …?"},
                                                  {"from": "gpt", "value": "A …"}, …]}

of which the first turn is a row. A later turn's prompt is the conversation before it, which a row does not hold: it is
refused as "id#2", "id#3", …. An image's placeholder is taken off a prompt's beginning or end, and refused elsewhere.
What cannot be used is listed with its reason; a file that cannot be read, and an id that occurs twice, are errors.
In conversations, where published files repeat ids, the second becomes `id~2`, and so on.
Images are looked for, not decoded: a broken one is refused when it is sampled from.

Knows: files, names. Does not know: models, what is in an image.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from vdd._check import UserError
from vdd.images import ImageError, image_path
from vdd.preference.pairs import Refused, Row
from vdd.sets.tables import ID, Columns, read_table

IMAGES, PROMPTS, ANSWERS = ("images", "image"), ("prompt", "question", "text"), ("answer", "chosen")
CONVERSATIONS = "conversations"
LATER = "its prompt is the conversation before it, and a row holds one question"
"""Why a conversation's later turns are refused."""
PLACEHOLDER = re.compile(
    r"<image>|<image_soft_token>|<start_of_image>|<\|image(?:_pad|_start)?\|>|<\|vision_start\|>|<IMG_CONTEXT>|\[IMG\]"
)
"""What stands for an image in the prompts of the families."""

_SHOWN = 3
"""Rows that are told of where none can be used."""


class _Unusable(Exception):
    """Why a row cannot be used."""


def read_rows(path: Path, images: Path) -> tuple[list[Row], list[Refused]]:
    """The rows of a file whose images stand in a folder, in the file's order, and what cannot be used.

    Args:
        path: the file; its ending tells CSV, TSV and parquet from JSON.
        images: the folder; no name leads out of it.

    Raises:
        UserError: where the file or the folder cannot be read, an id occurs twice, or no row can be used.
    """
    if not images.is_dir():
        what = "no folder but a file" if images.exists() else "no such folder"
        raise UserError(f"{images}: {what}; wanted the folder of the images that {path.name} names.")
    rows: list[Row] = []
    refused: list[Refused] = []
    first_seen: dict[str, str] = {}
    for record in read_table(path, _COLUMNS):
        given = record.values.get(ID)
        one = record.number if _absent(given) else given
        label = one if isinstance(one, (int, str)) and not isinstance(one, bool) else record.where
        if str(label) in first_seen and CONVERSATIONS in record.values:
            again = next(number for number in count(2) if f"{label}~{number}" not in first_seen)
            one = label = f"{label}~{again}"
        if str(label) in first_seen:
            earlier = first_seen[str(label)]
            raise UserError(f"{record.where}: id {label!r} again, first in {earlier}; wanted each id once.")
        first_seen[str(label)] = record.where
        try:
            if record.fault or label is not one:
                raise _Unusable(record.fault or f"id is {_short(one)}; wanted a whole number or a string")
            rows.append(_row(one, record.values, images))
        except _Unusable as error:
            refused.append(Refused(label, str(error)))
        refused += [Refused(f"{label}#{turn}", f"turn {turn}: {LATER}") for turn in _later_turns(record.values)]
    if not rows:
        told = "; ".join(f"{one.id}: {one.reason}" for one in refused[:_SHOWN]) or "there is no row"
        raise UserError(f"{path}: no row can be used ({told}); wanted some with image, prompt and answer.")
    return rows, refused


def picture_names(record: Mapping[str, Any], keys: Sequence[str] = IMAGES) -> list[Any]:
    """What a record says of its images, whatever it is; of a table's cell, a JSON list is read as one."""
    value = next((record[key] for key in keys if not _absent(record.get(key))), None)
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            return [value]
    return value if isinstance(value, list) else [] if value is None else [value]


def _row(one: int | str, record: Mapping[str, Any], images: Path) -> Row:
    names = picture_names(record)
    if not names:
        raise _Unusable("no image; wanted one, since what is changed is what depends on it")
    prompt, answer = _turn(record) if CONVERSATIONS in record else (_text(record, PROMPTS), _text(record, ANSWERS))
    return Row(one, tuple(_place(images, name) for name in names), _bare(prompt, len(names)), _answer(answer))


def _place(images: Path, name: Any) -> Path:
    if not isinstance(name, str) or not name.strip():
        raise _Unusable(f"image is {_short(name)}; wanted the name of a file below the folder")
    try:
        place = image_path(images, name)
    except ImageError as error:
        raise _Unusable(str(error)) from error
    if not os.path.isfile(place):  # which takes names that no file can have for missing ones
        raise _Unusable(f"image {name[:80]}: {'is a folder' if os.path.isdir(place) else 'no such file'}")
    if not place.stat().st_size:
        raise _Unusable(f"image {name}: 0 bytes")
    return place


def _text(record: Mapping[str, Any], keys: Sequence[str]) -> str:
    key = next((key for key in keys if not _absent(record.get(key))), None)
    if key is None:
        there = next((key for key in keys if key in record), None)
        raise _Unusable(f"no {' or '.join(keys)}" if there is None else f"{there} is empty")
    value = record[key]
    if not isinstance(value, str):
        raise _Unusable(f"{key} is {_short(value)}; wanted a string")
    return value


def _turn(record: Mapping[str, Any]) -> tuple[str, str]:
    """A conversation's first question and its answer."""
    turns = record[CONVERSATIONS]
    if not isinstance(turns, list) or len(turns) < 2:
        raise _Unusable(f"conversations is {_short(turns)}; wanted a list of a question and its answer at least")
    said = []
    for turn, who in zip(turns, ("human", "gpt"), strict=False):
        speaker, value = (turn.get("from"), turn.get("value")) if isinstance(turn, dict) else (None, None)
        if speaker != who:
            raise _Unusable(f"the conversation begins {_short(turn)}; wanted a turn from human, then one from gpt")
        if not isinstance(value, str) or not value.strip():
            raise _Unusable(f"what {who} says is {_short(value)}; wanted a text")
        said.append(value)
    return said[0], said[1]


def _later_turns(record: Mapping[str, Any]) -> range:
    """Numbers of the pairs of turns after the first."""
    turns = record.get(CONVERSATIONS)
    return range(2, len(turns) // 2 + 1) if isinstance(turns, list) else range(0)


def _bare(prompt: str, count: int) -> str:
    """The prompt without its placeholders, which are none or one an image."""
    found = PLACEHOLDER.findall(prompt)
    if not found:
        return prompt
    if len(found) != count:
        raise _Unusable(f"{len(found)} placeholders for {count} images in the prompt")
    edge = f"(?:\\s*(?:{PLACEHOLDER.pattern})\\s*)"
    bare = re.sub(f"^{edge}+|{edge}+$", "", prompt)
    if PLACEHOLDER.search(bare):
        raise _Unusable("a placeholder within the prompt; wanted it at the beginning or the end")
    if not bare.strip():
        raise _Unusable("the prompt is empty but for its placeholder")
    return bare


def _answer(answer: str) -> str:
    found = PLACEHOLDER.search(answer)
    if found:
        raise _Unusable(f"the answer holds {found.group()!r}, which stands for an image")
    return answer.strip()


def _lacking(names: Collection[str]) -> list[str]:
    wanted = (IMAGES,) if CONVERSATIONS in names else (IMAGES, PROMPTS, ANSWERS)
    return [" or ".join(keys) for keys in wanted if not set(keys).intersection(names)]


_COLUMNS = Columns(
    lacking=_lacking,
    read=(ID, CONVERSATIONS, *IMAGES, *PROMPTS, *ANSWERS),
    images=IMAGES,
    wanted="a file of questions with good answers",
    told="image, prompt, answer, and where there are such id",
)


def _absent(value: Any) -> bool:
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"
