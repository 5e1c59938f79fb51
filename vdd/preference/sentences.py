"""An answer as text that is cut and rewritten: its sentences, where words begin, a yes that becomes a no.

    "Yes, it is. A red fox."  →  "Yes, it is." · " A red fox."      joined again they are the answer, to the letter

Source: arXiv:2407.02477, §3.4; the paper's own pattern for yes and no also finds them in "Not" and "North".
Knows: text. Does not know: tokens, models.
"""

from __future__ import annotations

import re
from itertools import pairwise

END = re.compile(r"""[.!?。！？]+["'”’)\]]*(?=\s|$)|\n+""")
"""Where a sentence ends: its sign and closing quotes, before a space or at the end ("3.5" goes on); or a line's end."""

_YES_NO = re.compile(
    r"""^(\s*["'“‘(]?)(yes|no)(?=["'”’)]*[,.;:!?—…](?!\d)|["'”’)]*\s*$|\s+(?:it|there|the|this|that|these|those|he|she|they|i|you|we)\b)""",
    re.IGNORECASE,
)
"""An answer's first word, not the one of "No dogs are here": what follows is a stop, nothing, or a new clause."""

_OTHER = {"yes": "no", "no": "yes"}


def sentences(text: str) -> list[str]:
    """The sentences of `text`, each with the white space before it; together they are `text`.

    >>> sentences("It is 3.5 m high. A fox? yes")
    ['It is 3.5 m high.', ' A fox?', ' yes']
    """
    bounds = [0, *(found.end() for found in END.finditer(text)), len(text)]
    found, blank = list[str](), ""
    for start, stop in pairwise(bounds):
        part = blank + text[start:stop]
        blank = ""
        if part.strip():
            found.append(part)
        elif found:
            found[-1] += part
        else:
            blank = part
    return [*found, blank] if blank else found


def cuts(sentence: str) -> list[int]:
    """Where `sentence` may be cut: before its first word, and behind every word but the last; letters counted.

    >>> cuts(" a red fox.")
    [0, 2, 6]
    """
    words = [found.end() for found in re.finditer(r"\S+", sentence)]
    return [0, *words[:-1]]


def swapped(sentence: str) -> str | None:
    """`sentence` with the yes or no that it begins with turned round, in the same case; None where there is none.

    >>> swapped("No, there is none."), swapped("North of it."), swapped("No dogs are here.")
    ('Yes, there is none.', None, None)
    """
    found = _YES_NO.match(sentence)
    if found is None:
        return None
    word = found[2]
    other = _OTHER[word.lower()]
    other = other.upper() if word.isupper() and len(word) > 1 else other.capitalize() if word[0].isupper() else other
    return found[1] + other + sentence[found.end() :]


def ends_sentence(text: str) -> bool:
    """Whether `text` closes a sentence."""
    return bool(re.search(r"""([.!?。！？]+["'”’)\]]*\s*|\n)$""", text))


def same(first: str, second: str) -> bool:
    """Whether two answers are one but for white space and case."""
    return first.casefold().split() == second.casefold().split()
