"""MME, any model: sums in every leg. Thin: `vdd eval mme` does it; these are the commands for published models.

python benchmarks/mme.py --model llava-hf/llava-1.5-7b-hf --folder MME_Benchmark_release_version --out runs/llava-7b
python benchmarks/mme.py --model llava-hf/llava-1.5-13b-hf --folder MME_Benchmark_release_version --out runs/llava-13b
python benchmarks/mme.py --model Qwen/Qwen2.5-VL-7B-Instruct --folder MME_Benchmark_release_version --out runs/qwen
python benchmarks/mme.py --model OpenGVLab/InternVL3-8B-hf --folder MME_Benchmark_release_version --out runs/internvl
python benchmarks/mme.py --shortest --out runs/mme-toy        # a few questions to the embedded model, in MME's layout
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SUFFIX = "{question}\nAnswer the question using a single word or phrase."
"""LLaVA's wording; MME's own "Please answer yes or no." stands in its questions."""


def small_benchmark(folder: Path) -> Path:
    """A few of the embedded model's questions about colours in MME's layout."""
    from vdd.toy.questions import mme_lines
    from vdd.toy.scenes import render, scene_at

    scenes = [scene_at("test", index) for index in range(40)]
    there = folder / "color"
    there.mkdir(parents=True, exist_ok=True)
    lines: dict[str, list[str]] = {}
    for line in mme_lines(scenes, "color"):
        image, question, label = line.split("\t")[:3]
        lines.setdefault(image, []).append(f"{question}\t{label}")
    for image, asked in lines.items():
        number = int(Path(image).stem)
        render(scenes[number]).save(there / Path(image).name)
        (there / f"{Path(image).stem}.txt").write_text("\n".join(asked[:2]) + "\n", encoding="utf-8")
    return folder


def main() -> None:
    """Run `vdd eval mme`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toy")
    parser.add_argument("--folder", type=Path, help="MME's own folder")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompt", default=SUFFIX)
    parser.add_argument("--shortest", action="store_true", help="a few questions to the embedded model")
    parser.add_argument("rest", nargs="*", help="further options of `vdd eval mme`, after --")
    args = parser.parse_args()
    if args.shortest:
        folder, prompt = small_benchmark(args.out / "data"), "{question}"
    elif args.folder is None:
        parser.error("wanted --folder, MME's own, or --shortest")
    else:
        folder, prompt = args.folder, args.prompt
    command = [sys.executable, "-m", "vdd", "eval", "mme", "--model", args.model, "--folder", str(folder)]
    subprocess.run([*command, "--prompt", prompt, "--out", str(args.out / "run"), *args.rest], check=True)


if __name__ == "__main__":
    main()
