"""A file of reviews, JSON lines that only grow: read it, see whose it is, go on with it.

    {"question_id": 3, "category": …, "content": the judge's words, …, "judge": …, "temperature": …, "max_tokens": …,
     "prompt_sha": what the judge was shown}

Each line is on disk before the next review is asked for. Where a run was killed while it wrote, the half line is cut
off and its review asked for again; nothing whole is ever touched. Lines without the last four keys are read too, as
LLaVA's own script writes them.

Knows: files, JSON. Does not know: who judges, what a review says.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from filelock import FileLock, Timeout

from vdd._check import UserError

SETTINGS = ("judge", "temperature", "max_tokens")
"""What a review depends on besides what the judge was shown."""

_OPENING = b'{"question_id": '
_SHA_DIGITS = 12

Row = dict[str, Any]


@dataclass(frozen=True)
class Task:
    """One review to ask for.

    Attributes:
        question_id: unique.
        about: what else its line says before the review.
        system, prompt: the two messages that the judge is shown.
    """

    question_id: int | str
    about: Mapping[str, Any]
    system: str
    prompt: str

    @property
    def sha(self) -> str:
        """The first 12 hex digits of the SHA-256 of both messages."""
        shown = f"{self.system}\0{self.prompt}".encode("utf-8", "surrogatepass")
        return hashlib.sha256(shown).hexdigest()[:_SHA_DIGITS]


class Stored(NamedTuple):
    """What a file holds: its rows, each with where it stands; the bytes up to the end of the last whole one; all bytes.

    The two differ where a run was killed while it wrote.
    """

    rows: list[tuple[str, Row]]
    whole: int
    size: int


def read_reviews(path: str | os.PathLike[str]) -> Stored:
    """The whole lines of a file, which stays as it is; nothing where there is no such file.

    Raises:
        UserError: if it cannot be read, or a line is no object with a question_id; a half-written last line is none
            of them.
    """
    try:
        data = Path(path).read_bytes() if os.path.lexists(path) else b""
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); wanted a file of reviews.") from error
    rows: list[tuple[str, Row]] = []
    end = 0
    for number, line in enumerate(data.split(b"\n"), start=1):
        unfinished = end + len(line) == len(data)
        row = _parsed(line)
        if row is not None:
            rows.append((f"{path}, line {number}", row))
        elif unfinished and line and (rows or line.startswith(_OPENING) or _OPENING.startswith(line)):
            return Stored(rows, end, len(data))
        elif line.strip():
            raise UserError(f"{path}, line {number}: is no review; wanted a JSON object with a question_id.")
        end += len(line) + (not unfinished)
    return Stored(rows, end, len(data))


def match_reviews(
    rows: Sequence[tuple[str, Row]], tasks: Sequence[Task], *, settings: Mapping[str, Any] | None = None
) -> dict[str, Row]:
    """The rows by question_id, as text.

    Args:
        rows: of `read_reviews`.
        tasks: all that may be reviewed.
        settings: the SETTINGS that every row must carry; None takes any.

    Raises:
        UserError: if a row reviews no task, or one that another row reviews, or was shown something else, or says
            something else about its task, or has other settings.
    """
    by_id = {str(task.question_id): task for task in tasks}
    found: dict[str, Row] = {}
    for where, row in rows:
        key = str(row["question_id"])
        task = by_id.get(key)
        if task is None:
            raise UserError(f"{where}: reviews question {key!r}, which is not among the {len(tasks)} asked.")
        if key in found:
            raise UserError(f"{where}: reviews question {key!r} again; wanted each once.")
        other = [name for name, value in task.about.items() if row.get(name, value) != value]
        if other or row.get("prompt_sha", task.sha) != task.sha:
            raise UserError(
                f"{where}: question {key!r} was reviewed with another {other[0] if other else 'answer or prompt'}; "
                "wanted reviews of these answers. Name a new file for other answers."
            )
        if settings is not None and {name: row.get(name) for name in SETTINGS} != dict(settings):
            told = ", ".join(f"{name} {row.get(name)!r}" for name in SETTINGS)
            raise UserError(
                f"{where}: was written with {told}; wanted {', '.join(f'{k} {v!r}' for k, v in settings.items())}. "
                "Name a new file for another judge."
            )
        found[key] = row
    return found


def judge_parts(rows: Sequence[Row]) -> tuple[str, ...]:
    """Who judged, for a signature: ("judge:gpt-4-0314", "t:0.2", "max:1024"); ("judge:unknown",) where rows do not say.

    Raises:
        UserError: if not all rows have the same settings.
    """
    kinds = {tuple(row.get(name) for name in SETTINGS) for row in rows}
    if len(kinds) > 1:
        told = " and ".join(sorted({str(kind[0]) for kind in kinds}))
        raise UserError(f"the reviews come from several judges or settings ({told}); wanted one file for each.")
    model, temperature, max_tokens = next(iter(kinds), (None, None, None))
    if model is None:
        return ("judge:unknown",)
    return (f"judge:{model}", f"t:{temperature}", f"max:{max_tokens}")


@contextmanager
def alone(path: str | os.PathLike[str]) -> Iterator[None]:
    """Hold `path`.lock, which falls with its process, however that ends.

    Raises:
        UserError: if another run holds it, or the folder is missing or not writable.
    """
    lock = FileLock(f"{os.fspath(path)}.lock", timeout=0)
    if not Path(path).parent.is_dir():
        raise UserError(f"{path}: its folder is missing; wanted a file in an existing folder.")
    try:
        lock.acquire()
    except Timeout as error:
        raise UserError(f"{path}: another run is writing into it; wanted to be alone.") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); wanted a file in a writable folder.") from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def opened(path: str | os.PathLike[str], stored: Stored) -> Iterator[BinaryIO]:
    """`path` to append to, behind the last whole line of what was read from it; a half-written one is cut off."""
    try:
        file = open(path, "a+b")  # noqa: SIM115 - closed below; only opening it may be the user's mistake
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); wanted a file in a writable folder.") from error
    with file:
        file.truncate(stored.whole)
        if stored.whole:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        yield file


def append(file: BinaryIO, task: Task, rest: Mapping[str, Any]) -> None:
    """Write one line, and have it on disk before returning."""
    line = {"question_id": task.question_id, **task.about, **rest, "prompt_sha": task.sha}
    file.write(json.dumps(line, allow_nan=False).encode("ascii") + b"\n")
    file.flush()
    os.fsync(file.fileno())


def _parsed(line: bytes) -> Row | None:
    """The object of a line that has a question_id, else None."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # broken JSON or UTF-8, endless nesting
        return None
    if not isinstance(row, dict) or isinstance(row.get("question_id"), bool):
        return None
    return row if isinstance(row.get("question_id"), (int, str)) else None
