"""Stored pairs as they stand in a file, row by row, and what of a row is no pair.

The form is TRL's vision-preference one, see `dataset`. Rows come one by one; a row that is no pair stops nothing.

Knows: JSON lines, parquet (PyArrow, extra `train`), the form. Does not know: how it is written, what is in an image.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdd._check import UserError
from vdd.data import read_records
from vdd.images import ImageError, Picture, image_path
from vdd.preference.pairs import Pair
from vdd.preference.sources import PLACEHOLDER, picture_names
from vdd.sets.tables import table_id

PARQUET, LINES = "pairs.parquet", "pairs.jsonl"
"""What a folder of pairs holds."""
SPOKEN = ("prompt", "chosen", "rejected")
NEEDED = ("images", *SPOKEN)
"""Columns that every file has."""

_TEXTS = ("source", "measure", "model")
_LOWEST = {"iteration": 1, "seed": 0}


class Malformed(Exception):
    """What a stored pair has that no pair can have, in words."""


@dataclass(frozen=True)
class Stored:
    """One row of a file as it stands there.

    Attributes:
        number: of the line or row, from 1.
        where: file and line, for messages.
        values: by column.
        fault: what is wrong with the line as a whole; then there are no values.
    """

    number: int
    where: str
    values: Mapping[str, Any]
    fault: str = ""


def pairs_file(path: Path) -> Path:
    """The file itself, or a folder's pairs.parquet, else its pairs.jsonl.

    Raises:
        UserError: where there is none.
    """
    if not path.is_dir():
        return path
    found = next((path / name for name in (PARQUET, LINES) if (path / name).is_file()), None)
    if found is None:
        raise UserError(f"{path}: holds no {PARQUET} and no {LINES}; wanted the folder of a finished `vdd prefer`.")
    return found


def stored_rows(path: Path, *, bytes_too: bool = True) -> Iterator[Stored]:
    """Every row of a file as it stands there; lines that are no JSON object are told of, and do not stop the others.

    Args:
        path: parquet, or else JSON lines or one array.
        bytes_too: whether a parquet file's images are read; their names are in any case.

    Raises:
        UserError: where the file cannot be read, or is a parquet file that lacks a column of NEEDED.
    """
    yield from _parquet_rows(path, bytes_too) if path.suffix.lower() == ".parquet" else _lines(path)


def pair_of(row: Stored, base: Path) -> Pair:
    """The pair that stands in a row, its images as paths below `base`, or as bytes.

    Raises:
        Malformed: where none does.
    """
    if row.fault:
        raise Malformed(row.fault)
    (prompt, parts), (chosen, _), (rejected, _) = (spoken(row.values, name) for name in SPOKEN)
    images = pictures_of(row.values, base)
    check_image_parts(parts, len(images))
    check_differ(chosen, rejected)
    return Pair(id_of(row), images, prompt, chosen, rejected, **explained(row.values))


def check_image_parts(parts: int | None, images: int) -> None:
    """Raise Malformed where a prompt has image parts, and not as many as there are images."""
    if parts not in (None, images):
        raise Malformed(f"the prompt has {parts} image parts for {images} images")


def check_differ(chosen: str, rejected: str) -> None:
    """Raise Malformed where both answers are the same."""
    if chosen.strip() == rejected.strip():
        raise Malformed("chosen and rejected are the same text")


def id_of(row: Stored) -> int | str:
    """The row's id; its number where it has none.

    Raises:
        Malformed: where it is neither a whole number nor a text.
    """
    one = row.values.get("id")
    if one is None:
        return row.number
    if isinstance(one, bool) or not isinstance(one, (int, str)) or not str(one).strip():
        raise Malformed(f"id is {_short(one)}; wanted a whole number or a text")
    _check_letters("id", str(one))
    return one


def spoken(values: Mapping[str, Any], name: str) -> tuple[str, int | None]:
    """What one of SPOKEN says: its text, and its image parts; None where the content is a bare text.

    Raises:
        Malformed: where it is not one message of the right role with a text, images before it.
    """
    messages = values.get(name)
    if not isinstance(messages, list) or len(messages) != 1 or not isinstance(messages[0], dict):
        many = f"{len(messages)} messages" if isinstance(messages, list) else _short(messages)
        raise Malformed(f"{name} is {'missing' if messages is None else many}; wanted a list of one message")
    role, content = messages[0].get("role"), messages[0].get("content")
    wanted = "user" if name == "prompt" else "assistant"
    if role != wanted:
        raise Malformed(f"{name} has the role {_short(role)}; wanted {wanted!r}")
    parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise Malformed(f"{name} has the content {_short(content)}; wanted a text or a list of parts")
    kinds = [part.get("type") for part in parts]
    if kinds != ["image"] * (len(kinds) - 1) + ["text"] or (name != "prompt" and len(kinds) > 1):
        raise Malformed(f"{name} has parts {_short(kinds)}; wanted {'images, then ' * (name == 'prompt')}one text")
    text = parts[-1].get("text")
    if not isinstance(text, str) or not text.strip():
        raise Malformed(f"{name} {'is empty' if text is None or isinstance(text, str) else f'says {_short(text)}'}")
    _check_text(name, text)
    return text, None if isinstance(content, str) else len(kinds) - 1


def pictures_of(values: Mapping[str, Any], base: Path) -> tuple[Picture, ...]:
    """A row's images: bytes, or paths below `base`, which need not exist.

    Raises:
        Malformed: where there is none, or a name leads out of `base`.
    """
    given = picture_names(values)
    held = [one.get("bytes") or one.get("path") if isinstance(one, dict) else one for one in given]
    found = [one for one in held if isinstance(one, (bytes, str))]
    if not found or len(found) < len(held):
        raise Malformed(f"images is {_short(given) if given else 'missing'}; wanted files' names or their bytes")
    try:
        return tuple(image_path(base, one) if isinstance(one, str) else one for one in found)
    except ImageError as error:
        raise Malformed(str(error)) from error


def explained(values: Mapping[str, Any]) -> dict[str, Any]:
    """A pair's further columns, where they are there.

    Raises:
        Malformed: on values of other types or out of range.
    """
    found = {name: values[name] for name in (*_TEXTS, *_LOWEST, "rho", "similarity") if name in values}
    for name, value in list(found.items()):
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if value is None:
            del found[name]
        elif name in _TEXTS:
            if not isinstance(value, str):
                raise Malformed(f"{name} is {_short(value)}; wanted a text")
            _check_letters(name, value)
        elif name == "similarity" and not (number and abs(value) <= sys.float_info.max):
            raise Malformed(f"similarity is {_short(value)}; wanted a finite number")
        elif name == "rho" and not (number and 0 <= value <= 1):
            raise Malformed(f"rho is {_short(value)}; wanted a number in [0, 1]")
        elif name in _LOWEST and not (number and isinstance(value, int) and _LOWEST[name] <= value < 2**63):
            raise Malformed(f"{name} is {_short(value)}; wanted a whole number ≥ {_LOWEST[name]}, below 2⁶³")
    return found


def _lines(path: Path) -> Iterator[Stored]:
    try:
        with open(path, encoding="utf-8-sig", newline="\n") as file:
            first = next((line for line in file if line.strip()), "")
            if first.lstrip().startswith("["):
                for number, (where, values) in enumerate(read_records(path), 1):
                    yield Stored(number, where, values)
                return
            file.seek(0)
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield _line(number, f"{path}, line {number}", line)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; wanted pairs as parquet or JSON lines.") from None
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); wanted JSON lines in UTF-8.") from error


def _line(number: int, where: str, line: str) -> Stored:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Stored(number, where, {}, f"broken JSON ({error})")
    return Stored(number, where, values) if isinstance(values, dict) else Stored(number, where, {}, "no JSON object")


def _parquet_rows(path: Path, bytes_too: bool) -> Iterator[Stored]:
    with _arrow_refusals(path):
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path, pre_buffer=False) as file:
            lacking = [name for name in NEEDED if name not in file.schema_arrow.names]
            if lacking:
                has = ", ".join(file.schema_arrow.names)
                raise UserError(f"{path}: no column {', no '.join(lacking)} (it has {has}); wanted TRL's form.")
            leaves = [file.schema.column(number).path for number in range(len(file.schema.names))]
            pictures = {leaf for leaf in leaves if leaf.startswith("images.") and leaf.endswith(".bytes")}
            kept = [leaf for leaf in leaves if bytes_too or leaf not in pictures]
            batches = file.iter_batches(batch_size=16, columns=kept)
            rows = (values for batch in batches for values in batch.to_pylist())
            for number, values in enumerate(rows, 1):
                if isinstance(values.get("id"), str):
                    values["id"] = table_id(values["id"])
                yield Stored(number, f"{path}, row {number}", values)


@contextmanager
def _arrow_refusals(path: Path) -> Iterator[None]:
    try:
        from pyarrow import ArrowException
    except ImportError as error:
        raise UserError(
            f"{path}: reading parquet files needs PyArrow, which is not installed; "
            "wanted: pip install 'visual-debias-decoding[train]'."
        ) from error
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; wanted pairs as parquet or JSON lines.") from None
    except (ArrowException, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be read as parquet ({first}). Is it whole?") from error


def _check_text(name: str, text: str) -> None:
    found = PLACEHOLDER.search(text)
    if found:
        raise Malformed(f"{name} holds {found.group()!r}, which stands for an image")
    _check_letters(name, text)


def _check_letters(name: str, text: str) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise Malformed(f"{name} holds half of a surrogate pair")


def _short(value: object) -> str:
    shown = ascii(value) if isinstance(value, str) else repr(value)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"
