"""Tables and progress on the terminal, by rich."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

console = Console()
notes = Console(stderr=True)
TABLE_WIDTH = 92


class Advance(Protocol):
    """Moves a bar."""

    def __call__(self, done: int, total: int, part: str = ...) -> None:
        """`done` of `total`, of the part of this name."""


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """A bar on standard error, driven by (done, in all) and, where the work has parts, the part's name."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=notes) as bars:
        task = bars.add_task(title, total=None)

        def advance(done: int, total: int, part: str = title) -> None:
            bars.update(task, completed=done, total=total, description=part)

        yield advance


def show_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on standard output, the first column left-aligned, figures to the right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for number, column in enumerate(columns):
        table.add_column(column, justify="left" if number == 0 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    (console if console.width >= TABLE_WIDTH else Console(width=TABLE_WIDTH)).print(table)
