"""LLaVA-Bench's files, what a judge is shown of them, and `vdd score llava-bench` with a judge and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from tests.judge_server import ids_of, rows_of, serving
from tests.llava_bench_files import CATEGORIES, write_answers, write_bench, write_lines
from tests.oracles.llava_bench_official import official_table
from vdd._check import UserError
from vdd.cli import app
from vdd.data import load_answers, match_answers
from vdd.scoring.llava_bench import GROUPS
from vdd.sets.llava_bench import load_bench, load_reviews, prompts_sha, tasks_for


def test_the_prompt_is_laid_out_as_llavas_script_lays_it_out(tmp_path):
    items = load_bench(write_bench(tmp_path / "bench"))
    texts = match_answers([item.question for item in items], load_answers(write_answers(tmp_path / "answers.jsonl")))
    first, third = tasks_for(items, texts)[:3:2]
    assert first.prompt == (
        "[Context]\nA photo of 0.\nIt is old.\n\n[Question]\nWhat of 0?\n\n[Assistant 1]\nReference 0.\n\n"
        "[End of Assistant 1]\n\n[Assistant 2]\nAnswer 0.\n\n[End of Assistant 2]\n\n"
        "[System]\nRate both (conv).\nPoints first.\n\n"
    )
    assert third.prompt.startswith("[Context]\nA photo of 1.\n\n[Question]\nWhat of 2?")
    assert third.about == {"category": "llava_bench_complex"}
    assert tasks_for(items, [None] * 6)[0].prompt == first.prompt.replace("Answer 0.", "")


def test_all_that_the_judge_is_shown_besides_the_answers_is_in_the_signature(tmp_path):
    items = load_bench(write_bench(tmp_path))
    sha = prompts_sha(items)
    assert prompts_sha(items[::-1]) == sha
    (tmp_path / "rule.json").write_text((tmp_path / "rule.json").read_text().replace("Rate", "Judge"))
    assert prompts_sha(load_bench(tmp_path)) != sha


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("questions.jsonl", lambda s: s.replace("conv", "chat"), "line 1: category is 'chat'; wanted one of conv"),
        ("context.jsonl", lambda s: s.replace("001.jpg", "901.jpg"), "no line for '001.jpg'"),
        ("context.jsonl", lambda s: s.replace('"A photo of 1."', "3"), "line 2: caption is 3; wanted a text"),
        ("answers_gpt4.jsonl", lambda s: "".join(s.splitlines(keepends=True)[1:]), "1 missing"),
        ("answers_gpt4.jsonl", lambda s: s.replace('"text": "Reference 3."', '"error": "none"'), "question 3 has no"),
        ("rule.json", lambda s: s.replace("llava_bench_detail", "detail"), "'llava_bench_detail'"),
        ("rule.json", lambda s: s[:-5], "cannot be read"),
        ("rule.json", lambda s: "[]", "no role and prompt"),
        ("rule.json", None, "llava/eval/table/rule.json"),
        ("questions.jsonl", None, "no such file"),
    ],
)
def test_a_broken_set_is_refused_with_its_file_and_line(tmp_path, name, change, message):
    write_bench(tmp_path)
    if change is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_text(change((tmp_path / name).read_text()))
    with pytest.raises(UserError, match=message):
        load_bench(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        load_bench(tmp_path / "nowhere")


@pytest.fixture
def case(tmp_path):
    """(folder, bench, answers, tasks)"""
    bench, answers = write_bench(tmp_path / "bench"), write_answers(tmp_path / "answers.jsonl")
    items = load_bench(bench)
    return tmp_path, bench, answers, tasks_for(items, [f"Answer {n}." for n in range(6)])


def review_of(number, **changes):
    """A line as LLaVA's script writes it."""
    row = {
        "id": number + 1,
        "question_id": number,
        "answer1_id": "a",
        "answer2_id": "b",
        "category": f"llava_bench_{CATEGORIES[number % 3]}",
        "content": f"8 {number}\nBoth …",
        "tuple": [8.0, float(number)],
    }
    return {key: value for key, value in {**row, **changes}.items() if value is not None}


def command(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


def score_command(bench, answers, reviews, *more):
    return command("score", "llava-bench", "--answers", answers, "--bench", bench, "--reviews", reviews, *more)


def test_the_command_scores_the_reviews_of_llavas_script_and_sends_nothing(case, monkeypatch):
    folder, bench, answers, _ = case
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("something was sent"))
    rows = [review_of(n) for n in range(5)]
    reviews = write_lines(folder / "reviews.jsonl", rows)
    before = reviews.read_bytes()
    result = score_command(bench, answers, reviews, "--json")
    assert result.exit_code == 0, result.output
    assert "nothing was sent" in result.stderr
    body = json.loads(result.stdout)
    want = official_table([(row["category"].removeprefix("llava_bench_"), row["tuple"]) for row in rows])
    assert {name: round(body[name], 1) for name in GROUPS} == want
    assert (body["n"], body["missing"], body["unreadable"]) == (6, 1, 0)
    assert body["signature"].startswith("llava-bench|prompts:")
    assert "|judge:unknown|n:6|parse:official|vdd:" in body["signature"]
    assert set(body["intervals"]) == set(GROUPS)
    table = score_command(bench, answers, reviews)
    assert all(f" {figure:.1f} " in table.stdout for figure in want.values()), table.stdout
    assert "6 questions, reviews of them: 1 missing, 0 unreadable" in table.stdout
    assert reviews.read_bytes() == before


def test_unanswered_questions_are_told_and_count_as_empty_answers(case):
    folder, bench, _, _ = case
    rows = [{"question_id": n, "text": "x"} if n else {"question_id": 0, "error": "no image"} for n in range(6)]
    answers = write_lines(folder / "some.jsonl", rows)
    result = score_command(bench, answers, write_lines(folder / "reviews.jsonl", [review_of(0)]))
    assert "1 of 6 questions are unanswered" in result.stderr


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([review_of(0), review_of(0)], "line 2: reviews question '0' again"),
        ([review_of(9)], "question '9', which is not among the 6"),
        ([review_of(0, category="llava_bench_detail")], "another category"),
        ([review_of(0, prompt_sha="0" * 12)], "another answer or prompt"),
        ([review_of(0, tuple=[8])], r"line 1: tuple is \[8\]; wanted two numbers"),
        ([review_of(0, tuple=[True, 8])], "wanted two numbers"),
        ([review_of(0, tuple=[float("nan"), 8])], "wanted two numbers"),
        ([review_of(0, content=5)], "content is 5"),
        ([review_of(0, content=None, tuple=None)], "neither content nor tuple"),
        ([review_of(0, question_id=None)], "line 1: is no review"),
        ([review_of(0, question_id=True)], "line 1: is no review"),
        ([review_of(0, judge="a"), review_of(1, judge="b")], "several judges or settings .a and b"),
    ],
)
def test_reviews_of_something_else_are_refused(case, rows, message):
    folder, bench, answers, _ = case
    result = score_command(bench, answers, write_lines(folder / "reviews.jsonl", rows))
    assert isinstance(result.exception, UserError), result.output
    with pytest.raises(UserError, match=message):
        raise result.exception


def test_a_half_written_last_line_is_left_out_of_a_score_and_left_alone(case):
    folder, _, _, tasks = case
    path = write_lines(folder / "reviews.jsonl", [review_of(n) for n in range(3)])
    whole = path.read_bytes()
    for cut in (1, 2, 30, len(json.dumps(review_of(2)))):
        path.write_bytes(whole[:-cut])
        reviews, rows = load_reviews(path, tasks)
        assert [one is not None for one in reviews[:3]] == [True, True, cut == 1], cut
        assert len(rows) == 2 + (cut == 1)
        assert path.read_bytes() == whole[:-cut]


@pytest.fixture
def files(tmp_path):
    """Arguments of the command, without the judge; and the file of reviews."""
    pytest.importorskip("openai", reason="the judge needs the package openai (extra `judge`)")
    bench, answers = write_bench(tmp_path / "bench"), write_answers(tmp_path / "answers.jsonl")
    reviews = tmp_path / "reviews.jsonl"
    return ["score", "llava-bench", "--answers", answers, "--bench", bench, "--reviews", reviews, "--json"], reviews


def at(server, *more):
    return ["--judge-url", server.url, "--judge-model", "judge-1", *more]


def test_the_command_asks_scores_and_says_what_is_missing(files):
    arguments, reviews = files
    with serving({"What of 1?": ["500", "good"], "What of 4?": ["unreadable"]}) as server:
        first = command(*arguments, *at(server, "--judge-retries", "0"))
        assert first.exit_code == 1, first.output
        assert "question 1: no review: status 500" in first.stderr
        assert "1 of 6 reviews are missing; run the same command again" in first.stderr
        body = json.loads(first.stdout)
        assert (body["missing"], body["unreadable"]) == (1, 1)
        assert body["all_reference"] == pytest.approx((4 * 8 - 1) / 5)
        again = command(*arguments, *at(server))
        assert again.exit_code == 0, again.output
        body = json.loads(again.stdout)
        assert (body["missing"], body["unreadable"], body["n"]) == (0, 1, 6)
        assert "|judge:judge-1|t:0.2|max:1024|n:6|parse:official|" in body["signature"]
        assert len(server.got) == 7
        sent = server.got[0][2]
    assert (sent["temperature"], sent["max_tokens"]) == (0.2, 1024)
    assert {tuple(row["tuple"]) for row in rows_of(reviews)} == {(8.0, 7.0), (-1.0, -1.0)}
    offline = command(*arguments)
    assert offline.exit_code == 0
    assert json.loads(offline.stdout) == body


def test_the_command_needs_a_model_and_a_file_where_there_is_no_judge(files):
    arguments, reviews = files
    result = command(*arguments, "--judge-url", "http://127.0.0.1:9")
    assert isinstance(result.exception, UserError)
    assert "no model" in str(result.exception)
    result = command(*arguments)
    assert isinstance(result.exception, UserError)
    assert "no judge is named" in str(result.exception)
    assert not reviews.exists()


def test_a_killed_command_goes_on_asks_nothing_twice_and_loses_nothing(files):
    arguments, reviews = files
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}
    with serving({"What of 2?": ["hang", "good"]}) as server:
        line = [sys.executable, "-m", "vdd", *map(str, arguments), *at(server)]
        process = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while len(server.got) < 3 and time.monotonic() < end:
            time.sleep(0.02)
        process.kill()
        process.wait()
        assert ids_of(reviews) == [0, 1]
        kept = reviews.read_bytes()
        reviews.write_bytes(kept + b'{"question_id": 2, "cate')
        done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60)
        asked = server.asked()
    assert done.returncode == 0, done.stderr
    assert "half written" in done.stderr
    assert json.loads(done.stdout)["missing"] == 0
    assert reviews.read_bytes().startswith(kept)
    assert ids_of(reviews) == [0, 1, 2, 3, 4, 5]
    assert sorted(asked.values()) == [1, 1, 1, 1, 1, 2]
