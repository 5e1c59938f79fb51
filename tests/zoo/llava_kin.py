"""LLaVA-1.5, LLaVA-NeXT, LLaVA-OneVision, Pixtral, Mistral3, InternVL and Aria in small.

All of them put image features into the places of one placeholder id and count positions over the whole sequence,
so the defaults of `Member` hold. What differs: tiles, image sizes, and the tokens written around an image.
"""

from __future__ import annotations

import copy
import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

from tests.tiny import tiny_llava
from tests.zoo.member import REFERENCES, Member, picture, set_weights
from tests.zoo.words import one_unk, word_tokenizer

NO_UNK = tuple(name for name in REFERENCES if name not in ("unk", "both"))
PLAIN = ("\n", "user", "assistant")


def text_config(name: str, vocab: int, **more: Any) -> Any:
    """A decoder of two layers: `name` is the prefix of its config class."""
    return getattr(transformers, f"{name}Config")(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
        **more,
    )


def vision_config(name: str, **more: Any) -> Any:
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return getattr(transformers, f"{name}Config")(**{**sizes, "image_size": 16, "patch_size": 8, **more})


def finished(make: Callable[[], Any], seed: int) -> Any:
    """The model that `make` gives, with the tests' weights and generation config."""
    with torch.random.fork_rng(devices=[]):
        model = make()
    set_weights(model, seed)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = 2
    return model.to(torch.float64).eval()


def image_processor(name: str, **more: Any) -> Any:
    """The numpy version of an image processor, which transformers 5 names apart."""
    return (getattr(transformers, f"{name}Pil", None) or getattr(transformers, name))(**more)


def real(cls: Any, **parts: Any) -> Any:
    """A processor whose video processor may be a stand-in: the published ones need torchvision."""
    with mock.patch.object(cls, "check_argument_for_proper_class"):
        return cls(**parts)


class Frames:
    """A video processor: frames of the right size as they are, scaled to -1 … 1."""

    model_input_names = ("pixel_values_videos",)

    def __call__(self, videos: Any, **_: Any) -> Any:
        videos = [videos] if isinstance(videos, np.ndarray) else list(videos)
        pixels = torch.stack([torch.as_tensor(video).permute(0, 3, 1, 2) / 127.5 - 1.0 for video in videos])
        return transformers.BatchFeature({"pixel_values_videos": pixels})


class Kin(Member):
    seed = 7  # each its own, such that the tokens of different questions and images differ

    @torch.no_grad()
    def seen_logits(self, model: Any, inputs: Any, tokens: Sequence[int]) -> Tensor:
        """As the base has it, but a generated token is a word, even where its id is the image placeholder's."""
        model = copy.deepcopy(model)
        decoder, caught = model.model.language_model, []
        decoder.register_forward_pre_hook(
            lambda _, args, given: caught.append(given["inputs_embeds"]), with_kwargs=True
        )
        model(**inputs, use_cache=False)
        words = model.get_input_embeddings()(torch.tensor([list(tokens)], dtype=torch.long))
        hidden = decoder(inputs_embeds=torch.cat([caught[0], words], dim=1), use_cache=False).last_hidden_state
        return model.lm_head(hidden[:, -1:])[0, -1].double()


class Llava(Kin):
    name = "LLaVA-1.5"
    seed = 38
    model_class = "LlavaForConditionalGeneration"

    def build(self) -> tuple[Any, Any]:
        return tiny_llava(self.seed)

    def unk_ids(self, processor: Any, question: str, images: int) -> list[int]:
        return one_unk(processor.tokenizer, self.prompt(processor, question, images), processor.image_token)


class LlavaNext(Llava):
    name = "LLaVA-NeXT"
    seed = 12
    model_class = "LlavaNextForConditionalGeneration"
    template = (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
        "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
        " [/INST]{% endif %}{% endfor %}"
    )
    grids = ([32, 16], [16, 32], [32, 32])

    def build(self) -> tuple[Any, Any]:
        from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration, LlavaNextProcessor

        tokenizer = word_tokenizer(
            ["<pad>", "<s>", "</s>", "<unk>", "<image>"], ["\n", "[INST]", "[/INST]"], image_token="<image>"
        )
        processor = LlavaNextProcessor(
            image_processor=image_processor(
                "LlavaNextImageProcessor",
                size={"shortest_edge": 16},
                crop_size={"height": 16, "width": 16},
                image_grid_pinpoints=list(self.grids),
            ),
            tokenizer=tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=self.template,
        )
        config = LlavaNextConfig(
            tie_word_embeddings=False,
            vision_config=vision_config("CLIPVision"),
            text_config=text_config("Mistral", len(tokenizer), sliding_window=None),
            image_token_index=processor.image_token_id,
            image_grid_pinpoints=list(self.grids),
            vision_feature_layer=-2,
        )
        return finished(lambda: LlavaNextForConditionalGeneration(config), self.seed), processor


class LlavaOnevision(Kin):
    name = "LLaVA-OneVision"
    seed = 55
    model_class = "LlavaOnevisionForConditionalGeneration"
    references = NO_UNK  # Qwen2's tokenizer has no unknown token
    notes = "videos too"
    template = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }} "
        "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}<video>{% endfor %}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + part['text'] }}"
        "{% endfor %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    grids = ([32, 16], [16, 32], [32, 32])

    def build(self) -> tuple[Any, Any]:
        from transformers import (
            LlavaOnevisionConfig,
            LlavaOnevisionForConditionalGeneration,
            LlavaOnevisionProcessor,
        )

        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>", "<video>"]
        tokenizer = word_tokenizer(specials, PLAIN, unk=None, bos=False, image_token="<image>", video_token="<video>")
        processor = real(
            LlavaOnevisionProcessor,
            image_processor=image_processor(
                "LlavaOnevisionImageProcessor",
                size={"height": 16, "width": 16},
                image_grid_pinpoints=list(self.grids),
            ),
            tokenizer=tokenizer,
            video_processor=Frames(),
            num_image_tokens=4,
            vision_feature_select_strategy="full",
            chat_template=self.template,
        )
        config = LlavaOnevisionConfig(
            tie_word_embeddings=False,
            vision_config=vision_config("SiglipVision"),
            text_config=text_config("Qwen2", len(tokenizer)),
            image_token_index=processor.image_token_id,
            video_token_index=processor.video_token_id,
            image_grid_pinpoints=list(self.grids),
        )
        return finished(lambda: LlavaOnevisionForConditionalGeneration(config), self.seed), processor

    def inputs(self, processor: Any, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
        text = [self.prompt(processor, q, len(own)) for q, own in zip(questions, pictures, strict=True)]
        nested = [list(own) for own in pictures if own]  # nested: the count of a row says whether it is cut into tiles
        kwargs = {"images": nested} if nested else {}
        return processor(text=text, **kwargs, padding=True, return_tensors="pt").to(torch.float64)

    def video_inputs(self, processor: Any, question: str) -> Any:
        """What `generate` takes for a question about three random frames."""
        content = [{"type": "video"}, {"type": "text", "text": question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        frames = np.stack([np.asarray(picture(seed)) for seed in (41, 42, 43)])
        return processor(text=[text], videos=[frames], padding=True, return_tensors="pt").to(torch.float64)


def pixtral_processor(tokenizer: Any, template: str, **more: Any) -> Any:
    """The real class; transformers 5.23 shows it only beside torchvision, for one helper that its PIL version has."""
    package = "transformers.models.pixtral"
    hidden = f"{package}.image_processing_pixtral"
    if hasattr(transformers, "PixtralImageProcessorPil") and not transformers.utils.is_torchvision_available():
        sys.modules[hidden] = importlib.import_module(f"{package}.image_processing_pil_pixtral")
    try:
        cls = importlib.import_module(f"{package}.processing_pixtral").PixtralProcessor
    finally:
        if not transformers.utils.is_torchvision_available():
            sys.modules.pop(hidden, None)
    patch = more["patch_size"]
    images = image_processor(
        "PixtralImageProcessor", size={"longest_edge": 16}, patch_size={"height": patch, "width": patch}
    )
    return cls(image_processor=images, tokenizer=tokenizer, chat_template=template, **more)


def pixtral_tokenizer(*more: str) -> Any:
    return word_tokenizer(
        ["<pad>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]", *more]
    )


TURNS = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST]{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}[IMG]{% endif %}{% endfor %}[/INST]"
    "{% endif %}{% endfor %}"
)


class Pixtral(Llava):
    name = "Pixtral"
    seed = 57
    template = "{{ bos_token }}" + TURNS

    def build(self) -> tuple[Any, Any]:
        from transformers import LlavaConfig, LlavaForConditionalGeneration

        tokenizer = pixtral_tokenizer()
        processor = pixtral_processor(tokenizer, self.template, patch_size=8)
        config = LlavaConfig(
            tie_word_embeddings=False,
            vision_config=vision_config("PixtralVision"),
            text_config=text_config("Mistral", len(tokenizer), head_dim=8, sliding_window=None),
            image_token_index=processor.image_token_id,
            vision_feature_layer=-1,
            vision_feature_select_strategy="full",
        )
        return finished(lambda: LlavaForConditionalGeneration(config), self.seed), processor


class Mistral3(Llava):
    name = "Mistral3"
    seed = 27
    model_class = "Mistral3ForConditionalGeneration"
    template = "{{ bos_token }}[SYSTEM_PROMPT]it has no image .[/SYSTEM_PROMPT]" + TURNS

    def build(self) -> tuple[Any, Any]:
        from transformers import Mistral3Config, Mistral3ForConditionalGeneration

        tokenizer = pixtral_tokenizer("[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")
        processor = pixtral_processor(tokenizer, self.template, patch_size=4, spatial_merge_size=2)
        config = Mistral3Config(
            tie_word_embeddings=False,
            vision_config=vision_config("PixtralVision", patch_size=4),
            text_config=text_config("Mistral", len(tokenizer), head_dim=8, sliding_window=None),
            image_token_index=processor.image_token_id,
            vision_feature_layer=-1,
            spatial_merge_size=2,
        )
        return finished(lambda: Mistral3ForConditionalGeneration(config), self.seed), processor


class InternVL(Kin):
    name = "InternVL"
    seed = 3
    model_class = "InternVLForConditionalGeneration"
    references = NO_UNK
    template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
        "{% elif part['type'] == 'video' %}{{ '<video>\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )

    def build(self) -> tuple[Any, Any]:
        from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLProcessor

        around = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *around.values()]
        tokenizer = word_tokenizer(specials, PLAIN, unk=None, bos=False, **around)
        processor = real(
            InternVLProcessor,
            image_processor=image_processor(
                "GotOcr2ImageProcessor", size={"height": 16, "width": 16}, min_patches=1, max_patches=3
            ),
            tokenizer=tokenizer,
            video_processor=Frames(),
            image_seq_length=4,
            chat_template=self.template,
        )
        config = InternVLConfig(
            tie_word_embeddings=False,
            vision_config=vision_config("InternVLVision", image_size=[16, 16], patch_size=[4, 4]),
            text_config=text_config("Qwen2", len(tokenizer)),
            image_token_id=processor.image_token_id,
            image_seq_length=4,
        )
        return finished(lambda: InternVLForConditionalGeneration(config), self.seed), processor

    def inputs(self, processor: Any, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
        with warnings.catch_warnings():  # transformers 4 hands numpy a tensor
            warnings.filterwarnings("ignore", "__array_wrap__", DeprecationWarning)
            return super().inputs(processor, questions, pictures)


class Aria(Llava):
    name = "Aria"
    seed = 7
    model_class = "AriaForConditionalGeneration"
    template = (
        "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
        "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
        "{% elif part['type'] == 'image' %}<fim_prefix><|img|><fim_suffix>{% endif %}{% endfor %}"
        "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )

    def build(self) -> tuple[Any, Any]:
        from transformers import AriaConfig, AriaForConditionalGeneration, AriaProcessor

        specials = ["<pad>", "<|im_start|>", "<|im_end|>", "<unk>", "<fim_prefix>", "<fim_suffix>", "<|img|>"]
        tokenizer = word_tokenizer(specials, PLAIN, bos=False, image_token="<|img|>")
        processor = AriaProcessor(
            image_processor=image_processor("AriaImageProcessor", min_image_size=98),
            tokenizer=tokenizer,
            chat_template=self.template,
            size_conversion={980: 3},
        )
        config = AriaConfig(
            tie_word_embeddings=False,
            vision_config=vision_config("Idefics3Vision", image_size=980, patch_size=98),
            text_config=text_config("AriaText", len(tokenizer), moe_num_experts=4, moe_topk=2),
            projector_patch_to_query_dict={100: 3},
            image_token_index=processor.image_token_id,
        )
        model = finished(lambda: AriaForConditionalGeneration(config), self.seed)
        if hasattr(model, "set_experts_implementation"):
            model.set_experts_implementation("eager")  # the grouped one has no float64
        return model, processor


MEMBERS = [Llava(), LlavaNext(), LlavaOnevision(), Pixtral(), Mistral3(), InternVL(), Aria()]
