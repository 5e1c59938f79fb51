"""POPE and MME in the Hub's schemas: the questions are those of the benchmarks' own files."""

from __future__ import annotations

import json

import pytest

from tests.hub_rows import CATEGORIES, MME, POPE, content, datasets, mme_row, picture, pope_row, pope_set, write
from vdd._check import UserError
from vdd.data import load_questions
from vdd.images import image_path, load_image
from vdd.scoring.pope import name_parts_of
from vdd.scoring.score import questions_sha
from vdd.sets.hub import load_hub, name_parts


@pytest.fixture(scope="module")
def pope(tmp_path_factory):
    return pope_set(tmp_path_factory.mktemp("pope"))


def test_a_category_of_pope_is_what_its_own_file_says(pope, tmp_path):
    lines = [
        {
            "question_id": n,
            "image": f"COCO_val2014_{(n - 1) // 2:012d}.jpg",
            "text": row["question"],
            "label": row["answer"],
        }
        for n, row in ((n, pope_row(n)) for n in range(1, 7))
    ]
    file = tmp_path / "coco_pope_popular.json"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    questions = load_hub(pope, tmp_path / "images", category="popular")
    assert questions == load_questions(file, labels=("yes", "no"))
    assert name_parts("pope", questions, category="popular") == name_parts_of(file)


def test_all_categories_together_have_unique_ids_and_one_picture_an_image(pope, tmp_path):
    questions = load_hub(pope, tmp_path / "images")
    assert [q.question_id for q in questions] == [f"{c}/{n}" for c in CATEGORIES for n in range(1, 7)]
    assert [q.label for q in questions] == ["yes", "no"] * 9
    assert content(tmp_path / "images") == {f"COCO_val2014_{n:012d}.jpg": picture(n) for n in range(3)}
    assert name_parts("pope", questions) == ("pope", "coco")


def test_mmes_pairs_have_the_ids_of_its_text_files_and_share_a_picture(tmp_path):
    from vdd.sets.mme import place_of, read_results

    rows = [mme_row("OCR", "0001.jpg", 1), mme_row("OCR", "0001.jpg", 2), mme_row("count", "000000006471.jpg", 1)]
    rows.append(mme_row("count", "000000006471.jpg", 2))
    questions = load_hub(write(tmp_path / "mme.parquet", rows, MME), tmp_path / "images", benchmark="mme")
    (tmp_path / "results").mkdir()
    for subtask in ("OCR", "count"):
        lines = [(q, row) for q, row in zip(questions, rows, strict=True) if row["category"] == subtask]
        text = "".join(f"{q.image.split('/')[1]}\t{r['question']}\t{r['answer']}\tyes\n" for q, r in lines)
        (tmp_path / "results" / f"{subtask}.txt").write_text(text)
    stored, _ = read_results(tmp_path / "results")
    told = {(q.question_id, q.text, q.label) for q in questions}
    assert told == {(q.question_id, q.text, q.label) for q in stored}
    assert [place_of(q.question_id)[0] for q in questions] == ["OCR", "OCR", "count", "count"]
    assert content(tmp_path / "images") == {
        "OCR/0001.jpg": picture(8, form="PNG"),
        "count/000000006471.jpg": picture(16, form="PNG"),
    }
    assert all(load_image(image_path(tmp_path / "images", q.image)).size == (12, 8) for q in questions)
    of_one = load_hub(tmp_path / "mme.parquet", tmp_path / "images", benchmark="mme", category="count")
    assert of_one == questions[2:]


@pytest.mark.parametrize("limit", [1, 5, 7, 99])
def test_a_limit_takes_the_first_and_writes_the_pictures_of_these_alone(pope, tmp_path, limit):
    questions = load_hub(pope, tmp_path / "images", category="adversarial", limit=limit)
    assert questions == load_hub(pope, tmp_path / "all", category="adversarial")[:limit]
    assert set(content(tmp_path / "images")) == {q.image for q in questions}


@pytest.mark.parametrize(
    ("stored", "named"), [("2405722", "2405722.jpg"), ("2405722.png", "2405722.png"), ("a/b", "a/b.jpg")]
)
def test_an_image_source_without_a_suffix_gets_that_of_popes_files(tmp_path, stored, named):
    path = write(tmp_path / "x.parquet", [pope_row(1, image_source=stored)])
    questions = load_hub(path, tmp_path / "images", category="random")
    assert [q.image for q in questions] == list(content(tmp_path / "images")) == [named]
    assert name_parts("pope", questions, category="my set|x") == ("pope", "my_set_x")


@pytest.mark.parametrize(
    ("stored", "own"), [("12", 12), ("0", 0), ("007", "007"), ("a-1", "a-1"), ("9" * 30, "9" * 30)]
)
def test_an_id_is_a_number_where_a_question_file_would_have_one(tmp_path, stored, own):
    path = write(tmp_path / "x.parquet", [pope_row(1, question_id=stored)])
    assert [q.question_id for q in load_hub(path, tmp_path / "images", category="random")] == [own]
    assert [q.question_id for q in load_hub(path, tmp_path / "images")] == [f"random/{own}"]


def test_spaces_around_question_and_answer_and_the_answers_case_do_not_matter(tmp_path):
    path = write(tmp_path / "x.parquet", [pope_row(1, question=" Is it?\n", answer=" Yes ")])
    (question,) = load_hub(path, tmp_path / "images")
    assert (question.text, question.label) == ("Is it?", "yes")


def test_ids_stored_as_numbers_are_read_as_well(tmp_path):
    path = write(
        tmp_path / "x.parquet",
        [pope_row(1, question_id=5), pope_row(2, question_id=6)],
        datasets.Features({**POPE, "question_id": datasets.Value("int64")}),
    )
    assert [q.question_id for q in load_hub(path, tmp_path / "images", category="random")] == [5, 6]


@pytest.mark.data
@pytest.mark.parametrize("category", CATEGORIES)
def test_the_real_questions_keep_their_signature_through_parquet(shared_data, tmp_path, category):
    real = load_questions(shared_data / "pope" / f"coco_pope_{category}.json", labels=("yes", "no"))
    names = sorted({q.image for q in real})
    rows = [
        pope_row(
            int(q.question_id),
            category,
            question=q.text,
            answer=q.label,
            image_source=q.image.removesuffix(".jpg"),
            image={"bytes": picture(names.index(q.image) % 256) + q.image.encode(), "path": None},
        )
        for q in real
    ]
    path = write(tmp_path / "test-00000-of-00001.parquet", rows)
    questions = load_hub(path, tmp_path / "images", category=category)
    assert questions == real
    assert questions_sha(questions) == questions_sha(real)
    assert sorted(content(tmp_path / "images")) == names


FAULTS = {
    "another answer": ({"answer": "maybe"}, r"row 2: answer is 'maybe'; wanted one of yes, no"),
    "no answer": ({"answer": None}, r"row 2: answer is None; wanted a string"),
    "no question": ({"question": " "}, r"row 2: question is ' '"),
    "no id": ({"question_id": None}, r"row 2: question_id is None"),
    "no category": ({"category": ""}, r"row 2: category is ''"),
    "no image's name": ({"image_source": None}, r"row 2: image_source is None"),
    "an id again": ({"question_id": "1"}, r"row 2: question 'random/1' again, first in .*row 1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_row_with_a_fault_is_named_and_nothing_is_written(tmp_path, fault):
    changes, complaint = FAULTS[fault]
    path = write(tmp_path / "x.parquet", [pope_row(1), pope_row(2, **changes), pope_row(3)])
    with pytest.raises(UserError, match=complaint):
        load_hub(path, tmp_path / "images")
    assert not (tmp_path / "images").exists()


def test_popes_rows_are_no_mme(pope, tmp_path):
    with pytest.raises(UserError, match=r"row 1: question_id is '1'; wanted SUBTASK/IMAGE"):
        load_hub(pope, tmp_path / "images", benchmark="mme")


def test_an_unknown_category_is_told_those_there_are(pope, tmp_path):
    with pytest.raises(UserError, match="unknown category 'advers'; known: random, popular, adversarial"):
        load_hub(pope, tmp_path / "images", category="advers")
    assert not (tmp_path / "images").exists()
