"""Pairs about random pictures for the tests' tiny LLaVA, and short trainings on them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from tests.zoo import picture
from vdd.preference.alignment import AlignConfig
from vdd.preference.pairs import Pair

TEXTS = [
    ("is there a dog in the image ?", "yes .", "no ."),
    ("is there a cat in the image ?", "no it is a fox .", "yes ."),
    ("what color is the dog ?", "the dog is red .", "the dog is blue ."),
    ("is there a car ?", "no", "yes it is in the image ."),
    ("what color is the fox ?", "brown .", "red and blue ."),
]
PAIRS = [Pair(place, (picture(place),), *texts) for place, texts in enumerate(TEXTS)]
LORA = AlignConfig(lora_rank=4, lora_alpha=8, learning_rate=2e-3, batch_size=5, schedule="constant", max_steps=4)
FULL = replace(LORA, lora_rank=0)


def trained(model: Any) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}
