import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.pope_official import official_prediction
from vdd._check import UserError
from vdd.scoring.words import PARSERS, exact, is_unparsed, official, vcd

TRICKY = ["No", "no", "NO", "not", "Yes", "yes", "YES", "know", "there", "isn't", ",", ".", " ", "\n", "no,", "No.", ""]
ANSWERS = st.lists(st.sampled_from(TRICKY), max_size=8).map("".join) | st.text(max_size=20)
LABELS = st.sampled_from(["yes", "no"])

BOTH = "Yes, there is no cat but a dog."
UNSURE = "I don't know"


def counted(parser, text):
    """What `text` is when the label is yes, and when it is no."""
    return tuple(PARSERS[parser](text, label) for label in ("yes", "no"))


@pytest.mark.parametrize(
    ("parser", "text", "predictions"),
    [
        ("official", BOTH, ("no", "no")),
        ("vcd", BOTH, ("yes", "no")),  # right whatever the label
        ("exact", BOTH, ("other", "other")),
        ("official", UNSURE, ("yes", "yes")),
        ("vcd", UNSURE, ("no", "no")),
        ("exact", UNSURE, ("other", "other")),
        ("official", "NO", ("yes", "yes")),
        ("vcd", "NO", ("no", "no")),
        ("exact", "NO", ("no", "no")),
        ("official", "", ("yes", "yes")),
        ("vcd", "", ("no", "yes")),  # wrong whatever the label
        ("exact", "", ("other", "other")),
    ],
)
def test_each_cell_of_the_published_table_holds(parser, text, predictions):
    assert counted(parser, text) == predictions


@pytest.mark.parametrize(
    ("text", "prediction"),
    [
        ("No, there is not.", "no"),
        ("Yes. There is no doubt.", "yes"),  # cut at the first full stop
        (". no", "yes"),
        ("3.5 dogs, no cat", "yes"),
        ("n,o", "no"),  # a dropped comma joins
        ("Yes,no", "yes"),  # "Yesno" is another word
        ("no\n", "yes"),  # only spaces part words
        ("no!", "yes"),
        ("Not at all", "yes"),  # "Not" is not in the list
        ("none", "yes"),
        ("There is not a cat", "no"),
        ("  no", "no"),
    ],
)
def test_the_official_rule_is_kept_with_all_its_quirks(text, prediction):
    assert counted("official", text) == (prediction, prediction)


@given(ANSWERS, LABELS)
def test_the_official_rule_agrees_with_its_transcription(text, label):
    assert official(text, label) == official_prediction(text)


@given(ANSWERS, LABELS)
def test_the_vcd_rule_is_right_exactly_where_the_answer_holds_the_label(text, label):
    assert (vcd(text, label) == label) == (label in text.lower())


@pytest.mark.parametrize(
    ("text", "prediction"), [(" Yes\n", "yes"), ("no", "no"), ("Yes.", "other"), ("yes no", "other"), ("nope", "other")]
)
def test_the_exact_rule_takes_the_whole_answer(text, prediction):
    assert counted("exact", text) == (prediction, prediction)


@given(ANSWERS)
def test_only_the_vcd_rule_looks_at_the_label(text):
    for parser in ("official", "exact"):
        assert len(set(counted(parser, text))) == 1


@pytest.mark.parametrize("label", ["maybe", "Yes", "", "other"])
def test_the_vcd_rule_refuses_labels_it_does_not_know(label):
    with pytest.raises(UserError, match="unknown label"):
        vcd("yes", label)


@pytest.mark.parametrize(
    ("text", "official_is", "vcd_is", "exact_is"),
    [
        ("", True, True, True),
        ("  \n", True, True, True),
        ("A red car.", True, True, True),
        (UNSURE, True, False, True),
        ("NO", False, False, False),
        ("It is not.", False, False, True),
        ("That is so. Yes!", False, False, True),
        ("nothing", True, False, True),
        ("yesterday", True, False, True),
        ("No", False, False, False),
    ],
)
def test_an_answer_that_decides_nothing_is_unparsed(text, official_is, vcd_is, exact_is):
    assert [is_unparsed(text, parser=p) for p in ("official", "vcd", "exact")] == [official_is, vcd_is, exact_is]


@given(ANSWERS)
def test_what_the_official_rule_reads_as_no_is_never_unparsed(text):
    if official(text, "no") == "no" and "," not in text:
        assert not is_unparsed(text, parser="official")


@given(ANSWERS)
def test_what_the_exact_rule_cannot_read_is_what_it_leaves_unparsed(text):
    assert is_unparsed(text, parser="exact") == (exact(text, "yes") == "other")


def test_an_unknown_parser_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"'fuzzy'.*official, vcd, exact"):
        is_unparsed("yes", parser="fuzzy")
