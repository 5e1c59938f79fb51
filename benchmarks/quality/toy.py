"""The whole protocol on the embedded model, into docs/QUALITY.md, whatever it says.

python benchmarks/quality/toy.py --out runs/quality
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from readme import between  # noqa: E402

PAGE = ROOT / "docs" / "QUALITY.md"
SPLITS = ("random", "popular", "adversarial")
METHODS = ("vcd", "icd", "m3id", "nolan")


def vdd(*arguments: object) -> None:
    """One command."""
    subprocess.run([sys.executable, "-m", "vdd", *map(str, arguments)], check=True)


def evaluate(data: Path, out: Path, split: str, more: list[str]) -> str:
    """POPE's form on the test scenes, settings chosen on the dev scenes; its table."""
    files = ["--questions", data / "test" / f"pope_{split}.json", "--images", data / "test" / "images"]
    dev = ["--dev", data / "dev" / f"pope_{split}.json", "--dev-images", data / "dev" / "images"]
    methods = [word for name in METHODS for word in ("--method", name)]
    vdd("eval", "pope", *files, *dev, *methods, "--max-new-tokens", 4, "--batch-size", 32, "--out", out / split, *more)
    chosen = json.loads((out / split / "chosen.json").read_text(encoding="utf-8"))
    settings = ", ".join(f"{name}: α {one['alpha']:g}, β {one['beta']:g}" for name, one in chosen["debias"].items())
    head = f"### {split}\n\nChosen on {chosen['dev']} dev questions: {settings}; bias {chosen['bias']:+.2f}.\n\n"
    return head + (out / split / "table.md").read_text(encoding="utf-8")


def main() -> None:
    """Measure, and rewrite the page between its marks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shortest", action="store_true", help="a few questions, to see that it runs; no page")
    args = parser.parse_args()
    data, out = args.out / "data", args.out
    if not (data / "test").is_dir():
        vdd("toy-data", data)
    if args.shortest:
        evaluate(data, out, "adversarial", ["--limit", "24", "--repeats", "1"])
        return
    tables = "\n".join(evaluate(data, out, split, []) for split in SPLITS)
    about = ["--questions", data / "dev" / "pope_adversarial.json", "--images", data / "dev" / "images"]
    vdd("search", *about, "--batch-size", 32, "--out", out / "search")
    vdd("advise", *about, "--batch-size", 32, "--out", out / "advice")
    text = between(PAGE.read_text(encoding="utf-8"), "legs", tables)
    text = between(text, "search", (out / "search" / "table.md").read_text(encoding="utf-8"))
    text = between(text, "advice", (out / "advice" / "advice.md").read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")
    for name in ("alpha-beta", "sampling"):
        picture = out / "search" / f"{name}.png"
        if picture.exists():
            shutil.copyfile(picture, PAGE.parent / f"quality-{name}.png")


if __name__ == "__main__":
    main()
