"""Questions × legs → answer files that a killed run resumes and an unbroken run repeats byte for byte.

Questions about one image are asked together: what is read of the image is read once, and every leg goes on from there,
where the model's family allows it; each leg's time includes it. What the model says without the image is computed once
for each different text. Batches are cut from the questions ordered by length, images kept together, and each is written
whole (parts/), so every question meets the same batch-mates whatever was interrupted and however many processes share
the work; these take neighbouring batches, whose questions' texts are alike.
Knows: the pipeline, files. Does not know: scores, tables, the command line.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

from accelerate.utils import find_executable_batch_size

from vdd._check import UserError
from vdd.answering import answer_batch
from vdd.config import PRIORS
from vdd.job import Run
from vdd.pipeline import Pipeline
from vdd.records import Question
from vdd.run_folder import claim, joined, merge, only_one, part_path, write_part
from vdd.workers import Workers

Progress = Callable[[int, int], None]
ALONE = Workers()


def run(pipeline: Pipeline, job: Run, out: Path, *, progress: Progress | None = None, workers: Workers = ALONE) -> str:
    """Answer every question in every leg, into the folder `out`; goes on where a killed run stopped.

    Args:
        pipeline: the model.
        job: the questions and legs.
        out: new, empty, or holding the same run.
        progress: called with (questions done, questions in all) of this process.
        workers: the processes that share the work; each calls this with the same job and folder.

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
            "no unknown token of its own; wanted legs of the references in pipeline.priors."
        )
    if not workers.is_first:
        workers.wait()  # the first one makes the folder
    claim(out, job.describe(pipeline), ordered)
    if workers.is_first:
        workers.wait()
    with only_one(out) if workers.is_first else nullcontext():
        workers.wait()
        unshared = _answer(pipeline, job, ordered, batches, out, progress, workers)
    if workers.is_first:
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
    workers: Workers,
) -> str:
    start, stop = (len(batches) * rank // workers.count for rank in (workers.rank, workers.rank + 1))
    total = sum(map(len, batches[start:stop]))
    if (out / "timings.jsonl").exists():
        lost = [leg.name for leg in job.legs if not (out / "answers" / f"{leg.name}.jsonl").exists()]
        if lost:
            raise UserError(
                f"{out}: the run was whole, but its answers of {', '.join(lost)} are gone; wanted a new folder."
            )
        if progress:
            progress(total, total)
        return ""
    labels = pipeline.labels(job.labels) if job.labels else None
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
        for number in range(start, stop):
            batch = batches[number]
            if not part_path(out, number).exists():
                parts = [
                    answer_batch(pipeline, job, labels, batch[first : first + most], number * job.batch_size + first)
                    for first in range(0, len(batch), most)
                ]
                write_part(part_path(out, number), joined(parts))
            done += len(batch)
            if progress and done > told:
                told = done
                progress(done, total)

    answer_the_rest()
    workers.wait()
    unshared = ""
    if workers.is_first:
        unshared = merge(out, job.legs, len(batches), [question.question_id for question in ordered])
    workers.wait()
    return unshared
