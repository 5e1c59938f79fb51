"""`vdd search`: decoding configurations on a user's own questions, chosen on some images, scored on the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdd.cli import options
from vdd.cli.models import EMBEDDED, MODEL_HELP

SHOWN = 12
"""Rows of the table on the terminal; search.json has them all."""


def search(
    questions: Annotated[
        Path, typer.Option(help="Labelled yes/no questions in POPE's form: question_id, image, text, label.")
    ],
    images: Annotated[Path, typer.Option(help="Folder of the images that the questions name.")],
    out: Annotated[Path, typer.Option(help="Folder for answers, figures and tables; a killed search goes on in it.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = EMBEDDED,
    alpha: Annotated[list[float] | None, typer.Option(help="Contrast strengths to try; again for each.")] = None,
    beta: Annotated[list[float] | None, typer.Option(help="Plausibility cut-offs to try; again for each.")] = None,
    prompt: Annotated[str, typer.Option(help="The question's wording; {question} stands for its text.")] = "{question}",
    dev_share: Annotated[float, typer.Option(help="Of the images, which the choice may see.")] = 0.3,
    seeds: Annotated[int, typer.Option(help="Draws of these images, to see how stable the choice is.")] = 5,
    max_new_tokens: Annotated[int, typer.Option(help="Of answers that must be generated.")] = 16,
    batch_size: Annotated[int, typer.Option(help="Questions a forward at most.")] = 16,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps, or auto to spread the model.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    quantize: Annotated[str | None, typer.Option(help="4bit or 8bit (extra `bnb`).")] = None,
) -> None:
    """Temperature, top-p, top-k by strength, cut-off and reference: the best on dev, and what it is worth on test."""
    from vdd._check import whole
    from vdd.config import DebiasConfig, Leg
    from vdd.data import load_questions
    from vdd.split import split_by_image

    asked = load_questions(questions, labels=("yes", "no"))
    options.check_images(images)
    split_by_image(asked, dev_share)
    whole("search", "seeds", seeds, low=1)
    for value in alpha or ():
        DebiasConfig(alpha=value)
    for value in beta or ():
        DebiasConfig(beta=value)
    answered = options.folder_for_answers(out)
    from vdd.cli.models import open_pipeline
    from vdd.cli.show import progress, say, show_table
    from vdd.job import Run
    from vdd.protocol import ALPHAS, BETAS
    from vdd.runner import run
    from vdd.search import UNDECIDED, candidates, chances, choose, configurations, few, said_chances
    from vdd.search_report import choice_table, write_search

    pipeline = open_pipeline(model, debias=DebiasConfig(), device=device, dtype=dtype, quantize=quantize)
    legs = candidates(pipeline.priors, alpha or ALPHAS, beta or BETAS, configurations())
    job = Run(model, asked, images, [Leg("greedy", None, legs[0].sampling)], prompt=prompt, batch_size=batch_size)
    stored = options.stored_answers(pipeline, job, answered)
    undecided = stored.undecided
    if undecided <= UNDECIDED:
        with progress("configurations") as advance:
            found = chances(stored, legs, progress=advance)
    else:
        say(f"{100 * undecided:.1f} % of the first tokens decide nothing by themselves: answers are generated instead")
        legs = few(legs, max_new_tokens)
        generated = Run(model, asked, images, legs, prompt=prompt, batch_size=batch_size)
        with progress("questions") as advance:
            run(pipeline, generated, out / "generated", progress=advance)
        found = said_chances(out / "generated", legs, stored.questions)
    choices = [choose(stored.questions, legs, found, share=dev_share, seed=seed) for seed in range(seeds)]
    title, columns, rows = write_search(
        out, stored.questions, legs, found, choices, share=dev_share, undecided=undecided
    )
    show_table(title, columns, rows[:SHOWN])
    title, columns, rows = choice_table(choices)
    show_table(title, columns, rows)
    if undecided > UNDECIDED:
        say("sampled configurations were drawn once")
    say(f"all {len(legs)} configurations, tables and pictures: {out}")
