import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.oracles import mmmu_official
from vdd._check import UserError
from vdd.cli import app
from vdd.scoring.mmmu import (
    DISCIPLINES,
    FIGURES,
    PARSERS,
    SUBJECTS,
    figures,
    judge,
    outcomes,
    parser_for,
    score_mmmu,
    statistic,
    subject_of,
)
from vdd.scoring.score import bootstrap_interval, paired_bootstrap
from vdd.sets.mmmu import KeyItem, match_answers, read_answers, read_key

OPTIONS = st.lists(st.sampled_from(["dog", "cat", "x-1", ""]), min_size=2, max_size=6)
TEXT = st.sampled_from(["A", "(B)", "C.", "D", "neither", "A or B", "", "is it a dog or is it an x-1"])


def item(subject, number, answer="A", options=("dog", "cat", "a red car"), **changes):
    return KeyItem(f"validation_{subject}_{number}", (answer,), tuple(options), **changes)


def oracle_verdicts(key, texts):
    """What main_parse_and_eval.py makes of a file by subjects, from one generator for all of them."""
    rng = random.Random(42)
    right = [False] * len(key)
    for subject in sorted({subject_of(one.question_id) for one in key}):
        for row, (one, text) in enumerate(zip(key, texts, strict=True)):
            if subject_of(one.question_id) != subject or text is None:
                continue
            if one.is_open:
                right[row] = mmmu_official.right_open(text, list(one.answers))
            else:
                right[row] = mmmu_official.read_letter(text, list(one.options), rng)[0] in one.answers
    return right


@pytest.mark.data
def test_llavas_answers_to_the_validation_split_give_the_published_accuracy(shared_data):
    key, answers = (read(shared_data / "mmmu" / name) for read, name in (
        (read_key, "answer_dict_val.json"), (read_answers, "llava1.5_7b_val.json"),
    ))  # fmt: skip
    items, texts = match_answers(key, answers)
    score = score_mmmu(items, texts, parser=parser_for(items))
    assert round(score.values["accuracy"], 3) == 0.344
    assert (score.values["n"], score.values["random"], score.values["unparsed"]) == (900, 0, 0)
    right = [
        mmmu_official.right_open(text, list(one.answers)) if one.is_open else text in one.answers
        for one, text in zip(items, texts, strict=True)
    ]
    assert sum(right) == 310
    for name, subjects in {**DISCIPLINES, **{subject: (subject,) for subject in SUBJECTS}}.items():
        within = [ok for one, ok in zip(items, right, strict=True) if subject_of(one.question_id) in subjects]
        assert score.values[name] == sum(within) / len(within)
        assert score.values[f"{name}_n"] == len(within)
    assert score.signature.startswith("mmmu|n:900|parse:letters|vdd:")


@given(st.lists(st.tuples(st.sampled_from(SUBJECTS[:4]), OPTIONS, TEXT), min_size=1, max_size=30))
def test_draws_letters_in_the_official_order_from_the_official_seed(cases):
    key = [item(subject, i, "AB"[i % 2], options) for i, (subject, options, _) in enumerate(cases)]
    texts = [text for _, _, text in cases]
    assert [verdict.right for verdict in judge(key, texts)] == oracle_verdicts(key, texts)


def test_draws_are_counted_and_repeat_and_unanswered_questions_draw_nothing():
    key = [item("Art", i) for i in range(1, 200)]
    texts = ["no idea"] * 199
    first = score_mmmu(key, texts)
    assert (first.values["random"], first.values["unparsed"]) == (199, 199)
    assert 0.2 < first.values["accuracy"] < 0.5
    assert score_mmmu(key, texts) == first
    gaps = [None if i % 2 else text for i, text in enumerate(texts)]
    values = score_mmmu(key, gaps).values
    assert (values["random"], values["unanswered"]) == (100, 99)
    assert [v.right for v in judge(key, gaps)] == oracle_verdicts(key, gaps)


def test_letters_are_taken_as_they_are():
    key = [item("Art", i, "B", options=()) for i in range(1, 6)]
    values = score_mmmu(key, ["B", "A", "(B)", "b", ""], parser="letters").values
    assert (values["accuracy"], values["random"], values["unparsed"]) == (0.2, 0, 3)
    assert parser_for(key) == "letters"
    assert parser_for([item("Art", 1)]) == "official"


def test_disciplines_and_subjects_are_counted_by_hand():
    key = [item("Art", 1), item("Music", 1), item("Music", 2), item("Math", 1, "7", (), is_open=True)]
    values = score_mmmu(key, ["A", "B", "A", "It is 7"]).values
    assert values == {
        "accuracy": 0.75,
        "Art and Design": pytest.approx(2 / 3),
        "Art": 1.0,
        "Music": 0.5,
        "Science": 1.0,
        "Math": 1.0,
        "n": 4,
        "random": 0,
        "unparsed": 0,
        "unanswered": 0,
        "Art and Design_n": 3,
        "Art_n": 1,
        "Music_n": 2,
        "Science_n": 1,
        "Math_n": 1,
    }
    assert (len(SUBJECTS), len(DISCIPLINES), len(FIGURES)) == (30, 6, 37)


def test_figures_of_many_tables_are_the_figures_of_each():
    tables = np.random.default_rng(0).integers(1, 9, size=(4, 30, 2))
    tables[1, 2] = 0
    together = figures(tables)
    assert together[SUBJECTS[2]][1] == 0.0
    for i, table in enumerate(tables):
        assert {name: values[i] for name, values in together.items()} == figures(table)


def test_intervals_hold_the_figure_and_are_those_of_the_bootstrap():
    key = [item(("Art", "Math")[i % 2], i) for i in range(1, 121)]
    texts = ["A" if i % 3 else "B" for i in range(120)]
    score = score_mmmu(key, texts, rng=np.random.default_rng(5), samples=300)
    assert set(score.intervals) == {"accuracy", "Art and Design", "Art", "Science", "Math"}
    assert all(low < score.values[name] < high for name, (low, high) in score.intervals.items())
    rows = outcomes(key, [verdict.right for verdict in judge(key, texts)])
    again = bootstrap_interval(
        rows, range(120), rng=np.random.default_rng(5), samples=300, statistic=statistic("Science")
    )
    assert again == score.intervals["Science"]
    best = outcomes(key, [True] * 120)
    gain = paired_bootstrap(rows, best, range(120), rng=np.random.default_rng(5), statistic=statistic("accuracy"))
    assert gain.value == pytest.approx(1 / 3)
    assert score_mmmu(key, texts).intervals == {}
    assert score_mmmu(key[:1], texts[:1], rng=np.random.default_rng(0)).intervals == {}


def test_the_signature_depends_on_key_parser_and_decoding_alone():
    key = [item("Art", 1), item("Math", 1)]
    signature = score_mmmu(key, ["A", "B"], decoding="ref:none|a:1|b:0.1|greedy").signature
    assert signature.startswith("mmmu|n:2|parse:official|ref:none|a:1|b:0.1|greedy|vdd:")
    assert score_mmmu(key[::-1], ["A", None], decoding="ref:none|a:1|b:0.1|greedy").signature == signature
    other = [item("Art", 1, options=("dog", "cat", "a blue car")), key[1]]
    assert score_mmmu(other, ["A", "B"], decoding="ref:none|a:1|b:0.1|greedy").signature != signature


@pytest.mark.parametrize(
    ("key", "texts", "options", "message"),
    [
        ([], [], {}, "no questions"),
        ([item("Art", 1)], [], {}, "0 texts for 1 questions"),
        ([item("Art", 1)], ["A"], {"parser": "fuzzy"}, "known: official, letters"),
        ([item("Arts", 1)], ["A"], {}, "validation_Arts_1'; wanted SPLIT_SUBJECT_NUMBER"),
        ([item("Art", 1), item("Art", 2, options=())], ["A", "A"], {}, "1 multiple-choice .*validation_Art_2 first"),
    ],
)
def test_errors_say_what_came_and_what_was_wanted(key, texts, options, message):
    with pytest.raises(UserError, match=message):
        score_mmmu(key, texts, **options)


def test_outcomes_and_statistics_refuse_what_they_do_not_know():
    with pytest.raises(UserError, match="0 verdicts for 1"):
        outcomes([item("Art", 1)], [])
    with pytest.raises(UserError, match="known: accuracy, Art and Design"):
        statistic("f1")


def test_the_command_prints_a_table_or_json_under_either_parser(tmp_path):
    key = {
        "dev_Art_1": {"question_type": "multiple-choice", "ground_truth": "B", "options": ["oak", "fir"]},
        "dev_Art_2": {"question_type": "multiple-choice", "ground_truth": "A", "options": ["oak", "fir"]},
        "dev_Math_1": {"question_type": "short-answer", "ground_truth": ["24/7", "3.429"]},
    }
    (tmp_path / "key.json").write_text(json.dumps(key))
    (tmp_path / "answers.json").write_text(json.dumps({"dev_Art_1": "(B)", "dev_Art_2": "(A)", "dev_Math_1": "3.4285"}))

    def run(*arguments):
        paths = [f"--key={tmp_path / 'key.json'}", f"--answers={tmp_path / 'answers.json'}"]
        return CliRunner().invoke(app, ["score", "mmmu", *paths, *arguments])

    body = json.loads(run("--json").stdout)
    assert (body["accuracy"], body["Art"], body["Math_n"], body["random"]) == (1.0, 1.0, 1, 0)
    assert "|parse:official|" in body["signature"]
    letters = run("--parser", "letters").stdout
    assert ["Art", "2", "0.0000"] in [line.split() for line in letters.splitlines()]
    assert ["accuracy", "3", "0.3333"] in [line.split() for line in letters.splitlines()]
    assert "letters drawn at random: 0; answers without a letter: 2" in letters
    assert all(parser in str(run("--parser", "x").exception) for parser in PARSERS)
