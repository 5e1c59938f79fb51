"""`vdd influence`: which training pairs made a contrastive model see badly."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from vdd.cli import influence_options as options
from vdd.cli.influence_trace import trace
from vdd.cli.influence_validate import validate

if TYPE_CHECKING:
    from vdd.cli.influence_run import Run

influences = typer.Typer(no_args_is_help=True, help="Which training pairs made a contrastive model see badly.")


@influences.callback()
def _influences() -> None:
    """Which training pairs made a contrastive model see badly."""


influences.command()(trace)
influences.command()(validate)


def _scoring(name: str, what: str, show: Callable[[Run], None]) -> None:
    """A command that values every pair, and shows it in its own way."""

    @influences.command(name, help=what)
    def command(
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
        tolerance: options.Tolerance = None,
        max_products: options.MaxProducts = 500,
        allow_unsolved: options.AllowUnsolved = False,
        refit: options.Refit = False,
        device: options.Device = None,
        dtype: options.Dtype = "auto",
        seed: options.Seed = 0,
        limit: options.Limit = None,
        format_: Annotated[str, typer.Option("--format", help="Of the table: csv, or parquet (extra `eval`).")] = "csv",
        top: options.Top = 12,
    ) -> None:
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
            refit=refit,
            seed=seed,
        )
        with asked.run(how) as run:
            show(run)


_scoring(
    "value",
    "What removing each training pair would do to the loss on clean pairs: below 0 harmful, above 0 valuable.",
    lambda run: run.show_value(),
)
_scoring(
    "misaligned",
    "Pairs whose caption may be another's, by influence, with the ranks by CLIP score and pair loss beside.",
    lambda run: run.show_misaligned(),
)
