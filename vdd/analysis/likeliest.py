"""What a model would say first: its likeliest first tokens with the image, and with something in the image's place.

    p̄(token | condition) = mean over the questions of p(token | condition, question)

Source: arXiv:2403.05262, top answers without an image.
Knows: rows of log-probabilities, a tokenizer. Does not know: models, images, files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vdd._check import whole
from vdd.analysed import Likely
from vdd.config import IMAGE

COUNT = 15


class Mean:
    """The mean distribution by condition over all rows that were added, in float64; one row a condition is held."""

    def __init__(self) -> None:
        self.questions = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, rows: Mapping[str, Tensor]) -> None:
        """Add a batch.

        Args:
            rows: condition → (batch, vocab) log-probabilities, the same conditions every time.
        """
        for name, row in rows.items():
            own = row.double().exp().sum(dim=0).cpu()
            self._sums[name] = own if name not in self._sums else self._sums[name] + own
        self.questions += len(next(iter(rows.values())))

    @property
    def rows(self) -> dict[str, Tensor]:
        """Condition → (vocab,) mean probabilities; empty where nothing was added."""
        return {name: row / self.questions for name, row in self._sums.items()}


def likeliest(
    rows: Mapping[str, Tensor], tokenizer: Any, *, scope: str, questions: int, count: int = COUNT
) -> list[Likely]:
    """The likeliest tokens of every condition, each with its probability given the image.

    Args:
        rows: condition → (vocab,) probabilities, "image" among them.
        tokenizer: the model's.
        scope: what was asked: a question's text, or "" for the mean over a file.
        questions: how many.
        count: tokens a condition, ≥ 1; of equals the one with the lower id first.
    """
    whole("likeliest", "count", count, low=1)
    found = []
    for name, row in rows.items():
        order = torch.sort(row, descending=True, stable=True).indices[:count].tolist()
        found.append(
            Likely(
                scope=scope,
                questions=questions,
                condition=name,
                tokens=spelled(tokenizer, order),
                probabilities=[float(row[token]) for token in order],
                given_image=[float(rows[IMAGE][token]) for token in order],
            )
        )
    return found


def spelled(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """Tokens as people can tell them apart: white space made visible, a leading space as ␣."""
    names = []
    for token in tokens:
        piece = tokenizer.convert_ids_to_tokens(token)
        piece = piece.decode("utf-8", "replace") if isinstance(piece, bytes) else str(piece)
        text = tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if "\ufffd" in text or not text:  # a byte of a letter
            text = piece
        elif piece[:1] in ("▁", "Ġ") and not text.startswith(" "):
            text = " " + text
        names.append(text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥"))
    return names
