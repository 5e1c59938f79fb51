"""What an analysis says, as tables and as one page of Markdown with its figures.

Knows: an analysis' records. Computes nothing but counts. Does not know: models, how figures are drawn.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vdd.analysed import (
    FIGURES,
    AttentionShare,
    BiasFigures,
    ConfidencePart,
    Failure,
    Likely,
    PriorShare,
    read_kind,
)
from vdd.report_files import inert, pipes
from vdd.report_tables import NOTHING, Table, percent, signed
from vdd.scoring.language_bias import NEEDED

FIRST = 5
"""Likeliest tokens of a condition in the table; the figure has them all."""


def tables(out: Path) -> list[Table]:
    """Everything that OUT/records has something for, in the order it is shown."""
    made = (
        bias_table(read_kind(out, BiasFigures)),
        confidence_table(read_kind(out, ConfidencePart)),
        failures_table(read_kind(out, Failure)),
        likeliest_table(read_kind(out, Likely)),
        *prior_tables(read_kind(out, PriorShare)),
        attention_table(read_kind(out, AttentionShare)),
    )
    return [table for table in made if table.rows]


def verdicts(out: Path) -> list[str]:
    """For each subset what the language-bias indicator says, as a sentence."""
    return [f"{record.subset}: {record.words}" for record in read_kind(out, BiasFigures)]


def markdown(out: Path, figures: Iterable[Path], facts: Mapping[str, Any], notes: Sequence[str]) -> str:
    """OUT/analysis.md: what was asked of whom, the verdicts, every table, every figure.

    Args:
        out: the analysis' folder.
        figures: that were drawn.
        facts: name → value, of the run.
        notes: what was left out, and why.
    """
    blocks = ["# vdd analyse", "\n".join(f"- {name}: {inert(str(value))}" for name, value in facts.items())]
    found = verdicts(out)
    if found:
        blocks += ["## In words", "\n".join(f"- {inert(sentence)}" for sentence in found)]
    blocks += [pipes(table) for table in tables(out)]
    if notes:
        blocks += ["## Left out", "\n".join(f"- {inert(note)}" for note in notes)]
    names = sorted({path.name for path in figures if path.suffix == ".png"})
    blocks += ["## Figures", *(f"![{Path(name).stem}]({FIGURES}/{name})" for name in names)] if names else []
    return "\n\n".join(blocks) + "\n"


def bias_table(records: Sequence[BiasFigures]) -> Table:
    """Accuracy with the images and blind, agreement, divergence and verdict of every subset, a row a reference."""
    rows = []
    for record in records:
        interval = "" if record.interval is None else f" [{percent(record.interval[0])}, {percent(record.interval[1])}]"
        for name, figures in record.blind.items():
            vocabulary = figures["kl_vocabulary"]
            row = [f"{record.subset}, {name}", str(record.questions), percent(record.accuracy) + interval]
            row += [percent(figures["accuracy"]), percent(record.majority)]
            row += [NOTHING if figures["gain"] is None else "{} [{}, {}]".format(*map(signed, figures["gain"]))]
            row += [percent(figures["agreement"]), f"{figures['kl_labels']:.2f}"]
            rows.append([*row, NOTHING if vocabulary is None else f"{vocabulary:.2f}", record.verdict])
    columns = ["subset, in its place", "n", "with image", "blind", "commonest", "gain", "agree", "KL labels"]
    note = (
        "The likeliest label with the image, and with something in its place, in %; KL(p‖p') in nats, over the labels "
        f"and over all first tokens. Needed: the 95 % interval of the gain is above {100 * NEEDED:g} points; not "
        "needed: below."
    )
    return Table("Does the benchmark need its images?", [*columns, "KL tokens", "images are"], rows, note)


def confidence_table(records: Sequence[ConfidencePart]) -> Table:
    """Accuracy of every leg where the first was how sure."""
    legs = list(dict.fromkeys(record.leg for record in records))
    found = {(record.leg, record.low): record for record in records}
    rows = []
    for one in (record for record in records if record.leg == legs[0]):
        own = [found.get((leg, one.low)) for leg in legs]
        rows.append([f"{one.low:.1f}–{one.high:.1f}", str(one.questions), *map(_part, own)])
    first = legs[0] if legs else ""
    note = f"The same questions in every column; in brackets the 95 % interval of the gain over {first}, in points."
    return Table(f"Accuracy in % by the confidence of {first}", ["confidence", "questions", *legs], rows, note)


def failures_table(records: Sequence[Failure]) -> Table:
    """How many answers every leg breaks and mends, and how many of these the other labels see otherwise."""
    rows = []
    compared = any(record.relabelled is not None for record in records)
    for leg in dict.fromkeys(record.leg for record in records):
        row = [leg]
        for kind in ("broken", "mended"):
            own = [record for record in records if (record.leg, record.kind) == (leg, kind)]
            row += [str(len(own)), str(sum(record.doubtful for record in own)) if compared else NOTHING]
        rows.append(row)
    columns = ["leg", "broken", "of these in doubt", "mended", "of these in doubt"]
    note = "Broken: plain decoding was right. In doubt: the other file labels the question otherwise, or leaves it out."
    return Table("Answers that debiasing changed", columns, rows, note)


def likeliest_table(records: Sequence[Likely]) -> Table:
    """The first few tokens of every condition, mean over the file."""
    rows = []
    for record in records:
        if record.scope == "":
            pairs = list(zip(record.tokens, record.probabilities, strict=True))[:FIRST]
            pairs += [("", float("nan"))] * (FIRST - len(pairs))
            rows.append([record.condition, *(f"{token} {percent(value)}" if token else "" for token, value in pairs)])
    columns = ["condition", *(f"{number}." for number in range(1, FIRST + 1))]
    return Table("Likeliest first tokens, mean probability in %", columns, rows)


def prior_tables(records: Sequence[PriorShare]) -> list[Table]:
    """For each set the shares of its labels by condition, and those of the right answers."""
    made = []
    for name in dict.fromkeys(record.label_set for record in records):
        own = [record for record in records if record.label_set == name]
        conditions = list(own[0].shares)
        rows = [
            [
                record.label,
                *(percent(record.shares[condition]) for condition in conditions),
                NOTHING if record.truth is None else percent(record.truth),
            ]
            for record in own
        ]
        rows.append(["(all of them)", *(percent(own[0].masses[condition]) for condition in conditions), NOTHING])
        columns = ["label", *("with image" if c == "image" else f"without: {c}" for c in conditions), "true"]
        note = "The last row: how probable it is that the answer begins with any of them."
        made.append(Table(f"Prior over {name}: shares among the labels, in %", columns, rows, note))
    return made


def attention_table(records: Sequence[AttentionShare]) -> Table:
    """Shares of attention by layer."""
    rows = [
        [f"{record.layer}, {'with image' if record.condition == 'image' else 'without'}",
         *(percent(share) for share in (record.image, record.text, record.special))]
        for record in sorted(records, key=lambda one: (one.layer if one.layer is not None else -1, one.condition))
        if record.layer is not None
    ]  # fmt: skip
    note = "Mean over heads, answer tokens and questions; each row adds up to 100."
    return Table("Where the attention goes, by layer, in %", ["layer", "image", "text", "special tokens"], rows, note)


def _part(record: ConfidencePart | None) -> str:
    if record is None:
        return NOTHING
    if record.gain_low is None or record.gain_high is None:
        return percent(record.accuracy)
    return f"{percent(record.accuracy)} [{signed(record.gain_low)}, {signed(record.gain_high)}]"
