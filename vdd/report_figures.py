"""What a report shows of finished runs beyond their scores: how sure, how right where how sure, who is worth its cost.

    reliability     in each of 15 equally wide bins of confidence, how often the answers in it are right;
                    Σ count · |accuracy − confidence| / n is the expected calibration error       arXiv:1706.04599
    by confidence   the questions parted by how sure the first leg was, and a leg's accuracy on each part
    front           the legs that no other is both as cheap as and as accurate as

Knows: finished runs, scores. Does not know: markup, models. Writes nothing.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vdd._check import UserError, choice
from vdd.analysed import DrawnFigure, figures_of_run
from vdd.config import Leg
from vdd.diagnosis import DIAGNOSIS, Diagnosis, read_diagnosis
from vdd.finished import Drawn, read_run
from vdd.records import Answer
from vdd.report import RELABELLED, SCORES, LegResult, confidence, read, read_scores, score_run
from vdd.run_folder import CHOSEN
from vdd.scoring.score import Difference, paired_bootstrap

BINS = 15
"""Of `vdd.scoring.score.expected_calibration_error`."""

PARTS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Bounds of the parts by confidence; each holds its upper bound, the first its lower one too."""

KINDS = ("plain or control", "decoding method", "post-hoc", "method + post-hoc")
"""What a leg is to a reader: something to compare with, or one of what is compared."""

_SIGNED = re.compile(r"(?P<names>.+?)\|n:\d+\|parse:(?P<parser>\w+)\|")


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence is in (low, high]: how many, their mean confidence, the share that is right."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Part:
    """Questions on which the first leg's confidence is in (low, high]: how many, and a leg's accuracy on them.

    `gain` is the accuracy above the first leg's; None for the first leg, and where all are about one image.
    """

    low: float
    high: float
    count: int
    accuracy: float
    gain: Difference | None


@dataclass(frozen=True)
class LegBins:
    """A leg looked at by confidence: its own in `bins`, over all draws; the first leg's in `parts`."""

    leg: Leg
    bins: Sequence[Bin]
    parts: Sequence[Part]


@dataclass(frozen=True)
class RunReport:
    """All that is shown of one run.

    Attributes:
        title: the names that open its signatures, and the folder where two runs have the same.
        folder: as it was given.
        parser: how answers were read.
        description: what run.json holds.
        chosen: what chosen.json holds, the settings chosen on dev questions; None where there is none.
        images: how many different ones.
        yes: share of the labels.
        results: one a leg, the first what the others are compared with.
        relabelled: the same by other labels; empty where there are none.
        closely: the legs that are looked at by confidence, the first leg among them.
        diagnosis: wrong answers traced to training pairs; None where none were.
        analysis: figures of the analysis that rests on this run.
    """

    title: str
    folder: str
    parser: str
    description: Mapping[str, Any]
    chosen: Mapping[str, Any] | None
    images: int
    yes: float
    results: Sequence[LegResult]
    relabelled: Sequence[LegResult]
    closely: Sequence[LegBins]
    diagnosis: Diagnosis | None = None
    analysis: Sequence[DrawnFigure] = ()


def run_reports(folders: Sequence[Path], *, legs: Sequence[str] = ()) -> list[RunReport]:
    """What is shown of each run.

    Args:
        folders: of finished runs on POPE-form questions.
        legs: names of those that are looked at by confidence, beside the first; without any, the first greedy one of
            each of KINDS.

    Raises:
        UserError: where a folder is no finished run, or no run has a leg of that name.
    """
    reports = [_run_report(folder, legs) for folder in folders]
    known = dict.fromkeys(result.leg.name for report in reports for result in report.results)
    for name in legs:
        choice("report", "leg", name, known)
    times = Counter(report.title for report in reports)
    return [
        replace(report, title=f"{report.title} ({report.folder})") if times[report.title] > 1 else report
        for report in reports
    ]


def _run_report(folder: Path, legs: Sequence[str]) -> RunReport:
    run = read_run(folder)
    names, parser = _names_of(folder)
    seed = int(run.description.get("seed", 0))
    results = score_run(run, names=names, parser=parser, seed=seed)
    relabelled: list[LegResult] = []
    if (folder / RELABELLED).is_file():
        relabelled = read_scores(folder / RELABELLED, [drawn.leg for drawn in run.legs])
    images = [question.image for question in run.questions]
    labels = [question.label for question in run.questions]
    before: NDArray[np.bool_] | None = None
    sure = np.zeros(0)
    closely = []
    for drawn in _looked_at(run.legs, legs):
        said = [read(run.questions, answers, parser=parser) for answers in drawn.answers]
        right = np.array([[word == label for word, label in zip(one, labels, strict=True)] for one in said])
        chances = np.array(
            [
                [_chance(answer, word) for answer, word in zip(answers, words, strict=True)]
                for answers, words in zip(drawn.answers, said, strict=True)
            ]
        )
        if before is None:
            sure = chances[0]
        parts = by_confidence(sure, right, images, before=before, seed=seed)
        before = right[0] if before is None else before
        closely.append(LegBins(drawn.leg, reliability(chances.ravel(), right.ravel()), parts))
    return RunReport(
        " ".join(names),
        str(folder),
        parser,
        run.description,
        _chosen(folder / CHOSEN),
        len(set(images)),
        labels.count("yes") / len(labels),
        results,
        relabelled,
        closely,
        read_diagnosis(folder / DIAGNOSIS),
        figures_of_run(folder),
    )


def reliability(chances: NDArray[np.float64], right: NDArray[np.bool_]) -> list[Bin]:
    """The bins that hold an answer, from the lowest confidence.

    Args:
        chances: (n,) confidence of each answer, in [0, 1]; NaN where there is none, and the answer is in no bin.
        right: (n,) whether it is right.
    """
    known = ~np.isnan(chances)
    upper = np.arange(1, BINS + 1) / BINS
    place = np.searchsorted(upper, chances[known], side="left")
    return [
        Bin(
            number / BINS,
            (number + 1) / BINS,
            int((place == number).sum()),
            float(chances[known][place == number].mean()),
            float(right[known][place == number].mean()),
        )
        for number in np.unique(place).tolist()
    ]


def by_confidence(
    sure: NDArray[np.float64],
    right: NDArray[np.bool_],
    images: Sequence[str],
    *,
    before: NDArray[np.bool_] | None = None,
    seed: int = 0,
) -> list[Part]:
    """The parts that hold a question, from the lowest confidence; one below a half comes first where there is any.

    Args:
        sure: (n,) the first leg's confidence by question, in [0, 1]; NaN where there is none, and the question is in no
            part.
        right: (draws, n) whether a leg is right.
        images: (n,) what each question is about.
        before: (n,) whether the first leg is right; None for the first leg.
        seed: of the bootstrap.
    """
    lows, highs = (0.0, *PARTS[:-1]), PARTS
    place = np.where(sure < PARTS[0], 0, 1 + np.searchsorted(PARTS[1:], sure, side="left"))
    place[np.isnan(sure)] = -1
    parts = []
    for number, (low, high) in enumerate(zip(lows, highs, strict=True)):
        kept = np.flatnonzero(place == number).tolist()
        if not kept:
            continue
        now = right[:, kept]
        about = [images[i] for i in kept] * len(right)
        gain = None
        if before is not None and len(set(about)) > 1:
            was = np.tile(before[kept], len(right))
            gain = paired_bootstrap(was, now.ravel(), about, rng=np.random.default_rng(seed))
        parts.append(Part(low, high, len(kept), float(now.mean()), gain))
    return parts


def kind_of(leg: Leg) -> str:
    """One of KINDS."""
    method = (leg.debias is not None and not leg.debias.is_cutoff_only) or bool(leg.custom_generate)
    if leg.post_hoc is not None:
        return KINDS[3] if method else KINDS[2]
    return KINDS[1] if method else KINDS[0]


def front(costs: Sequence[float], accuracies: Sequence[float]) -> list[bool]:
    """For each leg whether no other is at most as dear, at least as accurate, and better in one of the two."""
    legs = list(zip(costs, accuracies, strict=True))
    return [not any(other != mine and other[0] <= mine[0] and other[1] >= mine[1] for other in legs) for mine in legs]


def _chance(answer: Answer, said: str | None) -> float:
    """The confidence, NaN where there is none."""
    found = confidence(answer, said)
    return math.nan if found is None else found


def _looked_at(legs: Sequence[Drawn], names: Sequence[str]) -> list[Drawn]:
    """The first leg, then those of these names, or the first greedy one of each kind."""
    if names:
        return [legs[0], *(drawn for drawn in legs[1:] if drawn.leg.name in names)]
    found: dict[str, Drawn] = {kind_of(legs[0].leg): legs[0]}
    for drawn in legs[1:]:
        if drawn.leg.sampling.temperature == 0:
            found.setdefault(kind_of(drawn.leg), drawn)
    return list(found.values())


def _names_of(folder: Path) -> tuple[tuple[str, ...], str]:
    """What opens the signatures of a run, and its parser: as its scores have it, else ("pope", the folder's name)."""
    path = folder / SCORES
    if not path.is_file():
        return ("pope", re.sub(r"[|\s]+", "_", folder.resolve().name) or "run"), "official"
    try:
        found = _SIGNED.match(json.loads(path.read_text(encoding="utf-8"))[0]["signature"])
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: holds no scores ({error}); wanted the file as `vdd eval pope` writes it.") from error
    if found is None:
        raise UserError(f"{path}: scores no yes/no questions by a parser; wanted a run of `vdd eval pope`.")
    return tuple(found["names"].split("|")), found["parser"]


def _chosen(path: Path) -> Mapping[str, Any] | None:
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return {"debias": values["debias"], "bias": values["bias"], "dev": values["dev"]}
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: holds no chosen settings ({error}); wanted those of `vdd eval pope`.") from error
