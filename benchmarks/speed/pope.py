"""POPE end to end: a plain `generate` a question against this runner, with VDD and calibration or plain.

    python benchmarks/speed/pope.py --out runs/speed                                       # the embedded model's data
    python benchmarks/speed/pope.py --out runs/speed --shape 0.2b --questions coco_pope_adversarial.json --images 4

With `--shape` the questions' own texts are asked, six about each of so many generated images, answers of two tokens:
the word and its end. Random weights leave many tokens plausible, so that the image-free side is asked at every token; a
trained model asks it less.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from shapes import SHAPES, model_of, picture
from turns import bars, in_turn, machine, ratios, show, write

import vdd
from vdd.config import DebiasConfig, Leg, SamplingConfig
from vdd.data import load_questions
from vdd.images import load_image
from vdd.job import Run
from vdd.records import Question
from vdd.runner import run
from vdd.toy.questions import write_split

NOUNS = ["dog", "cat", "car", "person", "chair", "bottle", "cup", "table", "book", "clock", "vase", "bench"]


def questions_of(args: argparse.Namespace, folder: Path) -> tuple[list[Question], Path]:
    """The questions and the folder of their images, which is made."""
    if args.shape is None:
        write_split(folder, "test")
        asked = load_questions(folder / "pope_adversarial.json", labels=("yes", "no"))
        return asked[: args.limit], folder / "images"
    if args.questions is None:
        texts = [f"Is there a {noun} in the image?" for noun in NOUNS]
    else:
        texts = [question.text for question in load_questions(args.questions, labels=("yes", "no"))]
    images = folder / "images"
    images.mkdir(parents=True)
    for number in range(args.images):
        picture(number).save(images / f"{number}.png")
    places = range(6 * args.images)
    return [Question(n, f"{n // 6}.png", texts[n % len(texts)], "yes") for n in places], images


def works_of(
    model: Any, processor: Any, asked: list[Question], images: Path, most: int, batch: int, scratch: Path
) -> dict[str, Callable[[], None]]:
    """The loop that everyone writes, and this runner in three ways."""
    sampling = SamplingConfig(max_new_tokens=most)
    pipeline = vdd.Pipeline(model, processor)

    def loop(**options: Any) -> Callable[[], None]:
        def work() -> None:
            for question in asked:
                inputs = pipeline.inputs([load_image(images / question.image)], [question.text])
                plugins = [vdd.VDDLogitsProcessor(model, processor, inputs=inputs, **options)] if options else []
                ids = model.generate(**inputs, **sampling.generate_kwargs(), logits_processor=plugins)
                processor.batch_decode(ids[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

        return work

    def runner(legs: list[Leg], **settings: Any) -> Callable[[], None]:
        def work() -> None:
            shutil.rmtree(scratch, ignore_errors=True)
            fresh = vdd.Pipeline(model, processor)  # nothing is remembered from the round before
            run(fresh, Run("benchmark", asked, images, legs, batch_size=batch, **settings), scratch)

        return work

    plain = Leg("greedy", None, sampling)
    debiased = [Leg("vdd-none", DebiasConfig(), sampling), Leg("posthoc-none", None, sampling, post_hoc="none")]
    return {
        "plain loop": loop(),
        "VDD loop, two-pass": loop(preset="vdd", strategy="two-pass"),
        "VCD loop, two-pass": loop(preset="vcd", strategy="two-pass"),
        "runner, plain": runner([plain]),
        "runner, VDD + post-hoc": runner(debiased),
        "runner, VDD + post-hoc, images not shared": runner(debiased, share_images=False),
    }


def main() -> None:
    """Measure, print, write pope.json and pope.png."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", choices=SHAPES, help="random weights; the embedded model by default")
    parser.add_argument("--questions", type=Path, help="POPE's question file, for its texts")
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--limit", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="the embedded model runs on one")
    parser.add_argument("--name", default="pope")
    parser.add_argument("--shortest", action="store_true", help="to see that it runs")
    args = parser.parse_args()
    if args.shortest:
        args.limit, args.rounds, args.images = 12, 1, 2
    torch.set_num_threads(1 if args.shape is None else args.threads)
    with tempfile.TemporaryDirectory() as scratch:
        asked, images = questions_of(args, Path(scratch) / "data")
        model, processor = model_of(args.shape or "embedded", args.device)
        most = 4 if args.shape is None else 2
        works = works_of(model, processor, asked, images, most, args.batch_size, Path(scratch) / "run")
        taken = in_turn(works, args.rounds, what="POPE")
    rows = ratios(taken, "plain loop")
    same_runner = rows["runner, plain"]["seconds"]
    for row in rows.values():
        row["questions/s"] = len(asked) / row["seconds"]
        row["over runner"] = row["seconds"] / same_runner
    title = f"{args.shape or 'embedded'}, {len(asked)} questions, {len({one.text for one in asked})} texts"
    show(title, list(rows.items()), ["seconds", "questions/s", "ratio", "over runner"])
    write(args.out, args.name, {"machine": machine(args.device), "title": title, "rows": rows})
    bars(args.out, args.name, {title: {name: row["ratio"] for name, row in rows.items()}}, "seconds, plain loop = 1")


if __name__ == "__main__":
    main()
