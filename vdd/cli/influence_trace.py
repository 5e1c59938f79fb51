"""`vdd influence trace`: wrong answers and the training pairs that made the tower see so."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdd.cli import influence_options as options

SHOWN = 48
"""Letters of a caption or a question on the terminal."""


def trace(
    pairs: options.PairsFile,
    images: options.Images,
    out: Annotated[Path, typer.Option(help="Folder for traces, tables and pictures; a killed run goes on in it.")],
    run: Annotated[Path | None, typer.Option(help="Folder of a finished run of yes/no questions.")] = None,
    leg: Annotated[str | None, typer.Option(help="Whose wrong answers; by default those of its first leg.")] = None,
    parser: Annotated[str, typer.Option(help="How its answers are read: official, vcd or exact.")] = "official",
    queries: Annotated[
        Path | None,
        typer.Option(help="In its place: JSON lines with image, texts, right (positions of the right texts)."),
    ] = None,
    query_images: Annotated[
        Path | None, typer.Option(help="Folder of the questions' images; by default the run's, or that of --images.")
    ] = None,
    limit: Annotated[
        int, typer.Option(help="Wrong answers at most: of a run those that the model was surest of.")
    ] = 20,
    top: Annotated[int, typer.Option(help="Pairs that harmed, and pairs that helped, to show of each.")] = 6,
    probes: Annotated[
        int, typer.Option(help="Solves, once for all, that estimate by how much each pair moves the tower.")
    ] = 64,
    all_scores: Annotated[
        bool, typer.Option("--all-scores", help="Write a table of every pair too, for each wrong answer.")
    ] = False,
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
) -> None:
    """The training pairs that made a tower misread images, and those that worked against it."""
    from vdd._check import UserError, whole
    from vdd.cli.influence_tracing import Tracing
    from vdd.cli.show import say, shortened, show_table
    from vdd.diagnose import read_queries, wrong_answers
    from vdd.finished import read_run
    from vdd.influence.store import digest_of

    if (run is None) == (queries is None) or (leg is not None and run is None):
        raise UserError("trace: wanted either --run, with or without --leg, or --queries.")
    whole("trace", "limit", limit, low=1)
    if run is not None:
        finished = read_run(run)
        found = wrong_answers(finished, leg=leg, parser=parser)
        asked, pictures = list(found.asked), query_images or Path(str(finished.description.get("images", "")))
        about = {"of": found.leg, "wrong": found.wrong, "answered": found.answered}
        say(f"{found.wrong} of {found.answered} answers of {found.leg} are wrong")
    elif queries is not None:
        asked, pictures = read_queries(queries), query_images or images
        about = {"of": queries.name}
    if not asked:
        raise UserError(f"{run}: no wrong answer that a tower could be asked about; wanted one at least.")
    if not pictures.is_dir():
        raise UserError(f"{pictures}: no such folder; wanted that of the questions' images, as --query-images.")
    about |= {"asked": digest_of([[one.question_id, one.image, one.texts, one.right] for one in asked])[:12]}
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
    tracing = Tracing(pairs=pairs, images=images, out=out, how=how, top=top, probes=probes, tables=all_scores)
    with options.with_options_named():
        traced = tracing.opened().trace(asked[:limit], pictures, about)
    rows = []
    for one in traced:
        worst = one.harmful[0] if one.harmful else None
        rows.append(
            [
                shortened(one.misread.question or one.misread.texts[0], SHOWN),
                one.misread.image,
                one.misread.answer,
                one.misread.truth,
                "" if one.probability is None else f"{one.probability:.2f}",
                one.reason
                or ("" if worst is None else f"{worst.tied:+.3g} {worst.id}: {shortened(worst.caption, SHOWN)}"),
            ]
        )
    columns = ["question", "image", "answered", "right", "tower: p(right)", "most harmful pair"]
    show_table("wrong answers, and what made the tower see so", columns, rows)
    well = sum(one.tower_is_right or False for one in traced)
    say(f"in {well} of {len(traced)} the tower itself holds what is right for likelier: there it is not to blame")
    say(f"traces, pictures: {out}")
