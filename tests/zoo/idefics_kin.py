"""Idefics3 and SmolVLM in small: images are split, so that row, column and global tokens stand in the prompt.

The processors are Idefics3's own. SmolVLM's own wants torchvision and num2words for its videos; a stand-in with its
attributes calls Idefics3's, which writes the same prompt and pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from tests.tiny import WORDS
from tests.zoo.member import Member, set_weights

TILES = ["<global-img>", *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))]
PLAIN = ["User", "Assistant", ":", "\n", "\n\n"]
TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def spaced_tokenizer(
    specials: Sequence[str], plain: Sequence[str], unk: str | None = None, **named: str
) -> transformers.PreTrainedTokenizerFast:
    """Words with and without a space before them are two tokens, so that ids give back their text to the letter.

    Args:
        specials: special tokens with the ids 0, 1, 2 …; the first three are pad, bos and eos.
        plain: other strings that are one token wherever they stand.
        unk: the unknown token, one of `specials`; None: there is none.
        named: tokens that the tokenizer names as attributes, as in `image_token="<image>"`.
    """
    words = [*WORDS, *(f" {word}" for word in WORDS), " "]
    vocabulary = {word: number for number, word in enumerate([*specials, *plain, *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, **({"unk_token": unk} if unk else {})))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(" ?[^ ?.,]+| ?[?.,]| "), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.add_special_tokens([AddedToken(word, normalized=False) for word in specials])
    backend.add_tokens([AddedToken(word, normalized=False) for word in plain])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=specials[0],
        bos_token=specials[1],
        eos_token=specials[2],
        **({"unk_token": unk} if unk else {}),
        **({"extra_special_tokens": named} if named else {}),
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def ids_of(processor: Any, text: str) -> list[int]:
    return list(processor.tokenizer(text, add_special_tokens=False).input_ids)


def finish(model: Any, processor: Any) -> tuple[Any, Any]:
    """Random weights, float64, the tests' ids; greedy decoding never says the image token.

    From scratch a generated image token would be taken for an image. Its score is the mean of the others'.
    """
    set_weights(model)
    head, image_id = model.lm_head.weight.data, model.config.image_token_id
    if image_id < len(head):
        head[image_id] = torch.cat([head[:image_id], head[image_id + 1 :]]).mean(0)
    model.generation_config.pad_token_id = 0
    model.generation_config.eos_token_id = 2
    return model.to(torch.float64).eval(), processor


def centre_norms(model: Any) -> None:
    """Move the weights of norm layers from around 0 to around 1: else every text and image looks alike."""
    for name, parameter in model.named_parameters():
        if "norm" in name and name.endswith("weight"):
            parameter.data += 1


class Nested(Member):
    """A family whose processor takes each row's images as a list of their own."""

    def inputs(self, processor: Any, questions: Any, pictures: Any) -> Any:
        text = [self.prompt(processor, q, len(own)) for q, own in zip(questions, pictures, strict=True)]
        images = {"images": [list(own) for own in pictures]} if any(pictures) else {}
        return processor(
            text=text, **images, padding=True, padding_side="left", return_tensors="pt", add_special_tokens=False
        ).to(torch.float64)


class Idefics3(Nested):
    name = "Idefics3"
    model_class = "Idefics3ForConditionalGeneration"
    references = ("none", "mask", "noise", "one")  # no unknown token; an image of zeros is padding
    notes = "takes an image of zeros for padding"

    kind = "Idefics3"
    specials = ("<|pad|>", "<|begin_of_text|>", "<|end_of_text|>", "<end_of_utterance>")
    tiles_special = False  # the published vocabulary spells them in pieces
    unk: str | None = None

    def processor(self) -> Any:
        specials = [*self.specials, "<fake_token_around_image>", "<image>", *(TILES if self.tiles_special else [])]
        plain = PLAIN if self.tiles_special else [*PLAIN, "<", "row_", "_col_", "global", "-img", ">", *"123456"]
        tokenizer = spaced_tokenizer(specials, plain, self.unk)
        pixels = getattr(transformers, "Idefics3ImageProcessorPil", None) or transformers.Idefics3ImageProcessor
        return transformers.Idefics3Processor(
            pixels(size={"longest_edge": 16}, max_image_size={"longest_edge": 8}),
            tokenizer,
            image_seq_len=4,
            chat_template=self.specials[1] + TEMPLATE,
        )

    def build(self) -> tuple[Any, Any]:
        processor = self.processor()
        vision = {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 2,
        }
        text = {
            "model_type": "llama",
            "vocab_size": len(processor.tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        config = getattr(transformers, f"{self.kind}Config")(
            vision_config=vision,
            text_config=text,
            scale_factor=2,
            image_token_id=processor.image_token_id,
            pad_token_id=0,
            tie_word_embeddings=False,
        )
        with torch.random.fork_rng(devices=[]):
            model = getattr(transformers, self.model_class)(config)
        model, processor = finish(model, processor)
        centre_norms(model)
        return model, processor


class SmolVLMStandIn:
    """What a SmolVLMProcessor shows and does."""

    fake_image_token = "<fake_token_around_image>"
    image_token = "<image>"
    end_of_utterance_token = "<end_of_utterance>"
    global_image_token = "<global-img>"
    video_token = "<video>"

    def __init__(self, twin: Any) -> None:
        self.twin = twin
        self.image_processor, self.tokenizer, self.chat_template = (
            twin.image_processor,
            twin.tokenizer,
            twin.chat_template,
        )
        self.image_seq_len, self.image_token_id = twin.image_seq_len, twin.image_token_id

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.twin(*args, **kwargs)

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        return self.twin.apply_chat_template(*args, **kwargs)


class SmolVLM(Idefics3):
    name = "SmolVLM"
    model_class = "SmolVLMForConditionalGeneration"
    references = ("none", "unk", "both", "mask", "noise", "one")  # an image of zeros is padding

    kind = "SmolVLM"
    specials = ("<|im_end|>", "<|im_start|>", "<end_of_utterance>", "<|endoftext|>")
    tiles_special = True
    unk = "<|endoftext|>"

    def processor(self) -> Any:
        return SmolVLMStandIn(super().processor())

    def unk_ids(self, processor: Any, question: str, images: int) -> list[int]:
        return ids_of(processor, self.prompt(processor, question, images).replace("<image>", self.unk))


MEMBERS = [Idefics3(), SmolVLM()]
