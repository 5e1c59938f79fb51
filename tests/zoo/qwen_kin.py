"""Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Qwen3.5 and GLM-4V: three position axes, with `rope_deltas` kept on the module."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers import BatchFeature

from tests.zoo.member import Member, set_weights
from tests.zoo.words import word_tokenizer

QWEN_SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
QWEN_PLAIN = ("\n", "system", "user", "assistant", "You", "are", "helpful", "<think>", "</think>")
QWEN_PART = (
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}"
)
QWEN_TURNS = (
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for content in message['content'] %}" + QWEN_PART + "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
)
QWEN2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}" + QWEN_TURNS + "{% endif %}"
)
QWEN3_TEMPLATE = "{% for message in messages %}" + QWEN_TURNS + "{% endif %}"
QWEN35_TEMPLATE = "{% for message in messages %}" + QWEN_TURNS + "<think>\n{% endif %}"
GLM_SPECIALS = (
    "<|endoftext|>",
    "[gMASK]",
    "<|user|>",
    "<sop>",
    "<|assistant|>",
    "<|system|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
    "<|video|>",
)
GLM_TEMPLATE = (
    "[gMASK]<sop>{% for msg in messages %}{% if msg.role == 'system' %}<|system|>\n{{ msg.content }}"
    "{% elif msg.role == 'user' %}<|user|>\n{% if msg.content is string %}{{ msg.content }}{% else %}"
    "{% for item in msg.content %}"
    "{% if item.type == 'video' or 'video' in item %}<|begin_of_video|><|video|><|end_of_video|>"
    "{% elif item.type == 'image' or 'image' in item %}<|begin_of_image|><|image|><|end_of_image|>"
    "{% elif item.type == 'text' %}{{ item.text }}{% endif %}{% endfor %}{% endif %}"
    "{% elif msg.role == 'assistant' %}<|assistant|>\n{{ msg.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "rope_theta": 1e4,
    "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]},
}
INTERLEAVED = {"rope_type": "default", "mrope_section": [2, 1, 1], "mrope_interleaved": True}
EYES: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 32,
}


class Frames:
    """In place of the family's video processor, which needs torchvision: two frames make one layer of patches."""

    model_input_names = ("pixel_values_videos", "video_grid_thw")
    fps = 2.0

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor
        self.merge_size = image_processor.merge_size
        self.temporal_patch_size = image_processor.temporal_patch_size

    def __call__(self, videos: Any, return_metadata: bool = False, **_: Any) -> BatchFeature:
        patches, grids = [], []
        for video in videos:
            cut = self.image_processor(images=list(video), return_tensors="pt")
            _, height, width = cut["image_grid_thw"][0].tolist()
            frames = cut["pixel_values"].view(len(video), height * width, 3, 2, -1)[:, :, :, 0]
            layers = torch.stack([frames[0::2], frames[1::2]], dim=3)
            patches.append(layers.reshape(len(video) // 2 * height * width, -1))
            grids.append([len(video) // 2, height, width])
        data = {"pixel_values_videos": torch.cat(patches), "video_grid_thw": torch.tensor(grids)}
        if return_metadata:
            data["video_metadata"] = [SimpleNamespace(sampled_fps=self.fps, fps=self.fps) for _ in videos]
        return BatchFeature(data)


def unchecked(family: type) -> type:
    """The family's processor, which takes any tokenizer, and `Frames` for a video processor."""

    class Processor(family):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return type(argument)

    Processor.__name__ = family.__name__
    return Processor


class LivelyMember(Member):
    """Weights under which the image matters, and an oracle that takes any generated token.

    Attributes:
        weights: arguments of `set_weights`.
    """

    weights: ClassVar[dict[str, Any]] = {}

    def finish(self, model: Any) -> Any:
        """The model with its weights, in float64."""
        set_weights(model, **self.weights)
        for name, parameter in model.named_parameters():
            if "norm" in name and parameter.dim() == 1:  # drawn around 0, norms would drown the image
                parameter.data.add_(1.0)
        model.generation_config.pad_token_id = 0
        model.generation_config.eos_token_id = 2
        return model.to(torch.float64).eval()

    @torch.no_grad()
    def seen_logits(self, model: Any, inputs: Any, tokens: Sequence[int]) -> Tensor:
        """As in the base class, but a generated id is a word, even if it equals a placeholder's or a wrapper's."""
        model = copy.deepcopy(model)
        table = model.get_input_embeddings()
        words = table.num_embeddings
        table.weight = torch.nn.Parameter(torch.cat([table.weight, table.weight]))
        return super().seen_logits(model, inputs, [words + token for token in tokens])


class MropeMember(LivelyMember):
    """What the five have in common; the published tokenizers have no unknown token."""

    references = ("none", "mask", "noise", "zero", "one")
    config_class = ""
    processor_class = ""
    image_processor = "Qwen2VLImageProcessor"
    pixels: ClassVar[dict[str, Any]] = {"min_pixels": 8 * 8, "max_pixels": 32 * 32}
    specials: tuple[str, ...] = QWEN_SPECIALS
    plain: tuple[str, ...] = QWEN_PLAIN
    template = ""
    text: ClassVar[dict[str, Any]] = TEXT
    eyes: ClassVar[dict[str, Any]] = EYES

    def config(self, ids: dict[str, int]) -> dict[str, int]:
        """The special ids that the config names, from the tokenizer's."""
        return {
            "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_end_token_id": ids["<|vision_end|>"],
        }

    def build(self) -> tuple[Any, Any]:
        tokenizer = word_tokenizer(self.specials, self.plain, unk=None)
        by_pil = getattr(transformers, self.image_processor + "Pil", None)
        image_processor = (by_pil or getattr(transformers, self.image_processor))(
            patch_size=4, merge_size=2, temporal_patch_size=2, **copy.deepcopy(self.pixels)
        )
        processor = unchecked(getattr(transformers, self.processor_class))(
            image_processor=image_processor,
            tokenizer=tokenizer,
            video_processor=Frames(image_processor),
            chat_template=self.template,
        )
        config = getattr(transformers, self.config_class)(
            text_config=copy.deepcopy({**self.text, "vocab_size": len(tokenizer)}),  # configs write into their dicts
            vision_config=dict(self.eyes),
            tie_word_embeddings=False,
            **self.config(tokenizer.get_vocab()),
        )
        with torch.random.fork_rng(devices=[]):
            model = getattr(transformers, self.model_class)(config)
        return self.finish(model), processor


class Qwen2VL(MropeMember):
    name = "Qwen2-VL"
    model_class = "Qwen2VLForConditionalGeneration"
    config_class = "Qwen2VLConfig"
    processor_class = "Qwen2VLProcessor"
    weights: ClassVar[dict[str, Any]] = {"seed": 5}
    template = QWEN2_TEMPLATE
    eyes: ClassVar[dict[str, Any]] = {**EYES, "embed_dim": 16, "hidden_size": 32, "mlp_ratio": 2}


class Qwen25VL(MropeMember):
    name = "Qwen2.5-VL"
    model_class = "Qwen2_5_VLForConditionalGeneration"
    config_class = "Qwen2_5_VLConfig"
    processor_class = "Qwen2_5_VLProcessor"
    weights: ClassVar[dict[str, Any]] = {"seed": 1}
    template = QWEN2_TEMPLATE
    eyes: ClassVar[dict[str, Any]] = {**EYES, "window_size": 16, "fullatt_block_indexes": [1], "tokens_per_second": 2}

    def video_inputs(self, processor: Any, question: str, seed: int = 5) -> Any:
        """What `generate` takes for a question about four frames of random pixels."""
        content = [{"type": "video"}, {"type": "text", "text": question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        frames = np.random.default_rng(seed).integers(0, 255, (4, 16, 16, 3)).astype(np.uint8)
        return processor(text=[text], videos=[frames], return_tensors="pt").to(torch.float64)


class Qwen3VL(MropeMember):
    name = "Qwen3-VL"
    model_class = "Qwen3VLForConditionalGeneration"
    config_class = "Qwen3VLConfig"
    processor_class = "Qwen3VLProcessor"
    template = QWEN3_TEMPLATE
    weights: ClassVar[dict[str, Any]] = {"seed": 5}
    text: ClassVar[dict[str, Any]] = {**TEXT, "rope_scaling": INTERLEAVED, "head_dim": 8}
    eyes: ClassVar[dict[str, Any]] = {**EYES, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]}


class Qwen35(MropeMember):
    name = "Qwen3.5"
    model_class = "Qwen3_5ForConditionalGeneration"
    config_class = "Qwen3_5Config"
    processor_class = "Qwen3VLProcessor"
    template = QWEN35_TEMPLATE
    weights: ClassVar[dict[str, Any]] = {"seed": 4, "std": 0.15}
    tolerance = 1e-4  # the linear attention computes in float32
    references = ("none", "noise", "zero", "one")  # a masked position changes a linear layer's state
    notes = "linear attention: rejected drafts are read again"
    text: ClassVar[dict[str, Any]] = {
        **TEXT,
        "rope_scaling": INTERLEAVED,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "num_hidden_layers": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    }
    eyes: ClassVar[dict[str, Any]] = {**EYES, "num_position_embeddings": 16}


class Glm4v(MropeMember):
    name = "GLM-4V"
    model_class = "Glm4vForConditionalGeneration"
    config_class = "Glm4vConfig"
    processor_class = "Glm4vProcessor"
    image_processor = "Glm4vImageProcessor"
    pixels: ClassVar[dict[str, Any]] = {"size": {"shortest_edge": 8 * 8, "longest_edge": 32 * 32}}
    specials = GLM_SPECIALS
    plain = ("\n",)
    template = GLM_TEMPLATE
    text: ClassVar[dict[str, Any]] = {
        **TEXT,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "partial_rotary_factor": 0.5,
    }
    eyes: ClassVar[dict[str, Any]] = {**EYES, "image_size": 16}

    def config(self, ids: dict[str, int]) -> dict[str, int]:
        return {
            "image_token_id": ids["<|image|>"],
            "video_token_id": ids["<|video|>"],
            "image_start_token_id": ids["<|begin_of_image|>"],
            "image_end_token_id": ids["<|end_of_image|>"],
            "video_start_token_id": ids["<|begin_of_video|>"],
            "video_end_token_id": ids["<|end_of_video|>"],
        }


MEMBERS = [Qwen2VL(), Qwen25VL(), Qwen3VL(), Qwen35(), Glm4v()]
