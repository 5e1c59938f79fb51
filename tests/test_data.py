import json
import os
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdd._check import UserError
from vdd.data import (
    StoredAnswer,
    load_answers,
    load_questions,
    match_answers,
    read_records,
    write_atomic,
)
from vdd.records import Answer, Question

SPLITS = ("random", "popular", "adversarial")
YES_NO = ("yes", "no")
CAT = {"question_id": 1, "image": "a.jpg", "text": "Is there a cat in the image?", "label": "yes"}
DOG = {"question_id": 2, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "no"}
QUESTIONS = [Question(**CAT), Question(**DOG)]


@pytest.fixture
def put(tmp_path):
    """Write a file of the given lines (objects become JSON) or bytes, and return its path."""

    def write(*lines, name="file.jsonl"):
        path = tmp_path / name
        if lines and isinstance(lines[0], bytes):
            path.write_bytes(b"".join(lines))
        else:
            body = [line if isinstance(line, str) else json.dumps(line) for line in lines]
            path.write_text("\n".join(body) + "\n", encoding="utf-8")
        return path

    return write


def but(record, **changes):
    """`record` with other values; None takes the key away."""
    return {key: value for key, value in (record | changes).items() if value is not None}


# Question files


@pytest.mark.data
@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("images", ["coco", "aokvqa", "gqa"])
def test_real_pope_files_hold_3000_questions_on_500_images(shared_data, images, split):
    questions = load_questions(shared_data / "pope" / f"{images}_pope_{split}.json", labels=YES_NO)
    assert [q.question_id for q in questions] == list(range(1, 3001))
    assert len({q.image for q in questions}) == 500
    assert sum(q.label == "yes" for q in questions) == 1500


@pytest.mark.data
@pytest.mark.parametrize("split", SPLITS)
def test_popes_answers_are_scored_on_repopes_labels_by_dropping_what_it_left_out(shared_data, split):
    pope = load_questions(shared_data / "pope" / f"coco_pope_{split}.json", labels=YES_NO)
    repope = load_questions(shared_data / "repope" / f"coco_repope_{split}.json", labels=YES_NO)
    answers = [StoredAnswer("", q.question_id, q.text, f"{q.image} {q.text}") for q in pope]
    assert match_answers(repope, answers, unknown="drop") == [f"{q.image} {q.text}" for q in repope]
    with pytest.raises(UserError, match=f"{len(pope) - len(repope)} unknown"):
        match_answers(repope, answers)


@pytest.mark.data
def test_answers_to_another_real_split_are_refused_although_the_ids_fit(shared_data):
    popular, other = (
        load_questions(shared_data / "pope" / f"coco_pope_{split}.json") for split in ("popular", "adversarial")
    )
    with pytest.raises(UserError, match="another split"):
        match_answers(popular, [StoredAnswer("", q.question_id, q.text, "yes") for q in other])


def test_lines_an_array_blank_lines_and_a_byte_order_mark_give_the_same_questions(put):
    as_lines = put(CAT, "", "  \t", DOG, name="a.json")
    as_array = put(json.dumps([CAT, DOG], indent=2), name="b.json")
    with_mark = put(b"\xef\xbb\xbf" + as_lines.read_bytes().replace(b"\n", b"\r\n"), name="c.json")
    assert load_questions(as_lines) == load_questions(as_array) == load_questions(with_mark) == QUESTIONS


def test_llavas_files_without_labels_load_unless_labels_are_wanted(put):
    path = put(but(CAT, label=None, category="default"), but(DOG, label=None, question_id="q/2"))
    assert [(q.question_id, q.label) for q in load_questions(path)] == [(1, None), ("q/2", None)]
    with pytest.raises(UserError, match=r"line 1: no label; wanted one of yes, no"):
        load_questions(path, labels=YES_NO)


def test_labels_are_put_into_lower_case_where_they_are_checked_and_left_alone_where_not(put):
    path = put(but(CAT, label=" Yes "), but(DOG, label="NO"))
    assert [q.label for q in load_questions(path, labels=("Yes", "no"))] == ["yes", "no"]
    assert [q.label for q in load_questions(path)] == [" Yes ", "NO"]


def test_characters_that_python_takes_for_line_ends_do_not_end_a_line(put):
    text = "Is it\u2028a\u0085cat?"
    path = put(json.dumps(but(CAT, text=text), ensure_ascii=False), "{broken")
    with pytest.raises(UserError, match="line 2: broken JSON"):
        load_questions(path)
    assert load_questions(put(json.dumps(but(CAT, text=text), ensure_ascii=False)))[0].text == text


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([CAT, '{"question_id": 2,'], r"line 2: broken JSON \(.*column \d+\): .*wanted one JSON object per line"),
        ([CAT, "", "[1]"], r"line 3: found \[1\]; wanted a JSON object"),
        ([CAT, "null"], r"line 2: found None; wanted a JSON object"),
        (["[1]"], r"item 1: found 1; wanted a JSON object"),
        (["[", '{"a": 1},', "{]"], "line 3: broken JSON"),
        (["[]"], "nothing in it; wanted"),
        (["", " "], "nothing in it; wanted"),
        (["[" * 100_000], "JSON"),
        (['{"question_id": ' + "9" * 5000 + "}"], "JSON|wanted"),
        ([CAT, but(DOG, image=None)], r"line 2: no 'image' in it \(it has question_id, text, label\); wanted"),
        ([but(CAT, question_id=None)], "line 1: no 'question_id'"),
        ([{}], r"it has nothing"),
        ([CAT, DOG, but(CAT, image="c.jpg")], r"line 3: question_id 1 again, first in .*line 1"),
        ([CAT, but(DOG, question_id="1")], "question_id '1' again"),
        ([but(CAT, question_id=True)], "question_id is True; wanted a whole number or a string"),
        ([but(CAT, question_id=1.0)], "question_id is 1.0"),
        ([but(CAT, question_id="")], "question_id is ''"),
        ([but(CAT, image=3)], "image is 3; wanted a string"),
        ([but(CAT, text=" ")], "text is ' '; wanted a string that is not empty"),
        ([CAT, but(DOG, label="maybe")], r"line 2: label is 'maybe'; wanted one of yes, no"),
        ([but(CAT, label=1)], "label is 1; wanted one of yes, no"),
    ],
)
def test_errors_in_a_question_file_say_where_what_and_what_was_wanted(put, lines, message):
    path = put(*lines)
    with pytest.raises(UserError, match=message) as caught:
        load_questions(path, labels=YES_NO)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500 + len(str(path)) * 2


def test_files_that_cannot_be_read_are_named(put, tmp_path):
    with pytest.raises(UserError, match=r"absent\.json: no such file"):
        load_questions(tmp_path / "absent.json")
    with pytest.raises(UserError, match="is a folder"):
        load_answers(tmp_path)
    with pytest.raises(UserError, match="line 2: byte 0xe9 is not UTF-8"):
        read_records(put(b'{"a": 1}\n', b'{"a": "\xe9"}\n'))
    with pytest.raises(UserError, match="line 1: byte 0xff is not UTF-8"):
        read_records(put(json.dumps(CAT).encode("utf-16")))
    with pytest.raises(UserError, match="nothing in it"):
        read_records(put(b""))
    with pytest.raises(UserError, match="cannot be read"):
        read_records("a\0b")


def test_a_label_that_is_no_string_is_refused_even_without_a_check(put):
    with pytest.raises(UserError, match="label is 1; wanted a string"):
        load_questions(put(but(CAT, label=1)))


# Answer files


def test_each_form_of_answer_file_loads(put):
    ours = Answer(1, CAT["text"], "a.jpg", "Yes.", probabilities={"yes": 0.75, "no": 0.25})
    broken = Answer(2, DOG["text"], "b.jpg", "", error="image b.jpg: no such file")
    llava = {"question_id": 1, "prompt": "<image>\n" + CAT["text"], "text": "Yes", "model_id": "x", "metadata": {}}
    pope = {"question": CAT["text"], "answer": ""}
    rows = load_answers(put(ours.to_json(), broken.to_json(), llava, pope))
    assert [(r.question_id, r.question, r.text, r.error) for r in rows] == [
        (1, CAT["text"], "Yes.", None),
        (2, DOG["text"], None, "image b.jpg: no such file"),
        (1, "<image>\n" + CAT["text"], "Yes", None),
        (None, CAT["text"], "", None),
    ]
    assert rows[3].where.endswith("line 4")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "yes"}, r"no question_id and no question in it \(it has text\)"),
        (
            {"question_id": 1, "reply": "yes"},
            r"no answer in it \(it has question_id, reply\); wanted it as text or ans",
        ),
        ({"question_id": 1, "text": None}, "the answer is None; wanted a string"),
        ({"question_id": 1, "answer": True}, "the answer is True; wanted a string"),
        ({"question_id": 1, "text": CAT["text"], "answer": "yes"}, "but answer is 'yes'; wanted one of them"),
        ({"question_id": [1], "text": "yes"}, r"question_id is \[1\]"),
        ({"question": "", "answer": "yes"}, "question is ''"),
    ],
)
def test_errors_in_an_answer_file_say_where_what_and_what_was_wanted(put, record, message):
    with pytest.raises(UserError, match=r"line 2: .*" + message):
        load_answers(put({"question_id": 9, "text": "no"}, record))


def answers(*rows):
    return [StoredAnswer(f"answers, line {i}", *row) for i, row in enumerate(rows, start=1)]


def test_answers_are_matched_by_id_whatever_their_order():
    given_ = answers((2, None, "no"), ("1", None, "yes"))
    assert match_answers(QUESTIONS, given_) == ["yes", "no"]


def test_an_answer_with_an_error_leaves_its_question_unanswered():
    assert match_answers(QUESTIONS, answers((1, None, "yes"), (2, None, None, "unreadable"))) == ["yes", None]


def test_answers_without_ids_are_matched_by_position_and_their_questions_checked():
    assert match_answers(
        QUESTIONS, answers((None, "is  there a CAT in the image? ", "a"), (None, "Q: " + DOG["text"] + " A:", "b"))
    ) == ["a", "b"]
    swapped = answers((None, DOG["text"], "b"), (None, CAT["text"], "a"))
    with pytest.raises(UserError, match=r"answers, line 1: answers 'Is there a dog.*'Is there a cat.*2 of 2 differ"):
        match_answers(QUESTIONS, swapped)


@given(st.permutations(range(12)), st.booleans())
def test_matching_by_id_undoes_any_shuffle(order, as_text):
    questions = [Question(i, "a.jpg", f"What is {i}?") for i in range(12)]
    shuffled = answers(*((str(i) if as_text else i, f"What is {i}?", f"answer {i}") for i in order))
    assert match_answers(questions, shuffled) == [f"answer {i}" for i in range(12)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, None, "yes")], r"1 answers do not fit 2 questions by question_id: 1 missing \(2\)"),
        ([(1, None, "a"), (2, None, "b"), (7, None, "c")], r"1 unknown \(7\)"),
        ([(1, None, "a"), (2, None, "b"), (2, None, "b")], r"1 duplicated \(2\)"),
        ([(3, None, "a"), (3, None, "b")], r"1 duplicated \(3\); 2 missing \(1, 2\); 1 unknown \(3\)"),
        ([(1, None, "a"), (None, DOG["text"], "b")], "line 2: no question_id, but other answers have one"),
        ([(None, CAT["text"], "a")], "1 answers without question_id for 2 questions"),
        ([(1, CAT["text"], "a"), (2, CAT["text"], "b")], r"line 2: .*1 of 2 differ. Do the answers belong to another"),
        ([(1, None, CAT["text"]), (2, None, DOG["text"])], "was the question file passed twice"),
        ([], "0 answers do not fit"),
    ],
)
def test_answers_that_do_not_fit_are_refused_with_their_ids(rows, message):
    with pytest.raises(UserError, match=message):
        match_answers(QUESTIONS, answers(*rows))


def test_many_ids_are_not_all_listed():
    questions = [Question(i, "a.jpg", "?") for i in range(100)]
    with pytest.raises(UserError, match=r"99 missing \(1, 2, 3, 4, 5 and 94 more\)"):
        match_answers(questions, answers((0, None, "a")))


def test_dropping_unknown_answers_still_wants_every_question_answered():
    assert match_answers(QUESTIONS[1:], answers((1, None, "a"), (2, None, "b")), unknown="drop") == ["b"]
    with pytest.raises(UserError, match=r"1 missing \(2\)"):
        match_answers(QUESTIONS, answers((1, None, "a"), (3, None, "b")), unknown="drop")
    with pytest.raises(UserError, match="known: error, drop"):
        match_answers(QUESTIONS, [], unknown="ignore")


def test_the_same_id_twice_among_the_questions_is_refused():
    with pytest.raises(UserError, match=r"1 duplicated among the questions \(1\)"):
        match_answers([QUESTIONS[0]] * 2, answers((1, None, "yes")))


def test_a_written_file_holds_the_text_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "answers.jsonl"
    for text in ("first\r\n", "β → 日本\n", ""):
        write_atomic(path, text)
        assert path.read_bytes() == text.encode("utf-8")
    assert os.listdir(tmp_path) == ["answers.jsonl"]


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    path = tmp_path / "answers.jsonl"
    write_atomic(path, "old")
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match=r"answers\.jsonl: cannot be written \(No space left on device\)"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["answers.jsonl"]


def test_what_cannot_be_encoded_is_noticed_before_anything_is_written(tmp_path):
    with pytest.raises(UnicodeEncodeError):
        write_atomic(tmp_path / "x", "\ud800")
    assert os.listdir(tmp_path) == []


def test_writing_needs_a_folder_and_no_folder_in_its_place(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        write_atomic(tmp_path / "absent" / "x", "")
    with pytest.raises(UserError, match="cannot be written"):
        write_atomic(tmp_path, "")
    assert os.listdir(tmp_path) == []
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_atomic(tmp_path / "file" / "x", "")


@pytest.mark.skipif(os.name != "posix", reason="permissions and links are POSIX's")
def test_a_written_file_has_the_usual_permissions_and_a_link_stays_a_link(tmp_path):
    plain, written, link = tmp_path / "plain", tmp_path / "written", tmp_path / "link"
    plain.touch()
    link.symlink_to(written)
    write_atomic(link, "text")
    assert link.is_symlink()
    assert written.read_text() == "text"
    assert stat.S_IMODE(written.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
