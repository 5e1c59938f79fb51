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
from itertools import product
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
CLIP_SCORE, PAIR_LOSS = "CLIP score", "−pair loss"
RANKINGS = (IDENTITY, GRADIENT, CLIP_SCORE, PAIR_LOSS)
"""They order pairs; their size is in no unit of the query's loss."""
_NAMES: dict[Method, str] = {"exact": EXACT, "zeta": "zeta, Hessian", "positive_only": "positive only, Hessian"}
SHARES = (0.05, 0.1, 0.2, 0.3)
"""Of the pairs, removed."""
SUBSET = 0.1
"""Of the pairs, in each random subset."""
DRAWS = 1000
"""Of the bootstrap."""
ORDERS = ("harmful", "valuable", "random")
NOTHING = "nothing"
"""In the place of an order: no pair is removed."""
RETRAINED, EDITED, STEPPED = "retrained", "influence", "newton"


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
        order: "harmful", "valuable" or "random"; "nothing" where none is removed.
        share: of the pairs.
        losses, accuracies: by "retrained", and the two steps of an edit: "influence" and "newton".
    """

    order: str
    share: float
    losses: Mapping[str, float]
    accuracies: Mapping[str, float]


@dataclass(frozen=True)
class Cost:
    """What scoring every pair took.

    Attributes:
        pairs: how many.
        prepared, prepared_seconds: products with the curvature for the preconditioner, whose seconds hold the pairs'
            embeddings too.
        solved, solved_seconds: products of the solve.
        swept_seconds: of the sweeps through all partitions.
    """

    pairs: int
    prepared: int
    prepared_seconds: float
    solved: int
    solved_seconds: float
    swept_seconds: float

    @property
    def seconds(self) -> float:
        """In all."""
        return self.prepared_seconds + self.solved_seconds + self.swept_seconds


def leave_one_out(problem: Problem, count: int, seed: int, *, progress: Progress | None = None) -> Predicted:
    """What single pairs do: `count` of them, drawn by `seed`."""
    ecif, pairs = problem.ecif, len(problem.mismatched)
    chosen = np.random.default_rng(seed).permutation(pairs)[:count].tolist()
    estimates = {name: scores.numpy()[chosen] for name, scores in _scores(ecif, problem.query).items()}
    began, true, stepped, seconds = problem.loss(ecif.theta), [], [], 0.0
    for number, place in enumerate(chosen, 1):
        start = time.perf_counter()
        true.append(problem.loss(problem.retrained([place])) - began)
        seconds += (time.perf_counter() - start) / len(chosen)
        stepped.append(problem.loss(flat(ecif.edit([ecif.data.ids[place]], step="newton"))) - began)
        _tell(progress, number, len(chosen))
    return Predicted(np.array(true), {**estimates, NEWTON: np.array(stepped)}, seconds)


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
    default = ecif.with_curvature("ggn")
    by_score = ecif.scores(problem.query).total.argsort().tolist()
    by_chance = np.random.default_rng(seed).permutation(pairs).tolist()
    places = dict(zip(ORDERS, (by_score, by_score[::-1], by_chance), strict=True))
    found = [_left(problem, NOTHING, 0.0, dict.fromkeys((RETRAINED, EDITED, STEPPED), ecif.theta))]
    for order, share in product(ORDERS, SHARES):
        gone = places[order][: round(share * pairs)]
        ids = [ecif.data.ids[place] for place in gone]
        left = {
            RETRAINED: problem.retrained(gone),
            EDITED: flat(default.edit(ids)),
            STEPPED: flat(default.edit(ids, step="newton")),
        }
        found.append(_left(problem, order, share, left))
        _tell(progress, len(found) - 1, len(ORDERS) * len(SHARES))
    return found


def _left(problem: Problem, order: str, share: float, left: Mapping[str, Tensor]) -> Removed:
    losses = {name: problem.loss(theta) for name, theta in left.items()}
    return Removed(order, share, losses, {name: problem.accuracy(theta) for name, theta in left.items()})


def detection(problem: Problem) -> list[Detector]:
    """How well influence (by the default curvature) and what costs less find the mismatched pairs."""
    scores = _scores(problem.ecif.with_curvature("ggn"), problem.query)
    known = suspicions(scores[GAUSS_NEWTON], scores[CLIP_SCORE], -scores[PAIR_LOSS], scores[GRADIENT])
    return detectors({**known, IDENTITY: -scores[IDENTITY]}, problem.mismatched.tolist())


def cost(problem: Problem) -> Cost:
    """What scoring every pair takes, by the curvature that is the default."""
    ecif = problem.ecif.with_curvature("ggn")
    direction, how = ecif.direction(problem.query)
    start = time.perf_counter()
    ecif.scores_along(direction, how)
    seconds = time.perf_counter() - start
    before = ecif.preparation
    return Cost(len(ecif.data), before.products, before.seconds, how.products, how.seconds, seconds)


def agreement(runs: Sequence[Predicted], name: str, *, seed: int = 0) -> Agreement:
    """How well one estimator agrees with the truth, over the runs of several seeds.

    Args:
        runs: one a seed.
        name: of the estimator.
        seed: of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    pearson, spearman, slope = [], [], []
    for run in runs:
        said, true, count = run.estimates[name], run.true, len(run.true)
        draws = np.vstack([np.arange(count), rng.integers(count, size=(DRAWS, count))])  # the first is the whole
        pearson.append(_correlation(said[draws], true[draws]))
        spearman.append(_correlation(_ranks(said, draws), _ranks(true, draws)))
        slope.append(float("nan") if name in RANKINGS else _slope(said, true))
    over_seeds = [np.mean(one, axis=0) for one in (pearson, spearman)]
    return Agreement(
        float(over_seeds[0][0]),
        float(over_seeds[1][0]),
        float(np.mean(slope)),
        *(_interval(one[1:]) for one in over_seeds),
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
        CLIP_SCORE: cosine,
        PAIR_LOSS: -loss,
    }


def _total(ecif: ECIF, tangents: Any, method: Method) -> Tensor:
    pos, neg = ecif.point.sweep(tangents, method)
    return (pos + neg).mean(0)


def _correlation(a: Array, b: Array) -> Array:
    """Pearson's, of each row; NaN where one is constant."""
    a, b = (one - one.mean(-1, keepdims=True) for one in (a, b))
    lengths = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.where(lengths > 0, (a * b).sum(-1) / np.where(lengths > 0, lengths, 1), np.nan)


def _interval(drawn: Array) -> tuple[float, float]:
    """Of the draws that have a correlation."""
    known = drawn[np.isfinite(drawn)]
    return interval(known) if len(known) else (float("nan"), float("nan"))


def _slope(said: Array, true: Array) -> float:
    said = said - said.mean()
    length = float(said @ said)
    return float(said @ true) / length if length else float("nan")


def _ranks(values: Array, draws: NDArray[np.int64]) -> Array:
    """(…, n): the rank of each value among those of its draw, (…, n) places; of ties the mean."""
    distinct, place = np.unique(values, return_inverse=True)
    drawn = place[draws]
    of_each = np.arange(len(draws))[:, None] * len(distinct) + drawn
    counts = np.bincount(of_each.ravel(), minlength=len(draws) * len(distinct)).reshape(len(draws), -1)
    return np.take_along_axis(counts.cumsum(1) - (counts - 1) / 2, drawn, axis=1)


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
