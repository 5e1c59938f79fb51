"""The parquet files of a set, from here or from the Hub, and what stands in their rows, a group at a time.

They are read by PyArrow, as `datasets` reads them (extra `eval`): `datasets` itself takes brackets in a path for a
pattern, and tells the Hub of each set that is opened. What lies beside the files, a script included, is not looked at.
Only a name on the Hub is fetched.

Knows: parquet, the Hub's file names. Does not know: benchmarks, what is in a picture.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vdd._check import UserError

IMAGE = "image"
"""The column of the pictures."""

_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
_SHARD = re.compile(r"(?P<split>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?:-[0-9a-f]+)?\.parquet")
_AT_ONCE = 16  # pictures made Python's; a group's are decoded together whatever this is


def parquet_files(source: str | os.PathLike[str]) -> list[Path]:
    """The parquet files of a set in their order, fetched where `source` is a name on the Hub.

    Args:
        source: parquet file, folder with parquet files in it or in its `data/`, or else a name on the Hub, whose
            `data/` is fetched into the Hub's cache if it is not there already.

    Raises:
        UserError: where the extra `eval` is missing, there are no such files, a shard is missing, or the Hub does not
            give them.
    """
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{source}: reading parquet files needs the extra `eval`, which is not installed; "
            "wanted: pip install 'visual-debias-decoding[eval]'."
        ) from error
    name = os.fspath(source)
    if os.path.isfile(name):
        return [Path(name)]
    if not os.path.isdir(name) and not _HUB_NAME.fullmatch(name):
        raise UserError(f"{name}: no such file or folder, and no name on the Hub (owner/set); wanted one of them.")
    folder = Path(name) if os.path.isdir(name) else _fetched(name)
    files = sorted(folder.glob("*.parquet")) or sorted((folder / "data").glob("*.parquet"))
    if not files:
        below = sorted({path.parent.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")})
        hint = f", or one of its folders that have some: {', '.join(below)}" if below else ""
        raise UserError(
            f"{name}: no parquet files in it or in its data/; wanted a set in the Hub's parquet form{hint}."
        )
    _check_shards(name, files)
    return files


class Part:
    """One parquet file; its rows count from 0.

    Args:
        path: the file.
        columns: those that it must have; IMAGE among them, holding pictures with their bytes.

    Raises:
        UserError: where the file is no parquet, or has other columns.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        from pyarrow.parquet import ParquetFile

        self.path = path
        with self._refusals():
            self._file: Any = ParquetFile(path, pre_buffer=False)
        schema = self._file.schema_arrow
        lacking = [name for name in columns if name not in schema.names]
        if lacking:
            raise UserError(
                f"{path}: no column {', '.join(lacking)} (it has {', '.join(schema.names)}); "
                f"wanted {', '.join(columns)}. Is it another benchmark?"
            )
        stored = schema.field(IMAGE).type
        if "bytes" not in [stored.field(number).name for number in range(stored.num_fields)]:
            raise UserError(f"{path}: the column {IMAGE} is {stored}; wanted pictures with their bytes.")

    def where(self, number: int) -> str:
        """What row `number` is called in messages."""
        return f"{self.path}, row {number + 1}"

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Every row, of these columns alone."""
        with self._refusals():
            for batch in self._file.iter_batches(columns=list(columns)):
                yield from batch.to_pylist()

    def pictures(self, numbers: Collection[int]) -> Iterator[tuple[int, bytes]]:
        """The pictures of these rows, in the file's order; groups of rows without any of them are not read.

        Memory: two to three times a group's pictures; `datasets` makes groups of 100 rows.

        Raises:
            UserError: where a row holds no bytes, a path on its maker's machine for one.
        """
        end = 0
        for group in range(self._file.num_row_groups):
            start, end = end, end + self._file.metadata.row_group(group).num_rows
            if any(number in numbers for number in range(start, end)):
                with self._refusals():
                    batches = self._file.iter_batches(batch_size=_AT_ONCE, row_groups=[group], columns=[IMAGE])
                    stored = (picture for batch in batches for picture in batch.column(0))
                    for number, picture in enumerate(stored, start):
                        if number in numbers:
                            yield number, self._content(picture.as_py(), number)

    def _content(self, picture: dict[str, Any] | None, number: int) -> bytes:
        if picture is None or picture["bytes"] is None:
            path = picture.get("path") if picture else None
            held = "nothing" if path is None else f"only a path, {path!r}"
            raise UserError(f"{self.where(number)}: {IMAGE} holds {held}; wanted the bytes of a picture.")
        content: bytes = picture["bytes"]
        return content

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        from pyarrow import ArrowException

        try:
            yield
        except (ArrowException, OSError) as error:
            raise UserError(f"{self.path}: cannot be read as parquet ({_first_line(error)}). Is it whole?") from error


def _fetched(name: str) -> Path:
    """The set's folder in the Hub's cache; of its files only parquet ones are fetched."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, repo_type="dataset", allow_patterns=["data/*.parquet"]))
    except Exception as error:  # the Hub's client passes on whatever its transport raises
        raise UserError(
            f"{name}: is no file or folder here, and could not be fetched from the Hub ({_first_line(error)}); wanted "
            "the path of parquet files, or a set's name and a way to the Hub."
        ) from error


def _check_shards(name: str, files: Sequence[Path]) -> None:
    """Refuse an unfinished download: figures of a part would pass for figures of the whole."""
    found: dict[tuple[str, int], set[int]] = {}
    for shard in filter(None, (_SHARD.fullmatch(path.name) for path in files)):
        found.setdefault((shard["split"], int(shard["count"])), set()).add(int(shard["number"]))
    for (split, count), numbers in found.items():
        missing = sorted(set(range(count)) - numbers)
        if missing:
            told = ", ".join(f"{split}-{number:05d}-of-{count:05d}" for number in missing)
            raise UserError(f"{name}: {told} missing; wanted all {count} files. Was the download cut short?")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
