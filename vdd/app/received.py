"""What a visitor sent, looked at with suspicion; and what went wrong with it, in words.

Knows: how Gradio describes an uploaded file. Does not know: Gradio, models.
"""

from __future__ import annotations

import logging
import os

from PIL import Image

from vdd._check import UserError
from vdd.images import ImageError, as_picture

LARGEST_UPLOAD = 20 * 2**20
"""Bytes."""

LONGEST_NAME = 80
"""Letters of a file's name that are repeated to its sender."""

_log = logging.getLogger(__name__)


def opened(picture: object) -> Image.Image:
    """The picture that a browser sent, decoded as a model should see it.

    Args:
        picture: what Gradio says of an uploaded file; its path was checked by `gate` and by Gradio.

    Raises:
        UserError: where there is none, or it is no picture, too large, or broken.
    """
    path = picture.get("path") if isinstance(picture, dict) else None
    if not isinstance(path, str) or not path:
        raise UserError("There is no image yet; upload one, paste one, or choose an example.")
    name = str(picture.get("orig_name") or "the image")[-LONGEST_NAME:] if isinstance(picture, dict) else ""
    try:
        if os.path.getsize(path) > LARGEST_UPLOAD:
            raise UserError(f"{name}: more than {LARGEST_UPLOAD // 2**20} MB; wanted a smaller file.")
        with open(path, "rb") as file:
            return as_picture(file.read())
    except ImageError as error:
        raise UserError(f"{name}: {error.reason}.") from error
    except OSError as error:
        raise UserError(f"{name}: is not here any more; upload it again.") from error


def in_words(error: Exception) -> str:
    """What went wrong, for a visitor; what is no mistake of theirs goes into the log in full."""
    if isinstance(error, UserError):
        return str(error)
    _log.error("an answer failed", exc_info=error)
    first = (str(error).strip() or "no more is known").splitlines()[0]
    return f"This failed inside ({type(error).__name__}: {first[:200]}). The server's log says more."


def text(what: str, value: object) -> str:
    """`value`, which must be text; UserError names `what` it should have been otherwise."""
    if not isinstance(value, str):
        raise UserError(f"The {what} came as {type(value).__name__}; wanted text.")
    return value
