"""Where attention goes, from one full forward that gives every weight; imports nothing of the project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


@torch.no_grad()
def masses(
    model: Any, inputs: dict[str, Any], classes: Sequence[int], tokens: Sequence[int], specials: set[int],
    cross: Sequence[int] = (),
) -> list[list[list[float]]]:  # fmt: skip
    """Step by step, layer by layer, how much of the attention falls on the three classes of positions.

    Args:
        model: that computes attention with weights; changed by nobody.
        inputs: one row, without padding, of the prompt and all `tokens` but the last.
        classes: 0, 1 or 2 for each of the prompt's positions.
        tokens: of the answer.
        specials: tokens of class 2; every other of the answer is of class 1.
        cross: numbers of the weights, among those that are given, whose keys are the image.
    """
    given: tuple[Tensor, ...] = model(**inputs, output_attentions=True, use_cache=False).attentions
    every = [*classes, *(2 if token in specials else 1 for token in tokens)]
    steps = []
    for step in range(len(tokens)):
        row = len(classes) - 1 + step
        layers = []
        for number, weights in enumerate(given):
            heads, keys = weights.shape[1], weights.shape[3]
            found = [0.0, 0.0, 0.0]
            for key in range(keys):
                share = sum(float(weights[0, head, row, key]) for head in range(heads)) / heads
                found[0 if number in cross else every[key]] += share
            layers.append(found)
        steps.append(layers)
    return steps
