"""The formula against its floor: `contrast` over one log_softmax of the same scores.

Medians of runs taken in turn in one process; JSON out. The aim is a ratio of at most 3 at a vocabulary of 128k.

    python benchmarks/speed/contrast.py --out runs/speed [--device cuda] [--threads 2]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from vdd.contrast import contrast

SHAPES = [(1, 32_000), (8, 32_000), (1, 128_256), (8, 128_256)]


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """One run."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def compare(batch: int, vocab: int, device: torch.device, repeats: int) -> dict[str, float]:
    """Median milliseconds of both, taken in turn, and their ratio."""
    generator = torch.Generator().manual_seed(0)
    seen = (torch.randn(batch, vocab, generator=generator) * 3).to(device)
    blind = (torch.randn(batch, vocab, generator=generator) * 3).to(device)
    works: dict[str, Callable[[], object]] = {
        "log_softmax": lambda: torch.log_softmax(seen, dim=-1),
        "contrast": lambda: contrast(seen, blind, alpha=1.0, beta=0.1),
    }
    taken: dict[str, list[float]] = {name: [] for name in works}
    for round_number in range(repeats + 2):
        for name, work in works.items():
            spent = seconds(work, device)
            if round_number >= 2:
                taken[name].append(spent)
    medians = {name: 1000 * statistics.median(values) for name, values in taken.items()}
    return {"batch": batch, "vocab": vocab, **medians, "ratio": medians["contrast"] / medians["log_softmax"]}


def main() -> None:
    """Measure, print, write contrast.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shortest", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device(args.device)
    rows = [compare(batch, vocab, device, 5 if args.shortest else 51) for batch, vocab in SHAPES]
    machine = {"torch": torch.__version__, "device": args.device, "threads": args.threads, "cpu": platform.machine()}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "contrast.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    print(f"{'batch':>5} {'vocab':>7} {'log_softmax ms':>15} {'contrast ms':>12} {'ratio':>6}")
    for row in rows:
        print(
            f"{row['batch']:>5.0f} {row['vocab']:>7.0f} {row['log_softmax']:>15.3f} {row['contrast']:>12.3f} "
            f"{row['ratio']:>6.2f}"
        )


if __name__ == "__main__":
    main()
