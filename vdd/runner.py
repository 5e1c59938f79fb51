"""Questions × legs → answer files that a killed run resumes and an unbroken run repeats byte for byte.

    DIR/run.json              what was run: another run's folder is refused
    DIR/questions.jsonl       the questions, in the order they were asked
    DIR/answers/LEG.jsonl     one Answer a question
    DIR/rows.safetensors      complete first-token log-probabilities: `image`; `none` and `unk`, each distinct row once
    DIR/timings.jsonl         seconds and forwards by batch and part: the only file that differs between equal runs

The image is encoded once a batch; every leg goes on from there, and each leg's time includes it.
Batches are cut from the sorted question list, and each is written whole (parts/), so every question meets the same
batch-mates whatever was interrupted.
Knows: the pipeline, files. Does not know: scores, tables, the command line.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from vdd._check import UserError, whole
from vdd._version import __version__
from vdd.calibrate import AffineCalibration, Labels, average_prior
from vdd.config import DebiasConfig, Leg, SamplingConfig, to_json
from vdd.contrast import contrast
from vdd.data import write_atomic
from vdd.images import ImageError, image_path, load_image
from vdd.pipeline import IMAGE, PRIORS, LlavaPipeline, named, reference_row
from vdd.records import Answer, Question

Progress = Callable[[int, int], None]


def standard_legs(*, alpha: float = 1.0, beta: float = 0.1, max_new_tokens: int = 16) -> list[Leg]:
    """The legs that are always shown together, so that a gain can be told from an artefact.

    Greedy; VDD by three references; post-hoc by three, alone and on top of VDD; sampling at T = 1 plain, with VDD, and
    with the cut-off alone (most of the gain over sampling is that; arXiv:2504.10020).
    """
    greedy = SamplingConfig(max_new_tokens=max_new_tokens)
    hot = replace(greedy, temperature=1.0)
    vdd = {name: DebiasConfig(reference=name, alpha=alpha, beta=beta) for name in PRIORS}
    return [
        Leg("greedy", None, greedy),
        *(Leg(f"vdd-{name}", vdd[name], greedy) for name in PRIORS),
        *(Leg(f"posthoc-{name}", None, greedy, post_hoc=name) for name in PRIORS),
        *(Leg(f"vdd+posthoc-{name}", vdd[name], greedy, post_hoc=name) for name in PRIORS),
        Leg("T=1", None, hot),
        Leg("vdd-none@T=1", vdd["none"], hot),
        Leg("cutoff-only@T=1", DebiasConfig(alpha=0.0, beta=beta), hot),
    ]


@dataclass(frozen=True)
class Run:
    """What is asked of whom, and how; everything that an answer file depends on.

    Attributes:
        model: name or folder, for the record.
        questions: with unique ids.
        images: folder of their images.
        legs: ways of answering, names unique.
        labels: the possible answers.
        prompt: the question's wording; "{question}" stands for its text.
        batch_size: questions a forward.
        seed: of sampling.
    """

    model: str
    questions: Sequence[Question]
    images: Path
    legs: Sequence[Leg]
    labels: tuple[str, ...] = ("yes", "no")
    prompt: str = "{question}"
    batch_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise UserError on a prompt without a place for the question, and the like."""
        whole("run", "batch_size", self.batch_size, low=1)
        whole("run", "seed", self.seed, low=0)
        if "{question}" not in self.prompt:
            raise UserError(f"run: the prompt is {self.prompt!r}; wanted {{question}} in it.")
        if not self.questions:
            raise UserError("run: no questions came; wanted at least one.")

    def describe(self, pipeline: LlavaPipeline) -> dict[str, Any]:
        """What run.json holds."""
        return {
            "vdd": __version__,
            "model": self.model,
            "architecture": type(pipeline.model).__name__,
            "dtype": str(pipeline.model.dtype),
            "questions": len(self.questions),
            "labels": list(self.labels),
            "prompt": self.prompt,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "legs": [to_json(leg) for leg in self.legs],
        }


@dataclass
class Cost:
    """Seconds and rows × forwards of one part of the work on one batch."""

    seconds: float = 0.0
    forwards: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.seconds + other.seconds, self.forwards + other.forwards)


def run(pipeline: LlavaPipeline, job: Run, out: Path, *, progress: Progress | None = None) -> None:
    """Answer every question in every leg, into the folder `out`; goes on where a killed run stopped.

    Args:
        pipeline: the model.
        job: the questions and legs.
        out: new, empty, or holding the same run.
        progress: called with (questions done, questions in all).

    Raises:
        ValueError: where `out` holds something else. An unreadable image is no error: it is recorded in the answers.
    """
    ordered = sorted(job.questions, key=lambda q: (isinstance(q.question_id, str), q.question_id))
    batches = [ordered[i : i + job.batch_size] for i in range(0, len(ordered), job.batch_size)]
    _claim(out, job, job.describe(pipeline), ordered)
    if (out / "timings.jsonl").exists():
        shutil.rmtree(out / "parts", ignore_errors=True)
        if progress:
            progress(len(ordered), len(ordered))
        return
    labels = pipeline.labels(job.labels)
    done = 0
    for number, batch in enumerate(batches):
        if not _part(out, number).exists():
            _write_part(_part(out, number), *_answer_batch(pipeline, job, labels, batch, number))
        done += len(batch)
        if progress:
            progress(done, len(ordered))
    _merge(out, job, len(batches))


def _answer_batch(
    pipeline: LlavaPipeline, job: Run, labels: Labels, batch: Sequence[Question], number: int
) -> tuple[dict[str, list[Answer]], dict[str, Tensor], dict[str, Cost]]:
    """(answers by leg, rows by condition, costs by part) of one batch."""
    images, errors = [], {}
    for place, question in enumerate(batch):
        try:
            images.append(load_image(image_path(job.images, question.image)))
        except ImageError as error:
            errors[place] = str(error)
    failed = {i: Answer(batch[i].question_id, batch[i].text, batch[i].image, "", error=errors[i]) for i in errors}
    asked = [question for place, question in enumerate(batch) if place not in errors]
    if not asked:
        return {leg.name: list(failed.values()) for leg in job.legs}, {}, {}
    inputs = pipeline.inputs(images, [job.prompt.replace("{question}", question.text) for question in asked])
    rows: dict[str, Tensor] = {}
    costs: dict[str, Cost] = {}
    with _counted(pipeline.model) as counter:
        before = _now(counter)
        prefill = pipeline.prefill(inputs)
        costs[IMAGE] = _since(before, counter)
        for condition in (IMAGE, "none", "unk"):
            before = _now(counter)
            rows |= pipeline.distributions(inputs, (condition,), prefill=prefill)
            costs.setdefault(condition, _since(before, counter))
        encoded = Cost(costs[IMAGE].seconds, 0)  # its forward is counted in each leg, as the step it goes on from
        found = pipeline.label_probabilities(inputs, labels, rows=rows)
        priors = {"none": found["none"], "unk": found["unk"], "both": average_prior(found["none"], found["unk"])}
        answers: dict[str, list[Answer]] = {}
        for place, leg in enumerate(job.legs):
            before = _now(counter)
            probabilities = found[IMAGE]
            if leg.debias is not None and leg.debias.reference in PRIORS:
                probabilities = pipeline.debiased_label_probabilities(inputs, labels, leg.debias, rows)
            if leg.post_hoc is not None:
                scores = AffineCalibration.from_prior(priors[leg.post_hoc])(probabilities)
                texts = [labels.names[best] for best in scores.argmax(dim=-1).tolist()]
                costs[leg.name] = _since(before, counter) + _shared_cost(costs, leg)
            else:
                scores = probabilities
                seed = (job.seed * len(job.legs) + place) * 1_000_003 + number
                texts = pipeline.generate(inputs, debias=leg.debias, sampling=leg.sampling, seed=seed, prefill=prefill)
                costs[leg.name] = _since(before, counter) + encoded
            margins = _margins(leg, labels, rows, scores, priors)
            records = _records(leg, labels, asked, texts, probabilities, priors, scores, margins)
            answers[leg.name] = _merged_with(failed, records)
    return answers, {name: row.float() for name, row in rows.items()}, costs


def _records(
    leg: Leg,
    labels: Labels,
    asked: Sequence[Question],
    texts: Sequence[str],
    probabilities: Tensor,
    priors: Mapping[str, Tensor],
    scores: Tensor,
    margins: Sequence[float],
) -> list[Answer]:
    raw = named(labels, probabilities)
    prior = named(labels, priors[leg.post_hoc]) if leg.post_hoc else []
    debiased = named(labels, scores)
    return [
        Answer(
            question.question_id,
            question.text,
            question.image,
            texts[i],
            probabilities=raw[i],
            blind_probabilities={leg.post_hoc: prior[i]} if leg.post_hoc else None,
            debiased={leg.post_hoc: debiased[i]} if leg.post_hoc else None,
            margin=margins[i],
        )
        for i, question in enumerate(asked)
    ]


def _margins(
    leg: Leg, labels: Labels, rows: Mapping[str, Tensor], scores: Tensor, priors: Mapping[str, Tensor]
) -> list[float]:
    """log-odds of the first label against the second, before any cut-off where one token decides."""
    if leg.debias is not None and leg.debias.reference in PRIORS and labels.single_token:
        uncut = contrast(rows[IMAGE], reference_row(rows, leg.debias.reference), alpha=leg.debias.alpha, beta=0.0)
        scores = labels.probabilities(uncut)
        if leg.post_hoc is not None:
            scores = AffineCalibration.from_prior(priors[leg.post_hoc])(scores)
    odds = scores.double().clamp(min=torch.finfo(torch.float64).tiny).log()
    return (odds[:, 0] - odds[:, 1]).tolist()


def _merged_with(failed: Mapping[int, Answer], answers: Sequence[Answer]) -> list[Answer]:
    """Put the records of unreadable images back into their places."""
    rest = iter(answers)
    return [failed[i] if i in failed else next(rest) for i in range(len(failed) + len(answers))]


def _shared_cost(costs: Mapping[str, Cost], leg: Leg) -> Cost:
    """A post-hoc leg needs the image's row and its references'; no more."""
    needed = {leg.post_hoc, leg.debias.reference if leg.debias else None} - {None}
    parts = {"none", "unk"} if "both" in needed else needed
    return sum((costs[str(part)] for part in sorted(map(str, parts))), start=costs[IMAGE])


def _claim(out: Path, job: Run, description: Mapping[str, Any], ordered: Sequence[Question]) -> None:
    """Make `out` this run's folder, or see that it is."""
    record = json.dumps(description, indent=1, ensure_ascii=False) + "\n"
    asked = "".join(json.dumps(asdict(question), ensure_ascii=False) + "\n" for question in ordered)
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        (out / "parts").mkdir(parents=True)
        write_atomic(out / "questions.jsonl", asked)
        write_atomic(out / "run.json", record)
        return
    if not (out / "run.json").is_file():
        raise UserError(f"{out}: holds files that are no run of vdd; wanted a new or empty folder.")
    found = json.loads((out / "run.json").read_text(encoding="utf-8"))
    differing = sorted(k for k in description.keys() | found.keys() if description.get(k) != found.get(k))
    if not differing and (out / "questions.jsonl").read_text(encoding="utf-8") != asked:
        differing = ["questions"]
    if differing:
        raise UserError(
            f"{out}: holds the results of another run (other {', '.join(differing)}); wanted a new folder, or the same "
            "settings to go on with that run."
        )
    (out / "parts").mkdir(exist_ok=True)


def _part(out: Path, number: int) -> Path:
    return out / "parts" / f"{number:06d}.json"


def _write_part(
    path: Path, answers: Mapping[str, Sequence[Answer]], rows: Mapping[str, Tensor], costs: Mapping[str, Cost]
) -> None:
    """The tensors first: a part counts as done once its JSON file stands."""
    body = {
        "answers": {leg: [answer.to_json() for answer in given] for leg, given in answers.items()},
        "costs": {name: asdict(cost) for name, cost in costs.items()},
    }
    save_file({name: row.contiguous().cpu() for name, row in rows.items()}, path.with_suffix(".safetensors"))
    write_atomic(path, json.dumps(body, ensure_ascii=False))


def _merge(out: Path, job: Run, count: int) -> None:
    """One file a leg, one of rows, one of timings; the timings last, for they say that the run is whole."""
    parts = [json.loads(_part(out, number).read_text(encoding="utf-8")) for number in range(count)]
    (out / "answers").mkdir(exist_ok=True)
    for leg in job.legs:
        lines = [line + "\n" for part in parts for line in part["answers"][leg.name]]
        write_atomic(out / "answers" / f"{leg.name}.jsonl", "".join(lines))
    _merge_rows(out, count)
    timings = [
        json.dumps({"batch": number, "part": name, **cost}) + "\n"
        for number, part in enumerate(parts)
        for name, cost in part["costs"].items()
    ]
    write_atomic(out / "timings.jsonl", "".join(timings))
    shutil.rmtree(out / "parts")


def _merge_rows(out: Path, count: int) -> None:
    """Image rows one a readable question; image-free rows once each, with the index that says whose they are."""
    tensors = [load_file(_part(out, number).with_suffix(".safetensors")) for number in range(count)]
    tensors = [part for part in tensors if part]
    if not tensors:
        return
    merged: dict[str, Tensor] = {IMAGE: torch.cat([part[IMAGE] for part in tensors])}
    for name in ("none", "unk"):
        rows = torch.cat([part[name] for part in tensors])
        merged[name], merged[f"{name}_index"] = torch.unique(rows, dim=0, return_inverse=True)
    draft = out / "parts" / "rows.safetensors"
    save_file(merged, draft)
    draft.replace(out / "rows.safetensors")


@contextmanager
def _counted(model: Any) -> Iterator[list[int]]:
    """Count rows × forwards of the whole model while inside."""
    counter = [0]

    def count(_module: Any, _args: Any, kwargs: Mapping[str, Any], _output: Any) -> None:
        counter[0] += len(kwargs["input_ids"]) if kwargs.get("input_ids") is not None else len(kwargs["inputs_embeds"])

    handle = model.register_forward_hook(count, with_kwargs=True)
    try:
        yield counter
    finally:
        handle.remove()


def _now(counter: Sequence[int]) -> tuple[float, int]:
    return time.perf_counter(), counter[0]


def _since(before: tuple[float, int], counter: Sequence[int]) -> Cost:
    return Cost(time.perf_counter() - before[0], counter[0] - before[1])


def leg_costs(out: Path) -> dict[str, tuple[float, float]]:
    """Leg → (forwards, seconds) per question of a finished run."""
    asked = sum(1 for _ in (out / "questions.jsonl").open(encoding="utf-8"))
    totals: dict[str, Cost] = {}
    for line in (out / "timings.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        totals[record["part"]] = totals.get(record["part"], Cost()) + Cost(record["seconds"], record["forwards"])
    return {name: (cost.forwards / asked, cost.seconds / asked) for name, cost in totals.items()}
