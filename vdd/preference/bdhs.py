"""Rejected answers from a model's own bias: a good answer rewritten, sentence by sentence, with the image hidden.

    for i in 1 … N:
        hide each image token with probability ρ
        if i = N > 1:  y⁻ = what the model says under the mask, accepted as it is
        for each sentence s of y⁺, all at once, the true text always before it:
            a yes or no at its start is turned round with probability ½
            head = s up to a random word;   tail = the model, under the mask, until the sentence or the text ends
        if similarity(y⁻, y⁺) < ε:  y⁻ = all heads and tails

Source: arXiv:2407.02477, §3.4. Variants: `noise` shows a noised image instead of a hidden one (VCD's, 500 steps);
`unguided` lets the model answer freely under the mask in every iteration.
Knows: rows and pairs, one batch at a time. Does not know: files, training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from PIL import Image

from vdd._check import UserError, choice, real, whole
from vdd.batch import batch_of
from vdd.generation import ends_of
from vdd.images import as_picture
from vdd.pipeline import Pipeline
from vdd.placeholders import Row as Tokens
from vdd.preference.hiding import EncodedOnce, check_hides, hidden_prompt, image_tokens, noised_prompt
from vdd.preference.lent import resting
from vdd.preference.pairs import VARIANTS, Pair, Refused, Row, Variant
from vdd.preference.sentences import same, swapped
from vdd.preference.similarity import Similarity, fallback
from vdd.preference.wording import Sentence, Worded, Wording
from vdd.preference.writer import Place, TooLong, write_tails

SWAP = 0.5
"""How often a yes or no at the start of a sentence is turned round."""


@dataclass
class _Job:
    """One row while its rejected answer is sought."""

    row: Row
    images: list[Image.Image]
    worded: Worded
    seed: int
    number: int
    rejected: str = ""


@dataclass
class _Sentence:
    """A sentence as it is rewritten: its text up to the head's end, and where the tail is written."""

    place: Place | None
    head: str
    lead: str
    trail: str
    known: Tokens = field(default_factory=list)


class BDHS:
    """Samples rejected answers for rows of images, a question and a good answer: bias-driven hallucination sampling.

    Args:
        model: a vision-language model of one of `vdd.families.ADAPTERS` whose images can be hidden; left as it is.
        processor: its processor.
        rho: probability with which an image token is hidden, in [0, 1].
        epsilon: a rejected answer must be less similar than this to the good one; None for the measure's own
            (0.97 for an embedder, as in the paper).
        iterations: N, tries at most; the last of several is what the model says freely.
        variant: "attention", "noise" or "unguided".
        embedder: the similarity measure, such as `vdd.preference.Embedder("all-mpnet-base-v2")`; without one the
            words that answers share, see `vdd.preference.similarity.fallback`.
        temperature: of the tails; 0 takes the likeliest token.
        top_p: nucleus, in (0, 1].
        max_new_tokens: of one tail.
        batch_size: rows that are read together.
        name: the model's, for the record; its configuration's by default.

    Attributes:
        similar: iteration → (tries, how many were too similar), over all that was sampled; what ρ is tuned by.
        encodes: how often images were encoded, in batches; one a batch where the family allows it.

    Raises:
        UserError: on a family whose images cannot be hidden, or a setting out of range.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        rho: float = 0.99,
        epsilon: float | None = None,
        iterations: int = 5,
        variant: Variant = "attention",
        embedder: Similarity | None = None,
        temperature: float = 1.0,
        top_p: float = 0.95,
        max_new_tokens: int = 64,
        batch_size: int = 16,
        name: str = "",
    ) -> None:
        who = "BDHS"
        self.variant: Variant = variant
        choice(who, "variant", variant, VARIANTS)
        self.rho = real(who, "rho", rho, low=0.0, high=1.0)
        self.iterations = whole(who, "iterations", iterations, low=1)
        self.temperature = real(who, "temperature", temperature, low=0.0)
        self.top_p = real(who, "top_p", top_p, low=1e-6, high=1.0)
        self.max_new_tokens = whole(who, "max_new_tokens", max_new_tokens, low=1)
        self.batch_size = whole(who, "batch_size", batch_size, low=1)
        self.measure: Similarity = embedder if embedder is not None else fallback()
        self.epsilon = self.measure.epsilon if epsilon is None else real(who, "epsilon", epsilon, low=-1.0, high=1.0)
        self.pipeline = Pipeline(model, processor)
        check_hides(self.pipeline.family, variant)
        self.name = name or str(getattr(model.config, "name_or_path", "") or type(model).__name__)
        self.similar: dict[int, tuple[int, int]] = {}
        self.encodes = 0
        family = self.pipeline.family
        self._wording = Wording(processor, family)
        self._ends = sorted(ends_of(model.generation_config) or ends_of(model.config.get_text_config()))
        self._never = sorted(family.image_ids | family.frame_ids)

    def sample(
        self, rows: Sequence[Row], *, generator: torch.Generator | None = None, seeds: Sequence[int] | None = None
    ) -> list[Pair | Refused]:
        """One pair a row, in order; a row that cannot become one says why.

        Args:
            rows: as many as you like; `batch_size` are read together.
            generator: the seeds of rows are drawn from it; a fresh one, seeded 0, by default.
            seeds: each row's own, in 0 … 2⁶³ − 1. All that is random in a row comes from its seed, whatever stands
                beside it in the batch.

        Raises:
            UserError: on a number of seeds that is not that of the rows.
        """
        if seeds is None:
            generator = generator or torch.Generator().manual_seed(0)
            drawn = torch.randint(2**62, (len(rows),), generator=generator, device=generator.device)
            seeds = drawn.tolist()
        if len(seeds) != len(rows):
            raise UserError(f"BDHS: {len(seeds)} seeds came with {len(rows)} rows; wanted one each.")
        for seed in seeds:
            whole("BDHS", "seed", seed, low=0)
        with resting(self.pipeline.model):
            parts = [slice(start, start + self.batch_size) for start in range(0, len(rows), self.batch_size)]
            return [found for part in parts for found in self._batch(rows[part], seeds[part])]

    def _batch(self, rows: Sequence[Row], seeds: Sequence[int]) -> list[Pair | Refused]:
        """Together; where one row is too long for that, each by itself."""
        before = dict(self.similar)
        try:
            return self._together(rows, seeds)
        except TooLong as error:
            self.similar = before
            if len(rows) == 1:
                return [Refused(rows[0].id, str(error))]
            return [self._batch([row], [seed])[0] for row, seed in zip(rows, seeds, strict=True)]

    def _together(self, rows: Sequence[Row], seeds: Sequence[int]) -> list[Pair | Refused]:
        found: dict[int, Pair | Refused] = {}
        jobs: list[tuple[int, _Job]] = []
        for place, (row, seed) in enumerate(zip(rows, seeds, strict=True)):
            try:
                jobs.append((place, self._job(row, seed, len(jobs))))
            except UserError as error:
                found[place] = Refused(row.id, str(error))
        with EncodedOnce(self.pipeline.model, [len(job.images) for _, job in jobs]) as encoded:
            for iteration in range(1, self.iterations + 1):
                open_ = [(place, job) for place, job in jobs if place not in found]
                if not open_:
                    break
                free = self.variant == "unguided" or (iteration == self.iterations > 1)
                self._rewrite([job for _, job in open_], iteration, free=free, encoded=encoded)
                said = [job.rejected for _, job in open_]
                alike = self.measure([job.row.answer for _, job in open_], said)
                taken_as_it_is = iteration == self.iterations > 1
                for (place, job), similarity in zip(open_, alike, strict=True):
                    unusable = not job.rejected.strip() or same(job.rejected, job.row.answer)
                    similar = unusable or similarity >= self.epsilon
                    tries, too_similar = self.similar.get(iteration, (0, 0))
                    self.similar[iteration] = (tries + 1, too_similar + similar)
                    if unusable or (similar and not taken_as_it_is):
                        continue
                    found[place] = self._pair(job, iteration, similarity)
            self.encodes += encoded.encodes
        for place, job in jobs:
            found.setdefault(
                place, Refused(job.row.id, f"too much like the good answer in all {self.iterations} tries")
            )
        return [found[place] for place in range(len(rows))]

    def _job(self, row: Row, seed: int, number: int) -> _Job:
        if not row.images:
            raise UserError("no image; a pair without one teaches nothing about seeing")
        for what, text in (("answer", row.answer), ("prompt", row.prompt)):
            if not isinstance(text, str) or not text.strip():
                raise UserError(f"the {what} is empty; wanted text")
            if text.encode("utf-8", "replace").decode() != text:
                raise UserError(f"the {what} holds half a character (a lone surrogate); wanted text")
        held = self._wording.special(row.answer)
        if held:
            raise UserError(f"the answer holds the special token {held!r}; wanted text")
        images = [as_picture(one) for one in row.images]
        worded = self._wording.of(self.pipeline.prompt(row.prompt, len(images)), row.answer)
        return _Job(row, images, worded, seed, number)

    def _pair(self, job: _Job, iteration: int, similarity: float) -> Pair:
        return Pair(
            id=job.row.id,
            images=job.row.images,
            prompt=job.row.prompt,
            chosen=job.row.answer,
            rejected=job.rejected,
            source=f"bdhs-{self.variant}",
            rho=None if self.variant == "noise" else self.rho,
            iteration=iteration,
            similarity=float(similarity),
            measure=self.measure.name,
            seed=job.seed,
            model=self.name,
        )

    def _rewrite(self, jobs: Sequence[_Job], iteration: int, *, free: bool, encoded: EncodedOnce) -> None:
        """Fill every job's `rejected`."""
        pipeline = self.pipeline
        inputs = pipeline.inputs([job.images for job in jobs], [job.row.prompt for job in jobs])
        batch = batch_of(inputs["input_ids"], pipeline.family, processor=pipeline.processor, inputs=inputs)
        chances = [np.random.default_rng([job.seed, iteration]) for job in jobs]
        if self.variant == "noise":
            prompt = noised_prompt(batch, pipeline.family, pipeline.processor)
        else:
            hidden = image_tokens(batch, pipeline.family, pipeline.processor)
            for row, chance in zip(hidden, chances, strict=True):
                row[row.clone()] = torch.from_numpy(chance.random(int(row.sum())) < self.rho).to(row.device)
            prompt = hidden_prompt(batch, pipeline.family, pipeline.processor, hidden)
        parts = [
            [self._free(number, job, chance)] if free else self._sentences(number, job, chance)
            for number, (job, chance) in enumerate(zip(jobs, chances, strict=True))
        ]
        places = [part.place for row in parts for part in row if part.place is not None]
        encoded.show([job.number for job in jobs])
        if places:
            write_tails(
                pipeline.reader,
                prompt,
                [job.worded.ids for job in jobs],
                places,
                temperature=self.temperature,
                top_p=self.top_p,
                ends=self._ends,
                never=self._never,
            )
        for job, row in zip(jobs, parts, strict=True):
            job.rejected = "".join(map(self._joined, row))

    def _free(self, number: int, job: _Job, chance: np.random.Generator) -> _Sentence:
        longest = max(self.max_new_tokens, 2 * len(job.worded.ids))
        return _Sentence(Place(number, 0, [], torch.from_numpy(chance.random(longest)), _never_stops), "", "", "")

    def _sentences(self, number: int, job: _Job, chance: np.random.Generator) -> list[_Sentence]:
        """Each sentence with its head: a yes or no that was turned round is always in it."""
        prompt = self.pipeline.prompt(job.row.prompt, len(job.images))
        written, found = "", []
        for sentence in job.worded.sentences:
            other = swapped(sentence.text)
            turn, cut = chance.random() < SWAP, chance.random()
            draws = torch.from_numpy(chance.random(self.max_new_tokens))
            before = job.worded.ids[: sentence.start]
            if other is not None and turn:
                head, known = self._turned(prompt, written, other, cut)
                finished = head.strip() == other.strip()
            else:
                letters, tokens = sentence.cuts[int(cut * len(sentence.cuts))]
                head, known = sentence.text[:letters], job.worded.ids[sentence.start : tokens]
                finished = False
            lead, trail = _margins(sentence)
            place = None if finished else Place(number, sentence.start, known, draws, self._wording.closes)
            found.append(_Sentence(place, head.lstrip(), lead, trail, [*before, *known]))
            written += sentence.text
        return found

    def _turned(self, prompt: str, written: str, sentence: str, cut: float) -> tuple[str, Tokens]:
        """The head of a sentence that begins with the other word, and its tokens; all of it where it is that word."""
        words = sentence.split()
        kept = 1 + int(cut * (len(words) - 1))
        if len(words) == 1:
            return sentence.rstrip(), []
        head = sentence
        for word in reversed(words[kept:]):
            head = head[: head.rindex(word)]
        head = head.rstrip()
        return head, self._wording.ids(prompt, written, head)

    def _joined(self, part: _Sentence) -> str:
        tail = self._wording.text(part.known, part.place.tail) if part.place is not None else ""
        return part.lead + (part.head + tail).strip() + part.trail


def _margins(sentence: Sentence) -> tuple[str, str]:
    """The white space before and behind a sentence."""
    text = sentence.text
    return text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]


def _never_stops(tokens: Tokens) -> bool:
    return False
