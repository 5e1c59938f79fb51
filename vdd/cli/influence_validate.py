"""`vdd influence validate`: influence held against leaving pairs out and training again, on two small problems."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vdd.influence.validation import Plan

BOTH = "both"


def validate(
    out: Annotated[Path, typer.Option(help="Folder for figures, tables and pictures; a killed run goes on in it.")],
    seeds: Annotated[int, typer.Option(help="Draws of each problem.")] = 3,
    removals: Annotated[
        int, typer.Option(help="Pairs left out of the embedded problem one at a time; of the linear one all are.")
    ] = 64,
    subsets: Annotated[int, typer.Option(help="Random tenths of the pairs, each left out at once.")] = 30,
    problem: Annotated[str, typer.Option(help="linear, embedded, or both.")] = BOTH,
    pairs: Annotated[int, typer.Option(help="Of the embedded problem.")] = 400,
    shortest: Annotated[
        bool, typer.Option("--shortest", help="In place of these sizes the least ones, to see that it runs.")
    ] = False,
) -> None:
    """How well influence foretells what leaving pairs out does, what edits are worth, and what finds wrong captions."""
    from vdd._check import choice
    from vdd.influence.validation import PROBLEMS, Plan

    choice("validate", "problem", problem, (*PROBLEMS, BOTH))
    names = PROBLEMS if problem == BOTH else (problem,)
    plan = Plan(names, seeds, removals, subsets=subsets, pairs=pairs)
    validated(Plan.shortest(names) if shortest else plan, out)


def validated(plan: Plan, out: Path) -> None:
    """Compute what is not there yet, write it into `out`, and show it."""
    import torch
    from transformers.utils import logging

    from vdd.cli.influence_options import PARTS
    from vdd.cli.show import progress, say, show_table
    from vdd.influence.store import Store, claim, digest_of, write_run
    from vdd.influence.validation import computed
    from vdd.influence_report import findings, tables, write
    from vdd.plots import can_chart
    from vdd.run_folder import only_one, refuse_foreign

    refuse_foreign(out)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)  # too small to gain from more
    settings = plan.settings()
    claim(out, settings)
    with only_one(out):
        with progress("influence") as advance:
            found = computed(plan, settings, Store(out / PARTS, digest_of(settings)), progress=advance)
        write(out, found)
        write_run(out, settings, {})
    for table in tables(found):
        show_table(table.title, table.columns, table.rows)
    for line in findings(found):
        say(line)
    if not can_chart():
        say("for the pictures: pip install 'visual-debias-decoding[plot]'")
    say(f"tables, figures and all that was measured: {out}")
