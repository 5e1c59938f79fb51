"""What is wrong with which row of a file of pairs.

    wrong   no pair: a column is missing or of another type; a text is empty, holds an image's placeholder, or is said
            in the wrong role; chosen = rejected; an image is missing, broken or one too many; an id comes twice;
            a similarity is not finite; ρ is outside [0, 1]
    noted   nothing that stops a training: one rejected answer in several rows

Knows: stored pairs, images. Does not know: what a good answer is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from vdd._check import UserError
from vdd.images import ImageError, Picture, as_picture
from vdd.preference.stored import (
    SPOKEN,
    Malformed,
    Stored,
    check_differ,
    check_image_parts,
    explained,
    id_of,
    pairs_file,
    pictures_of,
    spoken,
    stored_rows,
)

Weight = Literal["wrong", "noted"]
_Read = TypeVar("_Read")


@dataclass(frozen=True)
class Finding:
    """One thing about one row.

    Attributes:
        where: file and line.
        id: the row's, as text; "" where it has none.
        what: in words.
        weight: "wrong" where the row is no pair.
    """

    where: str
    id: str
    what: str
    weight: Weight = "wrong"


@dataclass(frozen=True)
class Checked:
    """A file that was looked through.

    Attributes:
        file: which.
        rows: how many it has.
        findings: in the file's order, notes last.
    """

    file: Path
    rows: int
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """What stops a training."""
        return tuple(one for one in self.findings if one.weight == "wrong")

    def in_words(self) -> str:
        """One line."""
        rows = len({one.where for one in self.wrong})
        notes = len(self.findings) - len(self.wrong)
        said = f"{self.rows} rows, {rows} of them wrong" if rows else f"{self.rows} rows, all of them pairs"
        return f"{self.file}: {said}" + (f"; {notes} note{'s' * (notes > 1)}" if notes else "")


def check_pairs(path: Path, images: Path | None = None, *, progress: Callable[[int], None] | None = None) -> Checked:
    """Look through a file of pairs, every image decoded once.

    Args:
        path: parquet, JSON lines or one array; or a folder of pairs.
        images: the folder that names are below; that of the file by default.
        progress: called with the number of rows seen.

    Raises:
        UserError: where the file cannot be read at all, or holds no row.
    """
    file = pairs_file(path)
    if images is not None and not images.is_dir():
        raise UserError(f"{images}: no such folder; wanted the folder of the images.")
    seen = _Seen(file.parent if images is None else images)
    found: list[Finding] = []
    rows = 0
    for rows, row in enumerate(stored_rows(file), 1):
        found += [Finding(row.where, seen.label(row), what) for what in seen.faults(row)]
        if progress is not None:
            progress(rows)
    if not rows:
        raise UserError(f"{file}: there is nothing in it; wanted pairs.")
    return Checked(file, rows, (*found, *seen.notes()))


class _Seen:
    """What was seen in earlier rows: ids, images, rejected answers."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self._ids: dict[str, str] = {}
        self._images: dict[str, str] = {}
        self._rejected: dict[str, list[tuple[str, str]]] = {}

    def label(self, row: Stored) -> str:
        one = row.values.get("id")
        return "" if one is None else ascii(one)[1:-1][:40] if isinstance(one, str) else str(one)[:40]

    def faults(self, row: Stored) -> list[str]:
        if row.fault:
            return [row.fault]
        found: list[str] = []
        one = _tried(lambda: id_of(row), found)
        if one is not None:
            earlier = self._ids.setdefault(str(one), row.where)
            if earlier != row.where:
                found.append(f"id {one!r} again, first in {earlier}")
        prompt, chosen, rejected = (_tried(partial(spoken, row.values, name), found) for name in SPOKEN)
        pictures = _tried(lambda: pictures_of(row.values, self._base), found)
        if prompt and pictures:
            _tried(lambda: check_image_parts(prompt[1], len(pictures)), found)
        found += filter(None, map(self._broken, pictures or ()))
        if rejected:
            self._rejected.setdefault(rejected[0].strip(), []).append((row.where, self.label(row)))
        if chosen and rejected:
            _tried(lambda: check_differ(chosen[0], rejected[0]), found)
        _tried(lambda: explained(row.values), found)
        return found

    def notes(self) -> list[Finding]:
        return [
            Finding(*rows[0], f"its rejected answer is that of {len(rows)} rows", "noted")
            for rows in self._rejected.values()
            if len(rows) > 1
        ]

    def _broken(self, picture: Picture) -> str:
        """Why an image cannot be used; each is decoded once."""
        key = hashlib.sha256(picture).hexdigest() if isinstance(picture, bytes) else str(picture)
        if isinstance(picture, Path) and not os.path.isfile(picture):
            return f"image {str(picture)[:200]}: no such file; is it below another folder (--images)?"
        if key not in self._images:
            try:
                as_picture(picture)
                self._images[key] = ""
            except ImageError as error:
                self._images[key] = str(error)
        return self._images[key]


def _tried(read: Callable[[], _Read], found: list[str]) -> _Read | None:
    """What is read; None where there is no such thing, which is told of in `found`."""
    try:
        return read()
    except Malformed as error:
        found.append(str(error))
        return None
