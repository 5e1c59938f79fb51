"""What differs between model families: where images stand in the token ids, and how a prompt is read without them.

    config.model_type → Adapter (the table);  model, processor → Family (ids, argument names)

What a configuration or a processor says is read there; the table holds the rest.
Knows: configurations and processors of transformers, by attribute. Does not know: decoding, caches, chat templates.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vdd._check import UserError


@dataclass(frozen=True)
class Adapter:
    """How one family departs from a LLaVA-like model.

    Attributes:
        pixels: forward arguments that carry images; they go with the references that keep the image.
        text_model: attribute of the part that reads text alone; "" for the whole model.
        span: attributes of the tokens that open and close an image; all between them belongs to it.
        frame: attributes of other tokens around or within an image.
        each: text that stands once in every image, where several may adjoin.
        length: attribute with the number of tokens of every image, where several may adjoin.
        around: what the processor itself writes before and behind an image.
        inner: what may stand between the tokens of one image, a regular expression.
        prefix: whether the prompt is read in both directions, so that steps must not be wider than what was read.
        types: a token-type argument, and whether it is 1 on image tokens (else 0 on the whole prompt).
        steps: arguments of the prompt whose last column every later step needs.
        first_position: where positions start; None for one behind the padding token's id.
        stateful: whether the module keeps something between a generation's forwards.
        drops_processors: whether the family's own `generate` leaves logits processors out.
        refused: reference → why it makes no sense here.
    """

    pixels: tuple[str, ...] = ("pixel_values",)
    text_model: str = ""
    span: tuple[str, str] | None = None
    frame: tuple[str, ...] = ()
    each: str = ""
    length: str = ""
    around: tuple[str, str] = ("", "")
    inner: str = ""
    prefix: bool = False
    types: tuple[str, bool] | None = None
    steps: tuple[str, ...] = ()
    first_position: int | None = 0
    stateful: bool = False
    drops_processors: bool = False
    refused: Mapping[str, str] = field(default_factory=dict)


_ROWS = Adapter(
    pixels=("pixel_values", "image_sizes"), span=("", "image_end_token_id"), frame=("image_break_token_id",)
)
_GRIDS = Adapter(
    pixels=("pixel_values", "image_grid_thw", "pixel_values_videos", "video_grid_thw", "second_per_grid_ts"),
    span=("vision_start_token_id", "vision_end_token_id"),
    stateful=True,
)
_LINEAR_GRIDS = replace(_GRIDS, refused={"mask": "linear attention cannot leave single tokens out"})
_GLM = replace(_GRIDS, span=("image_start_token_id", "image_end_token_id"))
_TILES = Adapter(
    pixels=("pixel_values", "pixel_attention_mask"),
    frame=("fake_image_token",),
    each="<global-img>",
    inner=r"\n|<row_\d+_col_\d+>|<global-img>",
    refused={"zero": "an image of zeros is taken for padding and dropped"},
)
_SOFT = Adapter(pixels=("pixel_values",), span=("boi_token_index", "eoi_token_index"), around=("\n\n", "\n\n"))
_PREFIX = Adapter(length="image_seq_length", prefix=True, types=("token_type_ids", False), first_position=1)
_QUERIES = Adapter(pixels=("pixel_values", "qformer_input_ids", "qformer_attention_mask"), text_model="language_model")

ADAPTERS: Mapping[str, Adapter] = {
    "llava": _ROWS,
    "vipllava": Adapter(),
    "llava_next": Adapter(pixels=("pixel_values", "image_sizes")),
    "llava_next_video": Adapter(pixels=("pixel_values", "image_sizes", "pixel_values_videos")),
    "llava_onevision": Adapter(
        pixels=("pixel_values", "image_sizes", "batch_num_images", "pixel_values_videos", "image_sizes_videos")
    ),
    "mistral3": _ROWS,
    "internvl": Adapter(span=("start_image_token_id", "end_image_token_id")),
    "aria": Adapter(pixels=("pixel_values", "pixel_mask")),
    "aya_vision": Adapter(span=("start_of_img_token", "end_of_img_token")),
    "cohere2_vision": Adapter(span=("boi_token", "eoi_token")),
    "deepseek_vl": Adapter(),
    "fast_vlm": Adapter(),
    "perception_lm": Adapter(pixels=("pixel_values", "pixel_values_videos")),
    "llama4": Adapter(span=("boi_token_index", "eoi_token_index")),
    "qwen2_vl": _GRIDS,
    "qwen2_5_vl": _GRIDS,
    "qwen3_vl": _GRIDS,
    "qwen3_vl_moe": _GRIDS,
    "qwen3_5": _LINEAR_GRIDS,
    "qwen3_5_moe": _LINEAR_GRIDS,
    "glm4v": _GLM,
    "glm4v_moe": _GLM,
    "glm46v": _GLM,
    "janus": Adapter(span=("image_start_token", "image_end_token"), drops_processors=True),
    "idefics2": Adapter(
        pixels=("pixel_values", "pixel_attention_mask"),
        frame=("fake_image_token",),
        refused={
            "zero": "an image of zeros is taken for padding and dropped",
            **dict.fromkeys(("unk", "both"), "adjoining images cannot be told apart from the parts of one"),
        },
    ),
    "idefics3": _TILES,
    "smolvlm": _TILES,
    "gemma3": replace(_SOFT, types=("token_type_ids", True)),
    "gemma3n": replace(_SOFT, span=("boi_token_id", "eoi_token_id")),
    "gemma4": Adapter(
        pixels=("pixel_values", "image_position_ids", "pixel_values_videos", "video_position_ids"),
        span=("boi_token", "eoi_token"),
        types=("mm_token_type_ids", True),
    ),
    "paligemma": _PREFIX,
    "mllama": Adapter(
        pixels=("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask", "cross_attention_mask"),
        steps=("cross_attention_mask",),
    ),
    "instructblip": _QUERIES,
    "blip-2": _QUERIES,
    "florence2": Adapter(),
    "kosmos-2": Adapter(
        pixels=("pixel_values", "image_embeds_position_mask"),
        text_model="text_model",
        first_position=None,
        span=("boi_token", "eoi_token"),
    ),
    "phi4_multimodal": Adapter(pixels=("image_pixel_values", "image_sizes", "image_attention_mask")),
    "emu3": Adapter(pixels=("pixel_values", "image_sizes"), span=("image_start_token", "image_end_token")),
    "chameleon": Adapter(span=("image_start_token", "image_end_token")),
}
"""`config.model_type` → adapter, of the families that the image-free branch is tested on."""


@dataclass(frozen=True)
class Family:
    """Facts about one model that the image-free branch stands on.

    Attributes:
        kind: `config.model_type`.
        image_ids: token ids that image or video features replace.
        frame_ids: token ids that stand around or within an image.
        opens, closes: the ids that begin and end an image, where the family has such; all between them is the image's.
        image_length: number of tokens of every image, where it is fixed.
        adapter: the table's row.
        encoder_decoder: whether prompts are read by an encoder, so that `generate` shows a processor decoder ids only.
        rope_index: the model's method that gives image tokens positions of their own, where it has one.
        first_position: where positions start.
        pad_id: token that pads a batch, where no tokenizer says so.
        bos_id: token that begins a text, where no tokenizer says so.
    """

    kind: str
    image_ids: frozenset[int]
    adapter: Adapter = Adapter()
    frame_ids: frozenset[int] = frozenset()
    opens: frozenset[int] = frozenset()
    closes: frozenset[int] = frozenset()
    image_length: int = 0
    encoder_decoder: bool = False
    rope_index: Any = None
    first_position: int = 0
    pad_id: int | None = None
    bos_id: int | None = None

    def positions(self, ids: Tensor, mask: Tensor, inputs: Mapping[str, Tensor] | None) -> Tensor:
        """Positions of a left-padded batch: (rows, width), or (3, rows, width) where image tokens have their own.

        Args:
            ids: (rows, width) with image tokens.
            mask: (rows, width), 0 on padding alone.
            inputs: with the images' grids, of the same rows.
        """
        counted = (mask.cumsum(-1) - 1).clamp(min=0) + self.first_position
        if self.rope_index is None or inputs is None:
            return counted
        known = inspect.signature(self.rope_index).parameters
        names = (*self.adapter.pixels, "mm_token_type_ids")
        given = {name: inputs[name] for name in names if name in inputs and name in known}
        if "mm_token_type_ids" in known and "mm_token_type_ids" not in given:
            return counted  # as `generate` does without them
        positions, _ = self.rope_index(input_ids=ids, attention_mask=mask, **given)
        return torch.as_tensor(positions)

    @property
    def pixel_inputs(self) -> tuple[str, ...]:
        """Names of the forward arguments that carry images."""
        return self.adapter.pixels


def family_of(model: Any, processor: Any = None) -> Family:
    """The facts of `model`.

    Args:
        model: a vision-language model of one of the ADAPTERS' families.
        processor: its multimodal processor; some families name the tokens around an image only there.

    Raises:
        ValueError: for a family that is not in the table: its image-free input may need more than leaving tokens out.
    """
    kind = str(getattr(model.config, "model_type", None))
    adapter = ADAPTERS.get(kind)
    if adapter is None:
        raise UserError(
            f"vdd: {type(model).__name__} is of the family {kind!r}, whose image-free input is not known; known: "
            f"{', '.join(ADAPTERS)}. Say what it is to be given in the image's place: VDDLogitsProcessor(model, "
            "blind_inputs={'input_ids': …, 'attention_mask': …}), the prompt without the image."
        )
    opens, closes = (_ids(model, processor, (name,)) for name in adapter.span) if adapter.span else (_NONE, _NONE)
    images = _ids(model, processor, _IMAGE_TOKENS)
    if not images and not opens:
        raise UserError(
            f"vdd: neither the configuration of {type(model).__name__} nor the processor names an image token; "
            "wanted the multimodal processor: VDDLogitsProcessor(model, processor)."
        )
    return with_defaults(
        model,
        Family(
            kind=kind,
            image_ids=images,
            adapter=adapter,
            frame_ids=_ids(model, processor, adapter.frame) | opens | closes,
            opens=opens,
            closes=closes,
            image_length=_number(model, processor, adapter.length),
        ),
    )


def hand_fed(model: Any) -> Family:
    """A family of which nothing is known but what its configuration says: its image-free input is given by hand."""
    return with_defaults(model, Family(kind=str(getattr(model.config, "model_type", None)), image_ids=_NONE))


def with_defaults(model: Any, family: Family) -> Family:
    """`family` with what any model's configuration says."""
    first = family.adapter.first_position
    text, generation = model.config.get_text_config(), getattr(model, "generation_config", None)
    pad = getattr(generation, "pad_token_id", None)
    reader = getattr(model, family.adapter.text_model) if family.adapter.text_model else model
    core = unwrapped(model)
    inner = getattr(core, "model", core)
    return replace(
        family,
        encoder_decoder=bool(getattr(reader.config, "is_encoder_decoder", False)),
        rope_index=getattr(inner, "get_rope_index", None),
        first_position=text.pad_token_id + 1 if first is None else first,
        pad_id=getattr(text, "pad_token_id", None) if pad is None else pad,
        bos_id=getattr(text, "bos_token_id", None),
    )


def unwrapped(model: Any) -> Any:
    """The model itself, where PEFT wraps it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


_NONE: frozenset[int] = frozenset()
_IMAGE_TOKENS = ("image_token_id", "image_token_index", "video_token_id", "video_token_index")


def _number(model: Any, processor: Any, name: str) -> int:
    return int(getattr(processor, name, None) or getattr(model.config, name, None) or 0) if name else 0


def _ids(model: Any, processor: Any, names: Iterable[str]) -> frozenset[int]:
    """The token ids that the configuration or the processor gives under these names; a token's text is looked up."""
    found = set()
    for name in names:
        sources = (model.config, getattr(model.config, "vision_config", None), processor)
        value = next((getattr(source, name) for source in sources if getattr(source, name, None) is not None), None)
        if isinstance(value, int):
            found.add(value)
        elif value is not None:
            found.add(int(tokenizer_of(processor).convert_tokens_to_ids(str(value))))
    return frozenset(found)


def placeholder_of(processor: Any) -> str:
    """What stands for an image in a prompt's text."""
    return str(getattr(processor, "image_token", None) or "<image>")


def tokenizer_of(processor: Any) -> Any:
    """The tokenizer of a multimodal processor; a tokenizer is returned as it is."""
    return getattr(processor, "tokenizer", processor)


def unknown_token(processor: Any) -> int | None:
    """The id of the unknown token; None where there is none, or another token (`</s>`) is written down for it."""
    tokenizer = tokenizer_of(processor)
    unk = getattr(tokenizer, "unk_token_id", None)
    return None if unk is None or unk in (tokenizer.eos_token_id, tokenizer.bos_token_id) else int(unk)
