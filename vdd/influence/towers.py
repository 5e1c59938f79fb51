"""CLIP and SigLIP of transformers as towers; the backbone's features are computed once where only heads are asked for.

Source: transformers' CLIPModel and SiglipModel.
Knows: transformers, images. Does not know: influence, files of pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from vdd._check import UserError, choice
from vdd.images import Picture, as_picture
from vdd.influence.encoders import Towers, refuse_noise, refuse_none
from vdd.influence.loss import Contrastive, PairLoss, Sigmoid
from vdd.loading import check_device

HEADS, LORA, ALL = "heads", "lora", "all"
_NAMED = {HEADS: ".*", ALL: ".*", LORA: "lora_"}
EMBEDDED = "toy"
DTYPES = ("auto", "float32", "float64")
KEPT_PIXELS = 1 << 28
"""Pixel values that are kept once read, where encoders read images again and again."""


@dataclass(frozen=True)
class _Family:
    """What differs between the families: the heads as modules, what they read, the loss, how texts are padded."""

    image_head: Callable[[Any], nn.Module]
    text_head: Callable[[Any], nn.Module]
    before_image_head: Callable[[Any], nn.Module]
    before_text_head: Callable[[Any], nn.Module]
    loss: PairLoss
    padding: str


class _Residual(nn.Module):
    """What follows the attention in SigLIP's pooling head."""

    def __init__(self, layernorm: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.layernorm, self.mlp = layernorm, mlp

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.mlp(self.layernorm(hidden))


_FAMILIES: dict[str, _Family] = {
    "clip": _Family(
        lambda model: model.visual_projection,
        lambda model: model.text_projection,
        lambda model: model.visual_projection,
        lambda model: model.text_projection,
        Contrastive(),
        "longest",
    ),
    "siglip": _Family(
        lambda model: _Residual(model.vision_model.head.layernorm, model.vision_model.head.mlp),
        lambda model: model.text_model.head,
        lambda model: model.vision_model.head.layernorm,
        lambda model: model.text_model.head,
        Sigmoid(),
        "max_length",
    ),
}


class _Vision(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.projection = getattr(model, "visual_projection", nn.Identity())

    def forward(self, pixels: Tensor) -> Tensor:
        return self.projection(self.vision_model(pixel_values=pixels).pooler_output)


class _Text(nn.Module):
    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text_model = model.text_model
        self.projection = getattr(model, "text_projection", nn.Identity())

    def forward(self, ids: Tensor) -> Tensor:
        with _masks_in(next(self.text_model.parameters()).dtype):
            return self.projection(self.text_model(input_ids=ids).pooler_output)


class HubTowers(Towers):
    """A `CLIPModel` or `SiglipModel` with its processor.

    Args:
        model: in eval mode; one with LoRA adapters may be wrapped by PEFT.
        processor: the model's own.
        params: "heads" (the projections; of SigLIP what follows the pooling attention), "lora", "all", or a regular
            expression over the names in the model's towers.
        chunk: inputs an encoder reads at once.

    Raises:
        ValueError: on another family, or as `Towers`.
    """

    def __init__(self, model: Any, processor: Any, *, params: str = HEADS, chunk: int = 64) -> None:
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.processor = processor
        kind = getattr(getattr(self.model, "config", None), "model_type", type(model).__name__)
        if kind not in _FAMILIES:
            raise UserError(
                f"influence: the model is {kind!r}; wanted one of {', '.join(_FAMILIES)}, or any pair of encoders as "
                "vdd.influence.Towers."
            )
        self.family = _FAMILIES[kind]
        if kind == "siglip" and not hasattr(self.model.vision_model, "head"):
            raise UserError(
                "influence: the SigLIP has no pooling head (vision_use_head=False) and so gives no embedding of an "
                "image; wanted one that has it."
            )
        self.heads_alone = params == HEADS
        image, text = (
            (self.family.image_head(self.model), self.family.text_head(self.model))
            if self.heads_alone
            else (_Vision(self.model), _Text(self.model))
        )
        refuse_noise(self.model)
        super().__init__(
            image,
            text,
            log_scale=self.model.logit_scale,
            bias=getattr(self.model, "logit_bias", 0.0),
            params=_NAMED.get(params, params),
            loss=self.family.loss,
            chunk=chunk,
        )

    def image_inputs(self, given: Sequence[Picture]) -> Any:
        """Images as the image encoder reads them: (n, d) features of the backbone, or pixels made when asked for."""
        refuse_none(given)
        pictures = _Pictures(given, self.processor.image_processor, self.dtype)
        if not self.heads_alone:
            return pictures
        return self._features(self.model.vision_model, "pixel_values", self.family.before_image_head, pictures)

    def text_inputs(self, given: Sequence[str]) -> Tensor:
        """Texts as the text encoder reads them: (n, d) features of the backbone, or (n, words) token ids."""
        refuse_none(given)
        longest = self.model.config.text_config.max_position_embeddings
        ids = self.processor.tokenizer(
            list(given), padding=self.family.padding, truncation=True, max_length=longest, return_tensors="pt"
        ).input_ids
        if not self.heads_alone:
            return ids
        return self._features(self.model.text_model, "input_ids", self.family.before_text_head, ids)

    def named_in_model(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Towers' parameters under the names that the model's own `load_state_dict` knows."""
        known = {id(value): name for name, value in self.model.named_parameters()}
        own = dict(self._module.named_parameters())
        return {known[id(own[name])]: value for name, value in parameters.items()}

    def _features(self, backbone: nn.Module, name: str, before: Callable[[Any], nn.Module], inputs: Any) -> Tensor:
        head, parts = before(self.model), []
        with torch.no_grad():
            for start in range(0, len(inputs), self.chunk):
                given = inputs[torch.arange(start, min(start + self.chunk, len(inputs)))].to(self.device)
                with _reading(head) as read, _masks_in(self.dtype):
                    pooled = backbone(**{name: given}).pooler_output
                found = read[0] if read else pooled
                parts.append(found.reshape(len(given), -1))
        return torch.cat(parts)


def open_towers(
    name: str = EMBEDDED, *, params: str = HEADS, device: str | None = None, dtype: str = "auto", chunk: int = 64
) -> HubTowers:
    """A contrastive model and its processor by name.

    Args:
        name: folder, or name on the Hub (fetched if it is not in the cache already); "toy" is the embedded CLIP.
        params, chunk: of `HubTowers`.
        device: "cpu", "cuda", "cuda:1" or "mps"; by default CUDA or CPU, of the embedded one CPU.
        dtype: "auto" (as stored, float32 at least), "float32" or "float64".

    Raises:
        ValueError: where there is no such model, or it is of another family.
    """
    choice("influence", "dtype", dtype, DTYPES)
    if device == "auto":
        raise UserError('influence: device is \'auto\'; wanted one device, such as "cpu" or "cuda".')
    check_device(device)
    if name == EMBEDDED:
        from vdd.toy import load_clip

        model, processor = load_clip(torch.float64 if dtype == "float64" else torch.float32, device or "cpu")
        return HubTowers(model, processor, params=params, chunk=chunk)
    model, processor = _opened(name, dtype)
    where = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return HubTowers(model.to(where).eval(), processor, params=params, chunk=chunk)


def _opened(name: str, dtype: str) -> tuple[Any, Any]:
    """Model and processor by transformers, whole or not at all."""
    from transformers import AutoConfig, AutoModel, AutoProcessor

    try:
        kind = AutoConfig.from_pretrained(name).model_type
        if kind in _FAMILIES:
            processor = AutoProcessor.from_pretrained(name)
            loaded: Any = AutoModel.from_pretrained(name, dtype=dtype, output_loading_info=True)
            model, info = loaded
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"influence: {name!r} could not be loaded ({first}); wanted a folder with a CLIP or SigLIP in "
            'transformers\' format, or its name on the Hub (the embedded one is "toy").'
        ) from error
    if kind not in _FAMILIES:
        raise UserError(
            f"influence: {name!r} is {kind!r}; wanted one of {', '.join(_FAMILIES)}. Of a vision-language model that "
            "is the one its vision tower comes from."
        )
    if info["missing_keys"]:
        lacking = sorted(info["missing_keys"])
        raise UserError(
            f"influence: {name!r} lacks {len(lacking)} of its weights ({', '.join(lacking[:3])}, …); wanted all of "
            "them. Was the download cut short, or is it another architecture?"
        )
    return (model.float() if model.dtype.itemsize < 4 else model), processor


@contextmanager
def _masks_in(dtype: torch.dtype) -> Iterator[None]:
    """torch's default type as float64 where the model's is: transformers 4 fills CLIP's causal mask with the lowest
    number of the model's type, in the default type, where float64's does not fit."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64 if dtype == torch.float64 else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def _reading(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module is given while the block runs."""
    found: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, given: found.append(given[0]))
    try:
        yield found
    finally:
        handle.remove()


class _Pictures:
    """Images as pixels, decoded when asked for, and kept as long as there is room."""

    def __init__(self, given: Sequence[Picture], image_processor: Any, dtype: torch.dtype) -> None:
        self._given, self._image_processor, self._dtype = given, image_processor, dtype
        self._kept: dict[int, Tensor] = {}
        self._room = KEPT_PIXELS

    def __len__(self) -> int:
        return len(self._given)

    def __getitem__(self, places: Tensor) -> Tensor:
        return torch.stack([self._pixels(place) for place in places.tolist()])

    def _pixels(self, place: int) -> Tensor:
        if place in self._kept:
            return self._kept[place]
        picture = as_picture(self._given[place])
        pixels = self._image_processor(images=[picture], return_tensors="pt").pixel_values[0].to(self._dtype)
        if pixels.numel() <= self._room:
            self._kept[place] = pixels
            self._room -= pixels.numel()
        return pixels
