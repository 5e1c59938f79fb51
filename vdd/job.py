"""What is asked of whom, and how: the questions, the ways of answering, the settings that an answer file depends on.

Knows: configurations, questions, what a pipeline says of itself. Does not know: how answers come about, files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdd._check import UserError, choice, whole
from vdd._version import __version__
from vdd.config import IMAGE, MAX_SEED, PRIORS, STRATEGIES, Leg, to_json
from vdd.pipeline import Pipeline
from vdd.records import Question


@dataclass(frozen=True)
class Run:
    """What is asked of whom, and how; everything that an answer file depends on.

    Attributes:
        model: name or folder, for the record.
        questions: with unique ids.
        images: folder of their images.
        legs: ways of answering, names unique.
        labels: the possible answers; none where answers are free: then nothing is known of them but their text.
        prompt: the question's wording; "{question}" stands for its text.
        batch_size: questions a forward at most; halved for as long as the memory does not suffice.
        seed: of sampling.
        share_images: read an image once for all its questions, where the model's family allows it.
        strategy: how the image-free side is run; see `vdd.generate`. Not "auto": what is measured differs from run to
            run, and with it the last bits.
    """

    model: str
    questions: Sequence[Question]
    images: Path
    legs: Sequence[Leg]
    labels: tuple[str, ...] = ("yes", "no")
    prompt: str = "{question}"
    batch_size: int = 16
    seed: int = 0
    share_images: bool = True
    strategy: str = "skip"

    def __post_init__(self) -> None:
        """Raise UserError on a prompt without a place for the question, legs that clash, and the like."""
        whole("run", "batch_size", self.batch_size, low=1)
        choice("run", "strategy", self.strategy, [name for name in STRATEGIES if name != "auto"])
        whole("run", "seed", self.seed, low=0, high=MAX_SEED)
        names = [leg.name for leg in self.legs]
        if not names or len(set(names)) < len(names):
            raise UserError(f"run: the legs are {', '.join(names) or 'none'}; wanted one at least, no name twice.")
        for leg in self.legs:
            _check_leg(leg)
            if leg.labels_alone and not self.labels:
                raise UserError(f"run: the leg {leg.name!r} answers with labels, and there are none; wanted labels.")
        ids = Counter(question.question_id for question in self.questions)
        if ids and max(ids.values()) > 1:
            raise UserError(f"run: question_id {ids.most_common(1)[0][0]!r} comes twice; wanted each once.")
        if "{question}" not in self.prompt:
            raise UserError(f"run: the prompt is {self.prompt!r}; wanted {{question}} in it.")
        if not self.questions:
            raise UserError("run: no questions came; wanted at least one.")

    def describe(self, pipeline: Pipeline) -> dict[str, Any]:
        """What run.json holds."""
        return {
            "vdd": __version__,
            "model": self.model,
            "images": str(self.images.resolve()),
            "architecture": type(pipeline.model).__name__,
            "dtype": str(pipeline.model.dtype),
            "device": pipeline.device.type,
            "quantized": getattr(pipeline.model.config, "quantization_config", None) is not None,
            "questions": len(self.questions),
            "labels": self._forms_of_labels(pipeline),
            "prompt": self.prompt,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "share_images": self.share_images,
            "strategy": self.strategy,
            "legs": [to_json(leg) for leg in self.legs],
        }

    def _forms_of_labels(self, pipeline: Pipeline) -> dict[str, list[list[int]]]:
        if not self.labels:
            return {}
        labels = pipeline.labels(self.labels)
        return {name: [list(form) for form in own] for name, own in zip(labels.names, labels.forms, strict=True)}


def _check_leg(leg: Leg) -> None:
    if not re.fullmatch(r"[\w@=+.,-]+", leg.name) or leg.name.startswith(".") or leg.name in (IMAGE, *PRIORS):
        raise UserError(f"run: a leg is called {leg.name!r}; wanted a file name other than {IMAGE}, none, unk, both.")
    if leg.prompt is not None and "{question}" not in leg.prompt:
        raise UserError(f"run: the prompt of the leg {leg.name!r} is {leg.prompt!r}; wanted {{question}} in it.")
    if leg.labels_alone and (leg.prompt is not None or leg.custom_generate):
        raise UserError(
            f"run: the leg {leg.name!r} answers with labels, which have no prompt and no custom_generate of their own; "
            "wanted one or the other."
        )
    if leg.post_hoc is not None:
        choice("run", "post-hoc reference", leg.post_hoc, PRIORS)
