"""A page's part with the figures of an analysis: the files themselves within the page, so that it needs no other.

Knows: drawn figures, markup. Computes nothing. Does not know: files, what the figures show.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence

from vdd.analysed import DrawnFigure
from vdd.markup import Markup, element


def pictures(figures: Sequence[DrawnFigure]) -> Markup:
    """Each figure under its heading, in order."""
    return element("div", *map(_picture, figures), class_="pictures")


def _picture(figure: DrawnFigure) -> Markup:
    source = f"data:image/{figure.kind};base64,{b64encode(figure.data).decode('ascii')}"
    image = element("img", src=source, alt=f"{figure.title}: {figure.how}", loading="lazy")
    return element("figure", element("figcaption", figure.title, element("small", figure.how)), image)
