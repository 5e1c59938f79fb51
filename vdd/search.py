"""Decoding configurations → figures, from the complete first-token rows of a stored run; no model is called.

    p_c(t) ∝ exp(log p'(t) / T)  over the k most probable tokens, and of these the fewest whose mass reaches p

with p' plain, cut off, or contrasted (`vdd.contrast`). Where the first token decides the answer, accuracy and
yes-ratio of every configuration are exact expectations. The paper's configurations (arXiv:2403.05262) move one setting
at a time from T = 1: temperature 0.05 … 1, top-p 0 … 1, top-k 1 … 500. They are chosen there on the test set, here on a
part of the images that the test questions never show.

Knows: runs' folders, logits. Does not know: models, tables, the command line.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from vdd._check import UserError
from vdd.config import IMAGE, DebiasConfig, Leg, SamplingConfig
from vdd.contrast import contrast
from vdd.data import load_questions, read_records
from vdd.distributions import reference_row
from vdd.records import Answer, Question, QuestionId
from vdd.scoring.expected import expected_figures
from vdd.scoring.pope import predictions
from vdd.scoring.score import Difference, paired_bootstrap
from vdd.split import split_by_image

Array = NDArray[np.float64]

TEMPERATURES = tuple(round(0.05 * step, 2) for step in range(1, 21))
TOP_PS = tuple(round(0.05 * step, 2) for step in range(21))
TOP_KS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
ONE_TOKEN = 1e-6
"""What top-p 0 stands for: the most probable token alone."""

UNDECIDED = 0.01
"""Above this mean probability of first tokens that belong to no label, answers must be generated (design of the paper's
search, vdd's own threshold)."""

_BLOCK = 4_000_000  # scores that are held at once


def configurations(max_new_tokens: int = 1) -> list[SamplingConfig]:
    """Greedy, then the paper's fifty, each once: T = 1 and top-p 1 are the same."""
    hot = SamplingConfig(temperature=1.0, max_new_tokens=max_new_tokens)
    found = [SamplingConfig(max_new_tokens=max_new_tokens), hot]
    found += [SamplingConfig(temperature=t, max_new_tokens=max_new_tokens) for t in TEMPERATURES]
    found += [SamplingConfig(1.0, top_p=max(p, ONE_TOKEN), max_new_tokens=max_new_tokens) for p in TOP_PS]
    found += [SamplingConfig(1.0, top_k=k, max_new_tokens=max_new_tokens) for k in TOP_KS]
    return list(dict.fromkeys(found))


def candidates(
    references: Sequence[str], alphas: Sequence[float], betas: Sequence[float], samplings: Sequence[SamplingConfig]
) -> list[Leg]:
    """Plain, cut off alone, and debiased decoding in each configuration; the simplest first, which wins a tie."""
    kinds: list[DebiasConfig | None] = [None, *(DebiasConfig(alpha=0.0, beta=beta) for beta in betas if beta > 0)]
    kinds += [
        DebiasConfig(reference=reference, alpha=alpha, beta=beta)
        for reference, alpha, beta in itertools.product(references, alphas, betas)
        if alpha > 0
    ]
    return [
        Leg(f"{_kind(kind)}@{_way(sampling)}", kind, sampling)
        for kind in dict.fromkeys(kinds)
        for sampling in samplings
        if not (kind is not None and kind.is_cutoff_only and sampling.temperature == 0)  # greedy's own answers
    ]


def few(legs: Sequence[Leg], max_new_tokens: int) -> list[Leg]:
    """Of `candidates` those that are worth generating: every configuration plain, and every contrast greedily.

    Args:
        legs: from `candidates`.
        max_new_tokens: of the answers.
    """
    return [
        replace(leg, sampling=replace(leg.sampling, max_new_tokens=max_new_tokens))
        for leg in legs
        if leg.debias is None or leg.sampling.temperature == 0
    ]


@dataclass(frozen=True)
class Stored:
    """What a run left of the questions that have an answer.

    Attributes:
        questions: (n) in the run's order.
        rows: condition → (n, vocab) log-probabilities of the first token; `none` and `unk` by `index`.
        index: condition → (n,) which of its rows is a question's; only for those without the image.
        owner: (vocab,) the label that a token alone stands for, −1 where it stands for none.
        labels: their names.
    """

    questions: Sequence[Question]
    rows: dict[str, Tensor]
    index: dict[str, Tensor]
    owner: Tensor
    labels: tuple[str, ...]

    def of(self, condition: str, part: slice) -> Tensor:
        """(questions of `part`, vocab) log-probabilities."""
        return self.rows[condition][self.index[condition][part] if condition in self.index else part]

    @property
    def references(self) -> list[str]:
        """The references that follow from what is stored."""
        known: list[str] = [name for name in ("none", "unk") if name in self.rows]
        return [*known, "both"] if len(known) == 2 else known

    @property
    def undecided(self) -> float:
        """Mean probability of first tokens that stand for no label, given the image."""
        return float(1 - self.label_mass(IMAGE).sum(axis=1).mean())

    def label_mass(self, condition: str) -> Array:
        """(n, labels) probability of each label as the first token, given the image or by a reference's part."""
        found = np.zeros((len(self.questions), len(self.labels)))
        for part in _parts(len(self.questions), len(self.owner)):
            row = self.of(condition, part).double().exp()
            found[part] = torch.stack([row[:, self.owner == label].sum(-1) for label in range(len(self.labels))], -1)
        return found


def load_stored(out: Path) -> Stored:
    """The rows of a finished run with one-token labels.

    Raises:
        UserError: where the run is not whole, or a label has no token of its own.
    """
    if not (out / "timings.jsonl").is_file():
        raise UserError(f"{out}: is no finished run; wanted the folder of one.")
    if not (out / "rows.safetensors").is_file():
        raise UserError(f"{out}: has no first-token rows: no image could be read, or the answers have no labels.")
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    labels: dict[str, list[list[int]]] = record["labels"]
    if any(len(form) != 1 for own in labels.values() for form in own):
        raise UserError(
            f"{out}: the labels {', '.join(labels)} take several tokens of this model, so that the first one "
            "does not decide; wanted labels of one token each."
        )
    tensors = load_file(out / "rows.safetensors")
    owner = torch.full((tensors[IMAGE].shape[1],), -1)
    for label, own in enumerate(labels.values()):
        owner[torch.tensor(own)[:, 0]] = label
    answered = {
        answer["question_id"]
        for _, answer in read_records(out / "answers" / f"{record['legs'][0]['name']}.jsonl")
        if "error" not in answer
    }
    asked = [q for q in load_questions(out / "questions.jsonl") if q.question_id in answered]
    index = {name[: -len("_index")]: own for name, own in tensors.items() if name.endswith("_index")}
    rows = {name: own for name, own in tensors.items() if not name.endswith("_index")}
    return Stored(asked, rows, index, owner, tuple(labels))


def load_margins(out: Path, leg: Leg) -> dict[QuestionId, float]:
    """question_id → log-odds of the first label against the second, of the questions that have an answer."""
    return {answer.question_id: answer.margin for answer in _answers(out, leg) if answer.margin is not None}


def chances(stored: Stored, legs: Sequence[Leg], *, progress: Callable[[int, int], None] | None = None) -> Array:
    """(legs, n, labels) how probable each label is as the answer, by arithmetic on the stored rows.

    Args:
        stored: from `load_stored`.
        legs: of constant strength, of references that are stored.
        progress: called with (legs done, legs in all).
    """
    found = np.zeros((len(legs), len(stored.questions), len(stored.labels)))
    done = 0
    for debias, group in itertools.groupby(enumerate(legs), key=lambda pair: pair[1].debias):
        numbered = list(group)
        for part in _parts(len(stored.questions), len(stored.owner)):
            scores, owner = _ranked(stored, debias, part)
            for number, leg in numbered:
                found[number, part] = _shares(scores, owner, leg.sampling, len(stored.labels)).numpy()
        done += len(numbered)
        if progress is not None:
            progress(done, len(legs))
    return found


def said_chances(out: Path, legs: Sequence[Leg], questions: Sequence[Question], *, parser: str = "official") -> Array:
    """(legs, n, 2) the same of generated answers: 1 for the label that was said."""
    found = np.zeros((len(legs), len(questions), 2))
    for number, leg in enumerate(legs):
        answers = {a.question_id: a for a in _answers(out, leg)}
        texts = [answers[question.question_id].text for question in questions]
        for place, label in enumerate(predictions(questions, texts, parser=parser)):
            if label in ("yes", "no"):
                found[number, place, ("yes", "no").index(label)] = 1
    return found


def rightness(questions: Sequence[Question], found: Array) -> Array:
    """(…, n) how probable the right answer is, from (…, n, 2) chances of yes and no."""
    positive = np.array([question.label == "yes" for question in questions])
    return np.where(positive, found[..., 0], found[..., 1])


def on_dev(questions: Sequence[Question], share: float, *, seed: int) -> NDArray[np.bool_]:
    """(n,) whether each question is about a dev image; see `vdd.split`."""
    seen = {question.question_id for question in split_by_image(questions, share, seed=seed)[0]}
    return np.array([question.question_id in seen for question in questions])


@dataclass(frozen=True)
class Choice:
    """What was chosen on one draw of dev images, and what it is worth on the others.

    Attributes:
        leg: the most accurate on dev; of equals the first.
        dev: its expected accuracy on dev.
        test: its figures on the test questions; see `vdd.scoring.expected`.
        plain: those of plain greedy decoding.
        gain: test accuracy above plain greedy, and its 95 % interval, clustered by image.
        best_on_test: the highest accuracy that any candidate has on the test questions: what choosing there would show.
    """

    leg: Leg
    dev: float
    test: dict[str, float]
    plain: dict[str, float]
    gain: Difference
    best_on_test: float


def choose(
    questions: Sequence[Question], legs: Sequence[Leg], found: Array, *, share: float = 0.3, seed: int = 0
) -> Choice:
    """Choose on a share of the images, score on the others.

    Args:
        questions: (n) with labels yes or no.
        legs: candidates; the first is plain greedy decoding.
        found: (legs, n, 2) from `chances` or `said_chances`.
        share: of the images that the choice may see.
        seed: of which images those are.
    """
    dev = on_dev(questions, share, seed=seed)
    positive = np.array([question.label == "yes" for question in questions])
    right = rightness(questions, found)
    best = int(right[:, dev].mean(axis=1).argmax())
    images = [question.image for question, own in zip(questions, dev, strict=True) if not own]
    test = ~dev
    rng = np.random.default_rng(seed)
    return Choice(
        legs[best],
        float(right[best, dev].mean()),
        expected_figures(found[best][test], positive[test], rng=rng),
        expected_figures(found[0][test], positive[test], rng=rng),
        paired_bootstrap(right[0, test], right[best, test], images, rng=rng),
        float(right[:, test].mean(axis=1).max()),
    )


def _parts(count: int, vocabulary: int) -> Iterator[slice]:
    step = max(_BLOCK // vocabulary, 1)
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _ranked(stored: Stored, debias: DebiasConfig | None, part: slice) -> tuple[Tensor, Tensor]:
    """Scores of the tokens that are left, the highest first, (rows, k), and whose label each is."""
    seen = stored.of(IMAGE, part).double()
    if debias is not None:
        blind = seen
        if not debias.is_cutoff_only:
            blind = reference_row({name: stored.of(name, part).double() for name in stored.index}, debias.reference)
        seen = contrast(seen, blind, alpha=debias.alpha, beta=debias.beta)
    most = int(torch.isfinite(seen).sum(dim=-1).max())
    ranked = seen.topk(most, dim=-1)
    return ranked.values, stored.owner[ranked.indices]


def _shares(scores: Tensor, owner: Tensor, sampling: SamplingConfig, labels: int) -> Tensor:
    """(rows, labels) mass of each label under one configuration, in transformers' order: T, top-k, top-p."""
    if sampling.temperature == 0:
        return torch.stack([(owner[:, 0] == label).double() for label in range(labels)], dim=-1)
    kept = scores if not sampling.top_k else scores[:, : sampling.top_k]
    weights = torch.softmax(kept / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        before = weights.cumsum(dim=-1) - weights
        weights = torch.where(before < sampling.top_p, weights, 0.0)
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return torch.stack([(weights * (owner[:, : weights.shape[1]] == label)).sum(-1) for label in range(labels)], dim=-1)


def _answers(out: Path, leg: Leg) -> list[Answer]:
    """A leg's answers in the order of the run's questions."""
    return [Answer.from_json(record) for _, record in read_records(out / "answers" / f"{leg.name}.jsonl")]


def _kind(debias: DebiasConfig | None) -> str:
    if debias is None:
        return "plain"
    if debias.is_cutoff_only:
        return f"cutoff-b{debias.beta:g}"
    return f"vdd-{debias.reference}-a{debias.alpha:g}-b{debias.beta:g}"


def _way(sampling: SamplingConfig) -> str:
    if sampling.temperature == 0:
        return "greedy"
    if sampling.top_k:
        return f"k={sampling.top_k}"
    if sampling.top_p < 1:
        return f"p={0 if sampling.top_p == ONE_TOKEN else sampling.top_p:g}"
    return f"T={sampling.temperature:g}"
