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
        vocabulary: number of tokens the language model scores.
    """

    image_ids: frozenset[int]
    pixel_inputs: tuple[str, ...]
    vocabulary: int


def family_of(model: Any) -> Family:
    """The facts of `model`, read from its configuration.

    Raises:
        ValueError: for a model without image tokens.
    """
    config = model.config
    image_id = getattr(config, "image_token_id", None)
    if image_id is None:
        image_id = getattr(config, "image_token_index", None)
    if image_id is None:
        raise UserError(
            f"vdd: {type(model).__name__} has no `image_token_id` in its configuration; wanted a vision-language model "
            "such as LlavaForConditionalGeneration."
        )
    text = config.get_text_config()
    return Family(frozenset({int(image_id)}), ("pixel_values",), int(text.vocab_size))


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a multimodal processor; a tokenizer is returned as it is."""
    return getattr(processor, "tokenizer", processor)
