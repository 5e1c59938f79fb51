"""One family in small: a random model with its real processor, and what the family makes of a row from scratch.

Nothing here imports the project. The defaults fit a decoder-only model that reads text alone by itself; a family that
differs overrides them with what its own forward wants.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from torch import Tensor

TEXT_REFERENCES = ("none", "unk", "both", "mask")
REFERENCES = (*TEXT_REFERENCES, "noise", "zero", "one")


def picture(seed: int, width: int = 16, height: int = 16) -> Image.Image:
    """An RGB image of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8))


def set_weights(model: Any, seed: int = 7, std: float = 0.35) -> None:
    """The same random weights in every version of the libraries: drawn by name from a generator of their own."""
    generator = torch.Generator().manual_seed(seed)
    for _, parameter in sorted(model.named_parameters()):
        parameter.data.normal_(std=std, generator=generator)


class Member:
    """A family in small.

    Attributes:
        name: as in the README's table.
        model_class: name of the class in transformers; the family is absent where transformers has none.
        references: those that make sense for it; every other must give a clear error.
        max_images: images that one prompt may hold here (1 or 2).
        mixed: whether its processor and model take a batch in which some rows have an image and some none.
        padded: whether transformers itself gives padded rows their right positions.
        counts_columns: whether positions are those of the columns, whatever the attention mask says.
        notes: for the README's table, a few words.
    """

    name = ""
    model_class = ""
    references: tuple[str, ...] = REFERENCES
    max_images = 2
    mixed = True
    padded = True
    counts_columns = False
    notes = ""

    @property
    def available(self) -> bool:
        """Whether the installed transformers contains the family."""
        return hasattr(transformers, self.model_class)

    def build(self) -> tuple[Any, Any]:
        """(model, processor): float64, in eval mode, eos id 2 and pad id 0 in its generation config."""
        raise NotImplementedError

    def prompt(self, processor: Any, question: str, images: int) -> str:
        """The text of a user's turn with so many images; with 0, as it is rendered without any."""
        content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
        return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))

    def inputs(self, processor: Any, questions: Sequence[str], pictures: Sequence[Sequence[Image.Image]]) -> Any:
        """What `generate` takes: left-padded, pixels in float64; `pictures` are each row's, all or some may be none."""
        text = [self.prompt(processor, q, len(own)) for q, own in zip(questions, pictures, strict=True)]
        images = [image for own in pictures for image in own]
        kwargs = {"images": images} if images else {}
        return processor(
            text=text, **kwargs, padding=True, padding_side="left", return_tensors="pt", add_special_tokens=False
        ).to(torch.float64)

    def blind_ids(self, processor: Any, question: str) -> list[int]:
        """The prompt's ids rendered and tokenised without its images."""
        return list(processor.tokenizer(self.prompt(processor, question, 0), add_special_tokens=False).input_ids)

    def unk_ids(self, processor: Any, question: str, images: int) -> list[int]:
        """The prompt's ids with one `<unk>` for each image and whatever its processor writes around the image."""
        raise NotImplementedError

    def image_places(self, model: Any, inputs: Any) -> Tensor:
        """(rows, width): True where image or video features stand."""
        names = ("image_token_id", "video_token_id", "video_token_index")
        places = torch.tensor([getattr(model.config, name) for name in names if hasattr(model.config, name)])
        return torch.isin(inputs["input_ids"], places)

    @torch.no_grad()
    def blind_logits(self, model: Any, ids: Sequence[int], tokens: Sequence[int]) -> Tensor:
        """(vocab,) scores behind a text-only prompt and the tokens generated so far: no cache, no padding."""
        model = copy.deepcopy(model)  # some families keep state on the module
        row = torch.tensor([[*ids, *tokens]])
        return model(input_ids=row, attention_mask=torch.ones_like(row), use_cache=False).logits[0, -1].double()

    @torch.no_grad()
    def seen_logits(self, model: Any, inputs: Any, tokens: Sequence[int]) -> Tensor:
        """(vocab,) scores behind one row of `inputs` (batch of one, no padding) and the tokens so far: no cache."""
        model = copy.deepcopy(model)
        more = torch.tensor([list(tokens)], dtype=torch.long)
        given = dict(inputs)
        given["input_ids"] = torch.cat([given["input_ids"], more], dim=1)
        for name in ("attention_mask", "token_type_ids", "mm_token_type_ids"):
            if name in given:
                fill = torch.ones_like(more) if name == "attention_mask" else torch.zeros_like(more)
                given[name] = torch.cat([given[name], fill], dim=1)
        return model(**given, use_cache=False).logits[0, -1].double()
