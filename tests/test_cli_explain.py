"""Reliance as commands show it: colours, numbers under the words, a page."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

from vdd._check import UserError
from vdd.answer_page import PAGE_OPENING
from vdd.cli import app
from vdd.cli import explain as shown
from vdd.records import Answer
from vdd.toy.scenes import render, scene_at


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "0.png"
    render(scene_at("counterfactual", 5)).save(path)
    return path


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"NO_COLOR": "1", "COLUMNS": "60"})


def printed(monkeypatch, answers, **options) -> str:
    """What is shown on a console of this kind."""
    file = io.StringIO()
    monkeypatch.setattr(shown, "console", Console(file=file, **options))
    shown.show_explained(answers)
    return file.getvalue()


def test_ask_explains_both_answers_by_numbers_under_the_words_where_there_are_no_colours(image):
    result = invoke("ask", image, "Describe the image.", "--explain", "--max-new-tokens", 40)
    assert result.exit_code == 0, result.exception
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= max(shown.console.width, 60) < len(" ".join(lines))
    assert "\x1b" not in result.output
    plain, debiased = (
        next(n for n, line in enumerate(lines) if line.startswith(name)) for name in ("plain", "debiased")
    )
    for start, name in ((plain, "carrot"), (debiased, "fox")):
        number = next(n for n, line in enumerate(lines) if n >= start and name in line)
        column = lines[number].index(name)
        assert re.match(r"[+−]\d\.\d", lines[number + 1][column:]), lines[number : number + 2]
    assert lines[-1].startswith("numbers: ") or lines[-2].startswith("numbers: ")


def test_ask_explains_where_nothing_is_subtracted(image):
    result = invoke("ask", image, "Is there a fox in the image?", "--explain", "--alpha", 0)
    assert result.exit_code == 0, result.exception
    assert len(re.findall(r"^ {10}[+−]?\d\.\d", result.output, re.MULTILINE)) == 2


def test_ask_writes_a_page_anew_but_over_no_other_file(image, tmp_path):
    page = tmp_path / "page.html"
    for question in ("Is there a fox in the image?", "Is there a car in the image?"):
        result = invoke("ask", image, question, "--explain-html", page, "--labels", "yes,no")
        assert result.exit_code == 0, result.exception
        text = page.read_text("utf-8")
        assert text.startswith(PAGE_OPENING)
        assert text.count(question) == 1
    assert result.output.startswith("plain     ")
    assert text.count("nats: ") >= 2
    for name, complaint in (("page.txt", "ends in .html"), ("no/page.html", "folder is not there")):
        result = invoke("ask", image, "?", "--explain-html", tmp_path / name)
        assert complaint in str(result.exception)
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine")
    result = invoke("ask", image, "?", "--explain-html", mine)
    assert isinstance(result.exception, UserError)
    assert mine.read_text() == "<p>mine"


ODD = Answer(
    0,
    "q",
    "",
    "x",
    tokens=("a", "", "狐狸", " \x1b[31mred", "\n", " end\n", "- item", "</s>"),
    reliance=(0.0, 1.0, 1.0, -4.0, -2.0, 0.7, -0.6, 0.1),
)


def test_a_terminal_with_colours_shows_them_by_strength_and_nothing_that_commands_it(monkeypatch):
    options = {"force_terminal": True, "color_system": "truecolor", "width": 60, "no_color": False}
    text = printed(monkeypatch, [("plain", ODD)], **options)
    assert "\x1b[31m" not in text
    assert re.search(r"\x1b\[4;38;2;\d+;\d+;\d+m狐狸", text)
    assert re.search(r"\x1b\[38;2;22;24;29;48;2;\d+;\d+;\d+m�\[31mred", text)
    assert "⏎" in text
    plain = re.sub(r"\x1b\[[\d;]*m", "", text)
    assert "more likely" in plain
    assert [line.strip() for line in plain.splitlines()[:4]] == ["plain     a狐狸 �[31mred⏎", "end", "- item</s>", ""]


@pytest.mark.parametrize(
    "options",
    [
        {"force_terminal": True, "color_system": "standard"},
        {"force_terminal": True, "color_system": "truecolor", "no_color": True},
        {"force_terminal": False},
    ],
)
def test_a_terminal_without_colours_shows_numbers_under_the_words(monkeypatch, options):
    text = printed(monkeypatch, [("plain", ODD)], width=60, **options)
    lines = [line.rstrip() for line in text.splitlines()]
    assert lines[:7] == [
        "plain     a   狐狸 �[31mred ⏎",
        "          0.0 +2.0 −4.0     −2.0",
        "          end⏎",
        "          +0.7",
        "          - item </s>",
        "          −0.6   +0.1",
        "",
    ]


def test_long_answers_are_wrapped_at_the_terminals_width(monkeypatch):
    words = tuple(f" word{n}" for n in range(200))
    answer = Answer(0, "q", "", "x", tokens=words, reliance=tuple(n % 7 - 3.0 for n in range(200)))
    for options in ({"color_system": None}, {"force_terminal": True, "color_system": "truecolor", "no_color": False}):
        text = re.sub(r"\x1b\[[\d;]*m", "", printed(monkeypatch, [("plain", answer)], width=50, **options))
        assert max(map(len, text.splitlines())) <= 50
        assert re.findall(r"word\d+", text) == [word.strip() for word in words]


def test_an_answer_without_reliance_is_shown_as_it_is(monkeypatch):
    text = printed(monkeypatch, [("plain", Answer(0, "q", "", "a [bold]fox[/]"))], width=60)
    assert text.startswith("plain     a [bold]fox[/]")
