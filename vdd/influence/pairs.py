"""A file of image-text pairs: what each row says, and which rows cannot be used.

    image     a file's name below the folder of the images        id         optional; else the number of the line
    caption   what was trained on with it                         shuffled   optional: whether the caption is another's

JSON lines, one JSON array, CSV, TSV, or parquet by PyArrow (extra `eval`). A row that cannot be used is listed and left
out; a file that cannot be read, and an id that occurs twice, are errors.

Knows: files, names. Does not know: models, what is in an image.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdd._check import UserError
from vdd.data import read_records
from vdd.images import ImageError, image_path

IMAGE, CAPTION, ID, SHUFFLED = "image", "caption", "id", "shuffled"
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_DIGITS = re.compile(r"0|-?[1-9][0-9]{0,17}")
"""A table's id that is a number; 007 is a name."""
_SHOWN = 3
"""Rows that are told of where none can be used."""


@dataclass(frozen=True)
class PairRecord:
    """One image and the text it was trained with.

    Attributes:
        id: each once in its file; 1 and "1" are the same.
        image: path relative to the image folder.
        caption: the text.
        shuffled: whether the caption was another image's, where that is known.
    """

    id: int | str
    image: str
    caption: str
    shuffled: bool | None = None


@dataclass(frozen=True)
class Skipped:
    """One row that was left out.

    Attributes:
        where: file and line; of a pair that was read, its image.
        id: of the pair, where it has one.
        reason: why it is out.
    """

    where: str
    id: int | str | None
    reason: str


@dataclass(frozen=True)
class _Row:
    """What stands in a file: the number of the line, where that is, the values by column, what is wrong as a whole."""

    number: int
    where: str
    values: Mapping[str, Any]
    fault: str = ""


class _Unusable(Exception):
    """Why a row cannot be used."""


def read_pairs(path: Path, images: Path) -> tuple[list[PairRecord], list[Skipped]]:
    """The pairs of a file whose images stand in a folder, in the file's order, and what was left out.

    Args:
        path: the file; its ending tells CSV, TSV and parquet from JSON.
        images: the folder.

    Raises:
        UserError: where the file or the folder cannot be read, a column is missing, an id occurs twice, or no pair can
            be used.
    """
    if not images.is_dir():
        what = "no folder but a file" if images.exists() else "no such folder"
        raise UserError(f"{images}: {what}; wanted the folder of the images that {path.name} names.")
    rows = list(_rows(path))
    numbered = all(_absent(row.values.get(ID)) for row in rows)
    found: list[PairRecord] = []
    skipped: list[Skipped] = []
    first_seen: dict[str, str] = {}
    for row in rows:
        one = row.number if numbered else row.values.get(ID)
        try:
            pair = _pair(one, row, images)
        except _Unusable as error:
            skipped.append(Skipped(row.where, one if _is_id(one) else None, str(error)))
            continue
        if str(pair.id) in first_seen:
            earlier = first_seen[str(pair.id)]
            raise UserError(f"{row.where}: id {pair.id!r} again, first in {earlier}; wanted each id once.")
        first_seen[str(pair.id)] = row.where
        found.append(pair)
    if not found:
        told = "; ".join(f"{one.where}: {one.reason}" for one in skipped[:_SHOWN])
        raise UserError(f"{path}: none of {len(rows)} pairs can be used ({told or 'there is no row'}); wanted some.")
    return found, skipped


def _rows(path: Path) -> Iterator[_Row]:
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet_rows(path)
    elif kind in _DELIMITERS:
        yield from _table_rows(path, _DELIMITERS[kind])
    else:
        for where, record in read_records(path):
            yield _Row(int(where.rpartition(" ")[2]), where, record)


def _table_rows(path: Path, delimiter: str) -> Iterator[_Row]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_columns(path, header, " Is the first line that of the columns' names?")
            begins = reader.line_num + 1
            for fields in reader:
                if fields:
                    yield _table_row(begins, f"{path}, line {begins}", header, fields)
                begins = reader.line_num + 1
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; wanted a file of pairs.") from None
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: broken table ({error}); wanted quotes around a field closed, and those "
            "in it doubled."
        ) from error
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); wanted a table in UTF-8.") from error


def _table_row(number: int, where: str, header: list[str], fields: list[str]) -> _Row:
    values: dict[str, Any] = dict(zip(header, fields, strict=False))
    if _DIGITS.fullmatch(values.get(ID, "")):
        values[ID] = int(values[ID])
    more = len(fields) > len(header)
    fault = f"{len(fields)} fields for {len(header)} columns; is there a comma or a tab in a caption without quotes?"
    return _Row(number, where, values, fault if more else "")


def _parquet_rows(path: Path) -> Iterator[_Row]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
        from pyarrow.types import is_binary, is_nested
    except ImportError as error:
        raise UserError(
            f"{path}: reading parquet files needs the extra `eval`, which is not installed; "
            "wanted: pip install 'visual-debias-decoding[eval]'."
        ) from error
    try:
        with ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            _check_columns(path, names, "")
            stored = file.schema_arrow.field(IMAGE).type
            if is_nested(stored) or is_binary(stored):
                raise UserError(f"{path}: the column {IMAGE} is {stored}; wanted names of files below the folder.")
            columns = [name for name in (IMAGE, CAPTION, ID, SHUFFLED) if name in names]
            rows = (values for batch in file.iter_batches(columns=columns) for values in batch.to_pylist())
            for number, values in enumerate(rows, 1):
                yield _Row(number, f"{path}, row {number}", values)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; wanted a file of pairs.") from None
    except (ArrowException, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be read as parquet ({first}). Is it whole?") from error


def _check_columns(path: Path, names: Iterable[str], hint: str) -> None:
    names = list(names)
    lacking = [name for name in (IMAGE, CAPTION) if name not in names]
    if lacking or len(set(names)) < len(names):
        what = f"no column {' and no '.join(lacking)}" if lacking else "a column twice"
        has = ", ".join(names) or "nothing"
        raise UserError(
            f"{path}: {what} (it has {has}); wanted image, caption, and where there are such id, shuffled.{hint}"
        )


def _pair(one: Any, row: _Row, images: Path) -> PairRecord:
    if row.fault:
        raise _Unusable(row.fault)
    if not _is_id(one):
        raise _Unusable(f"id is {_lack(one) or _short(one)}; wanted a whole number or a string")
    for name in (IMAGE, CAPTION):
        value = row.values.get(name)
        if not isinstance(value, str) or not value.strip():
            raise _Unusable(f"{name} is {_lack(value) or _short(value)}; wanted a string")
    image, caption = row.values[IMAGE], row.values[CAPTION]
    shuffled = _truth(row.values.get(SHUFFLED))
    try:
        place = image_path(images, image)
    except ImageError as error:
        raise _Unusable(str(error)) from error
    if not place.is_file():
        raise _Unusable(f"image {image}: {'is a folder' if place.is_dir() else 'no such file'}")
    return PairRecord(one, image, caption, shuffled)


def _truth(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if _absent(value):
        return None
    known = _TRUTHS.get(str(value).strip().lower())
    if known is None:
        raise _Unusable(f"shuffled is {_short(value)}; wanted true or false")
    return known


def _lack(value: Any) -> str:
    """What is wrong with a value that is not there; nothing with another."""
    return "missing" if value is None else "empty" if _absent(value) else ""


def _absent(value: Any) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool) and not _absent(value)


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"
