"""Influence held against what it predicts: pairs are left out, the heads are trained again, and the loss is measured.

    leave-one-out    Pearson, Spearman and slope between predicted and true changes of the query's loss
    subsets          the same for random tenths of the pairs: the linear datamodeling score     arXiv:2303.14186
    removal          the loss and the accuracy after removing the most harmful, the most valuable, or random pairs,
                     trained again and by edited parameters
    detection        how well each score finds the pairs whose caption is another's

Source: arXiv:2411.11667 for the questions; gradient products: arXiv:2002.08484 (TracIn, at the last parameters).
Knows: problems, influence. Does not know: files, printing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vdd.influence.detection import Detector, detectors, suspicions
from vdd.influence.ecif import ECIF
from vdd.influence.loss import METHODS, Method
from vdd.influence.objective import flat
from vdd.influence.problems import Problem
from vdd.influence.query import Query
from vdd.scoring.score import interval

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]

EXACT, GAUSS_NEWTON, NEWTON, ADDED = "exact, Hessian", "exact, GGN", "one Newton step", "exact, Hessian, added up"
IDENTITY, GRADIENT = "identity Hessian", "gradient product"
_NAMES: dict[Method, str] = {"exact": EXACT, "zeta": "zeta, Hessian", "positive_only": "positive only, Hessian"}
SHARES = (0.05, 0.1, 0.2, 0.3)
"""Of the pairs, removed."""
SUBSET = 0.1
"""Of the pairs, in each random subset."""
DRAWS = 2000
"""Of the bootstrap."""


@dataclass(frozen=True)
class Predicted:
    """Changes of a query's loss, and what each estimator said of them, (n,) each.

    Attributes:
        true: after training again.
        estimates: by name.
        seconds: a training again.
    """

    true: Array
    estimates: Mapping[str, Array]
    seconds: float


@dataclass(frozen=True)
class Agreement:
    """How well an estimator agrees with the truth: means over seeds, with 95 % intervals of a bootstrap within seeds.

    Attributes:
        pearson, spearman: correlations.
        slope: of the true changes over the predicted ones; 1 where the sizes are right. NaN for mere rankings.
        pearson_interval, spearman_interval: (low, high).
    """

    pearson: float
    spearman: float
    slope: float
    pearson_interval: tuple[float, float]
    spearman_interval: tuple[float, float]


@dataclass(frozen=True)
class Removed:
    """A share of the pairs removed: what came of training again, and of editing the parameters.

    Attributes:
        order: "harmful", "valuable" or "random".
        share: of the pairs.
        losses, accuracies: by "retrained", "influence" and "newton".
    """

    order: str
    share: float
    losses: Mapping[str, float]
    accuracies: Mapping[str, float]


def leave_one_out(problem: Problem, count: int, seed: int, *, progress: Progress | None = None) -> Predicted:
    """What single pairs do: `count` of them, drawn by `seed`."""
    ecif, pairs = problem.ecif, len(problem.mismatched)
    chosen = np.random.default_rng(seed).permutation(pairs)[:count].tolist()
    estimates = {name: scores.numpy()[chosen] for name, scores in _scores(ecif, problem.query).items()}
    began, true = problem.loss(ecif.theta), []
    start = time.perf_counter()
    for number, place in enumerate(chosen, 1):
        true.append(problem.loss(problem.retrained([place])) - began)
        _tell(progress, number, len(chosen))
    seconds = (time.perf_counter() - start) / len(chosen)
    by_ids = [[ecif.data.ids[place]] for place in chosen]
    estimates[NEWTON] = np.array([problem.loss(flat(ecif.edit(ids, step="newton"))) - began for ids in by_ids])
    return Predicted(np.array(true), estimates, seconds)


def subsets(problem: Problem, count: int, seed: int, *, progress: Progress | None = None) -> Predicted:
    """What random tenths of the pairs do: `count` of them."""
    ecif, pairs = problem.ecif, len(problem.mismatched)
    rng = np.random.default_rng(seed)
    groups = [rng.permutation(pairs)[: round(SUBSET * pairs)].tolist() for _ in range(count)]
    by_ids = [[ecif.data.ids[place] for place in group] for group in groups]
    estimates = {
        EXACT: ecif.group_scores(problem.query, by_ids).numpy(),
        GAUSS_NEWTON: ecif.with_curvature("ggn").group_scores(problem.query, by_ids).numpy(),
    }
    for name, scores in _scores(ecif, problem.query).items():
        if name != GAUSS_NEWTON:
            estimates[ADDED if name == EXACT else name] = np.array([float(scores[group].sum()) for group in groups])
    began, true = problem.loss(ecif.theta), []
    start = time.perf_counter()
    for number, group in enumerate(groups, 1):
        true.append(problem.loss(problem.retrained(group)) - began)
        _tell(progress, number, count)
    return Predicted(np.array(true), estimates, (time.perf_counter() - start) / count)


def removal(problem: Problem, seed: int, *, progress: Progress | None = None) -> list[Removed]:
    """What is left after removing more and more pairs, in three orders; edits by the curvature that is the default."""
    ecif, pairs = problem.ecif, len(problem.mismatched)
    by_score = ecif.scores(problem.query).total.argsort().tolist()
    orders = {
        "harmful": by_score,
        "valuable": by_score[::-1],
        "random": np.random.default_rng(seed).permutation(pairs).tolist(),
    }
    found = []
    for order, places in orders.items():
        for share in SHARES:
            gone = places[: round(share * pairs)]
            ids = [ecif.data.ids[place] for place in gone]
            default = ecif.with_curvature("ggn")
            left = {
                "retrained": problem.retrained(gone),
                "influence": flat(default.edit(ids)),
                "newton": flat(default.edit(ids, step="newton")),
            }
            losses = {name: problem.loss(theta) for name, theta in left.items()}
            accuracies = {name: problem.accuracy(theta) for name, theta in left.items()}
            found.append(Removed(order, share, losses, accuracies))
            _tell(progress, len(found), len(orders) * len(SHARES))
    return found


def detection(problem: Problem) -> list[Detector]:
    """How well influence (by the default curvature) and what costs less find the mismatched pairs."""
    ecif = problem.ecif.with_curvature("ggn")
    cosine, loss = ecif.point.pair_figures()
    scores = _scores(ecif, problem.query)
    known = suspicions(scores[GAUSS_NEWTON], cosine, loss, scores[GRADIENT])
    return detectors({**known, IDENTITY: -scores[IDENTITY]}, problem.mismatched.tolist())


def agreement(runs: Sequence[Predicted], name: str, *, seed: int = 0) -> Agreement:
    """How well one estimator agrees with the truth, over the runs of several seeds.

    Args:
        runs: one a seed.
        name: of the estimator.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    pairs = [(run.estimates[name], run.true) for run in runs]
    draws = [rng.integers(len(true), size=(DRAWS, len(true))) for _, true in pairs]
    spread = {}
    for which, correlate in (("pearson", _pearson), ("spearman", _spearman)):
        drawn = [
            [correlate(said[places], true[places]) for places in draw]
            for (said, true), draw in zip(pairs, draws, strict=True)
        ]
        spread[which] = interval(np.nanmean(np.array(drawn), axis=0))
    return Agreement(
        float(np.mean([_pearson(said, true) for said, true in pairs])),
        float(np.mean([_spearman(said, true) for said, true in pairs])),
        float(np.mean([np.polyfit(said, true, 1)[0] for said, true in pairs])),
        spread["pearson"],
        spread["spearman"],
    )


def _scores(ecif: ECIF, query: Query) -> dict[str, Tensor]:
    """(N,) each, by every estimator that scores all pairs at once; above 0 valuable."""
    gradient = ecif.query_gradient(query)
    along = ecif.point.tangents(gradient)
    cosine, loss = ecif.point.pair_figures()
    found = {GAUSS_NEWTON: ecif.with_curvature("ggn").scores(query).total}
    if ecif.curvature == "hessian":
        bent = ecif.point.tangents(ecif.direction(query)[0])
        found |= {_NAMES[method]: _total(ecif, bent, method) for method in METHODS}
    return {
        **found,
        IDENTITY: _total(ecif, along, "exact"),
        GRADIENT: _total(ecif, along, "positive_only"),
        "CLIP score": cosine,
        "−pair loss": -loss,
    }


def _total(ecif: ECIF, tangents: Any, method: Method) -> Tensor:
    pos, neg = ecif.point.sweep(tangents, method)
    return (pos + neg).mean(0)


def _pearson(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    length = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / length if length else float("nan")


def _spearman(a: Array, b: Array) -> float:
    return _pearson(_ranks(a), _ranks(b))


def _ranks(values: Array) -> Array:
    """Ranks; of ties the mean."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count - 1) / 2)[place]


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
