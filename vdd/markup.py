"""HTML and SVG by plain functions: what was not made here is text, and text is escaped.

    >>> element("th", "a < b", scope="col")
    '<th scope="col">a &lt; b</th>'
    >>> element("p", "see ", element("b", "this"), class_="note")
    '<p class="note">see <b>this</b></p>'

Knows: elements, attributes. Does not know: what is shown.
"""

from __future__ import annotations

import re
from html import escape


class Markup(str):
    """Text that is markup already, made by `element` and `joined`."""

    __slots__ = ()


_EMPTY = frozenset({"meta", "br", "img"})
"""Elements of these pages that have no end."""

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
"""Characters that no HTML document may hold."""


def element(tag: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element.

    Args:
        tag: its name.
        children: markup, or text, which is escaped.
        attributes: by name, `class_` for class and `aria_label` for aria-label; numbers to two decimals; None is
            left out.
    """
    written = (
        f' {key.rstrip("_").replace("_", "-")}="{_escaped(value if isinstance(value, str) else _short(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    opening = f"<{tag}{''.join(written)}>"
    return Markup(opening if tag in _EMPTY else f"{opening}{joined(*children)}</{tag}>")


def joined(*parts: str) -> Markup:
    """Parts in a row: markup as it is, text escaped."""
    return Markup("".join(part if isinstance(part, Markup) else _escaped(part) for part in parts))


def _escaped(text: str) -> str:
    return escape(_UNPRINTABLE.sub("\ufffd", text), quote=True)


def _short(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".") if isinstance(number, float) else str(number)
