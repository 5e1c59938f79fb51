"""The judge: what it is sent, and what comes of every way in which it fails."""

from __future__ import annotations

import os
import sys

import pytest

from tests.judge_server import GOOD, ids_of, judge_at, rows_of, run, serving, tasks
from vdd._check import UserError
from vdd.judge import GIVE_UP_AFTER, Judge, Outcome, review

pytest.importorskip("openai", reason="the judge needs the package openai (extra `judge`)")


def test_a_review_is_asked_for_as_named_and_kept_as_it_came(tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/never")
    monkeypatch.setenv("MY_KEY", " abc\n")
    with serving(q1=["unreadable"]) as server:
        seen = []
        path = tmp_path / "reviews.jsonl"
        outcome = review(
            judge_at(server, key_variable="MY_KEY"),
            tasks(2),
            path,
            read=lambda words: {"length": len(words)},
            progress=lambda *now: seen.append(now),
        )
        where, headers, body = server.got[0]
    assert outcome == Outcome(made=2)
    assert where == "/v1/chat/completions"
    assert body == {
        "model": "m",
        "temperature": 0.2,
        "max_tokens": 1024,
        "messages": [{"role": "system", "content": "Be fair."}, {"role": "user", "content": "Rate answer (0)."}],
    }
    assert headers["authorization"] == "Bearer abc"
    assert "secret" not in str(server.got)
    assert seen == [(0, 2), (1, 2), (2, 2)]
    first, second = rows_of(path)
    assert list(first) == [
        "question_id", "category", "content", "length", "judge", "temperature", "max_tokens", "prompt_sha",
    ]  # fmt: skip
    assert (first["content"], first["length"], first["judge"]) == (GOOD, len(GOOD), "m")
    assert first["prompt_sha"] != second["prompt_sha"]
    assert second["content"] == "I cannot say. \ud83d"


def test_without_a_variable_no_key_of_the_environment_is_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    with serving() as server:
        run(server, tmp_path / "reviews.jsonl", 1)
    assert "secret" not in str(server.got)


def test_each_review_is_on_disk_before_the_next_is_asked_for(tmp_path, monkeypatch):
    path = tmp_path / "reviews.jsonl"
    synced, lines = [], []
    real = os.fsync
    monkeypatch.setattr("vdd.reviews.os.fsync", lambda number: (real(number), synced.append(len(path.read_bytes()))))
    with serving() as server:
        server.on_request = lambda: lines.append((path.read_text().count("\n"), len(synced)))
        run(server, path, 4)
    assert lines == [(0, 0), (1, 1), (2, 2), (3, 3)]
    assert synced[-1] == len(path.read_bytes())


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ("429", "status 429 .*slow down"),
        ("500", "status 500 .*oh dear"),
        ("400", "status 400 .*too long"),
        ("hang", "no answer within 0.2 s"),
        ("close", "the connection failed"),
        ("nonsense", "the reply cannot be read"),
        ("page", "without a choice .<html>Welcome"),
        ("list", "without a choice"),
        ("other", "without a choice"),
        ("no choice", "without a choice"),
        ("odd choice", "empty choice"),
        ("empty", "empty choice"),
        ("null", "empty choice .finish_reason 'content_filter'"),
    ],
)
def test_a_judge_that_fails_once_leaves_one_review_out_with_its_reason_and_is_asked_again(tmp_path, step, reason):
    path = tmp_path / "reviews.jsonl"
    with serving(q1=[step, "good"]) as server:
        outcome = run(server, path, timeout=0.2)
        assert outcome.made == 2
        assert list(outcome.missing) == ["1"]
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(outcome.missing["1"])
        assert ids_of(path) == [0, 2]
        kept = path.read_bytes()
        assert run(server, path) == Outcome(made=1)
        assert path.read_bytes().startswith(kept)
        assert ids_of(path) == [0, 2, 1]
        assert server.asked() == {"Rate answer (0).": 1, "Rate answer (1).": 2, "Rate answer (2).": 1}


@pytest.mark.parametrize("step", ["429", "500"])
def test_the_client_tries_again_after_the_time_that_the_judge_names(tmp_path, step):
    with serving(q0=[step, step, "good"]) as server:
        assert run(server, tmp_path / "reviews.jsonl", 1, retries=2) == Outcome(made=1)
        waits = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    assert len(waits) == 2
    assert all(0.05 <= wait < 0.35 for wait in waits), waits  # its own waits begin at 0.375 s


def test_a_judge_that_is_away_is_not_asked_for_ever(tmp_path):
    with serving(**{f"q{n}": ["500"] for n in range(2, 9)}) as server:
        outcome = run(server, tmp_path / "reviews.jsonl", 9)
        assert len(server.got) == 2 + GIVE_UP_AFTER
    assert outcome.made == 2
    assert sum(reason.startswith("not asked") for reason in outcome.missing.values()) == 9 - 2 - GIVE_UP_AFTER
    with serving(**{f"q{n}": ["500"] for n in (0, 1, 3, 4, 6, 7)}) as server:
        assert run(server, tmp_path / "more.jsonl", 9).made == 3  # never three in a row


@pytest.mark.parametrize(("step", "message"), [("401", "401; wanted a key"), ("404", "404 .*no such model.*base URL")])
def test_a_wrong_key_or_model_ends_the_run_and_keeps_what_came(tmp_path, step, message):
    with serving(q1=[step]) as server:
        with pytest.raises(UserError, match=message):
            run(server, tmp_path / "reviews.jsonl")
        assert len(server.got) == 2
    assert ids_of(tmp_path / "reviews.jsonl") == [0]


def test_an_empty_variable_and_a_missing_package_are_mistakes_before_anything_is_sent(tmp_path, monkeypatch):
    with serving() as server:
        monkeypatch.delenv("NO_SUCH_KEY", raising=False)
        with pytest.raises(UserError, match="NO_SUCH_KEY is empty"):
            run(server, tmp_path / "reviews.jsonl", key_variable="NO_SUCH_KEY")
        monkeypatch.setitem(sys.modules, "openai", None)
        with pytest.raises(UserError, match=r"visual-debias-decoding\[judge\]"):
            run(server, tmp_path / "reviews.jsonl")
        assert server.got == []
    assert not (tmp_path / "reviews.jsonl").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"url": "127.0.0.1/v1"}, "http://"),
        ({"url": "file:///etc"}, "http://"),
        ({"model": " "}, "no model"),
        ({"temperature": -1.0}, "temperature"),
        ({"timeout": 0.0}, "timeout"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"retries": -1}, "retries"),
    ],
)
def test_a_judge_that_cannot_be_asked_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        Judge(**{"url": "http://x", "model": "m", "temperature": 0.2, "max_tokens": 9, **changes})
