"""A page's part about wrong answers: what was asked, what the tower made of it, and the pairs that it was traced to.

Knows: diagnoses, markup. Computes nothing. Does not know: files.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

from vdd.diagnosis import Diagnosis, Traced, TracedPair
from vdd.markup import Markup, element, joined
from vdd.report_tables import influence, percent, traced_in_words

TERMS = (
    (
        "harmed, helped",
        "Training pairs of the vision tower by relative influence on one wrong answer: how much the surprise at what "
        "is right would change with the pair's removal, per unit by which that moves the tower. Below 0 the pair "
        "harmed. An estimate (arXiv:2411.11667), no proof: it supposes a tower at the minimum of its training.",
    ),
    (
        "tower alone",
        "What the contrastive model makes of the image without the language model: its probability of the right texts "
        "among those it was asked about.",
    ),
    (
        "CLIP score, pair loss",
        "Cosine of the pair's image and text, and its own terms of the training loss. A low score, or a high loss, "
        "says already that image and text may not belong together.",
    ),
)


def traces(diagnosis: Diagnosis) -> list[Markup]:
    """A sentence on all of them, then each wrong answer with its pairs."""
    shown = [element("li", *_trace(one, diagnosis), class_="trace") for one in diagnosis.traces]
    return [element("p", traced_in_words(diagnosis), class_="note"), element("ul", *shown, class_="traces")]


def _trace(traced: Traced, diagnosis: Diagnosis) -> list[Markup]:
    misread = traced.misread
    right = {*misread.right}
    texts = [(text, place in right) for place, text in enumerate(misread.texts)]
    picture = _picture(traced.picture, f"what was asked about: {misread.image}", diagnosis)
    asked = element("div", picture, element("p", misread.image, class_="note", dir="auto"))
    said = [element("h4", misread.question or "which text is right?", dir="auto")]
    if misread.answer or misread.truth:
        answered = element("span", misread.answer, class_="wrong", dir="auto")
        truth = element("span", misread.truth, class_="right", dir="auto")
        said.append(element("p", "Answered ", answered, "; right is ", truth, "."))
    if traced.probability is None:
        return [asked, element("div", *said, element("p", f"Not traced: {traced.reason}", dir="auto"))]
    verdict = "it saw what is right" if traced.tower_is_right else "it did not see what is right"
    said.append(element("p", f"The tower alone gives what is right {percent(traced.probability)} %: {verdict}."))
    for name, wanted in (("right", True), ("against it", False)):
        quoted = " · ".join(text for text, is_right in texts if is_right is wanted)
        said.append(element("p", f"{name}: {quoted}", class_="note", dir="auto"))
    harmful = _pairs(traced.harmful, diagnosis)
    helpful = _pairs(traced.helpful, diagnosis)
    said.append(joined(element("p", "Pairs that harmed most:"), harmful) if traced.harmful else _none("harmed"))
    if traced.helpful:
        said.append(element("details", element("summary", "Pairs that helped most"), helpful))
    return [asked, element("div", *said)]


def _pairs(pairs: Sequence[TracedPair], diagnosis: Diagnosis) -> Markup:
    return element("ul", *(_pair(pair, diagnosis) for pair in pairs), class_="pairs")


def _pair(pair: TracedPair, diagnosis: Diagnosis) -> Markup:
    figures = f"pair {pair.id}; CLIP score {influence(pair.clip_score)}, pair loss {pair.pair_loss:.2g}"
    return element(
        "li",
        _picture(pair.picture, f"training image {pair.image}", diagnosis),
        element("b", influence(pair.tied)),
        element("span", pair.caption, dir="auto"),
        element("small", figures),
    )


def _picture(name: str | None, what: str, diagnosis: Diagnosis) -> Markup:
    """A small picture within the page; its name alone where there is none."""
    found = None if name is None else diagnosis.pictures.get(name)
    if found is None:
        return element("p", f"(no picture: {what})", class_="note")
    return element("img", src=f"data:image/jpeg;base64,{b64encode(found).decode('ascii')}", alt=what, loading="lazy")


def _none(what: str) -> Markup:
    return element("p", f"No pair {what}.")
