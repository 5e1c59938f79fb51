"""The parts of an analysis that ask the model, each into its own file of records.

    read_file   every question under every condition → likeliest tokens, prior bias, and what was read of each question
    follow      some questions' answers, step by step → attention by layer and along the text

A file that stands already, and depends on the same, is left as it is: a killed analysis goes on behind it.

Knows: a pipeline, questions, record files. Does not know: answers, scores, figures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vdd._check import UserError, whole
from vdd.analysed import AttentionShare, Likely, PriorShare, QuestionRead, is_written, write_records
from vdd.analysis.attention import CLASSES, Attended, watching
from vdd.analysis.likeliest import Mean, likeliest
from vdd.analysis.looking import PIXELS, Looked, asked_alone, conditions_of, looked
from vdd.analysis.prior import Shares
from vdd.config import IMAGE
from vdd.contrast import FLOOR
from vdd.data import read_records
from vdd.distributions import named
from vdd.families import tokenizer_of
from vdd.pipeline import Pipeline
from vdd.records import Question, QuestionId

Progress = Callable[[int, int], None]

MOST_SUBSETS = 40
"""Values of a field that still make subsets to be looked at one by one."""


@dataclass(frozen=True)
class Study:
    """What is looked at.

    Attributes:
        questions: of any labels.
        images: their folder.
        labels: the possible answers; none where answers are free.
        sets: name → labels whose prior is looked at.
        subsets: question_id → what it belongs to; empty where nobody asked.
        prompt: the question's wording; "{question}" stands for its text.
        batch_size: questions a forward at most.
        single: id of the question that is looked at by itself; None for the first.
    """

    questions: Sequence[Question]
    images: Path
    labels: Sequence[str] = ()
    sets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    subsets: Mapping[QuestionId, str] = field(default_factory=dict)
    prompt: str = "{question}"
    batch_size: int = 16
    single: QuestionId | None = None


def subsets_of(path: Path, field_name: str, questions: Sequence[Question]) -> dict[QuestionId, str]:
    """question_id → the value that a question file has in a field.

    Args:
        path: of the questions.
        field_name: such as category, or label.
        questions: those that are asked.

    Raises:
        UserError: where a question has no such field, or more than MOST_SUBSETS values occur.
    """
    found: dict[QuestionId, str] = {}
    wanted = {question.question_id for question in questions}
    for where, record in read_records(path):
        if record["question_id"] in wanted:
            if not isinstance(record.get(field_name), (str, int)):
                raise UserError(
                    f"{where}: no {field_name!r} in it (it has {', '.join(record)}); wanted a field of all."
                )
            found[record["question_id"]] = str(record[field_name]).strip()
    if len(set(found.values())) > MOST_SUBSETS:
        raise UserError(
            f"{path}: {len(set(found.values()))} different values of {field_name!r}; wanted a field that parts the "
            f"questions into {MOST_SUBSETS} subsets at most, such as category."
        )
    return found


def read_file(
    pipeline: Pipeline, study: Study, out: Path, about: Mapping[str, Any], *, progress: Progress | None = None
) -> None:
    """Write the records `likeliest`, `prior` and `questions`.

    Args:
        pipeline: the model.
        study: what is looked at; one question at least.
        out: the analysis' folder.
        about: what the records depend on.
        progress: called with (questions done, questions in all).
    """
    if all(is_written(out, kind, about) for kind in (Likely, PriorShare, QuestionRead)):
        return
    labels = pipeline.labels(study.labels) if study.labels else None
    sets = {name: (pipeline.labels(words), Shares(words)) for name, words in study.sets.items()}
    single = study.questions[0].question_id if study.single is None else study.single
    mean, alone, read = Mean(), list[tuple[Question, dict[str, Tensor]]](), list[QuestionRead]()
    for batch in looked(
        pipeline,
        study.questions,
        study.images,
        conditions_of(pipeline),
        prompt=study.prompt,
        batch_size=study.batch_size,
        progress=progress,
    ):
        mean.add(batch.rows)
        for place, question in enumerate(batch.questions):
            if question.question_id == single:
                alone.append((question, {name: row[place].double().exp().cpu() for name, row in batch.rows.items()}))
        chances = {} if labels is None else batch.label_probabilities(pipeline, labels)
        for name, (own, shares) in sets.items():
            found = chances if name == "labels" else batch.label_probabilities(pipeline, own)
            shares.add(found, [question.label for question in batch.questions])
        by_label = {} if labels is None else {name: named(labels, values) for name, values in chances.items()}
        read += _questions(batch, by_label, study.subsets)
    tokenizer = tokenizer_of(pipeline.processor)
    tokens = likeliest(mean.rows, tokenizer, scope="", questions=mean.questions)
    for question, rows in alone:
        tokens += likeliest(rows, tokenizer, scope=question.text, questions=1)
    shown = {"labels": ", ".join(study.labels)}
    priors = [one for name, (_, shares) in sets.items() for one in shares.shares(shown.get(name, name))]
    write_records(out, Likely, tokens, about)
    write_records(out, PriorShare, priors, about)
    write_records(out, QuestionRead, read, about)


def first_tokens(pipeline: Pipeline, questions: Sequence[Question], images: Path) -> list[Likely]:
    """The likeliest first tokens of some questions by condition, written nowhere."""
    mean = Mean()
    for batch in looked(pipeline, questions, images, conditions_of(pipeline)):
        mean.add(batch.rows)
    return likeliest(mean.rows, tokenizer_of(pipeline.processor), scope="", questions=mean.questions)


def follow(
    pipeline: Pipeline,
    study: Study,
    out: Path,
    about: Mapping[str, Any],
    *,
    count: int = 64,
    text: str | None = None,
    max_new_tokens: int = 16,
    progress: Progress | None = None,
) -> None:
    """Write the records `attention`.

    Args:
        pipeline: the model, a decoder-only one.
        study: what is looked at.
        out: the analysis' folder.
        about: what the records depend on.
        count: questions at most, evenly from the file; ≥ 1.
        text: asked in place of the questions, once for each image; None for the questions themselves.
        max_new_tokens: of each answer.
        progress: called with (questions done, questions in all).

    Raises:
        UserError: for an encoder-decoder.
    """
    whole("analyse", "attention", count, low=1)
    about = {**about, "attention": [count, text, max_new_tokens]}
    if is_written(out, AttentionShare, about):
        return
    asked = list(study.questions)
    if text is not None:
        asked = list({question.image: question for question in reversed(asked)}.values())[::-1]
    asked = [asked[place * len(asked) // min(count, len(asked))] for place in range(min(count, len(asked)))]
    mean = MeanAttention()
    with watching(pipeline) as watch:
        for number, question in enumerate(asked, 1):
            words = study.prompt.replace("{question}", question.text) if text is None else text
            inputs = asked_alone(pipeline, question, study.images, words)
            if inputs is not None:
                mean.add(watch.look(inputs, max_new_tokens=max_new_tokens))
            if progress is not None:
                progress(number, len(asked))
    write_records(out, AttentionShare, mean.shares(), about)


class MeanAttention:
    """The mean over answers of what `Watch.look` finds, by layer and by step; two small tables are held."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, str, int], tuple[Tensor, int]] = {}

    def add(self, answer: Attended) -> None:
        """Add one answer: each of its layers as the mean over steps, each of its steps as the mean over layers."""
        for condition, mass in ((IMAGE, answer.seen), ("none", answer.blind)):  # (steps, layers, 3)
            for kind, means in (("layer", mass.nanmean(dim=0)), ("step", mass.nanmean(dim=1))):
                for place, row in enumerate(means):
                    if not bool(row.isnan().any()):
                        total, count = self._sums.get((condition, kind, place), (torch.zeros_like(row), 0))
                        self._sums[condition, kind, place] = total + row, count + 1

    def shares(self) -> list[AttentionShare]:
        """Layers from 0, then steps from 1, with the image, then without."""
        found = []
        for (condition, kind, place), (total, count) in sorted(self._sums.items()):
            masses = dict(zip(CLASSES, (total / count).tolist(), strict=True))
            layer, step = (place, None) if kind == "layer" else (None, place + 1)
            found.append(AttentionShare(condition=condition, layer=layer, step=step, questions=count, **masses))
        return found


def _questions(
    batch: Looked, by_label: Mapping[str, Sequence[Mapping[str, float]]], subsets: Mapping[QuestionId, str]
) -> list[QuestionRead]:
    seen = batch.rows[IMAGE].double()
    divergences = {
        name: _kl(seen, row.double()).tolist() for name, row in batch.rows.items() if name not in (IMAGE, *PIXELS)
    }
    return [
        QuestionRead(
            question_id=question.question_id,
            image=question.image,
            label=question.label,
            subset=subsets.get(question.question_id, ""),
            labels={name: rows[place] for name, rows in by_label.items()},
            kl_vocabulary={name: values[place] for name, values in divergences.items()},
        )
        for place, question in enumerate(batch.questions)
    ]


def _kl(seen: Tensor, blind: Tensor) -> Tensor:
    """(batch,) Σ p log p / p' in nats of (batch, vocab) log-probabilities, p' raised as in the contrast."""
    raised = torch.log_softmax(blind.clamp(min=blind.amax(dim=-1, keepdim=True) - FLOOR), dim=-1)
    p = seen.exp()
    return torch.where(p > 0, p * (seen - raised), 0.0).sum(dim=-1).clamp(min=0.0)
