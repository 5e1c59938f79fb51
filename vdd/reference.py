"""The second input v': what the model is shown instead of the image.

    none         the prompt without its visual tokens (the chat template rendered without the image)
    unk          each image's run of tokens becomes one `<unk>`, or one `<unk>` per patch
    both         none and unk; their logits are averaged
    mask         the same prompt and positions, attention to every image token off
    noise        the same prompt, pixels after t steps of diffusion: √ᾱ_t · v + √(1−ᾱ_t) · ε
    zero, one    the same prompt, a pixel tensor of zeros or of ones
    instruction  the same image, a disturbance put before the prompt

Source: arXiv:2403.05262; noise and its schedule: arXiv:2311.16922; instruction: arXiv:2403.18715.
Knows: token ids, masks, positions, pixel tensors, a tokenizer. Does not know: models, caches, logits.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from vdd._check import UserError
from vdd.config import TEXT_REFERENCES, DebiasConfig
from vdd.families import Family, placeholder_of, tokenizer_of

Row = list[int]


@dataclass(frozen=True)
class BlindPrompt:
    """The complete input of one image-free prefill.

    Attributes:
        input_ids: (rows, width), left-padded.
        attention_mask: (rows, width), 0 on padding and, for the reference `mask`, on image tokens.
        position_ids: (rows, width), counted over all real tokens.
        pixels: forward arguments with pixels, first dimension images; empty where the branch sees text alone.
        images: for each row, which entries of `pixels` are its own.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    pixels: Mapping[str, Tensor]
    images: Sequence[Sequence[int]]

    @cached_property
    def keys(self) -> tuple[bytes, ...]:
        """One digest per row of all that its logits depend on."""
        pixel_digests = {name: [_digest(image) for image in tensor] for name, tensor in self.pixels.items()}
        rows = []
        for row, own in enumerate(self.images):
            parts = [_digest(self.input_ids[row]), _digest(self.attention_mask[row]), _digest(self.position_ids[row])]
            parts += [digests[i] for digests in pixel_digests.values() for i in own]
            rows.append(b"".join(parts))
        return tuple(rows)

    def select(self, rows: Sequence[int]) -> BlindPrompt:
        """The same prompt with only these rows, in this order."""
        index = torch.tensor(rows, device=self.input_ids.device)
        own = [i for row in rows for i in self.images[row]]
        pixels = {name: tensor[torch.tensor(own, device=tensor.device)] for name, tensor in self.pixels.items()}
        starts, images = 0, []
        for row in rows:
            images.append(range(starts, starts + len(self.images[row])))
            starts += len(self.images[row])
        return BlindPrompt(
            self.input_ids[index], self.attention_mask[index], self.position_ids[index], pixels, tuple(images)
        )


def blind_prompts(
    input_ids: Tensor,
    config: DebiasConfig,
    family: Family,
    *,
    processor: Any = None,
    inputs: Mapping[str, Tensor] | None = None,
) -> tuple[BlindPrompt, ...]:
    """The reference's inputs for a batch of prompts; two for `both`, else one.

    Args:
        input_ids: (rows, width) prompts with image placeholders, left-padded; rows may be `inputs`' rows repeated
            (beams, several returned sequences).
        config: which reference, and how.
        family: the model's facts.
        processor: multimodal processor or tokenizer; needed for `unk`, `instruction` and to re-render the template.
        inputs: what `generate` was given; needed for references that keep an image, and for the padding mask where the
            padding token is not the tokenizer's.

    Raises:
        ValueError: where a prompt has no image token, or something the reference needs is missing.
    """
    rows = _unpadded(input_ids, family, processor, inputs)
    for number, row in enumerate(rows):
        if not family.image_ids.intersection(row):
            raise UserError(
                f"vdd: row {number} of the prompt has no image token ({_name(family, processor)}); "
                "wanted at least one. Was the image left out of the chat template, or are these ids not the prompt's?"
            )
    device = input_ids.device
    if config.reference in TEXT_REFERENCES:
        return _text_prompts(rows, config, family, processor, device)
    pixels, images = _pixels_of(input_ids, config, family, inputs)
    if config.reference == "instruction":
        rows = [_disturb(row, config.instruction, processor) for row in rows]
        return (_padded(rows, device, pixels=pixels, images=images),)
    changed = {name: _degrade(tensor, config) for name, tensor in pixels.items()}
    return (_padded(rows, device, pixels=changed, images=images),)


def without_image(row: Row, family: Family, processor: Any = None) -> Row:
    """A prompt's ids as the chat template renders them without the image.

    The text that the template puts around an image is found by rendering a message with and without one. It is cut from
    the prompt's text, which is tokenised anew. Where a tokenizer does not give back the same ids from its own text, the
    image's tokens and the residue's are cut out instead; without a template, the image's alone. Where the prompt has an
    image without the template's text around it, the image alone goes.
    """
    return _Cutter(family, processor).cut(row)


def noise(pixels: Tensor, step: int, *, seed: int) -> Tensor:
    """`pixels` after `step` steps of forward diffusion, same shape and dtype.

        √ᾱ_t · v + √(1−ᾱ_t) · ε,   ᾱ_t = Π_{s≤t} (1 − β_s),   β = σ(linspace(−6, 6, 1000)) · (0.005 − 1e-5) + 1e-5

    Every image gets the same ε, so that a row does not depend on its batch-mates.

    Args:
        pixels: (images, …) preprocessed pixels.
        step: t in 0 … 999.
        seed: of ε.

    Source: arXiv:2311.16922, on the preprocessed pixels as in the authors' code.
    """
    betas = torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64)) * (0.5e-2 - 1e-5) + 1e-5
    kept = torch.cumprod(1 - betas, dim=0)[step]
    drawn = torch.randn(pixels.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (kept.sqrt() * pixels.cpu().double() + (1 - kept).sqrt() * drawn).to(pixels.dtype).to(pixels.device)


def _text_prompts(
    rows: list[Row], config: DebiasConfig, family: Family, processor: Any, device: torch.device
) -> tuple[BlindPrompt, ...]:
    prompts = []
    if config.reference in ("none", "both"):
        cutter = _Cutter(family, processor if config.derive == "template" else None)
        prompts.append(_padded([cutter.cut(row) for row in rows], device))
    if config.reference in ("unk", "both"):
        unk = _unk_id(processor)
        per_patch = config.unk_per == "patch"
        prompts.append(_padded([_to_unk(row, unk, family, per_patch=per_patch) for row in rows], device))
    if config.reference == "mask":
        hidden = [[token in family.image_ids for token in row] for row in rows]
        blanked = [[0 if token in family.image_ids else token for token in row] for row in rows]
        prompts.append(_padded(blanked, device, hidden=hidden))
    return tuple(prompts)


def _padded(
    rows: list[Row],
    device: torch.device,
    *,
    hidden: list[list[bool]] | None = None,
    pixels: Mapping[str, Tensor] | None = None,
    images: Sequence[Sequence[int]] | None = None,
) -> BlindPrompt:
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    real = torch.zeros(len(rows), width, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :] = torch.tensor(row)
        real[number, width - len(row) :] = 1
    mask = real.clone()
    for number, row_hidden in enumerate(hidden or []):
        mask[number, width - len(row_hidden) :] &= ~torch.tensor(row_hidden)
    positions = (real.cumsum(-1) - 1).clamp(min=0)
    return BlindPrompt(
        ids.to(device), mask.to(device), positions.to(device), pixels or {}, images or [() for _ in rows]
    )


def _unpadded(input_ids: Tensor, family: Family, processor: Any, inputs: Mapping[str, Tensor] | None) -> list[Row]:
    rows: list[Row] = input_ids.tolist()
    repeats = _repeats(input_ids, inputs)
    if inputs is not None and "attention_mask" in inputs and repeats:
        masks = inputs["attention_mask"].repeat_interleave(repeats, dim=0).tolist()
        pairs = zip(rows, masks, strict=True)
        return [[token for token, real in zip(row, mask, strict=True) if real] for row, mask in pairs]
    tokenizer = tokenizer_of(processor)
    pad, bos = getattr(tokenizer, "pad_token_id", family.pad_id), getattr(tokenizer, "bos_token_id", family.bos_id)
    return [_strip_leading(row, pad, keep=int(pad == bos)) for row in rows]


def _repeats(input_ids: Tensor, inputs: Mapping[str, Tensor] | None) -> int:
    """How often each row of `inputs` stands in `input_ids` (beams, returned sequences); 0 where they differ."""
    if inputs is None or len(input_ids) % len(inputs["input_ids"]):
        return 0
    repeats = len(input_ids) // len(inputs["input_ids"])
    given = inputs["input_ids"].to(input_ids.device).repeat_interleave(repeats, dim=0)
    return repeats if torch.equal(given, input_ids) else 0


def _strip_leading(row: Row, pad: int | None, *, keep: int) -> Row:
    """`row` without its padding; where that token begins every text as well, `keep` = 1 of them is the prompt's own."""
    start = 0
    while start < len(row) and row[start] == pad:
        start += 1
    return row[max(start - keep, 0) :]


def _to_unk(row: Row, unk: int, family: Family, *, per_patch: bool) -> Row:
    out: Row = []
    inside = False
    for token in row:
        is_image = token in family.image_ids
        if not is_image:
            out.append(token)
        elif per_patch or not inside:
            out.append(unk)
        inside = is_image
    return out


def _unk_id(processor: Any) -> int:
    unk = getattr(tokenizer_of(processor), "unk_token_id", None)
    if unk is None:
        raise UserError(
            "vdd: the reference `unk` needs a tokenizer with an unknown token, and this one has none "
            f"({type(tokenizer_of(processor)).__name__}). Pass the processor, or use reference='none'."
        )
    return int(unk)


class _Cutter:
    """Takes images out of prompts; what the template and the tokenizer say is looked up once."""

    def __init__(self, family: Family, processor: Any) -> None:
        self.family = family
        self.tokenizer = tokenizer_of(processor)
        self.around = _template_residue(processor)
        self.pattern = None if self.around is None else _image_pattern(self.around, family, self.tokenizer)

    def cut(self, row: Row) -> Row:
        if self.around is not None and self.pattern is not None:
            text = self.tokenizer.decode(row, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            if self.tokenizer(text, add_special_tokens=False)["input_ids"] == row:
                row = list(self.tokenizer(self.pattern.sub("", text), add_special_tokens=False)["input_ids"])
            else:
                row = _cut_tokens(row, self.around[1], self.family, self.tokenizer)
        return [token for token in row if token not in self.family.image_ids]


def _template_residue(processor: Any) -> tuple[str, str] | None:
    """(before, after): what the chat template writes around an image's placeholder, found by leaving the image out."""
    if not getattr(processor, "chat_template", None) or not hasattr(processor, "apply_chat_template"):
        return None
    text = {"type": "text", "text": "\u2042"}
    seen, blind = (
        processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        for content in ([{"type": "image"}, text], [text])
    )
    placeholder = placeholder_of(processor)
    start = next((i for i, (a, b) in enumerate(zip(seen, blind, strict=False)) if a != b), len(blind))
    added = seen[start : start + len(seen) - len(blind)]
    if placeholder not in added or seen[:start] + seen[start + len(added) :] != blind:
        return None
    before, _, after = added.partition(placeholder)
    return before, after


def _image_pattern(around: tuple[str, str], family: Family, tokenizer: Any) -> re.Pattern[str]:
    """One image, with its residue where that is there; tokenizers differ in the spaces they write between tokens."""
    before, after = around
    token = "(?:" + "|".join(re.escape(tokenizer.decode([token])) for token in sorted(family.image_ids)) + ")"
    head = "(?:" + re.escape(before.rstrip(" ")) + " *)?" if before.strip(" ") else ""
    tail = "(?:" + (" *" if after.strip(" ") else "") + re.escape(after) + ")?" if after else ""
    return re.compile(f"{head}(?:{token} *)*{token}{tail}")


def _cut_tokens(row: Row, after: str, family: Family, tokenizer: Any) -> Row:
    """Cut each image's run, and the tokens behind it whose text is `after`."""
    out: Row = []
    position = 0
    while position < len(row):
        if row[position] not in family.image_ids:
            out.append(row[position])
            position += 1
            continue
        while position < len(row) and row[position] in family.image_ids:
            position += 1
        for length in (1, 2, 3):
            if after.strip(" ") and tokenizer.decode(row[position : position + length]).strip(" ") == after.strip(" "):
                position += length
                break
    return out


def _disturb(row: Row, instruction: str, processor: Any) -> Row:
    """Put the disturbance where LLaVA's system prompt stands: first, behind the beginning-of-sequence token."""
    if processor is None:
        raise UserError(
            "vdd: reference='instruction' needs the processor; wanted VDDLogitsProcessor(model, processor)."
        )
    tokenizer = tokenizer_of(processor)
    start = 1 if row[0] == tokenizer.bos_token_id else 0
    put = tokenizer(instruction + " ", add_special_tokens=False)["input_ids"]
    return row[:start] + list(put) + row[start:]


def _pixels_of(
    input_ids: Tensor, config: DebiasConfig, family: Family, inputs: Mapping[str, Tensor] | None
) -> tuple[dict[str, Tensor], list[Sequence[int]]]:
    """The pixel arguments in `inputs`, and which of their entries belong to each row."""
    pixels = {name: inputs[name] for name in family.pixel_inputs if inputs is not None and name in inputs}
    if inputs is None or not pixels:
        raise UserError(
            f"vdd: the reference `{config.reference}` looks at pixels, and none came; "
            "wanted VDDLogitsProcessor(model, processor, inputs=inputs, …) with what `generate` is given."
        )
    repeats = _repeats(input_ids, inputs)
    if not repeats:
        raise UserError(
            f"vdd: `generate` was called on ids of shape {tuple(input_ids.shape)}, `inputs` has "
            f"{tuple(inputs['input_ids'].shape)} or other ids; wanted the same batch. "
            "Make one processor per batch, or call `use_inputs(inputs)`."
        )
    is_image = torch.isin(input_ids, torch.tensor(sorted(family.image_ids), device=input_ids.device))
    counts = is_image.sum(-1).tolist()[::repeats]
    per_image = sum(counts) // len(next(iter(pixels.values())))
    images: list[Sequence[int]] = []
    start = 0
    for count in counts:
        own = range(start, start + count // per_image)
        images += [own] * repeats
        start = own.stop
    return pixels, images


def _degrade(pixels: Tensor, config: DebiasConfig) -> Tensor:
    if config.reference == "zero":
        return torch.zeros_like(pixels)
    if config.reference == "one":
        return torch.ones_like(pixels)
    return noise(pixels, config.noise_step, seed=config.seed)


def _name(family: Family, processor: Any) -> str:
    tokenizer = tokenizer_of(processor)
    ids = sorted(family.image_ids)
    return ", ".join(map(str, ids)) if tokenizer is None else ", ".join(tokenizer.decode([i]) for i in ids)


def _digest(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().flatten()
    kind = f"{tensor.dtype}{tuple(tensor.shape)}".encode()
    return hashlib.blake2b(kind + flat.view(torch.uint8).numpy().tobytes(), digest_size=32).digest()
