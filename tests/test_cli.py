"""The command line: what it prints, what it costs, and how it ends on every mistake that a user makes."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from vdd import __version__
from vdd._check import UserError
from vdd.cli import app
from vdd.toy.scenes import render, scene_at

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "PYTHONUTF8": "1"}
LEG_COUNT = 15


def vdd(*arguments, **options) -> subprocess.CompletedProcess[str]:
    """`python -m vdd` in a process of its own."""
    command = [sys.executable, "-m", "vdd", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=120, **options)


def invoke(*arguments):
    """The command within this process."""
    return CliRunner().invoke(app, list(map(str, arguments)))


def refuse(*arguments) -> str:
    """The message of the mistake that these arguments are; `main` prints it to standard error and exits with 2."""
    result = invoke(*arguments)
    assert isinstance(result.exception, UserError), (result.exception, result.output)
    return str(result.exception)


def record(number: int, **changes) -> dict[str, object]:
    text = f"Is there a {('fox', 'car', 'banana')[number % 3]} in the image?"
    base = {"question_id": number + 1, "image": f"{number}.png", "text": text, "label": ("yes", "no")[number % 2]}
    return {key: value for key, value in {**base, **changes}.items() if value is not None}


def write_lines(path: Path, rows) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Five toy pictures, five questions about them, and their answers."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    for number in range(5):
        render(scene_at("dev", number)).save(folder / "images" / f"{number}.png")
    write_lines(folder / "questions.json", [record(n) for n in range(5)])
    said = ["Yes, a fox.", "No.", "not really", "Yes", "hm"]
    write_lines(folder / "answers.jsonl", [{"question_id": n + 1, "text": text} for n, text in enumerate(said)])
    return folder


# ----------------------------------------------------------------------------------------------------- help, version


def test_help_comes_within_a_second_or_two_and_names_every_command():
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        result = vdd("--help")
        spent.append(time.perf_counter() - start)
    assert result.returncode == 0
    assert statistics.median(spent) < 2  # 1 s on an idle machine
    for command in ("demo", "ask", "eval", "score", "search", "advise", "report", "toy-data", "train-toy"):
        assert re.search(rf"\b{command}\b", result.stdout)


def test_help_loads_neither_torch_nor_transformers_nor_numpy():
    script = (
        "import sys\nfrom vdd.cli import app\n"
        "try: app(['--help'])\nexcept SystemExit: pass\n"
        "print('LOADED', *[m for m in ('torch', 'transformers', 'numpy', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT)
    assert result.stdout.splitlines()[-1].strip() == "LOADED"


@pytest.mark.parametrize(
    "arguments",
    [["ask"], ["eval"], ["eval", "pope"], ["score"], ["score", "pope"], ["toy-data"], ["train-toy"], ["demo"]],
)
def test_every_command_has_a_help_that_says_what_it_does(arguments):
    result = invoke(*arguments, "--help")
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_the_version_is_the_packages():
    assert invoke("--version").output == f"vdd {__version__}\n"


# ------------------------------------------------------------------------------------------------------------- score


def score(data, *more):
    return vdd("score", "pope", "--questions", data / "questions.json", "--answers", data / "answers.jsonl", *more)


def test_score_prints_one_json_object_with_the_figures_of_the_issue(data):
    result = score(data, "--json")
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 1
    found = json.loads(result.stdout, parse_constant=pytest.fail)
    assert {"accuracy", "precision", "recall", "f1", "yes_ratio", "n", "unparsed", "signature"} <= set(found)
    # labels yes no yes no yes; said yes no no yes yes
    want = {"accuracy": 3 / 5, "precision": 2 / 3, "recall": 2 / 3, "f1": 2 / 3, "yes_ratio": 3 / 5}
    assert {key: found[key] for key in want} == pytest.approx(want)
    assert (found["n"], found["unparsed"]) == (5, 1)
    assert re.fullmatch(
        rf"pope\|questions\|n:5\|parse:official\|vdd:{re.escape(__version__)}\|sha:\w+", found["signature"]
    )


def test_score_imports_no_torch(data):
    arguments = ["score", "pope", "--questions", data / "questions.json", "--answers", data / "answers.jsonl", "--json"]
    script = (
        "import sys\nfrom vdd.cli import app\n"
        f"try: app({list(map(str, arguments))!r})\n"
        "except SystemExit: pass\n"
        "print('LOADED', *[m for m in ('torch', 'transformers', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=ENVIRONMENT)
    assert result.stdout.splitlines()[-1].strip() == "LOADED"


def test_score_shows_a_table_to_people_and_takes_another_parser(data):
    table = score(data)
    assert table.returncode == 0
    assert "accuracy" in table.stdout
    assert "0.6000" in table.stdout
    exact = json.loads(score(data, "--json", "--parser", "exact").stdout)
    assert (exact["unparsed"], exact["accuracy"]) == (4, 0.0)


@pytest.mark.parametrize("form", ["pope", "llava", "array"])
def test_score_reads_answers_in_every_form_in_use(data, tmp_path, form):
    answers = [json.loads(line) for line in (data / "answers.jsonl").read_text().splitlines()]
    asked = [record(n) for n in range(5)]
    path = tmp_path / "answers.json"
    if form == "pope":
        write_lines(path, [{"question": q["text"], "answer": a["text"]} for q, a in zip(asked, answers, strict=True)])
    elif form == "llava":
        write_lines(
            path,
            [{**a, "prompt": f"{q['text']}\nAnswer.", "model_id": "m"} for q, a in zip(asked, answers, strict=True)],
        )
    else:
        path.write_text(json.dumps(answers[::-1]))
    result = invoke("score", "pope", "--questions", data / "questions.json", "--answers", path, "--json")
    assert json.loads(result.output)["accuracy"] == pytest.approx(3 / 5)


# ----------------------------------------------------------------------------------------------- mistakes in the data

BROKEN_QUESTIONS = {
    "a broken line": ([record(0), '{"question_id": 2, "image": "1.png', record(2)], r"line 2.*broken JSON.*wanted"),
    "a duplicate id": ([record(0), record(1, question_id=1)], r"line 2.*question_id 1 again.*line 1"),
    "a missing id": ([record(0), record(1, question_id=None)], r"line 2.*'question_id'"),
    "an unknown label": ([record(0), record(1, label="maybe")], r"line 2.*'maybe'; wanted one of yes, no"),
    "no label": ([record(0), record(1, label=None)], r"line 2.*no label; wanted one of yes, no"),
    "no image": ([record(0), record(1, image=None)], r"line 2.*'image'"),
    "no text": ([record(0, text="")], r"line 1.*text is ''"),
    "nothing in it": ([], r"nothing in it"),
    "not an object": (["[]", "3"], r"wanted"),
}


@pytest.mark.parametrize("fault", BROKEN_QUESTIONS)
@pytest.mark.parametrize("command", ["eval", "score"])
def test_a_question_file_with_a_fault_is_refused_with_its_name_and_line(data, tmp_path, fault, command):
    rows, complaint = BROKEN_QUESTIONS[fault]
    path = write_lines(tmp_path / "asked.json", rows)
    rest = {
        "eval": ("--images", data / "images", "--out", tmp_path / "out"),
        "score": ("--answers", data / "answers.jsonl"),
    }
    message = refuse(command, "pope", "--questions", path, *rest[command])
    assert "asked.json" in message
    assert re.search(complaint, message)
    assert not (tmp_path / "out").exists()


def test_a_question_file_that_is_missing_or_a_folder_is_refused(data, tmp_path):
    for path in (tmp_path / "nowhere.json", tmp_path):
        message = refuse("eval", "pope", "--questions", path, "--images", data / "images", "--out", tmp_path / "out")
        assert str(path) in message


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([{"question_id": 1, "text": "yes"}], r"4 missing \(2, 3, 4, 5\)"),
        ([{"question_id": n, "text": "yes"} for n in (1, 2, 3, 4, 5, 5)], r"1 duplicated \(5\)"),
        ([{"question_id": n, "text": "yes"} for n in (1, 2, 3, 4, 5, 6)], r"1 unknown \(6\)"),
        ([{"question_id": 1}], r"line 1.*no answer"),
        ([{"text": "yes"}], r"line 1.*no question_id and no question"),
        (['{"question_id": 1, "text": "yes"'], r"answered\.jsonl, line 1.*broken JSON"),
        ([record(n) for n in range(5)], r"the answers are the questions"),
    ],
)
def test_answers_that_do_not_fit_are_refused(data, tmp_path, rows, complaint):
    path = write_lines(tmp_path / "answered.jsonl", rows)
    assert re.search(complaint, refuse("score", "pope", "--questions", data / "questions.json", "--answers", path))


# -------------------------------------------------------------------------------------------- mistakes in the options

OPTIONS = {
    "alpha below 0": (["--alpha", "-0.5"], "alpha is -0.5; wanted a number in [0, 1000]"),
    "alpha that is no number": (["--alpha", "nan"], "alpha is nan"),
    "beta above 1": (["--beta", "1.5"], "beta is 1.5; wanted a number in [0, 1]"),
    "beta below 0": (["--beta", "-0.1"], "beta is -0.1; wanted a number in [0, 1]"),
    "unknown parser": (["--parser", "strict"], "unknown parser 'strict'; known: official, vcd, exact"),
    "no question": (["--limit", "0"], "limit is 0; wanted a whole number ≥ 1"),
    "prompt without its question": (["--prompt", "Say yes."], "the prompt is 'Say yes.'; wanted {question} in it"),
    "no batch": (["--batch-size", "0"], "batch_size is 0; wanted a whole number ≥ 1"),
    "no tokens": (["--max-new-tokens", "0"], "max_new_tokens is 0; wanted a whole number ≥ 1"),
    "negative seed": (["--seed", "-1"], "seed is -1; wanted a whole number from 0"),
    "unknown model": (["--model", "no-such/model"], "'no-such/model' could not be loaded"),
    "model folder that is not there": (["--model", "./nowhere"], "'./nowhere' could not be loaded"),
    "unknown dtype": (["--dtype", "nonsense"], "unknown dtype 'nonsense'; known: auto, float32, bfloat16, float16"),
    "unknown quantization": (["--quantize", "3bit"], "unknown quantize '3bit'; known: 4bit, 8bit"),
    "unknown device": (["--device", "nonsense"], "nonsense"),
    "a seed that no generator takes": (["--seed", "99999999999999999999"], "seed"),
}


@pytest.mark.parametrize("mistake", OPTIONS)
def test_a_mistake_in_an_option_of_eval_is_a_clear_error_and_nothing_is_written(data, tmp_path, mistake):
    options, complaint = OPTIONS[mistake]
    files = ["--questions", data / "questions.json", "--images", data / "images", "--out", tmp_path / "out"]
    assert complaint in refuse("eval", "pope", *files, *options)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_images_that_is_not_there_is_a_clear_error(data, tmp_path):
    files = ["--questions", data / "questions.json", "--images", tmp_path / "nowhere", "--out", tmp_path / "out"]
    assert "nowhere: no such folder" in refuse("eval", "pope", *files)


ASK = {
    "unknown reference": (
        ["--reference", "sideways"],
        "unknown reference 'sideways'; known: none, unk, both, noise, zero, one, mask, instruction",
    ),
    "alpha below 0": (["--alpha", "-1"], "alpha is -1"),
    "beta above 1": (["--beta", "2"], "beta is 2"),
    "one label": (["--labels", "yes"], "wanted at least two"),
    "labels that cannot be told apart": (["--labels", "yes,Yes"], "wanted labels that can be told apart"),
    "labels that the model does not know": (["--labels", "zebra,gnu"], "wanted labels that can be told apart"),
    "unknown dtype": (["--dtype", "nonsense"], "unknown dtype 'nonsense'"),
    "unknown model": (["--model", "no-such/model"], "'no-such/model' could not be loaded"),
}


@pytest.mark.parametrize("mistake", ASK)
def test_a_mistake_in_an_option_of_ask_is_a_clear_error(data, mistake):
    options, complaint = ASK[mistake]
    assert complaint in refuse("ask", data / "images" / "0.png", "Is there a fox?", *options)


def _bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def shabby(data):
    """The folder of pictures with broken ones beside the good."""
    folder = data / "images"
    (folder / "cut.png").write_bytes((folder / "0.png").read_bytes()[:400])
    (folder / "text.png").write_text("this is no image")
    (folder / "bomb.png").write_bytes(_bomb())
    return folder


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("missing.png", "no such file"),
        ("cut.png", "is the file whole"),
        ("text.png", "not an image"),
        ("bomb.png", "pixels"),
        (".", "is a folder"),
    ],
)
def test_an_image_that_ask_cannot_read_is_a_clear_error(shabby, name, complaint):
    message = refuse("ask", shabby / name, "Is there a fox?")
    assert complaint in message
    assert name in message or name == "."


@pytest.mark.parametrize("text", ["Is there <image> a fox?", "<image>"])
def test_a_question_that_holds_the_images_placeholder_is_a_clear_error(data, text):
    assert "<image>" in refuse("ask", data / "images" / "0.png", text)


# --------------------------------------------------------- how a process ends: code 2, one message, never a traceback


@pytest.mark.parametrize(
    "arguments",
    [
        ["score", "pope", "--questions", "nowhere.json", "--answers", "nowhere.jsonl"],
        ["eval", "pope", "--questions", "nowhere.json", "--images", ".", "--out", "out"],
        ["ask", "nowhere.png", "?"],
        ["ask", "nowhere.png", "?", "--beta", "7"],
    ],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_a_users_mistake_ends_with_code_2_one_message_on_stderr_and_no_traceback(tmp_path, arguments):
    result = vdd(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("error: ") == 1
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["ask"], ["ask", "a.png", "?", "--alpha", "much"], ["eval", "pope"]]
)
def test_arguments_that_make_no_sense_end_with_code_2_too(arguments):
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


# -------------------------------------------------------------------------------------------------------------- eval


ALONE = ("--dev-share", "0", "--repeats", "1")
"""Nothing is chosen, and each sampling leg is drawn once."""


def evaluate(data, out, *more):
    files = ["--questions", data / "questions.json", "--images", data / "images", "--out", out]
    return invoke("eval", "pope", *files, *ALONE, "--max-new-tokens", 2, "--batch-size", 2, *more)


@pytest.fixture(scope="module")
def done(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("eval") / "out"
    return evaluate(data, out), out


def test_eval_writes_answers_scores_and_a_table_and_shows_them(done):
    result, out = done
    assert result.exit_code == 0, result.output
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert {"run.json", "questions.jsonl", "rows.safetensors", "timings.jsonl", "scores.json", "table.md"} <= names
    legs = [entry["leg"] for entry in json.loads((out / "scores.json").read_text())]
    assert len(legs) == LEG_COUNT
    assert {f"answers/{leg}.jsonl" for leg in legs} <= names
    table = (out / "table.md").read_text(encoding="utf-8")
    assert len([line for line in table.splitlines() if line.startswith("|")]) == 2 + LEG_COUNT
    assert all(f"| {leg} |" in table for leg in legs)
    assert all(leg in result.output for leg in legs)
    assert json.loads((out / "scores.json").read_text())[0]["signature"] in result.output
    assert "could not be read" not in result.output


def test_no_figure_in_the_table_on_the_terminal_is_cut_short(done):
    result, _ = done
    assert "…" not in result.output


def test_score_says_of_evals_answers_what_eval_said(data, done):
    _, out = done
    for entry in json.loads((out / "scores.json").read_text()):
        path = out / "answers" / f"{entry['leg']}.jsonl"
        result = invoke("score", "pope", "--questions", data / "questions.json", "--answers", path, "--json")
        found = json.loads(result.output)
        same = ("accuracy", "precision", "recall", "f1", "yes_ratio", "n", "unparsed", "unanswered")
        assert {key: found[key] for key in same} == {key: entry[key] for key in same}


def test_the_same_command_again_answers_nothing_anew_and_prints_the_same_table(data, done):
    first, out = done
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = evaluate(data, out)
    assert again.exit_code == 0
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    table = [line for line in first.output.splitlines() if line.strip().startswith(("greedy", "vdd", "T=1", "posthoc"))]
    assert [line for line in again.output.splitlines() if line in table] == table


@pytest.mark.parametrize(("option", "value"), [("--seed", 5), ("--alpha", 2.0), ("--limit", 3), ("--batch-size", 3)])
def test_the_folder_of_another_run_is_refused_and_stays_as_it_is(data, done, option, value):
    _, out = done
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    result = evaluate(data, out, option, value)
    assert isinstance(result.exception, UserError)
    assert "holds the results of another run" in str(result.exception)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_folder_with_other_things_in_it_is_refused(data, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    result = evaluate(data, tmp_path)
    assert isinstance(result.exception, UserError)
    assert "wanted a new or empty folder" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_eval_takes_the_first_so_many_questions_and_the_wording_that_it_is_given(data, tmp_path):
    prompt = "{question} Please answer yes or no."
    result = evaluate(data, tmp_path / "out", "--limit", 2, "--prompt", prompt)
    assert result.exit_code == 0
    settings = json.loads((tmp_path / "out" / "run.json").read_text())
    assert (settings["questions"], settings["prompt"]) == (2, prompt)


def test_unreadable_images_are_counted_in_the_summary(data, shabby, tmp_path):
    names = ["0.png", "cut.png", "text.png", "bomb.png", "missing.png", "../0.png"]
    path = write_lines(tmp_path / "q.json", [record(n, image=name) for n, name in enumerate(names)])
    more = ["--images", shabby, "--out", tmp_path / "out", "--batch-size", 2, "--max-new-tokens", 2, *ALONE]
    result = invoke("eval", "pope", "--questions", path, *more)
    assert result.exit_code == 0, result.output
    assert "5 of 6 questions have no answer: their images could not be read" in " ".join(result.output.split())
    records = [json.loads(line) for line in (tmp_path / "out" / "answers" / "greedy.jsonl").read_text().splitlines()]
    assert [bool(entry.get("error")) for entry in records] == [False] + [True] * 5
    assert json.loads((tmp_path / "out" / "scores.json").read_text())[0]["unanswered"] == 5


def test_a_run_without_a_readable_image_ends_with_its_summary_all_the_same(data, tmp_path):
    (tmp_path / "empty").mkdir()
    more = ["--images", tmp_path / "empty", "--out", tmp_path / "out"]
    result = invoke("eval", "pope", "--questions", data / "questions.json", *more, *ALONE)
    assert result.exit_code == 0, result.exception
    assert "5 of 5 questions have no answer" in " ".join(result.output.split())


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_ends_of_betas_range_are_settings_as_good_as_any(data, tmp_path, beta):
    path = write_lines(tmp_path / "q.json", [record(0), record(1, text="What color is the fox?")])
    more = ["--images", data / "images", "--out", tmp_path / "out", "--max-new-tokens", 2]
    result = invoke("eval", "pope", "--questions", path, *more, "--beta", beta)
    assert result.exit_code == 0, result.exception


def test_names_with_brackets_and_letters_of_all_alphabets_are_printed_as_they_are(data, tmp_path):
    out = tmp_path / "käse 图 [" / "x] run"
    result = evaluate(data, out, "--limit", 1)
    assert result.exit_code == 0, result.exception
    assert "[/x] run" in "".join(result.output.split("\n"))


def started(data, out) -> subprocess.Popen:
    """`vdd eval pope` in a process of its own."""
    files = ["--questions", data / "questions.json", "--images", data / "images", "--out", out]
    command = [
        sys.executable,
        "-m",
        "vdd",
        "eval",
        "pope",
        *files,
        *ALONE,
        "--max-new-tokens",
        "2",
        "--batch-size",
        "2",
    ]
    return subprocess.Popen(
        list(map(str, command)),
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )


@pytest.mark.slow
def test_an_interrupted_run_ends_with_130_says_so_and_goes_on_to_the_same_bytes(data, done, tmp_path):
    _, whole = done
    for attempt in range(8):  # the signal may come when all is done already
        out = tmp_path / f"out{attempt}"
        process = started(data, out)
        end = time.monotonic() + 90
        while not list(out.glob("parts/*.json")) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.002)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        if process.returncode != 0:
            break
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "interrupted" in errors
    assert evaluate(data, out).exit_code == 0
    for path in sorted((whole / "answers").iterdir()):
        assert (out / "answers" / path.name).read_bytes() == path.read_bytes()


# ------------------------------------------------------------------------------------------------------ ask, toy-data


def test_ask_prints_the_plain_and_the_debiased_answer(data):
    result = invoke("ask", data / "images" / "0.png", "Is there a fox in the image?", "--max-new-tokens", 3)
    assert result.exit_code == 0, result.exception
    first, second = result.output.splitlines()
    assert first.startswith("plain")
    assert second.startswith("debiased")


def test_ask_shows_the_labels_probabilities_in_full(data):
    result = invoke("ask", data / "images" / "0.png", "Is there a fox in the image?", "--labels", "yes, no")
    assert result.exit_code == 0, result.exception
    rows = [line.split() for line in result.output.splitlines()[2:] if re.search(r"[01]\.\d{3}$", line.strip())]
    kinds = [" ".join(row[:-2]) for row in rows]
    assert kinds == [
        "image",
        *(f"no image ({name})" for name in ("none", "unk", "both")),
        *(f"post-hoc ({name})" for name in ("none", "unk", "both")),
    ]
    for row in rows:
        assert all(re.fullmatch(r"[01]\.\d{3}", value) for value in row[-2:]), row


def test_ask_prints_answers_with_brackets_as_they_are(data, monkeypatch):
    from vdd.pipeline import LlavaPipeline

    monkeypatch.setattr(LlavaPipeline, "generate", lambda *args, **kwargs: ["a [bold]box[/] at [/path] [red]"])
    result = invoke("ask", data / "images" / "0.png", "Is there a fox?")
    assert result.exit_code == 0, result.exception
    assert result.output.count("a [bold]box[/] at [/path] [red]") == 2


def test_ask_works_in_a_process_of_its_own_and_keeps_stderr_clean(data):
    result = vdd("ask", data / "images" / "0.png", "Is there a fox in the image?", "--max-new-tokens", 3)
    assert result.returncode == 0
    assert result.stderr == ""
    assert len(result.stdout.splitlines()) == 2


def test_toy_data_writes_only_into_a_new_or_empty_folder(tmp_path, monkeypatch):
    import vdd.toy.questions as questions

    monkeypatch.setattr(questions, "IMAGES", {"dev": 4, "test": 4, "counterfactual": 4})
    monkeypatch.setattr(questions, "POPE_IMAGES", {"dev": 2, "test": 2, "counterfactual": 2})
    monkeypatch.setattr(questions, "TRAIN_PAIRS", 40)
    result = invoke("toy-data", tmp_path / "toy")
    assert result.exit_code == 0, result.exception
    assert "wrote" in result.output
    for split in ("dev", "test", "counterfactual"):
        assert len(list((tmp_path / "toy" / split / "images").glob("*.png"))) == 4
        for kind in ("random", "popular", "adversarial"):
            assert (tmp_path / "toy" / split / f"pope_{kind}.json").stat().st_size > 0
    assert "is not empty" in refuse("toy-data", tmp_path / "toy")
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "file" in refuse("toy-data", path)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_a_clear_error(data, tmp_path):
    (tmp_path / "file").write_text("mine")
    result = evaluate(data, tmp_path / "file" / "out")
    assert isinstance(result.exception, UserError), result.exception
