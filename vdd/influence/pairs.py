"""A file of image-text pairs: what each row says, and which rows cannot be used.

    image     a file's name below the folder of the images        id         optional; else the number of the line
    caption   what was trained on with it                         shuffled   optional: whether the caption is another's

JSON lines, one JSON array, CSV, TSV, or parquet by PyArrow (extra `eval`). A row that cannot be used is listed and left
out; a file that cannot be read, and an id that occurs twice, are errors.

Knows: files, names. Does not know: models, what is in an image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdd._check import UserError
from vdd.images import ImageError, image_path
from vdd.sets.tables import ID, Columns, TableRow, read_table

IMAGE, CAPTION, SHUFFLED = "image", "caption", "shuffled"
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_SHOWN = 3
"""Rows that are told of where none can be used."""
_COLUMNS = Columns(
    lacking=lambda names: [name for name in (IMAGE, CAPTION) if name not in names],
    read=(IMAGE, CAPTION, ID, SHUFFLED),
    images=(IMAGE,),
    wanted="a file of pairs",
    told="image, caption, and where there are such id, shuffled",
)


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
    rows = list(read_table(path, _COLUMNS))
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


def _pair(one: Any, row: TableRow, images: Path) -> PairRecord:
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
