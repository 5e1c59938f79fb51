"""`vdd score amber`: AMBER's figures from stored responses; no model, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def amber(
    answers: Annotated[Path, typer.Option(help="JSON with id and response, or stored answers.")],
    annotations: Annotated[Path, typer.Option(help="AMBER's annotations.json.")],
    association: Annotated[Path | None, typer.Option(help="AMBER's relation.json.")] = None,
    safe_words: Annotated[Path | None, typer.Option(help="AMBER's safe_words.txt.")] = None,
    nouns: Annotated[str, typer.Option(help="How nouns are found: vocabulary, or nltk as AMBER does.")] = "vocabulary",
    similar: Annotated[str, typer.Option(help="Which words are similar: exact, or spacy as AMBER has it.")] = "exact",
    parser: Annotated[str, typer.Option(help="How yes and no are read: exact, official (POPE's) or vcd.")] = "exact",
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """CHAIR, Cover, Hal, Cog of descriptions; accuracy, precision, recall, F1 on "no" of questions; AMBER's score."""
    from vdd.scoring.amber import score_amber
    from vdd.sets.amber import load_annotations, load_association, load_responses, load_safe_words

    score = score_amber(
        load_annotations(annotations),
        load_responses(answers),
        association=None if association is None else load_association(association),
        safe_words=frozenset() if safe_words is None else load_safe_words(safe_words),
        nouns=nouns,
        similar=similar,
        parser=parser,
    )
    if json:
        typer.echo(score.to_json())
        return
    from vdd.cli.show import say, show_table

    rows = [[name, f"{value}" if isinstance(value, int) else f"{value:.4f}"] for name, value in score.values.items()]
    show_table(str(answers), ["figure", "value"], rows)
    say(score.signature)
