"""What a model believes before it has seen anything: the probabilities of a set of answers, with the image and without.

    share(label | condition) = mean over the questions of p(label | condition) / Σ_labels p(label | condition)

Source: arXiv:2403.05262.
Knows: label probabilities, a tokenizer's call. Does not know: models, images, files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from vdd._check import UserError
from vdd.analysed import PriorShare
from vdd.records import Question

SETS: Mapping[str, tuple[str, ...]] = {
    "yes-no": ("yes", "no"),
    "colors": (
        "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white", "gray",
    ),
    "numbers": ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    "number-words": ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    "letters": ("A", "B", "C", "D"),
    "animals": ("dog", "cat", "horse", "bird", "cow", "sheep", "bear", "elephant", "zebra", "giraffe", "fox"),
    "directions": ("left", "right", "top", "bottom", "center"),
}  # fmt: skip
"""Label sets by name: answers that people ask for."""


MOST = 26
"""Different labels of a question file that are still taken for the possible answers."""


def label_set(name: str) -> tuple[str, ...]:
    """The labels of a set by its name, or those of a list with commas between.

    Raises:
        UserError: on another name, fewer than two labels, or one twice.
    """
    if name in SETS:
        return SETS[name]
    words = tuple(word.strip() for word in name.split(","))
    if len(words) < 2 or not all(words) or len(set(words)) < len(words):
        raise UserError(
            f"analyse: label set {name!r}; wanted one of {', '.join(SETS)}, or two labels or more, each once, with "
            "commas between."
        )
    return words


def possible_labels(questions: Sequence[Question], given: str | None) -> tuple[str, ...]:
    """The answers that questions may have: those that are given with commas between, else those that occur.

    Args:
        questions: of any labels.
        given: the user's; None for those of the questions: yes and no, else up to MOST different ones, sorted.

    Returns:
        the labels; none where there are none, only one or too many, and nobody gave any.

    Raises:
        UserError: where fewer than two are given, or one twice.
    """
    if given is not None:
        return label_set(given)
    found = {question.label.strip() for question in questions if question.label is not None} - {""}
    if found and {label.lower() for label in found} <= set(SETS["yes-no"]):
        return SETS["yes-no"]
    return tuple(sorted(found)) if 2 <= len(found) <= MOST else ()


def known_words(words: Sequence[str], encode: Callable[[str], Sequence[int]], unknown: int | None) -> tuple[str, ...]:
    """Of a named set the words that a tokenizer can tell apart.

    Args:
        words: of the set.
        encode: text → token ids without special tokens.
        unknown: the unknown token's id; None where there is none.

    Raises:
        UserError: where fewer than two are left.
    """
    ids = {word: tuple(encode(word)) for word in words}
    times = Counter(ids.values())
    kept = tuple(word for word, own in ids.items() if own and unknown not in own and times[own] == 1)
    if len(kept) < 2:
        raise UserError(
            f"analyse: this model's tokenizer tells {len(kept)} of the labels {', '.join(words)} apart; wanted two at "
            "least. Give others: --label-set red,blue."
        )
    return kept


class Shares:
    """The mean shares of labels by condition over all questions that were added.

    Args:
        names: of the labels, in the order of their columns.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.questions = 0
        self._shares: dict[str, Tensor] = {}
        self._masses: dict[str, float] = {}
        self._truths: list[str] = []

    def add(self, found: Mapping[str, Tensor], truths: Sequence[str | None]) -> None:
        """Add a batch.

        Args:
            found: condition → (batch, labels) probabilities, not renormalised.
            truths: (batch,) the right answers, None where nobody said.
        """
        for name, values in found.items():
            own = values.double().cpu()
            mass = own.sum(dim=-1, keepdim=True)
            shares = (own / mass.clamp(min=torch.finfo(torch.float64).tiny)).sum(dim=0)
            self._shares[name] = shares if name not in self._shares else self._shares[name] + shares
            self._masses[name] = self._masses.get(name, 0.0) + float(mass.sum())
        self.questions += len(truths)
        known = {name.casefold(): name for name in self.names}
        self._truths += [known[t.strip().casefold()] for t in truths if t and t.strip().casefold() in known]

    def shares(self, set_name: str) -> list[PriorShare]:
        """One a label; `truth` is None where no question's right answer is in the set."""
        if not self.questions:
            return []
        return [
            PriorShare(
                label_set=set_name,
                label=label,
                questions=self.questions,
                shares={name: float(row[place]) / self.questions for name, row in self._shares.items()},
                masses={name: mass / self.questions for name, mass in self._masses.items()},
                truth=self._truths.count(label) / len(self._truths) if self._truths else None,
                labelled=len(self._truths),
            )
            for place, label in enumerate(self.names)
        ]
