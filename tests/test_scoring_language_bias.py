"""The language-bias indicator: its figures by an oracle, its verdicts where there can be no doubt, its mistakes."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.language_bias import indicator
from vdd._check import UserError
from vdd.scoring.language_bias import NEEDED, VERDICTS, language_bias

LABELS = ("yes", "no")


@st.composite
def answered(draw):
    """Labels, right answers, probabilities seen and blind, on a grid so that ties are real."""
    count = draw(st.integers(2, 4))
    labels = tuple("abcd"[:count])
    n = draw(st.integers(1, 12))
    chance = st.integers(1, 8).map(lambda eighth: eighth / 8)
    rows = st.lists(st.lists(chance, min_size=count, max_size=count), min_size=n, max_size=n)
    truth = draw(st.lists(st.sampled_from(labels), min_size=n, max_size=n))
    return labels, truth, draw(rows), draw(rows)


@given(answered())
def test_the_figures_are_those_of_the_formulas(case):
    labels, truth, seen, blind = case
    found = language_bias(labels, truth, seen, {"none": blind}, [f"{n % 3}" for n in range(len(truth))], samples=20)
    want = indicator(labels, truth, seen, blind)
    own = found.blind["none"]
    assert found.accuracy == pytest.approx(want["accuracy"])
    assert (own.accuracy, own.agreement) == pytest.approx((want["blind"], want["agreement"]))
    assert own.kl_labels == pytest.approx(want["kl"], abs=1e-12)
    assert found.majority == pytest.approx(want["majority"])
    if own.gain is not None:
        assert own.gain.value == pytest.approx(want["accuracy"] - want["blind"])
        assert own.gain.low <= own.gain.high


def made(n, *, seen, blind, majority=0.5, seed=0):
    """n questions about n // 2 images of which a share is right with the image, and another without."""
    chance = random.Random(seed)
    truth = ["yes" if chance.random() < majority else "no" for _ in range(n)]

    def rows(share):
        said = [answer if chance.random() < share else ("no" if answer == "yes" else "yes") for answer in truth]
        return [[0.9, 0.1] if word == "yes" else [0.1, 0.9] for word in said]

    images = [f"{number // 2}.png" for number in range(n)]
    return language_bias(LABELS, truth, rows(seen), {"none": rows(blind), "unk": rows(0.5)}, images, samples=400)


@pytest.mark.parametrize(
    ("verdict", "case"),
    [
        ("needed", {"n": 600, "seen": 0.9, "blind": 0.5}),
        ("not needed", {"n": 1200, "seen": 0.9, "blind": 0.9}),
        ("not needed", {"n": 1200, "seen": 0.8, "blind": 0.9}),
        ("undecided", {"n": 40, "seen": 0.9, "blind": 0.9}),
        ("at chance", {"n": 600, "seen": 0.5, "blind": 0.5}),
    ],
)
def test_the_verdict_is_what_anybody_would_say(verdict, case):
    found = made(**case)
    assert found.verdict == verdict
    sentence = found.in_words()
    assert "{" not in sentence
    assert (f"{100 * NEEDED:g}" in sentence) == (verdict != "at chance")
    assert len(VERDICTS) == 5


def test_the_blind_side_that_answers_best_decides():
    truth, images = ["yes", "no"] * 300, [f"{number}" for number in range(600)]
    right = [[1, 0] if answer == "yes" else [0, 1] for answer in truth]
    constant = [[1, 0]] * 600
    for first, second in (("a", "b"), ("b", "a")):
        found = language_bias(LABELS, truth, right, {first: constant, second: right}, images)
        assert (found.strongest, found.verdict) == (second, "not needed")


def test_a_certain_answer_against_an_impossible_one_diverges_without_end_but_is_a_number():
    found = language_bias(LABELS, ["yes", "no"], [[1, 0], [0, 1]], {"none": [[0, 1], [0, 1]]}, ["a", "b"])
    assert 10 < found.blind["none"].kl_labels < 30


def test_what_was_measured_over_the_vocabulary_is_its_mean_and_else_unknown():
    rows = [[0.5, 0.5]] * 2
    blind = {"none": rows, "unk": rows}
    found = language_bias(LABELS, ["yes", "no"], rows, blind, ["a", "b"], kl_vocabulary={"none": [1.0, 3.0]})
    assert (found.blind["none"].kl_vocabulary, found.blind["unk"].kl_vocabulary) == (2.0, None)


def test_of_one_image_nothing_can_be_concluded():
    found = language_bias(LABELS, ["yes"] * 50, [[1, 0]] * 50, {"none": [[1, 0]] * 50}, ["a"] * 50)
    assert (found.verdict, found.interval, found.blind["none"].gain) == ("too few", None, None)
    assert "about 1 of 20 images" in found.in_words()


@pytest.mark.parametrize(("images", "verdict"), [(19, "too few"), (20, "needed")])
def test_a_verdict_takes_twenty_images(images, verdict):
    truth = ["yes", "no"] * images
    right = [[1, 0] if answer == "yes" else [0, 1] for answer in truth]
    pictures = [f"{number // 2}" for number in range(2 * images)]
    found = language_bias(LABELS, truth, right, {"none": [[1, 0]] * (2 * images)}, pictures)
    assert (found.verdict, found.images) == (verdict, images)


def test_equal_seeds_give_equal_intervals_and_all_references_share_their_resamples():
    one, two = (made(80, seen=0.8, blind=0.6) for _ in range(2))
    assert one == two
    truth, images = ["yes", "no"] * 20, [f"{number // 2}" for number in range(40)]
    rows = [[0.9, 0.1]] * 30 + [[0.1, 0.9]] * 10
    found = language_bias(LABELS, truth, rows[::-1], {"none": rows, "unk": rows}, images)
    assert found.blind["none"].gain == found.blind["unk"].gain


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"truth": []}, "0 right answers"),
        ({"images": ["a"]}, "1 images"),
        ({"blind": {}}, "0 references"),
        ({"labels": ["yes"]}, "1 labels"),
        ({"truth": ["yes", "maybe"]}, "'maybe'"),
        ({"seen": [[0.5, 0.5]]}, r"seen are \(1, 2\)"),
        ({"seen": [[0.5, 0.5], [0.0, 0.0]]}, "all-zero"),
        ({"seen": [[0.5, 0.5], [float("nan"), 1]]}, "NaN"),
        ({"blind": {"unk": [[0.5, 0.5], [-0.5, 1.5]]}}, "unk have NaN, negative"),
    ],
)
def test_a_mistake_is_named(changes, message):
    given = {"labels": LABELS, "truth": ["yes", "no"], "seen": [[0.5, 0.5]] * 2, "images": ["a", "b"]}
    given |= {"blind": {"none": [[0.5, 0.5]] * 2}} | changes
    with pytest.raises(UserError, match=message):
        language_bias(given["labels"], given["truth"], given["seen"], given["blind"], given["images"])
