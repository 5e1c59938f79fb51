"""Read a file that is one JSON value, or plain lines of text.

Knows: JSON, UTF-8. Does not know: what the values mean.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from vdd._check import UserError


def read_lines(path: str | os.PathLike[str], *, wanted: str) -> list[tuple[str, str]]:
    """Each line that is not blank, without surrounding spaces, behind where it stands (`words.txt, line 3`).

    Args:
        path: UTF-8, with or without a byte-order mark.
        wanted: what the file should be, for the error's message.

    Raises:
        UserError: if the file cannot be read, is not UTF-8, or holds nothing.
    """
    lines = enumerate(_text(path, wanted).split("\n"), start=1)
    found = [(f"{path}, line {number}", line.strip()) for number, line in lines if line.strip()]
    if not found:
        raise UserError(f"{path}: there is nothing in it; wanted {wanted}.")
    return found


def read_object(path: str | os.PathLike[str], *, wanted: str) -> dict[str, Any]:
    """The JSON object that is the whole file.

    Args:
        path, wanted: as for `read_lines`.

    Raises:
        UserError: if the file cannot be read, is no JSON, is another value, or is empty.
    """
    try:
        value = json.loads(_text(path, wanted))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: broken JSON ({error}); wanted {wanted}.") from None
    if not isinstance(value, dict) or not value:
        shown = "an empty object" if value == {} else f"a JSON {type(value).__name__}"
        raise UserError(f"{path}: found {shown}; wanted {wanted}.")
    return value


def _text(path: str | os.PathLike[str], wanted: str) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; wanted {wanted}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); wanted {wanted}.") from None
