"""A vision-language model and its processor by name: from a folder or the Hub, whole or not at all.

Knows: transformers' loading. Does not know: images, decoding, the embedded model.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from safetensors import SafetensorError

from vdd._check import UserError, choice
from vdd.families import ADAPTERS

QUANTIZED = ("4bit", "8bit")
DTYPES = ("auto", "float32", "bfloat16", "float16")


def load(name: str, *, device: str | None = None, dtype: str = "auto", quantize: str | None = None) -> tuple[Any, Any]:
    """A vision-language model and its processor.

    Args:
        name: folder, or name on the Hub (fetched if it is not in the cache already).
        device: "cpu", "cuda", "cuda:1", "mps", or "auto" to spread it by accelerate; by default CUDA or CPU.
        dtype: "auto" (as stored), "float32", "bfloat16" or "float16".
        quantize: "4bit" or "8bit" by bitsandbytes (extra `bnb`); None for none.

    Returns:
        (model in eval mode, processor).

    Raises:
        ValueError: where there is no such model, or it is not a vision-language model.
    """
    from transformers import AutoConfig, AutoProcessor

    choice("load", "dtype", dtype, DTYPES)
    where = check_device(device) or ("cuda" if torch.cuda.is_available() else "cpu")
    options: dict[str, Any] = {"dtype": dtype, "device_map": where, "output_loading_info": True}
    if quantize is not None:
        options["quantization_config"] = _quantization(quantize)
    try:
        processor = AutoProcessor.from_pretrained(name)
        loaded: Any = _class_for(AutoConfig.from_pretrained(name)).from_pretrained(name, **options)
        model, info = loaded
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"load: {name!r} could not be loaded ({first}); wanted a folder with a vision-language model in "
            "transformers' format, or its name on the Hub (the embedded one is `vdd.toy.load()`)."
        ) from error
    if info["missing_keys"]:
        lacking = sorted(info["missing_keys"])
        raise UserError(
            f"load: {name!r} lacks {len(lacking)} of its weights ({', '.join(lacking[:3])}, …); wanted all of them. "
            "Was the download cut short, or is it another architecture?"
        )
    return model.eval(), processor


def _class_for(config: Any) -> Any:
    """transformers' class that opens a model of this configuration; a few that see images are filed under text."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    kind = config.model_type
    filed_elsewhere = kind in ADAPTERS and kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES
    return AutoModelForCausalLM if filed_elsewhere else AutoModelForImageTextToText


def check_device(device: str | None) -> str | None:
    """`device` if torch knows such a device, or it is "auto" or None."""
    if device not in (None, "auto"):
        try:
            kind = torch.device(device).type
        except RuntimeError as error:
            raise UserError(f'load: device is {device!r}; wanted "cpu", "cuda", "cuda:1", "mps" or "auto".') from error
        missing = {"cuda": not torch.cuda.is_available(), "mps": not torch.backends.mps.is_available()}
        if missing.get(kind, False):
            raise UserError(
                f"load: device is {device!r}, and torch finds none here; wanted cpu, or torch's {kind} build."
            )
    return device


def _quantization(quantize: str) -> Any:
    choice("load", "quantize", quantize, QUANTIZED)
    if find_spec("bitsandbytes") is None:
        raise UserError("load: quantising needs bitsandbytes: pip install 'visual-debias-decoding[bnb]'.")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=quantize == "4bit", load_in_8bit=quantize == "8bit")
