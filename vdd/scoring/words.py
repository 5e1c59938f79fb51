"""What a free-text answer to a yes/no question counts as, under the three rules in use for POPE.

    | answer                            | official | vcd                             | exact |
    | "Yes, there is no cat but a dog." | no       | counted right whatever the label | other |
    | "I don't know"                    | yes      | no                              | other |
    | "NO"                              | yes      | no                              | no    |
    | ""                                | yes      | counted wrong                   | other |

Sources: `official`, POPE's evaluate.py (arXiv:2305.10355); `vcd`, the script of VCD and of what was built on it, VDD
included; `exact`, lmms-eval's POPE task.

Knows: strings. Does not know: figures, files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, Protocol

from vdd._check import choice

LABELS = ("yes", "no")

Prediction = Literal["yes", "no", "other"]

_OFFICIAL_NO = frozenset({"No", "not", "no"})
_DECISIVE_WORD = re.compile(r"\b(?:yes|no|not)\b")


class Parser(Protocol):
    """One rule; `label`, "yes" or "no", is the right answer, which only `vcd` looks at."""

    def __call__(self, text: str, label: str) -> Prediction:
        """What `text` counts as."""


def official(text: str, label: str) -> Prediction:
    """POPE's rule: "no" if the first sentence has the word No, not or no in exactly this spelling, else "yes".

    The sentence ends at the first full stop, commas are dropped, and only spaces part words, so that "no\\n" is none.

    >>> official("There is not a cat, yes.", "no"), official("I don't know", "no"), official("NO", "no")
    ('no', 'yes', 'yes')
    """
    words = text.split(".", maxsplit=1)[0].replace(",", "").split(" ")
    return "no" if _OFFICIAL_NO.intersection(words) else "yes"


def vcd(text: str, label: str) -> Prediction:
    """The VCD family's rule: right if the label occurs anywhere in the answer, even within a word, else wrong.

    Its script knows no prediction, only this comparison; what is right is returned here as the label and what is wrong
    as the other label, which gives its counts, yes-ratio included. "I don't know" holds the "no" of "know".

    Raises:
        UserError: if the label is neither "yes" nor "no".

    >>> vcd("Yes, there is no cat.", "yes"), vcd("Yes, there is no cat.", "no"), vcd("", "yes"), vcd("", "no")
    ('yes', 'no', 'no', 'yes')
    """
    if choice("vcd", "label", label, LABELS) == "yes":
        return "yes" if "yes" in text.lower() else "no"
    return "no" if "no" in text.lower() else "yes"


def exact(text: str, label: str) -> Prediction:
    """lmms-eval's rule: the whole answer, without surrounding spaces and in any case, is "yes" or "no"; else "other".

    >>> exact(" NO\\n", "no"), exact("No.", "no")
    ('no', 'other')
    """
    answer = text.strip().lower()
    if answer == "yes":
        return "yes"
    return "no" if answer == "no" else "other"


PARSERS: Mapping[str, Parser] = {"official": official, "vcd": vcd, "exact": exact}
"""The rules by the name that a score's signature carries."""


def is_right(text: str, truth: str) -> bool:
    """Whether an answer is the right one: to "yes" or "no" by POPE's rule in any case, else the same words.

    >>> is_right("NO.", "no"), is_right("No, there is none.", "Yes"), is_right(" Red\n", "red")
    (True, False, True)
    """
    text, truth = text.strip().casefold(), truth.strip().casefold()
    return official(text, truth) == truth if truth in LABELS else text == truth


def is_unparsed(text: str, *, parser: str) -> bool:
    """Whether the rule's verdict rests on nothing that the answer says, as for an empty one.

    Args:
        text: the answer.
        parser: of PARSERS. "official": neither yes, no nor not is a word of the answer, in any case and anywhere in it
            (the rule then says "yes"). "vcd": neither yes nor no occurs in it. "exact": its prediction is "other".

    Raises:
        UserError: on an unknown parser.

    >>> is_unparsed("A red car.", parser="official"), is_unparsed("NO", parser="official")
    (True, False)
    """
    choice("is_unparsed", "parser", parser, PARSERS)
    if parser == "official":
        return _DECISIVE_WORD.search(text.lower()) is None
    if parser == "vcd":
        return not any(label in text.lower() for label in LABELS)
    return exact(text, "") == "other"
