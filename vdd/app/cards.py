"""What is known so far, as HTML: a card for each answer, bars for what was compared, a line for what went wrong.

Knows: `Shown`, markup. Does not know: models, Gradio.
"""

from __future__ import annotations

import math

from vdd.app.answers import Shown, Written
from vdd.app.compared import Compared
from vdd.markup import Markup, element, joined
from vdd.shading import LIMIT, reliance_html, shade

BEFORE = {
    "none": "no image",
    "unk": "an unknown token for the image",
    "both": "no image and an unknown token, averaged",
    "mask": "the image's tokens hidden",
    "noise": "noise for the image",
    "zero": "an image of zeros",
    "one": "an image of ones",
    "instruction": "the image under a confusing instruction",
}
"""What stands in the image's place, in words."""

TITLES = ("Plain", "VDD", "Post-hoc")
MEANINGS = (
    "the model as it is",
    "strengthens what the image adds",
    "divides the habit out of one choice",
)


def cards(shown: Shown | None, *, stopped: bool = False) -> Markup:
    """The three answers side by side, what their colours mean, and the bars.

    Args:
        shown: None before any question.
        stopped: whether there is nothing more to come, though the answers are not whole.
    """
    if shown is None:
        empty = (_card(title, meaning, "", "") for title, meaning in zip(TITLES, MEANINGS, strict=True))
        return element("div", *empty, class_="vdd-answers")
    debias = shown.asked.debias
    how = f"α = {debias.alpha:g}, β = {debias.beta:g}, against {BEFORE[debias.reference]}"
    answers = element(
        "div",
        _answer(TITLES[0], MEANINGS[0], shown.plain, "", stopped=stopped),
        _answer(TITLES[1], MEANINGS[1], shown.debiased, how, stopped=stopped),
        _chosen(shown.compared, stopped=stopped),
        class_="vdd-answers",
    )
    bars = [_bars(shown.compared)] if isinstance(shown.compared, Compared) else []
    return joined(answers, _legend(), *bars)


def message(text: str, *, wrong: bool = True) -> Markup:
    """A line that says what went wrong, or what is going on; "" where there is nothing to say."""
    if not text:
        return Markup("")
    return element("p", text, class_="vdd-note wrong" if wrong else "vdd-note", role="alert" if wrong else "status")


def _answer(title: str, meaning: str, written: Written | None, how: str, *, stopped: bool) -> Markup:
    if written is None:
        return _card(title, meaning, "" if stopped else _waiting(), how)
    if not written.done:
        caret = Markup("") if stopped else element("span", class_="caret", aria_hidden="true")
        behind = " (stopped)" if stopped else ""
        return _card(title, meaning, element("p", written.text, caret, behind, class_="text"), how)
    count = len(written.tokens)
    cost = f"{count} token{'' if count == 1 else 's'} in {written.seconds:.2f} s"
    if not count:
        return _card(title, meaning, element("p", "The model ended its answer at once.", class_="faint"), how or cost)
    body = element("div", reliance_html(written.tokens, written.reliance), class_="text")
    return _card(title, meaning, body, f"{how}; {cost}" if how else cost)


def _chosen(compared: Compared | str | None, *, stopped: bool) -> Markup:
    title, meaning = TITLES[2], MEANINGS[2]
    if compared is None:
        return _card(title, meaning, "" if stopped else _waiting(), "")
    if isinstance(compared, str):
        return _card(title, meaning, element("p", compared, class_="faint"), "")
    if compared.kind == "first words" and compared.alternatives == 1:
        said = (
            f"One first word alone is plausible (“{compared.answer}”), so there is nothing to choose between. Name the "
            "possible answers to compare them."
        )
        return _card(title, meaning, element("p", said, class_="faint"), "")
    share = next(s for n, s in zip(compared.names, compared.debiased, strict=True) if n == compared.answer)
    among = {
        "given": "the answers that you named",
        "yes-no": "yes and no, since the question asks for one of them",
        "first words": f"the {compared.alternatives} first words that the image leaves plausible",
    }[compared.kind]
    body = element("p", compared.answer, element("small", f" {_percent(share or 0.0)}"), class_="text")
    return _card(title, meaning, body, f"among {among}; against {BEFORE[compared.reference]}")


def _card(title: str, meaning: str, body: str, foot: str) -> Markup:
    head = element("h3", title, element("small", meaning))
    return element(
        "section",
        head,
        element("div", body, class_="body"),
        element("footer", foot),
        class_="vdd-card",
        id=title.lower(),
    )


def _legend() -> Markup:
    """What the words' colours mean, once for both answers."""
    poles = ((-LIMIT, "habit: less likely with the image"), (LIMIT, "the image: more likely with it"))
    keys = (
        joined(element("i", class_="key", style=f"background:{shade(value)}"), element("span", text))
        for value, text in poles
    )
    full = element(
        "span", f"full from a factor of e{_raised(LIMIT)} ≈ {math.exp(LIMIT):.0f} on; point at a word for its number"
    )
    return element("p", *(element("span", key, class_="pole") for key in keys), full, class_="vdd-legend")


def _raised(number: float) -> str:
    return f"{number:g}".translate(str.maketrans("0123456789.", "⁰¹²³⁴⁵⁶⁷⁸⁹·"))


def _waiting() -> Markup:
    return element("p", "…", class_="faint waiting")


def _bars(compared: Compared) -> Markup:
    """A table of names with three bars each."""
    without = f"Without: {BEFORE[compared.reference]}"
    heads = (("seen", "With the image"), ("blind", without), ("debiased", "Post-hoc: habit divided out"))
    first = "First word" if compared.kind == "first words" else "Answer"
    head = element(
        "tr",
        element("th", first, scope="col"),
        *(element("th", element("i", class_=f"key {kind}"), name, scope="col") for kind, name in heads),
    )
    rows = [
        element(
            "tr",
            element("th", name, scope="row"),
            *(_bar(kind, share) for (kind, _), share in zip(heads, shares, strict=True)),
            class_="chosen" if name == compared.answer and compared.alternatives > 1 else None,
        )
        for name, *shares in zip(compared.names, compared.seen, compared.blind, compared.debiased, strict=True)
    ]
    seen, blind = map(_percent, compared.held)
    if compared.kind == "first words":
        note = (
            f"Probabilities of the first token. These words hold {seen} of it with the image, {blind} without; "
            "post-hoc compares those that the image leaves plausible."
        )
    else:
        note = f"Shares among these answers, which hold {seen} of the probability with the image, {blind} without."
    table = element("table", element("thead", head), element("tbody", *rows))
    return element("section", table, element("p", note, class_="faint"), class_="vdd-bars")


def _bar(kind: str, share: float | None) -> Markup:
    if share is None:
        return element("td", element("span", "not plausible", class_="faint"))
    width = f"width:{100 * min(max(share, 0.0), 1.0):.1f}%"
    bar = element("span", element("i", style=width, class_=kind), class_="track", aria_hidden="true")
    return element("td", element("div", bar, element("b", _percent(share)), class_="cell"))


def _percent(share: float) -> str:
    """A share in words that never say 0 or 100 % of what is neither.

    >>> _percent(0.5), _percent(0.00001), _percent(0.99996), _percent(1.0)
    ('50 %', '< 0.1 %', '> 99.9 %', '100 %')
    """
    if 0 < share < 0.001:
        return "< 0.1 %"
    if 0.999 < share < 0.9999999:
        return "> 99.9 %"
    percent = 100 * share
    return f"{percent:.0f} %" if percent in (0, 100) or 10 <= percent <= 90 else f"{percent:.1f} %"
