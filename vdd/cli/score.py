"""`vdd score pope`: figures from stored answers; no model, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdd.cli.score_amber import amber
from vdd.cli.score_chair import chair
from vdd.cli.score_llava_bench import llava_bench
from vdd.cli.score_mme import mme
from vdd.cli.score_mmmu import mmmu

scores = typer.Typer(no_args_is_help=True, help="Score stored answers; calls no model.")


@scores.callback()
def _scores() -> None:
    """Score stored answers; calls no model."""


scores.command()(amber)
scores.command()(chair)
scores.command()(llava_bench)
scores.command()(mme)
scores.command()(mmmu)


@scores.command()
def pope(
    questions: Annotated[
        Path, typer.Option(help="POPE's question file: JSON lines with question_id, image, text, label.")
    ],
    answers: Annotated[Path, typer.Option(help="JSON lines with question_id or question, and text or answer.")],
    parser: Annotated[str, typer.Option(help="How answers are read: official, vcd or exact.")] = "official",
    drop_unknown: Annotated[
        bool, typer.Option(help="Leave out answers to questions that are not in the file (RePOPE on POPE's answers).")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Accuracy, precision, recall, F1 and yes-ratio, as POPE's own script counts them."""
    from vdd.data import load_answers, load_questions, match_answers
    from vdd.scoring.pope import name_parts_of, score_pope

    asked = load_questions(questions, labels=("yes", "no"))
    texts = match_answers(asked, load_answers(answers), unknown="drop" if drop_unknown else "error")
    score = score_pope(asked, texts, parser=parser, name_parts=name_parts_of(questions))
    if json:
        typer.echo(score.to_json())
        return
    from vdd.cli.show import say, show_table

    rows = [[name, f"{value}" if isinstance(value, int) else f"{value:.4f}"] for name, value in score.values.items()]
    show_table(str(answers), ["figure", "value"], rows)
    say(score.signature)
