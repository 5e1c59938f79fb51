"""What differs between model families: where an image stands in the token ids, and which inputs carry its pixels.

Knows: configurations and processors of transformers, by attribute. Does not know: tensors, decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vdd._check import UserError


@dataclass(frozen=True)
class Family:
    """Facts about one model that the image-free branch stands on.

    Attributes:
        image_ids: token ids that stand for image features.
        pixel_inputs: names of the forward arguments that carry pixels; they go with references that keep the image.
        pad_id: token that pads a batch, where no tokenizer says so.
        bos_id: token that begins a text, where no tokenizer says so.
    """

    image_ids: frozenset[int]
    pixel_inputs: tuple[str, ...]
    pad_id: int | None = None
    bos_id: int | None = None


SUPPORTED = ("llava", "vipllava")
"""`config.model_type` of the families that the image-free branch is tested on or that differ in name alone."""


def family_of(model: Any) -> Family:
    """The facts of `model`, read from its configuration.

    Raises:
        ValueError: for a family that is not SUPPORTED: its image-free input may need more than leaving tokens out.
    """
    config = model.config
    kind = getattr(config, "model_type", None)
    image_id = getattr(config, "image_token_id", None)
    if image_id is None:
        image_id = getattr(config, "image_token_index", None)
    if kind not in SUPPORTED or image_id is None:
        raise UserError(
            f"vdd: {type(model).__name__} is of the family {kind!r}; wanted a LLaVA-type model "
            f"({', '.join(SUPPORTED)}), whose image-free input is known to be right."
        )
    generation, text = getattr(model, "generation_config", None), config.get_text_config()
    pad = getattr(generation, "pad_token_id", None)
    return Family(
        image_ids=frozenset({int(image_id)}),
        pixel_inputs=("pixel_values",),
        pad_id=getattr(text, "pad_token_id", None) if pad is None else pad,
        bos_id=getattr(text, "bos_token_id", None),
    )


def placeholder_of(processor: Any) -> str:
    """What stands for an image in a prompt's text."""
    return getattr(processor, "image_token", None) or "<image>"


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a multimodal processor; a tokenizer is returned as it is."""
    return getattr(processor, "tokenizer", processor)
