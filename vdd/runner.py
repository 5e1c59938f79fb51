"""Questions × legs → answer files that a killed run resumes and an unbroken run repeats byte for byte.

Questions about one image are asked together: what is read of the image is read once, and every leg goes on from there,
where the model's family allows it; each leg's time includes it. What the model says without the image is computed once
for each different text. Batches are cut from the questions ordered by length, images kept together, and each is written
whole (parts/), so every question meets the same batch-mates whatever was interrupted.
Knows: the pipeline, files. Does not know: scores, tables, the command line.
"""

from __future__ import annotations

import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import find_executable_batch_size
from PIL import Image
from torch import Tensor

from vdd._check import UserError, choice, whole
from vdd._version import __version__
from vdd.asked import Asked
from vdd.calibrate import AffineCalibration, Labels
from vdd.config import IMAGE, MAX_SEED, PRIORS, STRATEGIES, DebiasConfig, Leg, SamplingConfig, to_json
from vdd.contrast import contrast
from vdd.distributions import named, parts_of, priors_of, reference_row
from vdd.images import ImageError, image_path, load_image
from vdd.pipeline import Pipeline
from vdd.records import Answer, Question
from vdd.run_folder import Cost, Part, claim, joined, merge, only_one, part_path, write_part

Progress = Callable[[int, int], None]


def standard_legs(
    *, alpha: float = 1.0, beta: float = 0.1, max_new_tokens: int = 16, priors: Sequence[str] = PRIORS
) -> list[Leg]:
    """The legs that are always shown together, so that a gain can be told from an artefact.

    Greedy; VDD by three references; post-hoc by three, alone and on top of VDD; sampling at T = 1 plain, with VDD, and
    with the cut-off alone (most of the gain over sampling is that; arXiv:2504.10020). A model without an unknown token
    has one reference instead of three: give `pipeline.priors`.
    """
    greedy = SamplingConfig(max_new_tokens=max_new_tokens)
    hot = replace(greedy, temperature=1.0)
    vdd = {name: DebiasConfig(reference=name, alpha=alpha, beta=beta) for name in priors}
    return [
        Leg("greedy", None, greedy),
        *(Leg(f"vdd-{name}", vdd[name], greedy) for name in priors),
        *(Leg(f"posthoc-{name}", None, greedy, post_hoc=name) for name in priors),
        *(Leg(f"vdd+posthoc-{name}", vdd[name], greedy, post_hoc=name) for name in priors),
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
        batch_size: questions a forward at most; halved for as long as the memory does not suffice.
        seed: of sampling.
        share_images: read an image once for all its questions, where the model's family allows it.
        strategy: how the image-free side is run; see `vdd.generate`. Not "auto": what is measured differs from run to
            run, and with it the last bits.
    """

    model: str
    questions: Sequence[Question]
    images: Path
    legs: Sequence[Leg]
    labels: tuple[str, ...] = ("yes", "no")
    prompt: str = "{question}"
    batch_size: int = 16
    seed: int = 0
    share_images: bool = True
    strategy: str = "skip"

    def __post_init__(self) -> None:
        """Raise UserError on a prompt without a place for the question, legs that clash, and the like."""
        whole("run", "batch_size", self.batch_size, low=1)
        choice("run", "strategy", self.strategy, [name for name in STRATEGIES if name != "auto"])
        whole("run", "seed", self.seed, low=0, high=MAX_SEED)
        names = [leg.name for leg in self.legs]
        if not names or len(set(names)) < len(names):
            raise UserError(f"run: the legs are {', '.join(names) or 'none'}; wanted one at least, no name twice.")
        for leg in self.legs:
            _check_leg(leg)
        ids = Counter(question.question_id for question in self.questions)
        if ids and max(ids.values()) > 1:
            raise UserError(f"run: question_id {ids.most_common(1)[0][0]!r} comes twice; wanted each once.")
        if "{question}" not in self.prompt:
            raise UserError(f"run: the prompt is {self.prompt!r}; wanted {{question}} in it.")
        if not self.questions:
            raise UserError("run: no questions came; wanted at least one.")

    def describe(self, pipeline: Pipeline) -> dict[str, Any]:
        """What run.json holds."""
        return {
            "vdd": __version__,
            "model": self.model,
            "images": str(self.images.resolve()),
            "architecture": type(pipeline.model).__name__,
            "dtype": str(pipeline.model.dtype),
            "device": pipeline.device.type,
            "quantized": getattr(pipeline.model.config, "quantization_config", None) is not None,
            "questions": len(self.questions),
            "labels": list(self.labels),
            "prompt": self.prompt,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "share_images": self.share_images,
            "strategy": self.strategy,
            "legs": [to_json(leg) for leg in self.legs],
        }


def run(pipeline: Pipeline, job: Run, out: Path, *, progress: Progress | None = None) -> str:
    """Answer every question in every leg, into the folder `out`; goes on where a killed run stopped.

    Args:
        pipeline: the model.
        job: the questions and legs.
        out: new, empty, or holding the same run.
        progress: called with (questions done, questions in all).

    Returns:
        why images were read once a question though shared ones were wanted; "" where they were shared, or no two
        questions are about one image, or the run was whole already.

    Raises:
        ValueError: where `out` holds something else. An unreadable image is no error: it is recorded in the answers.
    """
    ordered = sorted(job.questions, key=lambda q: (isinstance(q.question_id, str), q.question_id))
    for question in ordered:
        try:
            pipeline.check_question(question.text)
        except UserError as error:
            raise UserError(f"question {question.question_id!r}: {error}") from error
    batches = _batches(pipeline, ordered, job.batch_size)
    needed = {leg.post_hoc for leg in job.legs} | {leg.debias.reference for leg in job.legs if leg.debias}
    lacking = needed.intersection(PRIORS).difference(pipeline.priors)
    if lacking:
        raise UserError(
            f"run: legs want the reference {' and '.join(sorted(map(str, lacking)))}, and this model's tokenizer has "
            "no unknown token of its own; wanted standard_legs(priors=pipeline.priors), or other legs."
        )
    claim(out, job.describe(pipeline), ordered)
    with only_one(out):
        unshared = _answer(pipeline, job, ordered, batches, out, progress)
    shutil.rmtree(out / "parts", ignore_errors=True)
    return unshared


def _batches(pipeline: Pipeline, ordered: Sequence[Question], size: int) -> list[list[Question]]:
    """Batches of at most `size`: an image's questions together, images whose questions are alike in length together."""
    by_image: dict[str, list[Question]] = {}
    for question in ordered:
        by_image.setdefault(question.image, []).append(question)
    length = {question.text: len(pipeline.tokens(question.text)) for question in ordered}
    groups = sorted(by_image.values(), key=lambda group: max(length[question.text] for question in group))
    batches: list[list[Question]] = [[]]
    for group in groups:
        if len(batches[-1]) + min(len(group), size) > size:
            batches.append([])
        for question in group:
            if len(batches[-1]) == size:
                batches.append([])
            batches[-1].append(question)
    return batches


def _answer(
    pipeline: Pipeline,
    job: Run,
    ordered: Sequence[Question],
    batches: Sequence[Sequence[Question]],
    out: Path,
    progress: Progress | None,
) -> str:
    total = len(ordered)
    if (out / "timings.jsonl").exists():
        lost = [leg.name for leg in job.legs if not (out / "answers" / f"{leg.name}.jsonl").exists()]
        if lost:
            raise UserError(
                f"{out}: the run was whole, but its answers of {', '.join(lost)} are gone; wanted a new folder."
            )
        if progress:
            progress(total, total)
        return ""
    labels = pipeline.labels(job.labels)
    size, told = job.batch_size, -1

    def halved() -> int:
        nonlocal size
        if size == 1:
            raise UserError(
                "run: the memory does not suffice for one question by itself; wanted a smaller model or image, another "
                "dtype (--dtype bfloat16) or quantisation (--quantize 4bit), or another device. What is answered stays."
            )
        size //= 2
        return size

    @find_executable_batch_size(starting_batch_size=size, reduce_batch_size_fn=halved)
    def answer_the_rest(most: int) -> None:
        nonlocal told
        done = 0
        for number, batch in enumerate(batches):
            if not part_path(out, number).exists():
                parts = [
                    _answer_batch(pipeline, job, labels, batch[start : start + most], number * job.batch_size + start)
                    for start in range(0, len(batch), most)
                ]
                write_part(part_path(out, number), joined(parts))
            done += len(batch)
            if progress and done > told:
                told = done
                progress(done, total)

    answer_the_rest()
    return merge(out, job.legs, len(batches), [question.question_id for question in ordered])


def _answer_batch(pipeline: Pipeline, job: Run, labels: Labels, batch: Sequence[Question], draw: int) -> Part:
    """What is known of a batch once every leg has answered it; `draw` tells its random numbers from other batches'."""
    images: dict[str, Image.Image] = {}
    errors: dict[str, str] = {}
    for name in dict.fromkeys(question.image for question in batch):
        try:
            images[name] = load_image(image_path(job.images, name))
        except ImageError as error:
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
    prompts = [job.prompt.replace("{question}", question.text) for question in asked]
    names = [question.image for question in asked]
    costs: dict[str, Cost] = {}
    with _counted(pipeline.reader.text_model) as counter:
        before = _now(counter)
        work = Asked(pipeline, [images[name] for name in names], prompts, names, share=job.share_images)
        costs[IMAGE] = _since(before, counter)
        prefill, inputs = work.prefill, work.inputs
        rows: dict[str, Tensor] = {}
        for condition in (IMAGE, *parts_of(pipeline.priors)):
            before = _now(counter)
            rows |= pipeline.distributions(inputs, (condition,), prefill=prefill)
            costs.setdefault(condition, _since(before, counter))
        label_rows = pipeline.label_probabilities(inputs, labels, rows=rows, prefill=prefill)
        priors = priors_of(label_rows, pipeline.priors)
        answers: dict[str, list[Answer]] = {}
        for place, leg in enumerate(job.legs):
            before = _now(counter)
            probabilities = label_rows[IMAGE]
            if leg.debias is not None and _follows_from_rows(leg.debias):
                probabilities = pipeline.debiased_label_probabilities(inputs, labels, leg.debias, rows, prefill=prefill)
            if leg.post_hoc is not None:
                scores = AffineCalibration.from_prior(priors[leg.post_hoc])(probabilities)
                texts = [labels.names[best] for best in scores.argmax(dim=-1).tolist()]
            else:
                scores = probabilities
                seed = (job.seed * len(job.legs) + place) * 1_000_003 + draw
                texts = work.generate(leg, seed, job.strategy)
            costs[leg.name] = _since(before, counter) + _shared_cost(costs, leg, prefilled=work.goes_on(leg))
            if leg.debias is None or _follows_from_rows(leg.debias):
                margins = _margins(leg, labels, rows, scores, priors)
                records = _records(leg, labels, asked, texts, probabilities, priors, scores, margins)
            else:
                records = [_bare(question, text) for question, text in zip(asked, texts, strict=True)]
            answers[leg.name] = _merged_with(failed, records)
    return Part(answers, {name: row.float() for name, row in rows.items()}, costs, work.unshared)


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


def _bare(question: Question, text: str) -> Answer:
    return Answer(question.question_id, question.text, question.image, text)


def _follows_from_rows(debias: DebiasConfig) -> bool:
    """Whether the leg's first-token distribution follows by arithmetic from the stored rows."""
    plain = debias.schedule == "constant" and debias.derive == "template" and debias.unk_per == "image"
    return plain and debias.reference in PRIORS


def _check_leg(leg: Leg) -> None:
    if not re.fullmatch(r"[\w@=+.,-]+", leg.name) or leg.name.startswith(".") or leg.name in (IMAGE, *PRIORS):
        raise UserError(f"run: a leg is called {leg.name!r}; wanted a file name other than {IMAGE}, none, unk, both.")
    if leg.post_hoc is not None:
        choice("run", "post-hoc reference", leg.post_hoc, PRIORS)
        if leg.debias is not None and not _follows_from_rows(leg.debias):
            raise UserError(
                f"run: the leg {leg.name!r} puts post-hoc on top of {leg.debias.reference!r}; wanted none, unk or both "
                "of constant strength beneath it, whose distribution is known without generating."
            )


def _margins(
    leg: Leg, labels: Labels, rows: Mapping[str, Tensor], scores: Tensor, priors: Mapping[str, Tensor]
) -> list[float]:
    """log-odds of the first label against the second, before any cut-off where one token decides."""
    if leg.debias is not None and labels.single_token:
        uncut = contrast(rows[IMAGE], reference_row(rows, leg.debias.reference), alpha=leg.debias.alpha, beta=0.0)
        scores = labels.probabilities(uncut)
        if leg.post_hoc is not None:
            scores = AffineCalibration.from_prior(priors[leg.post_hoc])(scores)
    odds = scores.cpu().double().clamp(min=torch.finfo(torch.float64).tiny).log()
    return (odds[:, 0] - odds[:, 1]).tolist()


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


def _now(counter: Sequence[int]) -> tuple[float, int]:
    return time.perf_counter(), counter[0]


def _since(before: tuple[float, int], counter: Sequence[int]) -> Cost:
    return Cost(time.perf_counter() - before[0], counter[0] - before[1])
