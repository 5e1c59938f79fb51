"""`vdd eval pope`: a model on POPE-form questions, plain and debiased, in every leg that a careful reader asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdd.cli.models import EMBEDDED, MODEL_HELP

evaluations = typer.Typer(no_args_is_help=True, help="Measure a model, plain and debiased.")


@evaluations.callback()
def _evaluations() -> None:
    """Measure a model, plain and debiased."""


@evaluations.command()
def pope(
    questions: Annotated[
        Path, typer.Option(help="POPE's question file: JSON lines with question_id, image, text, label.")
    ],
    images: Annotated[Path, typer.Option(help="Folder of the images that the questions name.")],
    out: Annotated[Path, typer.Option(help="Folder for answers and scores; a killed run goes on in it.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = EMBEDDED,
    alpha: Annotated[float, typer.Option(help="Contrast strength, ≥ 0.")] = 1.0,
    beta: Annotated[float, typer.Option(help="Plausibility cut-off, 0 to 1.")] = 0.1,
    prompt: Annotated[str, typer.Option(help="The question's wording; {question} stands for its text.")] = "{question}",
    parser: Annotated[str, typer.Option(help="How answers are read: official, vcd or exact.")] = "official",
    batch_size: Annotated[
        int, typer.Option(help="Questions a forward at most; halved for as long as memory does not suffice.")
    ] = 16,
    share_images: Annotated[bool, typer.Option(help="Read an image once for all its questions.")] = True,
    strategy: Annotated[
        str, typer.Option(help="How the image-free side is run: skip, two-pass, fuse or speculate.")
    ] = "skip",
    max_new_tokens: Annotated[int, typer.Option(help="Length of an answer at most.")] = 16,
    limit: Annotated[int | None, typer.Option(help="Only the first so many questions.")] = None,
    seed: Annotated[int, typer.Option(help="Of sampling.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps, or auto to spread the model.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    quantize: Annotated[str | None, typer.Option(help="4bit or 8bit (extra `bnb`).")] = None,
) -> None:
    """Greedy, VDD, post-hoc, both, and sampling with its controls; answers, scores and a table."""
    from vdd._check import UserError, choice, whole
    from vdd.config import STRATEGIES, DebiasConfig
    from vdd.data import load_questions
    from vdd.scoring.pope import name_parts_of
    from vdd.scoring.words import PARSERS

    choice("eval", "parser", parser, PARSERS)
    choice("eval", "strategy", strategy, [name for name in STRATEGIES if name != "auto"])
    asked = load_questions(questions, labels=("yes", "no"))
    if limit is not None:
        asked = asked[: whole("eval", "limit", limit, low=1)]
    if not images.is_dir():
        raise UserError(f"{images}: no such folder; wanted the folder of the images.")
    debias = DebiasConfig(alpha=alpha, beta=beta)
    from vdd.run_folder import refuse_foreign

    refuse_foreign(out)
    from vdd.cli.models import open_pipeline
    from vdd.cli.show import progress, say, show_table
    from vdd.report import COLUMNS, evaluate, markdown, table
    from vdd.runner import Run, run, standard_legs

    pipeline = open_pipeline(model, debias=debias, device=device, dtype=dtype, quantize=quantize)
    legs = standard_legs(alpha=alpha, beta=beta, max_new_tokens=max_new_tokens, priors=pipeline.priors)
    job = Run(
        model,
        asked,
        images,
        legs,
        prompt=prompt,
        batch_size=batch_size,
        seed=seed,
        share_images=share_images,
        strategy=strategy,
    )
    with progress("questions") as advance:
        unshared = run(pipeline, job, out, progress=advance)
    if unshared:
        say(f"each question read its image anew: {unshared}")
    names = name_parts_of(questions)
    results = evaluate(out, names=names, parser=parser, seed=seed)
    (out / "table.md").write_text(markdown(results), encoding="utf-8")
    show_table(" ".join(names), COLUMNS, table(results))
    unanswered = results[0].score.values["unanswered"]
    if unanswered:
        say(f"{unanswered} of {len(asked)} questions have no answer: their images could not be read")
    say(f"signature of the first leg: {results[0].score.signature}")
    say(f"answers, scores and table: {out}")
