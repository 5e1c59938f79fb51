"""Models to measure on: the embedded one, and LLaVA shapes with random weights that are made on the device.

tiny     2 M parameters, 16 image tokens: to see that a script runs
small    20 M, 576 image tokens
0.2b     217 M, 576 image tokens, float32
7b       LLaVA-1.5-7B's own shape, bfloat16
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)

from vdd.toy import load
from vdd.toy.model import build_tokenizer

SIZES = ("hidden", "inner", "layers", "heads", "vocab", "pixels", "vision_hidden", "vision_layers")
SHAPES: dict[str, dict[str, int]] = {
    name: dict(zip(SIZES, sizes, strict=True))
    for name, sizes in {
        "tiny": (64, 128, 2, 4, 512, 56, 64, 2),
        "small": (384, 1024, 6, 6, 8000, 336, 192, 4),
        "0.2b": (1024, 2816, 12, 16, 32064, 336, 512, 8),
        "7b": (4096, 11008, 32, 32, 32064, 336, 1024, 24),
    }.items()
}
PROMPT = "USER: <image>\n{question} ASSISTANT:"


def model_of(name: str, device: str = "cpu", seed: int = 0) -> tuple[Any, Any]:
    """(model, processor) of a shape, or the embedded model ("embedded")."""
    if name == "embedded":
        return load(device=device)
    shape = SHAPES[name]
    vision = CLIPVisionConfig(
        hidden_size=shape["vision_hidden"],
        intermediate_size=4 * shape["vision_hidden"],
        num_hidden_layers=shape["vision_layers"],
        num_attention_heads=shape["vision_hidden"] // 64,
        image_size=shape["pixels"],
        patch_size=14,
    )
    text = LlamaConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["inner"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=None,  # every text has its full length
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=4,
        image_seq_length=(shape["pixels"] // 14) ** 2,
        dtype=torch.bfloat16 if name == "7b" else torch.float32,
    )
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration._from_config(config, dtype=config.dtype).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": shape["pixels"]}, crop_size={"height": shape["pixels"], "width": shape["pixels"]}
        ),
        tokenizer=build_tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=load()[1].chat_template,
        image_token="<image>",
    )
    return model, processor


def picture(seed: int, size: int = 336) -> Image.Image:
    """An RGB image of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3)).astype(np.uint8))


def inputs_of(model: Any, processor: Any, questions: list[str], *, first: int = 0) -> Any:
    """What `generate` takes: each question about an image of its own."""
    images = [picture(first + number) for number in range(len(questions))]
    text = [PROMPT.format(question=question) for question in questions]
    made = processor(images=images, text=text, return_tensors="pt", padding=True, padding_side="left")
    return made.to(model.device, model.dtype)
