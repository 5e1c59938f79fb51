"""Pairs as a model's towers read them; the backbone's features in shards, so that a killed run goes on.

    FOLDER/000000.safetensors    images, texts: features of a shard's pairs; beside them what they were made of

A shard counts if it was made by these weights of these records and files; another one is made anew.

Knows: towers, pairs and their images. Does not know: influence, transformers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vdd._check import UserError
from vdd.images import ImageError, image_path, load_image
from vdd.influence.encoders import Pairs
from vdd.influence.pairs import PairRecord, Skipped
from vdd.influence.store import Kept, Store, digest_of
from vdd.influence.towers import HubTowers

Progress = Callable[[int, int], None]
SHARD = 256
"""Pairs a shard: what a kill loses at most."""


def encoded(
    towers: HubTowers,
    records: Sequence[PairRecord],
    images: Path,
    folder: Path | None,
    *,
    progress: Progress | None = None,
) -> tuple[Pairs, list[PairRecord], list[Skipped]]:
    """The pairs whose images can be decoded, as the towers read them.

    Args:
        towers: where they read a backbone's features, these are computed here, once; else inputs are made when asked
            for, and images are only tried.
        records: with their images below `images`.
        folder: where features are kept; None for nowhere. Nothing is written for inputs that are made when asked for.
        progress: called with (done, in all).

    Returns:
        pairs, their records, and what was left out.

    Raises:
        UserError: where no image can be decoded, or the folder cannot be written.
    """
    if towers.heads_alone:
        parts, kept, skipped = _features(towers, records, images, folder, progress)
    else:
        kept, skipped = readable(records, images, progress=progress)
    if not kept:
        first = skipped[0].reason if skipped else "there are none"
        raise UserError(f"influence: none of {len(records)} pairs can be used ({first}); wanted images that open.")
    if not towers.heads_alone:
        paths = [image_path(images, record.image) for record in kept]
        parts = (towers.image_inputs(paths), towers.text_inputs([record.caption for record in kept]))
    known: dict[str, int] = {}
    alike = torch.tensor([known.setdefault(record.caption, len(known)) for record in kept])
    return Pairs(*parts, [record.id for record in kept], alike), kept, skipped


def readable(
    records: Sequence[PairRecord], images: Path, *, progress: Progress | None = None
) -> tuple[list[PairRecord], list[Skipped]]:
    """The records whose images can be decoded, and the others."""
    kept, skipped = [], []
    for number, record in enumerate(records, 1):
        try:
            load_image(image_path(images, record.image))
            kept.append(record)
        except ImageError as error:
            skipped.append(Skipped(record.image, record.id, str(error)))
        if progress is not None:
            progress(number, len(records))
    return kept, skipped


def _features(
    towers: HubTowers, records: Sequence[PairRecord], images: Path, folder: Path | None, progress: Progress | None
) -> tuple[tuple[Tensor, Tensor], list[PairRecord], list[Skipped]]:
    """(n, d) of images and of texts, in the order of the records that are kept."""
    model = digest_of_model(towers) if folder is not None else ""
    room: list[Tensor] = []
    kept: list[PairRecord] = []
    skipped: list[Skipped] = []
    for number, start in enumerate(range(0, len(records), SHARD)):
        some = records[start : start + SHARD]
        shard = _shard(towers, some, images, folder, f"{number:06d}", model)
        out = [Skipped(*one) for one in shard.notes]
        gone = {one.id for one in out}
        parts = [shard.tensors[name] for name in ("images", "texts") if shard.tensors]
        room = room or [part.new_empty(len(records), part.shape[1]) for part in parts]
        for whole, part in zip(room, parts, strict=False):
            whole[len(kept) : len(kept) + len(part)] = part
        kept += [record for record in some if record.id not in gone]
        skipped += out
        if progress is not None:
            progress(start + len(some), len(records))
    both = [whole[: len(kept)] for whole in room] or [torch.empty(0, 0)] * 2
    return (both[0], both[1]), kept, skipped


def _shard(
    towers: HubTowers, records: Sequence[PairRecord], images: Path, folder: Path | None, name: str, model: str
) -> Kept:
    """One shard: `images` and `texts`, none where no image opens; as notes what was left out."""
    if folder is None:
        return Kept(*_computed(towers, records, images))
    words = towers.processor.tokenizer([record.caption for record in records]).input_ids
    store = Store(folder, digest_of(model, words, digest_of_files(records, images)))
    return store.get(name) or store.put(name, *_computed(towers, records, images))


def _computed(
    towers: HubTowers, records: Sequence[PairRecord], images: Path
) -> tuple[dict[str, Tensor], list[list[Any]]]:
    parts: list[Tensor] = []
    kept: list[PairRecord] = []
    skipped: list[Skipped] = []
    for start in range(0, len(records), towers.chunk):
        some, out = _read(towers, records[start : start + towers.chunk], images, parts)
        kept += some
        skipped += out
    told = [[one.where, one.id, one.reason] for one in skipped]
    if not kept:
        return {}, told
    texts: Any = towers.text_inputs([record.caption for record in kept])
    return {"images": torch.cat(parts), "texts": texts.cpu()}, told


def _read(
    towers: HubTowers, records: Sequence[PairRecord], images: Path, parts: list[Tensor]
) -> tuple[list[PairRecord], list[Skipped]]:
    """Add one chunk's image features to `parts`; where an image does not open, the others are found first."""

    def features(some: Sequence[PairRecord]) -> Tensor:
        inputs: Any = towers.image_inputs([image_path(images, record.image) for record in some])
        return inputs.cpu()

    try:
        parts.append(features(records))
        return list(records), []
    except ImageError:
        kept, skipped = readable(records, images)
    if kept:
        parts.append(features(kept))
    return kept, skipped


def digest_of_model(towers: HubTowers) -> str:
    """Of the weights, and of the settings of the images' processor; 64 hexadecimal digits."""
    hashed = hashlib.sha256()
    for name, value in sorted(towers.model.state_dict().items()):
        hashed.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        hashed.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    hashed.update(str(towers.processor.image_processor).encode())
    return hashed.hexdigest()


def digest_of_files(records: Sequence[PairRecord], images: Path) -> str:
    """Of the records, and of the sizes and times of their images' files; 64 hexadecimal digits."""
    about = [(one, image_path(images, one.image).stat()) for one in records]
    return digest_of([[one.id, one.image, one.caption, at.st_size, at.st_mtime_ns] for one, at in about])
