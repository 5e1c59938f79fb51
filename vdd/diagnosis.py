"""Wrong answers and the training pairs that they were traced to, as a folder that a killed trace goes on in.

    trace.json       what is traced, and how: another trace's folder is refused
    traces.jsonl     one Traced a line, written as it is done
    pictures/        what is shown of the images, small, named by content

Knows: records, files, pictures. Does not know: models, influence.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from PIL import Image

from vdd._check import UserError
from vdd.data import write_atomic
from vdd.images import ImageError, Picture, as_picture, image_path
from vdd.records import QuestionId

DIAGNOSIS = "diagnosis"
"""The folder within a run's."""
SETTINGS, TRACES, PICTURES = "trace.json", "traces.jsonl", "pictures"
SIDE = 192
"""Pixels of a small picture's longer side."""


@dataclass(frozen=True)
class Misread:
    """A wrong answer, and what the tower is asked about it.

    Attributes:
        question_id: of the question, or a number of its own; each once in a folder.
        image: its name, as it is shown.
        question, answer, truth: what was asked, what was answered, what is right; "" where nobody said.
        texts: of which the tower chooses.
        right: positions of the right ones.
    """

    question_id: QuestionId
    image: str
    question: str = ""
    answer: str = ""
    truth: str = ""
    texts: Sequence[str] = ()
    right: Sequence[int] = ()


@dataclass(frozen=True)
class TracedPair:
    """A training pair and what it has to do with one wrong answer.

    Attributes:
        id, image, caption: the pair's.
        tied: relative influence, in the query's nats per unit of the parameters' change; below 0 the pair is harmful.
        free: the same where its shares as a positive and as a negative may be weighed; with the sign of `tied`.
        delta_loss_on_removal: change of −log p(right) if the pair had not been trained on, in nats.
        standard_error: of that, over partitions; NaN where there is one.
        clip_score: cosine of the pair's image and text.
        pair_loss: the pair's own terms of the training loss.
        picture: name of its small picture; None where none is kept.
    """

    id: int | str
    image: str
    caption: str
    tied: float
    free: float
    delta_loss_on_removal: float
    standard_error: float
    clip_score: float
    pair_loss: float
    picture: str | None = None


@dataclass(frozen=True)
class Traced:
    """A wrong answer and the pairs it was traced to.

    Attributes:
        misread: the wrong answer.
        probability: that the tower itself gives to a right text; None where it was not asked.
        harmful: pairs of lowest relative influence, below 0: what was learnt from them made the answer wrong.
        helpful: pairs of highest, above 0.
        reason: why nothing was traced; None where something was.
        picture: name of the question's small picture; None where none is kept.
    """

    misread: Misread
    probability: float | None = None
    harmful: Sequence[TracedPair] = ()
    helpful: Sequence[TracedPair] = ()
    reason: str | None = None
    picture: str | None = None

    @property
    def tower_is_right(self) -> bool | None:
        """Whether the tower holds a right text for likelier than not; None where it was not asked."""
        return None if self.probability is None else self.probability > 0.5

    def to_json(self) -> str:
        """One line of JSON; NaN is null."""
        body = {**asdict(self.misread), **{k: v for k, v in asdict(self).items() if k != "misread"}}
        return json.dumps(_finite(body), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Traced:
        """The inverse of `to_json`, on the parsed line."""
        misread = Misread(**{f.name: values[f.name] for f in fields(Misread)})
        harmful, helpful = ([_pair(one) for one in values[name]] for name in ("harmful", "helpful"))
        probability = values["probability"]
        return cls(
            misread,
            None if probability is None else float(probability),
            harmful,
            helpful,
            values["reason"],
            values["picture"],
        )


@dataclass(frozen=True)
class Diagnosis:
    """A folder of traces, read back.

    Attributes:
        settings: what trace.json holds.
        traces: in the order they were made.
        pictures: by name, JPEG files' bytes.
    """

    settings: Mapping[str, Any]
    traces: Sequence[Traced]
    pictures: Mapping[str, bytes] = field(default_factory=dict)


def check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raise UserError where a folder holds something else, or traces that differ in one of these settings."""
    if not folder.exists():
        return
    if not (folder / SETTINGS).is_file():
        if not folder.is_dir() or any(folder.iterdir()):
            raise UserError(f"{folder}: holds files that are no traces of vdd; wanted a new or empty folder.")
        return
    found = _settings(folder)
    differing = sorted(key for key in settings if settings[key] != found.get(key))
    if differing:
        raise UserError(
            f"{folder}: holds traces of other settings ({', '.join(differing)}); wanted a new folder, or the same "
            "settings to go on with these."
        )


def claim(folder: Path, settings: Mapping[str, Any]) -> list[Traced]:
    """Make a folder that of these traces, or see that it is; returns what is traced already."""
    check_settings(folder, settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made a folder ({error.strerror}).") from error
    if not (folder / SETTINGS).is_file():
        write_atomic(folder / SETTINGS, json.dumps(settings, indent=1, ensure_ascii=False) + "\n")
    path = folder / TRACES
    whole = _whole_lines(path)
    if path.is_file() and len(whole) < path.stat().st_size:
        write_atomic(path, whole)
    return _traces(path)


def keep(folder: Path, traced: Traced, *, picture: Picture | None = None, images: Path | None = None) -> Traced:
    """Write a trace behind those that a folder holds, and small pictures of its image and its pairs'.

    Args:
        folder: claimed.
        traced: what was found.
        picture: the question's image.
        images: folder of the pairs' images.

    Returns:
        the trace with its pictures' names. An image that cannot be read has none.
    """

    def shown(pair: TracedPair) -> TracedPair:
        return pair if images is None else replace(pair, picture=keep_small(folder, image_path(images, pair.image)))

    traced = replace(
        traced,
        picture=None if picture is None else keep_small(folder, picture),
        harmful=[shown(pair) for pair in traced.harmful],
        helpful=[shown(pair) for pair in traced.helpful],
    )
    try:
        with open(folder / TRACES, "ab") as file:
            file.write(traced.to_json().encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{folder / TRACES}: cannot be written ({error.strerror}).") from error
    return traced


def read_diagnosis(folder: Path) -> Diagnosis | None:
    """What a folder holds; None where there is none, or nothing was traced yet.

    Raises:
        UserError: where a file of it was changed.
    """
    if not (folder / SETTINGS).is_file():
        return None
    traces = _traces(folder / TRACES)
    names = {one.picture for one in traces}
    names |= {pair.picture for one in traces for pair in (*one.harmful, *one.helpful)}
    pictures = {}
    for name in sorted(name for name in names if name):
        path = image_path(folder / PICTURES, name)
        if path.is_file():
            pictures[name] = path.read_bytes()
    return Diagnosis(_settings(folder), traces, pictures) if traces else None


def keep_small(folder: Path, given: Picture) -> str | None:
    """Keep an image's small picture in `folder`/pictures; its name, None where the image cannot be read."""
    try:
        picture = as_picture(given)
    except ImageError:
        return None
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=85)
    name = f"{hashlib.sha256(out.getvalue()).hexdigest()[:16]}.jpg"
    path = folder / PICTURES / name
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, out.getvalue())
    return name


def _settings(folder: Path) -> Mapping[str, Any]:
    path = folder / SETTINGS
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(values, dict):
            return values
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); wanted what a trace of vdd writes.") from error
    raise UserError(f"{path}: holds no settings; wanted what a trace of vdd writes.")


def _traces(path: Path) -> list[Traced]:
    found = []
    for number, line in enumerate(_whole_lines(path).splitlines(), 1):
        try:
            found.append(Traced.from_json(json.loads(line)))
        except (LookupError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, line {number}: no trace ({type(error).__name__}: {error}); was it changed by hand?"
            ) from error
    return found


def _whole_lines(path: Path) -> bytes:
    """A file without the half line that a killed process left at its end; empty where there is none."""
    data = path.read_bytes() if path.is_file() else b""
    return data[: data.rfind(b"\n") + 1]


def _pair(values: Mapping[str, Any]) -> TracedPair:
    known: dict[str, Any] = {
        f.name: math.nan if values[f.name] is None and f.name != "picture" else values[f.name]
        for f in fields(TracedPair)
    }
    return TracedPair(**known)


def _finite(value: Any) -> Any:
    """Values as JSON has them: None for a number that it lacks."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    return [_finite(one) for one in value] if isinstance(value, (list, tuple)) else value
