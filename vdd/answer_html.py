"""An answer as HTML that brings its own style, for notebooks and pages.

    question
    text, coloured by what it owes to the image
    label         yes    no
    with the image, without it, debiased

Knows: text, numbers, markup. Does not know: models, records, files.
"""

from __future__ import annotations

from collections.abc import Mapping

from vdd.markup import Markup, element
from vdd.shading import FONT


def label_table(
    probabilities: Mapping[str, float],
    blind: Mapping[str, Mapping[str, float]] | None,
    debiased: Mapping[str, Mapping[str, float]] | None,
) -> Markup:
    """The labels' probabilities as a small table: with the image, without it, and debiased, by reference.

    Args:
        probabilities: p(label | image, question).
        blind: p'(label | question), by reference.
        debiased: the debiased scores, by reference.
    """
    rows = {"with the image": probabilities}
    rows |= {f"without ({name})": values for name, values in (blind or {}).items()}
    rows |= {f"post-hoc ({name})": values for name, values in (debiased or {}).items()}
    cell = "padding:.15em .8em .15em 0;border:0;background:none;font-variant-numeric:tabular-nums"
    left, right = f"{cell};text-align:left;font-weight:400", f"{cell};text-align:right"
    names = [element("th", name, scope="col", style=right) for name in probabilities]
    head = element("tr", element("th", "probability", scope="col", style=left), *names, style="background:none")
    body = [
        element(
            "tr",
            element("th", kind, scope="row", style=left),
            *(element("td", f"{values[name]:.3f}" if name in values else "", style=right) for name in probabilities),
            style="background:none",
        )
        for kind, values in rows.items()
    ]
    style = f"{FONT};border-collapse:collapse;font-size:.85rem;margin:.6rem 0 0"
    return element("table", element("thead", head), element("tbody", *body), style=style)


def answer_html(*parts: Markup, question: str = "", note: str = "") -> Markup:
    """What was said, below the question and a note where there are such."""
    asked = element("div", question, dir="auto", style=f"{FONT};font-size:.85rem;opacity:.75;margin:0 0 .25rem")
    noted = element("div", note, dir="auto", style=f"{FONT};font-size:.9rem;font-style:italic")
    above = [*([asked] if question else []), *([noted] if note else [])]
    return element("div", *above, *parts, class_="vdd-answer", style="max-width:48rem;margin:.5rem 0")
