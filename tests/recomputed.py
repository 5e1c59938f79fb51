"""One batch of a family of the zoo, decoded beside a from-scratch recompute of its image-free scores.

Knows: `generate` and whom it leaves out. Of the project it imports what tests.oracles.families does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import pytest
import torch
from transformers import GenerationMixin

import vdd
from tests.oracles.families import Recompute, blind_rows
from tests.zoo import MEMBERS, Member, picture

STEPS = 6
QUESTIONS = ("is it red ?", "what color is the dog in the image ?")
STRONG = {"alpha": 2.0, "beta": 0.02}  # plain decoding gives other tokens
_KNOWN: dict[Any, dict[Any, Any]] = {}  # what was computed for one text is looked up by later tests
NAMED = {member.name: member for member in MEMBERS}


@lru_cache(maxsize=3)
def built(name: str) -> tuple[Any, Any]:
    member = NAMED[name]
    if not member.available:
        pytest.skip(f"this version of transformers has no {member.model_class}")
    return member.build()


@dataclass
class Case:
    """A family's model and one batch for it.

    Attributes:
        name: of the family in the zoo.
        questions: one for each row.
        counts: images of each row.
        first: number of the first picture.
        model: where it is not the zoo's own (quantised, wrapped, …).
    """

    name: str
    questions: Sequence[str] = QUESTIONS
    counts: Sequence[int] = ()
    first: int = 0
    model: Any = None
    dtype: torch.dtype = torch.float64
    known: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        model, self.processor = built(self.name)
        if self.model is None:
            asked = (self.name, tuple(self.questions), tuple(self.counts), self.first)
            self.model, self.known = model, _KNOWN.setdefault(asked, self.known)

    @property
    def member(self) -> Member:
        return NAMED[self.name]

    @cached_property
    def shown(self) -> list[list[Any]]:
        counts = self.counts or [1] * len(self.questions)
        starts = [self.first + sum(counts[:row]) for row in range(len(counts))]
        return [[picture(start + n) for n in range(count)] for start, count in zip(starts, counts, strict=True)]

    @cached_property
    def inputs(self) -> dict[str, Any]:
        made = self.member.inputs(self.processor, list(self.questions), self.shown)
        return {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in made.items()}

    @property
    def width(self) -> int:
        """Columns of the prompt as processors see it: an encoder-decoder's begins with one start token."""
        text = self.model.config.get_text_config()
        return (
            1 if self.model.config.is_encoder_decoder or text.is_encoder_decoder else self.inputs["input_ids"].shape[1]
        )

    def oracle(self, reference: str = "none", width: int | None = None, **options: Any) -> Recompute:
        """What is computed anew for each row's text; a text that was asked for before is looked up."""
        rows = blind_rows(self.member, self.model, self.processor, self.questions, self.shown, reference)
        kept = [None if row is None else self._kept(row, (reference, n)) for n, row in enumerate(rows)]
        return Recompute(kept, self.width if width is None else width, **(options or STRONG))

    def _kept(self, row: Any, key: Any) -> Any:
        def scores(tokens: list[int]) -> Any:
            text = (*key, *tokens)
            if text not in self.known:
                self.known[text] = row(tokens)
            return self.known[text]

        return scores

    def plain(self, plugins: Sequence[Any] = (), *, seed: int = 0, **settings: Any) -> Any:
        """transformers' own `generate` with these processors."""
        call = GenerationMixin.generate if self.model.config.model_type == "janus" else type(self.model).generate
        return seeded(call, seed, self.model, logits_processor=list(plugins), **self.call(settings))

    def debiased(self, *, seed: int = 0, **settings: Any) -> Any:
        """`vdd.generate`, by default as strong as the oracle."""
        return seeded(vdd.generate, seed, self.model, self.processor, **{**STRONG, **self.call(settings)})

    def text_only(self) -> dict[str, Any]:
        """What `generate` takes for a question without an image."""
        ids = torch.tensor([self.member.blind_ids(self.processor, "is it blue ?")])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": STEPS}

    def call(self, settings: dict[str, Any]) -> dict[str, Any]:
        return {**self.inputs, "max_new_tokens": STEPS, **settings}

    def new(self, out: Any) -> list[list[int]]:
        """The new tokens of each row."""
        ids = getattr(out, "sequences", out)
        prompt = self.inputs["input_ids"]
        width, repeats = prompt.shape[1], len(ids) // len(prompt)
        begins = ids.shape[1] > width and torch.equal(ids[::repeats, :width], prompt)
        return ids[:, width if begins else 0 :].tolist()


def seeded(call: Any, seed: int, *args: Any, **kwargs: Any) -> Any:
    """`call` with torch's random state set, and put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return call(*args, **kwargs)
