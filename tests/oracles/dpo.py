"""DPO from its printed formula, in Python's floats, on tokens written down by hand; nothing here imports the project.

−log σ(β [log π(y⁺)/π_ref(y⁺) − log π(y⁻)/π_ref(y⁻)])          arXiv:2305.18290, eq. 7
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image


def log_p(model: Any, pixels: Any, prompt: Sequence[int], answer: Sequence[int]) -> float:
    """log p(answer | image, prompt): one forward of one row, each token looked up by itself."""
    with torch.no_grad():
        row = torch.tensor([[*prompt, *answer]])
        logits = model(input_ids=row, attention_mask=torch.ones_like(row), pixel_values=pixels, use_cache=False).logits
    total = 0.0
    for place, token in enumerate(answer):
        scores = [float(value) for value in logits[0, len(prompt) + place - 1]]
        top = max(scores)
        total += scores[token] - top - math.log(math.fsum(math.exp(score - top) for score in scores))
    return total


def dpo_loss(beta: float, policy: Sequence[tuple[float, float]], reference: Sequence[tuple[float, float]]) -> float:
    """The mean over pairs of (log p(y⁺), log p(y⁻)) by the policy and by the reference."""
    losses = []
    for (good, bad), (old_good, old_bad) in zip(policy, reference, strict=True):
        margin = beta * ((good - old_good) - (bad - old_bad))
        losses.append(math.log1p(math.exp(-margin)))
    return math.fsum(losses) / len(losses)


def tiny_rows(processor: Any, question: str, answer: str) -> tuple[list[int], list[int]]:
    """The ids of the tests' tiny LLaVA: <s> USER: four image tokens, a line break, the question ASSISTANT: | answer."""
    vocabulary = processor.tokenizer.get_vocab()
    words = [vocabulary[word] for word in question.split()]
    image = [vocabulary["<image>"]] * 4
    prompt = [vocabulary["<s>"], vocabulary["USER:"], *image, vocabulary["\n"], *words, vocabulary["ASSISTANT:"]]
    return prompt, [*(vocabulary[word] for word in answer.split()), vocabulary["</s>"]]


def tiny_pixels(processor: Any, image: Image.Image) -> Any:
    """What the tiny LLaVA sees of an image, in float64."""
    return processor.image_processor(images=image, return_tensors="pt")["pixel_values"].double()
