import json
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.pope_official import official_scores, vcd_scores
from vdd._check import UserError
from vdd.data import load_questions
from vdd.records import Question
from vdd.scoring.pope import FIGURES, SAID, figures, name_parts_of, outcomes, predictions, score_pope, statistic
from vdd.scoring.score import bootstrap_interval, paired_bootstrap

PHRASES = [
    "Yes", "No", "yes", "no", "Yes.", "No.", "NO", "Yes, there is a {}.", "No, there is no {} in the image.",
    "There is not a {} here.", "Yes, there is no cat but a {}.", "I don't know", "", " ", "A {}.", "No\n", "no, yes",
    "The picture shows no. 5", "Not that I can see", "it is not. Yes", "YES!", "None", "Nothing of the kind.",
]  # fmt: skip
POPE = [
    f"{images}_pope_{split}" for images in ("coco", "aokvqa", "gqa") for split in ("random", "popular", "adversarial")
]
FILES = [f"pope/{name}.json" for name in POPE] + [
    f"repope/coco_repope_{split}.json" for split in ("random", "popular", "adversarial")
]
CASES = st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(PHRASES)), min_size=1, max_size=40)
SHARED = ("accuracy", "precision", "recall", "f1", "yes_ratio")


def asked(labels, per_image=3):
    return [Question(i, f"{i // per_image}.jpg", f"Is there a {i}?", label) for i, label in enumerate(labels)]


def mixture(questions, seed):
    """Answers of a model that is right more often than not, in all phrasings."""
    rng = random.Random(seed)
    return [
        rng.choice([q.label, q.label.capitalize() + ".", *rng.sample(PHRASES, 3)]).format(q.text.split()[-1])
        for q in questions
    ]


@pytest.mark.data
@pytest.mark.parametrize("name", FILES)
def test_real_files_score_as_the_official_script_scores_them_to_the_last_digit(shared_data, name):
    questions = load_questions(shared_data / name, labels=("yes", "no"))
    labels = [q.label for q in questions]
    for seed in range(3):
        texts = mixture(questions, seed)
        score = score_pope(questions, texts, name_parts=name_parts_of(name))
        assert {key: score.values[key] for key in SHARED} == official_scores(labels, texts)
        family = score_pope(questions, texts, parser="vcd")
        assert {key: family.values[key] for key in SHARED} == vcd_scores(labels, texts)
    benchmark, images, split = (
        ("repope" if "repope" in name else "pope"),
        name.split("/")[1].split("_")[0],
        split_of(name),
    )
    assert score.signature.startswith(f"{benchmark}|{images}|{split}|n:{len(questions)}|parse:official|vdd:")


def split_of(name):
    return name.removesuffix(".json").split("_")[-1]


@given(CASES)
def test_agrees_with_the_official_script_to_the_last_digit(cases):
    labels, texts = map(list, zip(*cases, strict=True))
    got = score_pope(asked(labels), texts).values
    assert {key: got[key] for key in SHARED} == official_scores(labels, texts)


@given(CASES)
def test_agrees_with_the_vcd_familys_script_to_the_last_digit(cases):
    labels, texts = map(list, zip(*cases, strict=True))
    got = score_pope(asked(labels), texts, parser="vcd").values
    assert {key: got[key] for key in SHARED} == vcd_scores(labels, texts)


def test_counts_a_small_table_by_hand():
    labels = ["yes", "yes", "yes", "yes", "no", "no", "no", "no", "no", "no"]
    texts = ["yes", "yes", "yes", "no", "yes", "no", "no", "no", "no", "no"]
    values = score_pope(asked(labels), texts).values
    assert values == {
        "accuracy": 0.8,
        "precision": 0.75,
        "recall": 0.75,
        "f1": 0.75,
        "yes_ratio": 0.4,
        "balanced_accuracy": pytest.approx((3 / 4 + 5 / 6) / 2),
        "tpr": 0.75,
        "fpr": 1 / 6,
        "n": 10,
        "unparsed": 0,
        "unanswered": 0,
    }
    assert list(values) == [*FIGURES, "n", "unparsed", "unanswered"]


def test_unanswered_questions_are_wrong_and_are_left_out_of_the_yes_ratio():
    values = score_pope(asked(["yes", "yes", "no", "no"]), ["yes", None, "no", None]).values
    assert values["accuracy"] == 0.5
    assert values["yes_ratio"] == 0.5
    assert (values["recall"], values["precision"], values["fpr"]) == (0.5, 1.0, 0.0)
    assert values["balanced_accuracy"] == 0.5
    assert (values["n"], values["unanswered"], values["unparsed"]) == (4, 2, 0)


def test_answers_that_the_exact_rule_cannot_read_are_wrong_and_counted():
    values = score_pope(asked(["yes", "yes", "no", "no"]), ["yes", "Yes.", "no", "A cat"], parser="exact").values
    assert score_pope(asked(["no", "no"]), ["yes", "A cat"], parser="exact").values["fpr"] == 0.5
    assert (values["accuracy"], values["yes_ratio"], values["recall"], values["unparsed"]) == (0.5, 0.25, 0.5, 2)


@pytest.mark.parametrize("text", ["yes", "no", None])
@pytest.mark.parametrize("label", ["yes", "no"])
def test_no_figure_divides_by_zero_or_leaves_the_unit_interval(text, label):
    values = score_pope(asked([label] * 3), [text] * 3, rng=np.random.default_rng(0)).values
    assert all(0.0 <= values[name] <= 1.0 for name in FIGURES)
    assert values["balanced_accuracy"] == float(text == label)


def test_balanced_accuracy_agrees_with_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    questions = asked(["yes"] * 20 + ["no"] * 50)
    said = predictions(questions, mixture(questions, 0))
    truth = [q.label for q in questions]
    got = figures(outcomes(questions, said).sum(axis=0))["balanced_accuracy"]
    assert got == pytest.approx(metrics.balanced_accuracy_score(truth, said), abs=1e-15)


def test_outcomes_put_each_question_into_one_cell():
    questions = asked(["yes", "no", "yes", "no"])
    table = outcomes(questions, list(SAID))
    assert table.shape == (4, 2, 4)
    assert np.argwhere(table).tolist() == [[0, 0, 0], [1, 1, 1], [2, 0, 2], [3, 1, 3]]


def test_figures_of_many_tables_are_the_figures_of_each():
    tables = np.random.default_rng(0).integers(0, 9, size=(5, 2, 4))
    together = figures(tables)
    for i, table in enumerate(tables):
        assert {name: values[i] for name, values in together.items()} == figures(table)


def test_intervals_hold_the_figure_and_are_those_of_the_bootstrap():
    questions = asked(["yes", "no"] * 60)
    texts = mixture(questions, 1)
    score = score_pope(questions, texts, rng=np.random.default_rng(5), samples=400)
    assert set(score.intervals) == set(FIGURES)
    for name, (low, high) in score.intervals.items():
        assert low < score.values[name] < high
    rows = outcomes(questions, predictions(questions, texts))
    images = [q.image for q in questions]
    again = bootstrap_interval(rows, images, rng=np.random.default_rng(5), samples=400, statistic=statistic("f1"))
    assert again == score.intervals["f1"]
    difference = paired_bootstrap(rows, rows, images, rng=np.random.default_rng(5), statistic=statistic("f1"))
    assert difference == (0.0, 0.0, 0.0)


def test_without_a_generator_or_with_a_single_image_there_are_no_intervals():
    assert score_pope(asked(["yes", "no"], 1), ["yes", "no"]).intervals == {}
    assert score_pope(asked(["yes", "no"], 9), ["yes", "no"], rng=np.random.default_rng(0)).intervals == {}


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("x/coco_pope_adversarial.json", ("pope", "coco", "adversarial")),
        ("gqa_pope_seem_popular.jsonl", ("pope", "gqa", "popular")),
        ("COCO_POPE_Random.json", ("pope", "coco", "random")),
        ("coco_repope_random.json", ("repope", "coco", "random")),
        ("llava_pope_test.jsonl", ("pope", "llava_pope_test")),
        ("coco_pope_random_seed1.jsonl", ("pope", "coco_pope_random_seed1")),
        ("my coco_pope_random|2.json", ("pope", "my_coco_pope_random_2")),
    ],
)
def test_a_file_name_tells_benchmark_images_and_split(path, parts):
    assert name_parts_of(path) == parts


def test_the_signature_says_parser_decoding_and_version():
    from vdd import __version__

    questions = asked(["yes", "no"])
    known = score_pope(
        questions, ["yes", "no"], name_parts=("pope", "coco", "random"), decoding="ref:none|a:1|b:0.1|greedy"
    ).signature
    assert known.startswith(f"pope|coco|random|n:2|parse:official|ref:none|a:1|b:0.1|greedy|vdd:{__version__}|sha:")
    unknown = score_pope(questions, ["yes", "no"], parser="exact").signature
    assert unknown.startswith(f"pope|n:2|parse:exact|vdd:{__version__}|sha:")


def test_a_score_is_one_line_of_json_with_whole_counts():
    score = score_pope(asked(["yes", "no"], 1), ["yes", None], rng=np.random.default_rng(0), samples=10)
    body = json.loads(score.to_json(), parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (body["n"], body["unanswered"]) == (2, 1)
    assert Counter(type(body[key]) for key in ("n", "unparsed", "unanswered")) == {int: 3}
    assert "\n" not in score.to_json()


@pytest.mark.parametrize(
    ("questions", "texts", "options", "message"),
    [
        ([], [], {}, "no questions"),
        (asked(["yes"]), [], {}, "0 texts for 1 questions"),
        (asked(["yes"]), ["yes"], {"parser": "fuzzy"}, "official, vcd, exact"),
        (asked([None]), ["yes"], {}, "label is None"),
        (asked(["Yes"]), ["yes"], {}, "label is 'Yes'"),
        (asked(["yes"]), ["yes"], {"name_parts": ("a|b",)}, "none with"),
        (asked(["yes"]), ["yes"], {"name_parts": ()}, "at least one"),
    ],
)
def test_errors_say_what_came_and_what_was_wanted(questions, texts, options, message):
    with pytest.raises(UserError, match=message):
        score_pope(questions, texts, **options)


def test_outcomes_and_statistics_refuse_what_they_do_not_know():
    with pytest.raises(UserError, match="'maybe'"):
        outcomes(asked(["yes"]), ["maybe"])
    with pytest.raises(UserError, match="0 predictions for 1"):
        outcomes(asked(["yes"]), [])
    with pytest.raises(UserError, match="accuracy, precision"):
        statistic("auc")
