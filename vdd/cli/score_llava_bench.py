"""`vdd score llava-bench`: a judge's points, asked for where a judge is named, else as they stand in the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

INCOMPLETE = 1
"""Exit code where the judge gave no review of some answers."""


def llava_bench(
    answers: Annotated[Path, typer.Option(help="JSON lines with question_id or question, and text or answer.")],
    bench: Annotated[
        Path, typer.Option(help="Folder of questions.jsonl, context.jsonl, answers_gpt4.jsonl and LLaVA's rule.json.")
    ],
    reviews: Annotated[
        Path, typer.Option(help="JSON lines of reviews, written as they come; a killed run goes on in it.")
    ],
    judge_url: Annotated[
        str | None, typer.Option(help="Base URL of an OpenAI-compatible endpoint; nothing is sent without one.")
    ] = None,
    judge_model: Annotated[str | None, typer.Option(help="The judge's name at the endpoint.")] = None,
    judge_key_env: Annotated[
        str | None, typer.Option(help="Environment variable with the endpoint's key; none is sent without it.")
    ] = None,
    judge_timeout: Annotated[float, typer.Option(help="Seconds for each wait on the endpoint.")] = 120.0,
    judge_retries: Annotated[int, typer.Option(help="Further tries after a time-out, 429 or 5xx.")] = 6,
    parser: Annotated[str, typer.Option(help="How points are read: official or tolerant.")] = "official",
    seed: Annotated[int, typer.Option(help="Of the intervals' bootstrap.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """The model's points in per cent of the reference answers', by a judge; exit code 1 where it left reviews out."""
    import numpy as np

    from vdd._check import UserError, choice, whole
    from vdd.data import load_answers, match_answers
    from vdd.reviews import judge_parts
    from vdd.scoring.llava_bench import GROUPS, PARSERS, printed, score_llava_bench
    from vdd.sets.llava_bench import load_bench, load_reviews, prompts_sha, tasks_for

    choice("llava-bench", "parser", parser, PARSERS)
    whole("llava-bench", "seed", seed, low=0)
    items = load_bench(bench)
    asked = [item.question for item in items]
    texts = match_answers(asked, load_answers(answers))
    tasks = tasks_for(items, texts)
    if judge_url is None and not reviews.is_file():
        raise UserError(f"{reviews}: no such file, and no judge is named; wanted reviews, or --judge-url.")
    complete = True
    if judge_url is None:
        typer.echo("no --judge-url: nothing was sent; the reviews in the file are scored", err=True)
    else:
        from vdd.cli.show import progress
        from vdd.judge import Judge, review
        from vdd.scoring.llava_bench import official
        from vdd.sets.llava_bench import MAX_TOKENS, TEMPERATURE

        judge = Judge(
            judge_url, judge_model or "", TEMPERATURE, MAX_TOKENS, judge_key_env, judge_timeout, judge_retries
        )
        with progress("reviews") as advance:
            outcome = review(
                judge, tasks, reviews, read=lambda words: {"tuple": list(official(words))}, progress=advance
            )
        if outcome.cut:
            typer.echo(f"{reviews}: its last line was half written and was cut off; asked for again", err=True)
        for key, reason in outcome.missing.items():
            typer.echo(f"question {key}: no review: {reason}", err=True)
        if outcome.missing:
            typer.echo(
                f"{len(outcome.missing)} of {len(tasks)} reviews are missing; run the same command again for them",
                err=True,
            )
        complete = not outcome.missing
    unanswered = sum(text is None for text in texts)
    if unanswered:
        typer.echo(f"{unanswered} of {len(texts)} questions are unanswered, and count as empty answers", err=True)
    stored, rows = load_reviews(reviews, tasks)
    score = score_llava_bench(
        asked,
        [item.category for item in items],
        stored,
        parser=parser,
        name_parts=("llava-bench", f"prompts:{prompts_sha(items)}", *judge_parts(rows)),
        rng=np.random.default_rng(seed),
    )
    if json:
        typer.echo(score.to_json())
    else:
        from vdd.cli.show import say, show_table

        table = []
        for name in GROUPS:
            reference, model = score.values[f"{name}_reference"], score.values[f"{name}_model"]
            between = " – ".join(f"{end:.1f}" for end in score.intervals.get(name, ()))
            table.append([name, f"{printed(reference, model):.1f}", between, f"{reference:.3f}", f"{model:.3f}"])
        show_table(str(answers), ["reviews", "score", "95 %", "reference", "model"], table)
        counts = ", ".join(f"{score.values[name]} {name}" for name in ("missing", "unreadable"))
        say(f"{score.values['n']} questions, reviews of them: {counts}")
        say(score.signature)
    if not complete:
        raise typer.Exit(INCOMPLETE)
