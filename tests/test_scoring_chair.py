import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.oracles.chair_official import by_forms, by_pattern, chair_scores, plural
from vdd._check import UserError
from vdd.cli import app
from vdd.scoring.chair import COUNTS, FIGURES, figures, length_matched, mentions, outcomes, score_chair, statistic
from vdd.scoring.nouns import singular, tokens
from vdd.scoring.score import bootstrap_interval, paired_bootstrap
from vdd.sets.captions import DOUBLE_WORDS, Caption, Vocabulary, load_captions, load_objects, load_vocabulary

NAMES = {
    "person": "man woman child people baby gentleman passenger thief", "dog": "puppy doggie", "bird": "goose",
    "cow": "calf ox", "bus": "minibus", "tie": "bow|tie bow", "hot dog": "", "wine glass": "",
    "chair": "seat bench stool", "toilet": "", "train": "", "knife": "knive", "mouse": "", "sandwich": "",
    "boat": "canoe ferry", "traffic light": "street|light",
    "zebra": "", "car": "van", "couch": "sofa", "box": "", "scissors": "", "skis": "ski", "airplane": "jet plane",
}  # fmt: skip
SYNONYMS = {
    word.replace("|", " "): name for name, others in NAMES.items() for word in (name.replace(" ", "|"), *others.split())
}
WORDS = Vocabulary(SYNONYMS, DOUBLE_WORDS)
TABLE = {"synonyms": SYNONYMS, "double_words": DOUBLE_WORDS}
SINGLES = sorted(WORDS.words)
FILLER = [
    "a",
    "the",
    "two",
    ".",
    ",",
    "and",
    "cares",
    "is",
    "his",
    "man-made",
    "(",
    ")",
    "glasses",
    "track",
    "on",
    "does",
]
OBJECTS = sorted(WORDS.objects)
PIECES = st.sampled_from(
    [*SINGLES, *map(plural, SINGLES), *SYNONYMS, *FILLER, "baby birds", "toilet seat", "man's", "Dogs."]
)
TEXTS = st.lists(PIECES, max_size=30).map(" ".join)
PRESENT = st.frozensets(st.sampled_from(OBJECTS), max_size=5)
CASES = st.lists(st.tuples(TEXTS, PRESENT), min_size=1, max_size=6)


def asked(cases):
    captions = [Caption(str(i), text) for i, (text, _) in enumerate(cases)]
    return captions, {str(i): present for i, (_, present) in enumerate(cases)}


@given(CASES)
def test_agrees_with_a_plain_transcription_of_the_script(cases):
    captions, objects = asked(cases)
    want = chair_scores(captions, objects, TABLE, by_forms(TABLE))
    got = score_chair(captions, objects, WORDS).values
    assert {name: got[name] for name in want} == want


@pytest.fixture(scope="module")
def shikra(shared_data):
    folder = shared_data / "chair"
    table = json.loads((folder / "synonyms.json").read_text())
    return (
        load_captions(folder / "shikra_greedy.jsonl"),
        load_objects(folder / "coco_objects.json"),
        load_vocabulary(folder / "synonyms.json"),
        table,
    )


@pytest.mark.data
def test_real_captions_score_as_published_and_as_the_transcription(shikra):
    captions, objects, vocabulary, table = shikra
    score = score_chair(captions, objects, vocabulary).values
    assert (round(100 * score["chair_s"], 1), round(100 * score["chair_i"], 1)) == (55.8, 15.4)  # arXiv:2311.17911
    want = chair_scores(captions, objects, table, by_forms(table))
    assert {name: score[name] for name in want} == want


@pytest.mark.data
def test_the_original_scripts_plurals_move_real_captions_by_less_than_a_third_of_a_point(shikra):
    captions, objects, vocabulary, table = shikra
    score = score_chair(captions, objects, vocabulary).values
    want = chair_scores(captions, objects, table, by_pattern)
    assert (round(100 * want["chair_s"], 1), round(100 * want["chair_i"], 1)) == (55.6, 15.5)
    for name in ("chair_s", "chair_i"):
        assert score[name] == pytest.approx(want[name], abs=0.003)
    assert want["mentions"] < score["mentions"]  # each "bus" is one that the original does not count


@pytest.mark.data
def test_fifteen_hundred_long_captions_take_less_than_five_seconds(shikra):
    captions, objects, vocabulary, _ = shikra
    start = time.perf_counter()
    score_chair(captions * 3, objects, vocabulary, rng=np.random.default_rng(0))
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("Two buses and a bus.", ["bus", "bus"]),
        ("Men in ties; a man in a bow tie.", ["person", "tie", "person", "tie"]),
        ("A baby zebra with adult birds", ["zebra", "bird"]),
        ("a baby on a passenger train", ["person", "train"]),
        ("Three hot dogs, a hot, dog", ["hot dog", "dog"]),
        ("the seat of the toilet", ["toilet"]),
        ("the toilet seats", ["toilet"]),
        ("a seat", ["chair"]),
        ("train tracks", []),
        ("wine glasses and glasses", ["wine glass"]),
        ("knives, geese, mice, calves, oxen, canoes", ["knife", "bird", "mouse", "cow", "cow", "boat"]),
        ("He cares for a man-made thing. The dog's and the dogs' and the dog’s.", ["dog", "dog", "dog"]),
        ('(A) **dog**/"dog"', ["dog", "dog"]),
        ("", []),
    ],
)
def test_mentions_of_a_text(text, objects):
    assert mentions(text, WORDS) == objects


@pytest.mark.parametrize("word", SINGLES)
def test_every_word_of_the_table_is_found_from_its_plural_and_stays_itself(word):
    assert singular(plural(word), WORDS.words) == by_forms(TABLE)(plural(word))
    assert singular(word, WORDS.words) == word


def test_tokens_keep_compounds_and_part_clitics_and_signs():
    assert tokens("It's a man-made cup/bowl -- o'clock, don't; 3.5\ndogs'!") == [
        "it", "'", "s", "a", "man-made", "cup/bowl", "-", "-", "o'clock", ",", "don't", ";", "3.5", "dogs", "'", "!",
    ]  # fmt: skip


def test_counts_a_small_table_by_hand():
    captions = [Caption("1", "A dog and a dog and a bus"), Caption("2", "Nothing at all."), Caption("3", None)]
    objects = {"1": frozenset({"dog", "person"}), "2": frozenset({"bus"}), "3": frozenset({"tie"})}
    rows = outcomes(captions, objects, WORDS)
    assert rows.tolist() == [[1, 1, 3, 1, 2, 1, 8], [1, 0, 0, 0, 1, 0, 3], [0] * 7]
    assert score_chair(captions, objects, WORDS).values == {
        "chair_s": 1 / 2, "chair_i": 1 / 3, "recall": 1 / 3, "words": 11 / 2,
        "n": 3, "mentions": 3, "hallucinated": 1, "unanswered": 1,
    }  # fmt: skip


def test_nothing_to_count_gives_zeros():
    score = score_chair([Caption("1", "")], {"1": frozenset()}, WORDS, rng=np.random.default_rng(0))
    assert [score.values[name] for name in FIGURES] == [0.0] * 4
    assert score.intervals == {}


def test_figures_of_many_tables_are_the_figures_of_each():
    tables = np.random.default_rng(0).integers(0, 9, size=(5, len(COUNTS)))
    together = figures(tables)
    for i, table in enumerate(tables):
        assert {name: values[i] for name, values in together.items()} == figures(table)


def test_intervals_are_those_of_the_bootstrap_over_images():
    texts = ["A dog", "A bus and a dog", "A tie"] * 20
    captions = [Caption(str(i // 2), text) for i, text in enumerate(texts)]
    objects = {str(i): frozenset({"dog"}) for i in range(30)}
    score = score_chair(captions, objects, WORDS, rng=np.random.default_rng(3), samples=300)
    rows, images = outcomes(captions, objects, WORDS), [c.image_id for c in captions]
    again = bootstrap_interval(rows, images, rng=np.random.default_rng(3), samples=300, statistic=statistic("chair_i"))
    assert score.intervals["chair_i"] == again
    assert again[0] < score.values["chair_i"] < again[1]
    assert paired_bootstrap(rows, rows, images, rng=np.random.default_rng(3), statistic=statistic("recall")) == (
        0,
        0,
        0,
    )


def test_length_matched_captions_are_the_beginnings_of_both_with_as_many_words():
    ours = [Caption("1", "A dog\n\nand  a bus. More."), Caption("2", "One"), Caption("3", "x y"), Caption("4", "")]
    others = [Caption("3", None), Caption("2", "One two three"), Caption("1", "A  bus and a"), Caption("4", "word")]
    cut, others_cut = length_matched(ours, others)
    assert cut == [Caption("1", "A dog\n\nand  a"), Caption("2", "One"), Caption("3", None), Caption("4", "")]
    assert others_cut == [Caption("1", "A  bus and a"), Caption("2", "One"), Caption("3", None), Caption("4", "")]


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=4))
def test_length_matching_leaves_equal_lengths_and_prefixes(pairs):
    ours = [Caption(str(i), a) for i, (a, _) in enumerate(pairs)]
    others = [Caption(str(i), b) for i, (_, b) in enumerate(pairs)]
    for (a, b), left, right in zip(pairs, *length_matched(ours, others), strict=True):
        assert a.startswith(left.text)
        assert b.startswith(right.text)
        assert len(left.text.split()) == len(right.text.split()) == min(len(a.split()), len(b.split()))


@pytest.mark.parametrize("others", [[], [Caption("2", "a")], [Caption("1", "a"), Caption("1", "b")]])
def test_runs_on_other_images_are_not_matched(others):
    with pytest.raises(UserError, match="wanted the same images, each once"):
        length_matched([Caption("1", "a")], others)


def test_errors_say_what_came_and_what_was_wanted():
    with pytest.raises(UserError, match="no captions"):
        score_chair([], {}, WORDS)
    with pytest.raises(UserError, match=r"1 of 1 images have no objects listed \(9\)"):
        score_chair([Caption("9", "A dog")], {}, WORDS)
    with pytest.raises(UserError, match="image 9 has 'unicorn'"):
        score_chair([Caption("9", "A dog")], {"9": frozenset({"unicorn"})}, WORDS)
    with pytest.raises(UserError, match="chair_s, chair_i"):
        statistic("accuracy")


def test_the_signature_tells_words_objects_and_decoding():
    captions, objects = [Caption("1", "A dog")], {"1": frozenset({"dog"})}
    score = score_chair(captions, objects, WORDS, name_parts=("chair", "coco"), decoding="ref:none|a:1")
    assert score.signature.startswith("chair|coco|synonyms:")
    assert "|n:1|ref:none|a:1|vdd:" in score.signature
    fewer = Vocabulary({"dog": "dog"}, {})
    assert score_chair(captions, objects, fewer, name_parts=("chair", "coco")).signature != score.signature
    other = score_chair(captions, {"1": frozenset({"bus"})}, WORDS).signature
    assert other.rpartition("sha:")[2] != score.signature.rpartition("sha:")[2]


@pytest.fixture
def files(tmp_path):
    captions = [{"image_id": 1, "caption": "A dog and a bus."}, {"image_id": 2, "caption": "A tie, a tie, a tie"}]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(c) + "\n" for c in captions))
    (tmp_path / "short.jsonl").write_text(
        "".join(json.dumps({"image_id": i, "caption": "A dog"}) + "\n" for i in (1, 2))
    )
    (tmp_path / "objects.json").write_text(json.dumps({"1": ["dog"], "2": ["tie"]}))
    (tmp_path / "synonyms.txt").write_text("dog, puppy\nbus\ntie\n")
    return tmp_path


def command(files, *more):
    paths = {"captions": "captions.jsonl", "objects": "objects.json", "synonyms": "synonyms.txt"}
    options = [part for name, path in paths.items() for part in (f"--{name}", str(files / path))]
    return CliRunner().invoke(app, ["score", "chair", *options, *map(str, more)])


def test_the_command_prints_one_json_object_or_a_table(files):
    result = command(files, "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["chair_s"], found["chair_i"], found["recall"], found["n"]) == (0.5, 0.2, 1.0, 2)
    assert found["signature"].startswith("chair|synonyms:")
    assert set(found["intervals"]) == set(FIGURES)
    table = command(files)
    assert table.exit_code == 0
    assert "0.2000" in table.stdout
    assert found["signature"] in table.stdout


def test_the_command_cuts_captions_to_another_runs_length(files):
    found = json.loads(command(files, "--json", "--length-of", files / "short.jsonl").stdout)
    assert (found["chair_s"], found["words"], found["mentions"]) == (0.0, 2.0, 2)
    assert found["signature"].startswith("chair|length-matched|")


def test_the_command_refuses_a_missing_file_as_a_users_mistake(files):
    (files / "objects.json").unlink()
    assert isinstance(command(files).exception, UserError)
