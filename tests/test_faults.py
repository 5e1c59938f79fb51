"""What may happen to a run: killed at any moment, no room on the disk. Nothing is lost, nothing is there twice."""

from __future__ import annotations

import json
import random
import resource
import subprocess
import sys
import time

import pytest

from tests.test_workers import files_of
from vdd.toy.questions import write_split

OPTIONS = ("--limit", "16", "--batch-size", "2", "--max-new-tokens", "2", "--repeats", "1")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_split(folder, "dev")
    return folder


def command(data, out) -> list[str]:
    files = ["--questions", str(data / "pope_random.json"), "--images", str(data / "images"), "--out", str(out)]
    return [sys.executable, "-m", "vdd", "eval", "pope", *files, *OPTIONS]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    subprocess.run(command(data, out), check=True, capture_output=True)
    return out


@pytest.mark.slow
def test_a_run_that_is_killed_at_fifty_random_moments_ends_as_an_unbroken_one(data, whole, tmp_path):
    chance, out, killed = random.Random(4), tmp_path / "out", 0
    while killed < 50:
        process = subprocess.Popen(command(data, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.0, 9.0) if killed % 2 else chance.uniform(3.0, 6.0))
        process.kill()
        if process.wait() == 0 and killed < 49:  # it was whole before the moment came: begin another
            out = tmp_path / f"out{killed}"
        killed += 1
    subprocess.run(command(data, out), check=True, capture_output=True)
    assert files_of(out) == files_of(whole)
    lines = (out / "answers" / "greedy.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["question_id"] for line in lines})


@pytest.mark.slow
def test_a_disk_without_room_ends_the_run_with_a_message_and_the_next_call_goes_on(data, whole, tmp_path):
    def little_room() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    done = subprocess.run(
        command(data, tmp_path / "out"), preexec_fn=little_room, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    subprocess.run(command(data, tmp_path / "out"), check=True, capture_output=True)
    assert files_of(tmp_path / "out") == files_of(whole)
