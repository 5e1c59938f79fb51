"""`vdd influence`: which training pairs made a contrastive model see badly."""

from __future__ import annotations

from typing import Annotated

import typer

from vdd.cli import influence_options as options
from vdd.cli.influence_trace import trace

influences = typer.Typer(no_args_is_help=True, help="Which training pairs made a contrastive model see badly.")


@influences.callback()
def _influences() -> None:
    """Which training pairs made a contrastive model see badly."""


influences.command()(trace)


@influences.command()
def value(
    pairs: options.PairsFile,
    images: options.Images,
    val: options.Val,
    out: options.Out,
    val_images: options.ValImages = None,
    model: options.Model = "toy",
    params: options.Params = "heads",
    method: options.Method = "exact",
    curvature: options.Curvature = "ggn",
    damping: options.Damping = None,
    partitions: options.Partitions = 4,
    batch_size: options.BatchSize = 256,
    normaliser: options.Normaliser = "sum",
    duplicates: options.Duplicates = "negatives",
    curvature_pairs: options.CurvaturePairs = None,
    tolerance: options.Tolerance = 1e-5,
    max_products: options.MaxProducts = 500,
    allow_unsolved: options.AllowUnsolved = False,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
    limit: options.Limit = None,
    format_: Annotated[str, typer.Option("--format", help="Of the table: csv, or parquet (extra `eval`).")] = "csv",
    top: options.Top = 12,
) -> None:
    """What removing each training pair would do to the loss on clean pairs: below 0 harmful, above 0 valuable."""
    from vdd.cli.influence_run import Asked

    asked = Asked(pairs, images, val, val_images or images, out, limit, format_, top)
    how = options.Influencing(
        model=model,
        params=params,
        device=device,
        dtype=dtype,
        method=method,
        curvature=curvature,
        damping=damping,
        partitions=partitions,
        batch_size=batch_size,
        normaliser=normaliser,
        duplicates=duplicates,
        curvature_pairs=curvature_pairs,
        tolerance=tolerance,
        max_products=max_products,
        allow_unsolved=allow_unsolved,
        seed=seed,
    )
    with asked.run(how) as run:
        run.show_value()


@influences.command()
def misaligned(
    pairs: options.PairsFile,
    images: options.Images,
    val: options.Val,
    out: options.Out,
    val_images: options.ValImages = None,
    model: options.Model = "toy",
    params: options.Params = "heads",
    method: options.Method = "exact",
    curvature: options.Curvature = "ggn",
    damping: options.Damping = None,
    partitions: options.Partitions = 4,
    batch_size: options.BatchSize = 256,
    normaliser: options.Normaliser = "sum",
    duplicates: options.Duplicates = "negatives",
    curvature_pairs: options.CurvaturePairs = None,
    tolerance: options.Tolerance = 1e-5,
    max_products: options.MaxProducts = 500,
    allow_unsolved: options.AllowUnsolved = False,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    seed: options.Seed = 0,
    limit: options.Limit = None,
    format_: Annotated[str, typer.Option("--format", help="Of the table: csv, or parquet (extra `eval`).")] = "csv",
    top: options.Top = 12,
) -> None:
    """Pairs whose caption may be another's, by influence, with the ranks by CLIP score and pair loss beside."""
    from vdd.cli.influence_run import Asked

    asked = Asked(pairs, images, val, val_images or images, out, limit, format_, top)
    how = options.Influencing(
        model=model,
        params=params,
        device=device,
        dtype=dtype,
        method=method,
        curvature=curvature,
        damping=damping,
        partitions=partitions,
        batch_size=batch_size,
        normaliser=normaliser,
        duplicates=duplicates,
        curvature_pairs=curvature_pairs,
        tolerance=tolerance,
        max_products=max_products,
        allow_unsolved=allow_unsolved,
        seed=seed,
    )
    with asked.run(how) as run:
        run.show_misaligned()
