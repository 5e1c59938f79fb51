"""Phi-4-multimodal, and Emu3 and Chameleon, which read an image as words of a codebook, in small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

from tests.zoo.blip_kin import finished, wrapped
from tests.zoo.llava_kin import real
from tests.zoo.member import REFERENCES, Member
from tests.zoo.words import one_unk, word_tokenizer

NO_UNK = tuple(name for name in REFERENCES if name not in ("unk", "both"))
CODES = 16


class Crops:
    """Phi-4's image processor without torchvision: a view of the whole, then crops of `side` pixels.

    Its numbers of tokens are the published ones' (256 of the whole, 16 ends of rows) for smaller crops.
    """

    model_input_names = ("image_pixel_values", "image_sizes", "image_attention_mask")
    side, patch = 16, 4

    def fetch_images(self, images: Any) -> Any:
        return images

    def __call__(self, images: Sequence[Image.Image], **_: Any) -> Any:
        side, grid = self.side, self.side // self.patch
        pixels, masks, sizes, counts = [], [], [], []
        for image in images:
            across, down = (max(1, -(-length // side)) for length in image.size)
            whole, large = (
                torch.from_numpy(np.array(image.resize(size)) / 127.5 - 1.0).permute(2, 0, 1)
                for size in ((side, side), (across * side, down * side))
            )
            crops = large.reshape(3, down, side, across, side).permute(1, 3, 0, 2, 4).reshape(-1, 3, side, side)
            pixels.append(torch.cat([whole[None], crops]))
            masks.append(torch.ones(len(crops) + 1, grid, grid))
            sizes.append([down * side, across * side])
            rows = grid // 2
            counts.append(rows * (rows + 1) + 1 + rows * down * (rows * across + 1))
        most = max(map(len, pixels))
        data = {
            "image_pixel_values": torch.stack([_padded(own, most, 0.0) for own in pixels]),
            "image_sizes": torch.tensor(sizes),
            "image_attention_mask": torch.stack([_padded(own, most, 1.0) for own in masks]),
            "num_img_tokens": counts,
        }
        return transformers.BatchFeature(data)


def _padded(crops: torch.Tensor, count: int, value: float) -> torch.Tensor:
    return torch.cat([crops, torch.full((count - len(crops), *crops.shape[1:]), value, dtype=crops.dtype)])


class Phi4(Member):
    name = "Phi-4-multimodal"
    counts_columns = True
    model_class = "Phi4MultimodalForCausalLM"
    references = NO_UNK  # the published unknown token is the end token
    seed = 33
    notes = "its unknown token is its end token"
    template = (
        "{% for message in messages %}<|{{ message['role'] }}|>{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<|image|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|end|>"
        "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )

    def image_places(self, model: Any, inputs: Any) -> Tensor:
        return inputs["input_ids"] == model.config.vision_config.image_token_id

    def build(self) -> tuple[Any, Any]:
        from transformers import Phi4MultimodalConfig, Phi4MultimodalFeatureExtractor, Phi4MultimodalForCausalLM
        from transformers.models.phi4_multimodal.processing_phi4_multimodal import Phi4MultimodalProcessor

        specials = ("<|pad|>", "<|user|>", "<|endoftext|>", "<|end|>", "<|assistant|>", "<|image|>", "<|audio|>")
        tokenizer = word_tokenizer(
            specials, unk="<|endoftext|>", bos=False, image_token="<|image|>", audio_token="<|audio|>"
        )
        processor = real(
            Phi4MultimodalProcessor,
            image_processor=Crops(),
            audio_processor=Phi4MultimodalFeatureExtractor(),
            tokenizer=tokenizer,
            chat_template=self.template,
        )
        config = Phi4MultimodalConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            original_max_position_embeddings=256,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=2,
            vision_config={
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": Crops.side,
                "patch_size": Crops.patch,
                "crop_size": Crops.side,
                "image_token_id": tokenizer.image_token_id,
            },
            audio_config={
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_blocks": 1,
                "num_attention_heads": 2,
                "nemo_conv_channels": 8,
                "ext_pw_out_channel": 16,
                "depthwise_separable_out_channel": 16,
                "input_size": 80,
                "audio_token_id": tokenizer.audio_token_id,
            },
        )
        with torch.random.fork_rng(devices=[]):
            model = Phi4MultimodalForCausalLM(config)
        return finished(model, seed=self.seed, never=tokenizer.image_token_id), processor


class Codebook(Member):
    def inputs(self, processor: Any, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
        text = [self.prompt(processor, q, len(own)) for q, own in zip(questions, pictures, strict=True)]
        images = [image for own in pictures for image in own]
        kwargs = {"images": images} if images else {}
        return processor(text=text, **kwargs, padding=True, return_tensors="pt").to(torch.float64)


class Emu3(Codebook):
    name = "Emu3"
    model_class = "Emu3ForConditionalGeneration"
    notes = "4.57 itself drops the image"
    template = (
        "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}<image>{% endfor %}"
        "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ part['text'] + ' ' }}"
        "{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
    )

    @property
    def available(self) -> bool:
        return super().available and not transformers.__version__.startswith("4.")  # whose forward drops the pixels

    def build(self) -> tuple[Any, Any]:
        from transformers import Emu3Config, Emu3ForConditionalGeneration, Emu3ImageProcessor, Emu3Processor

        around = {
            "image_token": "<image>",
            "boi_token": "<|image start|>",
            "eoi_token": "<|image end|>",
            "image_wrapper_token": "<|image token|>",
            "eof_token": "<|extra_201|>",
        }
        codes = [f"<|visual token {number:06d}|>" for number in range(CODES)]
        tokenizer = word_tokenizer(
            ("<|endoftext|>", "<|extra_203|>", "<|extra_204|>", "<|extra_200|>", *around.values(), *codes),
            ("USER:", "ASSISTANT:", "2", "*"),
            unk="<|endoftext|>",
            **around,
        )
        processor = real(
            Emu3Processor,
            image_processor=Emu3ImageProcessor(min_pixels=16 * 16, max_pixels=16 * 16),
            tokenizer=tokenizer,
            chat_template=self.template,
        )
        config = Emu3Config(
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 256,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
            vq_config={
                "codebook_size": CODES,
                "base_channels": 32,
                "channel_multiplier": [1, 1, 1, 1],
                "num_res_blocks": 1,
                "attn_resolutions": [],
                "hidden_size": 32,
                "temporal_downsample_factor": 1,
            },
            vocabulary_map=tokenizer.get_vocab(),
        )
        with torch.random.fork_rng(devices=[]):
            model = Emu3ForConditionalGeneration(config)
        return finished(model, never=config.image_token_id), processor

    def blind_ids(self, processor: Any, question: str) -> list[int]:
        return [processor.tokenizer.bos_token_id, *super().blind_ids(processor, question)]

    def unk_ids(self, processor: Any, question: str, images: int) -> list[int]:
        text = self.prompt(processor, question, images)
        return [processor.tokenizer.bos_token_id, *one_unk(processor.tokenizer, text, "<image>")]


class Chameleon(Codebook):
    name = "Chameleon"
    counts_columns = True
    model_class = "ChameleonForConditionalGeneration"

    def build(self) -> tuple[Any, Any]:
        from transformers import ChameleonConfig, ChameleonForConditionalGeneration
        from transformers.models.chameleon.processing_chameleon import ChameleonProcessor

        codes = [f"IMGIMG{''.join(chr(ord('A') + int(digit)) for digit in str(n))}Z" for n in range(CODES)]
        specials = ("<pad>", "<s>", "</s>", "<unk>", "<image>", "<racm3:break>", "<eoss>", "<reserved08706>")
        tokenizer = wrapped(word_tokenizer((*specials, *codes)), before="<s>")
        tokenizer.sep_token = "<reserved08706>"
        name = "ChameleonImageProcessor"
        images = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
        processor = real(
            ChameleonProcessor,
            image_processor=images(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
            tokenizer=tokenizer,
            image_seq_length=4,
        )
        config = ChameleonConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            vq_config={
                "embed_dim": 8,
                "num_embeddings": CODES,
                "latent_channels": 8,
                "resolution": 16,
                "base_channels": 32,
                "channel_multiplier": [1, 1, 1, 1],
                "num_res_blocks": 1,
            },
            vocabulary_map=tokenizer.get_vocab(),
        )
        with torch.random.fork_rng(devices=[]):
            model = ChameleonForConditionalGeneration(config)
        return finished(model, never=processor.image_token_id), processor

    def prompt(self, processor: Any, question: str, images: int) -> str:
        return question + "<image>" * images

    def blind_ids(self, processor: Any, question: str) -> list[int]:
        return list(processor.tokenizer(self.prompt(processor, question, 0) + "<reserved08706>").input_ids)

    def unk_ids(self, processor: Any, question: str, images: int) -> list[int]:
        text = f"<s>{self.prompt(processor, question, images)}<reserved08706>"
        return one_unk(processor.tokenizer, text, processor.image_token)


MEMBERS = [Phi4(), Emu3(), Chameleon()]
