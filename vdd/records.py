"""What crosses modules: Question → Answer → Score, each one line of JSON.

Knows: plain Python values. Does not know: tensors, models, files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from vdd._check import UserError
from vdd.answer_html import answer_html, label_table
from vdd.markup import Markup
from vdd.shading import reliance_html

QuestionId = int | str


@dataclass(frozen=True)
class Question:
    """One question about one image.

    Attributes:
        question_id: unique in its file.
        image: path relative to the image folder.
        text: what is asked, without image placeholders.
        label: the right answer, in the benchmark's own words ("yes", "no", "B", …); None where there is none.
    """

    question_id: QuestionId
    image: str
    text: str
    label: str | None = None


@dataclass
class DecodingReport:
    """How one text was decoded, and what it cost. The tokens are the same however that was.

    Attributes:
        strategy: which ran: "two-pass", "skip", "fuse", "speculate"; "plain" where nothing was subtracted.
        because: why it was not the one asked for, or why `auto` took it.
        steps: tokens chosen for each row.
        skipped: steps at which the image-free side could not change the outcome and was not asked.
        rejected: tokens that were read ahead and thrown away.
        seen_forwards, blind_forwards: rows × forward passes of either side; 0 for a side that `generate` itself runs.
    """

    strategy: str = ""
    because: str = ""
    steps: int = 0
    skipped: int = 0
    rejected: int = 0
    seen_forwards: int = 0
    blind_forwards: int = 0

    def restart(self) -> None:
        """Count from nothing: another text begins."""
        self.steps = self.skipped = self.rejected = self.seen_forwards = self.blind_forwards = 0


@dataclass(frozen=True)
class Answer:
    """What a model said to a question, and how sure it was.

    Attributes:
        question_id: the question's.
        question: its text.
        image: its image path; "" where the image was passed in memory.
        text: the generated answer; "" where `error` is set.
        probabilities: p(label | image, question), summed over each label's surface forms, not renormalised.
        blind_probabilities: p'(label | question), the same without the image, by reference ("none", "unk", "both").
        debiased: the post-hoc debiased scores of the labels, by reference.
        margin: log-odds of the first label against the second before any cut-off; what AUROC ranks by.
        error: why there is no answer (an unreadable image), None where there is one.
        tokens: the generated tokens as pieces of text, the end token among them.
        reliance: log p(token | image) − log p(token | reference) for each of `tokens`, in nats; None for plain answers.
        timings: seconds by phase; never in JSON and not compared, so that equal runs give equal answers.
        decoding: how a debiased text was decoded, and what it cost; as `timings`, neither in JSON nor compared.
    """

    question_id: QuestionId
    question: str
    image: str
    text: str
    probabilities: Mapping[str, float] | None = None
    blind_probabilities: Mapping[str, Mapping[str, float]] | None = None
    debiased: Mapping[str, Mapping[str, float]] | None = None
    margin: float | None = None
    error: str | None = None
    tokens: Sequence[str] | None = None
    reliance: Sequence[float] | None = None
    timings: Mapping[str, float] | None = field(default=None, compare=False)
    decoding: DecodingReport | None = field(default=None, compare=False)

    def to_html(self, *, with_question: bool = True) -> Markup:
        """The question, the text coloured by `reliance`, the labels' probabilities; it brings its own style."""
        question = self.question if with_question else ""
        if self.error is not None:
            return answer_html(question=question, note=f"no answer: {self.error}")
        known = bool(self.tokens and self.reliance)
        parts = [reliance_html(self.tokens or (), self.reliance) if known else reliance_html([self.text], None)]
        if self.probabilities is not None:
            parts.append(label_table(self.probabilities, self.blind_probabilities, self.debiased))
        return answer_html(*parts, question=question, note="" if self.text.strip() else "an answer without words")

    def _repr_html_(self) -> str:
        """For notebooks."""
        return self.to_html()

    def to_json(self) -> str:
        """One line of JSON, without what is not compared and the fields that are None."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.compare}
        return json.dumps({k: v for k, v in values.items() if v is not None}, ensure_ascii=False)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Answer:
        """The inverse of `to_json`, on the parsed line."""
        kept = {f.name: values[f.name] for f in fields(cls) if f.name in values and f.compare}
        kept |= {name: tuple(kept[name]) for name in ("tokens", "reliance") if kept.get(name) is not None}
        missing = [name for name in ("question_id", "question", "image", "text") if name not in kept]
        if missing or not isinstance(kept["text"], str):
            raise UserError(
                f"an answer has no {missing[0] if missing else 'string as its text'}; was it changed by hand?"
            )
        return cls(**kept)


@dataclass(frozen=True)
class Misprediction:
    """A wrong answer, as `Pipeline(…, on_misprediction=…)` hands it over.

    Attributes:
        images: as they were given: paths, URLs, bytes of image files, or PIL images.
        question: what was asked.
        answer: what was said.
        truth: the right answer.
    """

    images: Sequence[Any]
    question: str
    answer: Answer
    truth: str


@dataclass(frozen=True)
class Score:
    """Named figures of one benchmark and the signature that says how they came about.

    Attributes:
        values: accuracy, f1, … as fractions in [0, 1]; counts as integers.
        signature: `pope|coco|adversarial|n:3000|parse:official|…`.
        intervals: name → (low, high), 95 % unless the signature says otherwise.
    """

    values: Mapping[str, float]
    signature: str
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def to_json(self) -> str:
        """One JSON object: the values, `intervals` where there are any, and `signature`; NaN and ±inf become null."""
        body: dict[str, Any] = {name: _finite(value) for name, value in self.values.items()}
        if self.intervals:
            body["intervals"] = {name: [_finite(end) for end in ends] for name, ends in self.intervals.items()}
        body["signature"] = self.signature
        return json.dumps(body, ensure_ascii=False, allow_nan=False)


def _finite(value: float) -> float | None:
    """`value`, or None, JSON's null, where JSON has no number for it."""
    return value if math.isfinite(value) else None
