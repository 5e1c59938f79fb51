"""InstructBLIP with a decoder (Vicuna) and with T5, and BLIP-2 with OPT in small.

A Q-Former turns every row's one image into query tokens, which the processor writes before everything else, padding
included. The whole model wants pixels; its `generate` hands over to `model.language_model`, which reads text alone.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from PIL import Image
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from tests.zoo.member import REFERENCES, Member, set_weights
from tests.zoo.words import word_tokenizer

NO_UNK = tuple(name for name in REFERENCES if name not in ("unk", "both"))
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
QUERIES = 4


def wrapped(tokenizer: Any, before: str = "", after: str = "") -> Any:
    """`tokenizer`, which from now on writes these special tokens around a text."""
    ids = [(token, tokenizer.convert_tokens_to_ids(token)) for token in (before, after) if token]
    pieces = [*([before] if before else []), "$A", *([after] if after else [])]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=" ".join(pieces), special_tokens=ids)
    return tokenizer


def image_processor(side: int = 16) -> Any:
    """The numpy version, which transformers 5 names apart."""
    name = "BlipImageProcessor"
    cls = getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)
    return cls(size={"height": side, "width": side})


def finished(model: Any, *parts: Any, seed: int = 7, never: int | None = None) -> Any:
    """The model with the tests' weights, norms around 1 for livelier scores.

    Args:
        model: of random weights.
        parts: what generates in its place.
        seed: of the weights.
        never: an image token's id; written behind a prompt, the whole model would look for its image.
    """
    set_weights(model, seed)
    if never is not None:
        model.get_output_embeddings().weight.data[never] = 0.0
    for name, parameter in model.named_parameters():
        if "norm" in name.lower() and name.endswith("weight"):
            parameter.data += 1.0
    for part in (model, *parts):
        part.generation_config.pad_token_id = 0
        part.generation_config.eos_token_id = 2
    return model.to(torch.float64).eval()


class Blip(Member):
    max_images = 1
    mixed = False
    kind = ""
    seed = 7  # of weights that do not repeat themselves
    specials = ("<pad>", "<s>", "</s>", "<unk>", "<image>")

    def text_config(self, vocab: int) -> Any:
        raise NotImplementedError

    def tokenizer(self) -> Any:
        raise NotImplementedError

    def processor(self, tokenizer: Any) -> Any:
        raise NotImplementedError

    def qformer(self) -> dict[str, Any]:
        return {**SIZES, "encoder_hidden_size": 16, "max_position_embeddings": 64}

    def build(self) -> tuple[Any, Any]:
        tokenizer = self.tokenizer()
        vision = {**SIZES, "image_size": 16, "patch_size": 8}
        config = getattr(transformers, f"{self.kind}Config")(
            vision_config=getattr(transformers, f"{self.kind}VisionConfig")(**vision).to_dict(),
            qformer_config=getattr(transformers, f"{self.kind}QFormerConfig")(**self.qformer()).to_dict(),
            text_config=self.text_config(len(tokenizer)).to_dict(),
            num_query_tokens=QUERIES,
            image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        )
        with torch.random.fork_rng(devices=[]):
            model = getattr(transformers, self.model_class)(config)
        finished(model, model.language_model, seed=self.seed, never=config.image_token_index)
        return model, self.processor(tokenizer)

    def prompt(self, processor: Any, question: str, images: int) -> str:
        return question

    def inputs(self, processor: Any, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
        text = [self.prompt(processor, q, len(own)) for q, own in zip(questions, pictures, strict=True)]
        images = [image for own in pictures for image in own]
        return processor(text=text, images=images, padding=True, return_tensors="pt").to(torch.float64)

    def blind_ids(self, processor: Any, question: str) -> list[int]:
        return list(processor.tokenizer(self.prompt(processor, question, 0)).input_ids)

    def blind_logits(self, model: Any, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        return super().blind_logits(model.language_model, ids, tokens)


class InstructBlip(Blip):
    name = "InstructBLIP (Vicuna)"
    model_class = "InstructBlipForConditionalGeneration"
    kind = "InstructBlip"
    references = NO_UNK  # the published unknown token is the end token
    notes = "its unknown token is its end token"

    def text_config(self, vocab: int) -> Any:
        return transformers.LlamaConfig(
            vocab_size=vocab,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )

    def tokenizer(self) -> Any:
        tokenizer = word_tokenizer(self.specials, unk="</s>")
        tokenizer.bos_token = "</s>"
        return wrapped(tokenizer, before="</s>")

    def qformer(self) -> dict[str, Any]:
        return {**super().qformer(), "vocab_size": len(self.qformer_tokenizer()), "pad_token_id": 0}

    def qformer_tokenizer(self) -> Any:
        tokenizer = word_tokenizer(("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[DEC]"), unk="[UNK]")
        tokenizer.padding_side = "right"
        return wrapped(tokenizer, "[CLS]", "[SEP]")

    def inputs(self, processor: Any, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
        inputs = super().inputs(processor, questions, pictures)
        text = [self.prompt(processor, question, 1) for question in questions]
        own = processor.qformer_tokenizer(text, padding=True, return_tensors="pt")
        # the processor pads these on the other tokenizer's side, which would shift the Q-Former's positions
        inputs["qformer_input_ids"], inputs["qformer_attention_mask"] = own.input_ids, own.attention_mask
        return inputs

    def processor(self, tokenizer: Any) -> Any:
        return transformers.InstructBlipProcessor(
            image_processor=image_processor(),
            tokenizer=tokenizer,
            qformer_tokenizer=self.qformer_tokenizer(),
            num_query_tokens=QUERIES,
        )


class InstructBlipT5(InstructBlip):
    name = "InstructBLIP (T5)"
    counts_columns = True
    references = REFERENCES
    seed = 36
    notes = "encoder-decoder: wants `inputs=`"

    def text_config(self, vocab: int) -> Any:
        return transformers.T5Config(
            vocab_size=vocab,
            d_model=32,
            d_kv=8,
            d_ff=64,
            num_layers=2,
            num_heads=4,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=2,
            decoder_start_token_id=0,
        )

    def tokenizer(self) -> Any:
        tokenizer = word_tokenizer(self.specials, bos=False)
        tokenizer.padding_side = "right"  # the encoder's relative positions are columns
        return wrapped(tokenizer, after="</s>")

    def unk_ids(self, processor: Any, question: str, images: int) -> list[int]:
        return [processor.tokenizer.unk_token_id] * images + self.blind_ids(processor, question)

    @torch.no_grad()
    def blind_logits(self, model: Any, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        row, own = torch.tensor([list(ids)]), torch.tensor([[0, *tokens]])
        language = copy.deepcopy(model.language_model)
        output = language(input_ids=row, attention_mask=torch.ones_like(row), decoder_input_ids=own, use_cache=False)
        return output.logits[0, -1].double()

    @torch.no_grad()
    def seen_logits(self, model: Any, inputs: Any, tokens: Sequence[int]) -> Tensor:
        own = torch.tensor([[0, *tokens]])
        return copy.deepcopy(model)(**inputs, decoder_input_ids=own, use_cache=False).logits[0, -1].double()


class Blip2(Blip):
    name = "BLIP-2 (OPT)"
    model_class = "Blip2ForConditionalGeneration"
    kind = "Blip2"
    references = NO_UNK  # the published unknown token is the end token
    seed = 32
    notes = "its unknown token is its end token"

    def text_config(self, vocab: int) -> Any:
        return transformers.OPTConfig(
            vocab_size=vocab,
            hidden_size=32,
            word_embed_proj_dim=32,
            ffn_dim=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=256,
            pad_token_id=0,
            bos_token_id=2,
            eos_token_id=2,
        )

    def tokenizer(self) -> Any:
        tokenizer = word_tokenizer(self.specials, ("\n", "Question:", "Answer:"), unk="</s>")
        tokenizer.bos_token = "</s>"
        return wrapped(tokenizer, before="</s>")

    def processor(self, tokenizer: Any) -> Any:
        return transformers.Blip2Processor(
            image_processor=image_processor(), tokenizer=tokenizer, num_query_tokens=QUERIES
        )

    def prompt(self, processor: Any, question: str, images: int) -> str:
        return f"Question: {question} Answer:"


MEMBERS = [InstructBlip(), InstructBlipT5(), Blip2()]
