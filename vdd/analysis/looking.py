"""A question file read batch by batch under every condition: with the image, and with what may stand in its place.

    question → log p(first token | image), log p'(first token | none, unk, noise, zero, one), p(label) of both

Batch after batch, so that memory does not grow with the file; what is kept of them is for others to say.

Knows: a pipeline, image folders. Does not know: what is made of the rows, files of results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils.memory import should_reduce_batch_size
from PIL import Image
from torch import Tensor

from vdd._check import UserError
from vdd.calibrate import Labels
from vdd.config import IMAGE
from vdd.distributions import Distributions, Prefill
from vdd.images import ImageError, image_path, load_image
from vdd.pipeline import Pipeline
from vdd.records import Question

PIXELS = ("noise", "zero", "one")
"""References that are images themselves."""


@dataclass(frozen=True)
class Looked:
    """One batch of questions and what the model would say first.

    Attributes:
        questions: those whose images could be read.
        inputs: what `generate` takes.
        rows: condition → (batch, vocab) log-probabilities of the first token.
        prefill: what was read of the images, to go on from.
    """

    questions: Sequence[Question]
    inputs: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    prefill: Prefill

    def label_probabilities(self, pipeline: Distributions, labels: Labels) -> dict[str, Tensor]:
        """Condition → (batch, labels), of the image, none and unk, not renormalised."""
        rows = {name: row for name, row in self.rows.items() if name not in PIXELS}
        return pipeline.label_probabilities(self.inputs, labels, rows=rows, prefill=self.prefill)


def conditions_of(pipeline: Distributions) -> tuple[str, ...]:
    """The image, then the references that make sense for the model's family."""
    text = ("none", "unk") if "unk" in pipeline.priors else ("none",)
    refused = pipeline.family.adapter.refused
    return (IMAGE, *(name for name in (*text, *PIXELS) if name not in refused))


def looked(
    pipeline: Pipeline,
    questions: Sequence[Question],
    images: Path,
    conditions: Sequence[str],
    *,
    prompt: str = "{question}",
    batch_size: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Looked]:
    """The questions, batch by batch in their order; those whose images cannot be read are left out.

    Args:
        pipeline: the model.
        questions: of any labels.
        images: folder of their images.
        conditions: of `conditions_of`.
        prompt: the question's wording; "{question}" stands for its text.
        batch_size: questions a forward at most; a batch that does not fit the memory is halved.
        progress: called with (questions done, questions in all).
    """
    for start in range(0, len(questions), batch_size):
        yield from _batch(pipeline, questions[start : start + batch_size], images, conditions, prompt)
        if progress is not None:
            progress(min(start + batch_size, len(questions)), len(questions))


def asked_alone(pipeline: Pipeline, question: Question, images: Path, text: str) -> Any:
    """What `generate` takes for `text` asked about a question's image; None where that cannot be read."""
    with suppress(ImageError):
        return pipeline.inputs([load_image(image_path(images, question.image))], [text])
    return None


def _batch(
    pipeline: Pipeline, batch: Sequence[Question], images: Path, conditions: Sequence[str], prompt: str
) -> Iterator[Looked]:
    pictures: dict[str, Image.Image] = {}
    for name in dict.fromkeys(question.image for question in batch):
        with suppress(ImageError):
            pictures[name] = load_image(image_path(images, name))
    kept = [question for question in batch if question.image in pictures]
    if not kept:
        return
    try:
        found = _read(pipeline, kept, [pictures[question.image] for question in kept], conditions, prompt)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        found = None
    if found is not None:
        yield found
    elif len(kept) == 1:
        raise UserError(
            "analyse: the memory does not suffice for one question by itself; wanted a smaller model or image, another "
            "dtype (--dtype bfloat16) or quantisation (--quantize 4bit), or another device."
        )
    else:
        for half in (kept[: len(kept) // 2], kept[len(kept) // 2 :]):
            yield from _batch(pipeline, half, images, conditions, prompt)


@torch.no_grad()
def _read(
    pipeline: Pipeline,
    questions: Sequence[Question],
    pictures: Sequence[Image.Image],
    conditions: Sequence[str],
    prompt: str,
) -> Looked:
    pipeline.reset()
    inputs = pipeline.inputs(pictures, [prompt.replace("{question}", question.text) for question in questions])
    prefill = pipeline.prefill(inputs)
    return Looked(questions, inputs, pipeline.distributions(inputs, conditions, prefill=prefill), prefill)
