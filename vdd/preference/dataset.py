"""Pairs as files in TRL's vision-preference form, and back.

    images                      List(Image) in parquet, with the files' own bytes; names below a folder in JSON lines
    prompt, chosen, rejected    [{"role", "content": [{"type": "image"}, …, {"type": "text", "text": …}]}], one message
    id, source, rho, iteration, similarity, measure, seed, model    what explains the pair; see `Pair`

Equal pairs give equal bytes. Parquet is written and read a group of rows at a time, by PyArrow, with the columns' types
as `datasets` (extra `train`) describes them, so that `datasets.load_dataset("parquet", …)` gives what `trl.DPOTrainer`
takes.

Source: the form, TRL 1.16 (`trl.data_utils.prepare_multimodal_messages`).
Knows: files, pairs. Does not know: models, templates, what is wrong with a pair beyond its form (see `checks`).
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from vdd._check import UserError
from vdd.data import draft_of
from vdd.images import Picture, as_picture
from vdd.preference.pairs import Pair
from vdd.preference.stored import (
    SPOKEN,
    Malformed,
    Stored,
    check_differ,
    explained,
    id_of,
    pair_of,
    pairs_file,
    spoken,
    stored_rows,
)

_GROUP_ROWS, _GROUP_BYTES = 100, 32 * 2**20  # of a row group, whatever comes first


def write_pairs(pairs: Iterable[Pair], out: Path, *, images: Path | None = None) -> int:
    """Write pairs; returns how many.

    Args:
        pairs: read one by one.
        out: ending in .parquet (extra `train`) or .jsonl. It stands whole or not at all.
        images: the folder that images are named from. Without it, JSON lines name them from the folder of `out`, and
            parquet by the last part of their paths. Pictures in memory have no name: they are for parquet alone.

    Raises:
        UserError: on another ending, an image that cannot be read or named, and on whatever `vdd prefer check` would
            call no pair, images aside: both answers the same, a placeholder in a text, a similarity that is not finite.
    """
    if out.suffix == ".parquet":
        return _write_parquet(pairs, out, images)
    if out.suffix != ".jsonl":
        raise UserError(f"{out}: ends in {out.suffix or 'nothing'!r}; wanted .parquet or .jsonl.")
    folder = out.parent if images is None else images
    count = 0
    with draft_of(out) as draft, open(draft, "w", encoding="utf-8", newline="\n") as file:
        for pair in pairs:
            file.write(as_line(pair, folder))
            count += 1
    return count


def as_line(pair: Pair, folder: Path) -> str:
    """A pair as a line of JSON, its images by their names below `folder`; errors as `write_pairs`."""
    row = _row(pair, [image_name(pair.id, one, folder) for one in pair.images])
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"


def trl_rows(pairs: Iterable[Pair], *, images: Path | None = None) -> Iterator[dict[str, Any]]:
    """Rows as `datasets.Dataset.from_list(…, features=features())` takes them: images as {"bytes", "path"}.

    Args:
        pairs: read one by one.
        images: the folder that names are relative to; without it a file's last name stands.

    Raises:
        UserError: as `write_pairs`.
    """
    for pair in pairs:
        yield _row(pair, [_content(pair, one, images) for one in pair.images])


def image_name(row_id: int | str, picture: Picture, folder: Path) -> str:
    """The name of an image's file below `folder`, with slashes.

    Raises:
        UserError: naming the row, where the picture is in memory or not below `folder`.
    """
    if not isinstance(picture, (str, os.PathLike)):
        raise UserError(f"{row_id!r}: a picture in memory has no name; wanted paths, or parquet (extra `train`).")
    name = Path(os.path.relpath(picture, folder))
    if ".." in name.parts:
        raise UserError(f"{row_id!r}: image {picture} is not below {folder}; wanted the folder of the images.")
    return name.as_posix()


def features() -> Any:
    """The columns' types as `datasets.Features`, the pair's own columns behind TRL's.

    Raises:
        UserError: where `datasets` is missing.
    """
    try:
        from datasets import Features, Image, Value
    except ImportError as error:
        raise UserError(
            "preference: parquet files with images need `datasets`, which is not installed; "
            "wanted: pip install 'visual-debias-decoding[train]'."
        ) from error
    text, whole, number = Value("string"), Value("int64"), Value("float64")
    message = [{"role": text, "content": [{"type": text, "text": text}]}]
    explained = {"source": text, "rho": number, "iteration": whole, "similarity": number, "measure": text}
    return Features(
        {"images": [Image()], **dict.fromkeys(SPOKEN, message), "id": text, **explained, "seed": whole, "model": text}
    )


def read_pairs(path: Path, images: Path | None = None) -> list[Pair]:
    """The pairs of a file, or of a folder's pairs.parquet, else its pairs.jsonl; in the file's order.

    Args:
        path: parquet, or JSON lines or one array.
        images: the folder that names are below; that of the file by default. With it a parquet file's own copies of
            the images are not read; without it they are held in memory, each different one once.

    Raises:
        UserError: on the first row that is no pair; `vdd prefer check` lists them all.
    """
    file = pairs_file(path)
    base = file.parent if images is None else images
    pool: dict[bytes, bytes] = {}
    found = []
    for row in stored_rows(file, bytes_too=images is None):
        try:
            pair = pair_of(row, base)
            for one in pair.images:
                if isinstance(one, Path) and not os.path.isfile(one):
                    raise Malformed(f"image {str(one)[:200]}: no such file; is it below another folder (--images)?")
        except Malformed as error:
            raise UserError(f"{row.where}: {error}. `vdd prefer check` lists all that is wrong.") from error
        shared = (pool.setdefault(one, one) if isinstance(one, bytes) else one for one in pair.images)
        found.append(replace(pair, images=tuple(shared)))
    if not found:
        raise UserError(f"{file}: there is no pair in it; wanted some.")
    return found


def _row(pair: Pair, images: list[Any]) -> dict[str, Any]:
    """A pair's row, which `stored` would read again."""
    asked = [{"type": "image", "text": None} for _ in images] + [{"type": "text", "text": pair.prompt}]
    answers = {
        name: [{"role": "assistant", "content": [{"type": "text", "text": said}]}]
        for name, said in (("chosen", pair.chosen), ("rejected", pair.rejected))
    }
    more = ("id", "source", "rho", "iteration", "similarity", "measure", "seed", "model")
    row = {
        "images": images,
        "prompt": [{"role": "user", "content": asked}],
        **answers,
        **{name: getattr(pair, name) for name in more},
    }
    try:
        if not images:
            raise Malformed("no image")
        for name in SPOKEN:
            spoken(row, name)
        check_differ(pair.chosen, pair.rejected)
        explained(row)
        id_of(Stored(0, "", row))
    except Malformed as error:
        raise UserError(f"pair {pair.id!r}: {error}.") from error
    return row


def _content(pair: Pair, picture: Picture, folder: Path | None) -> dict[str, Any]:
    """A picture's bytes as they are, and its name; a decoded one's as PNG."""
    if isinstance(picture, bytes):
        return {"bytes": picture, "path": None}
    if isinstance(picture, Image.Image):
        buffer = io.BytesIO()
        as_picture(picture).save(buffer, format="PNG")
        return {"bytes": buffer.getvalue(), "path": None}
    name = Path(picture).name if folder is None else image_name(pair.id, picture, folder)
    try:
        return {"bytes": Path(picture).read_bytes(), "path": name}
    except OSError as error:
        raise UserError(f"pair {pair.id!r}: image {picture} cannot be read ({error.strerror}).") from error


def _write_parquet(pairs: Iterable[Pair], out: Path, folder: Path | None) -> int:
    schema = features().arrow_schema
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    count = 0
    with draft_of(out) as draft, ParquetWriter(draft, schema) as file:
        for group in _groups(trl_rows(pairs, images=folder)):
            file.write_table(pyarrow.Table.from_pylist(group, schema=schema))
            count += len(group)
    return count


def _groups(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    group: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        group.append({**row, "id": str(row["id"])})
        size += sum(len(image["bytes"]) for image in row["images"])
        if len(group) == _GROUP_ROWS or size >= _GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group
