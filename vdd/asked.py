"""One batch of questions about images, read once for every way of answering.

Knows: a pipeline, which questions share an image. Does not know: files, legs' scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from PIL import Image
from torch import Tensor

from vdd.config import Leg
from vdd.pipeline import Pipeline
from vdd.records import DecodingReport


class Asked:
    """Questions, their images, and what the model read of them.

    Args:
        pipeline: the model.
        images: RGB, one for each question.
        questions: without image placeholders.
        names: of the images; equal names are one image.
        share: read an image once for all its questions, where that is possible.

    Attributes:
        inputs: what the decoding loop takes: ids and mask, and the pixels unless they are shared.
        prefill: what was read of images and questions.
        unshared: why images were read once a question, where several questions are about one; "" elsewhere.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        images: Sequence[Image.Image],
        questions: Sequence[str],
        names: Sequence[str],
        *,
        share: bool = True,
    ) -> None:
        self.pipeline, self.images, self.questions = pipeline, images, questions
        self.unshared = ""
        places: dict[str, list[int]] = {}
        for place, name in enumerate(names):
            places.setdefault(name, []).append(place)
        order = [place for group in places.values() for place in group]
        shared = None
        if share and len(places) < len(names) and order == list(range(len(names))):
            groups = list(places.values())
            shared = pipeline.shared(
                [[images[group[0]]] for group in groups], [[questions[place] for place in group] for group in groups]
            )
            self.unshared = pipeline.unshared or ("" if shared else "its prompts do not begin with the image")
        self.inputs: Mapping[str, Tensor]
        if shared is None:
            self.inputs = self.with_pixels
            self.prefill = pipeline.prefill(self.inputs)
        else:
            self.inputs = pipeline.reads(shared)
            self.prefill = pipeline.prefill_shared(shared, self.inputs)

    @cached_property
    def with_pixels(self) -> Any:
        """What `generate` takes, each question with its own pixels."""
        return self.pipeline.inputs(self.images, self.questions)

    def goes_on(self, leg: Leg) -> bool:
        """Whether the leg goes on from what was read."""
        if leg.labels_alone:
            return True
        return leg.sampling.num_beams == 1 and not (leg.custom_generate or self.pipeline.reads_itself)

    def generate(self, leg: Leg, seed: int, strategy: str, report: DecodingReport | None = None) -> list[str]:
        """The leg's answers; `report` is filled with how they were decoded."""
        text_alone = leg.debias is None or leg.debias.reference in ("none", "unk", "both")
        return self.pipeline.generate(
            self.inputs if text_alone and self.goes_on(leg) else self.with_pixels,
            debias=leg.debias,
            sampling=leg.sampling,
            seed=seed,
            strategy=strategy,
            prefill=self.prefill if self.goes_on(leg) else None,
            custom=leg.custom_call(),
            report=report,
        )
