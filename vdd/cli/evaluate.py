"""`vdd eval pope`: a model on POPE-form questions, plain and debiased, in every leg that a careful reader asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdd.cli import eval_diagnose, options
from vdd.cli.eval_mme import mme
from vdd.cli.eval_open import open_
from vdd.cli.models import EMBEDDED

evaluations = typer.Typer(no_args_is_help=True, help="Measure a model, plain and debiased.")


@evaluations.callback()
def _evaluations() -> None:
    """Measure a model, plain and debiased."""


evaluations.command()(mme)
evaluations.command(name="open")(open_)


@evaluations.command()
def pope(
    images: Annotated[
        Path, typer.Option(help="Folder of the images that the questions name; a data set's are written into it.")
    ],
    out: options.Out,
    questions: Annotated[
        Path | None, typer.Option(help="POPE's question file: JSON lines with question_id, image, text, label.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="In its place: parquet in the form of lmms-lab/POPE, as a file, a folder or a name on the Hub, which "
            "alone is fetched (extra `eval`)."
        ),
    ] = None,
    category: Annotated[
        str | None, typer.Option(help="Of the data set only random, popular or adversarial; by default all.")
    ] = None,
    relabelled: Annotated[
        Path | None, typer.Option(help="Question file with other labels of the same questions, such as RePOPE's.")
    ] = None,
    model: options.Model = EMBEDDED,
    dev: options.Dev = None,
    dev_images: options.DevImages = None,
    dev_share: options.DevShare = 0.2,
    alpha: options.Alpha = None,
    beta: options.Beta = None,
    method: options.Methods = None,
    custom_generate: options.CustomGenerate = None,
    trust_remote_code: options.TrustRemoteCode = False,
    config: options.Config = None,
    repeats: options.Repeats = 5,
    prompt: options.Prompt = "{question}",
    parser: Annotated[str, typer.Option(help="How answers are read: official, vcd or exact.")] = "official",
    batch_size: options.BatchSize = 16,
    share_images: options.ShareImages = True,
    strategy: options.Strategy = "skip",
    max_new_tokens: options.MaxNewTokens = 16,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    diagnose: eval_diagnose.Diagnose = None,
    diagnose_images: eval_diagnose.DiagnoseImages = None,
    tower: eval_diagnose.Tower = None,
    diagnose_limit: eval_diagnose.DiagnoseLimit = 12,
) -> None:
    """Greedy, VDD, post-hoc, both, and the controls, by settings chosen on other images; answers, scores, a table."""
    from vdd._check import UserError, choice, real, whole
    from vdd.data import load_questions, write_atomic
    from vdd.scoring.pope import name_parts_of
    from vdd.scoring.words import PARSERS

    choice("eval", "parser", parser, PARSERS)
    real("eval", "dev_share", dev_share, low=0.0, high=0.9)
    if limit is not None:
        whole("eval", "limit", limit, low=1)
    if (questions is None) == (dataset is None) or (category is not None and dataset is None):
        raise UserError("eval: wanted either --questions, or --dataset with or without --category.")
    asking = options.Asking(
        model=model,
        out=out,
        images=images,
        alpha=alpha,
        beta=beta,
        methods=method or (),
        custom_generate=custom_generate or (),
        trust_remote_code=trust_remote_code,
        config=config,
        repeats=repeats,
        prompt=prompt,
        batch_size=batch_size,
        share_images=share_images,
        strategy=strategy,
        max_new_tokens=max_new_tokens,
        seed=seed,
        device=device,
        dtype=dtype,
        quantize=quantize,
    )
    if questions is not None:
        asked = load_questions(questions, labels=("yes", "no"))[:limit]
        names = name_parts_of(questions)
        options.check_images(images)
    elif images.resolve().is_relative_to(out.resolve()):
        raise UserError(f"{images}: is within {out}; wanted a folder beside it, which other runs may share.")
    known = asking.dev_questions(dev, dev_images)
    if relabelled is not None:
        load_questions(relabelled, labels=("yes", "no"))
    asking.check()
    tracing = eval_diagnose.opened(asking, diagnose, diagnose_images, tower, diagnose_limit)
    if dataset is not None:
        from vdd.sets.hub import load_hub, name_parts

        asked = load_hub(dataset, images, category=category, limit=limit)
        names = name_parts("pope", asked, category=category)
    if dev is None and dev_share:
        from vdd.protocol import split_dev

        known, asked = split_dev(asked, images, dev_share, seed=seed)
    _, workers = asking.answer(asked, known, dev_images)
    if not workers.is_first:
        return
    from vdd.cli.show import say, show_table
    from vdd.report import COLUMNS, evaluate, markdown, table

    results = evaluate(out, names=names, parser=parser, seed=seed)
    text = markdown(results)
    show_table(" ".join(names), COLUMNS, table(results))
    if relabelled is not None:
        names = name_parts_of(relabelled)
        again = evaluate(out, names=names, parser=parser, seed=seed, relabelled=relabelled)
        text += f"\n### {' '.join(names)}\n\n{markdown(again)}"
        show_table(" ".join(names), COLUMNS, table(again))
    write_atomic(out / "table.md", text)
    say(f"signature of the first leg: {results[0].score.signature}")
    say(f"answers, scores and table: {out}")
    if tracing is not None:
        eval_diagnose.diagnose(tracing, out, images, parser=parser, limit=diagnose_limit)
