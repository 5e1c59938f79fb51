"""The file of reviews: half lines, other files, other judges, two runs at once."""

from __future__ import annotations

import pytest
from filelock import FileLock

from tests.judge_server import ids_of, judge_at, run, serving, tasks
from vdd._check import UserError
from vdd.judge import Outcome, review

pytest.importorskip("openai", reason="the judge needs the package openai (extra `judge`)")


def test_a_half_written_last_line_is_cut_off_wherever_it_broke(tmp_path):
    with serving() as server:
        path = tmp_path / "reviews.jsonl"
        run(server, path)
        whole = path.read_bytes()
        start = whole[:-1].rindex(b"\n") + 1
        for end in (start + 1, start + 20, len(whole) - 2):
            path.write_bytes(whole[:end])
            before = len(server.got)
            outcome = run(server, path)
            assert (outcome.made, outcome.cut, outcome.missing) == (1, end - start, {})
            assert len(server.got) == before + 1
            assert path.read_bytes() == whole
        path.write_bytes(whole[:-1])  # only the line's end is missing: the review is there
        assert run(server, path, 4) == Outcome(made=1)
        assert path.read_bytes().startswith(whole)
        assert ids_of(path) == [0, 1, 2, 3]
        path.write_bytes(whole[:9])
        assert run(server, path).cut == 9
        assert path.read_bytes() == whole


@pytest.mark.parametrize("content", [b"my notes", b'{"text": "mine"}\n', b'{"text": "mi', b"\xff\xfe\n", b"\n[1]\n"])
def test_a_file_that_is_none_of_reviews_is_refused_and_left_as_it_is(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with serving() as server:
        with pytest.raises(UserError, match="is no review"):
            run(server, path)
        assert server.got == []
    assert path.read_bytes() == content


def test_a_file_of_other_answers_or_another_judge_is_refused_and_nothing_is_sent(tmp_path):
    path = tmp_path / "reviews.jsonl"
    with serving() as server:
        run(server, path, 2)
        kept, sent = path.read_bytes(), len(server.got)
        for changes in ({"model": "n"}, {"temperature": 0.0}, {"max_tokens": 9}):
            with pytest.raises(UserError, match="Name a new file for another judge"):
                run(server, path, **changes)
        with pytest.raises(UserError, match="another answer or prompt"):
            review(judge_at(server), tasks(3, "other"), path, read=lambda words: {})
        with pytest.raises(UserError, match="not among the 1 asked"):
            run(server, path, 1)
        with FileLock(f"{path}.lock"), pytest.raises(UserError, match="another run is writing"):
            run(server, path)
        assert (path.read_bytes(), len(server.got)) == (kept, sent)
        assert run(server, path, 2) == Outcome()
        assert (path.read_bytes(), len(server.got)) == (kept, sent)


def test_places_that_cannot_be_written_are_refused(tmp_path):
    with serving() as server:
        with pytest.raises(UserError, match="existing folder"):
            run(server, tmp_path / "no" / "reviews.jsonl")
        with pytest.raises(UserError, match="cannot be read"):
            run(server, tmp_path)
        assert server.got == []
