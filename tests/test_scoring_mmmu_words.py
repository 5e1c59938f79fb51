import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import mmmu_official
from vdd.scoring.mmmu_words import choice_of, is_right_open

PIECES = [
    "A", "B", "C", "(A)", "(B)", "(C)", " A ", " C ", "A.", " ", ".", ",", "'", ":", "\n", "the answer is ", "a dog ",
    "DOG", "cat", "so ", "could be ", "result ", "=", "is ", "final ", "one two three four ", "X-1", "x",
]  # fmt: skip
NUMERALS = [
    "1",
    "12",
    "345",
    "6789",
    ",",
    ",000",
    ".",
    ".5",
    "-",
    "+",
    "e",
    "E3",
    "e-2",
    " ",
    "a",
    "_",
    "²",
    "½",
    "٣",
    "=",
]
OPTIONS = st.lists(st.sampled_from(["dog", "a dog", "Cat", "cat", "x-1", "12.5", ""]), min_size=2, max_size=6)
TEXT = st.lists(st.sampled_from(PIECES), max_size=9).map("".join)
NUMBERS = st.lists(st.sampled_from(NUMERALS), max_size=9).map("".join)
TRUTHS = st.lists(
    st.sampled_from(["12", "345", "6789", "1,000", "0.5", "-12", "A", "dog", "24/7", "1.005", "12e3"]),
    min_size=1,
    max_size=2,
)


@given(TEXT, OPTIONS)
def test_reads_letters_as_the_official_script_does(text, options):
    letter, drawn = mmmu_official.read_letter(text, options, random.Random(0))
    assert choice_of(text, options) == (None if drawn else letter)


@given(TEXT | NUMBERS | st.text(max_size=20), TRUTHS)
def test_judges_open_answers_as_the_official_script_does(text, truths):
    assert is_right_open(text, truths) == mmmu_official.right_open(text, truths)


@given(NUMBERS, NUMBERS)
def test_finds_the_numbers_that_the_official_script_finds(text, truth):
    text = f"so a {text} b"
    for number in [part for whole in mmmu_official.key_parts(text) for part in mmmu_official.numbers_in(whole)]:
        assert is_right_open(text, [number])
    assert is_right_open(text, [truth]) == mmmu_official.right_open(text, [truth])


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("B.", "B"),
        ("(C)", "C"),
        ("'B'.", "B"),
        ("The answer is (B), not (A)", "A"),
        ("(B) but C is tempting", "B"),
        ("It is A or B then", "B"),
        ("(A) or (B)? (A)", "A"),
        ("is it A or B ? no, A", "A"),
        ("dog or cat or, after all, a dog", "A"),
        ("A\n", None),
        ("B) a cat", None),
        ("a cat", None),
        ("it is surely a cat", None),
        ("I think that it is a Cat here", "B"),
        ("Neither a cat nor a dog, I should think", "A"),
        ("", None),
        ("D", None),
    ],
)
def test_letters_by_hand(text, letter):
    assert choice_of(text, ["dog", "cat", "a red car"]) == letter


@pytest.mark.parametrize(
    ("text", "truths", "right"),
    [
        ("1.06", ["1.06"], True),
        ("the answer is 1.064", ["1.06"], True),
        ("1,000 dollars", ["1000"], True),
        ("It is 10000", ["1000"], False),
        ("It is 12,34", ["12"], False),
        ("It is 12,34", ["1234"], True),
        ("1.02", ["1.04"], False),
        ("1.004", ["1.00"], True),
        ("2e3", ["2000"], True),
        ("x = 5\ny = 7", ["7"], True),
        ("x = 5\ny = 7", ["5"], False),
        ("a", ["A"], True),
        ("Step a", ["A"], True),
        ("apple", ["A"], False),
        ("The sum could be 9, so it is 12", ["9"], False),
        ("Tampa, probably", ["Miami", "Tampa"], True),
        ("", ["0"], False),
    ],
)
def test_open_answers_by_hand(text, truths, right):
    assert is_right_open(text, truths) is right
