"""From a wrong answer to what a tower can be asked: texts about the image, some right, the others not.

    "Is there a fox in the image?"   →   "there is a fox in the image."     a caption's words

    answered yes, wrongly   right: what is there, by the other questions about the image; against it the claim
    answered no, wrongly    right: what was asked for; against it what is not there
    anything else           the question with the right answer against the question with the given one

Where nothing else is known of the image, a statement stands against its denial.

Source: arXiv:2411.11667 (misprediction trace-back); questions: POPE (arXiv:2305.10355), MME (arXiv:2306.13394).
Knows: strings. Does not know: towers, files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from vdd.diagnosis import Misread
from vdd.records import Question

_EXISTENCE = re.compile(
    r"\s*(?P<verb>is|are) there (?P<what>[^?!\n]*[^?!\s])\s*\?(?P<rest>.*)", re.IGNORECASE | re.DOTALL
)
_SUFFIX = re.compile(r"\s*((please )?answer\b.*)?", re.IGNORECASE | re.DOTALL)
_VAGUE = re.compile(r"(any|some) (?=\S)", re.IGNORECASE)
_COUNTED = re.compile(r"there are (?=(only|exactly|at|\d|one|two|three|four|five|six|seven|eight|nine|ten)\b)")


def statement(question: str) -> str | None:
    """What an existence question asks whether it holds; None of another question.

    >>> statement("Is there a fox in the image? Please answer yes or no.")
    'there is a fox in the image.'
    >>> statement("What color is the fox?")
    """
    found = _EXISTENCE.fullmatch(question)
    if found is None or _SUFFIX.fullmatch(found["rest"]) is None:
        return None
    what = _VAGUE.sub("", found["what"], count=1) if _VAGUE.match(found["what"]) else found["what"]
    what = re.sub(r"\bimange\b", "image", what)  # as POPE's own files have it
    return f"there {found['verb'].lower()} {what}."


def denial(claim: str) -> str:
    """The opposite of a statement.

    >>> denial("there is a fox in the image."), denial("there are two foxes.")
    ('there is no fox in the image.', 'there are not two foxes.')
    """
    one = re.match(r"there is (an?|one) ", claim)
    if one is not None:
        return f"there is no {claim[one.end() :]}"
    if claim.startswith("there are ") and _COUNTED.match(claim) is None:
        return claim.replace("there are ", "there are no ", 1)
    return re.sub(r"^there (is|are) ", r"there \1 not ", claim)


def contrasted(wrong: Misread, said: str, about: Sequence[Question] = ()) -> Misread | None:
    """A wrong answer with the texts that the tower is asked to choose from.

    Args:
        wrong: its question, and as `truth` what is right.
        said: what the answer counts as: a label, or the answer itself.
        about: questions about the same image with their labels, this one among them or not.

    Returns:
        None where there is nothing to ask: the answer is empty, or no other than the right one.
    """
    said, truth = said.strip(), wrong.truth.strip()
    if not said or not truth or said.casefold() == truth.casefold():
        return None
    claim = statement(wrong.question)
    if claim is None or {said.casefold(), truth.casefold()} != {"yes", "no"}:
        return _asked(wrong, [f"{wrong.question} {truth}"], [f"{wrong.question} {said}"])
    known = [(statement(one.text), (one.label or "").strip().casefold()) for one in about]
    others = [text for text, label in known if label == said.casefold() and text is not None and text != claim]
    if truth.casefold() == "yes":
        return _asked(wrong, [claim], others or [denial(claim)])
    return _asked(wrong, others or [denial(claim)], [claim])


def _asked(wrong: Misread, right: Sequence[str], other: Sequence[str]) -> Misread:
    right = list(dict.fromkeys(right))
    texts = (*right, *(text for text in dict.fromkeys(other) if text not in right))
    return replace(wrong, texts=texts, right=tuple(range(len(right))))
