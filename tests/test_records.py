"""Answers as lines of JSON: what is in them, what never is, and that nothing changes on the way and back."""

from __future__ import annotations

import json
from dataclasses import replace

from vdd.records import Answer

BARE = Answer(7, "is it red ?", "a.png", "yes")
FULL = replace(BARE, tokens=("yes", "</s>"), reliance=(0.5, -0.25), timings={"generate": 0.1})


def test_a_bare_answer_is_the_line_it_always_was():
    assert BARE.to_json() == '{"question_id": 7, "question": "is it red ?", "image": "a.png", "text": "yes"}'


def test_tokens_and_reliance_are_in_the_line_and_times_never_are():
    assert json.loads(FULL.to_json()) == {
        **json.loads(BARE.to_json()),
        "tokens": ["yes", "</s>"],
        "reliance": [0.5, -0.25],
    }
    assert replace(BARE, timings={"generate": 0.1}).to_json() == BARE.to_json()


def test_a_line_gives_back_the_answer_without_its_times():
    back = Answer.from_json(json.loads(FULL.to_json()))
    assert back == FULL
    assert back.timings is None
    assert Answer.from_json({**json.loads(BARE.to_json()), "timings": {"generate": 1}}).timings is None
