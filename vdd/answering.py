"""The answers of every leg to one batch of questions, from what the model read of it once.

Knows: a pipeline, legs, labels. Does not know: files, other batches.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vdd._check import UserError
from vdd.asked import Asked
from vdd.calibrate import AffineCalibration, Labels
from vdd.config import IMAGE, DebiasConfig, Leg, SamplingConfig
from vdd.distributions import follows, named, parts_of, priors_of
from vdd.images import ImageError, image_path, load_image
from vdd.job import Run
from vdd.pipeline import Pipeline
from vdd.records import Answer, DecodingReport, Question
from vdd.run_folder import Cost, Part


def answer_batch(pipeline: Pipeline, job: Run, labels: Labels | None, batch: Sequence[Question], draw: int) -> Part:
    """What is known of a batch once every leg has answered it; `draw` tells its random numbers from other batches'."""
    images: dict[str, Image.Image] = {}
    errors: dict[str, str] = {}
    for name in dict.fromkeys(question.image for question in batch):
        try:
            images[name] = load_image(image_path(job.images, name))
        except ImageError as error:
            if not job.images.is_dir():
                raise UserError(f"{job.images}: the folder of the images is gone; what is answered stays.") from error
            errors[name] = str(error)
    failed = {
        place: Answer(question.question_id, question.text, question.image, "", error=errors[question.image])
        for place, question in enumerate(batch)
        if question.image in errors
    }
    asked = [question for place, question in enumerate(batch) if place not in failed]
    if not asked:
        return Part({leg.name: list(failed.values()) for leg in job.legs}, {}, {})
    pipeline.reset()
    with _counted(pipeline.reader.text_model) as counter:
        costs: dict[str, Cost] = {}
        before = _now(counter)
        work = _asked(pipeline, job, asked, images, job.prompt)
        costs[IMAGE] = _since(before, counter)
        known = None if labels is None else _Known.of(pipeline, labels, asked, work, costs, counter)
        answers: dict[str, list[Answer]] = {}
        for leg in job.legs:
            seed = _seed(job.seed, leg.name, draw)
            first = Cost() if known is None else known.first_token(leg, counter)
            before = _now(counter)
            report = DecodingReport()
            _forget_peak(pipeline.device)
            if known is not None and leg.prompt is None:
                records = known.answers(leg, seed, job.strategy, report)
            else:
                own = work if leg.prompt is None else _asked(pipeline, job, asked, images, leg.prompt)
                texts = own.generate(leg, seed, job.strategy, report)
                records = [_bare(question, text) for question, text in zip(asked, texts, strict=True)]
            shared = Cost() if leg.prompt is not None else _shared_cost(costs, leg, prefilled=work.goes_on(leg))
            decoded = Cost(steps=report.steps, skipped=report.skipped, peak=_peak(pipeline.device))
            costs[leg.name] = _since(before, counter) + shared + decoded + (first if leg.labels_alone else Cost())
            answers[leg.name] = _merged_with(failed, records)
    rows = {} if known is None else {name: row.float() for name, row in known.rows.items()}
    return Part(answers, rows, costs, work.unshared)


def _asked(
    pipeline: Pipeline, job: Run, asked: Sequence[Question], images: Mapping[str, Image.Image], prompt: str
) -> Asked:
    names = [question.image for question in asked]
    prompts = [prompt.replace("{question}", question.text) for question in asked]
    return Asked(pipeline, [images[name] for name in names], prompts, names, share=job.share_images)


@dataclass
class _Known:
    """A batch's questions and what was computed of them once for every leg."""

    pipeline: Pipeline
    labels: Labels
    asked: Sequence[Question]
    work: Asked
    rows: Mapping[str, Tensor]
    found: Mapping[str, Tensor]
    priors: Mapping[str, Tensor]

    @classmethod
    def of(
        cls,
        pipeline: Pipeline,
        labels: Labels,
        asked: Sequence[Question],
        work: Asked,
        costs: dict[str, Cost],
        counter: Sequence[int],
    ) -> _Known:
        """Compute it; what each condition's rows cost is added to `costs`."""
        rows: dict[str, Tensor] = {}
        for condition in (IMAGE, *parts_of(pipeline.priors)):
            before = _now(counter)
            rows |= pipeline.distributions(work.inputs, (condition,), prefill=work.prefill)
            costs.setdefault(condition, _since(before, counter))
        found = pipeline.label_probabilities(work.inputs, labels, rows=rows, prefill=work.prefill)
        return cls(pipeline, labels, asked, work, rows, found, priors_of(found, pipeline.priors))

    firsts: dict[DebiasConfig, tuple[Tensor, Tensor, Cost]] = field(default_factory=dict)
    """By settings: the labels' probabilities, the same without the cut-off, and what they cost."""

    def first_token(self, leg: Leg, counter: Sequence[int]) -> Cost:
        """Compute what the labels' probabilities are under the leg's contrast, where that can be known; its cost."""
        debias = leg.debias
        if debias is None or leg.prompt is not None or leg.custom_generate:
            return Cost()
        if not (follows(debias) or self.labels.single_token or leg.labels_alone):
            return Cost()
        if debias not in self.firsts:
            before = _now(counter)
            inputs = self.work.inputs if follows(debias) else self.work.with_pixels
            cut, uncut = (
                self.pipeline.debiased_label_probabilities(
                    inputs, self.labels, config, self.rows, prefill=self.work.prefill
                )
                for config in (debias, replace(debias, beta=0.0))
            )
            self.firsts[debias] = (cut, uncut if self.labels.single_token else cut, _since(before, counter))
        return self.firsts[debias][2]

    def answers(self, leg: Leg, seed: int, strategy: str, report: DecodingReport) -> list[Answer]:
        """One for each question; `report` is filled with how they were decoded."""
        probabilities = uncut = self.found[IMAGE]
        if leg.debias in self.firsts:
            probabilities, uncut, _ = self.firsts[leg.debias]
        scores = self._moved(leg, probabilities)
        if leg.labels_alone:
            texts = [self.labels.names[label] for label in _chosen(scores, leg.sampling, seed)]
        else:
            texts = self.work.generate(leg, seed, strategy, report)
        if leg.custom_generate or (leg.debias is not None and leg.debias not in self.firsts):
            return [_bare(question, text) for question, text in zip(self.asked, texts, strict=True)]
        return self._records(leg, texts, probabilities, scores, _log_odds(self._moved(leg, uncut)))

    def _moved(self, leg: Leg, probabilities: Tensor) -> Tensor:
        """(batch, labels) after the prior is divided out and the bias added."""
        if leg.post_hoc is not None:
            probabilities = AffineCalibration.from_prior(self.priors[leg.post_hoc])(probabilities)
        if leg.bias is not None:
            scores = probabilities.double().clamp(min=torch.finfo(torch.float64).tiny).log()
            scores[:, 0] += leg.bias
            probabilities = scores.softmax(dim=-1)
        return probabilities

    def _records(
        self, leg: Leg, texts: Sequence[str], probabilities: Tensor, scores: Tensor, margins: Sequence[float]
    ) -> list[Answer]:
        raw = named(self.labels, probabilities)
        prior = named(self.labels, self.priors[leg.post_hoc]) if leg.post_hoc else []
        key = leg.post_hoc or ("bias" if leg.bias is not None else None)
        debiased = named(self.labels, scores)
        return [
            Answer(
                question.question_id,
                question.text,
                question.image,
                texts[i],
                probabilities=raw[i],
                blind_probabilities={leg.post_hoc: prior[i]} if leg.post_hoc else None,
                debiased={key: debiased[i]} if key else None,
                margin=margins[i],
            )
            for i, question in enumerate(self.asked)
        ]


def _log_odds(scores: Tensor) -> list[float]:
    """(batch,) of the first label against the second."""
    odds = scores.cpu().double().clamp(min=torch.finfo(torch.float64).tiny).log()
    return list((odds[:, 0] - odds[:, 1]).tolist())


def _seed(seed: int, leg: str, draw: int) -> int:
    """Of a leg's random numbers in a batch, whatever other legs there are."""
    return int.from_bytes(sha256(f"{seed}:{leg}:{draw}".encode()).digest()[:7], "big")


def _chosen(scores: Tensor, sampling: SamplingConfig, seed: int) -> list[int]:
    """(batch,) labels: the most probable, or drawn at the leg's temperature."""
    if sampling.temperature == 0:
        return list(scores.argmax(dim=-1).tolist())
    weights = torch.softmax(scores.cpu().double().log() / sampling.temperature, dim=-1)
    return list(torch.multinomial(weights, 1, generator=torch.Generator().manual_seed(seed))[:, 0].tolist())


def _bare(question: Question, text: str) -> Answer:
    return Answer(question.question_id, question.text, question.image, text)


def _merged_with(failed: Mapping[int, Answer], answers: Sequence[Answer]) -> list[Answer]:
    """Put the records of unreadable images back into their places."""
    rest = iter(answers)
    return [failed[i] if i in failed else next(rest) for i in range(len(failed) + len(answers))]


def _shared_cost(costs: Mapping[str, Cost], leg: Leg, *, prefilled: bool) -> Cost:
    """What a leg needs of what the batch computed once: the image's rows, and what its references said first."""
    needed = {leg.post_hoc, leg.debias.reference if leg.debias and not leg.debias.is_cutoff_only else None}
    parts = [costs[part] for part in parts_of(sorted(filter(None, needed))) if part in costs]
    return sum(parts, start=costs[IMAGE] if prefilled else Cost())


@contextmanager
def _counted(model: Any) -> Iterator[list[int]]:
    """Count rows × forwards of the part that reads text while inside; it runs in every forward of the whole."""
    counter = [0]

    def count(_module: Any, _args: Any, kwargs: Mapping[str, Any], _output: Any) -> None:
        names = ("input_ids", "inputs_embeds", "decoder_input_ids")
        counter[0] += len(next(kwargs[name] for name in names if kwargs.get(name) is not None))

    handle = model.register_forward_hook(count, with_kwargs=True)
    try:
        yield counter
    finally:
        handle.remove()


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int:
    """Bytes of memory at most: on the GPU since the last `_forget_peak`, else of the process since it began."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # not on Windows
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _now(counter: Sequence[int]) -> tuple[float, int]:
    return time.perf_counter(), counter[0]


def _since(before: tuple[float, int], counter: Sequence[int]) -> Cost:
    return Cost(time.perf_counter() - before[0], counter[0] - before[1])
