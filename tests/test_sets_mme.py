import json

import pytest
from typer.testing import CliRunner

from tests.oracles import mme_official
from vdd._check import UserError
from vdd.cli import app
from vdd.data import StoredAnswer, load_answers
from vdd.records import Answer
from vdd.scoring.mme import score_mme
from vdd.sets.mme import match_answers, place_of, read_key, read_questions, read_results

YES_NO = "Please answer yes or no."
ONE_WORD = "Answer the question using a single word or phrase."
BENCHMARK = {
    "code_reasoning/0020": (f"Is the output 'a'? {YES_NO}", f"Is it so: Is the output 'a'? {YES_NO}"),
    "artwork/10002": (f"Is it a painting? {YES_NO}", f"Is it a painting or a mug? {YES_NO}"),
    "artwork/v1.0002": (f"Is this  spaced?  {YES_NO}", f"Is this not? {YES_NO}"),
}
"""By subtask and image: the question that is true, the one that is false."""
SAID = ("Yes", "no, a\ttab", "", "No", "maybe", "yes")


@pytest.fixture
def folder(tmp_path):
    """The benchmark's own folder: artwork with pictures apart, code_reasoning with them beside; another folder."""
    root = tmp_path / "MME_Benchmark_release_version"
    for key, (true, false) in BENCHMARK.items():
        subtask, name = key.split("/")
        texts, pictures = (
            (root / subtask / "questions_answers_YN", root / subtask / "images")
            if subtask == "artwork"
            else (root / subtask,) * 2
        )
        texts.mkdir(parents=True, exist_ok=True)
        pictures.mkdir(exist_ok=True)
        (texts / f"{name}.txt").write_bytes(f"{true}\tYes\r\n{false}\tNo \n".encode())
        (pictures / f"{name}.{'JPG' if subtask == 'artwork' else 'png'}").write_bytes(b"")
    (root / "eval_tool").mkdir()
    return root


def rows_of_llava(folder):
    """LLaVA's answers to the benchmark: its ids, its prompts, and one that lacks MME's instruction."""
    rows = []
    for question, text in zip(read_questions(folder), SAID, strict=True):
        subtask, name = question.image.split("/")[0], question.image.split("/")[-1]
        prompt = f"{question.text}\n{ONE_WORD}"
        rows.append({"question_id": f"{subtask}/{name}", "prompt": prompt, "text": text, "answer_id": "x"})
    rows[3]["prompt"] = rows[3]["prompt"].replace(f" {YES_NO}", "")
    return rows


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_results(root, questions, texts, suffix=".jpg"):
    root.mkdir(exist_ok=True)
    for subtask in {place_of(q.question_id)[0] for q in questions}:
        lines = [
            f"{place_of(q.question_id)[1]}{suffix}\t{q.text}\t{q.label.title()}\t{text}\n"
            for q, text in zip(questions, texts, strict=True)
            if place_of(q.question_id)[0] == subtask
        ]
        (root / f"{subtask}.txt").write_text("".join(lines), "utf-8")
    return root


@pytest.mark.parametrize(
    ("question_id", "place"),
    [
        ("existence/000000006040#1", ("existence", "000000006040")),
        ("code_reasoning/0020.png", ("code_reasoning", "0020")),
        ("artwork/images/10002.jpg", ("artwork", "10002")),
        ("posters/tt0.5.JPEG", ("posters", "tt0.5")),
        ("OCR/a#3.jpg#2", ("OCR", "a#3")),
        ("scene/0001.txt", ("scene", "0001")),
    ],
)
def test_an_id_tells_subtask_and_image(question_id, place):
    assert place_of(question_id) == place


@pytest.mark.parametrize("question_id", [7, "0001.png", "ocr/0001.png", "OCR/", "OCR/images/.png", "eval_tool/x"])
def test_an_id_of_another_benchmark_is_refused(question_id):
    with pytest.raises(UserError, match="wanted SUBTASK/IMAGE"):
        place_of(question_id)


def test_the_folders_questions_have_unique_ids_labels_and_the_paths_of_their_pictures(folder):
    questions = read_questions(folder)
    assert [(q.question_id, q.image, q.label) for q in questions] == [
        ("artwork/10002#1", "artwork/images/10002.JPG", "yes"),
        ("artwork/10002#2", "artwork/images/10002.JPG", "no"),
        ("artwork/v1.0002#1", "artwork/images/v1.0002.JPG", "yes"),
        ("artwork/v1.0002#2", "artwork/images/v1.0002.JPG", "no"),
        ("code_reasoning/0020#1", "code_reasoning/0020.png", "yes"),
        ("code_reasoning/0020#2", "code_reasoning/0020.png", "no"),
    ]
    assert all((folder / q.image).is_file() for q in questions)
    assert tuple(q.text for q in questions[:2]) == BENCHMARK["artwork/10002"]


def test_the_key_needs_no_pictures(folder):
    whole = read_key(folder)
    for picture in [*folder.glob("*/*.png"), *folder.glob("*/*/*.JPG")]:
        picture.unlink()
    assert read_key(folder) == whole
    with pytest.raises(UserError, match="artwork/10002#1 has no picture"):
        read_questions(folder)


def test_two_pictures_of_one_name_are_refused(folder):
    (folder / "code_reasoning" / "0020.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"code_reasoning/0020\.jpg, code_reasoning/0020\.png"):
        read_questions(folder)


def test_all_three_forms_give_one_score_with_one_signature(folder, tmp_path):
    questions = read_questions(folder)
    asked, texts = match_answers(questions, load_answers(write_lines(tmp_path / "a.jsonl", rows_of_llava(folder))))
    score = score_mme(asked, texts)
    assert (texts, asked) == (list(SAID), questions)
    assert score == score_mme(read_key(folder), SAID)
    assert score == score_mme(*read_results(write_results(tmp_path / "results", questions, SAID)))
    assert score == score_mme(*read_results(write_results(tmp_path / "converted", questions, SAID, ".txt")))


def test_llavas_answers_score_as_by_its_script_and_the_official_one(folder, tmp_path):
    truths = {}
    for key, texts in BENCHMARK.items():
        subtask, name = key.split("/")
        truths |= {(subtask, f"{name.split('.')[0]}.txt", q): a for q, a in zip(texts, ("Yes", "No"), strict=True)}
    rows = rows_of_llava(folder)
    lines = [mme_official.results_line(row, truths) for row in rows]
    want = {
        subtask: mme_official.subtask_figures([line for of, line in lines if of == subtask])["score"]
        for subtask in ("artwork", "code_reasoning")
    }
    answers = load_answers(write_lines(tmp_path / "a.jsonl", rows))
    values = score_mme(*match_answers(read_key(folder), answers)).values
    assert {name: values[name] for name in want} == want
    assert len(set(want.values())) == 2


def test_answers_are_found_by_question_in_any_order_and_by_id_alone(folder, tmp_path):
    questions = read_questions(folder)
    ours = [Answer(q.question_id, q.text, q.image, text) for q, text in zip(questions, SAID, strict=True)]
    path = tmp_path / "ours.jsonl"
    path.write_text("".join(answer.to_json() + "\n" for answer in reversed(ours)), "utf-8")
    assert match_answers(questions, load_answers(path)) == (questions, list(SAID))
    bare = [StoredAnswer("here", q.question_id, None, text) for q, text in zip(questions, SAID, strict=True)]
    assert match_answers(questions, bare) == (questions, list(SAID))


def test_subtasks_without_answers_are_left_out_and_failed_answers_stay_unanswered(folder, tmp_path):
    rows = [row for row in rows_of_llava(folder) if row["question_id"].startswith("code")]
    rows[1] = {**rows[1], "error": "unreadable image"}
    asked, texts = match_answers(read_key(folder), load_answers(write_lines(tmp_path / "a.jsonl", rows)))
    assert ([q.question_id for q in asked], texts) == (
        ["code_reasoning/0020#1", "code_reasoning/0020#2"],
        ["maybe", None],
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "none to code_reasoning/0020#2; wanted one to each"),
        (lambda rows: [*rows, rows[0]], r"line 7: answers artwork/10002#1 again, first in .*line 1"),
        (lambda rows: [{**rows[0], "prompt": "Is it a cat?"}], "line 1: answers 'Is it a cat.*benchmark asks 'Is it"),
        (lambda rows: [{**rows[0], "question_id": "artwork/9.jpg"}], "benchmark asks nothing"),
        (lambda rows: [{**rows[0], "question_id": "9.jpg"}], "line 1: question_id is '9.jpg'; wanted SUBTASK/IMAGE"),
        (lambda rows: [{"prompt": "Is it?", "text": "no"}], "line 1: no question_id"),
    ],
)
def test_answers_that_do_not_fit_are_refused(folder, tmp_path, change, message):
    path = write_lines(tmp_path / "a.jsonl", change(rows_of_llava(folder)))
    with pytest.raises(UserError, match=message):
        match_answers(read_key(folder), load_answers(path))


def test_no_answers_and_answers_that_do_not_say_which_question_are_refused(folder):
    with pytest.raises(UserError, match="none at all"):
        match_answers(read_key(folder), [])
    with pytest.raises(UserError, match="wanted one of its questions"):
        match_answers(read_key(folder), [StoredAnswer("here", "artwork/10002.jpg", None, "no")])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a.jpg\tIs it?\tYes\n", "count.txt, line 1: .* has 2 tabs; wanted image, question, ground truth"),
        ("a.jpg\tIs it?\tYes\tno\nbecause\n", "count.txt, line 2: 'because' has 0 tabs.*line break"),
        ("a.jpg\tIs it?\tperhaps\tno\n", "line 1: .*ground truth 'perhaps'; wanted none empty, and Yes or No"),
        ("\tIs it?\tYes\tno\n", "line 1: image ''"),
        ("a.jpg\t \tYes\tno\n", "line 1: .*question ' '"),
    ],
)
def test_a_broken_line_of_results_is_named(tmp_path, content, message):
    (tmp_path / "count.txt").write_text(content, "utf-8")
    with pytest.raises(UserError, match=message):
        read_results(tmp_path)


def test_results_may_hold_tabs_empty_answers_blank_lines_and_windows_line_ends(tmp_path):
    (tmp_path / "count.txt").write_bytes("\ufeffa.jpg\tIs it?\tYes\t\tyes\r\n\r\na.jpg\tIs it not?\tNO\t".encode())
    (tmp_path / "notes.txt").write_text("none of MME's")
    questions, texts = read_results(tmp_path)
    assert (texts, [q.label for q in questions]) == (["\tyes", ""], ["yes", "no"])
    assert score_mme(questions, texts).values["count"] == 50.0


def test_what_is_no_text_or_no_folder_of_mme_is_refused(tmp_path):
    (tmp_path / "count.txt").write_bytes(b"a.jpg\tIs it?\tYes\tno\nb\xff\tIs it?\tNo\tno\n")
    with pytest.raises(UserError, match=r"count\.txt, line 2: byte 0xff"):
        read_results(tmp_path)
    for read in (read_results, read_key):
        with pytest.raises(UserError, match="no such folder"):
            read(tmp_path / "absent")
    (tmp_path / "MME_Benchmark").mkdir()
    with pytest.raises(UserError, match=r"it has 'MME_Benchmark, count\.txt'; wanted a folder for each subtask"):
        read_key(tmp_path)
    with pytest.raises(UserError, match="it has 'nothing'; wanted a file for each subtask"):
        read_results(tmp_path / "MME_Benchmark")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Is it?\tYes\n", "1 lines; wanted two"),
        ("Is it?\tYes\nIs it not?\tNo\nOr?\tNo\n", "3 lines; wanted two"),
        ("Is it? Yes\nIs it not?\tNo\n", "line 1: no tab"),
        ("Is it?\tYes\nIs it not?\tNone\n", "line 2: .*ground truth 'None'"),
    ],
)
def test_a_broken_file_of_questions_is_named(tmp_path, content, message):
    (tmp_path / "OCR").mkdir()
    with pytest.raises(UserError, match="no questions in it"):
        read_key(tmp_path)
    (tmp_path / "OCR" / "0001.txt").write_text(content, "utf-8")
    with pytest.raises(UserError, match=message):
        read_key(tmp_path)


def test_the_command_prints_a_table_or_json_for_either_form(folder, tmp_path):
    answers = write_lines(tmp_path / "a.jsonl", rows_of_llava(folder))
    results = write_results(tmp_path / "results", read_questions(folder), SAID)

    def run(*arguments):
        return CliRunner().invoke(app, ["score", "mme", "--answers", *map(str, arguments)])

    body = json.loads(run(answers, "--ground-truth", folder, "--json").stdout)
    assert body == json.loads(run(results, "--json").stdout)
    assert (body["artwork"], body["code_reasoning"], body["other"]) == (125.0, 0.0, 2)
    table = run(results).stdout
    assert ["artwork", "125.00", "0.7500", "0.5000", "1"] in [line.split() for line in table.splitlines()]
    assert "missing, and in no sum: existence, count" in table
    assert body["signature"] in table
    assert "wanted it without --ground-truth" in str(run(results, "--ground-truth", folder).exception)
    assert "wanted a results folder, or --ground-truth" in str(run(answers).exception)
