"""Several processes: the same bytes as one, whatever their number; one that dies ends them all and loses nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from vdd.toy.questions import write_split

COMMAND = ("--max-new-tokens", "2", "--batch-size", "2", "--limit", "12", "--repeats", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_split(folder, "dev")
    return folder


def command(data, out, count: int) -> list[str]:
    launch = [sys.executable, "-m"]
    if count > 1:
        launch += ["torch.distributed.run", "--standalone", f"--nproc-per-node={count}", "-m"]
    files = ["--questions", str(data / "pope_popular.json"), "--images", str(data / "images"), "--out", str(out)]
    return [*launch, "vdd", "eval", "pope", *files, *COMMAND]


def files_of(out) -> dict[str, bytes]:
    kept = [path for path in sorted(out.rglob("*")) if path.is_file() and path.suffix in (".jsonl", ".safetensors")]
    return {str(path.relative_to(out)): path.read_bytes() for path in kept if path.name != "timings.jsonl"}


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "out"
    subprocess.run(command(data, out, 1), check=True, capture_output=True)
    return files_of(out)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_write_the_bytes_of_one(data, alone, tmp_path, count):
    done = subprocess.run(command(data, tmp_path / "out", count), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "out") == alone
    assert done.stdout.count("signature of the first leg") == 1


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others_and_the_next_call_goes_on_to_the_same_bytes(data, alone, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen(command(data, out, 2), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    while not list(out.glob("parts/*.json")) and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    os.kill(max(map(int, found.stdout.split()), default=process.pid), 9)
    assert process.wait(timeout=120) != 0
    subprocess.run(command(data, out, 2), check=True, capture_output=True)
    assert files_of(out) == alone
