"""Photographs as files of many kinds, made with Pillow from the pixels of a photograph.

Imports nothing of this project.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (64, 48)
KINDS = {
    "a turned JPEG": "jpg",
    "a CMYK JPEG": "jpg",
    "a grey JPEG": "jpg",
    "a PNG with transparency": "png",
    "a 16-bit PNG": "png",
    "a palette PNG with transparency": "png",
    "a WebP": "webp",
    "an animated GIF": "gif",
}


def photograph() -> Image.Image:
    """64 × 48 pixels of a photograph; of a sky above a shore, with noise, where scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_sample_image

        return Image.fromarray(load_sample_image("china.jpg")).resize(SIZE)
    except ImportError:
        rows, columns = np.mgrid[0 : SIZE[1], 0 : SIZE[0]]
        sky = np.stack([90 + columns, 120 + rows, 220 - 2 * rows], axis=-1)
        shore = np.stack([160 - rows, 110 + columns // 2, 40 + rows], axis=-1)
        pixels = np.where((rows > 28)[..., None], shore, sky)
        noise = np.random.default_rng(0).normal(0, 12, pixels.shape)
        return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def save(kind: str, folder: Path) -> Path:
    """The photograph as a file of this kind."""
    photo, path = photograph(), folder / f"{kind}.{KINDS[kind]}"
    fade = Image.linear_gradient("L").resize(SIZE)
    grey = np.asarray(photo.convert("L"), np.uint16)
    ways: dict[str, Callable[[], None]] = {
        "a turned JPEG": lambda: photo.save(path, exif=_turned(), quality=90),
        "a CMYK JPEG": lambda: photo.convert("CMYK").save(path, quality=90),
        "a grey JPEG": lambda: photo.convert("L").save(path, quality=90),
        "a PNG with transparency": lambda: _with_alpha(photo, fade).save(path),
        "a 16-bit PNG": lambda: Image.fromarray(grey * 257).save(path),
        "a palette PNG with transparency": lambda: photo.quantize(32).save(path, transparency=3),
        "a WebP": lambda: photo.save(path, quality=80),
        "an animated GIF": lambda: photo.save(path, save_all=True, append_images=[photo.rotate(180)]),
    }
    ways[kind]()
    return path


def _turned() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    return exif


def _with_alpha(photo: Image.Image, alpha: Image.Image) -> Image.Image:
    photo.putalpha(alpha)
    return photo
