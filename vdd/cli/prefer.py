"""`vdd prefer`: preference pairs from the model's own bias; `vdd prefer check`: what is wrong with a file of pairs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vdd.cli.models import EMBEDDED
from vdd.cli.options import BatchSize, Device, Dtype, Model, Quantize

if TYPE_CHECKING:
    from vdd.preference.similarity import Similarity
    from vdd.preference.summary import Summary

preferences = typer.Typer(
    invoke_without_command=True, help="Preference pairs from the model's own bias, for `vdd align`."
)

_SHOWN = 20
"""Findings on the terminal before "and … more"."""


@preferences.callback()
def prefer(
    context: typer.Context,
    data: Annotated[
        Path | None,
        typer.Option(
            help="Questions with good answers: JSON lines, a JSON array, CSV, TSV or parquet with image, prompt, "
            "answer, and where there are such id; or LLaVA's conversations."
        ),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images that the data name.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for the pairs; a killed run goes on in it.")] = None,
    model: Model = EMBEDDED,
    rho: Annotated[float, typer.Option(help="Probability with which an image token is hidden, 0 to 1.")] = 0.99,
    epsilon: Annotated[
        float | None, typer.Option(help="A rejected answer is less similar than this; by default the measure's own.")
    ] = None,
    iterations: Annotated[int, typer.Option(help="Tries a row at most; the last is a free answer.")] = 5,
    variant: Annotated[str, typer.Option(help="How the image is hidden: attention, noise or unguided.")] = "attention",
    embedder: Annotated[
        str | None,
        typer.Option(
            help="Similarity by this sentence-transformers model (extra `embed`): a folder, or a name on the Hub, such "
            "as sentence-transformers/all-mpnet-base-v2. By default, answers are compared by their words."
        ),
    ] = None,
    objects: Annotated[
        Path | None,
        typer.Option(
            help="Similarity by what is mentioned of these objects: lines of a name and its synonyms, by commas."
        ),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of sampling; 0 takes the likeliest token.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Of sampling: nucleus, above 0 to 1.")] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(help="Length of a sentence's new end at most.")] = 64,
    batch_size: BatchSize = 16,
    seed: Annotated[int, typer.Option(help="Of all that is random; each row has its own by it.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Only the first so many rows.")] = None,
    device: Device = None,
    dtype: Dtype = "auto",
    quantize: Quantize = None,
) -> None:
    """Make a preference pair of every good answer: what the model's bias makes of it is the rejected one."""
    if context.invoked_subcommand is not None:
        return
    from vdd._check import UserError, choice, real, whole
    from vdd.run_folder import refuse_foreign

    if data is None or images is None or out is None:
        given = {"--data": data, "--images": images, "--out": out}
        lacking = ", ".join(name for name, value in given.items() if value is None)
        raise UserError(f"prefer: {lacking} missing; wanted vdd prefer --data FILE --images DIR --out DIR.")
    real("prefer", "rho", rho, low=0.0, high=1.0)
    real("prefer", "temperature", temperature, low=0.0)
    real("prefer", "top_p", top_p, low=1e-6, high=1.0)
    if epsilon is not None:
        real("prefer", "epsilon", epsilon, low=-1.0, high=1.0)
    counts = {"iterations": iterations, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    for name, value in counts.items() if limit is None else (*counts.items(), ("limit", limit)):
        whole("prefer", name, value, low=1)
    from vdd.config import MAX_SEED
    from vdd.preference.pairs import VARIANTS, Variant
    from vdd.preference.sources import read_rows

    whole("prefer", "seed", seed, low=0, high=MAX_SEED)
    kind: Variant = next(one for one in VARIANTS if one == choice("prefer", "variant", variant, VARIANTS))
    refuse_foreign(out)
    rows, refused = read_rows(data, images)
    measure = _measure(embedder, objects)
    from vdd.cli.models import open_pipeline
    from vdd.cli.show import progress
    from vdd.config import DebiasConfig
    from vdd.preference.bdhs import BDHS
    from vdd.preference.run import prefer as sample
    from vdd.workers import Workers

    workers = Workers.launched()
    pipeline = open_pipeline(
        model, debias=DebiasConfig(), device=workers.device(device), dtype=dtype, quantize=quantize
    )
    bdhs = BDHS(
        pipeline.model,
        pipeline.processor,
        rho=rho,
        epsilon=epsilon,
        iterations=iterations,
        variant=kind,
        embedder=measure,
        temperature=temperature,
        top_p=top_p,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        name=model,
    )
    about = {"dtype": str(pipeline.model.dtype), "device": pipeline.device.type, "quantized": quantize}
    with progress("rows", shown=workers.is_first) as advance:
        summary = sample(
            bdhs,
            rows[:limit],
            refused,
            out,
            images=images,
            batch_size=batch_size,
            seed=seed,
            about=about,
            progress=advance,
            workers=workers,
        )
    if workers.is_first:
        _show(summary, out)


@preferences.command()
def check(
    file: Annotated[Path, typer.Argument(help="Pairs: parquet, JSON lines, or the folder of `vdd prefer`.")],
    images: Annotated[Path | None, typer.Option(help="Folder of the images that JSON lines name.")] = None,
) -> None:
    """Say what is wrong with which row; exit code 2 where something is."""
    from vdd.cli.show import notes, say
    from vdd.preference.checks import check_pairs

    with notes.status("looking"):
        found = check_pairs(file, images)
    for one in found.findings[:_SHOWN]:
        named = f" (id {one.id})" if one.id else ""
        say(f"{'note: ' if one.weight == 'noted' else ''}{one.where}{named}: {one.what}")
    if len(found.findings) > _SHOWN:
        say(f"and {len(found.findings) - _SHOWN} more")
    say(found.in_words())
    if found.wrong:
        raise typer.Exit(2)


def _measure(embedder: str | None, objects: Path | None) -> Similarity:
    """The similarity that is asked for."""
    from vdd._check import UserError
    from vdd.preference.similarity import Embedder, NamedThings, fallback
    from vdd.sets.captions import load_vocabulary

    if embedder is not None and objects is not None:
        raise UserError("prefer: --embedder and --objects came both; wanted one measure.")
    if objects is not None:
        return NamedThings(load_vocabulary(objects))
    return fallback() if embedder is None else Embedder(embedder)


def _show(summary: Summary, out: Path) -> None:
    from vdd.cli.show import say, show_table
    from vdd.preference.run import REFUSED
    from vdd.preference.stored import LINES, PARQUET
    from vdd.preference.summary import advice

    rows = [
        [str(iteration), str(tries), f"{alike / tries:.1%}" if tries else "", str(summary.taken.get(iteration, 0))]
        for iteration, (tries, alike) in summary.similar.items()
    ]
    show_table("similar answers by iteration", ["iteration", "tries", "too similar", "pairs"], rows)
    hidden = "" if summary.rho is None else f", ρ = {summary.rho:g}"
    say(f"similarity: {summary.measure}; too similar from ε = {summary.epsilon:g} on{hidden}")
    say(advice(summary))
    say(f"{summary.pairs} pairs of {summary.rows} rows")
    if summary.refused or summary.unread:
        say(f"{summary.refused} rows and {summary.unread} entries of the data became none: {out / REFUSED}")
    if summary.parquet:
        say(f"wrote {out / PARQUET} and {out / LINES}")
    else:
        say(f"wrote {out / LINES}; for {PARQUET}: pip install 'visual-debias-decoding[train]', and the same command")
