"""`vdd ask IMAGE QUESTION`: one answer with debiasing beside the one without."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from vdd.cli.models import EMBEDDED, MODEL_HELP


def ask(
    image: Annotated[Path, typer.Argument(help="Image file.")],
    question: Annotated[str, typer.Argument(help="What to ask about it.")],
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = EMBEDDED,
    labels: Annotated[str, typer.Option(help="Possible answers, separated by commas; shows their probabilities.")] = "",
    alpha: Annotated[float, typer.Option(help="Contrast strength, ≥ 0.")] = 1.0,
    beta: Annotated[float, typer.Option(help="Plausibility cut-off, 0 to 1.")] = 0.1,
    reference: Annotated[str, typer.Option(help="What is shown instead of the image.")] = "none",
    max_new_tokens: Annotated[int, typer.Option(help="Length of the answer at most.")] = 64,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps, or auto to spread the model.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    quantize: Annotated[str | None, typer.Option(help="4bit or 8bit (extra `bnb`).")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show what each token owes to the image.")] = False,
    explain_html: Annotated[Path | None, typer.Option(help="The same as an HTML page, into this file.")] = None,
) -> None:
    """Answer one question about one image, with and without debiasing."""
    from vdd.config import DebiasConfig, SamplingConfig
    from vdd.images import load_image

    debias = DebiasConfig(alpha=alpha, beta=beta, reference=reference)
    sampling = SamplingConfig(max_new_tokens=max_new_tokens)
    picture = load_image(image)
    from vdd.cli.explain import check_page, show_explained
    from vdd.cli.models import open_pipeline
    from vdd.cli.show import say, show_table

    if explain_html is not None:
        check_page(explain_html)
    explained = explain or explain_html is not None
    pipeline = open_pipeline(model, debias=debias, device=device, dtype=dtype, quantize=quantize)
    if explained:
        plain = pipeline.explain(picture, question, sampling=sampling)
    else:
        plain = pipeline(picture, question, debias=False, sampling=sampling)
    words = [word.strip() for word in labels.split(",") if word.strip()]
    answer = pipeline(picture, question, labels=words or None, sampling=sampling)
    if explained and answer.reliance is None:
        owed = pipeline.explain(picture, question, answer.text)
        answer = replace(answer, tokens=owed.tokens, reliance=owed.reliance)
    if explain:
        show_explained([("plain", plain), ("debiased", answer)])
    else:
        say(f"plain     {plain.text}")
        say(f"debiased  {answer.text}")
    if explain_html is not None:
        from vdd.answer_page import Shown, answer_page
        from vdd.data import write_atomic

        write_atomic(explain_html, answer_page([Shown(picture, question, {"plain": plain, "debiased": answer})]))
        say(f"page      {explain_html}")
    if answer.probabilities and answer.blind_probabilities and answer.debiased:
        kinds = {"image": answer.probabilities}
        kinds |= {f"no image ({name})": values for name, values in answer.blind_probabilities.items()}
        kinds |= {f"post-hoc ({name})": values for name, values in answer.debiased.items()}
        rows = [[kind, *(f"{value:.3f}" for value in values.values())] for kind, values in kinds.items()]
        show_table("label probabilities", ["given", *answer.probabilities], rows)
