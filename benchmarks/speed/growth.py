"""How the cost of debiasing grows with the length of the prompt, of the answer, and with the batch.

    python benchmarks/speed/growth.py --out runs/speed [--shape small] [--device cuda]

Decisions are the embedded model's, replayed (replay.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from decode import Counted, measured, shape_works
from shapes import SHAPES
from turns import bars, machine, show, write

KEPT = ("plain", "processor, two-pass", "fuse", "skip (replayed)", "speculate (replayed)", "auto (replayed)")


def main() -> None:
    """Measure, print, write growth.json and growth.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--words", nargs="*", type=int, default=[0, 120, 480], help="more words in the prompt")
    parser.add_argument("--tokens", nargs="*", type=int, default=[16, 64, 192])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--name", default="growth")
    parser.add_argument("--shortest", action="store_true", help="to see that it runs")
    args = parser.parse_args()
    if args.shortest:
        args.shape, args.words, args.tokens, args.batches, args.rounds = "tiny", [30], [16], [2], 1
    points = {f"prompt + {words} words": (words, 32, 1) for words in args.words}
    points |= {f"{tokens} new tokens": (0, tokens, 1) for tokens in args.tokens}
    points |= {f"batch {batch}": (0, 32, batch) for batch in args.batches}
    found: dict[str, Any] = {}
    for title, (words, tokens, batch) in points.items():
        counted = Counted()
        works = shape_works(args.shape, batch, tokens, args.device, counted, words=words)
        found[title] = measured({name: works[name] for name in KEPT}, counted, args.rounds, title)
        show(title, list(found[title].items()), ["ms a token", "ratio", "blind", "ran"])
        write(args.out, args.name, {"machine": machine(args.device), "shape": args.shape, "rows": found})
    panels = {name: {title: rows[name]["ratio"] for title, rows in found.items()} for name in KEPT if name != "plain"}
    bars(args.out, args.name, panels, "seconds, plain = 1")


if __name__ == "__main__":
    main()
