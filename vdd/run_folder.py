"""A run's folder: whose it is, its parts while it runs, its files when it is whole.

    run.json              what was run: another run's folder is refused
    questions.jsonl       the questions, in the order they were asked
    answers/LEG.jsonl     one Answer a question
    rows.safetensors      complete first-token log-probabilities: `image`; `none` and `unk`, each distinct row once
    timings.jsonl         seconds and forwards by batch and part: the only file that differs between equal runs
    dev/, chosen.json     a run on other questions, and the settings that were chosen by it, where there was one

Knows: files, records, tensors as they are stored. Does not know: models, scores.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vdd._check import UserError
from vdd.config import IMAGE, Leg
from vdd.data import write_atomic
from vdd.records import Answer, Question, QuestionId


@dataclass
class Cost:
    """What one part of the work on one batch took.

    Attributes:
        seconds: of the clock.
        forwards: rows × forward passes.
        steps: of debiased decoding.
        skipped: of these, without asking the image-free side.
        peak: bytes of memory at most, on the GPU; without one, of the process since it began. Of several the largest.
    """

    seconds: float = 0.0
    forwards: int = 0
    steps: int = 0
    skipped: int = 0
    peak: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.forwards + other.forwards,
            self.steps + other.steps,
            self.skipped + other.skipped,
            max(self.peak, other.peak),
        )


DEV, CHOSEN = "dev", "chosen.json"


def refuse_foreign(out: Path) -> None:
    """Raise UserError where `out` holds something that is no run: to be known before a model is loaded."""
    if out.exists() and not (out / "run.json").is_file() and (not out.is_dir() or _holds_more(out)):
        raise UserError(f"{out}: holds files that are no run of vdd; wanted a new or empty folder.")


def claimed(out: Path, description: Mapping[str, Any], *, foreign: str) -> list[str]:
    """Make `out` the folder of what `description` says, where it is nobody's; run.json comes first and says whose.

    Args:
        out: made where it is missing.
        description: as JSON has it.
        foreign: what is said of a folder that holds something else.

    Returns:
        the names whose values differ from those that stand there.

    Raises:
        UserError: where the folder cannot be made, or holds something else.
    """
    refuse_foreign(out)
    record = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
    if not (out / "run.json").exists():
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out}: cannot be made a folder ({error.strerror}).") from error
        write_atomic(out / "run.json", record)
    try:
        found, asked = json.loads((out / "run.json").read_text(encoding="utf-8")), json.loads(record)
        return sorted(k for k in asked.keys() | found.keys() if asked.get(k) != found.get(k))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{out}: {foreign}; wanted a new or empty folder.") from error


def claim(out: Path, description: Mapping[str, Any], ordered: Sequence[Question]) -> None:
    """Make `out` this run's folder, or see that it is."""
    asked = "".join(json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in ordered)
    differing = claimed(out, description, foreign="holds files that are no run of vdd")
    questions = out / "questions.jsonl"
    if not differing and questions.exists() and questions.read_text(encoding="utf-8") != asked:
        differing = ["questions"]
    if differing:
        raise UserError(
            f"{out}: holds the results of another run (other {', '.join(differing)}); wanted a new folder, or the same "
            "settings to go on with that run."
        )
    if not questions.exists():
        write_atomic(questions, asked)


def _holds_more(out: Path) -> bool:
    """Whether something stands in a folder beside what a run on dev questions leaves there first."""
    return any(one.name not in (DEV, CHOSEN) for one in out.iterdir())


@contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Hold the folder's lock; it falls with its process, however that ends."""
    try:
        (out / "parts").mkdir(exist_ok=True)
        with FileLock(out / "parts" / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"{out}: another run is writing into it; wanted to be alone.") from error


def part_path(out: Path, number: int) -> Path:
    """Where batch `number` is kept until the run is whole; done once this file stands."""
    return out / "parts" / f"{number:06d}.json"


@dataclass
class Part:
    """What is known of one batch: answers by leg, first-token rows by condition, costs by part of the work.

    `unshared` says why images were read once a question.
    """

    answers: dict[str, list[Answer]]
    rows: dict[str, Tensor]
    costs: dict[str, Cost]
    unshared: str = ""


def joined(parts: Sequence[Part]) -> Part:
    """Several parts as one."""
    if len(parts) == 1:
        return parts[0]
    names = [name for part in parts for name in part.costs]
    return Part(
        {leg: [answer for part in parts for answer in part.answers[leg]] for leg in parts[0].answers},
        {
            name: torch.cat([part.rows[name] for part in parts if part.rows])
            for name in dict.fromkeys(name for part in parts for name in part.rows)
        },
        {name: sum((part.costs.get(name, Cost()) for part in parts), start=Cost()) for name in dict.fromkeys(names)},
        next((part.unshared for part in parts if part.unshared), ""),
    )


def write_part(path: Path, part: Part) -> None:
    """The tensors first: a part counts as done once its JSON file stands."""
    body = {
        "answers": {leg: [answer.to_json() for answer in given] for leg, given in part.answers.items()},
        "costs": {name: asdict(cost) for name, cost in part.costs.items()},
        "unshared": part.unshared,
    }
    _save({name: row.contiguous().cpu() for name, row in part.rows.items()}, path.with_suffix(".safetensors"))
    write_atomic(path, json.dumps(body, ensure_ascii=False))


def _save(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors and see that they are on the disk.

    Raises:
        UserError: where there is no room or no right to write.
    """
    try:
        save_file(tensors, path)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path}: cannot be written ({error}); what was answered before stays, and the same command goes on there."
        ) from error


def merge(out: Path, legs: Sequence[Leg], count: int, ids: Sequence[QuestionId]) -> str:
    """A file a leg and one of rows, in the order of `ids`; one of timings, the last: it says that the run is whole.

    Returns:
        why images were read once a question, where they were.
    """
    parts = [json.loads(part_path(out, number).read_text(encoding="utf-8")) for number in range(count)]
    (out / "answers").mkdir(exist_ok=True)
    readable: list[QuestionId] = []
    for leg in legs:
        lines = [line for part in parts for line in part["answers"][leg.name]]
        found = [json.loads(line) for line in lines]
        place = {answer["question_id"]: number for number, answer in enumerate(found)}
        write_atomic(out / "answers" / f"{leg.name}.jsonl", "".join(lines[place[one]] + "\n" for one in ids))
        readable = [answer["question_id"] for answer in found if "error" not in answer]
    place = {one: number for number, one in enumerate(readable)}
    _merge_rows(out, count, [place[one] for one in ids if one in place])
    timings = [
        json.dumps({"batch": number, "part": name, **cost}) + "\n"
        for number, part in enumerate(parts)
        for name, cost in part["costs"].items()
    ]
    write_atomic(out / "timings.jsonl", "".join(timings))
    return next((part["unshared"] for part in parts if part["unshared"]), "")


def _merge_rows(out: Path, count: int, order: Sequence[int]) -> None:
    """Image rows one a readable question; image-free rows once each, with the index that says whose they are."""
    tensors = [load_file(part_path(out, number).with_suffix(".safetensors")) for number in range(count)]
    tensors = [part for part in tensors if part]
    if not tensors:
        return
    merged: dict[str, Tensor] = {IMAGE: torch.cat([part[IMAGE] for part in tensors])[list(order)]}
    for name in sorted(set(tensors[0]) - {IMAGE}):
        rows = torch.cat([part[name] for part in tensors])[list(order)]
        merged[name], merged[f"{name}_index"] = torch.unique(rows, dim=0, return_inverse=True)
    draft = out / "parts" / "rows.safetensors"
    _save(merged, draft)
    draft.replace(out / "rows.safetensors")


def unanswered(out: Path) -> int:
    """How many questions of a finished run have no answer, as their images could not be read."""
    first = json.loads((out / "run.json").read_text(encoding="utf-8"))["legs"][0]["name"]
    lines = (out / "answers" / f"{first}.jsonl").read_text(encoding="utf-8").splitlines()
    return sum("error" in json.loads(line) for line in lines)


def leg_costs(out: Path) -> dict[str, tuple[float, float]]:
    """Leg → (forwards, seconds) per question of a finished run."""
    asked = (out / "questions.jsonl").read_text(encoding="utf-8").count("\n")
    return {name: (cost.forwards / asked, cost.seconds / asked) for name, cost in _totals(out).items()}


def leg_extras(out: Path) -> dict[str, dict[str, float]]:
    """Leg → `peak_mib`, the most memory that was in use while it ran, and, where it generated and debiased, `skipped`,
    the share of the steps at which nobody asked the image-free side."""
    return {
        name: ({"skipped": cost.skipped / cost.steps} if cost.steps else {}) | {"peak_mib": cost.peak / 2**20}
        for name, cost in _totals(out).items()
    }


def _totals(out: Path) -> dict[str, Cost]:
    totals: dict[str, Cost] = {}
    for line in (out / "timings.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        cost = Cost(**{name: value for name, value in record.items() if name not in ("batch", "part")})
        totals[record["part"]] = totals.get(record["part"], Cost()) + cost
    return totals
