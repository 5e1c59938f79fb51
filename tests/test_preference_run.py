"""Runs of pairs: resumed after a break at any write, shared by processes, refused in another run's folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

import pytest
from PIL import Image

from vdd._check import UserError
from vdd.preference.dataset import read_pairs
from vdd.preference.pairs import Pair, Refused, Row
from vdd.preference.run import _sample, prefer, seed_of
from vdd.preference.similarity import Words
from vdd.preference.summary import Summary, advice, read_summary
from vdd.run_folder import part_path
from vdd.workers import Workers


@dataclass
class StandIn:
    """Samples without a model: the rejected answer and all that is counted follow from the seed."""

    name: str = "stand-in"
    rho: float = 0.99
    epsilon: float = 0.9
    iterations: int = 3
    variant: str = "attention"
    measure: Words = field(default_factory=Words)
    similar: dict[int, tuple[int, int]] = field(default_factory=dict)
    asked: list[list[int | str]] = field(default_factory=list)
    most: int = 1000
    pause: float = 0.0

    def sample(self, rows, *, seeds):
        if len(rows) > self.most:
            self.similar[1] = (1000, 1000)  # what was counted before the memory ended
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        self.asked.append([row.id for row in rows])
        time.sleep(self.pause)
        found = []
        for row, seed in zip(rows, seeds, strict=True):
            tries = seed % self.iterations + 1
            for iteration in range(1, tries + 1):
                total, alike = self.similar.get(iteration, (0, 0))
                self.similar[iteration] = (total + 1, alike + (iteration < tries))
            if row.answer == "same":
                found.append(Refused(row.id, "the same answer"))
                continue
            said = {"source": "stand-in", "rho": self.rho, "iteration": tries, "seed": seed, "model": self.name}
            found.append(Pair(row.id, row.images, row.prompt, row.answer, f"not {seed % 97}", **said))
        return found


UNREAD = [Refused("gone", "image gone.png: no such file")]
NAMES = ("pairs.jsonl", "pairs.parquet", "questions.jsonl", "refused.jsonl", "run.json", "summary.json")


@pytest.fixture(autouse=True)
def _no_garbage_collection(monkeypatch):
    """Accelerate collects garbage before each run, which takes longer than all else here."""
    monkeypatch.setattr("gc.collect", lambda *generation: 0)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name in "abc":
        Image.new("RGB", (4, 4), (ord(name), 0, 0)).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def rows(images):
    answers = ["one", "two", "same", "three", "fünf"]
    return [
        Row(
            number if number % 2 else f"r{number}", (images / f"{'cab'[number % 3]}.png",), "What?", answers[number % 5]
        )
        for number in range(11)
    ]


@pytest.fixture(scope="module")
def run(rows, images):
    def run(out, sampler=None, **more):
        options = {"images": images, "batch_size": 3, "seed": 5} | more
        return prefer(sampler or StandIn(), options.pop("rows", rows), UNREAD, out, **options)

    return run


def files_of(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.fixture(scope="module")
def unbroken(run, tmp_path_factory):
    pytest.importorskip("datasets", reason="extra `train` is not installed")
    out = tmp_path_factory.mktemp("unbroken") / "out"
    run(out)
    return files_of(out)


def test_every_row_becomes_a_pair_or_is_refused_with_its_own_seed(run, rows, images, tmp_path):
    sampler, seen = StandIn(), []
    summary = run(tmp_path / "out", sampler, progress=lambda done, total: seen.append((done, total)))
    pairs = read_pairs(tmp_path / "out" / "pairs.jsonl", images)
    assert {pair.id for pair in pairs} == {row.id for row in rows if row.answer != "same"}
    by_id = {row.id: row for row in rows}
    for pair in pairs:
        digest = sha256(f"5 {pair.id}".encode()).hexdigest()[:16]
        assert pair.seed == int(digest, 16) // 2 == seed_of(5, pair.id)
        assert (pair.images, pair.chosen) == (by_id[pair.id].images, by_id[pair.id].answer)
    refused = [json.loads(line) for line in (tmp_path / "out" / "refused.jsonl").read_text().splitlines()]
    assert {one["id"] for one in refused} == {"gone", *(row.id for row in rows if row.answer == "same")}
    assert summary == read_summary(tmp_path / "out")
    assert (summary.rows, summary.pairs, summary.refused, summary.unread) == (11, 9, 2, 1)
    assert summary.similar == sampler.similar
    assert summary.taken == Counter(pair.iteration for pair in pairs)
    assert seen == [(3, 11), (6, 11), (9, 11), (11, 11)]
    shown = [by_id[one].images for batch in sampler.asked for one in batch]
    assert shown == sorted(shown)


def test_a_pair_that_no_file_can_hold_is_refused_and_stops_nothing(run, rows, images, tmp_path, monkeypatch):
    sampler = StandIn()
    sample = sampler.sample

    def with_a_placeholder(few, *, seeds):
        return [replace(one, rejected="an <image>") if one.id == 1 else one for one in sample(few, seeds=seeds)]

    monkeypatch.setattr(sampler, "sample", with_a_placeholder)
    assert run(tmp_path / "out", sampler).pairs == 8
    refused = (tmp_path / "out" / "refused.jsonl").read_text()
    assert "rejected holds '<image>'" in refused


def test_a_run_leaves_these_files_and_no_others(unbroken):
    assert tuple(sorted(unbroken)) == NAMES


class Killed(BaseException):
    """Stands for the end of the process."""


def test_a_break_at_any_write_is_mended_by_the_same_command(run, rows, tmp_path, monkeypatch):
    run(tmp_path / "unbroken", rows=rows[:5])
    unbroken = files_of(tmp_path / "unbroken")
    whole = os.replace
    for last in range(1, 100):
        left = last

        def replaced(*args):
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            whole(*args)

        out = tmp_path / str(last)
        monkeypatch.setattr(os, "replace", replaced)
        try:
            run(out, rows=rows[:5])
        except Killed:
            pass
        else:
            break
        finally:
            monkeypatch.setattr(os, "replace", whole)
        parts = len(list((out / "parts").glob("*.json")))
        again = StandIn()
        run(out, again, rows=rows[:5])
        assert files_of(out) == unbroken
        assert len(again.asked) == 2 - parts
    assert last > 6


def test_a_whole_run_samples_nothing_anew(run, unbroken, tmp_path):
    run(tmp_path / "out")
    again = StandIn()
    seen = []
    run(tmp_path / "out", again, progress=lambda done, total: seen.append((done, total)))
    assert again.asked == []
    assert seen == [(11, 11)]
    assert files_of(tmp_path / "out") == unbroken


def test_parquet_follows_where_datasets_comes_later(run, unbroken, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert not run(tmp_path / "out").parquet
    assert not (tmp_path / "out" / "pairs.parquet").exists()
    monkeypatch.undo()
    assert run(tmp_path / "out").parquet
    assert files_of(tmp_path / "out") == unbroken


def test_batches_and_processes_do_not_change_the_pairs(run, unbroken, images, tmp_path):
    for size in (1, 11):
        run(tmp_path / str(size), batch_size=size)
        assert (tmp_path / str(size) / "pairs.jsonl").read_bytes() == unbroken["pairs.jsonl"]
        assert (tmp_path / str(size) / "summary.json").read_bytes() == unbroken["summary.json"]


def test_memory_that_does_not_suffice_halves_the_batches(run, unbroken, tmp_path):
    sampler = StandIn(most=1)
    run(tmp_path / "out", sampler)
    assert files_of(tmp_path / "out") == unbroken
    assert max(map(len, sampler.asked)) == 1
    with pytest.raises(UserError, match="does not suffice for one row"):
        run(tmp_path / "none", StandIn(most=0))


@pytest.mark.parametrize(
    ("more", "differing"),
    [
        ({"seed": 6}, "seed"),
        ({"batch_size": 4}, "batch_size"),
        ({"sampler": StandIn(epsilon=0.5)}, "epsilon"),
        ({"sampler": StandIn(name="other", rho=0.9)}, "model, rho"),
        ({"about": {"dtype": "float16"}}, "dtype"),
    ],
)
def test_another_runs_folder_is_refused(run, tmp_path, more, differing):
    run(tmp_path / "out")
    before = files_of(tmp_path / "out")
    with pytest.raises(UserError, match=rf"another run \(other {differing}\)"):
        run(tmp_path / "out", **more)
    assert files_of(tmp_path / "out") == before


def test_other_rows_are_refused(run, rows, tmp_path):
    run(tmp_path / "out")
    with pytest.raises(UserError, match="other questions"):
        run(tmp_path / "out", rows=[replace(rows[0], answer="other"), *rows[1:]])
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "diary.txt").write_text("dear")
    with pytest.raises(UserError, match="no run of vdd"):
        run(tmp_path / "foreign")


def test_pairs_that_are_gone_are_not_made_anew_silently(run, tmp_path):
    run(tmp_path / "out")
    (tmp_path / "out" / "pairs.jsonl").unlink()
    with pytest.raises(UserError, match=r"its pairs.jsonl is gone"):
        run(tmp_path / "out")


def test_rows_that_cannot_be_told_apart_or_named_are_refused(run, rows, images, tmp_path):
    with pytest.raises(UserError, match="id '1' comes twice"):
        run(tmp_path / "out", rows=[*rows, replace(rows[0], id="1")])
    with pytest.raises(UserError, match="no rows"):
        run(tmp_path / "out", rows=[])
    with pytest.raises(UserError, match="is not below"):
        run(tmp_path / "out", images=tmp_path)
    with pytest.raises(UserError, match="picture in memory"):
        run(tmp_path / "out", rows=[replace(rows[0], images=(b"bytes",))])
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="no finished run"):
        read_summary(tmp_path)


def test_each_process_takes_every_other_batch(rows, images, tmp_path):
    batches = [rows[start : start + 3] for start in range(0, 11, 3)]
    (tmp_path / "parts").mkdir()
    for rank in range(2):
        sampler = StandIn()
        _sample(sampler, batches, tmp_path, images, 3, 5, None, Workers(rank, 2, rank))
        assert sampler.asked == [[row.id for row in batch] for batch in batches[rank::2]]
    assert all(part_path(tmp_path, number).exists() for number in range(4))


SUMMARY = Summary(100, 100, 0, 0, 0.9, 0.97, "words", {1: (100, 20), 2: (20, 8), 3: (8, 7), 4: (7, 3)}, {}, True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "80% of the rows have another answer after one try, 97% after 4.*may stay"),
        ({"similar": {1: (100, 40)}}, "60% of the rows .* too few, so a ρ above 0.9, or an ε above 0.97, helps"),
        ({"similar": {1: (100, 20), 2: (20, 19), 3: (19, 19), 4: (19, 19)}}, "81% after 4.*too few, so a ρ above"),
        ({"similar": {1: (100, 40)}, "rho": 1.0}, "ρ cannot rise"),
        ({"similar": {1: (100, 0)}}, "100% .*below 0.9, rejected answers come closer"),
        ({"similar": {1: (19, 3)}}, "19 rows are too few"),
        ({"similar": {}}, "0 rows are too few"),
        ({"rho": None}, "no ρ to choose"),
    ],
)
def test_what_the_rates_mean_is_said(change, said):
    assert re.search(said, advice(replace(SUMMARY, **change)))


def test_shares_that_differ_are_of_all_rows():
    assert SUMMARY.differing(1) == 0.8
    assert SUMMARY.differing(4) == 0.97
    assert replace(SUMMARY, similar={}).differing(1) == 0.0


ROOT = str(Path(__file__).parents[1])
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), ROOT)))}
SCRIPT = """
import sys
from pathlib import Path
from tests.test_preference_run import UNREAD, StandIn
from vdd.preference.pairs import Row
from vdd.preference.run import prefer
from vdd.run_folder import part_path
from vdd.workers import Workers

images, out = map(Path, sys.argv[1:3])
rows = [Row(n, (images / f"{'cab'[n % 3]}.png",), "What?", "same" if n % 5 == 2 else f"a{n}") for n in range(23)]
workers = Workers.launched()
sampler = StandIn(pause=float(sys.argv[3]))
prefer(sampler, rows, UNREAD, out, images=images, batch_size=2, workers=workers)
(out.parent / f"{out.name}-{workers.rank}-of-{workers.count}").write_text(str(len(sampler.asked)))
"""


def command(folder: Path, images: Path, out: Path, count: int, pause: float = 0.0) -> list[str]:
    script = folder / "script.py"
    script.write_text(SCRIPT)
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] if count > 1 else []
    return [sys.executable, *launch, str(script), str(images), str(out), str(pause)]


@pytest.fixture(scope="module")
def alone(images, tmp_path_factory):
    pytest.importorskip("datasets", reason="extra `train` is not installed")
    folder = tmp_path_factory.mktemp("alone")
    subprocess.run(command(folder, images, folder / "out", 1), check=True, capture_output=True, env=ENVIRONMENT)
    return files_of(folder / "out")


@pytest.mark.slow
def test_two_processes_share_the_batches_and_write_the_bytes_of_one(images, alone, tmp_path):
    out = tmp_path / "out"
    done = subprocess.run(
        command(tmp_path, images, out, 2), capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    assert files_of(out) == alone
    assert [(tmp_path / f"out-{rank}-of-2").read_text() for rank in range(2)] == ["6", "6"]


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_processes_that_are_killed_in_the_middle_are_gone_on_from(images, alone, tmp_path, count):
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(tmp_path, images, out, count, pause=0.2),
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    end = time.monotonic() + 120
    while len(list(out.glob("parts/*.json"))) < 3 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    os.kill(max(map(int, children.stdout.split()), default=process.pid), 9)
    assert process.wait(timeout=120) != 0
    parts = len(list(out.glob("parts/*.json")))
    assert 3 <= parts < 12
    subprocess.run(command(tmp_path, images, out, count), check=True, capture_output=True, env=ENVIRONMENT)
    assert files_of(out) == alone
    asked = sum(int((tmp_path / f"out-{rank}-of-{count}").read_text()) for rank in range(count))
    assert asked == 12 - parts
