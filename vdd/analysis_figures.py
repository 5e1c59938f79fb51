"""An analysis' records → its figures, as PNG and SVG: the same records, the same SVG, byte for byte.

Knows: records, plots. Does not know: models, how anything was computed. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vdd._check import UserError
from vdd.analysed import (
    FIGURES,
    TITLES,
    AttentionShare,
    BiasFigures,
    ConfidencePart,
    Failure,
    Likely,
    PriorShare,
    read_kind,
    read_picture,
)
from vdd.plots import FAINT, RIGHT, WRONG, Captioned, contact_sheet
from vdd.plots_analysis import attention_chart, blind_chart, confidence_chart, prior_chart, token_bars

SHOWN = {"broken": 16, "mended": 8}
"""Failures of each kind on a leg's sheet, at most."""

CONDITIONS = {"image": "with the image", "none": "None: no image", "unk": "Unk: <unk> in its place",
              "noise": "Noise in its place", "zero": "Zero: all zeros", "one": "One: all ones"}  # fmt: skip


VERDICTS = {"needed": "images are needed", "not needed": "images are not needed", "undecided": "cannot be told",
            "at chance": "no better than a guess", "too few": "too few images to tell"}  # fmt: skip


def draw_all(out: Path, *, charts: bool = True) -> list[Path]:
    """Draw every figure that OUT/records has something for, into OUT/figures; what was drawn.

    Args:
        out: the analysis' folder.
        charts: False without matplotlib: contact sheets alone.

    Raises:
        UserError: where a record was changed so that it cannot be drawn.
    """
    folder = out / FIGURES
    for old in (path for name in TITLES for path in folder.glob(f"{name}*") if path.suffix in (".png", ".svg")):
        old.unlink()
    drawn: list[Path] = []
    try:
        if charts:
            drawn += draw_likeliest(read_kind(out, Likely), folder)
            drawn += draw_attention(read_kind(out, AttentionShare), folder)
            drawn += draw_confidence(read_kind(out, ConfidencePart), folder)
            drawn += draw_bias(read_kind(out, BiasFigures), folder)
            drawn += draw_prior(read_kind(out, PriorShare), folder)
        drawn += draw_failures(read_kind(out, Failure), out)
    except (TypeError, LookupError, AttributeError) as error:
        raise UserError(f"{out}: its records cannot be drawn ({error}); were they changed by hand?") from error
    return drawn


def draw_likeliest(records: Sequence[Likely], folder: Path) -> list[Path]:
    """`likeliest` for the mean over a file, `question` for one question."""
    drawn = []
    for scope in dict.fromkeys(record.scope for record in records):
        own = [record for record in records if record.scope == scope]
        panels = {
            CONDITIONS.get(record.condition, record.condition): list(
                zip(record.tokens, record.probabilities, record.given_image, strict=True)
            )
            for record in own
        }
        title = f"“{_cut(scope, 70)}”" if scope else f"Likeliest first tokens, mean over {_count(own[0].questions)}"
        drawn += _saved(folder, "question" if scope else "likeliest")
        token_bars(title, panels, folder / ("question" if scope else "likeliest"))
    return drawn


def draw_attention(records: Sequence[AttentionShare], folder: Path) -> list[Path]:
    """`attention`: by layer, and along the answer."""
    panels: dict[str, tuple[list[int], dict[str, dict[str, list[float]]]]] = {}
    for name, across in (("layer", "layer"), ("step", "token of the answer")):
        found = {
            (record.condition, getattr(record, name)): record for record in records if getattr(record, name) is not None
        }
        places = sorted({place for _, place in found})
        if places:
            panels[across] = (places, {part: _strokes(found, places, part) for part in ("image", "text", "special")})
    if not panels:
        return []
    most = max(record.questions for record in records)
    attention_chart(f"Where the attention goes, mean over {_count(most, 'answer')}", panels, folder / "attention")
    return _saved(folder, "attention")


def draw_confidence(
    records: Sequence[ConfidencePart], folder: Path, *, title: str = "Accuracy by the confidence of plain decoding"
) -> list[Path]:
    """`confidence`: accuracy of every leg where the first one was how sure."""
    if not records:
        return []
    first = records[0].leg
    bounds = {(record.low, record.high): record.questions for record in records if record.leg == first}
    base = {(record.low, record.high): record.accuracy for record in records if record.leg == first}
    legs = {}
    for leg in dict.fromkeys(record.leg for record in records):
        own = {(record.low, record.high): record for record in records if record.leg == leg}
        accuracies = [own[part].accuracy if part in own else math.nan for part in bounds]
        gains = [_gain(own.get(part), base[part]) for part in bounds]
        legs[leg] = (accuracies, gains)
    parts = [(f"{low:.1f}–{high:.1f}", count) for (low, high), count in bounds.items()]
    confidence_chart(title, parts, legs, folder / "confidence")
    return _saved(folder, "confidence")


def draw_bias(records: Sequence[BiasFigures], folder: Path) -> list[Path]:
    """`bias`: accuracy with the images, blind, and of a constant answer, by subset."""
    if not records:
        return []
    rows = [
        (
            f"{_cut(record.subset, 30)} (n = {record.questions})\n{VERDICTS.get(record.verdict, record.verdict)}",
            {"with the images": record.accuracy}
            | {f"blind: {name}": figures["accuracy"] for name, figures in record.blind.items()},
            None if record.interval is None else (record.interval[0], record.interval[1]),
            record.majority,
        )
        for record in records
    ]
    blind_chart(
        "Does this benchmark need its images?",
        rows,
        folder / "bias",
        note=_cut(f"{records[0].subset}: {records[0].words}", 120),
    )
    return _saved(folder, "bias")


def draw_prior(records: Sequence[PriorShare], folder: Path) -> list[Path]:
    """`prior`: the first set's shares with the image and without; `prior-2` and on for further ones."""
    drawn = []
    for number, name in enumerate(dict.fromkeys(record.label_set for record in records), 1):
        own = [record for record in records if record.label_set == name]
        key = "prior" if number == 1 else f"prior-{number}"
        rows = [(record.label, record.shares, record.truth) for record in own]
        title = f"Before anything is seen: {_cut(name, 30)}"
        prior_chart(title, rows, folder / key, over=_count(own[0].questions))
        drawn += _saved(folder, key)
    return drawn


def draw_failures(records: Sequence[Failure], out: Path) -> list[Path]:
    """`failures-LEG.png`: pictures of what a leg broke and mended, those whose other label differs marked."""
    drawn = []
    for leg in dict.fromkeys(record.leg for record in records):
        kinds = {kind: [r for r in records if r.leg == leg and r.kind == kind] for kind in SHOWN}
        cells = []
        for kind, own in kinds.items():
            for record in own[: SHOWN[kind]]:
                picture = read_picture(out, record.picture)
                if picture is not None:
                    cells.append(_cell(record, picture))
        broken, mended = (len(kinds[kind]) for kind in ("broken", "mended"))
        title = f"{leg} breaks {_count(broken, 'answer')} and mends {mended}"
        if any(record.relabelled is not None for record in records):
            doubtful = sum(record.doubtful for record in kinds["broken"])
            title += f"; of the broken ones {doubtful} are labelled otherwise, or left out, in the other file"
        path = out / FIGURES / f"failures-{leg}.png"
        contact_sheet(title, cells, path)
        drawn.append(path)
    return drawn


def _cell(record: Failure, picture: Any) -> Captioned:
    head, color = record.kind, WRONG if record.kind == "broken" else RIGHT
    if record.doubtful:
        head, color = f"{record.kind}, label in doubt", FAINT
    other = f" (other file: {record.relabelled})" if record.relabelled is not None else ""
    said = f"plain: {_cut(record.plain, 40) or '(nothing)'}, debiased: {_cut(record.debiased, 40) or '(nothing)'}"
    return Captioned(picture, head, f"{_cut(record.question, 90)} {said}, right: {record.label}{other}", color)


def _strokes(
    found: Mapping[tuple[str, int], AttentionShare], places: Sequence[int], part: str
) -> dict[str, list[float]]:
    """Condition → shares of one class of positions, NaN where there is no record."""
    shares = {}
    for condition, words in (("image", "with the image"), ("none", "without")):
        values = [getattr(found.get((condition, place)), part, math.nan) for place in places]
        if not all(map(math.isnan, values)):
            shares[words] = values
    return shares


def _gain(record: ConfidencePart | None, base: float) -> tuple[float, tuple[float, float] | None]:
    """A part's accuracy above the first leg's, and the ends of its interval."""
    if record is None:
        return math.nan, None
    ends = None if record.gain_low is None or record.gain_high is None else (record.gain_low, record.gain_high)
    return record.accuracy - base, ends


def _saved(folder: Path, name: str) -> list[Path]:
    return [folder / f"{name}.png", folder / f"{name}.svg"]


def _count(number: int, what: str = "question") -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _cut(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 1]}…"
