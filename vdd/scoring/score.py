"""What every benchmark's score shares: its signature, intervals, tests between two runs, ranking and calibration.

    AUROC = (Σ ranks of the positives − P(P+1)/2) / (P·N),         ties share their mean rank
    ECE   = Σ_bins |Σ correct − Σ confidence| / n                  arXiv:1706.04599
    McNemar's p = min(1, 2·Σ_{k ≤ min(b,c)} C(b+c, k) / 2^(b+c))   exact binomial

Intervals are percentile bootstraps that draw whole images with replacement: the questions of one image are not
independent, and rows drawn one by one would give intervals that are too narrow.

Knows: NumPy, records. Does not know: any benchmark's rules, models, files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vdd._check import UserError, choice, real, whole
from vdd._version import __version__
from vdd.records import Question

Array = NDArray[np.float64]
Statistic = Callable[[Array, Array], Array]
"""(totals, n) → figure: `totals` (samples, …) are the rows' sums over each resample, `n` (samples,) its row counts."""

_SHA_DIGITS = 12
_BLOCK = 256  # resamples drawn at once; bounds memory to this times the number of images


class Difference(NamedTuple):
    """The second run's figure minus the first's, and its interval."""

    value: float
    low: float
    high: float


class McNemar(NamedTuple):
    """How many questions only the first and only the second run got right, and the two-sided p-value."""

    only_a: int
    only_b: int
    p: float


def questions_sha(questions: Sequence[Question]) -> str:
    """The first 12 hex digits of the SHA-256 over the questions' ids, images, texts and labels.

    The order of the questions, of keys and the whitespace of the file do not matter, nor does a label's case.
    """
    rows = sorted(
        [str(q.question_id), q.image, q.text, None if q.label is None else q.label.strip().lower()] for q in questions
    )
    canonical = json.dumps(rows, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode("ascii")).hexdigest()[:_SHA_DIGITS]


def signature(names: Sequence[str], questions: Sequence[Question], *, parser: str = "", decoding: str = "") -> str:
    """`pope|coco|adversarial|n:3000|parse:official|ref:none|a:1|b:0.1|greedy|vdd:0.1.0|sha:…`: how to repeat a score.

    Args:
        names: benchmark, set, split, …; none empty, none with a "|".
        questions: what was asked.
        parser: how answers were read; "" leaves this part out.
        decoding: how they were generated, as `Leg.signature()` says it; "" where unknown leaves this part out.

    Raises:
        UserError: if there are no names, or one is empty or would break the signature.
    """
    if not names or any(not name or "|" in name or "\n" in name for name in names):
        raise UserError(f"signature: names are {tuple(names)!r}; wanted at least one, none empty, none with '|' in it.")
    parts = [*names, f"n:{len(questions)}", parser and f"parse:{parser}", decoding]
    parts += [f"vdd:{__version__}", f"sha:{questions_sha(questions)}"]
    return "|".join(part for part in parts if part)


def mean(totals: Array, n: Array) -> Array:
    """The Statistic of plain means; of `correct`, accuracy."""
    return totals / n


def resample(
    rows: ArrayLike, clusters: Sequence[Hashable], *, rng: np.random.Generator, samples: int = 2000
) -> tuple[Array, Array]:
    """Draw clusters with replacement, as many as there are, and sum their rows.

    Args:
        rows: (n, …) numbers, one row per question.
        clusters: (n,) what each row belongs to, the image as a rule; at least two different ones.
        rng: where chance comes from; advanced.
        samples: how many resamples, ≥ 1.

    Returns:
        (samples, …) sums over each resample, and (samples,) the number of rows in it; what a Statistic takes.

    Raises:
        UserError: on empty input, unequal lengths, or a single cluster.
    """
    table = np.asarray(rows, dtype=np.float64)
    if table.ndim == 0 or len(table) == 0 or len(table) != len(clusters):
        raise UserError(f"resample: rows are {table.shape} for {len(clusters)} clusters; wanted (n, …) for n, n ≥ 1.")
    whole("resample", "samples", samples, low=1)
    numbers: dict[Hashable, int] = {}
    owner = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    count = len(numbers)
    if count < 2:
        raise UserError("resample: all rows belong to one image; wanted two at least, else every resample is the same.")
    sums = np.zeros((count, *table.shape[1:]))
    np.add.at(sums, owner, table)
    per_cluster = np.column_stack([sums.reshape(count, -1), np.bincount(owner)])  # (clusters, columns + 1)
    chances = np.full(count, 1 / count)
    blocks = [min(_BLOCK, samples - start) for start in range(0, samples, _BLOCK)]
    drawn = np.concatenate([rng.multinomial(count, chances, size=block) @ per_cluster for block in blocks])
    return drawn[:, :-1].reshape(samples, *table.shape[1:]), drawn[:, -1]


def interval(values: ArrayLike, *, level: float = 0.95) -> tuple[float, float]:
    """The central `level` of resampled figures (samples,): the percentile interval (low, high)."""
    tail = (1 - real("interval", "level", level, low=0.0, high=1.0)) / 2
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_interval(
    rows: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    rng: np.random.Generator,
    samples: int = 2000,
    level: float = 0.95,
    statistic: Statistic = mean,
) -> tuple[float, float]:
    """A figure's bootstrap interval (low, high), clustered by image.

    Args:
        rows: (n,) `correct` for accuracy; for other figures whatever (n, …) counts `statistic` is a function of.
        clusters, rng, samples: as for `resample`.
        level: coverage, in [0, 1].
        statistic: from resampled sums to the figure; `vdd.scoring.pope.statistic("f1")` and the like.
    """
    return interval(statistic(*resample(rows, clusters, rng=rng, samples=samples)), level=level)


def paired_bootstrap(
    rows_a: ArrayLike,
    rows_b: ArrayLike,
    clusters: Sequence[Hashable],
    *,
    rng: np.random.Generator,
    samples: int = 2000,
    level: float = 0.95,
    statistic: Statistic = mean,
) -> Difference:
    """By how much run b's figure is above run a's on the same questions, with its interval; every draw serves both.

    Args:
        rows_a, rows_b: (n, …) each, the same questions in the same order; otherwise as for `bootstrap_interval`.

    Raises:
        UserError: on unequal shapes, and as `resample` does.
    """
    a, b = np.atleast_1d(np.asarray(rows_a, dtype=np.float64)), np.atleast_1d(np.asarray(rows_b, dtype=np.float64))
    if a.shape != b.shape:
        raise UserError(f"paired_bootstrap: rows are {a.shape} and {b.shape}; wanted the same questions in both.")
    totals, n = resample(np.stack([a, b], axis=1), clusters, rng=rng, samples=samples)
    low, high = interval(statistic(totals[:, 1], n) - statistic(totals[:, 0], n), level=level)
    size = np.array([float(len(a))])
    observed = statistic(b.sum(axis=0, keepdims=True), size) - statistic(a.sum(axis=0, keepdims=True), size)
    return Difference(float(observed[0]), low, high)


def mcnemar(correct_a: ArrayLike, correct_b: ArrayLike) -> McNemar:
    """Whether two runs on the same questions differ by more than chance: McNemar's exact two-sided test.

    Args:
        correct_a, correct_b: (n,) booleans, the same questions in the same order.

    Returns:
        The discordant counts and p in (0, 1]; 1 where the runs never differ. Computed in whole numbers.

    Raises:
        UserError: on empty input, unequal lengths or values other than 0 and 1.
    """
    a, b = _truths("mcnemar", "correct_a", correct_a), _truths("mcnemar", "correct_b", correct_b)
    _same_length("mcnemar", correct_a=a, correct_b=b)
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    discordant = only_a + only_b
    ways = tail = 1  # C(discordant, k) and its sum over k ≤ min(only_a, only_b)
    for k in range(min(only_a, only_b)):
        ways = ways * (discordant - k) // (k + 1)
        tail += ways
    return McNemar(only_a, only_b, min(1.0, 2 * tail / 2**discordant))


def auroc(scores: ArrayLike, positive: ArrayLike) -> float:
    """The chance that a random positive scores above a random negative, a tie counting half.

    Args:
        scores: (n,) numbers, infinite ones included; l(yes) − l(no), for one.
        positive: (n,) booleans, where the label is the positive one.

    Returns:
        In [0, 1]; NaN where only one class occurs (which `Score.to_json` writes as null).

    Raises:
        UserError: on empty input, unequal lengths, NaN among the scores, or values of `positive` other than 0 and 1.
    """
    values, truths = _numbers("auroc", "scores", scores), _truths("auroc", "positive", positive)
    _same_length("auroc", scores=values, positive=truths)
    positives = int(truths.sum())
    negatives = len(truths) - positives
    if positives == 0 or negatives == 0:
        return float("nan")
    _, tie, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks = last - (counts - 1) / 2  # of each distinct score, from 1
    above = ranks[tie][truths].sum() - positives * (positives + 1) / 2
    return float(above / (positives * negatives))


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, *, bins: int = 15) -> float:
    """The mean distance between confidence and accuracy, over equally wide bins weighted by their size.

    Args:
        confidence: (n,) probability given to the answer, in [0, 1]. Bin m of M holds ((m−1)/M, m/M], the first 0 too.
        correct: (n,) booleans.
        bins: M ≥ 1; 15 as in arXiv:1706.04599.

    Returns:
        In [0, 1]; 0 is calibrated.

    Raises:
        UserError: on empty input, unequal lengths, confidences outside [0, 1] or values of `correct` other than 0, 1.
    """
    chances = _numbers("expected_calibration_error", "confidence", confidence)
    truths = _truths("expected_calibration_error", "correct", correct)
    _same_length("expected_calibration_error", confidence=chances, correct=truths)
    whole("expected_calibration_error", "bins", bins, low=1)
    if chances.min() < 0 or chances.max() > 1:
        raise UserError(
            f"expected_calibration_error: confidence from {chances.min():g} to {chances.max():g}; wanted [0, 1]. "
            "Were log-probabilities passed?"
        )
    upper = np.arange(1, bins + 1) / bins
    where = np.searchsorted(upper, chances, side="left")
    return float(np.abs(np.bincount(where, weights=truths - chances)).sum() / len(chances))


def transitions(before: Sequence[str | None], after: Sequence[str | None], labels: Sequence[str]) -> dict[str, int]:
    """What changed from one run to another on yes/no questions: `{"FN→TP": 31, "TN→FP": 12, …}`.

    Args:
        before, after: (n,) predictions; those that are neither "yes" nor "no" (unparsed, unanswered) count as "other".
        labels: (n,) the right answers, "yes" or "no".

    Returns:
        How many questions went from which state to which; they sum to n. The eight ways between TP and FN and between
        TN and FP are always there, those from or to "other" where they occur.

    Raises:
        UserError: on empty input, unequal lengths or another label.
    """
    _same_length("transitions", before=before, after=after, labels=labels)
    for label in set(labels):
        choice("transitions", "label", label, ("yes", "no"))
    states = {("yes", "yes"): "TP", ("yes", "no"): "FN", ("no", "no"): "TN", ("no", "yes"): "FP"}
    counts = {f"{old}→{new}": 0 for pair in (("TP", "FN"), ("TN", "FP")) for old in pair for new in pair}
    for old, new, label in zip(before, after, labels, strict=True):
        move = f"{states.get((label, old or ''), 'other')}→{states.get((label, new or ''), 'other')}"
        counts[move] = counts.get(move, 0) + 1
    return counts


def _numbers(who: str, name: str, values: ArrayLike) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or np.isnan(array).any():
        raise UserError(f"{who}: {name} has shape {array.shape}, {np.isnan(array).sum()} NaN; wanted (n,) and no NaN.")
    return array


def _truths(who: str, name: str, values: ArrayLike) -> NDArray[np.bool_]:
    array = _numbers(who, name, values)
    if not np.isin(array, (0.0, 1.0)).all():
        raise UserError(f"{who}: {name} has values other than 0 and 1; wanted booleans.")
    return array.astype(np.bool_)


def _same_length(who: str, **vectors: Any) -> None:
    lengths: Mapping[str, int] = {name: len(vector) for name, vector in vectors.items()}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        told = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise UserError(f"{who}: {told}; wanted as many of each, at least one.")
