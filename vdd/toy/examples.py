"""Descriptions of prior-breaking scenes, plain and debiased, with what is wrong in them.

Knows: scenes, a pipeline. Does not know: files, printing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from PIL import Image

from vdd.config import SamplingConfig
from vdd.pipeline import LlavaPipeline
from vdd.toy.questions import DESCRIBE
from vdd.toy.scenes import COLORS, OBJECTS, Scene, caption, render, scene_at

BATCH = 24

LONGEST = 48
"""Tokens of a description at most."""


@dataclass(frozen=True)
class Described:
    """One scene and two descriptions of it.

    Attributes:
        image: the drawing.
        truth: the true description.
        before: the plain one.
        after: the debiased one.
        wrong_before: words of `before` that the scene contradicts: absent objects, colours an object does not have.
        wrong_after: those of `after`.
    """

    image: Image.Image
    truth: str
    before: str
    after: str
    wrong_before: frozenset[str]
    wrong_after: frozenset[str]


def describe_both_ways(
    pipeline: LlavaPipeline, count: int, *, progress: Callable[[int, int], None] | None = None
) -> list[Described]:
    """The first `count` counterfactual scenes, described greedily without and with debiasing."""
    sampling = SamplingConfig(max_new_tokens=LONGEST)
    found: list[Described] = []
    for start in range(0, count, BATCH):
        scenes = [scene_at("counterfactual", index) for index in range(start, min(start + BATCH, count))]
        images = [render(scene) for scene in scenes]
        inputs = pipeline.inputs(images, [DESCRIBE] * len(scenes))
        plain = pipeline.generate(inputs, debias=None, sampling=sampling)
        debiased = pipeline.generate(inputs, debias=pipeline.debias, sampling=sampling)
        found += [
            Described(image, caption(scene), before, after, wrong_words(before, scene), wrong_words(after, scene))
            for scene, image, before, after in zip(scenes, images, plain, debiased, strict=True)
        ]
        if progress:
            progress(len(found), count)
    return found


def wrong_words(text: str, scene: Scene) -> frozenset[str]:
    """Objects in `text` that the scene lacks, and colours put to an object that wears another.

    >>> from vdd.toy.scenes import Item
    >>> scene = Scene((Item("fox", "blue", 0),), "forest")
    >>> sorted(wrong_words("there is a brown fox at the top left. there is a red car.", scene))
    ['brown', 'car']
    """
    colors = {item.object: item.color for item in scene.items}
    words = re.findall(r"[a-z]+", text.lower())
    wrong = {word for word in words if word in OBJECTS and word not in colors}
    for color, name in pairwise(words):
        if color in COLORS and colors.get(name, color) != color:
            wrong.add(color)
    return frozenset(wrong)
