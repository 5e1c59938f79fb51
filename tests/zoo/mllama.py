"""Mllama in small: the image is one token in the prompt; what the model sees comes through cross-attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor

from tests.zoo.idefics_kin import Nested, centre_norms, finish, spaced_tokenizer

SPECIALS = [
    "<|finetune_right_pad_id|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|python_tag|>",
]
PLAIN = ["system", "user", "assistant", "Today", "Date", ":", "\n", "\n\n"]
# as published, without an image there is a system message, with one there is none
TEMPLATE = (
    "{{- bos_token }}{%- set image_ns = namespace(has_images=false) %}"
    "{%- for message in messages %}{%- for content in message['content'] %}{%- if content['type'] == 'image' %}"
    "{%- set image_ns.has_images = true %}{%- endif %}{%- endfor %}{%- endfor %}"
    "{%- if not image_ns.has_images %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nToday Date: it is one\n\n<|eot_id|>' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{%- for content in message['content'] %}{%- if content['type'] == 'image' %}{{- '<|image|>' }}"
    "{%- elif content['type'] == 'text' %}{{- content['text'] }}{%- endif %}{%- endfor %}{{- '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)


class Mllama(Nested):
    name = "Mllama"
    model_class = "MllamaForConditionalGeneration"
    references = ("none", "mask", "noise", "zero", "one")  # no unknown token
    max_images = 1  # text before an image attends evenly to all images of the batch, the padding's too
    mixed = False  # for the same reason, and 4.57's processor refuses it
    notes = "`none` adds no system prompt, as its template would"

    def processor(self) -> Any:
        tokenizer = spaced_tokenizer(SPECIALS, PLAIN)
        tokenizer.add_tokens(["<|image|>"], special_tokens=True)  # behind the vocabulary: the model cannot say it
        pixels = getattr(transformers, "MllamaImageProcessorPil", None) or transformers.MllamaImageProcessor
        pixels = pixels(size={"height": 8, "width": 8}, max_image_tiles=4)
        return transformers.MllamaProcessor(pixels, tokenizer, chat_template=TEMPLATE)

    def build(self) -> tuple[Any, Any]:
        processor = self.processor()
        vision = {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "intermediate_layers_indices": [0],
            "vision_output_dim": 32,
            "image_size": 8,
            "patch_size": 4,
            "max_num_tiles": 4,
        }
        text = {
            "vocab_size": processor.image_token_id,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "cross_attention_layers": [1],
            "max_position_embeddings": 512,
            "rope_scaling": {"rope_type": "default"},
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        config = transformers.MllamaConfig(
            vision_config=transformers.models.mllama.configuration_mllama.MllamaVisionConfig(**vision),
            text_config=transformers.models.mllama.configuration_mllama.MllamaTextConfig(**text),
            image_token_index=processor.image_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            model = transformers.MllamaForConditionalGeneration(config)
        model, processor = finish(model, processor)
        centre_norms(model)
        return model, processor

    def seen_logits(self, model: Any, inputs: Any, tokens: Sequence[int]) -> Tensor:
        given = dict(inputs)
        if "cross_attention_mask" in given:
            given["cross_attention_mask"] = torch.cat(
                [given["cross_attention_mask"], *([given["cross_attention_mask"][:, -1:]] * len(tokens))], dim=1
            )
        return super().seen_logits(model, given, tokens)

    def blind_ids(self, processor: Any, question: str) -> list[int]:
        """Without the image alone: the published template would add a system prompt, with dates."""
        text = self.prompt(processor, question, 1).replace(processor.image_token, "")
        return list(processor.tokenizer(text, add_special_tokens=False).input_ids)

    @torch.no_grad()
    def masked_logits(self, model: Any, inputs: Any, tokens: Sequence[int]) -> torch.Tensor:
        """No cross attention, and nobody sees the image's own token."""
        row = torch.cat([inputs["input_ids"], torch.tensor([list(tokens)], dtype=torch.long)], dim=1)
        shown = (row != model.config.image_token_index).long()
        return model(input_ids=row, attention_mask=shown, use_cache=False).logits[0, -1].double()


MEMBERS = [Mllama()]
