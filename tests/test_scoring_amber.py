import json
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.oracles.amber_official import discriminative, generative
from vdd._check import UserError
from vdd.cli import app
from vdd.scoring import nouns as strategies
from vdd.scoring.amber import COUNTS, generative_figures, outcomes, score_amber
from vdd.scoring.nouns import vocabulary_nouns
from vdd.sets.amber import Item

ASSOCIATION = {
    "sky": (), "grass": ("ground",), "ground": ("floor",), "person": ("people", "man", "woman"),
    "man": ("person", "boy"), "car": ("window", "door"), "window": ("glass",), "dog": (), "sun": (),
    "orange": ("tangerine",), "boat": ("ship",), "can": (), "television": ("TV",), "leave": (),
}  # fmt: skip
KNOWN = sorted(set(ASSOCIATION).union(*ASSOCIATION.values()))
OBJECTS = st.lists(st.sampled_from(sorted(ASSOCIATION)), min_size=1, max_size=5)
CASES = st.lists(st.tuples(OBJECTS, OBJECTS, st.lists(st.sampled_from(KNOWN), max_size=8)), min_size=1, max_size=5)
SAFE = frozenset({"orange", "ground"})


def same_initial(word, other):
    """A similarity that is not equality: by this word "sun" is like "sky", and "person" like "people"."""
    return word[0] == other[0]


@pytest.mark.parametrize("similar", [str.__eq__, same_initial])
@given(cases=CASES)
def test_descriptions_agree_with_a_plain_transcription_of_the_script(similar, cases):
    items = [Item(i, "generative", tuple(present), tuple(imagined)) for i, (present, imagined, _) in enumerate(cases)]
    rows = outcomes(
        items,
        [" ".join(mentions) for _, _, mentions in cases],
        association=ASSOCIATION,
        safe_words=SAFE,
        nouns=str.split,
        similar=similar,
    )
    got = {name: float(value) for name, value in generative_figures(rows.sum(axis=0)).items()}
    assert got == pytest.approx(generative(cases, ASSOCIATION, SAFE, similar), abs=1e-15)


KINDS = ("existence", "state", "number", "action", "relation")
QUESTIONS = st.lists(
    st.tuples(
        st.sampled_from(KINDS), st.sampled_from(["yes", "no"]), st.sampled_from(["Yes", "No", "No.", "", "Maybe"])
    ),
    min_size=1,
    max_size=30,
)


@given(QUESTIONS)
def test_questions_agree_with_a_plain_transcription_of_the_script(cases):
    items = {i: Item(i, kind, label=label) for i, (kind, label, _) in enumerate(cases)}
    values = score_amber(items, {i: answer for i, (_, _, answer) in enumerate(cases)}).values
    groups = {"": KINDS, "attribute_": ("state", "number", "action"), **{f"{kind}_": (kind,) for kind in KINDS}}
    for prefix, kinds in groups.items():
        some = [(label, answer) for kind, label, answer in cases if kind in kinds]
        assert (f"{prefix}f1" in values) == bool(some)
        if some:
            want = discriminative(*zip(*some, strict=True))
            assert {name: values[f"{prefix}{name}"] for name in want} == pytest.approx(want, abs=1e-15)
    assert values["unparsed"] == sum(answer not in ("Yes", "No") for _, _, answer in cases)


def items_of_both():
    return {
        1: Item(1, "generative", ("sky", "grass", "man"), ("sun", "dog")),
        2: Item(2, "generative", ("car", "ground"), ("man", "person")),
        3: Item(3, "existence", label="no"),
        4: Item(4, "relation", label="yes"),
    }


def test_counts_a_small_case_by_hand():
    responses = {
        # sky: present; people: not among man's words; ground: grass; dog: imagined and wrong; orange: safe
        1: "The sky over people, on the ground dogs and an orange.",
        # windows and doors: the car; "floor": the ground; boy: stands for man, imagined and wrong
        2: "Windows and doors. A boy on the floor can be seen.",
        3: "No",
        4: "No",
    }
    values = score_amber(items_of_both(), responses, association=ASSOCIATION, safe_words=frozenset({"orange"})).values
    assert values["chair"] == pytest.approx(3 / 9)
    assert values["cover"] == pytest.approx((2 + 2) / 5)
    assert values["hal"] == 1.0
    assert values["cog"] == pytest.approx((1 + 1) / 4)
    assert (values["accuracy"], values["precision"], values["recall"]) == (0.5, 0.5, 1.0)
    assert values["f1"] == pytest.approx(2 / 3)
    assert (values["existence_accuracy"], values["relation_accuracy"], values["relation_f1"]) == (1.0, 0.0, 0.0)
    assert values["amber"] == pytest.approx((1 - 3 / 9 + 2 / 3) / 2)
    assert (values["n_generative"], values["n_discriminative"], values["unparsed"]) == (2, 2, 0)
    assert "state_f1" not in values


def test_each_part_stands_alone_and_only_both_make_a_score():
    described = score_amber(items_of_both(), {1: "A sky"}, association=ASSOCIATION)
    assert set(described.values) == {"chair", "cover", "hal", "cog", "n_generative", "n_discriminative", "unparsed"}
    assert described.signature.startswith("amber|nouns:vocabulary|similar:exact|n:1|vdd:")
    asked = score_amber(items_of_both(), {3: "no"})
    assert "chair" not in asked.values
    assert "amber" not in asked.values
    assert asked.signature.startswith("amber|n:1|parse:exact|vdd:")


def test_without_an_association_the_words_are_those_of_the_annotations():
    values = score_amber(items_of_both(), {1: "A floor, grass, a person and a man under a boat."}).values
    assert values["chair"] == pytest.approx(1 / 3)  # grass, person, man; neither floor nor boat is a word
    assert values["cover"] == pytest.approx(2 / 3)


def test_the_words_of_the_vocabulary_are_found_in_any_case_and_number():
    find = vocabulary_nouns({"person", "TV", "box", "can", "hot", "leave", "knife", "sunglasses"})
    assert find("People can see TVs, a tv, boxes and a hot dog.") == ["person", "TV", "TV", "box"]
    assert find("Two cans; leaves. Sunglasses, knives") == ["can", "leave", "sunglasses", "knife"]
    assert find("man-made cares") == []


def test_a_safe_word_is_a_mention_but_neither_wrong_nor_covered():
    item = {1: Item(1, "generative", ("orange",), ("sun",))}
    values = score_amber(item, {1: "An orange and a dog"}, association=ASSOCIATION, safe_words=SAFE).values
    assert (values["chair"], values["cover"], values["cog"]) == (0.5, 0.0, 0.0)


def test_intervals_of_descriptions_hold_their_figures():
    items = {i: Item(i, "generative", ("sky", "man"), ("sun", "dog")) for i in range(40)}
    responses = {i: ("A man, the sky", "A dog under the sky", "Sun and car")[i % 3] for i in items}
    score = score_amber(items, responses, association=ASSOCIATION, rng=np.random.default_rng(0), samples=300)
    assert set(score.intervals) == {"chair", "cover", "hal", "cog"}
    for name, (low, high) in score.intervals.items():
        assert low < score.values[name] < high
    single = score_amber(items, {0: "A man"}, association=ASSOCIATION, rng=np.random.default_rng(0))
    assert single.intervals == {}


def test_figures_of_many_tables_are_the_figures_of_each():
    tables = np.random.default_rng(0).integers(0, 9, size=(5, len(COUNTS)))
    together = generative_figures(tables)
    for i, table in enumerate(tables):
        assert {name: values[i] for name, values in together.items()} == generative_figures(table)


def test_all_of_ambers_items_take_less_than_five_seconds():
    kinds = ["generative"] * 1004 + ["existence", "state", "relation"] * 4739
    items = {
        i: Item(i, kind, ("sky", "man", "car"), ("sun", "dog"))
        if kind == "generative"
        else Item(i, kind, label=("yes", "no")[i % 2])
        for i, kind in enumerate(kinds)
    }
    text = "A man and a woman stand near cars under the sky; the sun and dogs can be seen. " * 6
    start = time.perf_counter()
    score_amber(items, {i: text if item.kind == "generative" else "No" for i, item in items.items()})
    assert time.perf_counter() - start < 5


def test_spacys_vectors_are_asked_above_the_scripts_threshold(monkeypatch):
    likeness = {("boat", "sky"): 0.8, ("boat", "man"): 0.81}

    def load(name):
        assert name == "en_core_web_lg"
        return lambda word: SimpleNamespace(
            word=word, similarity=lambda other: likeness.get((word, other.word), float(word == other.word))
        )

    monkeypatch.setitem(sys.modules, "spacy", SimpleNamespace(load=load))
    item = {1: Item(1, "generative", ("sky", "man"), ("sun",))}
    score = score_amber(item, {1: "A boat"}, association=ASSOCIATION, similar="spacy")
    assert (score.values["chair"], score.values["cover"]) == (0.0, 0.5)
    assert "similar:spacy" in score.signature
    assert score_amber(item, {1: "A boat"}, association=ASSOCIATION).values["chair"] == 1.0


def test_nltks_nouns_are_lemmatized_in_their_own_case(monkeypatch):
    tags = {"Sky": "NNP", "can": "MD", "dogs": "NNS", "orange": "JJ", "sky": "NN"}
    fake = SimpleNamespace(
        word_tokenize=str.split,
        pos_tag=lambda words: [(word, tags.get(word, "IN")) for word in words],
        stem=SimpleNamespace(WordNetLemmatizer=lambda: SimpleNamespace(lemmatize=lambda word: word.removesuffix("s"))),
    )
    monkeypatch.setitem(sys.modules, "nltk", fake)
    find = strategies.NOUNS["nltk"](KNOWN)
    assert find("Sky orange can dogs under sky") == ["dog", "sky"]

    def missing(text):
        raise LookupError("Resource punkt_tab not found: >>> nltk.download('punkt_tab')")

    fake.word_tokenize = missing
    with pytest.raises(UserError, match="nltk lacks 'punkt_tab'"):
        find("A dog")


@pytest.mark.parametrize(("option", "library"), [({"nouns": "nltk"}, "nltk"), ({"similar": "spacy"}, "spacy")])
def test_a_missing_library_is_named_with_what_needs_nothing(monkeypatch, option, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UserError, match=rf"{library}.*\[amber\].*or take"):
        score_amber(items_of_both(), {1: "A dog"}, **option)


@pytest.mark.parametrize(
    ("responses", "options", "message"),
    [
        ({}, {}, "no responses"),
        ({9: "No"}, {}, r"1 responses to unknown items \(9"),
        ({3: "No"}, {"nouns": "guess"}, "vocabulary, nltk"),
        ({3: "No"}, {"similar": "guess"}, "exact, spacy"),
        ({3: "No"}, {"parser": "guess"}, "official, vcd, exact"),
    ],
)
def test_errors_say_what_came_and_what_was_wanted(responses, options, message):
    with pytest.raises(UserError, match=message):
        score_amber(items_of_both(), responses, **options)


@pytest.fixture
def files(tmp_path):
    annotations = [
        {"id": 1, "type": "generative", "truth": ["sky", "grass"], "hallu": ["sun"]},
        {"id": 2, "type": "discriminative-hallucination", "truth": "no"},
    ]
    (tmp_path / "annotations.json").write_text(json.dumps(annotations))
    (tmp_path / "answers.json").write_text(
        json.dumps([{"id": 1, "response": "Ground under the sun, a light."}, {"id": 2, "response": "No"}])
    )
    (tmp_path / "relation.json").write_text(json.dumps({"sky": [], "grass": ["ground"], "sun": [], "light": []}))
    (tmp_path / "safe.txt").write_text("light\n")
    return tmp_path


def command(files, *more):
    options = ["--answers", files / "answers.json", "--annotations", files / "annotations.json", *more]
    return CliRunner().invoke(app, ["score", "amber", *map(str, options)])


def test_the_command_prints_one_json_object_or_a_table(files):
    more = ["--association", files / "relation.json", "--safe-words", files / "safe.txt"]
    result = command(files, *more, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["chair"] == pytest.approx(1 / 3)
    assert (found["cover"], found["hal"], found["cog"], found["f1"]) == (0.5, 1.0, 1.0, 1.0)
    assert found["amber"] == pytest.approx((1 - 1 / 3 + 1) / 2)
    table = command(files, *more)
    assert table.exit_code == 0
    assert "0.8333" in table.stdout
    assert found["signature"] in table.stdout
    assert json.loads(command(files, "--json").stdout)["chair"] == 1.0


def test_the_command_refuses_an_unknown_strategy_as_a_users_mistake(files):
    assert isinstance(command(files, "--nouns", "guess").exception, UserError)
