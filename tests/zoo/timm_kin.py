"""FastVLM, PerceptionLM and Gemma3n in small: their vision towers need timm and have a stand-in here."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

from tests.zoo.gemma_kin import NEWLINES, SPECIALS, TEXT, Gemma3
from tests.zoo.idefics_kin import Nested, centre_norms, finish, ids_of, spaced_tokenizer
from tests.zoo.llava_kin import NO_UNK, Frames, image_processor, real, text_config
from tests.zoo.member import picture
from tests.zoo.more_kin import Kin, Tiles
from tests.zoo.words import word_tokenizer


class Patches(torch.nn.Module):
    """In place of a vision tower that needs timm: patches as an image of channels, or in a row behind a first token."""

    def __init__(self, channels: int, *, row: bool) -> None:
        super().__init__()
        self.cut = torch.nn.Conv2d(3, channels, kernel_size=4, stride=4)
        self.row = row

    def forward(self, pixels: Any = None, pixel_values: Any = None, **_: Any) -> Any:
        seen = torch.tanh(self.cut(pixel_values if pixels is None else pixels))
        if self.row:
            seen = torch.nn.functional.pad(seen.flatten(2).transpose(1, 2), (0, 0, 1, 0))
        return BaseModelOutputWithPooling(last_hidden_state=seen)


def towers(family: str, tower: Patches) -> Any:
    """Puts `tower` in place of what the family's model makes of a timm configuration; there is no hearing."""

    def made(config: Any, **more: Any) -> Any:
        if config.model_type == "gemma3n_audio":
            return torch.nn.Identity()
        timm = config.model_type in ("timm_wrapper", "gemma3n_vision")
        return tower if timm else transformers.AutoModel.from_config(config, **more)

    modeling = f"transformers.models.{family}.modeling_{family}.AutoModel"
    return mock.patch(modeling, SimpleNamespace(from_config=made))


class FastVLM(Kin):
    name = "FastVLM"
    family = "FastVlm"
    references = NO_UNK
    template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )

    def build(self) -> tuple[Any, Any]:
        tokenizer = word_tokenizer(
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>"],
            ["\n", "user", "assistant"],
            unk=None,
            bos=False,
            image_token="<image>",
        )
        processor = transformers.LlavaProcessor(
            image_processor=image_processor(
                "CLIPImageProcessor", size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
            ),
            tokenizer=tokenizer,
            patch_size=4,
            vision_feature_select_strategy="full",
            chat_template=self.template,
        )
        with towers("fast_vlm", Patches(16, row=False)):
            model = self.made(
                vision_config={"model_type": "timm_wrapper", "hidden_size": 16},
                text_config=text_config("Qwen2", len(tokenizer)),
                image_token_index=processor.image_token_id,
            )
        return model, processor


class PerceptionLM(Kin):
    name = "PerceptionLM"
    family = "PerceptionLM"
    weights: ClassVar[dict[str, Any]] = {"seed": 1}
    references = NO_UNK
    template = (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    )

    def build(self) -> tuple[Any, Any]:
        turns = ("<|start_header_id|>", "<|end_header_id|>")
        tokenizer = word_tokenizer(
            ["<|end_of_text|>", "<|begin_of_text|>", "<|eot_id|>", *turns, "<|image|>", "<|video|>"],
            ["\n", "user", "assistant"],
            unk=None,
            image_token="<|image|>",
            video_token="<|video|>",
        )
        processor = real(
            transformers.PerceptionLMProcessor,
            video_processor=Frames(),
            image_processor=Tiles(nested=True),
            tokenizer=tokenizer,
            patch_size=4,
            chat_template=self.template,
        )
        with towers("perception_lm", Patches(16, row=True)):
            model = self.made(
                vision_config={"model_type": "timm_wrapper", "model_args": {"embed_dim": 16}},
                text_config=text_config("Llama", len(tokenizer)),
                image_token_id=processor.image_token_id,
                video_token_id=processor.video_token_id,
                projector_pooling_ratio=2,
            )
        return model, processor

    def video_inputs(self, processor: Any, question: str) -> Any:
        """What `generate` takes for a question about two random frames."""
        text = self.prompt(processor, question, 1).replace("<|image|>", "<|video|>")
        frames = np.stack([np.asarray(picture(seed)) for seed in (41, 42)])
        return processor(text=[text], videos=[frames], padding=True, return_tensors="pt").to(torch.float64)


class Ears:
    """In place of a feature extractor."""

    model_input_names = ("input_features",)


class Gemma3n(Nested):
    """Inputs per layer; the last layers share their keys and values; sliding windows shorter than the prompt."""

    name = "Gemma3n"
    model_class = "Gemma3nForConditionalGeneration"
    template = Gemma3.template.replace("<start_of_image>", "<image_soft_token>")

    def processor(self) -> Any:
        names = {
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "audio_token": "<audio_soft_token>",
            "boa_token": "<start_of_audio>",
            "eoa_token": "<end_of_audio>",
        }
        specials = [*SPECIALS, *names.values(), "<start_of_turn>", "<end_of_turn>"]
        return real(
            transformers.Gemma3nProcessor,
            feature_extractor=Ears(),
            image_processor=image_processor("SiglipImageProcessor", size={"height": 16, "width": 16}),
            tokenizer=spaced_tokenizer(specials, ["user", "model", *NEWLINES], "<unk>", **names),
            chat_template=self.template,
            image_seq_length=16,
        )

    def build(self) -> tuple[Any, Any]:
        processor = self.processor()
        tokenizer = processor.tokenizer
        text = {
            **TEXT,
            "vocab_size": len(tokenizer),
            "vocab_size_per_layer_input": len(tokenizer),
            "num_hidden_layers": 4,
            "layer_types": ["sliding_attention", "full_attention"] * 2,
            "sliding_window": 8,
            "num_kv_shared_layers": 2,
            "hidden_size_per_layer_input": 8,
            "laurel_rank": 4,
            "altup_num_inputs": 2,
            "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0],
        }
        ids = ("image_token_id", "boi_token_id", "eoi_token_id", "audio_token_id", "boa_token_id", "eoa_token_id")
        config = transformers.Gemma3nConfig(
            text_config=text,
            vision_config={"hidden_size": 16, "vocab_offset": 1000},
            audio_config={"hidden_size": 16, "vocab_offset": 2000},
            vision_soft_tokens_per_image=16,
            tie_word_embeddings=False,
            **{name: getattr(tokenizer, name) for name in ids},
        )
        with torch.random.fork_rng(devices=[]), towers("gemma3n", Patches(16, row=False)):
            model = transformers.Gemma3nForConditionalGeneration(config)
        model, processor = finish(model, processor)
        centre_norms(model)
        return model, processor

    def unk_ids(self, processor: Any, question: str, images: int) -> list[int]:
        return ids_of(processor, self.prompt(processor, question, images).replace("<image_soft_token>", "<unk>"))

    def blind_logits(self, model: Any, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        row = torch.tensor([list(ids)])
        return self.seen_logits(model, {"input_ids": row, "attention_mask": torch.ones_like(row)}, tokens)

    @torch.no_grad()
    def seen_logits(self, model: Any, inputs: Any, tokens: Sequence[int]) -> Tensor:
        """From scratch with an empty cache: 4.57 shares keys and values by way of the cache alone."""
        more = torch.tensor([list(tokens)], dtype=torch.long)
        given = {name: value for name, value in inputs.items() if name == "pixel_values"}
        given["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
        given["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(more)], dim=1)
        return model(**given, use_cache=True).logits[0, -1].double()


MEMBERS = [FastVLM(), PerceptionLM(), Gemma3n()]
