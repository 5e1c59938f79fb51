"""Scores at a minimum against whole matrices and against training again without each pair; what is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.oracles import influence as slow
from vdd._check import UserError
from vdd.influence.curvature import NotSolvedError
from vdd.influence.ecif import ECIF, NotOptimalWarning
from vdd.influence.encoders import Pairs, Towers
from vdd.influence.query import ValidationPairs
from vdd.influence.retrain import minimise
from vdd.influence.scores import Scores

COUNT, SHUFFLED, CLEAN = 16, 2, 12
AGAIN = 11
"""Pairs without which the model is trained again, the shuffled ones among them."""
DAMPING = 2.0


@dataclass
class Trained:
    """A model at the minimum of the first pairs of a world, two of which have changed texts; the others are clean."""

    world: slow.World
    before: ECIF
    towers: Towers
    query: ValidationPairs

    @cached_property
    def whole(self) -> ECIF:
        """With the Hessian, by the exact method."""
        return self.ecif()

    @cached_property
    def hessian(self) -> Tensor:
        """(P, P): of the whole objective."""
        return self.problem(self.whole).hessian()

    @cached_property
    def removals(self) -> tuple[Tensor, Tensor]:
        """(R, N, P) each: what every pair takes out as a positive, and in all, by the exact method."""
        return self.removals_by("exact")

    def removals_by(self, method: str) -> tuple[Tensor, Tensor]:
        problem = self.problem(self.whole)

        def every(theta: Tensor) -> tuple[Tensor, Tensor]:
            own, total = zip(*(problem.removed(theta, [n], method) for n in range(COUNT)), strict=True)
            return torch.stack(own, 1), torch.stack(total, 1)

        return torch.func.jacrev(every)(problem.theta())

    @cached_property
    def alone(self) -> list[float]:
        """The query's loss after training again without each of the first pairs, less the loss with all."""
        inverse = torch.linalg.inv(self.hessian)
        start, found = self.whole.theta, []
        for n in range(AGAIN):
            rest = self.whole.objective.without([n])
            again = minimise(rest, start, gradient_norm=1e-2, precondition=lambda r: inverse @ r)
            assert again.converged
            found.append(self.loss(again.theta) - self.loss(start))
        return found

    def ecif(self, **settings: Any) -> ECIF:
        settings = {"damping": DAMPING, "batch_size": 8, "partitions": 2, "curvature": "hessian"} | settings
        pairs = self.towers.pairs(self.world.images[:COUNT], self.world.texts[:COUNT])
        return ECIF(self.towers, pairs, **{"anchor": self.before.towers.parameters, "tolerance": 1e-10} | settings)

    def problem(self, influence: ECIF) -> slow.Problem:
        """The same as the oracle has it."""
        objective = influence.objective
        partitions = [[row.tolist() for group in groups for row in group.places] for groups in objective.partitions]
        names = list(self.towers.parameters)
        return slow.Problem(self.world, names, "contrastive", "sum", partitions, None, DAMPING, objective.anchor)

    def loss(self, theta: Tensor) -> float:
        asked = Pairs(self.query.images, self.query.texts, (), torch.empty(0))
        at = self.towers.embed(asked, self.before.objective.named(theta))
        return float(self.query.value(at, self.towers.loss))


@pytest.fixture(scope="module")
def trained() -> Trained:
    world = slow.matched_world(COUNT + CLEAN, seed=0, shuffled=SHUFFLED)
    world.log_scale.data.fill_(1.0)
    towers = Towers(world.image, world.text, log_scale=1.0)
    pairs = towers.pairs(world.images[:COUNT], world.texts[:COUNT])
    start = towers.with_parameters({name: value.clone() for name, value in towers.parameters.items()})
    before = ECIF(start, pairs, damping=DAMPING, batch_size=8, partitions=2)
    found = minimise(before.objective, before.theta, gradient_norm=1e-9, precondition=before.precondition)
    assert found.converged
    query = ValidationPairs(world.images[COUNT:], world.texts[COUNT:])
    with torch.no_grad():  # so that the oracle's world stands at the minimum too
        for name, value in before.objective.named(found.theta).items():
            world.named()[name].copy_(value)
    return Trained(world, before, Towers(world.image, world.text, log_scale=1.0), query)


@pytest.mark.parametrize(
    ("curvature", "method"),
    [
        ("hessian", "exact"),
        ("ggn", "exact"),
        pytest.param("ggn", "zeta", marks=pytest.mark.slow),
        pytest.param("ggn", "positive_only", marks=pytest.mark.slow),
    ],
)
def test_scores_are_those_of_whole_matrices(trained, curvature, method):
    influence = trained.ecif(curvature=curvature, method=method)
    problem = trained.problem(influence)
    matrix = trained.hessian if curvature == "hessian" else problem.gauss_newton()
    direction = torch.linalg.solve(matrix, influence.query_gradient(trained.query))
    got = influence.scores(trained.query)
    own, total = trained.removals if method == "exact" else trained.removals_by(method)
    want = total @ direction  # (R, N)
    scale = float(want.abs().max())
    torch.testing.assert_close(got.total, want.mean(0), rtol=0, atol=1e-9 * scale)
    torch.testing.assert_close(got.pos, (own @ direction).mean(0), rtol=0, atol=1e-9 * scale)
    torch.testing.assert_close(got.pos + got.neg, got.total)
    torch.testing.assert_close(got.standard_error, (want[0] - want[1]).abs() / 2, rtol=0, atol=1e-9 * scale)
    assert got.solve.converged
    assert list(got.ids) == list(range(COUNT))


def test_a_mismatched_pair_is_harmful_by_its_score_and_by_training_again_without_it(trained):
    scores = trained.whole.scores(trained.query).total
    for n in range(SHUFFLED):
        assert float(scores[n]) < 0
        assert trained.alone[n] < 0
    most = max(range(AGAIN), key=trained.alone.__getitem__)
    assert trained.alone[most] > 0
    assert float(scores[most]) > 0


def test_scores_tell_what_training_again_without_each_pair_does(trained):
    for method in ("exact", "zeta"):
        scores = trained.ecif(method=method).scores(trained.query).total[:AGAIN].tolist()
        assert slow.pearson(scores, trained.alone) > 0.9
        assert slow.spearman(scores, trained.alone) > 0.9


def test_the_negative_role_as_notes_of_the_paper_print_it_tells_nothing(trained):
    """Σ_{k≠n} (1/P_kn + 1/Q_nk) in place of Σ_{k≠n} (P_kn + Q_nk)."""
    influence = trained.whole
    problem = trained.problem(influence)
    direction = influence.direction(trained.query)[0]
    printed = [0.0] * COUNT
    for batch in (batch for one in problem.partitions for batch in one):
        for place, pair in enumerate(batch):

            def inverse(theta, batch=batch, place=place):
                logits = trained.world.logits(problem.at(theta), batch)
                other = [k for k in range(len(batch)) if k != place]
                return (1 / logits.softmax(1)[other, place]).sum() + (1 / logits.softmax(0)[place, other]).sum()

            printed[pair] += slow.along(inverse, problem.theta(), direction)
    own, printed = influence.scores(trained.query).pos[:AGAIN].tolist(), printed[:AGAIN]
    assert abs(slow.pearson(printed, trained.alone)) < 0.3
    both = [a + b / len(problem.partitions) for a, b in zip(own, printed, strict=True)]
    assert abs(slow.pearson(both, trained.alone)) < 0.3


def test_a_groups_score_is_that_of_its_removal_at_once(trained):
    influence = trained.whole
    problem, groups = trained.problem(influence), [[0], [1, 4, 9], [3, 2, 2]]
    direction = torch.linalg.solve(trained.hessian, influence.query_gradient(trained.query))
    want = [float(problem.removal_gradients(sorted(set(group)), "exact")[1].mean(0) @ direction) for group in groups]
    assert influence.group_scores(trained.query, groups).tolist() == pytest.approx(want, rel=1e-8)


def test_one_partitions_sweep_is_its_part_of_the_scores(trained):
    influence = trained.whole
    direction, how = influence.direction(trained.query)
    parts = [influence.sweep(number, influence.point.tangents(direction)) for number in range(2)]
    got = Scores.of(influence.data.ids, *(torch.stack(side) for side in zip(*parts, strict=True)), how)
    want = influence.scores_along(direction, how)
    assert torch.equal(got.total, want.total)
    assert torch.equal(got.standard_error, want.standard_error)


def test_one_partition_has_no_standard_error():
    assert Scores.of(range(3), torch.ones(1, 3), torch.ones(1, 3), None).standard_error.isnan().all()


def relative(matrix, removals, gradient):
    """(tied, free) of every pair, by one solve for each."""
    tied, free = [], []
    for own, total in zip(*(part.mean(0) for part in removals), strict=True):
        shares = torch.linalg.solve(matrix, torch.stack([own, total - own]).T).T
        both, parts = shares.sum(0), shares @ gradient
        tied.append(float(gradient @ both / both.norm()))
        free.append(math.sqrt(float(parts @ torch.linalg.pinv(shares @ shares.T) @ parts)))
    return tied, free


@pytest.mark.slow
def test_relative_scores_by_probes_rank_pairs_as_one_solve_for_each_pair_does(trained):
    influence = trained.ecif(curvature="ggn")
    problem = trained.problem(influence)
    tied, free = relative(problem.gauss_newton(), trained.removals, influence.query_gradient(trained.query))
    calls = []
    got = influence.relative_scores(trained.query, probes=64, progress=lambda *done: calls.append(done))
    assert slow.spearman(got.tied.tolist(), tied) > 0.9
    assert max(abs(a / b - 1) for a, b in zip(got.tied.tolist(), tied, strict=True)) < 0.5
    assert calls == [(done, 64) for done in range(1, 65)]
    assert (got.free >= got.tied.abs() * (1 - 1e-6)).all()
    assert torch.equal(got.signed_free.sign(), got.tied.sign())
    influence.relative_scores(trained.query, probes=64, progress=lambda *done: calls.append(done))
    assert len(calls) == 64  # kept for every query
    assert slow.spearman(got.free.tolist(), free) > 0.8


def test_with_every_direction_once_for_probes_relative_scores_are_exact(trained, monkeypatch):
    influence = trained.ecif(curvature="ggn")
    problem, size = trained.problem(influence), len(influence.theta)
    basis = iter(size**0.5 * torch.eye(size, dtype=torch.float64))
    influence.scores(trained.query)  # the measure of the minimum draws probes too
    monkeypatch.setattr(influence, "_probe", lambda generator: next(basis))
    got = influence.relative_scores(trained.query, probes=size)
    tied, free = relative(problem.gauss_newton(), trained.removals, influence.query_gradient(trained.query))
    assert got.tied.tolist() == pytest.approx(tied, rel=1e-2)
    assert got.free.tolist() == pytest.approx(free, rel=1e-2)


def test_probes_may_go_on_from_those_that_are_known(trained):
    kept = []
    whole = trained.ecif(curvature="ggn").norms(6, keep=kept.append)
    assert [one.probes for one in kept] == [1, 2, 3, 4, 5, 6]
    later = trained.ecif(curvature="ggn").norms(6, known=kept[2])
    torch.testing.assert_close(later.sums, whole.sums, rtol=1e-9, atol=0)


def test_a_curvature_of_some_pairs_is_scaled_up_to_all(trained):
    influence = trained.ecif(curvature="ggn", curvature_pairs=6, batch_size=4)
    curved = influence._curved
    chosen = curved.pairs.ids
    assert len(set(chosen)) == 6
    problem = trained.problem(influence)
    problem.damping = 0.0
    problem.partitions = [
        [[chosen[place] for place in row] for group in groups for row in group.places.tolist()]
        for groups in curved.partitions
    ]
    matrix = problem.gauss_newton() * COUNT / 6 + DAMPING * torch.eye(len(influence.theta), dtype=torch.float64)
    target = influence.query_gradient(trained.query)
    torch.testing.assert_close(influence.solve(target)[0], torch.linalg.solve(matrix, target), rtol=1e-7, atol=1e-10)
    for count in (1, COUNT + 1):
        with pytest.raises(UserError, match="curvature_pairs"):
            trained.ecif(curvature_pairs=count)


def test_a_newton_step_comes_closer_than_an_influence_step_to_training_again_without_some_pairs(trained):
    influence = trained.whole
    gone = [0, 5]
    start = influence.theta
    again = minimise(influence.objective.without(gone), start, gradient_norm=1e-3, precondition=influence.precondition)
    assert again.converged
    flat = {
        step: torch.cat([value.flatten() for value in influence.edit(gone, step=step).values()])
        for step in ("influence", "newton")
    }
    far = {step: float((theta - again.theta).norm()) for step, theta in flat.items()}
    assert far["newton"] < far["influence"] < float((start - again.theta).norm())
    problem = trained.problem(influence)
    step = torch.linalg.solve(trained.hessian, problem.removal_gradients(gone, "exact")[1].mean(0))
    torch.testing.assert_close(flat["influence"], start + step, rtol=0, atol=1e-8)
    assert torch.equal(influence.theta, start)


def test_away_from_the_minimum_a_warning_says_how_far_and_at_it_none_comes(trained):
    with pytest.warns(NotOptimalWarning, match="the gradient's norm is .* wanted a minimum"):
        trained.before.scores(trained.query)
    assert trained.whole.optimality.gradient_norm < 1e-8
    trained.whole.check_optimum()  # a warning would be an error here


def test_an_unsolved_system_gives_no_scores_unless_they_are_asked_for(trained):
    short = {"max_products": 1, "rank": 1}
    with pytest.raises(NotSolvedError, match=r"after 2 products the residual is .* wanted 1e-10"):
        trained.ecif(**short).scores(trained.query)
    got = trained.ecif(**short, allow_unsolved=True).scores(trained.query)
    assert not got.solve.converged
    assert got.total.isfinite().all()


def test_a_curvature_that_bends_down_is_said_to(trained):
    bad = ECIF(trained.before.towers, trained.before.data, curvature="hessian", damping=0.01, tolerance=1e-6)
    with (
        pytest.warns(NotOptimalWarning),
        pytest.raises(NotSolvedError, match=r"a direction has curvature -.*no minimum"),
    ):
        bad.scores(trained.query)


def test_where_every_caption_is_the_same_and_masked_the_error_says_that_there_are_no_negatives(trained):
    texts = trained.world.texts[:1].expand(COUNT, -1).clone()
    pairs = trained.towers.pairs(trained.world.images[:COUNT], texts)
    with pytest.raises(UserError, match=f"all {COUNT} pairs have one text, which is masked; wanted negatives"):
        ECIF(trained.towers, pairs, duplicates="masked")


def test_an_anchor_of_other_names_or_shapes_is_refused(trained):
    pairs, known = trained.before.data, trained.before.towers.parameters
    for anchor, message in (
        ({}, "image.weight is missing, text.weight is missing; wanted {'image.weight': .4, 4."),
        ({**known, "image.weight": torch.zeros(2, 4)}, r"image.weight is \(2, 4\); wanted"),
        ({**known, "image.weight": torch.full((4, 4), math.nan)}, "image.weight has values that are NaN"),
    ):
        with pytest.raises(UserError, match=message):
            ECIF(trained.towers, pairs, anchor=anchor)


@pytest.mark.parametrize(("dtype", "wanted"), [(torch.float64, 1e-5), (torch.float32, 1e-3)])
def test_the_default_tolerance_is_one_that_the_type_can_hold(dtype, wanted):
    world = slow.random_world(6, seed=0)
    towers = Towers(world.image.to(dtype), world.text.to(dtype), log_scale=1.0)
    influence = ECIF(towers, towers.pairs(world.images.to(dtype), world.texts.to(dtype)), damping=0.1)
    assert influence.tolerance == wanted


@pytest.mark.parametrize(
    ("remove", "message"), [([], "0 of 0"), (["x", 1], "1 of 2 ids are unknown .'x'."), ([99], "99")]
)
def test_ids_that_are_not_of_the_pairs_are_refused(trained, remove, message):
    for use in (trained.whole.edit, lambda ids: trained.whole.group_scores(trained.query, [ids])):
        with pytest.raises(UserError, match=message):
            use(remove)


def test_all_pairs_cannot_be_removed(trained):
    with pytest.raises(UserError, match="all pairs are to be removed"):
        trained.whole.edit(list(range(COUNT)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"curvature": "fisher"}, "unknown curvature 'fisher'"),
        ({"method": "first"}, "unknown method"),
        ({"normaliser": "mean"}, "unknown normaliser"),
        ({"duplicates": "keep"}, "unknown duplicates"),
        ({"partitions": 0}, "partitions is 0"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"damping": -1.0}, "damping is -1"),
        ({"damping": math.nan}, "damping is nan"),
        ({"max_products": 0}, "max_products is 0"),
        ({"tolerance": 2.0}, "tolerance is 2"),
    ],
)
def test_settings_out_of_range_are_refused(trained, settings, message):
    with pytest.raises(UserError, match=message):
        trained.ecif(**settings)


def test_one_pair_alone_is_refused(trained):
    with pytest.raises(UserError, match="1 pairs; wanted two or more"):
        ECIF(trained.towers, trained.towers.pairs(trained.world.images[:1], trained.world.texts[:1]))


def test_the_default_damping_is_three_times_what_makes_the_loss_convex_or_a_tenth_of_the_mean_curvature(trained):
    influence = trained.ecif(damping=None, curvature="ggn")
    problem = trained.problem(influence)
    problem.damping = 0.0
    convex = -3 * float(torch.linalg.eigvalsh(problem.hessian())[0])
    mean = float(problem.gauss_newton().diagonal().mean()) / 10
    assert convex > mean
    assert influence.damping == pytest.approx(convex, rel=0.1)  # by sixteen products
    assert influence.preparation.products == 24
