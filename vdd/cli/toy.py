"""`vdd toy-data` and `vdd train-toy`: the embedded model's questions as files, and its training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def toy_data(
    directory: Annotated[Path, typer.Argument(help="Folder to write into; new or empty.")],
) -> None:
    """Write the embedded model's images and questions in the forms of POPE, MME, CHAIR and multiple choice."""
    from vdd.cli.show import new_folder, notes, say
    from vdd.toy import write_toy_data

    new_folder(directory)
    with notes.status("drawing"):
        write_toy_data(directory, progress=say)
    say(f"wrote {directory}")


def train_toy(
    directory: Annotated[Path, typer.Argument(help="Folder for the weights, the log and the checkpoints.")],
    seed: Annotated[int, typer.Option(help="Of scenes, weights and batches.")] = 0,
    short: Annotated[bool, typer.Option("--short", help="A few steps of each phase, to see that it runs.")] = False,
) -> None:
    """Train the embedded CLIP and LLaVA from scratch; goes on where a killed run stopped."""
    from vdd.cli.show import progress, say, show_table
    from vdd.toy.train import train

    with progress("training") as advance:

        def report(phase: str, step: int, total: int, metrics: object) -> None:
            advance(step, total, phase)

        log = train(directory, seed=seed, steps="short" if short else "full", progress=report)
    rows = [[name, f"{value:.1f}"] for name, value in log["dev"].items() if isinstance(value, (int, float))]
    show_table("development scenes", ["figure", "value"], rows)
    say(f"wrote {directory}")
