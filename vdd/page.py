"""A report as one HTML page that needs nothing else: no network, no script, no font; its figures are drawn within it.

Knows: what is shown of runs, tables, figures. Computes nothing. Does not know: files.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from vdd import drawing
from vdd.config import Leg
from vdd.drawing import Bar, Line, Mark
from vdd.markup import Markup, element, joined
from vdd.page_pictures import pictures
from vdd.page_style import PICTURES, STYLE, TRACES
from vdd.page_traces import TERMS, traces
from vdd.report import LegResult
from vdd.report_figures import KINDS, LegBins, RunReport, front, kind_of
from vdd.report_tables import (
    Table,
    chosen_table,
    confidence_table,
    facts,
    legs_table,
    overview,
    relabelled_table,
    reliability_table,
    summary,
    transitions_table,
)

PAGE_OPENING = "<!doctype html>\n<!-- made by vdd report -->\n"
"""What every page begins with: a file that begins so may be written anew."""

_TERMS = (
    ("accuracy", "Share of the questions answered right. A question without an answer counts as wrong."),
    (
        "[95 %]",
        "Percentile bootstrap that draws whole images, since the questions about one image are not independent. "
        "Of a gain it is paired: both legs on the same drawn images.",
    ),
    ("McNemar p", "Exact two-sided test on the questions that only one of two legs got right; the first draw alone."),
    ("balanced", "Mean of the shares that are right among the yes questions and among the no questions."),
    ("precision, recall, F1", "Of yes. Recall is the true positive rate; FPR the share of no questions answered yes."),
    (
        "yes (− labels)",
        "Share of the answers that are yes, and in brackets by how many points that is above the share of the labels. "
        "A gain in accuracy that comes with a shift of this share may be no more than a bias.",
    ),
    ("AUROC", "Chance that a yes question has higher log-odds of yes than a no question, whatever the threshold."),
    ("ECE", "Expected calibration error in 15 bins: mean distance between confidence and accuracy. Lower is better."),
    (
        "unparsed, no answer",
        "Answers that say neither yes nor no (the parser's rule decides what they count as), and questions without an "
        "answer, over all draws.",
    ),
    ("forwards, ms", "Rows × forward passes, and milliseconds, per question; what legs share is counted in each."),
    ("TP, FN, TN, FP", "Right yes, wrong no, right no, wrong yes. FN→TP: a wrong no became a right yes."),
    ("signature", "How to repeat the score: questions, parser, decoding, version, digest of the questions."),
)


def page(reports: Sequence[RunReport]) -> str:
    """The whole document.

    Args:
        reports: of one run at least, in the order they are shown.
    """
    title = f"{reports[0].title if len(reports) == 1 else f'{len(reports)} runs'} · vdd report"
    models = ", ".join(dict.fromkeys(str(report.description.get("model", "?")) for report in reports))
    traced = any(report.diagnosis is not None for report in reports)
    pictured = traced or any(report.analysis for report in reports)
    policy = "default-src 'none'; style-src 'unsafe-inline'" + ("; img-src data:" if pictured else "")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("title", title),
        element("style", Markup(STYLE + (TRACES if traced else "") + (PICTURES if pictured else ""))),
    )
    runs = [_section(report, f"run-{number}") for number, report in enumerate(reports, start=1)]
    header = [
        element("h1", "Plain and debiased, measured"),
        element("p", f"Yes/no questions about images, answered in every way. Model: {models}.", class_="lead"),
    ]
    if len(reports) > 1:
        links = [
            element("li", element("a", report.title, href=f"#run-{number}", dir="auto"))
            for number, report in enumerate(reports, start=1)
        ]
        header += [element("nav", element("ul", *links), aria_label="Runs"), _table(overview(reports))]
    terms = [joined(element("dt", term), element("dd", words)) for term, words in (*_TERMS, *(TERMS if traced else ()))]
    listed = element("dl", *terms, class_="terms")
    guide = element("section", element("h2", "What the words mean"), listed, class_="run")
    body = element("body", element("main", element("header", *header), *runs, guide, class_="page"))
    return f"{PAGE_OPENING}{element('html', head, body, lang='en')}\n"


def _section(report: RunReport, key: str) -> Markup:
    shown = [element("div", element("dt", name), element("dd", value, dir="auto")) for name, value in facts(report)]
    parts = [
        element("h2", report.title, dir="auto"),
        *(element("p", sentence, class_="summary") for sentence in summary(report)),
        element("dl", *shown, class_="facts"),
    ]
    chosen = chosen_table(report)
    parts += [_table(chosen)] if chosen else []
    parts += [
        element("h3", "Ways of answering"),
        _legend([one.leg for one in report.results]),
        _comparison(report, key),
    ]
    parts.append(_table(legs_table(report)))
    relabelled = relabelled_table(report)
    parts += [element("h3", "Other labels"), _table(relabelled)] if relabelled else []
    changes = transitions_table(report)
    parts += [element("h3", "What changed"), _table(changes)] if changes.rows else []
    parts += [element("h3", "How sure, and how right"), *_sureness(report, key)]
    if report.analysis:
        parts += [element("h3", "What lies behind the answers"), pictures(report.analysis)]
    if report.diagnosis is not None:
        parts += [element("h3", "Wrong answers, traced to the training of the vision tower"), *traces(report.diagnosis)]
    rows = [
        element("tr", element("th", one.leg.name, scope="row"), element("td", element("code", one.score.signature)))
        for one in report.results
    ]
    name = "How to repeat each score"
    columns = element("tr", element("th", "leg", scope="col"), element("th", "signature", scope="col"))
    signatures = element(
        "table", _caption(name), element("thead", columns), element("tbody", *rows), class_="signatures"
    )
    parts += [element("h3", "Signatures"), _scrolling(signatures, name)]
    return element("section", *parts, class_="run", id=key)


def _comparison(report: RunReport, key: str) -> Markup:
    """Accuracy and gain by leg, then quality over cost."""
    first, *others = report.results
    base = 100 * first.score.values["accuracy"]
    name = first.leg.name
    drawn = drawing.dots(
        f"{key}-accuracy",
        "Accuracy by leg",
        f"A dot and a 95 % interval for each of {len(report.results)} legs; {name} has {base:.1f} %. "
        "The figures are in the table of every leg.",
        [
            _mark(one, 100 * one.score.values["accuracy"], ends=one.score.intervals.get("accuracy"))
            for one in report.results
        ],
        reference=base,
        signed=False,
    )
    figures = [_figure("Accuracy, %", f"with 95 % intervals; the line is {name}", drawn)]
    gains = [_mark(one, 100 * one.gain.value, ends=one.gain[1:]) for one in others if one.gain is not None]
    if gains:
        drawn = drawing.dots(
            f"{key}-gain",
            f"Gain over {name} by leg",
            f"A dot and a paired 95 % interval for each of {len(gains)} legs; 0 is {name}.",
            gains,
            reference=0.0,
            signed=True,
        )
        figures.append(_figure(f"Gain over {name}, points", "with paired 95 % intervals; 0 within is no gain", drawn))
    quality = []
    for short, unit, costs in (
        ("forwards", "forwards per question", [one.forwards for one in report.results]),
        ("ms", "ms per question", [1000 * one.seconds for one in report.results]),
    ):
        accuracies = [100 * one.score.values["accuracy"] for one in report.results]
        rows = zip(report.results, costs, accuracies, front(costs, accuracies), strict=True)
        marks = [_mark(one, cost, y=accuracy, named=best) for one, cost, accuracy, best in rows]
        drawn = drawing.scatter(
            f"{key}-{short}",
            f"Accuracy over {unit}",
            "A point for each leg. Named, and joined by a line: those than which no other is both as cheap and as "
            f"accurate, {', '.join(mark.label for mark in marks if mark.named)}.",
            marks,
            unit,
        )
        quality.append(_figure(f"Accuracy, %, over {unit}", "named: no other is both as cheap and as accurate", drawn))
    return element("div", *figures, element("div", *quality, class_="stack"), class_="figures")


def _mark(
    result: LegResult, x: float, *, y: float = 0.0, ends: Sequence[float] | None = None, named: bool = False
) -> Mark:
    """A leg's point; `ends` of its interval are fractions."""
    label, kind, hollow = _look(result.leg)
    low, high = (100 * end for end in ends) if ends else (math.nan, math.nan)
    return Mark(label, kind, hollow, x, y, low, high, named)


def _sureness(report: RunReport, key: str) -> list[Markup]:
    """Accuracy where the first leg was how sure, and a reliability diagram a leg."""
    name, parts = report.closely[0].leg.name, report.closely[0].parts
    found = []
    if parts:
        series = _series(report.closely)
        drawn = drawing.lines(
            f"{key}-parts",
            f"Accuracy by the confidence of {name}",
            f"The questions are parted by the probability that {name} gave its answer. The table has the figures.",
            [(f"{part.low:.1f}–{part.high:.1f}", part.count) for part in parts],
            series,
        )
        figure = _figure(f"Accuracy, %, by the confidence of {name}", "the same questions for every leg", drawn)
        table = element("div", _table(confidence_table(report)))
        keys = [element("li", drawing.key_line(one), one.label) for one in series]
        found += [element("ul", *keys, class_="legend"), element("div", figure, table, class_="beside")]
    diagrams = []
    for number, one in enumerate(report.closely):
        if not one.bins:
            continue
        drawn = drawing.reliability(
            f"{key}-reliability-{number}",
            f"Reliability of {one.leg.name}",
            "Accuracy in bins of confidence against the line where both are equal, and the number of answers in each "
            "bin. The table of bins has the figures.",
            [Bar(100 * b.low, 100 * b.high, b.count, 100 * b.confidence, 100 * b.accuracy) for b in one.bins],
            _look(one.leg)[1],
        )
        diagrams.append(_figure(one.leg.name, "accuracy, %, over confidence, %", drawn))
    if not diagrams:
        return [*found, element("p", "No leg says how probable its answers were.", class_="note")]
    how = "On the dashed line confidence is accuracy: calibrated. Below it the leg is surer than it is right. "
    return [
        *found,
        element("div", *diagrams, class_="figures small"),
        element("p", how + f"Pale: fewer than {drawing.FEW} answers.", class_="note"),
        element("details", element("summary", "The bins as a table"), _table(reliability_table(report))),
    ]


def _series(closely: Sequence[LegBins]) -> list[Line]:
    """A line a leg; of those that look the same, each is broken in another way."""
    looks = [_look(one.leg) for one in closely]
    return [
        Line(*look, [other[1:] for other in looks[:place]].count(look[1:]), [100 * part.accuracy for part in one.parts])
        for place, (look, one) in enumerate(zip(looks, closely, strict=True))
    ]


def _look(leg: Leg) -> tuple[str, int, bool]:
    """A leg's label, kind and whether it is drawn hollow, as sampling is."""
    return leg.name, KINDS.index(kind_of(leg)), leg.sampling.temperature > 0


def _legend(legs: Sequence[Leg]) -> Markup:
    """The kinds and ways of choosing tokens that occur."""
    kinds = {kind_of(leg) for leg in legs}
    shown = [element("li", drawing.key_mark(number), name) for number, name in enumerate(KINDS) if name in kinds]
    if any(leg.sampling.temperature > 0 for leg in legs):
        shown.append(element("li", drawing.key_mark(0, hollow=True), "outlined: sampled"))
    return element("ul", *shown, class_="legend")


def _figure(title: str, how: str, drawn: Markup) -> Markup:
    return element("figure", element("figcaption", title, element("small", how)), drawn)


def _table(table: Table) -> Markup:
    columns = element("tr", *(element("th", column, scope="col", dir="auto") for column in table.columns))
    rows = [
        element("tr", element("th", row[0], scope="row", dir="auto"), *(_cell(text) for text in row[1:]))
        for row in table.rows
    ]
    drawn = element("table", _caption(table.caption), element("thead", columns), element("tbody", *rows))
    note = [element("p", table.note, class_="note")] if table.note else []
    return joined(_scrolling(drawn, table.caption), *note)


def _cell(text: str) -> Markup:
    """A figure; one with a mark of a difference is set off."""
    return element("td", text, class_="up" if "▲" in text else "down" if "▼" in text else None)


def _caption(text: str) -> Markup:
    """What a table shows; it stays in sight while the table scrolls."""
    return element("caption", element("span", text))


def _scrolling(table: Markup, name: str) -> Markup:
    """A frame in which a wide table scrolls by itself, by keyboard too."""
    return element("div", table, class_="scroll", role="region", aria_label=name, tabindex=0)
