"""An analysis as files: what was found, line by line, and the figures that are drawn from that alone.

    OUT/answered/         the run that it rests on
    OUT/records/KIND.jsonl   a header, then one record a line: likeliest, attention, confidence, bias, prior, failures,
                          and questions, with what was read of each
    OUT/records/pictures/ small pictures of failures, named by content
    OUT/figures/          PNG and SVG
    OUT/analysis.md       tables and the verdict

Knows: records, files, pictures. Does not know: models, how anything was computed, how figures are drawn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from vdd._check import UserError
from vdd.data import read_records, write_atomic
from vdd.diagnosis import PICTURES, keep_small
from vdd.images import ImageError, image_path, load_image
from vdd.records import QuestionId

ANSWERED, RECORDS, FIGURES, SUMMARY = "answered", "records", "figures", "analysis.md"


@dataclass(frozen=True)
class Likely:
    """The likeliest first tokens under one condition.

    Attributes:
        scope: the question's text; "" for the mean over the file.
        questions: how many.
        condition: "image", or what stands in its place.
        tokens: the likeliest first, white space made visible.
        probabilities: of each, under the condition.
        given_image: of the same tokens, with the image.
    """

    scope: str
    questions: int
    condition: str
    tokens: Sequence[str]
    probabilities: Sequence[float]
    given_image: Sequence[float]


@dataclass(frozen=True)
class AttentionShare:
    """Where the attention went, the mean over questions: of one layer over all steps, or of one step over all layers.

    Attributes:
        condition: "image" or "none".
        layer: its number; None for a step.
        step: which token was being chosen, from 1; None for a layer.
        image, text, special: mass by class of position; they add up to 1.
        questions: that had this layer and step.
    """

    condition: str
    layer: int | None
    step: int | None
    image: float
    text: float
    special: float
    questions: int


@dataclass(frozen=True)
class ConfidencePart:
    """Questions on which the plain answer's confidence is in (low, high], and how often one leg is right on them.

    `gain_low`, `gain_high` are the interval of the accuracy above the plain leg's; None where there is none.
    """

    leg: str
    low: float
    high: float
    questions: int
    accuracy: float
    gain_low: float | None
    gain_high: float | None


@dataclass(frozen=True)
class BiasFigures:
    """A subset's language-bias indicator; see `vdd.scoring.language_bias`.

    Attributes:
        subset: "all", or the field's value.
        questions, images, labels, accuracy, interval, majority, verdict: as `LanguageBias` has them.
        words: the verdict as a sentence.
        blind: reference → accuracy, agreement, gain (value, low, high; or None), kl_labels, kl_vocabulary (or None).
    """

    subset: str
    questions: int
    images: int
    labels: int
    accuracy: float
    interval: Sequence[float] | None
    majority: float
    verdict: str
    words: str
    blind: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class PriorShare:
    """One label of a set.

    Attributes:
        label_set: its name, or the labels.
        label: one of them.
        questions: over which the mean is.
        shares: condition → mean share among the set's labels; "image" is with the image.
        masses: condition → mean probability of the whole set.
        truth: share of the right answers that are in the set; None where none is.
        labelled: questions whose right answer is in the set.
    """

    label_set: str
    label: str
    questions: int
    shares: Mapping[str, float]
    masses: Mapping[str, float]
    truth: float | None
    labelled: int


@dataclass(frozen=True)
class Failure:
    """A question that a debiased leg answers otherwise right or wrong than the plain one.

    Attributes:
        leg: the debiased one.
        kind: "broken" (right before, wrong after) or "mended".
        question_id, image, question, label: the question's.
        plain, debiased: what was said.
        relabelled: the other label, "left out" where the other file leaves the question out; None without such a file.
        picture: name of the small picture; None where the image could not be read, or enough are kept.
    """

    leg: str
    kind: str
    question_id: QuestionId
    image: str
    question: str
    label: str
    plain: str
    debiased: str
    relabelled: str | None = None
    picture: str | None = None

    @property
    def doubtful(self) -> bool:
        """Whether the other labels disagree with the one that it was scored by."""
        return self.relabelled is not None and self.relabelled != self.label


@dataclass(frozen=True)
class QuestionRead:
    """What was read of one question.

    Attributes:
        question_id, image, label: the question's.
        subset: what it belongs to; "" where nobody asked.
        labels: condition → label → probability, not renormalised; empty where there are no labels.
        kl_vocabulary: reference → KL(p‖p') of the first token, in nats.
    """

    question_id: QuestionId
    image: str
    label: str | None
    subset: str
    labels: Mapping[str, Mapping[str, float]]
    kl_vocabulary: Mapping[str, float]


Record = Likely | AttentionShare | ConfidencePart | BiasFigures | PriorShare | Failure | QuestionRead
_Kind = TypeVar("_Kind", bound=Record)

FILES: Mapping[str, type[Any]] = {
    "likeliest": Likely,
    "attention": AttentionShare,
    "confidence": ConfidencePart,
    "bias": BiasFigures,
    "prior": PriorShare,
    "failures": Failure,
    "questions": QuestionRead,
}
"""Name of the file → what its lines are."""

_NAMES: Mapping[type[Any], str] = {kind: name for name, kind in FILES.items()}


def write_records(out: Path, kind: type[_Kind], records: Sequence[_Kind], about: Mapping[str, Any]) -> None:
    """Write OUT/records/KIND.jsonl, whole or not at all.

    Args:
        out: the analysis' folder.
        kind: of the records.
        records: any number.
        about: what they depend on; the file's first line.
    """
    (out / RECORDS).mkdir(parents=True, exist_ok=True)
    lines = [{"about": about}, *(asdict(record) for record in records)]
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    write_atomic(_path(out, kind), text)


def read_kind(out: Path, kind: type[_Kind]) -> list[_Kind]:
    """The records of a kind; none where there is no such file.

    Raises:
        UserError: where a line is none, as when the file was changed by hand.
    """
    if not _path(out, kind).is_file():
        return []
    found = []
    known = {field.name for field in fields(kind)}
    for where, values in read_records(_path(out, kind))[1:]:
        try:
            found.append(kind(**{name: value for name, value in values.items() if name in known}))
        except TypeError as error:
            raise UserError(f"{where}: no record of {_NAMES[kind]} ({error}); was it changed by hand?") from error
    return found


def is_written(out: Path, kind: type[Record], about: Mapping[str, Any]) -> bool:
    """Whether the file stands, and depends on the same."""
    path = _path(out, kind)
    return path.is_file() and read_records(path)[0][1].get("about") == json.loads(json.dumps(about))


def forget(out: Path, kinds: Sequence[type[Record]]) -> None:
    """Remove the files of these kinds, which an earlier analysis may have left."""
    for kind in kinds:
        _path(out, kind).unlink(missing_ok=True)


def check_analysis(out: Path) -> None:
    """Raise UserError where a folder holds no records of an analysis."""
    if not (out / RECORDS).is_dir() or not any((out / RECORDS).glob("*.jsonl")):
        raise UserError(f"{out}: has no {RECORDS}/*.jsonl; wanted the folder of `vdd analyse`.")


def keep_picture(out: Path, images: Path, name: str) -> str | None:
    """Keep an image's small picture among the records; its name, None where the image cannot be read."""
    try:
        return keep_small(out / RECORDS, image_path(images, name))
    except ImageError:
        return None


def read_picture(out: Path, name: str | None) -> Image.Image | None:
    """A kept picture; None where there is none."""
    if name is None:
        return None
    try:
        return load_image(image_path(out / RECORDS / PICTURES, name))
    except ImageError:
        return None


def _path(out: Path, kind: type[Any]) -> Path:
    return out / RECORDS / f"{_NAMES[kind]}.jsonl"


@dataclass(frozen=True)
class DrawnFigure:
    """A figure of an analysis, for a page.

    Attributes:
        title, how: its heading, and how it is to be read.
        kind: "svg+xml" or "png".
        data: the file's bytes.
    """

    title: str
    how: str
    kind: str
    data: bytes


FAILURES = "failures"
"""Its figures are photographs: PNG alone, one a leg."""

TITLES: Mapping[str, tuple[str, str]] = {
    "likeliest": (
        "What the model would say first",
        "the 15 likeliest first tokens with the image, and with something in its place; mean over the questions",
    ),
    "question": ("The same for one question", "what is likely without the image is the language model's own habit"),
    "attention": (
        "Where the attention goes",
        "shares of image, text and special tokens by layer and along the answer, with the image and without it",
    ),
    "confidence": (
        "Accuracy by the confidence of plain decoding",
        "the same questions for every way of answering; bars are paired 95 % intervals of the gain",
    ),
    "bias": ("Does the benchmark need its images?", "accuracy with the images, and blind"),
    "prior": ("What is believed before anything is seen", "shares of the labels with the image, without it, and true"),
    FAILURES: ("Answers that debiasing changed", "pictures of broken and mended answers"),
}
"""Of the figures by name, in the order they are shown."""


def figures_of_run(folder: Path) -> list[DrawnFigure]:
    """The figures of the analysis that rests on the run in `folder`, in order; none where there is none."""
    out = folder.resolve().parent
    if folder.resolve().name != ANSWERED or not (out / RECORDS).is_dir():
        return []
    found = []
    for name, (title, how) in TITLES.items():
        ending = "png" if name == FAILURES else "svg"
        for path in sorted((out / FIGURES).glob(f"{name}.{ending}")) + sorted(
            (out / FIGURES).glob(f"{name}-*.{ending}")
        ):
            found.append(DrawnFigure(title, how, "png" if name == FAILURES else "svg+xml", path.read_bytes()))
    return found
