"""A report's figures as text: tables, in HTML and Markdown alike.

Knows: what is shown of runs. Computes nothing. Does not know: markup, files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from vdd.config import DebiasConfig
from vdd.diagnosis import Diagnosis
from vdd.report import LegResult
from vdd.report_figures import RunReport
from vdd.scoring.score import Difference

NOTHING = "–"

MOVES = ("FN→TP", "TN→FP", "FP→TN", "TP→FN", "TP→TP", "TN→TN", "FN→FN", "FP→FP")
"""From the first leg to another: two towards yes, two towards no, then what stayed."""

_FACTS = (
    ("model", "model"),
    ("architecture", "architecture"),
    ("dtype", "number format"),
    ("quantized", "quantized"),
    ("device", "device"),
    ("prompt", "prompt"),
    ("batch_size", "batch size"),
    ("share_images", "images shared"),
    ("strategy", "strategy"),
    ("seed", "seed"),
    ("vdd", "vdd"),
)
"""Keys of run.json and their names here."""


@dataclass(frozen=True)
class Table:
    """Rows of text under columns; the first cell of a row names it, the others are figures.

    Attributes:
        caption: what the figures are.
        columns: their names.
        rows: as many cells each as there are columns.
        note: what a reader must know beside them; "" for nothing.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def percent(fraction: float) -> str:
    """`95.7` of 0.957, a dash where there is no number."""
    return NOTHING if math.isnan(fraction) else f"{100 * fraction:.1f}"


def signed(fraction: float) -> str:
    """`+0.5` of 0.005, with a true minus, never −0.0."""
    return f"{round(100 * fraction, 1) + 0.0:+.1f}".replace("-", "−")


def facts(report: RunReport) -> list[tuple[str, str]]:
    """What was run, by name."""
    n = int(report.results[0].score.values["n"])
    known = [(name, _plain(report.description[key])) for key, name in _FACTS if key in report.description]
    asked = [
        ("questions", f"{n} about {report.images} image{'' if report.images == 1 else 's'}"),
        ("labels that are yes", f"{percent(report.yes)} %"),
        ("answers read by", report.parser),
        ("folder", report.folder),
    ]
    return asked[:3] + known + asked[3:]


def summary(report: RunReport) -> list[str]:
    """In sentences: how many legs differ from the first by more than chance explains, and what is missing."""
    first, *others = report.results
    gains = [result.gain for result in others if result.gain is not None]
    said = []
    if gains:
        above, below = sum(gain.low > 0 for gain in gains), sum(gain.high < 0 for gain in gains)
        said.append(
            f"Of {len(gains)} other ways of answering, {above} {_are(above)} more accurate than {first.leg.name} by a "
            f"95 % interval above 0, {below} {_are(below)} less accurate, and {len(gains) - above - below} cannot be "
            f"told from it. By chance alone about {0.05 * len(gains):.1f} of {len(gains)} such intervals would miss 0."
        )
    elif others:
        said.append("All questions are about one image: there are no intervals, and nothing can be concluded.")
    n, missing = int(first.score.values["n"]), int(first.score.values["unanswered"]) // first.draws
    if missing:
        said.append(f"{missing} of {n} questions have no answer (their images could not be read); they count as wrong.")
    return said


def overview(reports: Sequence[RunReport]) -> Table:
    """Accuracy of each leg in each run, and its gain."""
    found = [{result.leg.name: result for result in report.results} for report in reports]
    names = dict.fromkeys(name for one in found for name in one)
    rows = [[name, *(_glance(one.get(name)) for one in found)] for name in names]
    columns = ("leg", *(report.title for report in reports))
    return Table("Accuracy in %, and the gain over each run's first leg in points", columns, rows)


def chosen_table(report: RunReport) -> Table | None:
    """The settings chosen on dev questions; None where none were."""
    if report.chosen is None:
        return None
    plain = DebiasConfig()
    rows = []
    for name, values in report.chosen["debias"].items():
        others = [
            f"{field.name} {values[field.name]}"
            for field in fields(DebiasConfig)
            if field.name not in ("reference", "alpha", "beta")
            and values.get(field.name, getattr(plain, field.name)) != getattr(plain, field.name)
        ]
        rows.append([name, f"{values['alpha']:g}", f"{values['beta']:g}", ", ".join(others) or NOTHING])
    bias = f"{report.chosen['bias']:.3g}".replace("-", "−")
    note = f"Bias added to the log-odds of yes: {bias}."
    caption = f"Settings chosen on {report.chosen['dev']} dev questions about other images"
    return Table(caption, ("reference", "α", "β", "else"), rows, note)


def legs_table(report: RunReport) -> Table:
    """Every figure of every leg."""
    columns = (
        "leg", "draws", "accuracy [95\u00a0%]", "gain [95\u00a0%]", "McNemar p", "balanced", "F1", "precision",
        "recall = TPR", "FPR", "yes (−\u00a0labels)", "AUROC", "ECE", "unparsed, no answer", "forwards", "ms",
    )  # fmt: skip
    rows = []
    for result in report.results:
        values = result.score.values
        rows.append(
            [
                result.leg.name,
                str(result.draws),
                _accuracy(result),
                _gain(result),
                NOTHING if result.test is None else _p(result.test.p),
                *(percent(values[name]) for name in ("balanced_accuracy", "f1", "precision", "recall", "fpr")),
                f"{percent(values['yes_ratio'])} ({signed(values['yes_ratio'] - report.yes)})",
                *(percent(values[name]) for name in ("auroc", "ece")),
                f"{values['unparsed']:.0f}, {values['unanswered']:.0f}",
                f"{result.forwards:.2f}",
                f"{1000 * result.seconds:.1f}",
            ]
        )
    first = report.results[0].leg.name
    return Table(
        "Every leg, figures in %",
        columns,
        rows,
        f"Gain: points of accuracy above {first} on the same questions, with its paired interval; ▲ above 0, ▼ below. "
        f"Intervals draw whole images. Of the labels {percent(report.yes)} % are yes. Forwards, ms: per question.",
    )


def transitions_table(report: RunReport) -> Table:
    """What changed from the first leg to each other."""
    compared = [result for result in report.results if result.test is not None]
    others = sorted({move for result in compared for move in result.transitions} - {*MOVES})
    rows = [
        [
            result.leg.name,
            str(result.test.only_b),
            str(result.test.only_a),
            *(str(result.transitions.get(move, 0)) for move in (*MOVES, *others)),
        ]
        for result in compared
        if result.test is not None
    ]
    first = report.results[0].leg.name
    note = "FN→TP and TN→FP are moves towards yes, FP→TN and TP→FN towards no. Of several draws the first is counted."
    columns = ("leg", "mended", "spoiled", *MOVES, *others)
    return Table(f"Answers that changed from {first}, in questions", columns, rows, note)


def confidence_table(report: RunReport) -> Table:
    """Accuracy where the first leg was how sure."""
    first = report.closely[0]
    rows = [
        [
            f"{part.low:.1f}–{part.high:.1f}",
            str(part.count),
            *(_within(parts[place].accuracy, parts[place].gain) for parts in (leg.parts for leg in report.closely)),
        ]
        for place, part in enumerate(first.parts)
    ]
    columns = ("confidence", "questions", *(one.leg.name for one in report.closely))
    note = f"The same questions in every column: those on which {first.leg.name} gave its answer this probability."
    return Table(f"Accuracy in % by the confidence of {first.leg.name}, and the gain in points", columns, rows, note)


def reliability_table(report: RunReport) -> Table:
    """The bins of the reliability diagrams."""
    rows = [
        [
            one.leg.name,
            f"{percent(bin.low)}–{percent(bin.high)}",
            str(bin.count),
            percent(bin.confidence),
            percent(bin.accuracy),
            signed(bin.accuracy - bin.confidence),
        ]
        for one in report.closely
        for bin in one.bins
    ]
    columns = ("leg", "bin", "answers", "mean confidence", "accuracy", "difference")
    return Table("Confidence and accuracy in bins, in %", columns, rows)


def relabelled_table(report: RunReport) -> Table | None:
    """The scores by other labels beside those by the run's own; None where there are none."""
    if not report.relabelled:
        return None
    others = {result.leg.name: result for result in report.relabelled}
    pairs = [(result, others[result.leg.name]) for result in report.results if result.leg.name in others]
    rows = []
    for own, other in pairs:
        figures = [percent(one.score.values[name]) for name in ("f1", "yes_ratio") for one in (own, other)]
        rows.append([own.leg.name, _accuracy(own), _accuracy(other), _gain(own), _gain(other), *figures])
    n, m = (int(results[0].score.values["n"]) for results in (report.results, report.relabelled))
    columns = ("leg", "accuracy", "relabelled", "gain", "relabelled", "F1", "relabelled", "yes", "relabelled")
    note = f"{n} questions by their own labels, {m} of them by the others: {report.relabelled[0].score.signature}"
    return Table("By its own labels and relabelled, in %", columns, rows, note)


def traces_table(report: RunReport) -> Table | None:
    """Wrong answers with the training pair that harmed each most; None where none were traced."""
    if report.diagnosis is None:
        return None
    rows = []
    for one in report.diagnosis.traces:
        worst = one.harmful[0] if one.harmful else None
        rows.append(
            [
                one.misread.question or one.misread.texts[0],
                one.misread.image,
                one.misread.answer,
                one.misread.truth,
                NOTHING if one.probability is None else percent(one.probability),
                one.reason or (NOTHING if worst is None else f"{worst.id}: {worst.caption}"),
                NOTHING if worst is None else influence(worst.tied),
            ]
        )
    columns = ("question", "image", "answered", "right", "tower, %", "most harmful pair", "influence")
    return Table(
        "Wrong answers, traced to the training pairs of the vision tower",
        columns,
        rows,
        traced_in_words(report.diagnosis),
    )


def traced_in_words(diagnosis: Diagnosis) -> str:
    """Of how many wrong answers these are some, how they were traced, and how many the tower does not account for."""
    settings, traces = diagnosis.settings, diagnosis.traces
    of = f" of {settings['wrong']}" if "wrong" in settings else ""
    asked = [one for one in traces if one.probability is not None]
    well = sum(one.tower_is_right or False for one in asked)
    return (
        f"{len(traces)}{of} wrong answers of {settings.get('of', 'the run')}, the surest ones, asked again "
        f"of the tower alone ({settings.get('tower', '?')}). In {well} of {len(asked)} the tower itself holds what is "
        "right for likelier: there the fault lies behind it. The pairs are those whose removal from the tower's "
        "training would, by an estimate, most help what is right, in relation to how far it would move the tower."
    )


def influence(value: float) -> str:
    """`−0.048` of −0.0477, with a true minus."""
    return NOTHING if math.isnan(value) else f"{value:+.2g}".replace("-", "−")


def _accuracy(result: LegResult) -> str:
    accuracy = percent(result.score.values["accuracy"])
    if "accuracy" not in result.score.intervals:
        return accuracy
    low, high = result.score.intervals["accuracy"]
    return f"{accuracy} [{percent(low)}, {percent(high)}]"


def _gain(result: LegResult) -> str:
    if result.gain is None:
        return NOTHING
    value, low, high = result.gain
    return f"{signed(value)} [{signed(low)}, {signed(high)}]{_away(result.gain)}"


def _glance(result: LegResult | None) -> str:
    return NOTHING if result is None else _within(result.score.values["accuracy"], result.gain)


def _within(accuracy: float, gain: Difference | None) -> str:
    return percent(accuracy) + ("" if gain is None else f" ({signed(gain.value)}{_away(gain)})")


def _away(gain: Difference) -> str:
    """A mark where the interval leaves 0 out."""
    return " ▲" if gain.low > 0 else " ▼" if gain.high < 0 else ""


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _plain(value: Any) -> str:
    """A value of run.json as people write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).removeprefix("torch.")
