"""Florence-2, an encoder-decoder, and Kosmos-2, whose text model reads images at marked places, in small."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor

from tests.zoo.blip_kin import finished, wrapped
from tests.zoo.llava_kin import real
from tests.zoo.member import Member
from tests.zoo.words import word_tokenizer


def image_processor(side: int = 16) -> Any:
    """The numpy version, which transformers 5 names apart."""
    name = "CLIPImageProcessor"
    cls = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    return cls(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


class Florence2(Member):
    name = "Florence-2"
    counts_columns = True
    model_class = "Florence2ForConditionalGeneration"
    max_images = 1
    mixed = False
    notes = "encoder-decoder: wants `inputs=`"

    def build(self) -> tuple[Any, Any]:
        from transformers import BartConfig, Florence2Config, Florence2ForConditionalGeneration, Florence2Processor

        tokenizer = word_tokenizer(("<pad>", "<s>", "</s>", "<unk>", "<image>"), image_token="<image>")
        tokenizer.padding_side = "right"  # the encoder's positions are columns
        images = image_processor()
        images.image_seq_length = 5  # four places and their mean
        config = Florence2Config(
            vision_config={
                "depths": (1, 1),
                "patch_size": (7, 3),
                "patch_stride": (4, 2),
                "patch_padding": (3, 1),
                "patch_prenorm": (False, True),
                "embed_dim": (8, 16),
                "num_heads": (2, 2),
                "num_groups": (2, 2),
                "window_size": 2,
                "projection_dim": 32,
            },
            text_config=BartConfig(
                vocab_size=len(tokenizer),
                d_model=32,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=4,
                decoder_attention_heads=4,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                max_position_embeddings=128,
                pad_token_id=0,
                bos_token_id=1,
                eos_token_id=2,
                decoder_start_token_id=2,
                forced_eos_token_id=None,
            ).to_dict(),
            image_token_id=tokenizer.image_token_id,
        )
        with torch.random.fork_rng(devices=[]):
            model = Florence2ForConditionalGeneration(config)
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())  # tied, it repeats what it reads
        processor = real(Florence2Processor, image_processor=images, tokenizer=wrapped(tokenizer, "<s>", "</s>"))
        finished(model)
        for name, parameter in model.model.language_model.decoder.named_parameters():
            if "out_proj" in name or "fc2" in name:
                parameter.data *= 0.2  # its norms come last: else all words look alike
        return model, processor

    def prompt(self, processor: Any, question: str, images: int) -> str:
        return question

    def inputs(self, processor: Any, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
        text = [self.prompt(processor, q, len(own)) for q, own in zip(questions, pictures, strict=True)]
        images = [image for own in pictures for image in own]
        return processor(text=text, images=images, padding=True, return_tensors="pt").to(torch.float64)

    def blind_ids(self, processor: Any, question: str) -> list[int]:
        return list(processor.tokenizer(self.prompt(processor, question, 0)).input_ids)

    def unk_ids(self, processor: Any, question: str, images: int) -> list[int]:
        return [processor.tokenizer.unk_token_id] * images + self.blind_ids(processor, question)

    @torch.no_grad()
    def blind_logits(self, model: Any, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        row = torch.tensor([list(ids)])
        return self.seen_logits(model, {"input_ids": row, "attention_mask": torch.ones_like(row)}, tokens)

    @torch.no_grad()
    def seen_logits(self, model: Any, inputs: Any, tokens: Sequence[int]) -> Tensor:
        own = torch.tensor([[2, *tokens]])
        return copy.deepcopy(model)(**inputs, decoder_input_ids=own, use_cache=False).logits[0, -1].double()


def causal_mask(mask: Tensor | None, shape: Any, embeds: Tensor, past: int) -> Tensor:
    """What Kosmos-2 adds to its attention scores; its own function overflows in float64."""
    width = shape[-1]
    sees = torch.ones(width, past + width, dtype=torch.bool).tril(past)[None, None]
    if mask is not None:
        sees = sees & mask[:, None, None].bool()
    lowest = torch.finfo(embeds.dtype).min
    return torch.zeros(sees.shape, dtype=embeds.dtype).masked_fill(~sees, lowest)


class Kosmos2(Member):
    name = "Kosmos-2"
    counts_columns = True
    padded = False  # its steps count the padding
    model_class = "Kosmos2ForConditionalGeneration"
    max_images = 1
    mixed = False
    seed = 22
    places = 4
    notes = "wants the processor; transformers itself misplaces padded rows"

    def build(self) -> tuple[Any, Any]:
        from transformers import Kosmos2Config, Kosmos2ForConditionalGeneration, Kosmos2Processor

        tokenizer = word_tokenizer(("<s>", "<pad>", "</s>", "<unk>"), ("\n", "Question:", "Answer:"))
        tokenizer.bos_token, tokenizer.pad_token = "<s>", "<pad>"  # their published ids
        processor = real(
            Kosmos2Processor, image_processor=image_processor(), tokenizer=tokenizer, num_patch_index_tokens=4
        )
        config = Kosmos2Config(
            vision_config={
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 16,
                "patch_size": 8,
            },
            text_config={
                "vocab_size": len(tokenizer),
                "embed_dim": 32,
                "layers": 2,
                "ffn_dim": 64,
                "attention_heads": 4,
                "max_position_embeddings": 128,
                "pad_token_id": 1,
                "bos_token_id": 0,
                "eos_token_id": 2,
                "tie_word_embeddings": False,
            },
            latent_query_num=self.places,
            tie_word_embeddings=False,
        )
        with torch.random.fork_rng(devices=[]):
            model = Kosmos2ForConditionalGeneration(config)
        model.text_model.model._prepare_decoder_attention_mask = causal_mask
        finished(model, model.text_model, seed=self.seed)
        model.image_to_text_projection.dense.weight.data *= 8.0  # it reads features of length 1
        return model, processor

    def prompt(self, processor: Any, question: str, images: int) -> str:
        return f"<grounding> Question: {question} Answer:"

    def inputs(self, processor: Any, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
        text = [self.prompt(processor, q, len(own)) for q, own in zip(questions, pictures, strict=True)]
        images = [image for own in pictures for image in own]
        return processor(text=text, images=images, num_image_tokens=self.places, padding=True, return_tensors="pt").to(
            torch.float64
        )

    def blind_ids(self, processor: Any, question: str) -> list[int]:
        return list(processor(text=self.prompt(processor, question, 0)).input_ids)

    def unk_ids(self, processor: Any, question: str, images: int) -> list[int]:
        first, *rest = self.blind_ids(processor, question)
        return [first, *[processor.tokenizer.unk_token_id] * images, *rest]

    def blind_logits(self, model: Any, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        return super().blind_logits(model.text_model, ids, tokens)

    def seen_logits(self, model: Any, inputs: Any, tokens: Sequence[int]) -> Tensor:
        where = inputs["image_embeds_position_mask"]
        given = {**inputs, "image_embeds_position_mask": torch.cat([where, where.new_zeros(1, len(tokens))], dim=1)}
        return super().seen_logits(model, given, tokens)

    def image_places(self, model: Any, inputs: Any) -> Tensor:
        return inputs["image_embeds_position_mask"].bool()


MEMBERS = [Florence2(), Kosmos2()]
