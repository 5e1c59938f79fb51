"""What an answer to one of MMMU's questions counts as, by the official rule.

Multiple choice: the answer loses , . ! ? ; : and ' at its ends, one sign after the other. Candidates are the letters
that stand in it as "(A)"; where there is none, those that stand alone between spaces; where there is none either and
the answer has more than five words, those whose option's text it holds, in any case. The candidate that occurs last
wins, the first of equals.

Open: what follows the last "is ", "so ", "=", … in each line, or else the whole answer, and the numbers in that. A
number is right if it equals a right one at two decimals; a text is right if it holds a right one, in lower case.

Source: MMMU's eval_utils.py (arXiv:2311.16502).

Knows: strings. Does not know: figures, files, chance.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_WORDS = 5  # an answer of more than these is searched for the options' texts
_ENDS = (",", ".", "!", "?", ";", ":", "'")
_BEFORE_ANSWER = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),  # with commas
    re.compile(r"-?\d+(?:\.\d+)?e[+-]?\d+"),  # scientific, of lower-cased text
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?!e[+-]?\d)(?![,\d])"),
)


def letters(count: int) -> list[str]:
    """The letters of so many options: A, B, …"""
    return [chr(ord("A") + i) for i in range(count)]


def choice_of(text: str, options: Sequence[str]) -> str | None:
    """The letter that an answer to a multiple-choice question names by the official rule; None where it names none.

    >>> choice_of("(A) or rather (C)", ["oak", "fir", "yew"]), choice_of("That one there must be a Fir", ["oak", "fir"])
    ('C', 'B')
    """
    for sign in _ENDS:
        text = text.strip(sign)
    text = f" {text} "
    known = letters(len(options))
    forms = [[f"({letter})" for letter in known], [f" {letter} " for letter in known]]
    for form in forms:
        last = {letter: text.rfind(written) for letter, written in zip(known, form, strict=True)}
        if any(position >= 0 for position in last.values()):
            return max(known, key=last.__getitem__)
    if len(text.split()) > _WORDS:
        lowered = text.lower()
        last = {letter: lowered.rfind(option.lower()) for letter, option in zip(known, options, strict=True)}
        if any(position >= 0 for position in last.values()):
            return max(known, key=last.__getitem__)
    return None


def is_right_open(text: str, answers: Sequence[str]) -> bool:
    """Whether an answer to an open question is one of the right ones, by the official rule.

    >>> is_right_open("The sum is 3.004", ["3"]), is_right_open("It is the Tampa Bay", ["Tampa", "Florida"])
    (True, True)
    """
    right = [value for answer in answers for value in _normalised(answer)]
    parts = _key_parts(text)
    said = parts + [number for part in parts for pattern in _NUMBERS for number in pattern.findall(part)]
    for value in (value for piece in said for value in _normalised(piece)):
        if isinstance(value, float):
            if value in right:
                return True
        elif any(isinstance(answer, str) and answer in value for answer in right):
            return True
    return False


def _key_parts(text: str) -> list[str]:
    """What follows the words before an answer, in each line that has one; the whole, in lower case, where none has."""
    whole = text.strip().strip(".").lower()
    lines = whole.split("\n")
    parts = []
    for number, line in enumerate(lines):
        shortest = ""
        for words in (*_BEFORE_ANSWER, "=") if number == len(lines) - 1 else _BEFORE_ANSWER:
            if words in line:
                tail = line.rpartition(words)[2].strip()
                if not shortest or len(tail) < len(shortest):  # an empty one gives way to the next, as in eval_utils.py
                    shortest = tail
        if shortest and shortest not in _ENDS:
            parts.append(shortest)
    return parts or [whole]


def _normalised(text: str) -> list[float | str]:
    """A number at two decimals; else the text in lower case, a single character with a space on either side of it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
        return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]
