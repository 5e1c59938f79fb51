"""Rejected answers by BDHS against one plain generation of as many tokens, for the same rows in the same batches.

    python benchmarks/speed/bdhs.py --out runs/speed                          # the embedded model, then a deeper shape
    python benchmarks/speed/bdhs.py --out runs/speed --shapes 0.2b --device cuda

ratio       BDHS over `generate` writing as many tokens as the longest rejected answer of a batch has (heads and tails)
one try     the same with a single try for each row, as if all were taken at the first
ratio new   over `generate` writing as many as were sampled for the longest (tails alone)

All tries are in BDHS's time but for "one try", the processor's work is in everyone's. Random weights are taken at the
first try; the embedded model's tries by iteration stand beside its figures.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from shapes import SHAPES, SIZES, model_of, picture
from turns import in_turn, machine, ratios, show, write

from vdd.config import SamplingConfig
from vdd.preference import bdhs as bdhs_module
from vdd.preference.bdhs import BDHS
from vdd.preference.pairs import VARIANTS, Row, Variant
from vdd.preference.world import rows as world_rows
from vdd.preference.writer import write_tails

SHAPES["deep"] = dict(zip(SIZES, (128, 256, 8, 4, 512, 112, 64, 2), strict=True))
"""8 layers, 64 image tokens: deep enough that the model is most of the time on a CPU."""
ANSWERS = [
    "there is a red apple on the left. there is a green frog at the top. there is a yellow banana at the bottom.",
    "yes, there is a brown fox. there is a blue car on the right.",
    "there is a red bus at the top left. there is a black cat in the center.",
]
COLUMNS = ["ms/row", "ratio", "one try", "ratio new", "tokens", "new tokens", "inputs", "prefill", "steps", "rest"]


def rows_of(shape: str, count: int) -> list[Row]:
    """Rows about images of their own; the embedded world's own, or three answers of several sentences."""
    if shape == "embedded":
        return world_rows(-(-count // 5), seed=90)[:count]
    return [Row(n, (picture(n),), "what is in the image?", ANSWERS[n % len(ANSWERS)]) for n in range(count)]


def tokens_of(once: BDHS, rows: list[Row], batch: int) -> list[tuple[int, int]]:
    """For each batch the longest row's tokens, and those that were sampled for the longest, in a single try."""
    found = []
    for start in range(0, len(rows), batch):
        read, sampled = Counter[int](), Counter[int]()

        def counted(
            reader: Any, prompt: Any, answers: Any, places: Any, read=read, sampled=sampled, **how: Any
        ) -> None:
            write_tails(reader, prompt, answers, places, **how)
            for place in places:
                read[place.row] += len(place.head) + len(place.tail)
                sampled[place.row] += len(place.tail)

        with mock.patch.object(bdhs_module, "write_tails", counted):
            once.sample(rows[start : start + batch], seeds=range(start, min(start + batch, len(rows))))
        found.append((max([1, *read.values()]), max([1, *sampled.values()])))
    return found


def shares_of(bdhs: BDHS, rows: list[Row]) -> dict[str, float]:
    """Of a sampling's time: in the processor, in the first forwards, in those behind them, in all else."""
    seconds = dict.fromkeys(("inputs", "prefill", "steps"), 0.0)

    def timed(part: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            found = call(*args, **kwargs)
            seconds[part] += time.perf_counter() - start
            return found

        return called

    pipeline, reader = bdhs.pipeline, bdhs.pipeline.reader
    with ExitStack() as undone:
        for part, owner, name in (
            ("inputs", pipeline, "inputs"),
            ("prefill", reader, "prefill"),
            ("steps", reader, "step"),
        ):
            undone.enter_context(mock.patch.object(owner, name, timed(part, getattr(owner, name))))
        start = time.perf_counter()
        bdhs.sample(rows, seeds=range(len(rows)))
        whole = time.perf_counter() - start
    found = {part: own / whole for part, own in seconds.items()}
    return {**found, "rest": 1.0 - sum(found.values())}


def plain(bdhs: BDHS, rows: list[Row], batch: int, counts: list[int]) -> Callable[[], None]:
    """`generate` on the same rows in the same batches, so many tokens in each batch."""
    pipeline = bdhs.pipeline

    def work() -> None:
        for number, count in enumerate(counts):
            part = rows[number * batch : (number + 1) * batch]
            kwargs = SamplingConfig(max_new_tokens=count, temperature=1.0, top_p=0.95).generate_kwargs()
            inputs = pipeline.inputs([list(row.images) for row in part], [row.prompt for row in part])
            with torch.no_grad():
                ids = pipeline.model.generate(**inputs, **kwargs, min_new_tokens=count)
            pipeline.processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

    return work


def measured(
    model: Any, processor: Any, shape: str, variant: Variant, batch: int, args: argparse.Namespace
) -> dict[str, Any]:
    """One line: a variant at a batch size."""
    rows = rows_of(shape, max(batch, args.rows if batch > 1 else args.rows // 2))
    bdhs = BDHS(model, processor, variant=variant, batch_size=batch, max_new_tokens=args.most)
    once = BDHS(model, processor, variant=variant, batch_size=batch, max_new_tokens=args.most, iterations=1)
    bdhs.sample(rows[:1], seeds=[0])
    bdhs.similar = {}
    tokens, shares = tokens_of(once, rows, batch), shares_of(bdhs, rows)
    similar = dict(bdhs.similar)
    works = {
        "plain": plain(bdhs, rows, batch, [whole for whole, _ in tokens]),
        "plain new": plain(bdhs, rows, batch, [new for _, new in tokens]),
        "one try": lambda: once.sample(rows, seeds=range(len(rows))),
        "bdhs": lambda: bdhs.sample(rows, seeds=range(len(rows))),
    }
    taken = in_turn(works, args.rounds, what=f"{shape}, {variant}, {batch}")
    return {
        "shape": shape,
        "variant": variant,
        "batch": batch,
        "rows": len(rows),
        "ms/row": 1000 * statistics.median(taken["bdhs"]) / len(rows),
        "ratio": ratios(taken, "plain")["bdhs"]["ratio"],
        "one try": ratios(taken, "plain")["one try"]["ratio"],
        "ratio new": ratios(taken, "plain new")["bdhs"]["ratio"],
        "tokens": statistics.mean(whole for whole, _ in tokens),
        "new tokens": statistics.mean(new for _, new in tokens),
        **shares,
        "accepted": {str(number): [tries - bad, tries] for number, (tries, bad) in similar.items()},
    }


def markdown(rows: list[dict[str, Any]]) -> str:
    """The lines as a table."""
    head = ["shape", "variant", "batch", *COLUMNS, "accepted by try"]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    for row in rows:
        tries = ", ".join(f"{good}/{all_}" for good, all_ in row["accepted"].values())
        cells = [row["shape"], row["variant"], str(row["batch"]), *(f"{row[name]:.2f}" for name in COLUMNS), tries]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print, write bdhs.json and bdhs.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shapes", nargs="+", default=["embedded", "deep"], choices=["embedded", *SHAPES])
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 8, 16])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--most", type=int, default=16, help="tokens of a tail at most")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="bdhs")
    parser.add_argument("--shortest", action="store_true", help="to see that it runs")
    args = parser.parse_args()
    if args.shortest:
        args.shapes, args.batch_sizes, args.rows, args.rounds, args.most = ["tiny"], [2], 2, 1, 4
    torch.set_num_threads(args.threads)
    found: list[dict[str, Any]] = []
    for shape in args.shapes:
        model, processor = model_of(shape, args.device)
        for batch in args.batch_sizes:
            found += [measured(model, processor, shape, variant, batch, args) for variant in args.variants]
            body = {"machine": machine(args.device), "rows": found}
            write(args.out, args.name, body)
            (args.out / f"{args.name}.md").write_text(markdown(found), encoding="utf-8")
    show("BDHS", [(f"{row['shape']} {row['variant']} {row['batch']}", row) for row in found], COLUMNS)
    print(markdown(found))


if __name__ == "__main__":
    main()
