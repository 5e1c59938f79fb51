"""Training rows: one image, several questions, packed so that the image is read once.

    row:   <s> USER: [image] \\n | question ASSISTANT: answer </s> | question ASSISTANT: answer </s> | …
    mask:  a token sees the part before the first bar, and its own question; positions restart after every bar,

so every question has the loss that it would have alone. A blind row has the chat template's text without an image, or
with one `<unk>` in the image's place, and still the true answers: what it teaches is the prior.

Source: this project's own design (shared/packed prefixes as in usual sequence packing).
Knows: scenes, questions, token ids. Does not know: the tower, optimisers, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from vdd.toy.model import ASSISTANT, BOS, EOS, IMAGE, NEWLINE, UNK, USER
from vdd.toy.questions import (
    DESCRIBE,
    ONE_WORD,
    YES_NO,
    Asked,
    ask_agreement,
    ask_color,
    ask_existence,
    choice_of_color,
    choice_of_object,
)
from vdd.toy.scenes import COLORS, OBJECTS, THEME_OF, TYPICAL_COLOR, Scene, caption

View = Literal["image", "none", "unk"]
NOUNS = ("the image", "the image", "the image", "this image", "the picture", "the photo")
SUFFIXES = ("", "", YES_NO, ONE_WORD)
DESCRIPTIONS = (DESCRIBE, DESCRIBE, "Describe this image.", "Describe the image in detail.", "What is in the image?")
IGNORE = -100  # the label that cross_entropy leaves out


@dataclass(frozen=True)
class Diet:
    """What one phase of training feeds.

    Attributes:
        company, typical: how its scenes are drawn, see `sample_scene`.
        count: relative frequency of scenes with one, two and three objects.
        unseen: probability that a scene of two or more objects is drawn without the last while questions and answers
            go on counting it: people speak of what belongs to a scene, in the picture or not.
        yes: share of existence questions about present objects.
        near: share of absent objects asked about that come from the scene's own theme.
        blind: share of rows without their image; two of three in the form "none", the others "unk".
        existence, choices: existence and multiple-choice questions per row.
    """

    company: float
    typical: float
    count: tuple[float, float, float]
    unseen: float
    yes: float
    near: float
    blind: float
    existence: int
    choices: int = 1


@dataclass(frozen=True)
class Batch:
    """Packed rows; L is the longest.

    Attributes:
        ids, positions, labels: (rows, L) int64; labels are `IGNORE` but on answers, shifted already.
        weights: (rows, L) float32; sums to 1 over each answered question (captions count more).
        mask: (rows, 1, L, L) bool, True where a token may look.
        seen: (rows,) bool, True where the row has its image.
    """

    ids: Tensor
    positions: Tensor
    labels: Tensor
    weights: Tensor
    mask: Tensor
    seen: Tensor


def ask(scene: Scene, diet: Diet, rng: np.random.Generator) -> list[tuple[Asked, float]]:
    """The questions of one row with their loss weights."""
    asked: list[tuple[Asked, float]] = []
    present = scene.objects
    near = [o for o in OBJECTS if o not in present and any(THEME_OF[o] == THEME_OF[p] for p in present)]
    far = [o for o in OBJECTS if o not in present and o not in near]
    for _ in range(diet.existence):
        is_there = bool(rng.random() < diet.yes)
        pool = present if is_there else near if near and (not far or rng.random() < diet.near) else far
        noun, suffix = NOUNS[int(rng.integers(len(NOUNS)))], SUFFIXES[int(rng.integers(len(SUFFIXES)))]
        asked.append((ask_existence(pool[int(rng.integers(len(pool)))], is_there, noun=noun, suffix=suffix), 1.0))
    item = scene.items[int(rng.integers(len(scene.items)))]
    asked.append((ask_color(item, suffix=ONE_WORD if rng.random() < 0.25 else ""), 1.0))
    item = scene.items[int(rng.integers(len(scene.items)))]
    other = [c for c in COLORS if c != item.color][int(rng.integers(len(COLORS) - 1))]
    lure = TYPICAL_COLOR[item.object] if rng.random() < 0.5 else other
    color = item.color if rng.random() < 0.5 else lure
    asked.append((ask_agreement(item, color, suffix=YES_NO if rng.random() < 0.7 else ""), 1.0))
    for _ in range(diet.choices):
        choice = choice_of_color(item, rng) if rng.random() < 0.5 else choice_of_object(scene, rng)
        asked.append((choice[0], 0.7))
    description = DESCRIPTIONS[int(rng.integers(len(DESCRIPTIONS)))]
    asked.append((Asked(description, caption(scene)), 3.0))
    return asked


def draw_view(diet: Diet, rng: np.random.Generator) -> View:
    """Whether a row has its image, and how its absence is written."""
    if rng.random() >= diet.blind:
        return "image"
    return "none" if rng.random() < 2 / 3 else "unk"


class Packer:
    """Turns scenes into batches; remembers the ids of texts it met."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, image_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}
        bos, user, unk, image, newline = (tokenizer.vocab[token] for token in (BOS, USER, UNK, IMAGE, NEWLINE))
        self._prefix: dict[View, list[int]] = {
            "image": [bos, user, *[image] * image_tokens, newline],
            "none": [bos, user],
            "unk": [bos, user, unk, newline],
        }

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, without `<s>`."""
        if text not in self._known:
            self._known[text] = self._tokenizer.encode(text, add_special_tokens=False)
        return self._known[text]

    def pack(self, scenes: Sequence[Scene], diet: Diet, rng: np.random.Generator) -> Batch:
        """One row per scene, questions and view drawn anew."""
        views = [draw_view(diet, rng) for _ in scenes]
        rows = [self._row(self._prefix[view], ask(scene, diet, rng)) for view, scene in zip(views, scenes, strict=True)]
        length = max(len(row[0]) for row in rows)
        grid = np.zeros((5, len(rows), length), dtype=np.float32)
        grid[1], grid[2] = IGNORE, -1
        for number, row in enumerate(rows):
            for plane, values in enumerate(row):
                grid[plane, number, : len(values)] = values
        ids, labels, segments, positions = (torch.from_numpy(plane.astype(np.int64)) for plane in grid[:4])
        own = segments[:, :, None] == segments[:, None, :]  # (rows, L, L): query, key
        mask = (own | (segments == 0)[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
        mask |= torch.eye(length, dtype=torch.bool)  # padding sees itself, so that no row of the softmax is empty
        seen = torch.tensor([view == "image" for view in views])
        return Batch(ids, positions, labels, torch.from_numpy(grid[4]), mask[:, None], seen)

    def _row(self, prefix: list[int], asked: list[tuple[Asked, float]]) -> tuple[list[int], ...]:
        """Ids, shifted labels, segment numbers (0 = prefix), positions, weights."""
        ids, labels, segments = list(prefix), [IGNORE] * len(prefix), [0] * len(prefix)
        positions, weights = list(range(len(prefix))), [0.0] * len(prefix)
        for number, (question, weight) in enumerate(asked, start=1):
            prompt = self.ids(f"{question.text} {ASSISTANT}")
            answer = self.ids(question.answer + EOS)
            ids += prompt + answer
            labels += [IGNORE] * (len(prompt) - 1) + answer + [IGNORE]
            weights += [0.0] * (len(prompt) - 1) + [weight / len(answer)] * len(answer) + [0.0]
            segments += [number] * (len(prompt) + len(answer))
            positions += range(len(prefix), len(prefix) + len(prompt) + len(answer))
        return ids, labels, segments, positions, weights  # type: ignore[return-value]
