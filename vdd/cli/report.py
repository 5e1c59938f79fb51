"""`vdd report`: finished runs as one page to look at, in Markdown, and as CSV."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of finished runs of yes/no questions, or folders of such folders.")
    ],
    out: Annotated[Path, typer.Option(help="The page; its tables are written beside it as .md and .csv.")] = Path(
        "report.html"
    ),
    leg: Annotated[
        list[str] | None,
        typer.Option(help="Leg to look at by confidence, again for each; by default one of each kind."),
    ] = None,
) -> None:
    """One page with every leg's figures, intervals, calibration, changes and cost; it is read without a network."""
    from vdd._check import UserError

    if out.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"{out}: wanted a name that ends in .html; the tables are written beside it as .md and .csv.")
    if not out.parent.is_dir():
        raise UserError(f"{out}: its folder is not there; wanted an existing one.")
    from vdd.cli.show import begins, notes, say
    from vdd.data import write_atomic
    from vdd.finished import find_runs
    from vdd.page import PAGE_OPENING, page
    from vdd.report_figures import run_reports
    from vdd.report_files import CSV_OPENING, MARKDOWN_OPENING, csv_text, markdown

    files = {out: PAGE_OPENING, out.with_suffix(".md"): MARKDOWN_OPENING, out.with_suffix(".csv"): CSV_OPENING}
    for path, opening in files.items():
        if path.exists() and not begins(path, opening):
            raise UserError(f"{path}: is there already and is no report of vdd's; wanted another --out.")
    with notes.status("scoring stored answers"):
        reports = run_reports(find_runs(runs), legs=leg or ())
        texts = (page(reports), markdown(reports), csv_text(reports))
    for path, text in zip(files, texts, strict=True):
        write_atomic(path, text.encode("utf-8", "replace").decode("utf-8"))
    say(f"runs: {', '.join(one.title for one in reports)}")
    say(f"page, tables: {', '.join(map(str, files))}")
