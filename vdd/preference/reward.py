"""How much an answer owes to the image, as a reward.

    r(y) = Σ_t [log p(y_t | image, y_<t) − log p(y_t | no image, y_<t)] + λ Σ_t log p(y_t | image, y_<t)

The sum, or the mean over tokens; the end token counts as one. The first part measures dependence on the image, not
truth: an unlikely answer that would be still less likely without the image gets a high one. The floor λ pays for that.
λ = 1/α makes r the score that VDD's contrast with strength α decodes by, over α (before its cut-off).

Source: this project's design; the two sides are those of arXiv:2403.05262. Scores far below their maximum are raised
as in the contrast. Knows: a model and its processor. Does not know: training loops, files.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

from vdd._check import UserError, choice, real, whole
from vdd.batch import batch_of
from vdd.branch import Branch
from vdd.config import REFERENCES
from vdd.families import tokenizer_of, unwrapped
from vdd.images import Picture, as_picture
from vdd.pipeline import Pipeline
from vdd.preference.lent import resting
from vdd.processor import VDDLogitsProcessor
from vdd.reference import blind_prompts
from vdd.reliance import log_p

Over = Literal["sum", "mean"]
Answered = str | Sequence[int]
"""An answer's text, or its tokens as a model wrote them."""

DEFAULT_FLOOR = 1.0
"""VDD's own score at its default α = 1.

On the embedded world's dev scenes, the best of 8 samples has CHAIRs and adversarial accuracy, in %, of: first sample
21.0 and 80.3; by the sum, λ = 0 30.0 and 83.8, λ = 0.25 20.0 and 83.3, λ = 1 6.0 and 81.3, λ = 4 4.0 and 79.8; by the
mean, λ = 0 3.0 and 83.8, λ = 1 3.0 and 81.3. Without a floor the sum is worse on captions than no choice at all: one
more sentence, though wrong, adds dependence on the image. The mean needs no floor there."""
DEFAULT_TIE = 0.1
"""Nats: answers whose rewards are nearer are told apart by rounding and wording rather than by the image."""


@dataclass(frozen=True)
class Grounds:
    """What both sides said of one answer.

    Attributes:
        seen: Σ_t log p(y_t | image, y_<t), in nats.
        blind: Σ_t log p(y_t | reference, y_<t).
        tokens: how many tokens, the end token among them.
    """

    seen: float
    blind: float
    tokens: int


class GroundingReward:
    """The grounding reward of a frozen model; a reward function for TRL's GRPOTrainer and RLOOTrainer as it is.

    Args:
        model: of one of `vdd.families.ADAPTERS`; not the one that is trained but a copy (`copy.deepcopy(model)`), or
            that one's PEFT wrapper, whose adapters are then left out.
        processor: its processor.
        reference: what is shown in the image's place; one of `vdd.config.REFERENCES`.
        over: "sum" over an answer's tokens, which favours long answers that the image supports, or their "mean".
        floor: λ ≥ 0, what log p(y | image) counts.
        tie: nats; rewards that differ by no more are equal, see `prefers`.
        batch_size: answers that are read together.

    Raises:
        UserError: on a family that is not known, or a setting out of range.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        reference: str = "none",
        over: Over = "sum",
        floor: float = DEFAULT_FLOOR,
        tie: float = DEFAULT_TIE,
        batch_size: int = 16,
    ) -> None:
        who = "GroundingReward"
        choice(who, "reference", reference, REFERENCES)
        choice(who, "over", over, get_args(Over))
        self.over, self.floor, self.tie = over, real(who, "floor", floor, low=0.0), real(who, "tie", tie, low=0.0)
        self.batch_size = whole(who, "batch_size", batch_size, low=1)
        self.pipeline = Pipeline(unwrapped(model), processor, reference=reference)
        self.__name__ = "grounding_reward"
        self._given, self._weights = model, _writes(model)

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], completion_ids: Any = None, **columns: Any
    ) -> list[float]:
        """The rewards of a batch, as TRL asks for them.

        Args:
            prompts: conversations of one user turn; its images in it, or in the columns `images` or `image`.
            completions: texts, or conversations of one assistant turn.
            completion_ids: the completions' tokens, which are taken as they are where they came.
            columns: the other columns of the data, and what TRL adds.

        Raises:
            UserError: as `score`; on a prompt of several turns.
        """
        beside = columns.get("images") or columns.get("image") or [None] * len(prompts)
        asked = [_question(turns, given) for turns, given in zip(prompts, beside, strict=True)]
        answers = completions if completion_ids is None else completion_ids
        read = [one if isinstance(one, str) or not _is_turns(one) else _text(one[-1]["content"]) for one in answers]
        return self.score([images for images, _ in asked], [question for _, question in asked], read)

    def score(
        self, images: Sequence[Picture | Sequence[Picture]], prompts: Sequence[str], answers: Sequence[Answered]
    ) -> list[float]:
        """The reward of each answer, in nats (per token where `over` is "mean").

        Args:
            images: one, or a list, for each answer.
            prompts: questions, without image placeholders.
            answers: texts, which end with the model's end token; or tokens, which are taken as they are.

        Raises:
            UserError: on unequal lengths, a question without an image, a text with an image's token, no token or one
                that is not known, or where the model's weights changed after this was made.
        """
        return [self.value(one) for one in self.grounds(images, prompts, answers)]

    def value(self, grounds: Grounds) -> float:
        """The reward by what both sides said."""
        total = (1 + self.floor) * grounds.seen - grounds.blind
        return total / grounds.tokens if self.over == "mean" else total

    def prefers(self, one: float, other: float) -> bool:
        """Whether the first reward is above the second by more than a tie."""
        return one - other > self.tie

    def grounds(
        self, images: Sequence[Picture | Sequence[Picture]], prompts: Sequence[str], answers: Sequence[Answered]
    ) -> list[Grounds]:
        """What both sides say of each answer; arguments and errors as of `score`."""
        if not len(images) == len(prompts) == len(answers):
            raise UserError(
                f"GroundingReward: {len(images)} images, {len(prompts)} prompts, {len(answers)} answers came; wanted "
                "one of each a row."
            )
        if _writes(self._given) != self._weights:
            raise UserError(
                "GroundingReward: the model's weights changed after the reward was made of it; wanted a frozen model: "
                "GroundingReward(copy.deepcopy(model), …), made before training."
            )
        own: list[list[Any]] = [list(one) if isinstance(one, (list, tuple)) else [one] for one in images]
        if not all(own):
            place = own.index([])
            raise UserError(
                f"GroundingReward: row {place} ({prompts[place]!r}) has no image; wanted one or more in each, as the "
                "reward compares an answer with and without them."
            )
        rows = [self._tokens(answer) for answer in answers]
        found: list[Grounds] = []
        for start in range(0, len(rows), self.batch_size):
            part = slice(start, start + self.batch_size)
            with _at_rest(self._given):
                found += self._read(own[part], prompts[part], rows[part])
        return found

    def _read(
        self, images: Sequence[list[Picture]], prompts: Sequence[str], answers: Sequence[list[int]]
    ) -> list[Grounds]:
        pipe = self.pipeline
        keys = [(*map(_identity, own), question) for own, question in zip(images, prompts, strict=True)]
        places = {key: keys.index(key) for key in keys}  # equal questions are read once
        pictures = [[as_picture(one) for one in images[place]] for place in places.values()]
        inputs = pipe.inputs(pictures, [prompts[place] for place in places.values()])
        number = {key: count for count, key in enumerate(places)}
        owners = [number[key] for key in keys]
        width = max(map(len, answers))
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in answers], device=pipe.device)
        real_ones = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in answers], device=pipe.device)
        prefill = pipe.prefill(inputs)
        first = prefill.prompt.input_ids if pipe.family.encoder_decoder else None
        batch = batch_of(
            inputs["input_ids"] if first is None else first, pipe.family, processor=pipe.processor, inputs=inputs
        )
        blind = blind_prompts(batch, pipe.debias, pipe.family, processor=pipe.processor, decoder_ids=first)
        before = tokens[:, :-1]
        side = prefill.seen(pipe.reader)
        seen = side.branch.scores(side.prompt.select(owners), before, width)
        said = VDDLogitsProcessor.mean([Branch(pipe.reader).scores(one.select(owners), before, width) for one in blind])
        given, free = ((log_p(scores, tokens) * real_ones).sum(-1).tolist() for scores in (seen, said))
        return [Grounds(one, other, len(row)) for one, other, row in zip(given, free, answers, strict=True)]

    def _tokens(self, answer: Answered) -> list[int]:
        tokenizer, family = tokenizer_of(self.pipeline.processor), self.pipeline.family
        known = getattr(self.pipeline.model.get_input_embeddings(), "num_embeddings", math.inf)
        if isinstance(answer, str):
            ids = [*tokenizer(answer, add_special_tokens=False).input_ids, self._end]
            wrong = "holds an image's token" if (family.image_ids | family.frame_ids).intersection(ids) else ""
        else:  # what a policy wrote is scored whatever it is
            ids = [] if answer is None else [int(token) for token in answer]
            wrong = "is empty" if not ids else "" if 0 <= min(ids) <= max(ids) < known else "holds an unknown token"
        if wrong:
            raise UserError(f"GroundingReward: an answer {wrong} ({answer!r}); wanted text, or the tokens of one.")
        return ids

    @property
    def _end(self) -> int:
        """The token that ends an answer: the tokenizer's, where generation ends there."""
        own = tokenizer_of(self.pipeline.processor).eos_token_id
        ends = getattr(self.pipeline.model.generation_config, "eos_token_id", None)
        known = [ends] if isinstance(ends, int) else list(ends or [])
        return int(own if own in known or not known else known[0])


def _identity(image: Picture) -> object:
    return image if isinstance(image, (str, bytes)) else id(image)


def _writes(model: Any) -> tuple[int, int]:
    """How many weights there are and how often they were written to; of a PEFT model, those that it leaves alone."""
    wrapped = hasattr(model, "disable_adapter")
    watched = [weight for weight in model.parameters() if not (wrapped and weight.requires_grad)]
    return len(watched), sum(weight._version for weight in watched)


@contextmanager
def _at_rest(model: Any) -> Iterator[None]:
    """The model without dropout and adapters inside; as it was after."""
    with resting(model), getattr(model, "disable_adapter", nullcontext)():
        yield


def _is_turns(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and bool(value) and isinstance(value[0], dict)


def _question(turns: Any, beside: Any) -> tuple[list[Picture], str]:
    """The images and the text of one conversation, of a user's one turn."""
    own = [] if beside is None else list(beside) if isinstance(beside, (list, tuple)) else [beside]
    if isinstance(turns, str):
        return own, turns
    roles = [turn["role"] for turn in turns]
    if roles != ["user"]:
        raise UserError(
            f"GroundingReward: a prompt has the turns {', '.join(roles)}; wanted one of the user, as the image-free "
            "side is rendered from that."
        )
    content = turns[0]["content"]
    parts = content if isinstance(content, list) else []
    inside = [part["image"] for part in parts if part["type"] == "image" and part.get("image") is not None]
    return inside or own, _text(content)


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")
