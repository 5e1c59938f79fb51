"""Gemma3, Gemma4, PaliGemma and PaliGemma 2 in small.

Gemma3 and Gemma4 let an image's tokens see each other; PaliGemma lets the whole prompt do so, and only what is
generated is causal.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from tests.zoo.idefics_kin import Nested, centre_norms, finish, ids_of, spaced_tokenizer
from tests.zoo.member import Member

SPECIALS = ["<pad>", "<bos>", "<eos>", "<unk>"]
NEWLINES = [
    "\n",
    "\n\n",
    "\n\n\n",
    "\n\n\n\n",
]  # one token each, as published: a newline of the template melts into one
VISION = {
    "model_type": "siglip_vision_model",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
    "vision_use_head": False,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,  # tied, a small model says its last token for ever
}


def image_processor(kind: str, **settings: Any) -> Any:
    pixels = getattr(transformers, f"{kind}ImageProcessorPil", None) or getattr(transformers, f"{kind}ImageProcessor")
    return pixels(**settings)


def unchecked(processor_class: type) -> Any:
    """The same processor, content with whatever parts it is given."""

    class Unchecked(processor_class):  # type: ignore[misc]
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return type(argument)

    return Unchecked


def exact_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor, scaling: float, **kwargs: Any
) -> tuple[Tensor, None]:
    """Eager attention with softcapping, in the dtype of its input: Gemma2's own rounds to float32."""
    groups = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(groups, dim=1) for states in (key, value))
    scores = torch.tanh(query @ key.transpose(2, 3) * scaling / kwargs["softcap"]) * kwargs["softcap"]
    scores = scores + attention_mask[..., : key.shape[2]]
    return (scores.softmax(-1) @ value).transpose(1, 2).contiguous(), None


class Gemma3(Nested):
    name = "Gemma3"
    model_class = "Gemma3ForConditionalGeneration"

    template = (
        "{{ bos_token }}{%- for message in messages -%}{{ '<start_of_turn>' + message['role'] + '\n' }}"
        "{%- for item in message['content'] -%}{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}"
        "{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}"
        "{{ '<end_of_turn>\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"
    )
    placeholder = "<start_of_image>"

    def processor(self) -> Any:
        names = {
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
        }
        specials = [*SPECIALS, *names.values(), "<start_of_turn>", "<end_of_turn>"]
        tokenizer = spaced_tokenizer(specials, ["user", "model", *NEWLINES], "<unk>", **names)
        pixels = image_processor("Gemma3", size={"height": 16, "width": 16})
        return transformers.Gemma3Processor(pixels, tokenizer, chat_template=self.template, image_seq_length=4)

    def build(self) -> tuple[Any, Any]:
        processor = self.processor()
        tokenizer = processor.tokenizer
        text = {
            **TEXT,
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 2,
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 8,
            "query_pre_attn_scalar": 8,
        }
        config = transformers.Gemma3Config(
            text_config=text,
            vision_config=VISION,
            mm_tokens_per_image=4,
            tie_word_embeddings=False,
            boi_token_index=tokenizer.boi_token_id,
            eoi_token_index=tokenizer.eoi_token_id,
            image_token_index=tokenizer.image_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            model = transformers.Gemma3ForConditionalGeneration(config)
        model, processor = finish(model, processor)
        centre_norms(model.model.vision_tower)
        return model, processor

    def unk_ids(self, processor: Any, question: str, images: int) -> list[int]:
        return ids_of(processor, self.prompt(processor, question, images).replace(self.placeholder, "<unk>"))


class Gemma4(Gemma3):
    """The large models' way: images see each other's tokens; keys are values in full attention."""

    name = "Gemma4"
    model_class = "Gemma4ForConditionalGeneration"

    template = (
        "{{- bos_token }}{%- for message in messages -%}{{- '<|turn>' + message['role'] + '\n' }}"
        "{%- for item in message['content'] -%}{%- if item['type'] == 'text' -%}{{- item['text'] | trim -}}"
        "{%- elif item['type'] == 'image' -%}{{- '\n\n<|image|>\n\n' -}}{%- endif -%}{%- endfor -%}"
        "{{- '<turn|>\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|turn>model\n' -}}{%- endif -%}"
    )
    placeholder = "<|image|>"
    text = {  # noqa: RUF012
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "hidden_size_per_layer_input": 0,
        "attention_k_eq_v": True,
        "num_global_key_value_heads": 1,
        "use_bidirectional_attention": "vision",
    }

    def processor(self) -> Any:
        names = {
            "image_token": "<|image|>",
            "boi_token": "<|image>",
            "eoi_token": "<image|>",
            "audio_token": "<|audio|>",
            "boa_token": "<|audio>",
            "eoa_token": "<audio|>",
        }
        specials = [*SPECIALS, *names.values(), "<|video|>", "<|turn>", "<turn|>"]
        tokenizer = spaced_tokenizer(specials, ["user", "model", *NEWLINES], "<unk>", **names)
        pixels = image_processor("Gemma4", do_resize=False, patch_size=4, pooling_kernel_size=2, max_soft_tokens=70)
        processor = unchecked(transformers.Gemma4Processor)  # its video processor wants torchvision
        return processor(None, pixels, tokenizer, None, chat_template=self.template, image_seq_length=70)

    def build(self) -> tuple[Any, Any]:
        processor = self.processor()
        tokenizer = processor.tokenizer
        vision = {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "pooling_kernel_size": 2,
            "patch_size": 4,
            "position_embedding_size": 16,
        }
        text = {
            **TEXT,
            **self.text,
            "vocab_size": len(tokenizer),
            "vocab_size_per_layer_input": len(tokenizer),
            "sliding_window": 8,
            "global_head_dim": 16,
            "final_logit_softcapping": 30.0,
        }
        config = transformers.Gemma4Config(
            text_config=text,
            vision_config=vision,
            tie_word_embeddings=False,
            boi_token_id=tokenizer.boi_token_id,
            eoi_token_id=tokenizer.eoi_token_id,
            image_token_id=tokenizer.image_token_id,
            video_token_id=processor.video_token_id,
            audio_token_id=tokenizer.audio_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            model = transformers.Gemma4ForConditionalGeneration(config)
        model, processor = finish(model, processor)
        centre_norms(model)
        return model, processor


class Gemma4Small(Gemma4):
    """The small models' way: inputs per layer, the last layers share their keys and values, images are causal."""

    name = "Gemma4 E2B/E4B"
    text = {  # noqa: RUF012
        "num_hidden_layers": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 8,
    }


class PaliGemma(Member):
    name = "PaliGemma"
    model_class = "PaliGemmaForConditionalGeneration"
    mixed = False  # 5.x puts the <bos> of a row without an image into its middle

    start = 1
    text = {"model_type": "gemma", "num_hidden_layers": 2}  # noqa: RUF012

    def build(self) -> tuple[Any, Any]:
        tokenizer = spaced_tokenizer([*SPECIALS, "<image>"], ["\n"], "<unk>", image_token="<image>")
        words = len(tokenizer)  # the processor adds more than a thousand for places and outlines
        pixels = image_processor("Siglip", size={"height": 16, "width": 16})
        pixels.image_seq_length = 16
        processor = unchecked(transformers.PaliGemmaProcessor)(pixels, tokenizer)  # 4.57 wants Gemma's own tokenizer
        config = transformers.PaliGemmaConfig(
            text_config={**TEXT, **self.text, "vocab_size": words},
            vision_config=VISION,
            image_token_index=tokenizer.image_token_id,
            projection_dim=32,
            tie_word_embeddings=False,
            hidden_size=32,
            vocab_size=words,
        )
        with torch.random.fork_rng(devices=[]):
            model = transformers.PaliGemmaForConditionalGeneration(config)
        model, processor = finish(model, processor)
        centre_norms(model.model.vision_tower)
        model.model.text_config_dtype = torch.float64  # of 4.57's masks, noted before the weights were cast
        return model, processor

    def prompt(self, processor: Any, question: str, images: int) -> str:
        return "<image>" * images + question

    def inputs(self, processor: Any, questions: Any, pictures: Any) -> Any:
        text = [self.prompt(processor, q, len(own)) for q, own in zip(questions, pictures, strict=True)]
        how = {"padding": True, "padding_side": "left", "return_tensors": "pt", "add_special_tokens": False}
        if not any(pictures):
            given = processor.tokenizer([f"<bos>{one}\n" for one in text], **how)
            return {**given, "token_type_ids": torch.zeros_like(given["input_ids"])}
        return processor(text=text, images=[list(own) for own in pictures], **how).to(torch.float64)

    def blind_ids(self, processor: Any, question: str) -> list[int]:
        return ids_of(processor, f"<bos>{question}\n")

    def unk_ids(self, processor: Any, question: str, images: int) -> list[int]:
        return ids_of(processor, f"{'<unk>' * images}<bos>{question}\n")

    def blind_logits(self, model: Any, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        row = torch.tensor([list(ids)])
        return self.seen_logits(model, {"input_ids": row, "attention_mask": torch.ones_like(row)}, tokens)

    @torch.no_grad()
    def seen_logits(self, model: Any, inputs: Any, tokens: Sequence[int]) -> Tensor:
        more = torch.tensor([list(tokens)], dtype=torch.long)
        given = {name: value for name, value in inputs.items() if name == "pixel_values"}
        given["input_ids"] = torch.cat([inputs["input_ids"], more], dim=1)
        given["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(more)], dim=1)
        given["token_type_ids"] = torch.cat([torch.zeros_like(inputs["input_ids"]), torch.ones_like(more)], dim=1)
        given["labels"] = given["input_ids"]  # 4.57 takes all for the prompt unless it is told to train
        return copy.deepcopy(model)(**given, use_cache=False).logits[0, -1].double()


class PaliGemma2(PaliGemma):
    name = "PaliGemma 2"
    text = {  # noqa: RUF012
        "model_type": "gemma2",
        "num_hidden_layers": 2,
        "layer_types": ["sliding_attention", "full_attention"],
        "sliding_window": 8 if transformers.__version__ >= "5" else 512,  # 4.57 is wrong behind the window
        "query_pre_attn_scalar": 8,
    }

    def build(self) -> tuple[Any, Any]:
        transformers.AttentionInterface.register("zoo_exact", exact_attention)
        transformers.AttentionMaskInterface.register("zoo_exact", ALL_MASK_ATTENTION_FUNCTIONS["eager"])
        model, processor = super().build()
        model.config.text_config._attn_implementation = "zoo_exact"
        return model, processor


MEMBERS = [Gemma3(), Gemma4(), Gemma4Small(), PaliGemma(), PaliGemma2()]
