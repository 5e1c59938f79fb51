"""Colours of reliance: symmetric, readable on light and dark, told apart by everybody; the markup holds text alone."""

from __future__ import annotations

import math
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.page_reader import Reader
from vdd._check import UserError
from vdd.answer_page import PAGE_OPENING, Shown, answer_page
from vdd.records import Answer
from vdd.shading import INK, LIMIT, Shaded, described, reliance_html, shade, shaded
from vdd.toy.scenes import render, scene_at

VALUES = [*np.linspace(-LIMIT, LIMIT, 61), -40.0, 40.0]
PAPERS = {"light": ("#ffffff", "#16181d"), "dark": ("#13151a", "#e7e9ee"), "notebook": ("#111111", "#ffffff")}
BARE = Answer(1, "What <b> is it?", "a.png", "a fox")


def rgb(color: str) -> np.ndarray:
    return np.array([int(color[place : place + 2], 16) for place in (1, 3, 5)], float)


def linear(color: np.ndarray) -> np.ndarray:
    share = color / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def contrast(ink: np.ndarray, paper: np.ndarray) -> float:
    """WCAG's contrast ratio."""
    low, high = sorted(float(linear(color) @ [0.2126, 0.7152, 0.0722]) for color in (ink, paper))
    return (high + 0.05) / (low + 0.05)


def styles(html: str) -> list[tuple[str, str]]:
    """Style and content of the spans that have a title."""
    return [(style, text) for style, text in re.findall(r'<span style="([^"]*)" title="[^"]*">(.*?)</span>', html)]


def test_the_colour_is_white_at_0_and_full_from_the_limit_on():
    assert shade(0.0) == shade(math.nan) == "#ffffff"
    assert shade(LIMIT) == shade(LIMIT + 1) == shade(math.inf) != shade(LIMIT - 0.5)
    assert shade(-LIMIT) == shade(-50.0) == shade(-math.inf) != shade(LIMIT)


@pytest.mark.parametrize("sign", [-1, 1])
def test_the_colour_moves_from_white_to_its_pole_on_a_line_evenly_on_both_sides(sign):
    pole = rgb(shade(sign * LIMIT))
    for share in np.linspace(0, 1, 13):
        want = 255 + share * (pole - 255)
        assert np.abs(rgb(shade(float(sign * share * LIMIT))) - want).max() <= 1


def test_the_ink_is_readable_on_every_colour():
    assert min(contrast(rgb(INK), rgb(shade(value))) for value in VALUES) >= 4.5


@pytest.mark.parametrize("paper", PAPERS)
@pytest.mark.parametrize("token", ["fox", "</s>"])
def test_words_and_special_tokens_are_readable_on_light_and_dark_pages(paper, token):
    behind, ink = map(rgb, PAPERS[paper])
    found = styles(reliance_html([token] * len(VALUES), VALUES))
    assert len(found) == len(VALUES)
    for style, _ in found:
        *color, cover = map(float, re.search(r"rgba\(([^)]*)\)", style)[1].split(","))
        faint = float((re.search(r"opacity:([\d.]+)", style) or [0, 1])[1])
        wash = behind + cover * (np.array(color) - behind)
        on_page = [behind + faint * (part - behind) for part in (ink, wash)]
        assert contrast(*on_page) >= 4.5, (style, paper)


MACHADO = {  # Machado, Oliveira, Fernandes 2009, severity 1, of linear RGB
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


@pytest.mark.parametrize("kind", MACHADO)
def test_both_poles_look_unlike_with_every_kind_of_colour_vision(kind):
    blue, orange = (np.array(MACHADO[kind]) @ linear(rgb(shade(sign * LIMIT))) for sign in (1, -1))
    assert np.linalg.norm(blue.clip(0, 1) - orange.clip(0, 1)) > 0.25


def test_a_letter_of_several_tokens_is_one_piece_with_the_sum_of_their_numbers():
    pieces = shaded(["a", "", "", "狐", "b"], [0.5, 1.0, -0.25, 2.0, -1.0])
    assert pieces == [Shaded("a", 0.5), Shaded("狐", 2.75, tokens=3), Shaded("b", -1.0)]
    assert described(pieces[1]).startswith("3 tokens, +2.75 nats: 16 times as likely with the image")
    assert shaded(["a", "", ""], [1.0, 0.5, 0.25]) == [Shaded("a", 1.75, tokens=3)]
    assert shaded(["", ""], [1.0, 0.5]) == []


def test_a_number_is_said_in_words():
    assert described(Shaded("x", math.log(4))) == "+1.39 nats: 4.0 times as likely with the image"
    assert described(Shaded("x", -math.log(40))) == "−3.69 nats: 40 times as likely without the image"
    assert described(Shaded("x", -0.001)) == "0.00 nats: no difference"
    assert described(Shaded("x", -60.0)) == "−60.00 nats: over 1000 times as likely without the image"
    assert described(Shaded("x")) == ""


def test_what_is_not_finite_is_shown_without_a_colour():
    html = reliance_html(["a", " b", " c"], [math.nan, math.inf, 1.0])
    assert [text for _, text in styles(html)] == ["c"]
    assert "nan" not in html
    assert "inf" not in html.replace("image", "")


def test_special_tokens_are_faint_and_words_in_angles_with_spaces_are_not():
    tokens = ["</s>", " <|im_end|>", "<end_of_turn>", "[/INST]", "a < b > c", "<", "[1]"]
    assert [piece.special for piece in shaded(tokens, None)] == [True] * 4 + [False] * 3


def test_space_stays_outside_the_colour_and_blank_tokens_can_be_seen():
    html = reliance_html([" fox", "\n\n", "  "], [1.0, 2.0, 3.0])
    assert [text for _, text in styles(html)[:1]] == ["fox"]
    assert html.count("⏎") == 2
    assert re.search(r">  </span>", html)


def test_without_numbers_the_text_stands_alone():
    html = reliance_html(["a", " <i>"], None)
    assert "rgba" not in html
    assert "nats" not in html
    assert "".join(Reader(html).words) == "a <i>"


@pytest.mark.parametrize(
    ("reliance", "complaint"),
    [
        ([1.0], "1 numbers came with 2 tokens; wanted one for each"),
        ([1.0, "2"], "'2' is no number"),
        ([1.0, None], "None"),
    ],
)
def test_numbers_that_do_not_belong_to_the_tokens_are_a_users_error(reliance, complaint):
    with pytest.raises(UserError, match=complaint):
        reliance_html(["a", "b"], reliance)


@given(st.lists(st.tuples(st.text(max_size=6), st.floats(width=32)), max_size=8))
def test_any_text_comes_through_as_text(pairs):
    tokens, numbers = [text for text, _ in pairs], [number for _, number in pairs]
    read = Reader(reliance_html(tokens, numbers))
    assert {tag for tag, _, _ in read.attributes} <= {"div", "span"}
    assert {name for _, name, _ in read.attributes} <= {"style", "title", "dir", "class", "aria-hidden"}
    want = re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]", "\ufffd", "".join(tokens))
    got = "".join(read.words).replace("⏎", "")
    assert re.sub(r"\r\n?", "\n", want).replace("⏎", "") in got + ("" if want else " ")


def test_a_notebook_shows_the_question_the_coloured_text_and_the_labels_probabilities():
    answer = Answer(
        1,
        "What <b> is it?",
        "a.png",
        "a fox",
        probabilities={"fox": 0.75, "dog": 0.25},
        blind_probabilities={"none": {"fox": 0.125, "dog": 0.875}},
        debiased={"none": {"fox": 0.9, "dog": 0.1}},
        tokens=("a", " fox", "</s>"),
        reliance=(0.0, 2.0, -1.0),
    )
    read = Reader(answer._repr_html_())
    assert read.words[0] == "What <b> is it?"
    assert [title.split()[0] for _, name, title in read.attributes if name == "title"] == ["0.00", "+2.00", "−1.00"]
    assert read.tables == [
        [
            ["probability", "fox", "dog"],
            ["with the image", "0.750", "0.250"],
            ["without (none)", "0.125", "0.875"],
            ["post-hoc (none)", "0.900", "0.100"],
        ]
    ]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (BARE, "a fox"),
        (Answer(1, "q", "", "a fox", tokens=("a", " fox")), "a fox"),
        (Answer(1, "q", "", "a fox", reliance=(1.0,)), "a fox"),
        (Answer(1, "q", "", "", error="a.png: is <broken>"), "no answer: a.png: is <broken>"),
        (Answer(1, "q", "", "  "), "an answer without words"),
        (Answer(1, "q", "", "", tokens=(), reliance=()), "an answer without words"),
        (Answer(1, "q", "", "yes", probabilities={}), "yes"),
    ],
)
def test_answers_without_reliance_are_shown_without_colours(answer, words):
    html = answer._repr_html_()
    assert words in "".join(Reader(html).words)
    assert "rgba" not in html


def test_showing_an_answer_needs_no_torch():
    code = "import sys, vdd.records as r; r.Answer(1, 'q', '', 'x')._repr_html_(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_page_needs_nothing_from_elsewhere_and_holds_picture_question_and_answers():
    asked = Shown(render(scene_at("dev", 0)), "What <b>?", {"plain": BARE, "debiased": BARE}, truth="a & b")
    page = answer_page([asked, asked])
    assert page.startswith(PAGE_OPENING)
    read = Reader(page[page.index("<html") :])
    assert read.words.count("What <b>?") == read.words.count("a & b") == 2
    addresses = [value for _, name, value in read.attributes if name in ("src", "href")]
    assert len(addresses) == 2
    assert all(value.startswith("data:image/jpeg;base64,") for value in addresses)
    assert "url(" not in page
