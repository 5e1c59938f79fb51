"""Janus: its `generate` leaves out a caller's processors; `GenerationMixin.generate(model, ...)` does not."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import transformers
from PIL import Image
from tokenizers.processors import TemplateProcessing

from tests.zoo.qwen_kin import LivelyMember, unchecked
from tests.zoo.words import WORDS, word_tokenizer

SPECIALS = (
    "<\uff5c\u2581pad\u2581\uff5c>",
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<image_placeholder>",
    "<begin_of_image>",
    "<end_of_image>",
    "<|User|>",
    "<|Assistant|>",
)
TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'user' %}<|User|>: {% else %}<|Assistant|>: {% endif %}"
    "{% for content in message['content'] %}{% if content['type'] == 'image' %}"
    "{% if not loop.first %}{{ '\n' }}{% endif %}<image_placeholder>{% if not loop.last %}{{ '\n' }}{% endif %}"
    "{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}"
    "{% if not loop.last or add_generation_prompt %}{% if message['role'] == 'user' %}{{ '\n\n' }}"
    "{% else %}" + SPECIALS[2] + "{% endif %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|>:{% endif %}"
)


class Janus(LivelyMember):
    """The published tokenizer puts a start token before the prompt and the processor a system prompt; it has no unk."""

    name = "Janus"
    model_class = "JanusForConditionalGeneration"
    references = ("none", "mask", "noise", "zero", "one")
    weights: ClassVar[dict[str, Any]] = {"seed": 5}
    notes = "by `vdd.generate` or `vdd.patch`: its own generate drops processors"

    def build(self) -> tuple[Any, Any]:
        from transformers.models.janus.processing_janus import DEFAULT_SYSTEM_PROMPT

        system_words = [word for word in re.findall(r"\w+", DEFAULT_SYSTEM_PROMPT) if word not in WORDS]
        tokenizer = word_tokenizer(
            SPECIALS,
            ("\n", ":", *system_words),
            unk=None,
            image_token=SPECIALS[3],
            boi_token=SPECIALS[4],
            eoi_token=SPECIALS[5],
        )
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{SPECIALS[1]} $A", special_tokens=[(SPECIALS[1], 1)]
        )
        by_pil = getattr(transformers, "JanusImageProcessorPil", None)
        processor = unchecked(transformers.JanusProcessor)(
            image_processor=(by_pil or transformers.JanusImageProcessor)(size={"height": 16, "width": 16}, min_size=4),
            tokenizer=tokenizer,
            chat_template=TEMPLATE,
            use_default_system_prompt=True,
        )
        processor.num_image_tokens = 4
        text = {
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
        }
        vision = {
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 16,
            "patch_size": 8,
            "mlp_ratio": 2.0,
            "projection_dim": 32,
            "num_image_tokens": 4,
        }
        drawing = {
            "num_embeddings": 8,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "projection_dim": 32,
            "image_token_embed_dim": 32,
        }
        config = transformers.JanusConfig(
            text_config=text,
            vision_config=vision,
            vq_config=drawing,
            image_token_id=tokenizer.image_token_id,
            tie_word_embeddings=False,
        )
        with torch.random.fork_rng(devices=[]):
            model = transformers.JanusForConditionalGeneration(config)
        return self.finish(model), processor

    def inputs(self, processor: Any, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
        text = [self.prompt(processor, q, len(own)) for q, own in zip(questions, pictures, strict=True)]
        images = [image for own in pictures for image in own]
        kwargs = {"images": images} if images else {}
        return processor(text=text, **kwargs, padding=True, return_tensors="pt").to(torch.float64)

    def blind_ids(self, processor: Any, question: str) -> list[int]:
        return list(processor(text=[self.prompt(processor, question, 0)]).input_ids[0].tolist())


MEMBERS = [Janus()]
