"""Small files of toy pairs, some shuffled, for tests of influence."""

from __future__ import annotations

import json
from pathlib import Path

from vdd.toy.scenes import caption, render, scene_at


def write_pairs(folder: Path, split: str = "train", count: int = 12, *, shuffled: int = 0) -> Path:
    """FOLDER/pairs.jsonl and FOLDER/images: scenes and their captions, the first `shuffled` of them turned by one."""
    (folder / "images").mkdir(parents=True)
    scenes = [scene_at(split, place) for place in range(count)]
    captions = [caption(scene) for scene in scenes]
    turned = captions[:shuffled]
    captions[:shuffled] = turned[1:] + turned[:1]
    lines = []
    for number, (scene, text) in enumerate(zip(scenes, captions, strict=True)):
        render(scene).save(folder / "images" / f"{number:03d}.png")
        record = {"id": number, "image": f"{number:03d}.png", "caption": text, "shuffled": number < shuffled}
        lines.append(json.dumps(record) + "\n")
    (folder / "pairs.jsonl").write_text("".join(lines))
    return folder / "pairs.jsonl"
