"""Post-hoc debiasing of one question: what is compared, with the image, without it, and with the habit divided out.

    share(x) ∝ p(x | image),   habit(x) ∝ p'(x | no image),   debiased(x) ∝ share(x) / habit(x)

x is one of the labels: those that came with the question, else yes and no where it asks for one of these, else the
answer's first words, of which those are compared that the image leaves plausible (p ≥ β · max p).

Knows: a pipeline, a question. Does not know: how text is written, pages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vdd._check import UserError
from vdd.calibrate import AffineCalibration
from vdd.config import IMAGE
from vdd.distributions import Prefill, parts_of, priors_of, reference_row
from vdd.families import tokenizer_of
from vdd.pipeline import Pipeline

YES_NO = ("yes", "no")
MOST_LABELS, LONGEST_LABEL = 24, 60
SHOWN = 8
"""First words that are shown at most."""

LOOKED_AT = 64
"""Most probable first tokens of either side among which words are looked for."""

LEAST = 0.01
"""Probability on either side below which a first word is not shown, unless it is plausible."""

CUT = 0.1
"""β where the user's is 0: a first word below it is not compared, since what is never said has no habit to speak of."""

_ASKS = re.compile(
    r"(is|are|am|was|were|do|does|did|can|could|has|have|had|will|would|should|may|might|must)\b[^?]*\?", re.IGNORECASE
)


@dataclass(frozen=True)
class Compared:
    """Labels or first words, each with three shares.

    Attributes:
        kind: "given", "yes-no" or "first words".
        names: what is compared; where `kind` is "first words" also what is only shown.
        seen: share of each given the image.
        blind: share of each without it.
        debiased: share of each after the habit is divided out; None where a first word is not plausible.
        reference: what stood in the image's place.
        held: how much of the probability `names` have together, with the image and without it.
    """

    kind: str
    names: tuple[str, ...]
    seen: tuple[float, ...]
    blind: tuple[float, ...]
    debiased: tuple[float | None, ...]
    reference: str
    held: tuple[float, float]

    @property
    def answer(self) -> str:
        """The name that is most probable after debiasing."""
        return max(zip(self.names, self.debiased, strict=True), key=lambda pair: -1.0 if pair[1] is None else pair[1])[
            0
        ]

    @property
    def alternatives(self) -> int:
        """How many names there are to choose from."""
        return sum(share is not None for share in self.debiased)


def labels_from(text: str) -> tuple[str, ...]:
    """What a user writes between commas, each once.

    Raises:
        UserError: on one label alone, too many, or one that is too long.
    """
    labels = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if len(labels) == 1:
        raise UserError(f"One possible answer came ({labels[0]!r}); wanted two or more between commas, or none.")
    if len(labels) > MOST_LABELS or any(len(label) > LONGEST_LABEL for label in labels):
        raise UserError(
            f"{len(labels)} possible answers came, the longest of {max(map(len, labels))} letters; wanted at most "
            f"{MOST_LABELS} of {LONGEST_LABEL} letters."
        )
    return labels


def asks_yes_or_no(question: str) -> bool:
    """Whether an English question wants yes or no.

    >>> asks_yes_or_no("Is there a fox in the image?"), asks_yes_or_no("Is the fox red or blue?")
    (True, False)
    """
    if "yes or no" in question.lower():
        return True
    return _ASKS.match(question.strip()) is not None and " or " not in question.lower()


def compare(
    pipeline: Pipeline,
    inputs: Mapping[str, Tensor],
    prefill: Prefill,
    question: str,
    labels: Sequence[str],
    *,
    reference: str,
    beta: float,
) -> Compared:
    """The comparison that suits a question.

    Args:
        pipeline: the model.
        inputs: of this one question, from `pipeline.inputs`.
        prefill: of these.
        question: as it was asked.
        labels: two or more, or none.
        reference: what stands in the image's place; "instruction", which keeps the image, becomes "none".
        beta: cut-off of first words, in [0, 1]; 0 becomes CUT.

    Raises:
        UserError: where labels cannot be told apart, or are all impossible.
    """
    reference = "none" if reference == "instruction" else reference
    rows = pipeline.distributions(inputs, (IMAGE, *parts_of([reference])), prefill=prefill)
    kind = "given" if labels else "yes-no" if asks_yes_or_no(question) else "first words"
    if kind == "first words":
        return _first_words(pipeline, rows[IMAGE][0], reference_row(rows, reference)[0], reference, beta or CUT)
    known = pipeline.labels(list(labels) or list(YES_NO))
    found = pipeline.label_probabilities(inputs, known, rows=rows, prefill=prefill)
    seen, blind = found[IMAGE], priors_of(found, [reference])[reference]
    debiased = AffineCalibration.from_prior(blind)(seen)
    parts = [float(found[part].sum()) for part in parts_of([reference])]
    held = float(seen.sum()), sum(parts) / len(parts)
    return Compared(kind, known.names, _shares(seen[0]), _shares(blind[0]), _shares(debiased[0]), reference, held)


def _first_words(pipeline: Pipeline, seen: Tensor, blind: Tensor, reference: str, beta: float) -> Compared:
    """The likeliest first words of either side, from (vocab,) scores of the first token."""
    with_image, without = seen.softmax(-1), blind.softmax(-1)
    count = min(LOOKED_AT, len(with_image))
    likely = with_image.topk(count).indices.tolist()
    words: dict[str, list[int]] = {}
    for token in dict.fromkeys(likely + without.topk(count).indices.tolist()):
        words.setdefault(_word(pipeline, token).casefold(), []).append(token)
    sums = {word: (float(with_image[own].sum()), float(without[own].sum())) for word, own in words.items()}
    top = max(one for one, _ in sums.values())
    plausible = sorted((word for word in sums if sums[word][0] >= beta * top), key=lambda word: -sums[word][0])
    shown = plausible[:SHOWN]
    for word in sorted(sums, key=lambda word: -max(sums[word])):
        if word not in shown and len(shown) < SHOWN and max(sums[word]) >= LEAST:
            shown.append(word)
    debiased = dict.fromkeys(shown[:1], 1.0)
    compared = plausible[:SHOWN]
    if len(compared) > 1:
        pair = torch.tensor([sums[word] for word in compared], dtype=torch.float64)
        prior = pair[None, :, 1].clamp(min=torch.finfo(torch.float32).tiny)
        scores = AffineCalibration.from_prior(prior)(pair[None, :, 0])
        debiased = dict(zip(compared, scores[0].tolist(), strict=True))
    return Compared(
        "first words",
        tuple(_word(pipeline, words[word][0]) for word in shown),
        tuple(sums[word][0] for word in shown),
        tuple(sums[word][1] for word in shown),
        tuple(debiased.get(word) for word in shown),
        reference,
        (sum(sums[word][0] for word in shown), sum(sums[word][1] for word in shown)),
    )


def _word(pipeline: Pipeline, token: int) -> str:
    """What a token writes at the beginning of an answer; signs for blanks."""
    text = str(tokenizer_of(pipeline.processor).decode([token]))
    return text.strip() or {"": "∅", "\n": "⏎"}.get(text.strip(" "), "␣")


def _shares(values: Tensor) -> tuple[float, ...]:
    return tuple((values / values.sum()).tolist())
