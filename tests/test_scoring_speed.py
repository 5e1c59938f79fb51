"""Scoring is quick: stored answers are scored again and again."""

from __future__ import annotations

import time

import numpy as np

from vdd.records import Question
from vdd.scoring.pope import figures, outcomes, predictions, score_pope
from vdd.scoring.score import resample


def questions(count: int, images: int) -> list[Question]:
    return [Question(n, f"{n % images}.png", f"Is there a {n % 80} ?", ("yes", "no")[n % 2]) for n in range(count)]


def test_a_hundred_thousand_answers_take_less_than_five_seconds():
    asked = questions(100_000, 500)
    texts = [("Yes, there is.", "No.", "There is not one", "yes")[n % 4] for n in range(100_000)]
    start = time.perf_counter()
    score = score_pope(asked, texts)
    assert time.perf_counter() - start < 5
    assert score.values["n"] == 100_000


def test_a_thousand_draws_of_nine_thousand_questions_take_less_than_three_seconds():
    asked = questions(9_000, 1_500)
    texts = [("yes", "no", "no")[n % 3] for n in range(9_000)]
    rows = outcomes(asked, predictions(asked, texts))
    start = time.perf_counter()
    totals, _ = resample(rows, [q.image for q in asked], rng=np.random.default_rng(0), samples=1_000)
    drawn = figures(totals)["f1"]
    assert time.perf_counter() - start < 3
    assert drawn.shape == (1_000,)
