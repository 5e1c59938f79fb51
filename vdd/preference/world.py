"""The embedded world as preference data: questions with true answers about training scenes, and a control.

    a scene         existence (twice), colour, agreement of colour, caption
    random words    where a pair's rejected answer departs from the chosen one, words of the world drawn at random

Source: this project's own design. The control keeps what a pair changes, and where, but not that it is the model's
bias. Knows: the world's scenes and questions, pairs. Does not know: models, how pairs are sampled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

import numpy as np

from vdd._check import UserError, whole
from vdd.preference.pairs import Pair, Row
from vdd.toy.batches import Diet, ask
from vdd.toy.questions import TRAIN_PAIRS_START
from vdd.toy.scenes import COLORS, OBJECTS, SEEDS, render, scene_at

SCENES_FROM = 8_000_000
"""Where these scenes begin among the training seeds: the shipped model's end below 2 010 000, and the influence data
begin at TRAIN_PAIRS_START."""
SCENES_APART = 10_000
"""Scenes that each seed has to itself."""
DIET = Diet(company=0.9, typical=0.8, count=(1, 1, 1), unseen=0.0, yes=0.5, near=0.7, blind=0.0, existence=2, choices=0)
"""What is asked: as in balanced training, without multiple choice, whose answers are letters. Scenes are the world's
own: four of five objects in their typical colour."""
WORDS: tuple[str, ...] = (*OBJECTS, *COLORS)
_TOKEN = re.compile(r"\w+|[^\w\s]")
_NAMED = frozenset((*WORDS, "yes", "no"))


def rows(scenes: int, *, seed: int = 0) -> list[Row]:
    """Questions about training scenes with their true answers, the questions of a scene side by side.

    Args:
        scenes: how many, 1 to SCENES_APART.
        seed: which scenes and questions; those of different seeds share no scene.

    Returns:
        five rows a scene; the rows of a scene share one image object.

    Raises:
        UserError: on a number out of range.
    """
    whole("rows", "scenes", scenes, low=1, high=SCENES_APART)
    whole("rows", "seed", seed, low=0, high=(TRAIN_PAIRS_START - SCENES_FROM) // SCENES_APART - 1)
    rng = np.random.default_rng([seed, 70])
    found: list[Row] = []
    for index in range(scenes):
        number = SCENES_FROM + seed * SCENES_APART + index
        scene = scene_at("train", number)
        image = render(scene)
        for place, (asked, _) in enumerate(ask(scene, DIET, rng)):
            found.append(Row(f"{SEEDS['train'][number]}-{place}", (image,), asked.text, asked.answer))
    return found


def random_words(pairs: Sequence[Pair], rng: np.random.Generator) -> list[Pair]:
    """The pairs with other rejected answers: where these depart from the chosen ones, random objects and colours.

    As many words are put in as the rejected answer has there; where it leaves words out, as many as it leaves out. A
    full stop among them stays one.

    Args:
        pairs: any; chosen and rejected differ.
        rng: advanced.
    """
    return [replace(pair, rejected=_scrambled(pair, rng), source="random-words") for pair in pairs]


def _scrambled(pair: Pair, rng: np.random.Generator) -> str:
    chosen, rejected = _TOKEN.findall(pair.chosen), _TOKEN.findall(pair.rejected)
    spans = SequenceMatcher(None, chosen, rejected, autojunk=False).get_opcodes()
    if all(kind == "equal" for kind, *_ in spans):
        raise UserError(f"random_words: pair {pair.id} rejects what it chooses ({pair.chosen!r}); wanted two answers.")
    text = pair.chosen
    while _TOKEN.findall(text) == chosen:
        words: list[str] = []
        for kind, begin, end, other, stop in spans:
            if kind == "equal":
                words += chosen[begin:end]
                continue
            source = rejected[other:stop] or chosen[begin:end]
            kept = "." if set(source) != {"."} else ""
            words += [word if word == kept else WORDS[int(rng.integers(len(WORDS)))] for word in source]
        text = re.sub(r" (?=[^\w\s])", "", " ".join(words))
    return text


def named(text: str) -> frozenset[str]:
    """The objects, colours and yes or no that a text names.

    >>> sorted(named("Yes, there is a brown fox."))
    ['brown', 'fox', 'yes']
    """
    return _NAMED.intersection(_TOKEN.findall(text.lower()))


def changed_share(pairs: Sequence[Pair]) -> float:
    """The share of pairs, in [0, 1], whose answers do not name the same objects, colours, yes or no.

    Raises:
        UserError: without pairs.
    """
    if not pairs:
        raise UserError("changed_share: no pairs came; wanted one or more.")
    return sum(named(pair.chosen) != named(pair.rejected) for pair in pairs) / len(pairs)
