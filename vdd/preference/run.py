"""Rows → pairs in a folder: batch by batch, by several processes, going on where a killed run stopped.

    run.json         what was asked: another run's folder is refused
    questions.jsonl  the rows, in the order of their batches
    pairs.parquet    TRL's form, images inside (extra `train`)
    pairs.jsonl      the same, images by name
    refused.jsonl    what became no pair, and why
    summary.json     how many, and how many tries were too similar; written last: it says that the run is whole

    seed of a row = the first 63 bits of SHA-256 (seed, id)

Rows about one image stand together. Each batch is written whole (parts/), and all that is random in a row comes from
its own seed: an unbroken run and one that was killed give the same bytes, whatever the number of processes.
Source: arXiv:2407.02477, §3.4 and its rates of similar answers.
Knows: rows, files, something that samples. Does not know: models, how answers are made, the command line.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol

from accelerate.utils import find_executable_batch_size

from vdd._check import UserError, whole
from vdd._version import __version__
from vdd.config import MAX_SEED
from vdd.data import draft_of, write_atomic
from vdd.preference.dataset import as_line, features, image_name, write_pairs
from vdd.preference.pairs import Pair, Refused, Row, Variant
from vdd.preference.similarity import Similarity
from vdd.preference.stored import LINES, PARQUET, pair_of, stored_rows
from vdd.preference.summary import SUMMARY, Summary, read_summary, write_summary
from vdd.records import Question
from vdd.run_folder import claim, only_one, part_path
from vdd.workers import Workers

REFUSED = "refused.jsonl"
ALONE = Workers()
_SETTINGS = ("rho", "epsilon", "iterations", "variant", "temperature", "top_p", "max_new_tokens")


class Sampler(Protocol):
    """What makes pairs of rows; `vdd.preference.bdhs.BDHS` is one, and says what the attributes mean."""

    name: str
    rho: float
    epsilon: float
    iterations: int
    variant: Variant
    measure: Similarity
    similar: dict[int, tuple[int, int]]

    def sample(self, rows: Sequence[Row], *, seeds: Sequence[int]) -> list[Pair | Refused]:
        """One a row, in order; what is random in each comes from its seed."""


def prefer(
    sampler: Sampler,
    rows: Sequence[Row],
    refused: Sequence[Refused],
    out: Path,
    *,
    images: Path,
    batch_size: int = 16,
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: Workers = ALONE,
) -> Summary:
    """Make a pair of every row, into the folder `out`; goes on where a killed run stopped.

    Args:
        sampler: `BDHS`.
        rows: with different ids, images as paths below `images`.
        refused: what the source gave no rows for; told of in refused.jsonl.
        out: new, empty, or holding the same run.
        images: the folder that images are named from.
        batch_size: rows at once; halved for as long as the memory does not suffice.
        seed: of the whole run, 0 to 2³¹ − 1.
        about: what else answers depend on, as JSON has it: the model's precision, its device.
        progress: called with (rows done, rows in all) of this process.
        workers: the processes that share the work; each calls this with the same arguments.

    Raises:
        UserError: where `out` holds something else, an id comes twice, there is no row, or an image is not below
            `images`. A row that becomes no pair is no error.
    """
    whole("prefer", "batch_size", batch_size, low=1)
    whole("prefer", "seed", seed, low=0, high=MAX_SEED)
    asked = _asked(rows, images)
    settings = {
        "vdd": __version__,
        "preference": type(sampler).__name__,
        "model": sampler.name,
        **{name: getattr(sampler, name) for name in _SETTINGS if hasattr(sampler, name)},
        "measure": sampler.measure.name,
        "images": str(images.resolve()),
        "batch_size": batch_size,
        "seed": seed,
        **(about or {}),
    }
    if not workers.is_first:
        workers.wait()  # the first one makes the folder
    claim(out, settings, [question for _, question in asked])
    if workers.is_first:
        workers.wait()
    ordered = [row for row, _ in asked]
    batches = [ordered[start : start + batch_size] for start in range(0, len(ordered), batch_size)]
    with only_one(out) if workers.is_first else nullcontext():
        workers.wait()
        finished = (out / SUMMARY).exists()
        workers.wait()  # all have looked before the first one may write it
        if not finished:
            _sample(sampler, batches, out, images, batch_size, seed, progress, workers)
            workers.wait()
            if workers.is_first:
                _merge(sampler, len(batches), refused, len(rows), out, images)
        elif progress:
            own = sum(map(len, batches[workers.rank :: workers.count]))
            progress(own, own)
        workers.wait()
        if workers.is_first and finished:
            _write_parquet_later(out, images)
        workers.wait()
    if workers.is_first:
        shutil.rmtree(out / "parts", ignore_errors=True)
    return read_summary(out)


def seed_of(seed: int, row_id: int | str) -> int:
    """A row's seed, 0 to 2⁶³ − 1: the same in whatever company; 1 and "1" are the same id."""
    return int.from_bytes(sha256(f"{seed} {row_id}".encode()).digest()[:8], "big") >> 1


def _asked(rows: Sequence[Row], images: Path) -> list[tuple[Row, Question]]:
    """Every row with its record, rows about one image together."""
    if not rows:
        raise UserError("prefer: no rows came; wanted one at least.")
    twice = [one for one, count in Counter(str(row.id) for row in rows).items() if count > 1]
    if twice:
        raise UserError(f"prefer: id {twice[0]!r} comes twice; wanted each once.")
    found = []
    for row in rows:
        names = [image_name(row.id, one, images) for one in row.images]
        found.append((row, Question(row.id, json.dumps(names, ensure_ascii=False), row.prompt, row.answer)))
    return sorted(found, key=lambda one: (one[1].image, isinstance(one[0].id, str), one[0].id))


def _sample(
    sampler: Sampler,
    batches: Sequence[Sequence[Row]],
    out: Path,
    images: Path,
    batch_size: int,
    seed: int,
    progress: Callable[[int, int], None] | None,
    workers: Workers,
) -> None:
    own = range(workers.rank, len(batches), workers.count)
    total = sum(len(batches[number]) for number in own)
    size = batch_size

    def halved() -> int:
        nonlocal size
        if size == 1:
            raise UserError(
                "prefer: the memory does not suffice for one row by itself; wanted a smaller model or image, another "
                "dtype, or another device. What is sampled stays."
            )
        size //= 2
        return size

    @find_executable_batch_size(starting_batch_size=size, reduce_batch_size_fn=halved)
    def sample_the_rest(most: int) -> None:
        done = 0
        for number in own:
            batch = batches[number]
            if not part_path(out, number).exists():
                found: list[Pair | Refused] = []
                similar: Counter[tuple[int, int]] = Counter()
                for start in range(0, len(batch), most):
                    few = batch[start : start + most]
                    before = dict(sampler.similar)
                    found += sampler.sample(few, seeds=[seed_of(seed, row.id) for row in few])
                    for iteration, counts in sampler.similar.items():
                        for place, count in enumerate(counts):
                            similar[iteration, place] += count - before.get(iteration, (0, 0))[place]
                _write_part(part_path(out, number), found, similar, images)
            done += len(batch)
            if progress:
                progress(done, total)

    sample_the_rest()


def _write_part(
    path: Path, found: Sequence[Pair | Refused], similar: Mapping[tuple[int, int], int], images: Path
) -> None:
    lines, taken, refused = [], [], []
    for one in found:
        try:
            if isinstance(one, Pair):
                lines.append(as_line(one, images))
                taken.append(one.iteration)
            else:
                refused.append(one)
        except UserError as error:  # what no file of pairs can hold, such as a placeholder that the model wrote
            refused.append(Refused(one.id, str(error)))
    body = {
        "pairs": lines,
        "taken": taken,
        "refused": [asdict(one) for one in refused],
        "similar": [[iteration, place, count] for (iteration, place), count in sorted(similar.items())],
    }
    write_atomic(path, json.dumps(body, ensure_ascii=False))


def _merge(sampler: Sampler, count: int, unread: Sequence[Refused], rows: int, out: Path, images: Path) -> None:
    """The files of a whole run; summary.json last."""
    taken: Counter[int] = Counter()
    similar: Counter[tuple[int, int]] = Counter()
    refused: list[dict[str, Any]] = []
    with draft_of(out / "parts" / LINES) as draft, open(draft, "w", encoding="utf-8", newline="\n") as file:
        for number in range(count):
            part = json.loads(part_path(out, number).read_text(encoding="utf-8"))
            file.writelines(part["pairs"])
            taken.update(part["taken"])
            similar.update({(iteration, place): more for iteration, place, more in part["similar"]})
            refused += part["refused"]
    os.replace(out / "parts" / LINES, out / LINES)
    told = [json.dumps(one, ensure_ascii=False) + "\n" for one in (*map(asdict, unread), *refused)]
    write_atomic(out / REFUSED, "".join(told))
    summary = Summary(
        rows=rows,
        pairs=taken.total(),
        refused=len(refused),
        unread=len(unread),
        rho=None if sampler.variant == "noise" else sampler.rho,
        epsilon=sampler.epsilon,
        measure=sampler.measure.name,
        similar={one: (similar[one, 0], similar[one, 1]) for one in sorted({one for one, _ in similar})},
        taken=dict(sorted(taken.items())),
        parquet=_wrote_parquet(out, images),
    )
    write_summary(out, summary)


def _wrote_parquet(out: Path, images: Path) -> bool:
    """Write pairs.parquet from pairs.jsonl, an image at a time; False without `datasets`."""
    try:
        features()
    except UserError:
        return False
    pairs = (pair_of(row, images) for row in stored_rows(out / LINES))
    write_pairs(pairs, out / "parts" / PARQUET, images=images)
    os.replace(out / "parts" / PARQUET, out / PARQUET)
    return True


def _write_parquet_later(out: Path, images: Path) -> None:
    """Of a run that was whole: see that its pairs are still there, and write pairs.parquet where it is not."""
    summary = read_summary(out)
    if not (out / LINES).is_file():
        raise UserError(f"{out}: the run was whole, but its {LINES} is gone; wanted a new folder.")
    if not (out / PARQUET).is_file() and _wrote_parquet(out, images):
        write_summary(out, replace(summary, parquet=True))
