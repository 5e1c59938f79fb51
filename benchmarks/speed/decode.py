"""Decoding: plain `generate`, VDD by each strategy, VCD; seconds a token over plain's, and forwards.

    python benchmarks/speed/decode.py --out runs/speed --shapes embedded --batches 1 4 8 16
    python benchmarks/speed/decode.py --out runs/speed --shapes 0.2b --batches 1      # adds to the same file
    python benchmarks/speed/decode.py --out runs/speed --device cuda --shapes 7b

The embedded model decides for itself. A shape with random weights does only where rates do not matter (plain, two-pass,
fuse, VCD); for skip, speculate and auto it replays what the embedded model decided (replay.py), and says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from replay import recorded, replayed
from shapes import SHAPES, inputs_of, model_of
from turns import bars, in_turn, machine, ratios, read, show, write

import vdd
from vdd.toy.questions import DESCRIBE
from vdd.toy.scenes import render, scene_at

CAPTIONS = 40  # whose decisions are replayed
STRATEGIES = ("two-pass", "skip", "fuse", "speculate", "auto")


class Counted:
    """Works that count the tokens they choose and the forwards of the image-free side."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}
        self.blind: dict[str, int] = {}
        self.ran: dict[str, str] = {}

    def note(self, name: str, rows: int, report: vdd.DecodingReport) -> None:
        """Add what one run of `name` on so many rows reports."""
        self.steps[name] = self.steps.get(name, 0) + rows * report.steps
        self.blind[name] = self.blind.get(name, 0) + report.blind_forwards
        self.ran[name] = report.strategy


def embedded_works(batch: int, count: int, device: str, counted: Counted) -> dict[str, Callable[[], None]]:
    """Captions of `count` batches of scenes that break the habits of the embedded model's world."""
    model, processor = model_of("embedded", device)
    pipeline = vdd.Pipeline(model, processor)
    asked = [
        pipeline.inputs(
            [render(scene_at("counterfactual", number * batch + row)) for row in range(batch)], [DESCRIBE] * batch
        )
        for number in range(count)
    ]
    settings = {"max_new_tokens": 48, "do_sample": False}

    def plain() -> None:
        for inputs in asked:
            ids = model.generate(**inputs, **settings)
            steps = ids.shape[1] - inputs["input_ids"].shape[1]
            counted.note("plain", batch, vdd.DecodingReport(strategy="plain", steps=steps))

    def processor_alone(name: str, **options: Any) -> Callable[[], None]:
        def work() -> None:
            for inputs in asked:
                plugin = vdd.VDDLogitsProcessor(model, processor, inputs=inputs, **options)
                model.generate(**inputs, **settings, logits_processor=[plugin])
                counted.note(name, batch, plugin.report)

        return work

    def by(strategy: str) -> Callable[[], None]:
        def work() -> None:
            for inputs in asked:
                report = vdd.DecodingReport()
                vdd.generate(model, processor, **inputs, **settings, strategy=strategy, report=report)
                counted.note(strategy, batch, report)

        return work

    works = {"plain": plain, "processor, two-pass": processor_alone("processor, two-pass", strategy="two-pass")}
    works["processor, skip"] = processor_alone("processor, skip")
    works |= {strategy: by(strategy) for strategy in STRATEGIES}
    works["VCD (noise), two-pass"] = processor_alone("VCD (noise), two-pass", preset="vcd", strategy="two-pass")
    return works


def shape_works(
    shape: str, batch: int, tokens: int, device: str, counted: Counted, *, words: int = 0
) -> dict[str, Callable[[], None]]:
    """Texts of `tokens` tokens about random images; the prompt is longer by so many words."""
    decisions = recorded(*model_of("embedded"), CAPTIONS, tokens)
    model, processor = model_of(shape, device)
    question = "Please describe this image in detail." + " and the image" * (words // 3)
    inputs = inputs_of(model, processor, [question] * batch)
    settings = {"max_new_tokens": tokens, "do_sample": False}

    def plain() -> None:
        model.generate(**inputs, **settings)
        counted.note("plain", batch, vdd.DecodingReport(strategy="plain", steps=tokens))

    def real(name: str, **options: Any) -> Callable[[], None]:
        def work() -> None:
            plugin = vdd.VDDLogitsProcessor(model, processor, inputs=inputs, strategy="two-pass", **options)
            model.generate(**inputs, **settings, logits_processor=[plugin])
            counted.note(name, batch, plugin.report)

        return work

    def by(strategy: str) -> Callable[[], None]:
        def work() -> None:
            report = vdd.DecodingReport()
            vdd.generate(model, processor, **inputs, **settings, strategy=strategy, report=report)
            counted.note(strategy, batch, report)

        return work

    def again(name: str, strategy: str) -> Callable[[], None]:
        def work() -> None:
            counted.note(name, batch, replayed(model, processor, inputs, decisions, strategy, **settings))

        return work

    works = {"plain": plain, "processor, two-pass": real("processor, two-pass"), "fuse": by("fuse")}
    works |= {f"{one} (replayed)": again(f"{one} (replayed)", one) for one in ("skip", "speculate", "auto")}
    works["VCD (noise), two-pass"] = real("VCD (noise), two-pass", preset="vcd")
    return works


def measured(works: dict[str, Callable[[], None]], counted: Counted, rounds: int, what: str) -> dict[str, Any]:
    """Name → seconds a token of each row, its ratio to plain's, tokens a second, forwards of the image-free side."""
    rows = ratios(in_turn(works, rounds, what=what), "plain")
    runs = rounds + 1
    base = rows["plain"]["seconds"] / counted.steps["plain"]
    for name, row in rows.items():
        row["ms a token"] = 1000 * runs * row["seconds"] / counted.steps[name]
        row["tokens/s"] = counted.steps[name] / runs / row["seconds"]
        row["ratio"] = row["seconds"] / counted.steps[name] / base
        row["blind"] = counted.blind[name] / counted.steps[name]
        row["ran"] = counted.ran[name]  # type: ignore[assignment]
    return rows


def main() -> None:
    """Measure, print, write decode.json and decode.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shapes", nargs="*", default=["embedded", "0.2b"], choices=["embedded", *SHAPES])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--captions", type=int, default=48, help="of the embedded model, in all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="the embedded model runs on one")
    parser.add_argument("--name", default="decode")
    parser.add_argument("--shortest", action="store_true", help="to see that it runs")
    args = parser.parse_args()
    if args.shortest:
        args.shapes, args.batches, args.tokens, args.rounds, args.captions = ["embedded", "tiny"], [1, 2], 8, 1, 4
    found = read(args.out, args.name)
    for shape in args.shapes:
        torch.set_num_threads(1 if shape == "embedded" else args.threads)
        for batch in args.batches:
            counted = Counted()
            if shape == "embedded":
                works = embedded_works(batch, max(args.captions // batch, 1), args.device, counted)
            else:
                works = shape_works(shape, batch, args.tokens, args.device, counted)
            title = f"{shape}, batch {batch}"
            found[title] = measured(works, counted, args.rounds, title)
            show(title, list(found[title].items()), ["ms a token", "tokens/s", "ratio", "blind", "ran"])
            write(args.out, args.name, {"machine": machine(args.device), "tokens": args.tokens, "rows": found})
    panels = {title: {name: row["ratio"] for name, row in rows.items()} for title, rows in found.items()}
    bars(args.out, args.name, panels, "seconds a token, plain generate = 1")


if __name__ == "__main__":
    main()
