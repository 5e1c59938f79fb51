"""Decode images as a model should see them: upright, opaque, 8-bit RGB; refuse what is hostile or broken.

Knows: Pillow, whose global settings are left as they are; how users give images. Does not know: question files, models.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from vdd._check import UserError
from vdd.fetch import fetched

Picture = str | os.PathLike[str] | bytes | Image.Image
"""An image as a user gives it: path or URL, the bytes of an image file, or a PIL image."""

IN_MEMORY = "(in memory)"

MAX_PIXELS = 89_478_485
"""Images with more pixels are refused before they are decoded; the count at which Pillow itself begins to warn."""

MAX_ASPECT = 200
"""Longer side over shorter; image processors scale the shorter side up, and a thin strip would fill the memory."""

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000")
"""Formats that are opened. Others that Pillow knows are refused: reading EPS, for one, would start Ghostscript."""


class ImageError(UserError):
    """An image that cannot be used.

    Attributes:
        path: which one; "(in memory)" for a stream.
        reason: why not.
    """

    def __init__(self, path: str | os.PathLike[str], reason: str) -> None:
        super().__init__(path, reason)  # both, so that the error survives the way between processes
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"image {os.fspath(self.path)}: {self.reason}"


def image_path(folder: str | os.PathLike[str], name: str) -> Path:
    """Where the image `name` of a question file lies in `folder`.

    Raises:
        ImageError: if `name` is empty, absolute or has a `..` in it: a question file must not reach outside the folder.
    """
    parsed = PureWindowsPath(name)  # takes both / and \ for separators
    if not name.strip() or "\0" in name:
        raise ImageError(name, "not a file name; wanted a path relative to the image folder")
    if parsed.drive or parsed.root:
        raise ImageError(name, "an absolute path; wanted one relative to the image folder")
    if ".." in parsed.parts:
        raise ImageError(name, "'..' in it; wanted a path inside the image folder")
    return Path(folder, name)


def as_picture(given: Picture, *, allow_urls: bool = False) -> Image.Image:
    """An image as a user gives it, as `load_image` makes it.

    Args:
        given: path, bytes of an image file, PIL image (of an animation the first frame), or URL.
        allow_urls: whether http and https addresses are fetched.

    Raises:
        ImageError: as `load_image`; on a URL that is not allowed, of another scheme, or that cannot be fetched.
        UserError: on anything else than an image.
    """
    if isinstance(given, Image.Image):
        with _refusals(IN_MEMORY):
            return _upright(IN_MEMORY, given)
    if isinstance(given, (bytes, bytearray)):
        return load_image(io.BytesIO(given))
    if not isinstance(given, (str, os.PathLike)):
        raise UserError(
            f"vdd: the image is {type(given).__name__}; wanted a path, a PIL image, or an image file's bytes."
        )
    if allow_urls and _is_url(given):
        try:
            return load_image(io.BytesIO(fetched(os.fspath(given))))
        except UserError as error:
            raise ImageError(given, error.reason if isinstance(error, ImageError) else str(error)) from error
    return load_image(given)


def load_image(source: str | os.PathLike[str] | BinaryIO) -> Image.Image:
    """Decode an image as a model should see it: upright, opaque, 8-bit RGB.

    Args:
        source: path or binary stream in one of FORMATS, at most MAX_PIXELS large; of an animation the first frame.

    Returns:
        What `to_rgb` makes of it, turned as its EXIF orientation says; EXIF data that cannot be read is ignored.

    Raises:
        ImageError: if there is no such file, it is no image, is cut short, too large, or has no RGB form.
    """
    path = source if isinstance(source, (str, os.PathLike)) else IN_MEMORY
    with _refusals(path):
        if path is source and not os.path.isfile(path):
            raise ImageError(path, f"{_what_is(path)}; wanted an image file")
        if _is_empty(source):
            raise ImageError(path, "0 bytes, so not an image; wanted the content of an image file")
        with Image.open(source, formats=FORMATS) as image:
            return _upright(path, image)


def to_rgb(image: Image.Image) -> Image.Image:
    """A new 8-bit RGB image: transparency laid on white, 16-bit grey by its high byte, palettes and CMYK resolved.

    Args:
        image: any Pillow image; not modified.

    Raises:
        ValueError: for modes without a fixed white (32-bit integers beyond 16 bits, floats) or unknown to Pillow.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        levels = np.asarray(image)
        if levels.min() < 0 or levels.max() > 0xFFFF:
            raise ValueError(f"grey levels from {levels.min()} to {levels.max()}; wanted 0 to 65535")
        image = Image.fromarray((levels >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise ValueError("floating-point grey levels have no fixed white; wanted integers")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        opaque = image.convert("LA").convert("RGBA") if image.mode == "La" else image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    return image.convert("RGB")


@contextmanager
def _refusals(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn whatever is raised inside into an ImageError."""
    try:
        yield
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(path, f"not an image; wanted {', '.join(FORMATS)}") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(path, f"{error}; wanted at most {MAX_PIXELS:,} pixels") from error
    except Exception as error:  # decoders raise nearly anything on hostile bytes
        raise ImageError(path, f"cannot be decoded ({error or type(error).__name__}); is the file whole?") from error


def _upright(path: str | os.PathLike[str], image: Image.Image) -> Image.Image:
    _check_size(path, image)
    image.load()
    _check_size(path, image)
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # whatever broken EXIF data does to its reader
        upright = image
    return to_rgb(upright)


def _is_empty(source: str | os.PathLike[str] | BinaryIO) -> bool:
    if isinstance(source, (str, os.PathLike)):
        return os.path.getsize(source) == 0
    return isinstance(source, io.BytesIO) and not source.getbuffer().nbytes


def _is_url(path: str | os.PathLike[str]) -> bool:
    return re.match(r"[a-z][a-z0-9+.-]+:", os.fspath(path), re.IGNORECASE) is not None and not os.path.isfile(path)


def _what_is(path: str | os.PathLike[str]) -> str:
    if _is_url(path):
        return "a URL, which is fetched only by vdd.Pipeline(…, allow_urls=True)"
    return "is a folder" if os.path.isdir(path) else "no such file"


def _check_size(path: str | os.PathLike[str], image: Image.Image) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(path, f"{image.width} × {image.height} pixels; wanted at most {MAX_PIXELS:,}")
    if max(image.size) > MAX_ASPECT * max(min(image.size), 1):
        raise ImageError(path, f"{image.width} × {image.height} pixels; wanted sides within {MAX_ASPECT}:1")
