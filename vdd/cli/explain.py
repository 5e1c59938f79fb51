"""What each token of an answer owes to the image, on the terminal: coloured, or as numbers under the words.

Colours need a terminal that has 256 of them or more, and no NO_COLOR; everywhere else, as in a file, the numbers stand.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vdd._check import UserError
from vdd.answer_page import PAGE_OPENING
from vdd.cli.show import begins, console
from vdd.records import Answer
from vdd.shading import INK, LIMIT, Shaded, shade, shaded, signed

_INDENT = 10
"""Columns that an answer's name takes."""

_BLUE, _ORANGE = "#2676c8", "#b65f00"
"""As readable on a black terminal as on a white one, whichever it is: the background of a weak colour cannot be."""

_STEPS = (0.5, 1.5, LIMIT)
"""Nats from which a token is written in colour, underlined too, and filled with colour."""

_UNPRINTABLE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f]")
"""Characters that would move the cursor or command the terminal."""


def show_explained(answers: Sequence[tuple[str, Answer]]) -> None:
    """Named answers one below the other, and what the colours or the numbers mean.

    Args:
        answers: name and answer; one without reliance is shown as it is.
    """
    coloured = has_colors(console)
    for name, answer in answers:
        grid = Table.grid()
        grid.add_column(width=_INDENT, no_wrap=True)
        grid.add_column(overflow="fold")
        if answer.tokens and answer.reliance:
            pieces = shaded(answer.tokens, answer.reliance)
            grid.add_row(Text(name), _colored(pieces) if coloured else _numbered(pieces, console.width - _INDENT))
        else:
            grid.add_row(Text(name), Text(_clean(answer.text)))
        console.print(grid)
        console.print()
    console.print(_legend(coloured))


def has_colors(shown: Console) -> bool:
    """Whether a console has colours enough for shades, and wants them."""
    return not shown.no_color and shown.color_system in ("256", "truecolor")


def check_page(path: Path) -> None:
    """Raise UserError where no page may be written: by its name, its folder, or what is there already."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{path}: wanted a name that ends in .html.")
    if not path.parent.is_dir():
        raise UserError(f"{path}: its folder is not there; wanted an existing one.")
    if path.exists() and not begins(path, PAGE_OPENING):
        raise UserError(f"{path}: is there already and is no such page of vdd's; wanted another name.")


def _colored(pieces: Sequence[Shaded]) -> Text:
    text = Text()
    for piece in pieces:
        written = _clean(piece.text)
        core = written.strip(" ") or written
        before, behind = written[: written.index(core)], written[written.index(core) + len(core) :]
        text.append(before)
        text.append(core if core.strip() else core.replace("\n", "⏎\n"), style=_style(piece))
        text.append(behind)
    return text


def _style(piece: Shaded) -> str:
    value = piece.reliance or 0.0
    weak, clear, full = _STEPS
    if abs(value) >= full:
        return f"{INK} on {shade(value)}"
    if abs(value) >= weak:
        return f"{_BLUE if value > 0 else _ORANGE}{' underline' if abs(value) >= clear else ''}"
    return "dim" if piece.special else ""


def _numbered(pieces: Sequence[Shaded], width: int) -> Text:
    """Lines of words, each over its number, no wider than `width` unless one word is."""
    lines, words, numbers = list[str](), "", ""
    for piece in pieces:
        word = (_clean(piece.text).strip(" ") or "␣").replace("\n", "⏎")
        number = "?" if piece.reliance is None else signed(piece.reliance, 1)
        wide = max(cell_len(word), len(number))
        if words and cell_len(words) + wide > width:
            lines, words, numbers = [*lines, words.rstrip(), numbers.rstrip()], "", ""
        words += f"{word}{' ' * (wide - cell_len(word))} "
        numbers += f"{number.ljust(wide)} "
        if piece.text.endswith("\n"):
            lines, words, numbers = [*lines, words.rstrip(), numbers.rstrip()], "", ""
    lines += [words.rstrip(), numbers.rstrip()] if words else []
    return Text("\n".join(lines), no_wrap=True, overflow="ignore")


def _legend(coloured: bool) -> Text:
    if not coloured:
        return Text("numbers: log p(token | image) − log p(token | reference), in nats; +: likelier with the image")
    text = Text("less likely with the image  ")
    for value in (*(-step for step in reversed(_STEPS)), *_STEPS):
        text.append(signed(value, 1), style=_style(Shaded("", value))).append(" ")
    return text.append(" more likely (nats)\nno colour: as likely without it")


def _clean(text: str) -> str:
    return _UNPRINTABLE.sub("\ufffd", text.replace("\r\n", "\n").replace("\t", "    "))
