"""Expected figures: exact ones against sums by hand, F1 against every possible set of answers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vdd._check import UserError
from vdd.records import Question
from vdd.scoring.expected import expected_figures
from vdd.scoring.pope import figures, outcomes

CHANCES = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), min_size=1, max_size=4)


def every_outcome(rows):
    """(probability, predictions) of each way that the questions can be answered."""
    for said in itertools.product(("yes", "no", "other"), repeat=len(rows)):
        chance = 1.0
        for (yes, no, _), word in zip(rows, said, strict=True):
            chance *= {"yes": yes, "no": no, "other": 1 - yes - no}[word]
        if chance > 0:
            yield chance, said


@settings(max_examples=40)
@given(CHANCES)
def test_figures_are_the_mean_over_every_possible_set_of_answers(drawn):
    rows = [(yes / 8, no / 8, label) for yes, no, label in drawn]
    questions = [Question(n, f"{n}.png", "?", "yes" if label else "no") for n, (*_, label) in enumerate(rows)]
    want = dict.fromkeys(("accuracy", "balanced_accuracy", "tpr", "fpr", "f1"), 0.0)
    for chance, said in every_outcome(rows):
        exact = figures(outcomes(questions, said).sum(axis=0))
        for name in want:
            want[name] += chance * float(exact[name])
    got = expected_figures(
        [row[:2] for row in rows], [row[2] for row in rows], rng=np.random.default_rng(0), draws=20_000
    )
    for name in ("accuracy", "balanced_accuracy", "tpr", "fpr"):
        assert got[name] == pytest.approx(want[name], abs=1e-12)
    assert got["f1"] == pytest.approx(want["f1"], abs=0.02)  # 20,000 draws of a figure in [0, 1]: σ ≤ 0.0035


def test_sure_answers_give_exactly_popes_figures():
    questions = [Question(n, f"{n}.png", "?", ("yes", "no")[n % 2]) for n in range(9)]
    said = ["yes", "yes", "no", "no", "yes", "no", "yes", "other", "yes"]
    chances = [(word == "yes", word == "no") for word in said]
    got = expected_figures(chances, [q.label == "yes" for q in questions], rng=np.random.default_rng(0))
    want = figures(outcomes(questions, said).sum(axis=0))
    for name in ("accuracy", "balanced_accuracy", "tpr", "fpr", "f1"):
        assert got[name] == pytest.approx(float(want[name]), abs=1e-12)
    assert got["undecided"] == pytest.approx(1 / 9)
    assert got["yes_ratio"] == pytest.approx(5 / 8)


@pytest.mark.parametrize(
    ("chances", "labels"),
    [([[0.5, 0.6]], [True]), ([[-0.1, 0.5]], [True]), ([[0.5]], [True]), ([[0.5, 0.5]], [True, False]), ([], [])],
)
def test_other_shapes_and_values_out_of_range_are_errors(chances, labels):
    with pytest.raises(UserError, match="expected_figures: chances are"):
        expected_figures(chances, labels, rng=np.random.default_rng(0))
