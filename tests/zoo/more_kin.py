"""VipLLaVA, LLaVA-NeXT-Video, Aya Vision, Command A Vision, DeepSeek-VL and Idefics2 in small.

Image processors that exist for torchvision alone have a stand-in here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from PIL import Image

from tests.zoo.idefics_kin import TEMPLATE as IDEFICS_TEMPLATE
from tests.zoo.llava_kin import NO_UNK, Frames, image_processor, real, text_config, vision_config
from tests.zoo.member import picture
from tests.zoo.qwen_kin import LivelyMember
from tests.zoo.words import one_unk, word_tokenizer

LLAMA_SPECIALS = ["<pad>", "<s>", "</s>", "<unk>"]


class Kin(LivelyMember):
    """A family whose model is made from one configuration.

    Attributes:
        family: the prefix of its classes' names.
    """

    family = ""

    @property
    def model_class(self) -> str:  # type: ignore[override]
        return f"{self.family}ForConditionalGeneration"

    def made(self, **parts: Any) -> Any:
        """The model with its weights."""
        config = getattr(transformers, f"{self.family}Config")(tie_word_embeddings=False, **parts)
        with torch.random.fork_rng(devices=[]):
            model = getattr(transformers, self.model_class)(config)
        return self.finish(model)


class Tiles:
    """In place of an image processor that needs torchvision: an image's two halves, and the whole behind them.

    Args:
        nested: whether an image's tiles are a dimension of their own; else those of all images are in one list.
        facts: what the family's image processor says besides, once for each image.
        shown: attributes that the family's processor looks at.
    """

    model_input_names = ("pixel_values",)

    def __init__(self, *, nested: bool = False, facts: dict[str, Any] | None = None, **shown: Any) -> None:
        self.nested, self.facts = nested, facts or {}
        vars(self).update(shown)

    def fetch_images(self, images: Any) -> Any:
        return images

    def __call__(self, images: Any, **_: Any) -> Any:
        flat = [image for row in images for image in (row if isinstance(row, (list, tuple)) else [row])]
        cuts = [(0, 0, 8, 16), (8, 0, 16, 16), (0, 0, 16, 16)]
        tiles = np.stack([[np.asarray(image.crop(cut).resize((16, 16))) for cut in cuts] for image in flat])
        pixels = torch.as_tensor(tiles).permute(0, 1, 4, 2, 3) / 127.5 - 1.0
        facts = {name: [fact] * len(flat) for name, fact in self.facts.items()}
        return transformers.BatchFeature({"pixel_values": pixels if self.nested else pixels.flatten(0, 1), **facts})


class WithUnk(Kin):
    def unk_ids(self, processor: Any, question: str, images: int) -> list[int]:
        return one_unk(processor.tokenizer, self.prompt(processor, question, images), processor.image_token)


class VipLlava(WithUnk):
    name = "VipLLaVA"
    family = "VipLlava"
    template = (
        "{% for message in messages %}{% if message['role'] == 'user' %}###Human: "
        "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] }}{% endfor %}"
        "{% endif %}{% endfor %}{% if add_generation_prompt %}###Assistant:{% endif %}"
    )

    def build(self) -> tuple[Any, Any]:
        tokenizer = word_tokenizer(
            [*LLAMA_SPECIALS, "<image>"], ["\n", "###Human:", "###Assistant:"], image_token="<image>"
        )
        processor = transformers.LlavaProcessor(
            image_processor=image_processor(
                "CLIPImageProcessor", size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
            ),
            tokenizer=tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=self.template,
        )
        model = self.made(
            vision_config=vision_config("CLIPVision"),
            text_config=text_config("Llama", len(tokenizer)),
            image_token_index=processor.image_token_id,
            vision_feature_layers=[-2, 1],
        )
        return model, processor


class LlavaNextVideo(WithUnk):
    name = "LLaVA-NeXT-Video"
    family = "LlavaNextVideo"
    notes = "videos too"
    template = (
        "{% for message in messages %}{{ message['role'] | upper + ': ' }}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'video') %}<video>\n{% endfor %}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )
    grids = ([32, 16], [16, 32], [32, 32])

    def build(self) -> tuple[Any, Any]:
        tokenizer = word_tokenizer(
            [*LLAMA_SPECIALS, "<image>", "<video>"],
            ["\n", "USER:", "ASSISTANT:"],
            image_token="<image>",
            video_token="<video>",
        )
        processor = real(
            transformers.LlavaNextVideoProcessor,
            video_processor=Frames(),
            image_processor=image_processor(
                "LlavaNextImageProcessor",
                size={"shortest_edge": 16},
                crop_size={"height": 16, "width": 16},
                image_grid_pinpoints=list(self.grids),
            ),
            tokenizer=tokenizer,
            patch_size=4,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=self.template,
        )
        model = self.made(
            vision_config=vision_config("CLIPVision", patch_size=4),
            text_config=text_config("Llama", len(tokenizer)),
            image_token_index=processor.image_token_id,
            video_token_index=processor.video_token_id,
            image_grid_pinpoints=list(self.grids),
        )
        return model, processor

    def video_inputs(self, processor: Any, question: str) -> Any:
        """What `generate` takes for a question about two random frames."""
        content = [{"type": "video"}, {"type": "text", "text": question}]
        text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        frames = np.stack([np.asarray(picture(seed)) for seed in (41, 42)])
        return processor(text=[text], videos=[frames], padding=True, return_tensors="pt").to(torch.float64)


class AyaVision(Kin):
    name = "Aya Vision"
    family = "AyaVision"
    weights: ClassVar[dict[str, Any]] = {"seed": 11}
    references = NO_UNK
    tiles = ("TILE", *(f"TILE_{number}" for number in range(1, 10)), "TILE_GLOBAL")
    template = (
        "{{ bos_token }}<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>it has no image .<|END_OF_TURN_TOKEN|>"
        "{%- for message in messages -%}<|START_OF_TURN_TOKEN|>"
        "{{ message.role | replace('user', '<|USER_TOKEN|>')"
        " | replace('assistant', '<|CHATBOT_TOKEN|><|START_RESPONSE|>') }}"
        "{%- for item in message.content | selectattr('type', 'equalto', 'image') -%}<image>{%- endfor -%}"
        "{%- for item in message.content | selectattr('type', 'equalto', 'text') -%}{{ item.text }}{%- endfor -%}"
        "<|END_OF_TURN_TOKEN|>{%- endfor -%}"
        "{%- if add_generation_prompt -%}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|><|START_RESPONSE|>{%- endif -%}"
    )
    around = ("<|START_OF_IMG|>", "<|END_OF_IMG|>", "<|IMG_PATCH|>", "<|IMG_LINE_BREAK|>")
    roles = ("<|START_OF_TURN_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|START_RESPONSE|>")

    def tokenizer(self, **named: Any) -> Any:
        specials = ["<PAD>", "<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", *self.roles, *self.around, *self.tiles, "<image>"]
        return word_tokenizer(specials, unk=None, **named)

    def text(self, vocab: int) -> Any:
        return text_config("Cohere2", vocab, layer_types=["sliding_attention", "full_attention"], sliding_window=8)

    def build(self) -> tuple[Any, Any]:
        tokenizer = self.tokenizer()
        processor = transformers.AyaVisionProcessor(
            image_processor=image_processor(
                "GotOcr2ImageProcessor", size={"height": 16, "width": 16}, min_patches=2, max_patches=4
            ),
            tokenizer=tokenizer,
            patch_size=4,
            img_size=16,
            downsample_factor=2,
            chat_template=self.template,
        )
        model = self.made(
            vision_config=vision_config("SiglipVision", patch_size=4, vision_use_head=False),
            text_config=self.text(len(tokenizer)),
            image_token_index=processor.image_token_id,
            downsample_factor=2,
        )
        return model, processor


class Cohere2Vision(AyaVision):
    name = "Command A Vision"
    family = "Cohere2Vision"
    weights: ClassVar[dict[str, Any]] = {"seed": 3}
    template = AyaVision.template.replace("<image>", "<|IMG_PATCH|>")

    def build(self) -> tuple[Any, Any]:
        names = ("boi_token", "eoi_token", "image_token", "img_line_break_token")
        tokenizer = self.tokenizer(**dict(zip(names, self.around, strict=True)))
        processor = real(
            transformers.Cohere2VisionProcessor,
            image_processor=Tiles(facts={"num_patches": 3}, patch_size=2),
            tokenizer=tokenizer,
            chat_template=self.template,
        )
        model = self.made(
            vision_config=vision_config("SiglipVision", patch_size=4, vision_use_head=False),
            text_config=self.text(len(tokenizer)),
            image_token_id=processor.image_token_id,
            downsample_factor=2,
            alignment_intermediate_size=32,
        )
        return model, processor


class DeepseekVL(Kin):
    name = "DeepSeek-VL"
    family = "DeepseekVL"
    weights: ClassVar[dict[str, Any]] = {"seed": 2}
    references = NO_UNK
    template = (
        "{{ bos_token }}it has one image .{{ '\n\n' }}"
        "{% for message in messages %}{{ message['role'] | capitalize + ': ' }}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image_placeholder>"
        "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '\n\n' }}{% endfor %}"
        "{% if add_generation_prompt %}Assistant:{% endif %}"
    )

    def build(self) -> tuple[Any, Any]:
        tokenizer = word_tokenizer(
            ["<pad>", "<bos>", "<eos>", "<image_placeholder>"],
            ["\n", "User:", "Assistant:"],
            unk=None,
            image_token="<image_placeholder>",
        )
        processor = transformers.DeepseekVLProcessor(
            image_processor("DeepseekVLImageProcessor", size={"height": 16, "width": 16}, min_size=4),
            tokenizer,
            chat_template=self.template,
            num_image_tokens=4,
        )
        model = self.made(
            vision_config=vision_config("SiglipVision"),
            text_config=text_config("Llama", len(tokenizer)),
            image_token_id=tokenizer.image_token_id,
        )
        return model, processor


class Idefics2(Kin):
    name = "Idefics2"
    family = "Idefics2"
    references = ("none", "mask", "noise", "one")  # an image of zeros is padding; adjoining images are one block
    notes = "takes an image of zeros for padding"
    vision: ClassVar[dict[str, Any]] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 16,
        "patch_size": 4,
    }

    def build(self) -> tuple[Any, Any]:
        tokenizer = word_tokenizer(
            [*LLAMA_SPECIALS, "<fake_token_around_image>", "<image>", "<end_of_utterance>"],
            ["\n", "User", "Assistant", ":"],
        )
        processor = transformers.Idefics2Processor(
            image_processor(
                "Idefics2ImageProcessor", size={"shortest_edge": 8, "longest_edge": 16}, do_image_splitting=True
            ),
            tokenizer,
            image_seq_len=3,
            chat_template=IDEFICS_TEMPLATE,
        )
        perceiver = {"resampler_n_latents": 3, "resampler_depth": 1, "resampler_n_heads": 2, "resampler_head_dim": 8}
        model = self.made(
            vision_config=self.vision,
            perceiver_config={**perceiver, "num_key_value_heads": 1, "hidden_size": 32},
            text_config=text_config("Mistral", len(tokenizer), sliding_window=None),
            image_token_id=processor.image_token_id,
        )
        return model, processor

    def inputs(self, processor: Any, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
        text = [self.prompt(processor, q, len(own)) for q, own in zip(questions, pictures, strict=True)]
        images = {"images": [list(own) for own in pictures]} if any(pictures) else {}
        return processor(text=text, **images, padding=True, return_tensors="pt", add_special_tokens=False).to(
            torch.float64
        )


MEMBERS = [
    VipLlava(),
    LlavaNextVideo(),
    AyaVision(),
    Cohere2Vision(),
    DeepseekVL(),
    Idefics2(),
]
