"""Tables and progress on the terminal, by rich; the folders that commands write into."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from vdd._check import UserError

console = Console()
notes = Console(stderr=True)


class Advance(Protocol):
    """Moves a bar."""

    def __call__(self, done: int, total: int, part: str = ...) -> None:
        """`done` of `total`, of the part of this name."""


@contextmanager
def progress(title: str, *, shown: bool = True) -> Iterator[Advance]:
    """A bar on standard error, driven by (done, in all) and, where the work has parts, the part's name."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes, disable=not shown) as bars:
        task = bars.add_task(title, total=None)

        def advance(done: int, total: int, part: str = title) -> None:
            bars.update(task, completed=done, total=total, description=part)

        yield advance


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output, the first column left-aligned, figures to the right; never cut."""
    table = Table(title=Text(title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(Text(column), justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    needed = table.__rich_measure__(console, console.options.update(max_width=1000)).maximum
    (console if console.width >= needed else Console(width=needed)).print(table)


def say(line: str) -> None:
    """One line on standard output as it is: no markup, no colours, no line breaks of rich's own."""
    console.print(Text(line), soft_wrap=True)


def shortened(text: str, width: int) -> str:
    """A text on one line, of so many letters at most."""
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"


def new_folder(folder: Path) -> None:
    """Make `folder`; UserError where it holds something already, or cannot be made."""
    if folder.is_dir() and any(folder.iterdir()):
        raise UserError(f"{folder}: is not empty; wanted a new or empty folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made a folder ({error.strerror}); wanted a new or empty one.") from error


def begins(path: Path, opening: str) -> bool:
    """Whether a file begins with these words, so that a command that writes them may write it anew."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(len(opening)) == opening
    except (OSError, UnicodeDecodeError):
        return False
