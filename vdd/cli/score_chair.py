"""`vdd score chair`: hallucinated objects in stored captions; no model, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def chair(
    captions: Annotated[Path, typer.Option(help="JSON lines with image_id and caption, or stored answers.")],
    objects: Annotated[Path, typer.Option(help="One JSON object: image id → names of what is in it.")],
    synonyms: Annotated[Path, typer.Option(help="The words that name objects: .json, or CHAIR's synonyms.txt.")],
    length_of: Annotated[
        Path | None,
        typer.Option(help="Another run's captions: cut each to the length of the shorter of the two, and score these."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """CHAIRs, CHAIRi, recall and length, with 95 % intervals."""
    import numpy as np

    from vdd.scoring.chair import FIGURES, length_matched, score_chair
    from vdd.sets.captions import load_captions, load_objects, load_vocabulary

    said = load_captions(captions)
    names: tuple[str, ...] = ("chair",)
    if length_of is not None:
        said, _ = length_matched(said, load_captions(length_of))
        names = ("chair", "length-matched")
    score = score_chair(
        said, load_objects(objects), load_vocabulary(synonyms), name_parts=names, rng=np.random.default_rng(0)
    )
    if json:
        typer.echo(score.to_json())
        return
    from vdd.cli.show import say, show_table

    rows = []
    for name, value in score.values.items():
        digits = 4 if name in FIGURES else 0
        ends = score.intervals.get(name)
        between = "" if ends is None else f"{ends[0]:.{digits}f} to {ends[1]:.{digits}f}"
        rows.append([name, f"{value:.{digits}f}", between])
    show_table(str(captions), ["figure", "value", "95 %"], rows)
    say(score.signature)
