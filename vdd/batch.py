"""The prompts of one `generate` call as they were written: their rows, padding and images, before beams repeat them.

Knows: token ids, masks, what `generate` was given. Does not know: references, models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vdd._check import UserError
from vdd.families import Family, tokenizer_of
from vdd.placeholders import Placeholders, Row

Inputs = Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """The prompts as they were written, before beams or several returned sequences repeat them.

    Attributes:
        ids: (rows, width), left-padded.
        mask: (rows, width), 0 on padding.
        repeats: how often each row stands in what `generate` passes.
        inputs: what `generate` was given, where that is known and fits.
    """

    ids: Tensor
    mask: Tensor
    repeats: int
    inputs: Inputs | None

    @property
    def rows(self) -> list[Row]:
        """The ids of each row without its padding."""
        pairs = zip(self.ids.tolist(), self.mask.tolist(), strict=True)
        return [[token for token, real in zip(row, mask, strict=True) if real] for row, mask in pairs]


def batch_of(input_ids: Tensor, family: Family, *, processor: Any = None, inputs: Inputs | None = None) -> Batch:
    """The prompts behind the ids of `generate`'s first call to a logits processor.

    Args:
        input_ids: (rows, width); the decoder's where the family is an encoder-decoder.
        family: the model's facts.
        processor: multimodal processor or tokenizer, which knows the padding token.
        inputs: what `generate` was given.

    Raises:
        ValueError: where an encoder-decoder's prompt is not given.
    """
    repeats = _repeats(input_ids, family, inputs)
    if inputs is not None and repeats:
        inputs = tensors_on(input_ids.device, inputs)
        inputs = inputs if family.encoder_decoder else left_padded(inputs)
        ids = inputs["input_ids"]
        mask = inputs["attention_mask"] if "attention_mask" in inputs else _real(ids, family, processor)
        if mask.shape != ids.shape:
            raise UserError(
                f"vdd: `inputs` has input_ids {tuple(ids.shape)} and attention_mask {tuple(mask.shape)}; wanted one "
                "value for each token. Do the ids leave out what a cache holds? Give the whole conversation's."
            )
        return Batch(ids, mask, repeats, inputs)
    if family.encoder_decoder:
        raise UserError(
            f"vdd: the family {family.kind!r} reads its prompt with an encoder, so that a logits processor sees the "
            "answer alone; wanted VDDLogitsProcessor(model, processor, inputs=inputs) with the inputs of this batch, "
            "or vdd.generate(model, processor, **inputs)."
        )
    return Batch(input_ids, _real(input_ids, family, processor), 1, None)


def has_image(batch: Batch, family: Family, processor: Any = None) -> list[bool]:
    """For each row of the batch, whether an image (or a video) stands in it.

    Raises:
        ValueError: where no row has one.
    """
    placeholders = Placeholders(family, processor, derive="ids")
    found = [bool(placeholders.blocks(row)) for row in batch.rows]
    if not any(found):
        raise UserError(
            f"vdd: none of the {len(found)} prompts has an image token ({_name(family, processor)}); wanted at least "
            "one. Was the image left out of the chat template, or are these ids not the prompt's?"
        )
    return found


def tensors_on(device: torch.device, inputs: Mapping[str, Any]) -> Inputs:
    """The tensors among `inputs`, on one device."""
    return {name: value.to(device) for name, value in inputs.items() if isinstance(value, Tensor)}


def left_padded(inputs: Inputs) -> Inputs:
    """`inputs` with right padding moved to the left, in every argument that has a value for each token."""
    mask = inputs.get("attention_mask")
    if mask is None or bool(mask[:, -1].all()):
        return inputs
    behind = (mask.flip(-1).cumsum(-1) == 0).sum(-1).tolist()

    def rolled(tensor: Tensor) -> Tensor:
        return torch.stack([row.roll(shift, dims=0) for row, shift in zip(tensor, behind, strict=True)])

    return {name: rolled(tensor) if tensor.shape[:2] == mask.shape else tensor for name, tensor in inputs.items()}


def _real(ids: Tensor, family: Family, processor: Any) -> Tensor:
    """(rows, width) mask of left-padded ids; where the padding token begins every text as well, one is the prompt's."""
    tokenizer = tokenizer_of(processor)
    pad, bos = getattr(tokenizer, "pad_token_id", family.pad_id), getattr(tokenizer, "bos_token_id", family.bos_id)
    if pad is None:
        return torch.ones_like(ids)
    leading = (ids == pad).long().cumprod(dim=-1)
    if pad == bos:
        leading = torch.cat([leading[:, 1:], torch.zeros_like(leading[:, :1])], dim=-1)
    return 1 - leading


def _repeats(input_ids: Tensor, family: Family, inputs: Inputs | None) -> int:
    """How often each row of `inputs` stands in `input_ids` (beams, returned sequences); 0 where they differ."""
    if inputs is None or "input_ids" not in inputs or len(input_ids) % len(inputs["input_ids"]):
        return 0
    repeats = len(input_ids) // len(inputs["input_ids"])
    if family.encoder_decoder:
        return repeats
    given = inputs["input_ids"].to(input_ids.device).repeat_interleave(repeats, dim=0)
    return repeats if torch.equal(given, input_ids) else 0


def _name(family: Family, processor: Any) -> str:
    tokenizer = tokenizer_of(processor)
    ids = sorted(family.image_ids or family.opens)
    return ", ".join(map(str, ids)) if tokenizer is None else ", ".join(tokenizer.decode([i]) for i in ids)
