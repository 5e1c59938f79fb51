"""POPE, any model: every split that is in a folder, one table a split. Thin: the runner does it.

python benchmarks/pope.py --model llava-hf/llava-1.5-7b-hf --questions POPE/ --images val2014/ --out runs/llava-7b
python benchmarks/pope.py --model llava-hf/llava-1.5-13b-hf --questions POPE/ --images val2014/ --out runs/llava-13b
python benchmarks/pope.py --model Qwen/Qwen2.5-VL-7B-Instruct --questions POPE/ --images val2014/ --out runs/qwen
python benchmarks/pope.py --model OpenGVLab/InternVL3-8B-hf --questions POPE/ --images val2014/ --out runs/internvl
python benchmarks/pope.py --questions POPE/ --images val2014/ --out runs/all -- --method vcd --method m3id
python benchmarks/pope.py --out runs/toy            # the embedded model on its own test questions
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

SUFFIX = "{question} Please answer this question with one word."
"""The wording that VCD's and VDD's scripts use."""


def main() -> None:
    """Run `vdd eval pope` on each question file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="toy")
    parser.add_argument("--questions", type=Path, help="folder of *_pope_*.json files; the embedded model's by default")
    parser.add_argument("--images", type=Path, help="folder of their images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--prompt", default=SUFFIX)
    parser.add_argument("--shortest", action="store_true", help="a few questions, to see that it runs")
    parser.add_argument("rest", nargs="*", help="further options of `vdd eval pope`, after --")
    args = parser.parse_args()
    questions, images = args.questions, args.images
    if questions is None:
        data = args.out / "data"
        if not data.exists():
            subprocess.run([sys.executable, "-m", "vdd", "toy-data", str(data)], check=True)
        questions, images = data / "test", data / "test" / "images"
    files = sorted(questions.glob("*pope_*.json"))
    if not files or images is None:
        parser.error(f"no *pope_*.json in {questions}, or no --images")
    for file in files[: 1 if args.shortest else None]:
        command = [sys.executable, "-m", "vdd", "eval", "pope", "--model", args.model, "--questions", str(file)]
        command += ["--images", str(images), "--out", str(args.out / file.stem), "--prompt", args.prompt, *args.rest]
        if args.shortest:
            command += ["--limit", "32"]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
