"""A report as Markdown, for people without a browser, and as CSV, for programs.

Knows: what is shown of runs, its tables. Computes nothing. Does not know: files.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from vdd.report import LegResult
from vdd.report_figures import RunReport
from vdd.report_tables import (
    MOVES,
    Table,
    chosen_table,
    confidence_table,
    facts,
    legs_table,
    overview,
    relabelled_table,
    reliability_table,
    summary,
    traces_table,
    transitions_table,
)

_CSV = (
    "run", "folder", "labels", "leg", "draws", "n", "accuracy", "accuracy_low", "accuracy_high",
    "gain", "gain_low", "gain_high", "mcnemar_only_first", "mcnemar_only_leg", "mcnemar_p",
    "balanced_accuracy", "f1", "precision", "recall", "tpr", "fpr", "yes_ratio", "auroc", "ece", "unparsed",
    "unanswered", "forwards_per_question", "seconds_per_question", "skipped", "peak_mib", *MOVES, "signature",
)  # fmt: skip

MARKDOWN_OPENING = "<!-- made by vdd report -->"
CSV_OPENING = ",".join(_CSV)
"""The first line of every file of its kind: what begins with it may be written anew."""


def markdown(reports: Sequence[RunReport]) -> str:
    """All tables of all runs."""
    blocks = [MARKDOWN_OPENING, "# vdd report"]
    if len(reports) > 1:
        blocks += ["## All runs", pipes(overview(reports))]
    for report in reports:
        blocks += [f"## {inert(report.title)}", *map(inert, summary(report))]
        blocks.append("\n".join(f"- {name}: {inert(value)}" for name, value in facts(report)))
        tables = (
            chosen_table(report), legs_table(report), relabelled_table(report), transitions_table(report),
            confidence_table(report), reliability_table(report), traces_table(report),
        )  # fmt: skip
        blocks += [pipes(table) for table in tables if table is not None and table.rows]
        blocks.append("### Signatures")
        blocks.append("\n".join(f"- {inert(r.leg.name)}: `{r.score.signature}`" for r in report.results))
    return "\n\n".join(blocks) + "\n"


def csv_text(reports: Sequence[RunReport]) -> str:
    """A row a leg, run and set of labels, figures as fractions in full precision, empty where there are none."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _CSV, lineterminator="\n")
    writer.writeheader()
    for report in reports:
        for labels, results in (("own", report.results), ("relabelled", report.relabelled)):
            for result in results:
                row = {"run": report.title, "folder": report.folder, "labels": labels, **_row(result)}
                writer.writerow({name: "" if value != value else value for name, value in row.items()})
    return out.getvalue()


def pipes(table: Table) -> str:
    """A table of GitHub's Markdown, figures to the right."""
    lines = [f"### {inert(table.caption)}", ""] if table.caption else []
    lines += [_line(table.columns), "| --- |" + " ---: |" * (len(table.columns) - 1), *map(_line, table.rows)]
    return "\n".join(lines + (["", inert(table.note)] if table.note else []))


def inert(text: str) -> str:
    """Text in which nothing is markup, on one line."""
    return re.sub(r"([\\`*_<>&|~]|(?<=\])\()", r"\\\1", re.sub(r"\s+", " ", text))


def _row(result: LegResult) -> dict[str, Any]:
    low, high = result.score.intervals.get("accuracy", ("", ""))
    row: dict[str, Any] = {
        "leg": result.leg.name,
        "draws": result.draws,
        **{name: value for name, value in result.score.values.items() if name in _CSV},
        "accuracy_low": low,
        "accuracy_high": high,
        "forwards_per_question": result.forwards,
        "seconds_per_question": result.seconds,
        "signature": result.score.signature,
        **{move: result.transitions[move] for move in MOVES if move in result.transitions},
    }
    if result.gain is not None:
        row |= {"gain": result.gain.value, "gain_low": result.gain.low, "gain_high": result.gain.high}
    if result.test is not None:
        row |= {
            "mcnemar_only_first": result.test.only_a,
            "mcnemar_only_leg": result.test.only_b,
            "mcnemar_p": result.test.p,
        }
    return row


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(inert, cells)) + " |"
