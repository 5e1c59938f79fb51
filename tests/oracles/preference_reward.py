"""The grounding reward slowly: one whole forward for each token, softmaxes in Python's floats.

    r(y) = Σ_t log p(y_t | image, y_<t) − log p(y_t | no image, y_<t) + λ Σ_t log p(y_t | image, y_<t)

Imports nothing of this project.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

Rows = Callable[[Sequence[int]], Sequence[float]]
"""The tokens so far → the scores of the next one."""


def log_p(scores: Sequence[float], token: int) -> float:
    """log softmax(scores)[token]."""
    top = max(scores)
    return scores[token] - top - math.log(sum(math.exp(score - top) for score in scores))


def answer_log_p(rows: Rows, tokens: Sequence[int]) -> float:
    """Σ_t log p(y_t | y_<t)."""
    return sum(log_p(rows(tokens[:t]), token) for t, token in enumerate(tokens))


def reward(seen: Rows, blind: Rows, tokens: Sequence[int], over: str, floor: float) -> float:
    """r(y), or its mean over the tokens."""
    given = answer_log_p(seen, tokens)
    total = given - answer_log_p(blind, tokens) + floor * given
    return total / len(tokens) if over == "mean" else total


def llava_rows(model, processor, image, prompt: str) -> Rows:
    """The rows of a LLaVA by whole forwards without a cache, given the prompt's text; `image` None for none."""
    given = processor(text=prompt, images=image, return_tensors="pt", add_special_tokens=False)
    ids = given.input_ids[0].tolist()
    more = {} if image is None else {"pixel_values": given.pixel_values.to(model.dtype)}

    @torch.no_grad()
    def rows(tokens: Sequence[int]) -> list[float]:
        return model(input_ids=torch.tensor([[*ids, *tokens]]), use_cache=False, **more).logits[0, -1].tolist()

    return rows
