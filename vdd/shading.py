"""Each token coloured by what it owes to the image: blue the image, orange the language model's habit.

    reliance = log p(token | image, before) − log p(token | reference, before), in nats
    colour   = the pole of its sign, as strong as min(|reliance| / LIMIT, 1)

Blue and orange are told apart by people with every kind of colour vision. On a page the colours are laid thinly over
whatever is behind, so that the ink of light and of dark pages stays readable.

Source of the poles: ColorBrewer, RdBu (blue) and PuOr (orange).

Knows: numbers, pieces of text. Does not know: models, tensors, terminals, files.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vdd._check import UserError
from vdd.markup import Markup, element, joined

LIMIT = 3.0
"""Nats at which a colour is full: the image made the token e³ ≈ 20 times as likely as it was, or a twentieth."""

IMAGE, HABIT = (33, 102, 172), (224, 130, 20)
"""The poles, as red, green and blue: for tokens that the image made likelier, and for those it made less likely."""

FULL = 0.55
"""How much of a full colour covers what is behind it."""

INK = "#16181d"
"""Ink that is readable on every `shade`."""

_SPECIAL = re.compile(r"\s*<[^<>\s]{1,60}>\s*|\s*\[(?:/?INST|PAD|CLS|SEP|EOS|BOS|UNK|MASK)\]\s*")
"""Tokens that are no text: `</s>`, `<|im_end|>`, `<end_of_turn>`, …"""

FONT = "font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif"
"""Of every piece of markup that brings its own style."""


@dataclass(frozen=True)
class Shaded:
    """A piece of text and how it is shown.

    Attributes:
        text: never "".
        reliance: in nats; of several tokens their sum, as log-probabilities add up; None where it is not known.
        tokens: how many tokens the piece is made of.
        special: whether it is a token that is no text.
    """

    text: str
    reliance: float | None = None
    tokens: int = 1
    special: bool = False


def shaded(tokens: Sequence[str], reliance: Sequence[float] | None) -> list[Shaded]:
    """The tokens as they are shown.

    Args:
        tokens: pieces of text; "" is a letter that is not whole yet, and goes with the token behind it.
        reliance: of each token, in nats; None where it is not known. Not finite: not known.

    Raises:
        UserError: where there is not one number for each token.
    """
    numbers = [math.nan] * len(tokens) if reliance is None else list(reliance)
    if len(numbers) != len(tokens):
        raise UserError(
            f"reliance: {len(numbers)} numbers came with {len(tokens)} tokens; wanted one for each. Were the tokens "
            "of another answer?"
        )
    found, waiting = list[Shaded](), list[float]()
    for token, number in zip(tokens, numbers, strict=True):
        waiting.append(_number(number))
        if token:
            found.append(_piece(token, waiting))
            waiting = []
    if waiting and found:
        last = found.pop()
        own = math.nan if last.reliance is None else last.reliance
        found.append(_piece(last.text, [own, *waiting], last.tokens + len(waiting)))
    return found


def shade(value: float) -> str:
    """The colour of a reliance in nats, as "#rrggbb", on white: symmetric about 0, full from ±LIMIT on; NaN is white.

    >>> shade(0.0), shade(9.0), shade(-9.0)
    ('#ffffff', '#84abd2', '#eeba7e')
    """
    share = FULL * _strength(value)
    mixed = (round(255 + share * (part - 255)) for part in _pole(value))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def described(piece: Shaded) -> str:
    """A piece's number in words: "+2.30 nats: 10 times as likely with the image"."""
    if piece.reliance is None:
        return ""
    several = f"{piece.tokens} tokens, " if piece.tokens > 1 else ""
    return f"{several}{signed(piece.reliance, 2)} nats: {_odds(piece.reliance)}"


def signed(value: float, digits: int) -> str:
    """A number with its sign and so many decimals, the minus as a typographer writes it; 0 has no sign."""
    rounded = round(value, digits) + 0.0  # −0.0 becomes 0.0
    return f"{rounded:+.{digits}f}".replace("-", "−") if rounded else f"{0:.{digits}f}"


def reliance_html(tokens: Sequence[str], reliance: Sequence[float] | None) -> Markup:
    """The text with its colours and a legend, for a page or a notebook; it needs no style and no script of theirs.

    Args:
        tokens: as `shaded`.
        reliance: in nats; None for the text alone, without colours and legend.

    Raises:
        UserError: where there is not one number for each token.
    """
    pieces = shaded(tokens, reliance)
    text = element(
        "div",
        *map(_span, pieces),
        dir="auto",
        style=f"{FONT};font-size:1rem;line-height:1.8;white-space:pre-wrap;overflow-wrap:anywhere",
    )
    shown = [text, _legend()] if any(piece.reliance is not None for piece in pieces) else [text]
    return element("div", *shown, class_="vdd-reliance")


def _piece(text: str, numbers: Sequence[float], tokens: int | None = None) -> Shaded:
    total = math.fsum(numbers)
    return Shaded(
        text=text,
        reliance=total if math.isfinite(total) else None,
        tokens=len(numbers) if tokens is None else tokens,
        special=_SPECIAL.fullmatch(text) is not None,
    )


def _number(value: float) -> float:
    """A finite number, or NaN."""
    try:
        return float(value) if math.isfinite(value) else math.nan
    except TypeError:
        raise UserError(f"reliance: {value!r} is no number; wanted nats.") from None


def _strength(value: float) -> float:
    """0 to 1."""
    return 0.0 if math.isnan(value) else min(abs(value) / LIMIT, 1.0)


def _pole(value: float) -> tuple[int, int, int]:
    return HABIT if value < 0 else IMAGE


def _wash(value: float) -> str:
    """As `shade`, to be laid over any paper."""
    return f"rgba({','.join(map(str, _pole(value)))},{FULL * _strength(value):.3f})"


def _odds(value: float) -> str:
    """A log-ratio of probabilities in words."""
    times = math.exp(min(abs(value), 50.0))
    factor = f"{times:.1f}" if times < 10 else f"{times:.0f}" if times < 1000 else "over 1000"
    side = "with" if value > 0 else "without"
    return "no difference" if factor == "1.0" else f"{factor} times as likely {side} the image"


def _span(piece: Shaded) -> Markup:
    """A piece, its colour behind its letters alone; space that stands by itself is coloured as well."""
    styles = ["opacity:.8;font-size:.85em"] if piece.special else []
    if piece.reliance is not None:
        styles.append(f"background:{_wash(piece.reliance)};border-radius:.2em;padding:.12em 0")
    lines = piece.text.replace("\r\n", "\n").replace("\r", "\n")
    core = lines.strip()
    before, behind = (lines[: lines.index(core)], lines[lines.index(core) + len(core) :]) if core else ("", "")
    inner = core or _visible(lines)
    span = element("span", inner, style=";".join(styles) or None, title=described(piece) or None)
    return joined(before, span, behind)


def _visible(space: str) -> Markup:
    """Blank text so that it can be seen: a faint sign before each line's end."""
    sign = element("span", "⏎", style="opacity:.6", aria_hidden="true")
    first, *rest = space.split("\n")
    return joined(first, *(joined(sign, "\n", part) for part in rest))


def _legend() -> Markup:
    low, high = (f"rgba({','.join(map(str, pole))},{FULL})" for pole in (HABIT, IMAGE))
    bar = element(
        "span",
        style=(
            "display:inline-block;width:8em;height:.8em;border-radius:.2em;border:1px solid rgba(128,128,128,.6);"
            f"background:linear-gradient(to right,{low},rgba(128,128,128,0),{high})"
        ),
    )
    return element(
        "div",
        element("span", f"less likely with the image (−{LIMIT:g} nats)"),
        bar,
        element("span", f"more likely (+{LIMIT:g})"),
        element("span", "· no colour: as likely without it"),
        style=f"{FONT};display:flex;flex-wrap:wrap;align-items:center;gap:.2em .6em;font-size:.8rem;margin:.4rem 0 0",
    )
