import json
import math
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import slow_statistics
from vdd._check import UserError
from vdd.records import Question, Score
from vdd.scoring.score import (
    auroc,
    bootstrap_interval,
    expected_calibration_error,
    interval,
    mcnemar,
    paired_bootstrap,
    questions_sha,
    resample,
    signature,
    transitions,
)

GRID = st.integers(-16, 16).map(lambda k: k / 8) | st.sampled_from([math.inf, -math.inf])
SCORED = st.lists(st.tuples(GRID, st.booleans()), min_size=2, max_size=40).filter(
    lambda rows: len({positive for _, positive in rows}) == 2
)
CONFIDENT = st.lists(
    st.tuples(st.integers(0, 30).map(lambda k: k / 30) | st.floats(0, 1), st.booleans()), min_size=1, max_size=40
)
QUESTIONS = [Question(1, "a.jpg", "Is there a cat?", "yes"), Question(2, "b.jpg", "Is there a dog?", "no")]


def rng(seed=0):
    return np.random.default_rng(seed)


def columns(rows):
    return map(list, zip(*rows, strict=True))


# Ranking and calibration


@given(SCORED)
def test_auroc_is_the_share_of_pairs_in_the_right_order(rows):
    scores, positive = columns(rows)
    assert auroc(scores, positive) == pytest.approx(slow_statistics.auroc(scores, positive), rel=1e-15)


def test_auroc_agrees_with_scikit_learn_on_scores_with_many_ties():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    positive = rng().random(2000) < 0.4
    scores = np.round(rng(1).normal(size=2000) + positive, 1)
    assert auroc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive, scores), abs=1e-12)


@given(SCORED)
def test_auroc_turns_around_with_the_scores_and_ignores_their_scale(rows):
    scores, positive = columns(rows)
    assert auroc([-s for s in scores], positive) == pytest.approx(1 - auroc(scores, positive), abs=1e-12)
    assert auroc([math.atan(s) for s in scores], positive) == auroc(scores, positive)


@pytest.mark.parametrize("positive", [[True, True], [False, False]])
def test_auroc_of_a_single_class_is_nan_and_null_in_json(positive):
    value = auroc([0.0, 1.0], positive)
    assert math.isnan(value)
    written = Score({"auroc": value}, "pope", {"auroc": (value, math.inf)}).to_json()
    assert json.loads(written) == {"auroc": None, "intervals": {"auroc": [None, None]}, "signature": "pope"}
    assert "NaN" not in written


@given(CONFIDENT, st.integers(1, 20))
def test_calibration_error_matches_its_definition(rows, bins):
    confidence, correct = columns(rows)
    want = slow_statistics.expected_calibration_error(confidence, correct, bins)
    assert expected_calibration_error(confidence, correct, bins=bins) == pytest.approx(want, abs=1e-12)


def test_calibration_bins_are_closed_above_and_the_first_holds_zero():
    # In one bin 1 − 0.5 and 0 − 0.25 cancel in part; in two bins they would add up.
    assert expected_calibration_error([0.5, 0.25], [True, False], bins=2) == 0.125
    assert expected_calibration_error([0.0, 0.5], [True, False], bins=2) == 0.25
    assert expected_calibration_error([0.51, 0.25], [True, False], bins=2) == pytest.approx(0.37)
    assert expected_calibration_error([0.75] * 4, [True, True, True, False]) == 0.0
    assert expected_calibration_error([1.0], [False]) == 1.0


# McNemar


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_matches_the_binomial_in_fractions(rows):
    a, b = columns(rows)
    only_a, only_b = sum(x and not y for x, y in rows), sum(y and not x for x, y in rows)
    assert mcnemar(a, b) == (only_a, only_b, slow_statistics.mcnemar_p(only_a, only_b))


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 5), (3, 12), (200, 260), (0, 1500), (4000, 4100)])
def test_mcnemar_agrees_with_scipy(only_a, only_b):
    stats = pytest.importorskip("scipy.stats", reason="scipy is not installed")
    a = [True] * only_a + [False] * only_b + [True]
    b = [False] * only_a + [True] * only_b + [True]
    want = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar(a, b).p == pytest.approx(want, rel=1e-9, abs=sys.float_info.min)


# Bootstrap


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 5)), min_size=2, max_size=12), st.integers(0, 99))
def test_a_resample_is_whole_images_written_out(rows, seed):
    images, values = columns(rows)
    distinct = list(dict.fromkeys(images))
    if len(distinct) < 2:
        return
    totals, n = resample(values, images, rng=rng(seed), samples=4)
    draws = rng(seed).multinomial(len(distinct), [1 / len(distinct)] * len(distinct), size=4)
    for total, size, times in zip(totals, n, draws.tolist(), strict=True):
        drawn = slow_statistics.redraw(values, images, times)
        assert (total, size) == (sum(drawn), len(drawn))


def test_resampling_in_blocks_is_resampling_at_once():
    totals, n = resample(np.arange(6), list("aabbcc"), rng=rng(3), samples=700)
    draws = rng(3).multinomial(3, [1 / 3] * 3, size=700)
    assert totals.tolist() == (draws @ [1, 5, 9]).tolist()
    assert set(n) == {6.0}


def test_an_interval_has_the_width_that_theory_gives():
    correct = rng().random(3000) < 0.85
    low, high = bootstrap_interval(correct, range(3000), rng=rng(), samples=4000)
    width = 2 * 1.96 * math.sqrt(correct.mean() * (1 - correct.mean()) / 3000)
    assert high - low == pytest.approx(width, rel=0.05)
    assert (low + high) / 2 == pytest.approx(correct.mean(), abs=0.002)


def test_questions_of_one_image_that_stand_or_fall_together_widen_the_interval():
    per_image = rng().random(500) < 0.85
    correct, images = np.repeat(per_image, 6), np.repeat(np.arange(500), 6).tolist()
    low, high = bootstrap_interval(correct, images, rng=rng(), samples=4000)
    narrow, wide = bootstrap_interval(correct, range(3000), rng=rng(), samples=4000)
    assert (high - low) / (wide - narrow) == pytest.approx(math.sqrt(6), rel=0.07)


def test_a_paired_interval_is_narrower_than_the_runs_own_where_they_agree():
    a = rng().random(2000) < 0.8
    b = a.copy()
    b[:40] = True
    difference = paired_bootstrap(a, b, range(2000), rng=rng())
    assert difference.value == pytest.approx(b.mean() - a.mean(), abs=1e-15)
    assert 0 < difference.low < difference.value < difference.high
    low, high = bootstrap_interval(a, range(2000), rng=rng())
    assert difference.high - difference.low < 0.3 * (high - low)
    backwards = paired_bootstrap(b, a, range(2000), rng=rng())
    assert (backwards.low, backwards.high) == pytest.approx((-difference.high, -difference.low), abs=1e-12)


def test_the_same_seed_gives_the_same_interval_and_the_global_generator_is_left_alone():
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = (bootstrap_interval([0, 1, 1, 0], list("abcd"), rng=rng(7)) for _ in range(2))
    assert first == second
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002


def test_the_level_sets_how_much_an_interval_holds():
    values = np.arange(1001) / 1000
    assert interval(values, level=0.9) == pytest.approx((0.05, 0.95))
    assert interval(values, level=1.0) == (0.0, 1.0)


def test_inputs_are_not_modified():
    rows = np.array([1.0, 0.0, 1.0])
    resample(rows, list("aab"), rng=rng(), samples=3)
    paired_bootstrap(rows, rows[::-1], list("aab"), rng=rng(), samples=3)
    assert rows.tolist() == [1.0, 0.0, 1.0]


# What changed


def test_transitions_count_each_question_once():
    labels = ["yes", "yes", "yes", "no", "no", "no", "no", "yes"]
    before = ["no", "yes", "yes", "no", "yes", "no", "other", None]
    after = ["yes", "no", "yes", "yes", "no", "no", "no", "yes"]
    assert transitions(before, after, labels) == {
        "TP→TP": 1, "TP→FN": 1, "FN→TP": 1, "FN→FN": 0, "TN→TN": 1, "TN→FP": 1, "FP→TN": 1, "FP→FP": 0,
        "other→TN": 1, "other→TP": 1,
    }  # fmt: skip


@given(st.lists(st.tuples(*[st.sampled_from(["yes", "no", "other", None])] * 2, st.sampled_from(["yes", "no"]))))
def test_transitions_sum_to_the_number_of_questions(rows):
    if not rows:
        return
    before, after, labels = columns(rows)
    counts = transitions(before, after, labels)
    assert sum(counts.values()) == len(rows)
    right = sum(b == label for b, label in zip(before, labels, strict=True))
    assert sum(n for move, n in counts.items() if move.startswith("T")) == right


# Signature


def test_the_same_questions_have_the_same_sha_in_any_order_and_letter_case_of_labels():
    assert questions_sha(QUESTIONS) == questions_sha(QUESTIONS[::-1])
    assert questions_sha(QUESTIONS) == questions_sha([replace(q, label=q.label.upper()) for q in QUESTIONS])
    assert questions_sha(QUESTIONS) == questions_sha([replace(q, question_id=str(q.question_id)) for q in QUESTIONS])


@pytest.mark.parametrize(
    "change", [{"question_id": 3}, {"image": "c.jpg"}, {"text": "x"}, {"label": "no"}, {"label": None}]
)
def test_any_other_question_has_another_sha(change):
    assert questions_sha([replace(QUESTIONS[0], **change), QUESTIONS[1]]) != questions_sha(QUESTIONS)


def test_the_sha_is_that_of_the_canonical_questions():
    # printf %s '[["1","a.jpg","Is there a cat?","yes"],["2","b.jpg","Is there a dog?","no"]]' | sha256sum
    assert questions_sha(QUESTIONS) == "eb100bec2f2b"


def test_a_text_that_no_file_can_hold_still_has_a_sha():
    assert len(questions_sha([replace(QUESTIONS[0], text="\ud800")])) == 12


def test_the_signature_leaves_out_what_is_not_known():
    from vdd import __version__

    full = signature(("pope", "coco"), QUESTIONS, parser="vcd", decoding="ref:none|greedy")
    assert full == f"pope|coco|n:2|parse:vcd|ref:none|greedy|vdd:{__version__}|sha:{questions_sha(QUESTIONS)}"
    assert signature(("chair",), QUESTIONS) == f"chair|n:2|vdd:{__version__}|sha:{questions_sha(QUESTIONS)}"


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: auroc([], []), "at least one"),
        (lambda: auroc([1.0], [True, False]), "1 scores, 2 positive"),
        (lambda: auroc([math.nan, 1.0], [True, False]), "1 NaN"),
        (lambda: auroc([[1.0]], [True]), "shape"),
        (lambda: auroc([1.0, 2.0], [2, 0]), "0 and 1"),
        (lambda: expected_calibration_error([1.5], [True]), "log-probabilities"),
        (lambda: expected_calibration_error([-0.1], [True]), r"\[0, 1\]"),
        (lambda: expected_calibration_error([0.5], [True], bins=0), "bins is 0"),
        (lambda: expected_calibration_error([], []), "at least one"),
        (lambda: mcnemar([True], [True, False]), "1 correct_a, 2 correct_b"),
        (lambda: mcnemar([0.5], [1]), "booleans"),
        (lambda: mcnemar([], []), "at least one"),
        (lambda: transitions(["yes"], [], ["yes"]), "0 after"),
        (lambda: transitions(["yes"], ["no"], ["maybe"]), "'maybe'"),
        (lambda: resample([], [], rng=rng()), "n ≥ 1"),
        (lambda: resample([1, 2], ["a"], rng=rng()), "for 1 clusters"),
        (lambda: resample([1, 2], ["a", "a"], rng=rng()), "one image"),
        (lambda: resample([1, 2], ["a", "b"], rng=rng(), samples=0), "samples is 0"),
        (lambda: resample(1.0, ["a"], rng=rng()), "wanted"),
        (lambda: paired_bootstrap([1, 2], [1], ["a", "b"], rng=rng()), r"\(2,\) and \(1,\)"),
        (lambda: paired_bootstrap([], [], [], rng=rng()), "n ≥ 1"),
        (lambda: bootstrap_interval([1, 2], ["a", "b"], rng=rng(), level=1.5), "level is 1.5"),
        (lambda: signature((), QUESTIONS), "at least one"),
        (lambda: signature(("a", ""), QUESTIONS), "none empty"),
    ],
)
def test_errors_say_what_came_and_what_was_wanted(call, message):
    with pytest.raises(UserError, match=message):
        call()
