"""`vdd analyse`: see the bias. What a model says, attends to and believes, with the images and without them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vdd.cli import options
from vdd.cli.models import EMBEDDED

if TYPE_CHECKING:
    pass

analyses = typer.Typer(
    invoke_without_command=True, help="See the bias: a model's answers, attention and priors, with the image and not."
)


@analyses.callback()
def analyse(
    context: typer.Context,
    questions: Annotated[
        Path | None, typer.Option(help="Question file: question_id, image, text, and label where there is one.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images that the questions name.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for answers, records and figures; goes on in it.")] = None,
    model: options.Model = EMBEDDED,
    labels: Annotated[
        str | None, typer.Option(help="The possible answers, commas between; by default those that the file has.")
    ] = None,
    label_set: Annotated[
        list[str] | None,
        typer.Option(
            help="Labels whose prior is looked at: colors, numbers, number-words, letters, animals, directions, "
            "yes-no, or a list with commas; again for each. By default the possible answers."
        ),
    ] = None,
    relabelled: Annotated[
        Path | None, typer.Option(help="Question file with other labels of the same questions, such as RePOPE's.")
    ] = None,
    subset: Annotated[
        str | None, typer.Option(help="Field of the question file by whose values it is parted, such as category.")
    ] = None,
    reference: Annotated[str, typer.Option(help="Of the debiased answers: none, unk or both.")] = "none",
    alpha: Annotated[float, typer.Option(help="Contrast strength of the debiased answers.")] = 1.0,
    beta: Annotated[float, typer.Option(help="Their plausibility cut-off.")] = 0.1,
    question: Annotated[str | None, typer.Option(help="Id of the one to look at by itself; else the first.")] = None,
    attention: Annotated[int, typer.Option(help="Questions whose attention is followed; 0 for none.")] = 64,
    attention_question: Annotated[
        str | None, typer.Option(help='Asked in their place for this, such as "Describe the image."')
    ] = None,
    prompt: options.Prompt = "{question}",
    batch_size: options.BatchSize = 16,
    max_new_tokens: options.MaxNewTokens = 16,
    limit: options.Limit = None,
    seed: Annotated[int, typer.Option(help="Of intervals.")] = 0,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
) -> None:
    """Likeliest answers, attention, priors, language bias, accuracy by confidence, what debiasing breaks."""
    if context.invoked_subcommand is not None:
        return
    from vdd._check import UserError

    if questions is None or images is None or out is None:
        given = {"--questions": questions, "--images": images, "--out": out}
        missing = " and ".join(name for name, value in given.items() if value is None)
        raise UserError(f"analyse: {missing} did not come; wanted a question file, its images' folder, and a folder.")
    from vdd.cli.analyse_run import Asked, run_analysis

    asked = Asked(
        questions=questions,
        images=images,
        out=out,
        model=model,
        labels=labels,
        label_sets=label_set or (),
        relabelled=relabelled,
        subset=subset,
        reference=reference,
        alpha=alpha,
        beta=beta,
        question=question,
        attention=attention,
        attention_question=attention_question,
        prompt=prompt,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        limit=limit,
        seed=seed,
        device=device,
        dtype=dtype,
        quantize=quantize,
    )
    run_analysis(asked)


@analyses.command()
def draw(out: Annotated[Path, typer.Argument(help="Folder of an analysis.")]) -> None:
    """Draw every figure anew from the records alone: no model, no image folder."""
    from vdd.analysed import FIGURES, check_analysis
    from vdd.analysis_figures import draw_all
    from vdd.cli.show import say
    from vdd.plots import can_chart

    check_analysis(out)
    drawn = draw_all(out, charts=can_chart())
    say(f"{len(drawn)} figures: {out / FIGURES}")
    if not can_chart():
        say("for the charts: pip install 'visual-debias-decoding[plot]'")
