import json
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import mme_official
from vdd._check import UserError
from vdd.records import Question
from vdd.scoring.mme import (
    FIGURES,
    GROUPS,
    HALLUCINATION,
    figures,
    missing,
    outcomes,
    prediction,
    score_mme,
    statistic,
)  # fmt: skip
from vdd.scoring.score import bootstrap_interval, paired_bootstrap
from vdd.sets.mme import COGNITION, PERCEPTION, SUBTASKS, read_results

PHRASES = [
    "Yes", "No", "yes", "no", "yes, it is", "No.", " no", "  yes", "   no", "\tYes", "Not so", "I know", "know",
    "none", "the yes", "y", "", " ", "yno", "nyes", "İyes", "Eye, no",
]  # fmt: skip
SUBTASK = st.sampled_from(SUBTASKS)
ANSWER = st.sampled_from(PHRASES)
LABEL = st.sampled_from(["yes", "no"])
PAIR = st.tuples(LABEL, ANSWER, LABEL, ANSWER)
CASES = st.dictionaries(SUBTASK, st.lists(PAIR, min_size=1, max_size=6), min_size=1, max_size=6)


def asked(subtask, labels, name="image"):
    """Two questions to an image."""
    return [
        Question(f"{subtask}/{name}{i // 2}#{i % 2 + 1}", f"{i // 2}.png", f"Is it {i}?", label)
        for i, label in enumerate(labels)
    ]


def official(questions, texts):
    """The oracle's figures by the names of a score."""
    lines = {}
    for question, text in zip(questions, texts, strict=True):
        subtask, _, rest = question.question_id.partition("/")
        lines.setdefault(subtask, []).append(f"{rest}\t{question.text}\t{question.label.title()}\t{text}")
    found = {subtask: mme_official.subtask_figures(rows) for subtask, rows in lines.items()}
    values = mme_official.totals({subtask: figure["score"] for subtask, figure in found.items()})
    for subtask, figure in found.items():
        values[subtask] = figure["score"]
        values |= {f"{subtask}_{name}": figure[name] for name in ("acc", "acc_plus", "other")}
    return values


@pytest.mark.data
def test_lavins_results_score_as_the_official_script_scores_them_to_the_last_digit(shared_data):
    questions, texts = read_results(shared_data / "mme" / "LaVIN")
    values = score_mme(questions, texts).values
    want = official(questions, texts)
    assert {name: values[name] for name in want} == want
    assert (values["n"], values["other"], values["unanswered"]) == (2374, 12, 0)
    assert (round(values["perception"], 2), round(values["cognition"], 2)) == (963.61, 249.64)
    assert missing(questions) == ()


@pytest.mark.data
def test_real_questions_answered_in_all_phrasings_score_as_the_official_script_scores_them(shared_data):
    questions, _ = read_results(shared_data / "mme" / "LaVIN")
    for seed in range(3):
        rng = random.Random(seed)
        texts = [rng.choice([question.label, question.label, rng.choice(PHRASES)]) for question in questions]
        values, want = score_mme(questions, texts).values, official(questions, texts)
        assert {name: values[name] for name in want} == want


@given(CASES)
def test_agrees_with_the_official_script_to_the_last_digit(cases):
    questions, texts = [], []
    for subtask, pairs in cases.items():
        questions += asked(subtask, [label for a, _, b, _ in pairs for label in (a, b)])
        texts += [text for _, a, _, b in pairs for text in (a, b)]
    values, want = score_mme(questions, texts).values, official(questions, texts)
    absent = {group for group, subtasks in GROUPS.items() if not set(subtasks) & set(cases)}
    assert {name: values[name] for name in values if name in want} == {
        name: value for name, value in want.items() if name not in absent
    }


@given(st.text(max_size=8) | ANSWER)
def test_reads_every_text_as_the_official_script_does(text):
    assert prediction(text) == mme_official.said(text)


def test_counts_a_small_table_by_hand():
    questions = asked("OCR", ["yes", "no", "yes", "no", "yes", "no", "yes", "no"])
    values = score_mme(questions, ["Yes", "No", "Yes", "Yes", "no", "no", "perhaps yes", None]).values
    assert values == {
        "perception": 75.0,
        "OCR": 75.0,  # 4 of 8 questions and 1 of 4 images
        "OCR_acc": 0.5,
        "OCR_acc_plus": 0.25,
        "n": 8,
        "other": 1,
        "unanswered": 1,
        "OCR_other": 1,
    }


def test_the_sums_are_of_their_subtasks_and_reach_their_maxima():
    questions = [question for subtask in SUBTASKS for question in asked(subtask, ["yes", "no"])]
    values = score_mme(questions, [question.label for question in questions]).values
    assert (values["perception"], values["cognition"], values["hallucination"]) == (2000.0, 800.0, 800.0)
    assert (len(PERCEPTION), len(COGNITION), HALLUCINATION) == (10, 4, ("existence", "count", "position", "color"))
    assert "missing" not in score_mme(questions, ["yes"] * len(questions)).signature


def test_missing_subtasks_are_in_no_sum_and_are_named():
    questions = asked("count", ["yes", "no"]) + asked("scene", ["yes", "no"])
    score = score_mme(questions, ["yes", "no", "yes", "yes"])
    assert (score.values["perception"], score.values["hallucination"]) == (250.0, 200.0)
    assert not {"cognition", "existence", "existence_acc", "OCR_other"} & set(score.values)
    assert missing(questions) == tuple(name for name in SUBTASKS if name not in ("count", "scene"))
    assert score.signature.startswith("mme|without:existence+position+color+posters+")


def test_an_images_questions_need_not_stand_together_and_names_repeat_across_subtasks():
    questions = asked("count", ["yes", "no", "yes", "no"]) + asked("color", ["yes", "no"])
    texts = ["yes", "no", "yes", "yes", "no", "no"]
    order = [4, 2, 0, 5, 3, 1]
    together = score_mme(questions, texts)
    apart = score_mme([questions[i] for i in order], [texts[i] for i in order])
    assert apart == together
    assert together.values["count_acc_plus"] == 0.5


def test_figures_of_many_tables_are_the_figures_of_each():
    tables = np.random.default_rng(0).integers(1, 9, size=(5, 14, 3))
    tables[2, 3] = 0
    together = figures(tables)
    assert tuple(together) == FIGURES
    for i, table in enumerate(tables):
        assert {name: values[i] for name, values in together.items()} == figures(table)
    assert together["color"][2] == 0.0


def test_intervals_hold_the_figure_and_are_those_of_the_bootstrap_clustered_by_image():
    questions = asked("scene", ["yes", "no"] * 60) + asked("OCR", ["yes", "no"] * 40)
    rng = random.Random(3)
    texts = [rng.choice([q.label, q.label, "yes", "no"]) for q in questions]
    score = score_mme(questions, texts, rng=np.random.default_rng(5), samples=300)
    names = {"perception"} | {f"{s}{part}" for s in ("scene", "OCR") for part in ("", "_acc", "_acc_plus")}
    assert set(score.intervals) == names
    assert all(low < score.values[name] < high for name, (low, high) in score.intervals.items())
    rows = outcomes(questions, texts)
    images = [q.question_id.partition("#")[0] for q in questions]
    count = 2 * 60  # rows of the first subtask; of several, images are drawn within each
    for name, own in (("scene", slice(count)), ("OCR", slice(count, None))):
        alone = score_mme(questions[own], texts[own], rng=np.random.default_rng(5), samples=300)
        again = bootstrap_interval(
            rows[own], images[own], rng=np.random.default_rng(5), samples=300, statistic=statistic(name)
        )
        assert alone.intervals[name] == again


def test_a_subtask_of_few_images_keeps_them_in_every_resample():
    questions = asked("count", ["yes", "no"] * 2) + asked("color", ["yes", "no"] * 50)
    score = score_mme(questions, [q.label for q in questions], rng=np.random.default_rng(1), samples=500)
    assert score.intervals["perception"] == (400.0, 400.0)
    assert score.intervals["count"] == (200.0, 200.0)


def test_the_gain_of_one_run_over_another_is_paired():
    questions = asked("scene", ["yes", "no"] * 60) + asked("OCR", ["yes", "no"] * 40)
    rng = random.Random(3)
    texts = [rng.choice([q.label, q.label, "yes", "no"]) for q in questions]
    score = score_mme(questions, texts)
    rows = outcomes(questions, texts)
    images = [q.question_id.partition("#")[0] for q in questions]
    better = outcomes(questions, [q.label for q in questions])
    gain = paired_bootstrap(rows, better, images, rng=np.random.default_rng(5), statistic=statistic("perception"))
    assert gain.value == pytest.approx(400 - score.values["perception"], abs=1e-9)
    assert 0 < gain.low < gain.value < gain.high


def test_a_single_image_or_no_generator_gives_no_intervals():
    questions = asked("OCR", ["yes", "no"])
    assert score_mme(questions, ["yes", "no"], rng=np.random.default_rng(0)).intervals == {}
    assert score_mme(asked("OCR", ["yes", "no"] * 9), ["yes", "no"] * 9).intervals == {}


def test_a_score_is_one_line_of_json_with_its_signature():
    from vdd import __version__

    questions = asked("OCR", ["yes", "no"])
    score = score_mme(questions, ["yes", None], decoding="ref:none|a:1|b:0.1|greedy")
    body = json.loads(score.to_json())
    assert (body["n"], body["unanswered"], body["OCR"]) == (2, 1, 50.0)
    assert f"|n:2|parse:official|ref:none|a:1|b:0.1|greedy|vdd:{__version__}|sha:" in body["signature"]


@pytest.mark.parametrize(
    ("questions", "texts", "message"),
    [
        ([], [], "no questions"),
        (asked("OCR", ["yes", "no"]), ["yes"], "1 texts for 2 questions"),
        (asked("OCR", ["yes", "no", "yes"]), ["yes"] * 3, "'image1' of OCR has 1 questions; wanted two"),
        (asked("OCR", ["yes", "No"]), ["yes"] * 2, "label is 'No'"),
        (asked("ocr", ["yes", "no"]), ["yes"] * 2, "wanted SUBTASK/IMAGE, the subtask one of existence"),
    ],
)
def test_errors_say_what_came_and_what_was_wanted(questions, texts, message):
    with pytest.raises(UserError, match=message):
        score_mme(questions, texts)


def test_statistics_refuse_what_they_do_not_know():
    with pytest.raises(UserError, match="perception, cognition"):
        statistic("total")
