"""Peak memory of decoding, each way in a process of its own: resident memory on a CPU, allocated memory on a GPU.

python benchmarks/speed/memory.py --out runs/speed --shape 0.2b [--device cuda] [--batches 1 8]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from replay import recorded, replayed
from shapes import SHAPES, inputs_of, model_of
from turns import bars, machine, show, write

import vdd

WAYS = ("plain", "two-pass", "skip", "fuse", "speculate", "VCD")


def peak(way: str, shape: str, batch: int, tokens: int, device: str) -> dict[str, float]:
    """Megabytes of this process before and at most while it decodes once."""
    decisions = recorded(*model_of("embedded"), 4, tokens)
    model, processor = model_of(shape, device)
    inputs = inputs_of(model, processor, ["Please describe this image in detail."] * batch)
    settings: dict[str, Any] = {"max_new_tokens": tokens, "do_sample": False}
    before = _peak(device)
    if way == "plain":
        model.generate(**inputs, **settings)
    elif way == "VCD":
        vdd.generate(model, processor, **inputs, **settings, preset="vcd", strategy="two-pass")
    else:
        replayed(model, processor, inputs, decisions, way, **settings)
    return {"before": before, "peak": _peak(device)}


def _peak(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    """Measure, print, write memory.json and memory.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=SHAPES, default="0.2b")
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 4])
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--name", default="memory")
    parser.add_argument("--only", choices=WAYS, help="measure one way in this process, and print it")
    parser.add_argument("--shortest", action="store_true", help="to see that it runs")
    args = parser.parse_args()
    if args.only:
        print(json.dumps(peak(args.only, args.shape, args.batches[0], args.tokens, args.device)))
        return
    if args.shortest:
        args.shape, args.batches, args.tokens = "tiny", [1], 8
    found: dict[str, dict[str, dict[str, float]]] = {}
    for batch in args.batches:
        title = f"{args.shape}, batch {batch}"
        rows = found.setdefault(title, {})
        for way in WAYS:
            command = [sys.executable, __file__, "--out", str(args.out), "--shape", args.shape, "--only", way]
            command += ["--batches", str(batch), "--tokens", str(args.tokens), "--device", args.device]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            rows[way] = json.loads(ran.stdout.strip().splitlines()[-1])
            rows[way]["ratio"] = rows[way]["peak"] / rows["plain"]["peak"]
        show(title, list(rows.items()), ["before", "peak", "ratio"])
        write(args.out, args.name, {"machine": machine(args.device), "unit": "MiB", "rows": found})
    panels = {title: {way: row["ratio"] for way, row in rows.items()} for title, rows in found.items()}
    bars(args.out, args.name, panels, "peak memory, plain generate = 1")


if __name__ == "__main__":
    main()
