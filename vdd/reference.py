"""The second input v': what the model is shown instead of the image.

    none         the prompt without its visual tokens (the chat template rendered without the image)
    unk          each image becomes one `<unk>`, or one `<unk>` per patch
    both         none and unk; their logits are averaged
    mask         the same prompt and positions, attention to every image token off
    noise        the same prompt, pixels after t steps of diffusion: √ᾱ_t · v + √(1−ᾱ_t) · ε
    zero, one    the same prompt, a pixel tensor of zeros or of ones
    instruction  the same image, a disturbance put before the prompt

Source: arXiv:2403.05262; noise and its schedule: arXiv:2311.16922; instruction: arXiv:2403.18715.
Knows: token ids, masks, positions, pixel tensors. Does not know: models, caches, logits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vdd._check import UserError
from vdd.batch import Batch, Inputs, left_padded, tensors_on
from vdd.config import TEXT_REFERENCES, DebiasConfig
from vdd.families import Family, tokenizer_of, unknown_token
from vdd.pixels import degraded
from vdd.placeholders import Placeholders, Row


@dataclass(frozen=True)
class BlindPrompt:
    """The complete input of one image-free prefill.

    Attributes:
        input_ids: (rows, width), left-padded; a decoder's ids where an encoder reads the prompt.
        attention_mask: (rows, width), 0 on padding and, for the reference `mask`, on image tokens.
        position_ids: (rows, width), or (3, rows, width) where image tokens have positions of their own; counted over
            all real tokens.
        extras: further inputs, (rows, …) each: token types; `encoder_ids` and `encoder_mask`.
        pixels: forward arguments with the images of the whole batch; empty where the branch sees text alone.
        sources: for each row, which row of the batch it is, where the branch sees images.
        all_shown: whether every row of the batch has an image, where the branch sees them.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    extras: Inputs = field(default_factory=dict)
    pixels: Inputs = field(default_factory=dict)
    sources: tuple[int, ...] = ()
    all_shown: bool = False

    @cached_property
    def keys(self) -> tuple[bytes, ...]:
        """One digest per row of all that its logits depend on."""
        images = b"".join(_digest(tensor) for tensor in self.pixels.values())
        aligned = (self.input_ids, self.attention_mask, *self.extras.values())
        rows = []
        for row in range(len(self.input_ids)):
            parts = [_digest(tensor[row]) for tensor in aligned] + [_digest(self.position_ids[..., row, :])]
            if self.pixels:
                parts += [images, str(self.sources[row]).encode()]
            rows.append(b"".join(parts))
        return tuple(rows)

    def alone(self, row: int) -> BlindPrompt | None:
        """One row without its padding; None where it cannot be told which of the images are its own."""
        rows = len(self.input_ids)
        if self.pixels and rows > 1:
            one_each = self.all_shown and self.sources == tuple(range(rows))
            if not one_each or any(len(tensor) != rows for tensor in self.pixels.values()):
                return None
        start = int(self.attention_mask[row].argmax())
        own = slice(row, row + 1)

        def cut(name: str, tensor: Tensor) -> Tensor:
            if name in ("encoder_ids", "encoder_mask"):  # padded on the right
                return tensor[own, : int(self.extras["encoder_mask"][row].nonzero().max()) + 1]
            if tensor.shape[:2] == self.input_ids.shape:
                return tensor[own, start:]
            return tensor[own] if rows > 1 else tensor  # patches of one row's images may be many

        return replace(
            self,
            input_ids=self.input_ids[own, start:],
            attention_mask=self.attention_mask[own, start:],
            position_ids=self.position_ids[..., own, start:],
            extras={name: cut(name, tensor) for name, tensor in self.extras.items()},
            pixels={name: cut(name, tensor) for name, tensor in self.pixels.items()},
            sources=(0,) if self.sources else (),
        )

    def followed_by(self, tokens: Tensor) -> BlindPrompt:
        """The prompts with `tokens` (rows, t) behind them, where nothing but text is in them."""
        steps = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        return replace(
            self,
            input_ids=torch.cat([self.input_ids, tokens], dim=1),
            attention_mask=torch.cat([self.attention_mask, torch.ones_like(tokens)], dim=1),
            position_ids=torch.cat([self.position_ids, self.position_ids[..., -1:] + steps], dim=-1),
        )

    def without_ends(self, cuts: Sequence[int]) -> BlindPrompt:
        """Each row without so many of its last tokens, padded anew; the pixels stay."""
        widths = (self.attention_mask.sum(-1) - torch.tensor(cuts, device=self.attention_mask.device)).tolist()
        ends = [self.input_ids.shape[1] - cut for cut in cuts]
        parts = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
        ids, mask = right_aligned(
            [row[part].tolist() for row, part in zip(self.input_ids, parts, strict=True)], self.input_ids
        )
        width = ids.shape[1]
        positions = [
            torch.nn.functional.pad(self.position_ids[..., row, part], (width - own, 0))
            for row, (part, own) in enumerate(zip(parts, widths, strict=True))
        ]
        return replace(self, input_ids=ids, attention_mask=mask, position_ids=torch.stack(positions, dim=-2))

    def select(self, rows: Sequence[int]) -> BlindPrompt:
        """The same prompt with only these rows, in this order; with pixels, every source once and in order."""
        index = torch.tensor(rows, device=self.input_ids.device)
        return replace(
            self,
            input_ids=self.input_ids[index],
            attention_mask=self.attention_mask[index],
            position_ids=self.position_ids[..., index, :],
            extras={name: tensor[index] for name, tensor in self.extras.items()},
            sources=tuple(self.sources[row] for row in rows) if self.sources else (),
        )


@dataclass(frozen=True)
class SeenPrompt(BlindPrompt):
    """A batch's prompts with their own images, told apart by their place in the batch: nothing is hashed.

    It serves one decoding of one batch, where equal sources are equal rows.
    """

    @cached_property
    def keys(self) -> tuple[bytes, ...]:
        """One name per row."""
        return tuple(str(source).encode() for source in self.sources)


def blind_prompts(
    batch: Batch, config: DebiasConfig, family: Family, *, processor: Any = None, decoder_ids: Tensor | None = None
) -> tuple[BlindPrompt, ...]:
    """The reference's inputs for a batch of prompts, repeated as `generate` repeats them; two for `both`, else one.

    Args:
        batch: from `batch_of`.
        config: which reference, and how.
        family: the model's facts.
        processor: multimodal processor or tokenizer; needed for `unk`, `instruction` and to re-render the template.
        decoder_ids: (rows × repeats, width) what an encoder-decoder's answers begin with.

    Raises:
        ValueError: where something the reference needs is missing, or the reference makes no sense for the family.
    """
    why = family.adapter.refused.get(config.reference)
    if why:
        raise UserError(
            f"vdd: the reference {config.reference!r} makes no sense for the family {family.kind!r}: {why}."
        )
    if config.reference in TEXT_REFERENCES:
        prompts = _text_prompts(batch, config, family, processor)
    else:
        prompts = (_pixel_prompt(batch, config, family, processor),)
    return tuple(_as_generated(prompt, batch.repeats, family, decoder_ids) for prompt in prompts)


def seen_prompt(
    batch: Batch, family: Family, *, processor: Any = None, decoder_ids: Tensor | None = None
) -> SeenPrompt:
    """The prompts with their own images, as the references' are laid out; arguments as for `blind_prompts`."""
    prompt = _with_pixels(batch, family, processor, _images(batch, family, "image"))
    prompt = _as_generated(prompt, batch.repeats, family, decoder_ids)
    return SeenPrompt(**{field.name: getattr(prompt, field.name) for field in fields(prompt)})


def prompt_by_hand(blind_inputs: Inputs, family: Family, generated: Tensor) -> BlindPrompt:
    """An image-free prompt from the forward arguments that a user gives for it.

    Args:
        blind_inputs: `input_ids` (n, width), `attention_mask` (all ones by default), `position_ids` (counted over the
            mask by default), and whatever else the model's forward wants, (n, …) each.
        family: the model's facts.
        generated: (rows, …) ids that `generate` shows a processor first; rows are a multiple of n.

    Raises:
        ValueError: where the rows do not fit.
    """
    given = tensors_on(generated.device, blind_inputs)
    if "input_ids" not in given:
        raise UserError(
            f"vdd: blind_inputs has {', '.join(blind_inputs) or 'nothing'}; wanted at least input_ids, a tensor of "
            "(prompts, width), as the processor gives with return_tensors='pt'."
        )
    given = given if family.encoder_decoder else left_padded(given)
    ids, rows = given["input_ids"], len(generated)
    if rows % len(ids):
        raise UserError(
            f"vdd: `generate` works on {rows} rows and blind_inputs has {len(ids)}; wanted as many prompts as the "
            "batch has."
        )
    mask = given.get("attention_mask", torch.ones_like(ids))
    known = {"input_ids", "attention_mask", "position_ids"}
    prompt = BlindPrompt(
        input_ids=ids,
        attention_mask=mask,
        position_ids=given.get("position_ids", family.positions(ids, mask, None)),
        extras={name: tensor for name, tensor in given.items() if name not in known},
    )
    return _as_generated(prompt, rows // len(ids), family, generated)


def _text_prompts(batch: Batch, config: DebiasConfig, family: Family, processor: Any) -> tuple[BlindPrompt, ...]:
    prompts = []
    if config.reference in ("none", "both"):
        placeholders = Placeholders(family, processor, derive=config.derive)
        without = {row: placeholders.without(list(row)) for row in dict.fromkeys(map(tuple, batch.rows))}
        prompts.append(_padded([without[tuple(row)] for row in batch.rows], family, batch.ids.device))
    if config.reference in ("unk", "both"):
        placeholders, unk = Placeholders(family, processor, derive="ids"), _unk_id(processor)
        rows = batch.rows
        if config.unk_per == "patch":
            rows = [_each_to(unk, row, placeholders.is_image(row)) for row in rows]
        else:
            rows = [placeholders.with_unk(row, unk) for row in rows]
        prompts.append(_padded(rows, family, batch.ids.device))
    if config.reference == "mask":
        hidden = _hidden(batch, family, processor)
        positions = family.positions(batch.ids, batch.mask, _with_grids(batch, family))
        ids, mask = batch.ids.masked_fill(hidden, 0), batch.mask.masked_fill(hidden, 0)
        prompts.append(BlindPrompt(ids, mask, positions, _types(ids, family, of_images=None)))
    return tuple(prompts)


def _pixel_prompt(batch: Batch, config: DebiasConfig, family: Family, processor: Any) -> BlindPrompt:
    """The prompt with its images, one of the two changed."""
    pixels = _images(batch, family, config.reference)
    if config.reference == "instruction":
        return _with_pixels(_disturbed(batch, config.instruction, family, processor), family, processor, pixels)
    changed = {name: degraded(name, tensor, pixels, config) for name, tensor in pixels.items()}
    return _with_pixels(batch, family, processor, changed)


def _images(batch: Batch, family: Family, what: str) -> Inputs:
    """The arguments among the batch's inputs that carry its images."""
    inputs = batch.inputs
    if inputs is None or not any("pixel_values" in name for name in inputs):
        raise UserError(
            f"vdd: `{what}` looks at pixels, and none came with these prompts; wanted the same batch: "
            "VDDLogitsProcessor(model, processor, inputs=inputs, …) with what `generate` is given, "
            "`use_inputs(inputs)` before the next batch, or vdd.generate(model, processor, **inputs, …)."
        )
    return {name: inputs[name] for name in family.pixel_inputs if name in inputs}


def _with_pixels(batch: Batch, family: Family, processor: Any, pixels: Inputs) -> BlindPrompt:
    hidden = _hidden(batch, family, processor)
    return BlindPrompt(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=family.positions(batch.ids, batch.mask, batch.inputs),
        extras=_types(batch.ids, family, of_images=hidden),
        pixels=pixels,
        sources=tuple(range(len(batch.ids))),
        all_shown=bool(hidden.any(dim=-1).all()),
    )


def _as_generated(prompt: BlindPrompt, repeats: int, family: Family, decoder_ids: Tensor | None) -> BlindPrompt:
    """Each row as often as `generate` has it; behind an encoder where the family has one."""
    repeated = prompt.select([row for row in range(len(prompt.input_ids)) for _ in range(repeats)])
    if not family.encoder_decoder or decoder_ids is None:
        return repeated
    ones = torch.ones_like(decoder_ids)
    return replace(
        repeated,
        input_ids=decoder_ids,
        attention_mask=ones,
        position_ids=family.positions(decoder_ids, ones, None),
        extras={**repeated.extras, "encoder_ids": repeated.input_ids, "encoder_mask": repeated.attention_mask},
    )


def _padded(rows: list[Row], family: Family, device: torch.device) -> BlindPrompt:
    like = torch.zeros(0, dtype=torch.long, device=device)
    ids, mask = right_aligned(rows, like)
    if family.encoder_decoder:
        shifts = (mask == 0).sum(-1).tolist()
        ids, mask = (torch.stack([row.roll(-n) for row, n in zip(t, shifts, strict=True)]) for t in (ids, mask))
    return BlindPrompt(ids, mask, family.positions(ids, mask, None), _types(ids, family, of_images=None))


def right_aligned(rows: Sequence[Row], like: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, width) ids with zeros in front of the shorter, and the mask that tells these; as `like` in all else."""
    width = max(map(len, rows))
    ids = like.new_tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = like.new_tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def _types(ids: Tensor, family: Family, *, of_images: Tensor | None) -> dict[str, Tensor]:
    """The token-type argument, where the family has one: 1 on image tokens if it tells them apart."""
    if family.adapter.types is None:
        return {}
    name, tells_apart = family.adapter.types
    zeros = torch.zeros_like(ids)
    return {name: of_images.to(ids.dtype) if tells_apart and of_images is not None else zeros}


def _hidden(batch: Batch, family: Family, processor: Any) -> Tensor:
    """(rows, width): True on image tokens."""
    placeholders = Placeholders(family, processor, derive="ids")
    return torch.tensor([placeholders.is_image(row) for row in batch.ids.tolist()], device=batch.ids.device)


def _with_grids(batch: Batch, family: Family) -> Inputs | None:
    """The inputs that image tokens' positions are computed from; an error where they are missing."""
    if family.rope_index is not None and batch.inputs is None:
        raise UserError(
            f"vdd: in the family {family.kind!r} the reference `mask` needs the images' grids, which a logits "
            "processor is not shown; wanted VDDLogitsProcessor(model, processor, inputs=inputs, reference='mask')."
        )
    return batch.inputs


def _each_to(unk: int, row: Row, is_image: list[bool]) -> Row:
    return [unk if hidden else token for token, hidden in zip(row, is_image, strict=True)]


def _unk_id(processor: Any) -> int:
    unk = unknown_token(processor)
    if unk is None:
        raise UserError(
            "vdd: the reference `unk` needs a tokenizer with an unknown token of its own, and this one has none "
            f"({type(tokenizer_of(processor)).__name__}). Pass the processor, or use reference='none'."
        )
    return unk


def _disturbed(batch: Batch, instruction: str, family: Family, processor: Any) -> Batch:
    """Put the disturbance where LLaVA's system prompt stands: first, behind the beginning-of-sequence token."""
    if processor is None:
        raise UserError(
            "vdd: reference='instruction' needs the processor; wanted VDDLogitsProcessor(model, processor)."
        )
    tokenizer, rows = tokenizer_of(processor), batch.rows
    put = list(tokenizer(instruction + " ", add_special_tokens=False)["input_ids"])
    starts = [int(row[0] == tokenizer.bos_token_id) for row in rows]
    longer = [row[:start] + put + row[start:] for row, start in zip(rows, starts, strict=True)]
    prompt = _padded(longer, family, batch.ids.device)
    inputs = dict(batch.inputs or {})
    aligned = {name for name, tensor in inputs.items() if tensor.shape[:2] == batch.ids.shape} - {"input_ids"}
    refused = aligned.intersection(family.pixel_inputs)
    if refused:
        raise UserError(
            f"vdd: reference='instruction' makes no sense for the family {family.kind!r}: {', '.join(refused)} says "
            "for each token of the prompt which images it sees, and the disturbance is none of them."
        )
    for name in aligned:
        values = torch.zeros_like(prompt.input_ids)
        for row, (own, start) in enumerate(zip(inputs[name], starts, strict=True)):
            kept = own[batch.mask[row].bool()]
            values[row, -len(kept) :] = kept
            values[row, -len(kept) - len(put) : -len(kept) + start] = torch.cat(
                [kept[:start], kept.new_zeros(len(put))]
            )
        inputs[name] = values
    return Batch(prompt.input_ids, prompt.attention_mask, batch.repeats, inputs)


def _digest(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    kind = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return hashlib.blake2b(kind + flat.view(torch.uint8).numpy().tobytes(), digest_size=32).digest()
