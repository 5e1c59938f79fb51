"""`vdd score mme`: figures from stored answers; no model, no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def mme(
    answers: Annotated[
        Path,
        typer.Option(help="MME's results folder, or JSON lines with question_id (SUBTASK/IMAGE), prompt and text."),
    ],
    ground_truth: Annotated[
        Path | None, typer.Option(help="MME_Benchmark_release_version; for JSON lines, which hold no labels.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Perception, cognition and each subtask, as MME's own calculation.py counts them."""
    from vdd._check import UserError
    from vdd.data import load_answers
    from vdd.scoring.mme import GROUPS, SUBTASKS, missing, score_mme
    from vdd.sets.mme import match_answers, read_key, read_results

    if answers.is_dir() and ground_truth is not None:
        raise UserError(f"{answers}: is a results folder, which holds its labels; wanted it without --ground-truth.")
    if not answers.is_dir() and ground_truth is None:
        raise UserError(f"{answers}: is no folder; wanted a results folder, or --ground-truth with a file of answers.")
    if ground_truth is None:
        questions, texts = read_results(answers)
    else:
        questions, texts = match_answers(read_key(ground_truth), load_answers(answers))
    score = score_mme(questions, texts)
    if json:
        typer.echo(score.to_json())
        return
    from vdd.cli.show import say, show_table

    values = score.values
    rows = [
        [name, f"{values[name]:.2f}"]
        + [f"{values[name + part]:.4f}" for part in ("_acc", "_acc_plus")]
        + [f"{values[name + '_other']}"]
        for name in SUBTASKS
        if name in values
    ]
    rows += [[group, f"{values[group]:.2f}", "", "", ""] for group in GROUPS if group in values]
    show_table(str(answers), ["subtask", "score", "acc", "acc+", "other"], rows)
    absent = missing(questions)
    if absent:
        say(f"missing, and in no sum: {', '.join(absent)}")
    if values["unanswered"]:
        say(f"unanswered, and wrong: {values['unanswered']}")
    say(score.signature)
