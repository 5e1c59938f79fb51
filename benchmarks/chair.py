"""CHAIR, any model: captions in every leg, scored with recall and length, by `vdd eval open` and `vdd score chair`.

python benchmarks/chair.py --model llava-hf/llava-1.5-7b-hf --questions captions.jsonl --images val2014/ \\
    --objects coco_objects.json --synonyms synonyms.txt --out runs/chair-llava-7b
python benchmarks/chair.py --shortest --out runs/chair-toy        # a few scenes, described by the embedded model

captions.jsonl: a line {"question_id": 42, "image": "COCO_val2014_000000000042.jpg", "text": "Please describe this image
in detail."} for each image; coco_objects.json: image id → names of its objects.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path


def vdd(*arguments: object) -> None:
    """One command."""
    subprocess.run([sys.executable, "-m", "vdd", *map(str, arguments)], check=True)


def small_set(folder: Path, count: int = 12) -> dict[str, Path]:
    """A few of the embedded model's scenes."""
    if not (folder / "test").is_dir():
        vdd("toy-data", folder)
    there = folder / "test"
    records = [json.loads(line) for line in (there / "captions.jsonl").read_text(encoding="utf-8").splitlines()[:count]]
    asked = [{"question_id": r["image_id"], "image": r["image"], "text": "Describe the image."} for r in records]
    (folder / "captions.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked), encoding="utf-8")
    objects = {str(record["image_id"]): record["objects"] for record in records}
    (folder / "objects.json").write_text(json.dumps(objects), encoding="utf-8")
    return {
        "questions": folder / "captions.jsonl",
        "images": there / "images",
        "objects": folder / "objects.json",
        "synonyms": there / "synonyms.txt",
    }


def main() -> None:
    """Caption, then score every leg."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toy")
    for name in ("questions", "images", "objects", "synonyms"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--max-new-tokens", type=int, default=512)
    parser.add_argument("--shortest", action="store_true", help="a few scenes, by the embedded model")
    args = parser.parse_args()
    files = {name: getattr(args, name) for name in ("questions", "images", "objects", "synonyms")}
    if args.shortest:
        files = small_set(args.out / "data")
    if None in files.values():
        parser.error("wanted --questions, --images, --objects and --synonyms, or --shortest")
    where = ["--questions", files["questions"], "--images", files["images"], "--out", args.out / "run"]
    vdd("eval", "open", "--model", args.model, *where, "--max-new-tokens", 40 if args.shortest else args.max_new_tokens)
    for answers in sorted((args.out / "run" / "answers").glob("*.jsonl")):
        vdd("score", "chair", "--captions", answers, "--objects", files["objects"], "--synonyms", files["synonyms"])


if __name__ == "__main__":
    main()
