"""A training's folder: whose it is, what of it is whole.

Knows: files, names of weights. Does not know: trainers, losses.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from PIL import Image

from vdd._check import UserError
from vdd.images import Picture
from vdd.preference.pairs import Pair
from vdd.run_folder import claimed

MADE_BY = "vdd align"
WHOLE = "whole"
"""A file in a checkpoint that is written last: without it, it may be half there."""


def claim(out: Path, settings: dict[str, Any]) -> None:
    """Make `out` this training's folder, or see that it is."""
    foreign = "holds something else than a training"
    differing = claimed(out, {"made_by": MADE_BY, **settings}, foreign=foreign)
    if "made_by" in differing:
        raise UserError(f"{out}: {foreign}; wanted a new or empty folder.")
    if differing:
        raise UserError(
            f"{out}: holds another training (other {', '.join(differing)}); wanted a new folder, or the same model, "
            "pairs and settings to go on with that one."
        )


def told_apart(model: Any, pairs: Sequence[Pair]) -> dict[str, Any]:
    """What tells one model and set of pairs from others: names, shapes and some of the weights; all of the pairs."""
    weights, rows = sha256(), sha256()
    for name, value in model.named_parameters():
        some = value.detach().flatten()[:: max(1, value.numel() // 16)].double().cpu()
        weights.update(f"{name} {tuple(value.shape)} {some.tolist()}".encode())
    for pair in pairs:
        images = [_identity(one) for one in pair.images]
        rows.update(json.dumps([pair.id, images, pair.prompt, pair.chosen, pair.rejected]).encode())
    return {"model": weights.hexdigest()[:16], "count": len(pairs), "pairs": rows.hexdigest()[:16]}


def save(out: Path, name: str, model: Any, processor: Any) -> None:
    """Write a folder that is whole or not there."""
    draft, home = out / "parts" / name, out / name
    shutil.rmtree(draft, ignore_errors=True)
    more = {"save_embedding_layers": False} if hasattr(model, "peft_config") else {}  # else the Hub is asked
    model.save_pretrained(draft, **more)
    if processor is not None:
        processor.save_pretrained(draft)
    shutil.rmtree(home, ignore_errors=True)
    draft.rename(home)


def last_whole(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end; halves are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda one: int(one.name.rpartition("-")[2]))
    for one in found:
        if not (one / WHOLE).is_file():
            shutil.rmtree(one)
    return next((str(one) for one in reversed(found) if one.is_dir()), None)


def _identity(image: Picture) -> str:
    if isinstance(image, Image.Image):
        return sha256(repr((image.mode, image.size)).encode() + image.tobytes()).hexdigest()
    return sha256(image).hexdigest() if isinstance(image, bytes) else os.fspath(image)
