"""A prompt whose image is hidden: each of its tokens with probability ρ, or its pixels under noise.

    attention_mask = real · (1 − hidden),   hidden ~ Bernoulli(ρ) on image tokens;   positions as if nothing were hidden

A hidden token is no key to anyone, so it is as if it were not there, but for the places of the others. With every image
token hidden nothing depends on the pixels. An image is encoded once, whatever is hidden of it afterwards.

Source: arXiv:2407.02477, §3.4; noise: arXiv:2311.16922.
Knows: prompts as references write them, transformers' image features by attribute. Does not know: answers, decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from vdd._check import UserError
from vdd.batch import Batch, has_image
from vdd.config import DebiasConfig
from vdd.families import Family, unwrapped
from vdd.placeholders import Placeholders
from vdd.preference.pairs import Variant
from vdd.reference import BlindPrompt, blind_prompts, seen_prompt

_NOISED = DebiasConfig(reference="noise", noise_step=500)


def check_hides(family: Family, variant: Variant) -> None:
    """Raise UserError where the family's images cannot be hidden so, or its text not be read ahead."""
    adapter, why = family.adapter, ""
    if family.encoder_decoder:
        why = "an encoder reads its prompt in both directions"
    elif "mask" in adapter.refused:
        why = adapter.refused["mask"]
    elif variant != "noise" and adapter.steps:
        why = "its images stand beside the text, not in it"
    elif variant == "noise" and "noise" in adapter.refused:
        why = adapter.refused["noise"]
    if why:
        wanted = "variant='noise', or another family" if adapter.steps else "a model of another family"
        raise UserError(
            f"vdd.preference: images cannot be hidden in the family {family.kind!r}: {why}; wanted {wanted}."
        )


def image_tokens(batch: Batch, family: Family, processor: Any) -> Tensor:
    """(rows, width): True where image features stand."""
    find = Placeholders(family, processor, derive="ids")
    return torch.tensor([find.is_image(row) for row in batch.ids.tolist()], device=batch.ids.device)


def hidden_prompt(batch: Batch, family: Family, processor: Any, hidden: Tensor) -> BlindPrompt:
    """The prompts with their images, of which some tokens are hidden.

    Args:
        batch: from `vdd.batch.batch_of`, one image at least in every row.
        family: the model's facts.
        processor: the model's.
        hidden: (rows, width) bool, True on image tokens alone.
    """
    prompt = seen_prompt(batch, family, processor=processor)
    return replace(prompt, attention_mask=prompt.attention_mask.masked_fill(hidden, 0))


def noised_prompt(batch: Batch, family: Family, processor: Any) -> BlindPrompt:
    """The prompts with their images after 500 steps of diffusion; see `vdd.pixels.noise`."""
    has_image(batch, family, processor)
    (prompt,) = blind_prompts(batch, _NOISED, family, processor=processor)
    return prompt


class EncodedOnce:
    """Within this context a model's images are encoded once; later prompts take from that what is theirs.

    Where a family's features do not come image by image, or not from a method of their own, they are encoded anew.

    Args:
        model: one instance; it is as before when the context ends.
        images: how many each row has.

    Attributes:
        encodes: how often the encoder ran.
    """

    def __init__(self, model: Any, images: Sequence[int]) -> None:
        core = unwrapped(model)
        self._inner = getattr(core, "model", core)
        self._first = [sum(images[:row]) for row in range(len(images) + 1)]
        self._kept: Any = None
        self._own: Any = None
        self._rows: list[int] = []
        self.encodes = 0

    def __enter__(self) -> EncodedOnce:
        if hasattr(self._inner, "get_image_features"):
            self._own = vars(self._inner).get("get_image_features")
            self._encode = self._inner.get_image_features
            self._inner.get_image_features = self._features
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        vars(self._inner).pop("get_image_features", None)
        if self._own is not None:
            self._inner.get_image_features = self._own
        self._kept = None

    def show(self, rows: Sequence[int]) -> None:
        """Say which rows the next prompt has, of those whose images were counted."""
        self._rows = list(rows)

    def _features(self, *args: Any, **kwargs: Any) -> Any:
        whole = self._rows == list(range(len(self._first) - 1))
        if self._kept is not None and whole:
            return self._kept
        if self._kept is not None:
            index = [image for row in self._rows for image in range(self._first[row], self._first[row + 1])]
            taken = _taken(self._kept, index, self._first[-1])
            if taken is not None:
                return taken
        self.encodes += 1
        found = self._encode(*args, **kwargs)
        if whole:
            self._kept = found
        return found


def _taken(features: Any, index: list[int], images: int) -> Any:
    """The features of some images; None where they do not come image by image."""
    if isinstance(features, Tensor):
        return features[index] if len(features) == images else None
    if isinstance(features, (list, tuple)):
        one_each = len(features) == images and all(isinstance(own, Tensor) for own in features)
        return type(features)(features[image] for image in index) if one_each else None
    pooled = _taken(features.pooler_output, index, images) if hasattr(features, "pooler_output") else None
    if pooled is None or getattr(features, "deepstack_features", None) is not None:
        return None
    return type(features)(pooler_output=pooled)
