import json

import pytest

from vdd._check import UserError
from vdd.sets.mmmu import KeyItem, match_answers, read_answers, read_key

CHOICE = {"question_type": "multiple-choice", "ground_truth": "B"}
OAK = KeyItem("validation_Art_1", ("B",), ("oak", "fir"))
MATH = KeyItem("validation_Math_15", ("24/7", "3.429"), is_open=True)


def write(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return path


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize(
    "content",
    [
        {
            "validation_Art_1": {**CHOICE, "options": ["oak", "fir"]},
            "validation_Math_15": {"question_type": "short-answer", "ground_truth": ["24/7", "3.429"]},
        },
        [
            {"id": "validation_Art_1", "question_type": "multiple-choice", "answer": "B", "options": "['oak', 'fir']"},
            {"id": "validation_Math_15", "question_type": "open", "answer": "['24/7', '3.429']", "options": "[]"},
        ],
        lines(
            [
                {"question_id": "validation_Art_1", **CHOICE, "index2ans": {"A": "oak", "B": "fir"}, "response": "?"},
                {"question_id": "validation_Math_15", "question_type": "open", "answer": ["24/7", "3.429"]},
            ]
        ),
    ],
)
def test_a_key_reads_the_same_in_every_form(tmp_path, content):
    assert read_key(write(tmp_path / "key.json", content)) == [OAK, MATH]


def test_a_key_without_options_and_a_single_answer_in_text_form(tmp_path):
    key = {"dev_Art_1": CHOICE, "dev_Art_2": {"question_type": "open", "ground_truth": "embryonic"}}
    key |= {"dev_Art_3": {"question_type": "open", "ground_truth": "[0, 1)"}}
    assert read_key(write(tmp_path / "key.json", json.dumps(key, indent=1))) == [
        KeyItem("dev_Art_1", ("B",)),
        KeyItem("dev_Art_2", ("embryonic",), is_open=True),
        KeyItem("dev_Art_3", ("[0, 1)",), is_open=True),
    ]


@pytest.mark.parametrize(
    "content",
    [
        {"validation_Art_1": "B", "validation_Art_2": ""},
        lines([{"question_id": "validation_Art_1", "text": "B"}, {"id": "validation_Art_2", "answer": ""}]),
        [
            {"id": "validation_Art_1", **CHOICE, "answer": "A", "response": "B"},
            {"id": "validation_Art_2", **CHOICE, "answer": "A", "response": ""},
        ],
    ],
)
def test_answers_read_the_same_in_every_form(tmp_path, content):
    assert read_answers(write(tmp_path / "a.json", content)) == {"validation_Art_1": "B", "validation_Art_2": ""}


def test_a_single_line_is_a_record_and_an_error_is_no_answer(tmp_path):
    row = {"question_id": "validation_Art_1", "text": "", "error": "no image"}
    assert read_answers(write(tmp_path / "a.jsonl", lines([row]))) == {"validation_Art_1": None}


def test_answers_come_in_the_keys_order_and_subjects_without_any_are_left_out():
    key = [KeyItem(f"dev_{subject}_{i}", ("A",)) for subject in ("Art", "Art_Theory") for i in (1, 2, 10)]
    items, texts = match_answers(key, {"dev_Art_10": "c", "dev_Art_1": "a", "dev_Art_2": None})
    assert ([item.question_id for item in items], texts) == (["dev_Art_1", "dev_Art_2", "dev_Art_10"], ["a", None, "c"])
    with pytest.raises(UserError, match=r"1 ids without an answer.*\(dev_Art_2\)"):
        match_answers(key, {"dev_Art_10": "c", "dev_Art_1": "a"})
    with pytest.raises(UserError, match=r"6 ids not in the key \(test_Art_0, .*_4, …\)"):
        match_answers(key, {f"test_Art_{i}": "a" for i in range(6)})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"dev_Art_1": "B"}, "dev_Art_1: 'B'; wanted an object of question_type"),
        ({"dev_Art_1": {"ground_truth": "B"}}, "question_type is None; wanted one of multiple-choice"),
        ({"dev_Art_1": {"question_type": "open"}}, "ground_truth is None"),
        ({"dev_Art_1": {"question_type": "open", "answer": []}}, r"ground_truth is \[\]"),
        ({"dev_Art_1": {"question_type": "open", "answer": ["a", 1]}}, r"ground_truth is \['a', 1\]"),
        ({"dev_Art_1": {**CHOICE, "ground_truth": ""}}, "ground_truth is ''"),
        ({"dev_Art_1": {**CHOICE, "options": ["a", 2]}}, r"options are \['a', 2\]; wanted strings"),
        ({"dev_Art_1": {**CHOICE, "options": "oak, fir"}}, "options are 'oak, fir'"),
        ({"dev_Art_1": {**CHOICE, "index2ans": {"B": "oak"}}}, "options are {'B': 'oak'}"),
        ([{"id": 7, **CHOICE}], "item 1: id is 7; wanted a string"),
        (lines([{"id": "dev_Art_1", **CHOICE}] * 2), "line 2: dev_Art_1 again, first in .*line 1"),
        ('{"dev_Art_1": 1, "dev_Art_1": 2}', "'dev_Art_1' twice in one object"),
        ("{}", "there is nothing in it"),
        ("", "there is nothing in it"),
        ("{oops", "line 1: broken JSON"),
    ],
)
def test_a_broken_key_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_key(write(tmp_path / "key.json", content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"dev_Art_1": 3}, "dev_Art_1: the answer is 3; wanted a string"),
        ([{"id": "dev_Art_1", "label": "B"}], "item 1: the answer is None"),
        ([{"id": "dev_Art_1", **CHOICE, "answer": "B"}], "was the key passed as answers"),
        ({"dev_Art_1": CHOICE}, "was the key passed as answers"),
        ({"dev_Art_1": {"response": ["B"]}}, r"the answer is \['B'\]"),
    ],
)
def test_broken_answers_are_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_answers(write(tmp_path / "a.json", content))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="absent: no such file"):
        read_answers(tmp_path / "absent")
