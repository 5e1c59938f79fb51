"""Qwen3-VL-MoE, Qwen3.5-MoE, GLM-4.5V and GLM-4.6V: three position axes as in their dense kin; and Llama 4: experts."""

from __future__ import annotations

from typing import Any, ClassVar

import transformers

from tests.zoo.llava_kin import NO_UNK, real, text_config, vision_config
from tests.zoo.more_kin import Kin, Tiles
from tests.zoo.qwen_kin import Glm4v, Qwen3VL, Qwen35
from tests.zoo.words import word_tokenizer


def by_one_expert_at_a_time(model: Any) -> Any:
    """The same model; the grouped way of calling experts has no float64."""
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")
    return model


def in_float64(_: Any, __: Any, routed: Any) -> Any:
    """A hook: the indices and weights of a router that rounds to float32, which transformers 4 adds experts up in."""
    return routed[0], routed[1].double()


def with_image_outputs(_: Any, __: Any, output: Any) -> None:
    """A hook: transformers 5.24 reads this of the output of Llama 4's text model, which has no such field."""
    if not hasattr(output, "image_outputs"):
        output.image_outputs = None


class Qwen3VLMoe(Qwen3VL):
    name = "Qwen3-VL-MoE"
    model_class = "Qwen3VLMoeForConditionalGeneration"
    config_class = "Qwen3VLMoeConfig"
    weights: ClassVar[dict[str, Any]] = {"seed": 5}
    text: ClassVar[dict[str, Any]] = {
        **Qwen3VL.text,
        "moe_intermediate_size": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }

    def finish(self, model: Any) -> Any:
        return by_one_expert_at_a_time(super().finish(model))


class Qwen35Moe(Qwen35):
    name = "Qwen3.5-MoE"
    model_class = "Qwen3_5MoeForConditionalGeneration"
    config_class = "Qwen3_5MoeConfig"
    weights: ClassVar[dict[str, Any]] = {"seed": 4, "std": 0.15}
    text: ClassVar[dict[str, Any]] = {
        **Qwen35.text,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }

    def finish(self, model: Any) -> Any:
        return by_one_expert_at_a_time(super().finish(model))


class Glm45v(Glm4v):
    name = "GLM-4.5V"
    model_class = "Glm4vMoeForConditionalGeneration"
    config_class = "Glm4vMoeConfig"
    text: ClassVar[dict[str, Any]] = {
        **Glm4v.text,
        "moe_intermediate_size": 16,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
    }

    def finish(self, model: Any) -> Any:
        if not hasattr(model, "set_experts_implementation"):
            model.model.language_model.layers[-1].mlp.gate.register_forward_hook(in_float64)
        return by_one_expert_at_a_time(super().finish(model))


class Glm46v(Glm4v):
    name = "GLM-4.6V"
    model_class = "Glm46VForConditionalGeneration"
    config_class = "Glm46VConfig"
    processor_class = "Glm46VProcessor"
    image_processor = "Glm46VImageProcessor"


class Llama4(Kin):
    """Chunked attention shorter than the prompt, a layer without positions, experts."""

    name = "Llama 4"
    family = "Llama4"
    weights: ClassVar[dict[str, Any]] = {"seed": 1}
    references = NO_UNK
    notes = "transformers itself fails: 5.23 on beams with an image, 5.24.0 on every forward"
    template = (
        "{{ bos_token }}{% for message in messages %}"
        "{{ '<|header_start|>' + message['role'] + '<|header_end|>\n\n' }}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}"
        "{% endif %}{% endfor %}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|header_start|>assistant<|header_end|>\n\n' }}{% endif %}"
    )
    chunk = 8

    def build(self) -> tuple[Any, Any]:
        around = ("<|image_start|>", "<|image_end|>", "<|patch|>")
        turns = ("<|header_start|>", "<|header_end|>", "<|tile_x_separator|>", "<|tile_y_separator|>", "<|image|>")
        tokenizer = word_tokenizer(
            ["<|finetune_right_pad|>", "<|begin_of_text|>", "<|eot|>", *around, *turns],
            ["\n", "user", "assistant"],
            unk=None,
        )
        processor = real(
            transformers.Llama4Processor,
            image_processor=Tiles(facts={"aspect_ratios": [1, 2]}),
            tokenizer=tokenizer,
            patch_size=4,
            chat_template=self.template,
        )
        start, end, patch = (tokenizer.convert_tokens_to_ids(token) for token in around)
        vision = vision_config("Llama4Vision", patch_size=4, intermediate_size=64)
        vision.vision_output_dim = vision.projector_input_dim = vision.projector_output_dim = 16
        text = text_config(
            "Llama4Text",
            len(tokenizer),
            head_dim=8,
            intermediate_size_mlp=48,
            num_local_experts=4,
            interleave_moe_layer_step=2,
            no_rope_layers=[1, 0],
            attention_chunk_size=self.chunk,
        )
        model = self.made(
            vision_config=vision,
            text_config=text,
            boi_token_index=start,
            eoi_token_index=end,
            image_token_index=patch,
        )
        return model, processor

    def finish(self, model: Any) -> Any:
        rotary = model.vision_model.rotary_embedding
        turns, rotary.freqs_ci = rotary.freqs_ci, None  # complex numbers, which have no float64
        model = super().finish(model)
        rotary.freqs_ci = turns
        model.language_model.register_forward_hook(with_image_outputs)
        model._supports_mm_encoder_outputs = bool  # what beams are handed in 5.23 fits no image of several tiles
        return model


MEMBERS = [Qwen3VLMoe(), Qwen35Moe(), Glm45v(), Glm46v(), Llama4()]
