"""Answers with what each of their tokens owes to the image, as one HTML page that needs nothing else.

Knows: answers, pictures. Computes nothing. Does not know: models, files.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from vdd.markup import Markup, element
from vdd.records import Answer
from vdd.shading import FONT

PAGE_OPENING = "<!doctype html>\n<!-- reliance, made by vdd -->\n"
"""What every such page begins with: a file that begins so may be written anew."""

SIDE = 320
"""Pixels of a picture's longer side on the page."""

_STYLE = f"""
:root {{ color-scheme: light dark; --paper: #ffffff; --ink: #16181d; --faint: #596273; --rule: #d9dde3; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --paper: #13151a; --ink: #e7e9ee; --faint: #a3abb9; --rule: #30353f; }}
}}
body {{ margin: 0; background: var(--paper); color: var(--ink); {FONT}; }}
main {{ max-width: 60rem; margin: 0 auto; padding: 2rem 1rem 3rem; }}
h1 {{ font-size: 1.5rem; line-height: 1.25; margin: 0 0 .4rem; }}
h2 {{ font-size: 1.05rem; margin: 0 0 .6rem; overflow-wrap: anywhere; }}
h3 {{ font-size: .85rem; margin: 1.1rem 0 0; color: var(--faint); }}
p {{ color: var(--faint); margin: .4rem 0; max-width: 75ch; line-height: 1.5; }}
section {{ border-top: 1px solid var(--rule); margin-top: 1.6rem; padding-top: 1.4rem; }}
section {{ display: grid; gap: 1.4rem; grid-template-columns: minmax(0, 15rem) minmax(0, 1fr); align-items: start; }}
img {{ display: block; width: 100%; height: auto; border-radius: 6px; }}
@media (max-width: 640px) {{ section {{ grid-template-columns: minmax(0, 1fr); }} img {{ max-width: 15rem; }} }}
@media print {{ body {{ print-color-adjust: exact; }} section {{ break-inside: avoid; }} }}
"""


@dataclass(frozen=True)
class Shown:
    """One picture, what was asked about it, and the answers by name.

    Attributes:
        picture: of any size; a small one is put into the page.
        question: what was asked.
        answers: by name ("plain", "debiased", …), in the order they are shown.
        truth: the right answer; "" where it is not known.
    """

    picture: Image.Image
    question: str
    answers: Mapping[str, Answer]
    truth: str = ""


def answer_page(shown: Sequence[Shown]) -> str:
    """The whole document."""
    title = "What each token owes to the image"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element(
            "meta",
            http_equiv="Content-Security-Policy",
            content="default-src 'none'; style-src 'unsafe-inline'; img-src data:",
        ),
        element("title", f"{title} · vdd"),
        element("style", Markup(_STYLE)),
    )
    lead = (
        "log p(token | image, text before) − log p(token | reference, text before), in nats. A word without colour is "
        "one that the language model says without the image just as well. Point at a word for its number."
    )
    header = element("header", element("h1", title), element("p", lead))
    body = element("body", element("main", header, *map(_section, shown)))
    return f"{PAGE_OPENING}{element('html', head, body, lang='en')}\n"


def _section(shown: Shown) -> Markup:
    said = [
        part
        for name, answer in shown.answers.items()
        for part in (element("h3", name), answer.to_html(with_question=False))
    ]
    truth = [element("h3", "truth"), element("div", shown.truth, dir="auto")] if shown.truth else []
    picture = element("img", src=_embedded(shown.picture), alt="the picture that was asked about")
    return element("section", picture, element("div", element("h2", shown.question, dir="auto"), *said, *truth))


def _embedded(picture: Image.Image) -> str:
    """The picture as a small JPEG, in the words of an address."""
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode('ascii')}"
