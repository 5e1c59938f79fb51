"""`vdd eval mme`: a model on MME, plain and debiased, in the same legs as POPE."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdd.cli import eval_diagnose, options
from vdd.cli.models import EMBEDDED


def mme(
    out: options.Out,
    folder: Annotated[
        Path | None, typer.Option(help="MME's own folder: one for each subtask, with its questions and pictures.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="In its place: parquet in the form of lmms-lab/MME, as a file, a folder or a name on the Hub, which "
            "alone is fetched (extra `eval`)."
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Where a data set's pictures are written.")] = None,
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
    batch_size: options.BatchSize = 16,
    share_images: options.ShareImages = True,
    strategy: options.Strategy = "skip",
    max_new_tokens: options.MaxNewTokens = 16,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
    diagnose: eval_diagnose.Diagnose = None,
    diagnose_images: eval_diagnose.DiagnoseImages = None,
    tower: eval_diagnose.Tower = None,
    diagnose_limit: eval_diagnose.DiagnoseLimit = 12,
) -> None:
    """Perception, cognition and hallucination sums in every leg, with intervals; answers, scores and a table."""
    from vdd._check import UserError, real
    from vdd.data import write_atomic
    from vdd.sets.mme import read_questions

    real("eval", "dev_share", dev_share, low=0.0, high=0.9)
    if (folder is None) == (dataset is None) or (images is None) != (dataset is None):
        raise UserError("eval: wanted either --folder, or --dataset with --images.")
    pictures = folder or images or Path()
    asking = options.Asking(
        model=model,
        out=out,
        images=pictures,
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
    known = asking.dev_questions(dev, dev_images)
    if folder is not None:
        asked = read_questions(folder)
    asking.check()
    tracing = eval_diagnose.opened(asking, diagnose, diagnose_images, tower, diagnose_limit)
    if dataset is not None:
        from vdd.sets.hub import load_hub

        asked = load_hub(dataset, pictures, benchmark="mme")
    if dev is None and dev_share:
        from vdd.protocol import split_dev

        known, asked = split_dev(asked, pictures, dev_share, seed=seed)
    _, workers = asking.answer(asked, known, dev_images)
    if not workers.is_first:
        return
    from vdd.cli.show import say, show_table
    from vdd.mme_report import COLUMNS, evaluate, markdown, table

    results = evaluate(out, seed=seed)
    show_table("mme", COLUMNS, table(results))
    write_atomic(out / "table.md", markdown(results))
    say(f"signature of the first leg: {results[0].score.signature}")
    say(f"answers, scores and table: {out}")
    if tracing is not None:
        eval_diagnose.diagnose(tracing, out, pictures, parser="official", limit=diagnose_limit)
