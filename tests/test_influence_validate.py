"""Influence held against training again: figures against plain ones, runs that go on, findings said as they are."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from typer.testing import CliRunner

import vdd.influence.validation as validation
from vdd._check import UserError
from vdd.cli import app
from vdd.influence.detection import Detector
from vdd.influence.problems import linear
from vdd.influence.store import Store
from vdd.influence.validate import (
    EXACT,
    GAUSS_NEWTON,
    GRADIENT,
    IDENTITY,
    NEWTON,
    NOTHING,
    ORDERS,
    SHARES,
    Cost,
    Predicted,
    Removed,
    agreement,
    cost,
    leave_one_out,
)
from vdd.influence.validation import Detected, Part, Plan, Validation, computed
from vdd.influence_report import findings, markdown, read, tables, write
from vdd.plots import can_chart


def pearson(a, b):
    middle_a, middle_b = sum(a) / len(a), sum(b) / len(b)
    top = sum((x - middle_a) * (y - middle_b) for x, y in zip(a, b, strict=True))
    return top / math.sqrt(sum((x - middle_a) ** 2 for x in a) * sum((y - middle_b) ** 2 for y in b))


def ranks(values):
    return [sum(other < one for other in values) + (sum(other == one for other in values) + 1) / 2 for one in values]


def predicted(said, true, name=EXACT):
    return Predicted(np.array(true, dtype=float), {name: np.array(said, dtype=float)}, 1.0)


def invoke(*args):
    return CliRunner().invoke(app, ["influence", "validate", *map(str, args)])


# figures


def test_agreement_is_pearson_spearman_and_slope_by_their_formulas_ties_included():
    said, true = [0.5, 1.0, 1.0, 2.0, -1.0, 0.0], [0.25, 1.5, 0.75, 2.0, -2.0, -2.0]
    found = agreement([predicted(said, true)], EXACT)
    assert found.pearson == pytest.approx(pearson(said, true), rel=1e-12)
    assert found.spearman == pytest.approx(pearson(ranks(said), ranks(true)), rel=1e-12)
    assert found.slope == pytest.approx(np.polyfit(said, true, 1)[0], rel=1e-9)
    for value, (low, high) in ((found.pearson, found.pearson_interval), (found.spearman, found.spearman_interval)):
        assert -1 <= low < value < high <= 1


def test_the_bootstrap_ranks_each_draw_anew():
    rng = np.random.default_rng(1)
    said, true = rng.integers(5, size=7).astype(float), rng.normal(size=7)
    draws = np.vstack([np.arange(7), np.random.default_rng(0).integers(7, size=(1000, 7))])[1:]
    want = []
    for draw in draws.tolist():
        a, b = ranks([said[place] for place in draw]), ranks([true[place] for place in draw])
        if len(set(a)) > 1 and len(set(b)) > 1:
            want.append(pearson(a, b))
    found = agreement([predicted(said, true)], EXACT)
    assert found.spearman_interval == pytest.approx(tuple(np.quantile(want, [0.025, 0.975])), rel=1e-9)


def test_agreement_is_the_mean_over_seeds():
    runs = [predicted([1, 2, 3], [1, 2, 3]), predicted([1, 2, 3], [3, 2, 1])]
    found = agreement(runs, EXACT)
    assert found.pearson == pytest.approx(0)
    assert found.spearman == pytest.approx(0)


def test_what_only_orders_pairs_has_no_slope_and_what_is_constant_no_correlation():
    assert math.isnan(agreement([predicted([1, 2, 4], [1, 2, 3], IDENTITY)], IDENTITY).slope)
    found = agreement([predicted([1, 1, 1], [1, 2, 3])], EXACT)
    assert math.isnan(found.pearson)
    assert math.isnan(found.spearman_interval[0])


@pytest.fixture(scope="module")
def problem():
    return linear(0, curvature="hessian")


@pytest.mark.slow
def test_leaving_one_out_is_foretold_and_one_newton_step_nearly_is_the_truth(problem):
    told = []
    found = leave_one_out(problem, 4, 0, progress=lambda done, total: told.append((done, total)))
    assert told == [(number, 4) for number in range(1, 5)]
    assert found.seconds > 0
    chosen = np.random.default_rng(0).permutation(72)[:4].tolist()
    began = problem.loss(problem.ecif.theta)
    assert found.true[2] == pytest.approx(problem.loss(problem.retrained([chosen[2]])) - began, abs=1e-12)
    scores = problem.ecif.scores(problem.query).total
    np.testing.assert_allclose(found.estimates[EXACT], scores[chosen], rtol=1e-6)
    assert agreement([found], NEWTON).pearson > 0.99
    assert agreement([found], EXACT).pearson > 0.9
    assert set(found.estimates) > {EXACT, GAUSS_NEWTON, IDENTITY, GRADIENT}


def test_costs_count_the_preconditioner_once(problem):
    found = cost(problem)
    assert found.prepared == 32
    assert found.solved > 1
    assert found.seconds == found.prepared_seconds + found.solved_seconds + found.swept_seconds


# what is said


def removed(order, share, retrained, edited):
    ways = {"retrained": retrained, "influence": edited, "newton": edited}
    losses = dict.fromkeys(ways, 1 - share / 2 if order == "harmful" else 1.0)
    return Removed(order, share, losses, ways)


@pytest.fixture
def made():
    """A validation made up: the identity ranks best, pair loss detects best, one edit is 3 points off."""
    true = np.arange(6.0)
    estimates = {
        EXACT: true * 0.5, GAUSS_NEWTON: np.array([0, 2, 1, 3, 5, 4.0]), IDENTITY: true * 9, NEWTON: true,
        GRADIENT: -true,
    }  # fmt: skip
    run = Predicted(true, estimates, 2.0)
    left = [removed(NOTHING, 0.0, 0.5, 0.5)]
    left += [
        removed(order, share, 0.5, 0.53 if (order, share) == ("valuable", 0.3) else 0.5)
        for order in ORDERS
        for share in SHARES
    ]
    found = [
        Detector(name, area, {10: 0.5, 14: 0.25})
        for name, area in (("influence", 0.7), ("pair loss", 0.9), ("chance", 0.5))
    ]
    parts = [
        (Part("leave-one-out", "linear", 0, 20, 6), run),
        (Part("cost", "linear", 0, 20, 1), Cost(100, 32, 1.0, 5, 0.5, 0.5)),
        (Part("leave-one-out", "embedded", 0, 20, 6), run),
        (Part("subsets", "embedded", 0, 20, 6), run),
        (Part("removal", "embedded", 0, 20, 12), left),
        (Part("cost", "embedded", 0, 20, 1), Cost(100, 32, 1.0, 5, 0.5, 0.5)),
        (Part("detection", "embedded", 0, 20, 1), Detected(14, found)),
    ]
    return Validation({"validate": {"seeds": 1}}, parts)


def test_findings_that_do_not_flatter_are_said(made):
    said = "\n".join(findings(made))
    assert "linear problem: “exact, Hessian” foretells leaving one out with Pearson 1.000 and Spearman 1.000" in said
    assert (
        "the identity Hessian, which solves nothing, orders pairs no worse than “exact, Hessian” and “exact, GGN”"
        in said
    )
    assert "best found by pair loss, AUROC 0.900; influence reaches 0.700" in said
    assert "within 0.5 point of accuracy of training again in 11 of 12 removals; at most 3.0 points off" in said
    assert "(valuable, 30%, seed 0)" in said
    assert "removing the most harmful pairs is no better than chance" in said


def test_tables_hold_every_section_and_the_ratio_of_costs(made):
    shown = tables(made)
    assert [one.title.split(":")[0] for one in shown[:3]] == [
        "linear problem, one pair left out", "embedded problem, one pair left out",
        "embedded problem, 10% of the pairs left out (LDS)",
    ]  # fmt: skip
    costs = shown[-1]
    assert costs.rows[0][:4] == ["linear", "100", "200.0", "2.00"]
    assert costs.rows[0][-1] == "100"
    first = {row[0]: row for row in shown[0].rows}
    assert first[EXACT][3] == "2.00"
    assert first[IDENTITY][3] == ""
    assert all(len(row) == len(one.columns) for one in shown for row in one.rows)


def test_a_validation_is_read_back_as_it_was_written(made, tmp_path):
    write(tmp_path, made)
    again = read(tmp_path / "validation.json")
    assert json.dumps(again.to_json()) == json.dumps(made.to_json())
    assert markdown(again) == markdown(made) == (tmp_path / "validation.md").read_text(encoding="utf-8")
    for name in ("leave-one-out", "removal", "detection"):
        assert (tmp_path / f"{name}.png").exists() == can_chart()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"settings": {}, "parts": [{"section": "cost"}]}'])
def test_what_is_no_validation_is_refused(tmp_path, text):
    (tmp_path / "validation.json").write_text(text)
    with pytest.raises(UserError, match="no validation"):
        read(tmp_path / "validation.json")


# the command

LINEAR = ("--problem", "linear", "--shortest")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("validate") / "out"
    result = invoke("--out", out, *LINEAR)
    assert result.exit_code == 0, result.exception
    return out, result


@pytest.mark.slow
def test_the_command_writes_figures_tables_and_pictures_and_shows_them(ran):
    out, result = ran
    assert "linear problem, one pair left out: 3 times, 1 seed" in result.stdout
    assert "embedded" not in result.stdout
    assert (out / "validation.md").read_text().count("###") == 3
    assert {one.name for one in (out / "parts").glob("*.safetensors")} == {
        "leave-one-out-linear-0-20.safetensors", "cost-linear-0-20.safetensors",
    }  # fmt: skip
    assert len(read(out / "validation.json").parts) == 2
    if can_chart():
        assert (out / "leave-one-out.png").exists()


def test_a_second_run_computes_nothing(ran, monkeypatch):
    out, _ = ran
    before = (out / "validation.json").read_bytes()
    monkeypatch.setattr(validation, "linear", lambda *_, **__: pytest.fail("computed again"))
    assert invoke("--out", out, *LINEAR).exit_code == 0
    assert (out / "validation.json").read_bytes() == before


def test_other_settings_are_refused_and_change_nothing(ran):
    out, _ = ran
    before = (out / "validation.json").read_bytes()
    result = invoke("--out", out, "--problem", "linear")
    assert isinstance(result.exception, UserError)
    assert "another run's results" in str(result.exception)
    assert (out / "validation.json").read_bytes() == before


def test_a_killed_run_goes_on_with_what_is_not_there(tmp_path, monkeypatch, problem):
    monkeypatch.setattr(validation, "linear", lambda *_, **__: problem)
    plan, store, measured, calls = Plan.shortest(("linear",)), Store(tmp_path, "x"), validation._measured, []

    def killed_at_the_second(*given):
        calls.append(given[1].section)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return measured(*given)

    monkeypatch.setattr(validation, "_measured", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        computed(plan, {}, store)
    found = computed(plan, {}, store)
    assert calls == ["leave-one-out", "cost", "cost"]
    assert len(found.parts) == 2


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--problem", "square"), "unknown problem 'square'; known: linear, embedded, both"),
        (("--seeds", 0), "seeds is 0"),
        (("--removals", 2), "removals is 2; wanted a whole number from 3 to 400"),
        (("--removals", 60, "--pairs", 50), "removals is 60; wanted a whole number from 3 to 50"),
        (("--subsets", 1), "subsets is 1"),
        (("--pairs", 20), "pairs is 20; wanted a whole number ≥ 40"),
    ],
)
def test_sizes_out_of_range_are_refused_before_anything_is_made(tmp_path, args, told):
    result = invoke("--out", tmp_path / "out", *args)
    assert isinstance(result.exception, UserError)
    assert told in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    result = invoke("--out", tmp_path, *LINEAR)
    assert isinstance(result.exception, UserError)
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_every_section_runs_on_both_problems(tmp_path):
    result = invoke("--out", tmp_path / "out", "--shortest")
    assert result.exit_code == 0, result.exception
    found = read(tmp_path / "out" / "validation.json")
    assert {part.section for part, _ in found.parts} == {"leave-one-out", "subsets", "removal", "detection", "cost"}
    assert "trained again without 20% of the pairs, accuracy goes from" in result.stdout
    (detected,) = found.runs("detection", "embedded")
    assert "identity Hessian" in [one.name for one in detected.detectors]
