"""Which training pairs made a contrastive model see as it does: influence scores, and parameters without some pairs.

    θ_{−D} ≈ θ̂ + H⁻¹ Δ_D,     Δ_D = ∇[L(all) − L(without D)]
    delta_loss_on_removal(n) = ∇f(θ̂)ᵀ H⁻¹ Δ_n = ⟨w, Δ_n⟩,     w = H⁻¹ ∇f

how much the loss f of a query would change if pair n had not been trained on: below 0 the pair is harmful, above 0 it
is valuable. One solve for w and one sweep score every pair. Relative influence, which bounds the change of the
parameters instead, is in `scores`.

Source: arXiv:2411.11667, with the sign of removal; the default damping is that of `damping`.
Knows: objectives, solves, queries. Does not know: transformers but through `towers`, files, printing.
"""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import torch
from torch import Tensor

from vdd._check import UserError, choice, real, whole
from vdd.influence.curvature import Preparation, Sketch, Solve, sketch, solve
from vdd.influence.damping import usual_damping
from vdd.influence.encoders import Embeddings, Pairs, Parameters, Towers
from vdd.influence.loss import METHODS, Method
from vdd.influence.objective import NORMALISERS, Normaliser, Objective, Point, flat
from vdd.influence.query import Query, asked, loss_of
from vdd.influence.scores import Norms, RelativeScores, Scores

Curvature = Literal["ggn", "hessian"]
Duplicates = Literal["negatives", "masked"]
Step = Literal["influence", "newton"]
Progress = Callable[[int, int], None]

RANK = 32
"""Of the preconditioner's sketch, where no other is given."""
SKETCH_BYTES = 1 << 30
"""That the sketch may take; of larger models it is smaller."""
TOLERANCE, SHORT_TOLERANCE = 1e-5, 1e-3
"""Of the residual, where no other is given: in float64, and in shorter types, whose rounding may forbid the first."""
NORM_PROBES = 8
"""Random directions by which the pairs' gradients are measured."""
PROBE_TOLERANCE = 1e-2
"""Of solves whose random right-hand sides leave a far larger error; the products are then right to about 1 %."""
OPTIMUM = 0.1
"""At most so large is ‖∇L‖ at an optimum, in units of `Optimality.ratio`."""


class NotOptimalWarning(UserWarning):
    """The parameters are no minimum of the objective, which the scores suppose."""


@dataclass(frozen=True)
class Optimality:
    """How far the parameters are from a minimum.

    Attributes:
        gradient_norm: ‖∇L‖.
        ratio: ‖∇L‖ over the root of Σ_n ‖Δ_n‖²: near 1 where the pairs are no more at rest than fresh ones would be,
            0 at the minimum.
    """

    gradient_norm: float
    ratio: float


class ECIF:
    """Influence of training pairs on a contrastive model.

    Args:
        model: `Towers` (`HubTowers` of a CLIP or SigLIP among them).
        data: the training pairs, from `model.pairs`.
        curvature: "ggn", positive semi-definite everywhere; "hessian", right to second order at a minimum.
        method: "exact"; "zeta", its first order; "positive_only", which leaves out the part as a negative.
        damping: δ of the objective, absolute; None for what `damping.usual_damping` finds.
        anchor: θ₀, where the regulariser is centred, as named parameters; None for the model's own.
        partitions: R, how many draws of the batches are averaged; one where a batch holds all pairs.
        batch_size: pairs a batch at most, as in training: a pair's negatives are those of its batch.
        normaliser: "sum", "fixed" or "renormalised"; see `objective`.
        duplicates: whether pairs with one text are "negatives" of each other, as CLIP has it, or "masked".
        curvature_pairs: the curvature is that of so many random pairs, scaled up; None for all.
        tolerance: of the residual, relative; None for 1e-5 in float64, 1e-3 in shorter types.
        max_products: with the curvature, a solve.
        allow_unsolved: whether scores of an unsolved system are given all the same.
        rank: of the preconditioner's sketch, a product each; more pays where many systems are solved.
        seed: of the partitions, the probes and the pairs that the curvature is taken of.

    Raises:
        ValueError: on settings out of range, on fewer than two pairs, and where no pair has a negative.
    """

    def __init__(
        self,
        model: Towers,
        data: Pairs,
        *,
        curvature: Curvature = "ggn",
        method: Method = "exact",
        damping: float | None = None,
        anchor: Parameters | None = None,
        partitions: int = 4,
        batch_size: int = 256,
        normaliser: Normaliser = "sum",
        duplicates: Duplicates = "negatives",
        curvature_pairs: int | None = None,
        tolerance: float | None = None,
        max_products: int = 500,
        allow_unsolved: bool = False,
        rank: int = RANK,
        seed: int = 0,
    ) -> None:
        choice("influence", "curvature", curvature, get_args(Curvature))
        choice("influence", "method", method, METHODS)
        choice("influence", "normaliser", normaliser, NORMALISERS)
        choice("influence", "duplicates", duplicates, get_args(Duplicates))
        whole("influence", "partitions", partitions, low=1)
        whole("influence", "batch_size", batch_size, low=2)
        whole("influence", "max_products", max_products, low=1)
        usual = TOLERANCE if model.dtype == torch.float64 else SHORT_TOLERANCE
        if len(data) < 2:
            raise UserError(f"influence: {len(data)} pairs; wanted two or more, as a pair alone has no negatives.")
        if duplicates == "masked" and len(data.texts_alike.unique()) == 1:
            raise UserError(f"influence: all {len(data)} pairs have one text, which is masked; wanted negatives.")
        self.towers, self.data = model, data
        self.curvature, self.method = curvature, method
        self.tolerance = usual if tolerance is None else real("influence", "tolerance", tolerance, low=0.0, high=1.0)
        self.max_products, self.allow_unsolved = max_products, allow_unsolved
        self.rank, self.seed = whole("influence", "rank", rank, low=1), seed
        self.theta = flat(model.parameters)
        centre = self.theta if anchor is None else flat(model.with_parameters(anchor).parameters)
        bare = Objective(model, data, (), normaliser, duplicates == "masked", 0.0, centre.to(self.theta))
        partitions = partitions if batch_size < len(data) else 1
        curved = bare = bare.drawn(partitions, batch_size, seed)
        if curvature_pairs is not None:
            whole("influence", "curvature_pairs", curvature_pairs, low=2, high=len(data))
            curved = bare.of_some(curvature_pairs, seed).drawn(partitions, batch_size, seed)
        self.preparation = Preparation()
        if damping is None:
            began = time.perf_counter()
            damping, products = usual_damping(curved.at(self.theta), seed)
            self.preparation.add(products, time.perf_counter() - began)
        self.damping = real("influence", "damping", damping, low=0.0)
        self.objective = replace(bare, damping=self.damping)
        self._curved = self.objective if curved is bare else replace(curved, damping=self.damping)
        self._norms: Norms | None = None

    def with_curvature(self, curvature: Curvature) -> ECIF:
        """The same with another curvature; what is known of the point and the preconditioner is shared."""
        choice("influence", "curvature", curvature, get_args(Curvature))
        other = copy.copy(self)
        other.curvature, other._norms = curvature, None
        return other

    def scores(self, query: Query) -> Scores:
        """How a query's loss changes with the removal of each pair.

        Raises:
            NotSolvedError: where the solve did not reach the tolerance, unless `allow_unsolved`.

        Warns:
            NotOptimalWarning: where the parameters are no minimum.
        """
        self.check_optimum()
        direction, how = self.direction(query)
        return self.scores_along(direction, how)

    def scores_along(self, direction: Tensor, how: Solve) -> Scores:
        """`scores`, from what `direction` gave: the sweep alone."""
        return Scores.of(self.data.ids, *self.point.sweep(self.point.tangents(direction), self.method), how)

    def sweep(self, number: int, tangents: Embeddings) -> tuple[Tensor, Tensor]:
        """(N,) as positives, and (N,) as negatives: `Point.sweep` in one partition alone."""
        one = replace(self.objective, partitions=[self.objective.partitions[number]]).at(self.theta)
        one.embeddings = self.point.embeddings
        pos, neg = one.sweep(tangents, self.method)
        return pos[0], neg[0]

    def direction(self, query: Query) -> tuple[Tensor, Solve]:
        """w = H⁻¹ ∇f, (P,), and how it was found."""
        return self.solve(self.query_gradient(query))

    def group_scores(self, query: Query, groups: Sequence[Sequence[int | str]]) -> Tensor:
        """(len(groups),): the change of a query's loss if all pairs of a group were removed at once.

        Args:
            groups: ids.
        """
        places = [self.places(group) for group in groups]
        self.check_optimum()
        tangents = self.point.tangents(self.direction(query)[0])
        found = [self.point.removal_along(some, tangents, self.method) for some in places]
        return torch.stack([(pos + neg).mean() for pos, neg in found])

    def relative_scores(self, query: Query, *, probes: int = 64, progress: Progress | None = None) -> RelativeScores:
        """The largest change of a query's loss under a bound on the change of the parameters.

        Args:
            probes: random directions that the norms are estimated by; solved for once, and kept.
            progress: called with (done, in all).
        """
        found = self.scores(query)
        return self.norms(probes, progress=progress).relative(self.data.ids, found.pos, found.neg)

    def norms(
        self,
        probes: int = 64,
        *,
        known: Norms | None = None,
        keep: Callable[[Norms], None] | None = None,
        progress: Progress | None = None,
    ) -> Norms:
        """What relative scores of every query need, by so many probes; computed once.

        Args:
            known: by fewer probes of the same pairs, parameters and settings, to go on from.
            keep: called after each probe.
            progress: called with (done, in all).
        """
        whole("influence", "probes", probes, low=1)
        if self._norms is None or self._norms.probes != probes:
            found = known or Norms(self.theta.new_zeros(3, len(self.data)))
            generator = torch.Generator().manual_seed(self.seed)
            for number in range(probes):
                probe = self._probe(generator)
                if number < found.probes:
                    continue
                tangents = self.point.tangents(self.solve(probe, tolerance=max(self.tolerance, PROBE_TOLERANCE))[0])
                found = found.with_probe(*(part.mean(0) for part in self.point.sweep(tangents, self.method)))
                if keep is not None:
                    keep(found)
                if progress is not None:
                    progress(number + 1, probes)
            self._norms = found
        return self._norms

    def edit(self, remove: Sequence[int | str], *, step: Step = "influence") -> Parameters:
        """The parameters as they would be without some pairs, without training.

        Args:
            remove: ids.
            step: "influence", θ̂ + H⁻¹Δ_D; "newton", one Newton step on what is left, by its own curvature.

        Returns:
            by the towers' names; `HubTowers.named_in_model` gives them those of the model.
        """
        choice("influence", "step", step, get_args(Step))
        places = self.places(remove)
        if len(set(places)) == len(self.data):
            raise UserError("influence: all pairs are to be removed; wanted some to be left.")
        self.check_optimum()
        pos, neg = self.point.removal(places, "exact" if step == "newton" else self.method)
        change, _ = self.solve(pos + neg)
        if step == "newton":
            rest = self.objective.without(places).at(self.theta)
            change, _ = self._solved(rest, -rest.gradient(), self.tolerance, start=change)
        return {name: value.clone() for name, value in self.objective.named(self.theta + change).items()}

    def solve(self, target: Tensor, *, tolerance: float | None = None) -> tuple[Tensor, Solve]:
        """H⁻¹ b, (P,), and how it was found.

        Args:
            tolerance: where it is another than `scores` have.

        Raises:
            NotSolvedError: see `scores`.
        """
        return self._solved(self._curved_point, target, self.tolerance if tolerance is None else tolerance)

    def query_gradient(self, query: Query) -> Tensor:
        """∇f, (P,)."""
        towers, inputs = self.towers, asked(query, self.towers)
        at = towers.embed(inputs, towers.parameters)
        parts = [part.requires_grad_() for part in (at.texts, at.images, at.joint)]
        by = torch.autograd.grad(query.value(at, towers.loss), parts)
        return flat(towers.gradient(inputs, towers.parameters, type(at)(*by)))

    def query_loss(self, query: Query) -> float:
        """f, as the model has it."""
        return loss_of(query, self.towers)

    def precondition(self, residual: Tensor) -> Tensor:
        """M⁻¹ r, (P,), of the solves' preconditioner."""
        return self._sketch.apply(residual)

    @cached_property
    def point(self) -> Point:
        """The objective at the model's parameters."""
        return self.objective.at(self.theta)

    @cached_property
    def optimality(self) -> Optimality:
        """How far the parameters are from a minimum; the pairs' gradients by random probes."""
        gradient = self.point.gradient()
        generator = torch.Generator().manual_seed(self.seed)
        total = 0.0
        for _ in range(NORM_PROBES):
            pos, neg = self.point.sweep(self.point.tangents(self._probe(generator)), "exact")
            total += float((pos + neg).mean(0).double().square().sum()) / NORM_PROBES
        norm = float(torch.linalg.vector_norm(gradient))
        return Optimality(norm, norm / max(total, 1e-300) ** 0.5)

    def check_optimum(self) -> None:
        """Warn where the parameters are no minimum."""
        if self.optimality.ratio > OPTIMUM:
            warnings.warn(
                f"influence: the gradient's norm is {self.optimality.gradient_norm:.3g}, {self.optimality.ratio:.2g} "
                f"of what as many fresh pairs would have; wanted a minimum (below {OPTIMUM:g}), where removing a pair "
                "moves the parameters as the formula says. Scores are those of one damped step.",
                NotOptimalWarning,
                stacklevel=3,
            )

    def places(self, ids: Sequence[int | str]) -> list[int]:
        """Positions of pairs by their ids.

        Raises:
            ValueError: on an unknown id, or none at all.
        """
        unknown = [one for one in ids if one not in self._place]
        if unknown or not len(ids):
            raise UserError(
                f"influence: {len(unknown)} of {len(ids)} ids are unknown ({', '.join(map(repr, unknown[:3]))}); "
                f"wanted ids of the {len(self.data)} pairs, such as {self.data.ids[0]!r}."
            )
        return [self._place[one] for one in ids]

    @cached_property
    def _place(self) -> dict[int | str, int]:
        return {one: place for place, one in enumerate(self.data.ids)}

    @cached_property
    def _curved_point(self) -> Point:
        return self.point if self._curved is self.objective else self._curved.at(self.theta)

    @cached_property
    def _sketch(self) -> Sketch:
        """The preconditioner, from the Gauss-Newton matrix whatever the curvature is."""
        began = time.perf_counter()
        size, point = len(self.theta), self._curved_point
        rank = max(min(self.rank, size, SKETCH_BYTES // (size * self.theta.element_size())), 1)
        found = sketch(
            lambda direction: point.gauss_newton(direction) - self.damping * direction,
            size,
            rank,
            self.damping,
            self.theta,
            torch.Generator().manual_seed(self.seed),
        )
        self.preparation.add(rank, time.perf_counter() - began)
        return found

    def _probe(self, generator: torch.Generator) -> Tensor:
        """(P,): independent entries of mean 0 and variance 1."""
        return torch.randn(len(self.theta), generator=generator, dtype=torch.float64).to(self.theta)

    def _solved(
        self, point: Point, target: Tensor, tolerance: float, *, start: Tensor | None = None
    ) -> tuple[Tensor, Solve]:
        """x of A x = b, A the curvature at a point, and how it was found."""
        found, how = solve(
            point.hessian if self.curvature == "hessian" else point.gauss_newton,
            target,
            tolerance=tolerance,
            max_products=self.max_products,
            precondition=self._sketch.apply,
            start=start,
        )
        if not self.allow_unsolved:
            how.refuse_unsolved(tolerance)
        return found, how
