"""`vdd score mmmu`: figures from stored answers; no model, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def mmmu(
    answers: Annotated[
        Path, typer.Option(help="A JSON object of answers by id, or JSON lines with id or question_id, and text.")
    ],
    key: Annotated[
        Path, typer.Option(help="answer_dict_val.json, or records with id, question_type, answer, options.")
    ],
    parser: Annotated[
        str | None,
        typer.Option(
            help="official reads a letter out of an answer and wants options in the key; letters takes letters as they "
            "are. Left out: official where the key has options."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Accuracy over all questions, in disciplines and subjects, as MMMU's own scripts count them."""
    from vdd.scoring.mmmu import FIGURES, parser_for, score_mmmu
    from vdd.sets.mmmu import match_answers, read_answers, read_key

    items, texts = match_answers(read_key(key), read_answers(answers))
    score = score_mmmu(items, texts, parser=parser_for(items) if parser is None else parser)
    if json:
        typer.echo(score.to_json())
        return
    from vdd.cli.show import say, show_table

    values = score.values
    rows = [
        [name, f"{values.get(f'{name}_n', values['n'])}", f"{values[name]:.4f}"] for name in FIGURES if name in values
    ]
    show_table(str(answers), ["figure", "questions", "value"], rows)
    say(f"letters drawn at random: {values['random']}; answers without a letter: {values['unparsed']}")
    if values["unanswered"]:
        say(f"unanswered, and wrong: {values['unanswered']}")
    say(score.signature)
