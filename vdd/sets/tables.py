"""Rows of a file whatever its kind: JSON lines, one JSON array, CSV, TSV, or parquet by PyArrow (extra `eval`).

Knows: files, columns. Does not know: what the values mean.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdd._check import UserError
from vdd.data import read_records

ID = "id"
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
_DIGITS = re.compile(r"0|-?[1-9][0-9]{0,17}")
"""A table's id that is a number; 007 is a name."""


@dataclass(frozen=True)
class TableRow:
    """What stands in a file: the number of the line, where that is, the values by column, what is wrong as a whole."""

    number: int
    where: str
    values: Mapping[str, Any]
    fault: str = ""


@dataclass(frozen=True)
class Columns:
    """Which columns a table is to have.

    Attributes:
        lacking: of the names that a table has, which of those that are needed are not among them, in words.
        read: those that are read of parquet.
        images: those that hold names of image files.
        wanted: what the file should be, for an error.
        told: which columns are wanted, for an error.
    """

    lacking: Callable[[Collection[str]], Sequence[str]]
    read: Sequence[str]
    images: Sequence[str]
    wanted: str
    told: str

    def check(self, path: Path, names: Sequence[str], hint: str = "") -> None:
        """Raise UserError where a column is missing or comes twice."""
        lacking = self.lacking(names)
        if lacking or len(set(names)) < len(names):
            what = f"no column {' and no '.join(lacking)}" if lacking else "a column twice"
            has = ", ".join(names) or "nothing"
            raise UserError(f"{path}: {what} (it has {has}); wanted {self.told}.{hint}")


def read_table(path: Path, columns: Columns) -> Iterator[TableRow]:
    """The rows of a file, one after the other; its ending tells CSV, TSV and parquet from JSON.

    An id of digits in CSV and TSV is the number.

    Raises:
        UserError: where the file cannot be read, or a table's columns are not those.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        yield from _parquet(path, columns)
    elif kind in _DELIMITERS:
        yield from _delimited(path, _DELIMITERS[kind], columns)
    else:
        for where, record in read_records(path):
            yield TableRow(int(where.rpartition(" ")[2]), where, record)


def table_id(text: str) -> int | str:
    """An id as a column of texts holds it: the number where it is one, as JSON would have it."""
    return int(text) if _DIGITS.fullmatch(text) else text


def _delimited(path: Path, delimiter: str, columns: Columns) -> Iterator[TableRow]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            header = [name.strip() for name in next(reader, [])]
            columns.check(path, header, " Is the first line that of the columns' names?")
            begins = reader.line_num + 1
            for fields in reader:
                if fields:
                    yield _row(begins, f"{path}, line {begins}", header, fields, delimiter)
                begins = reader.line_num + 1
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; wanted {columns.wanted}.") from None
    except csv.Error as error:
        raise UserError(
            f"{path}, line {reader.line_num}: broken table ({error}); wanted quotes around a field closed, and those "
            "in it doubled."
        ) from error
    except (OSError, UnicodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); wanted a table in UTF-8.") from error


def _row(number: int, where: str, header: Sequence[str], fields: Sequence[str], delimiter: str) -> TableRow:
    values: dict[str, Any] = dict(zip(header, fields, strict=False))
    if ID in values:
        values[ID] = table_id(values[ID])
    fault = f"{len(fields)} fields for {len(header)} columns; is there a {delimiter!r} in a text without quotes?"
    return TableRow(number, where, values, fault if len(fields) > len(header) else "")


def _parquet(path: Path, columns: Columns) -> Iterator[TableRow]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
        from pyarrow.types import is_binary, is_struct
    except ImportError as error:
        raise UserError(
            f"{path}: reading parquet files needs the extra `eval`, which is not installed; "
            "wanted: pip install 'visual-debias-decoding[eval]'."
        ) from error
    try:
        with ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            columns.check(path, names)
            for name in set(columns.images).intersection(names):
                stored = file.schema_arrow.field(name).type
                inner = getattr(stored, "value_type", stored)
                if is_struct(inner) or is_binary(inner):
                    raise UserError(f"{path}: the column {name} is {stored}; wanted names of files below the folder.")
            read = [name for name in columns.read if name in names]
            rows = (values for batch in file.iter_batches(columns=read) for values in batch.to_pylist())
            for number, values in enumerate(rows, 1):
                yield TableRow(number, f"{path}, row {number}", values)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; wanted {columns.wanted}.") from None
    except (ArrowException, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{path}: cannot be read as parquet ({first}). Is it whole?") from error
