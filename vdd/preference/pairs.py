"""What preference data is made of: a question with a good answer, and the pair that becomes of it.

Source: arXiv:2407.02477, §3.4. Knows: records. Does not know: models, files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vdd.images import Picture

Variant = Literal["attention", "noise", "unguided"]
VARIANTS: tuple[Variant, ...] = ("attention", "noise", "unguided")


@dataclass(frozen=True)
class Row:
    """A question about images with an answer that is known to be good.

    Attributes:
        id: each once in its data.
        images: one or more; paths where rows come from a file.
        prompt: the question, without image placeholders.
        answer: the good answer, y⁺.
    """

    id: int | str
    images: tuple[Picture, ...]
    prompt: str
    answer: str


@dataclass(frozen=True)
class Pair:
    """A good answer and one that the model's bias made of it.

    Attributes:
        id, images, prompt: the row's.
        chosen: the row's answer, y⁺.
        rejected: y⁻; never the same text.
        source: how it was made: "bdhs-attention", "bdhs-noise", "bdhs-unguided", or another method's name.
        rho: the probability with which image tokens were hidden; None where none were.
        iteration: which try was taken, from 1.
        similarity: of `rejected` to `chosen` by `measure`.
        measure: the similarity measure's name; "" where none was asked.
        seed: all that is random in this row comes from it.
        model: whose bias it is.
    """

    id: int | str
    images: tuple[Picture, ...]
    prompt: str
    chosen: str
    rejected: str
    source: str = ""
    rho: float | None = None
    iteration: int = 1
    similarity: float = 0.0
    measure: str = ""
    seed: int = 0
    model: str = ""


@dataclass(frozen=True)
class Refused:
    """A row that became no pair.

    Attributes:
        id: the row's.
        reason: why, in words.
    """

    id: int | str
    reason: str
