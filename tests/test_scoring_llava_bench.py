"""LLaVA-Bench: points and table as LLaVA's own scripts have them."""

from __future__ import annotations

import json
import math
import time

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.llava_bench_files import CATEGORIES
from tests.oracles.llava_bench_official import means, official_pair, official_table, quantile
from vdd import __version__
from vdd._check import UserError
from vdd.records import Question
from vdd.scoring.llava_bench import (
    GROUPS,
    UNREADABLE,
    figures,
    official,
    points,
    printed,
    score_llava_bench,
    sums,
    tolerant,
)
from vdd.sets.llava_bench import Review, tasks_for

HEADS = [
    "8 7", "8,7", "8, 7", "8 7 ", " 8 7", "8.5 10", "8\t7", "8", "", "8 7 9", "8 7\r", "\n8 7", "eight 7", "8/10 7/10",
    "Assistant 1: 8", "-1 -1", "1_0 9", "+8 7", "8e0 7", "0 0", "10 1", "9 9", "8  7",
]  # fmt: skip
WORDS = st.one_of(
    st.sampled_from(HEADS).flatmap(lambda head: st.sampled_from([head, f"{head}\nBoth answers …", f"{head}\n\n3 4"])),
    st.text("0189 ,.\n\t-", max_size=8),
)
POINTS = st.tuples(st.integers(1, 20), st.integers(1, 20)).map(lambda pair: (pair[0] / 2, pair[1] / 2))
ROWS = st.lists(st.tuples(st.sampled_from(CATEGORIES), POINTS), min_size=1, max_size=60)


def asked(count, per_image=2):
    return [Question(n, f"{n // per_image}.jpg", f"What of {n}?", "reference") for n in range(count)]


def scored(rows, **options):
    """The score of (category, pair) rows."""
    categories = [category for category, _ in rows]
    return score_llava_bench(asked(len(rows)), categories, [Review(None, pair) for _, pair in rows], **options)


def table_of(score):
    """What the command prints of each group that has reviews."""
    values = score.values
    return {
        name: printed(values[f"{name}_reference"], values[f"{name}_model"])
        for name in GROUPS
        if not math.isnan(values[name])
    }


@given(WORDS)
def test_points_are_read_as_llavas_script_reads_them(words):
    assert list(official(words)) == official_pair(words)


@pytest.mark.parametrize(
    ("words", "strict", "lenient"),
    [
        ("8 7\nBecause", (8, 7), (8, 7)),
        ("8,7", (8, 7), (8, 7)),
        ("8, 7", UNREADABLE, (8, 7)),
        ("8 7 \n", UNREADABLE, (8, 7)),
        ("\n\n8 7", UNREADABLE, (8, 7)),
        ("8\t7", UNREADABLE, (8, 7)),
        ("8 7\r\nBecause", (8, 7), (8, 7)),
        ("8", UNREADABLE, UNREADABLE),
        ("8 7 6", UNREADABLE, UNREADABLE),
        ("Both are good.", UNREADABLE, UNREADABLE),
        ("nan 7", UNREADABLE, UNREADABLE),
        ("8 inf", UNREADABLE, UNREADABLE),
        ("", UNREADABLE, UNREADABLE),
    ],
)
def test_the_two_rules_differ_where_the_docs_say(words, strict, lenient):
    assert (official(words), tolerant(words)) == (strict, lenient)


@given(ROWS)
def test_the_table_is_the_one_that_llavas_script_prints(rows):
    assert table_of(scored(rows)) == official_table(rows)


@given(ROWS, st.integers(1, 5))
def test_unreadable_reviews_count_as_in_llavas_script(rows, unreadable):
    rows = [*rows, *[(rows[0][0], UNREADABLE)] * unreadable]
    assume(all(reference >= 0.0005 for reference, _ in means(rows).values()))
    score = scored(rows)
    assert score.values["unreadable"] == unreadable
    assert table_of(score) == official_table(rows)


@given(ROWS, st.integers(1, 5))
def test_the_tolerant_rule_leaves_unreadable_reviews_out(rows, unreadable):
    words = [Review(f"{a}, {b}\n…", UNREADABLE) for _, (a, b) in rows] + [Review("?", UNREADABLE)] * unreadable
    categories = [category for category, _ in rows] + [rows[0][0]] * unreadable
    score = score_llava_bench(asked(len(words)), categories, words, parser="tolerant")
    plain = scored(rows)
    same = [name for name in plain.values if name not in ("n", "unreadable")]
    np.testing.assert_array_equal([score.values[name] for name in same], [plain.values[name] for name in same])
    assert (score.values["n"], score.values["unreadable"]) == (len(words), unreadable)


def test_figures_of_a_small_table_by_hand():
    score = scored([("conv", (8, 4)), ("conv", (10, 5)), ("detail", (6, 9))])
    assert score.values == {
        "all": 75.0,
        "all_reference": 8.0,
        "all_model": 6.0,
        "conv": 50.0,
        "conv_reference": 9.0,
        "conv_model": 4.5,
        "detail": 150.0,
        "detail_reference": 6.0,
        "detail_model": 9.0,
        "complex": pytest.approx(math.nan, nan_ok=True),
        "complex_reference": pytest.approx(math.nan, nan_ok=True),
        "complex_model": pytest.approx(math.nan, nan_ok=True),
        "n": 3,
        "missing": 0,
        "unreadable": 0,
    }
    assert json.loads(score.to_json())["complex"] is None


def test_missing_reviews_are_counted_and_change_no_figure():
    whole = scored([("conv", (8, 4)), ("detail", (10, 5))]).values
    part = score_llava_bench(
        asked(4), ["conv", "detail", "conv", "complex"], [Review(None, (8, 4)), Review(None, (10, 5)), None, None]
    ).values
    assert (part["n"], part["missing"]) == (4, 2)
    assert (part["all"], part["conv"], part["all_model"]) == (whole["all"], whole["conv"], whole["all_model"])


@pytest.mark.parametrize(
    "pairs",
    [[UNREADABLE] * 3, [(0.0, 0.0)], [(0.0, 5.0)], [(1.0, 1.0), UNREADABLE], [(1.0, 2.0), UNREADABLE, UNREADABLE]],
)
def test_there_is_no_figure_without_points_of_the_reference(pairs):
    values = scored([("conv", pair) for pair in pairs]).values
    assert math.isnan(values["all"])
    assert math.isnan(values["conv"])


def test_stored_points_come_first_under_the_official_rule_and_words_under_the_other():
    reviews = [
        Review("8, 7", UNREADABLE),
        Review("8 7", (9.0, 9.0)),
        Review("8 7", None),
        Review(None, (5.0, 6.0)),
        None,
    ]
    assert points(reviews) == [UNREADABLE, (9, 9), (8, 7), (5, 6), None]
    assert points(reviews, parser="tolerant") == [(8, 7), (8, 7), (8, 7), (5, 6), None]


def test_intervals_are_those_of_whole_images_drawn_by_hand():
    rows = [(CATEGORIES[n % 2], (8 + n % 3, 4 + (n * 7) % 5)) for n in range(24)]
    score = scored(rows, rng=np.random.default_rng(3), samples=300)
    assert set(score.intervals) == {"all", "conv", "detail"}
    again = np.random.default_rng(3)
    draws = np.concatenate([again.multinomial(12, np.full(12, 1 / 12), size=n) for n in (256, 44)])
    drawn = []
    for weights in draws.tolist():
        reference = sum(weights[n // 2] * pair[0] for n, (_, pair) in enumerate(rows))
        drawn.append(100 * sum(weights[n // 2] * pair[1] for n, (_, pair) in enumerate(rows)) / reference)
    low, high = score.intervals["all"]
    assert low == pytest.approx(quantile(drawn, 0.025), rel=1e-12)
    assert high == pytest.approx(quantile(drawn, 0.975), rel=1e-12)
    assert low < score.values["all"] < high


def test_an_interval_comes_from_the_resamples_in_which_the_category_occurs():
    rows = [("conv", (8, 6))] * 6 + [("detail", (8, 2))] * 2
    low, high = scored(rows, rng=np.random.default_rng(0), samples=200).intervals["detail"]
    assert (low, high) == (25.0, 25.0)
    assert scored([("conv", (8, 6))] * 2, rng=np.random.default_rng(0)).intervals == {}


def test_figures_of_many_tables_are_the_figures_of_each():
    tables = np.random.default_rng(0).integers(0, 9, size=(5, 4, 4))
    together = figures(tables)
    for number, table in enumerate(tables):
        alone = figures(table)
        np.testing.assert_array_equal([together[name][number] for name in GROUPS], [alone[name] for name in GROUPS])


def test_the_signature_says_parser_judge_and_version():
    score = scored([("conv", (8, 4))], name_parts=("llava-bench", "judge:m", "t:0.2", "max:1024"), parser="tolerant")
    assert score.signature.startswith(f"llava-bench|judge:m|t:0.2|max:1024|n:1|parse:tolerant|vdd:{__version__}|sha:")


def test_a_hundred_thousand_reviews_are_scored_in_seconds():
    count = 100_000
    reviews = [Review(f"{n % 10}, {n % 7}\n{'word ' * 40}", None) for n in range(count)]
    start = time.perf_counter()
    score_llava_bench(asked(count), [CATEGORIES[n % 3] for n in range(count)], reviews, parser="tolerant")
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: score_llava_bench([], [], []), "0 questions"),
        (lambda: score_llava_bench(asked(2), ["conv"] * 2, [None]), "1 reviews"),
        (lambda: score_llava_bench(asked(1), ["conv"], [None], parser="fuzzy"), "official, tolerant"),
        (lambda: scored([("coding", (8, 4))]), "conv, detail, complex"),
        (lambda: sums(["conv"], []), "0 pairs for 1"),
        (lambda: tasks_for([], ["an answer"]), "1 texts for 0"),
    ],
)
def test_errors_say_what_came_and_what_was_wanted(call, message):
    with pytest.raises(UserError, match=message):
        call()
