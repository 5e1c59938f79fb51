"""`vdd advise`: whether debiasing helps a model on a user's own task, in words, a table, and a file to decode with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdd.cli import options
from vdd.cli.models import EMBEDDED, MODEL_HELP


def advise(
    questions: Annotated[
        Path, typer.Option(help="Labelled yes/no questions in POPE's form: question_id, image, text, label.")
    ],
    images: Annotated[Path, typer.Option(help="Folder of the images that the questions name.")],
    out: Annotated[Path, typer.Option(help="Folder for answers, the advice and vdd.json.")] = Path("vdd-advice"),
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = EMBEDDED,
    prompt: Annotated[str, typer.Option(help="The question's wording; {question} stands for its text.")] = "{question}",
    folds: Annotated[int, typer.Option(help="Parts of the images that settings are chosen apart from.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Questions a forward at most.")] = 16,
    seed: Annotated[int, typer.Option(help="Of the folds and the intervals.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps, or auto to spread the model.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    quantize: Annotated[str | None, typer.Option(help="4bit or 8bit (extra `bnb`).")] = None,
) -> None:
    """VDD, post-hoc, a mere bias, or nothing: what this model needs on these questions."""
    from vdd._check import whole
    from vdd.config import DebiasConfig, Leg, SamplingConfig
    from vdd.data import load_questions
    from vdd.split import folds_by_image

    asked = load_questions(questions, labels=("yes", "no"))
    folds_by_image([question.image for question in asked], whole("advise", "folds", folds, low=2))
    options.check_images(images)
    answered = options.folder_for_answers(out)
    from vdd.advise import advise as advice_of
    from vdd.advise import write_decoding
    from vdd.cli.models import open_pipeline
    from vdd.cli.show import say, show_table
    from vdd.job import Run
    from vdd.run_folder import leg_costs
    from vdd.search import UNDECIDED, load_margins
    from vdd.search_report import advice_table, write_advice

    pipeline = open_pipeline(model, debias=DebiasConfig(), device=device, dtype=dtype, quantize=quantize)
    greedy = SamplingConfig(max_new_tokens=4)
    legs = [Leg("greedy", None, greedy)]
    legs += [Leg(f"vdd-{name}", DebiasConfig(reference=name), greedy) for name in pipeline.priors]
    legs += [Leg(f"posthoc-{name}", None, greedy, post_hoc=name) for name in pipeline.priors]
    job = Run(model, asked, images, legs, prompt=prompt, batch_size=batch_size)
    stored = options.stored_answers(pipeline, job, answered)
    advice = advice_of(stored, load_margins(answered, legs[0]), folds=folds, seed=seed)
    costs = leg_costs(answered)
    write_decoding(out / "vdd.json", advice)
    write_advice(out / "advice.md", advice, costs, stored.undecided)
    title, columns, rows = advice_table(advice, costs)
    show_table(title, columns, rows)
    say(advice.in_words())
    if stored.undecided > UNDECIDED:
        say(
            f"{100 * stored.undecided:.1f} % of the first tokens decide nothing by themselves: what is said here is "
            "about the answers' labels, and generated texts may differ"
        )
    say(f"the decoding to load: {out / 'vdd.json'}")
