"""A model as the image-free branch reads with it: one prefill, then steps, alike for every family.

Knows: how transformers' models are called, their caches. Does not know: references, memos, contrasts.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from vdd.families import Family
from vdd.reference import BlindPrompt


@dataclass
class State:
    """What a model keeps of the rows it has read.

    Attributes:
        cache: its KV cache (linear-attention states among them).
        context: (rows, …) tensors that every further step needs: an encoder's output and mask, a row of a cross
            attention mask.
        image_layers: numbers of the cache's layers that hold images instead of positions.
    """

    cache: Any
    context: dict[str, Tensor]
    image_layers: frozenset[int] = frozenset()

    def take(self, rows: Tensor) -> None:
        """Keep these rows, in this order; a row may be taken twice."""
        self.cache.reorder_cache(rows)
        self.context = {name: tensor[rows.to(tensor.device)] for name, tensor in self.context.items()}

    @property
    def can_roll_back(self) -> bool:
        """Whether the last positions can be forgotten: not in linear attention, nor past a sliding window's size."""
        return all(_can_crop(layer) for layer in self._layers)

    def roll_back(self, positions: int) -> None:
        """Forget so many of the last positions."""
        for layer in self._layers:
            if layer.get_seq_length():
                layer.crop(-positions)

    @property
    def _layers(self) -> list[Any]:
        """The layers with a column for each position."""
        layers = getattr(self.cache, "self_attention_cache", self.cache).layers
        return [layer for number, layer in enumerate(layers) if number not in self.image_layers]


class Reader:
    """Next-token scores of a vision-language model, with or without an image.

    Args:
        model: called with keyword arguments; never changed.
        family: its facts.
    """

    def __init__(self, model: Any, family: Family) -> None:
        self.model = model
        self.family = family
        part = family.adapter.text_model
        self.text_model = getattr(model, part) if part else model
        self._last_of_text = _last_only(self.text_model)

    def prefill(self, prompt: BlindPrompt) -> tuple[Tensor, State]:
        """Read the prompt.

        Returns:
            (rows, vocab) scores of the next token, and what the model keeps.
        """
        model = self.model if prompt.pixels else self.text_model
        given = {**prompt.extras, **prompt.pixels}
        if self.family.encoder_decoder:
            return self._prefill_decoder(model, prompt, given)
        config = self.text_model.config.get_text_config(decoder=True)
        output = _called(
            model,
            input_ids=prompt.input_ids,
            attention_mask=prompt.attention_mask,
            position_ids=prompt.position_ids,
            past_key_values=DynamicCache(config=config),
            **_last_only(model),
            **given,
        )
        image_layers = frozenset(getattr(config, "cross_attention_layers", None) or ())
        context = {name: given[name][:, -1:] for name in self.family.adapter.steps if name in given}
        return output.logits[:, -1], State(output.past_key_values, context, image_layers)

    def step(self, tokens: Tensor, mask: Tensor, positions: Tensor, state: State) -> Tensor:
        """Read on.

        Args:
            tokens: (rows, n) ids behind what was read.
            mask: (rows, read + n), 0 where nobody may attend.
            positions: (rows, n) or (3, rows, n).
            state: changed in place.

        Returns:
            (rows, vocab) scores of the next token.
        """
        read = mask.shape[1] - tokens.shape[1]
        widest = read if self.family.adapter.prefix else tokens.shape[1]
        for start in range(0, tokens.shape[1], widest):
            stop = min(start + widest, tokens.shape[1])
            scores = self._step(tokens[:, start:stop], mask[:, : read + stop], positions[..., start:stop], state)
        return scores

    def _step(self, tokens: Tensor, mask: Tensor, positions: Tensor, state: State) -> Tensor:
        if self.family.encoder_decoder:
            output = _called(
                self.text_model,
                encoder_outputs=BaseModelOutput(last_hidden_state=state.context["encoder_hidden"]),
                attention_mask=state.context["encoder_mask"],
                decoder_input_ids=tokens,
                past_key_values=state.cache,
            )
        else:
            width = tokens.shape[1]
            output = _called(
                self.text_model,
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=state.cache,
                **self._last_of_text,
                **{name: row.expand(-1, width, *row.shape[2:]) for name, row in state.context.items()},
            )
        state.cache = output.past_key_values
        scores: Tensor = output.logits[:, -1]
        return scores

    def _prefill_decoder(self, model: Any, prompt: BlindPrompt, given: dict[str, Tensor]) -> tuple[Tensor, State]:
        encoder_ids, encoder_mask = given.pop("encoder_ids"), given.pop("encoder_mask")
        config = self.text_model.config.get_text_config(decoder=True)
        output = _called(
            model,
            input_ids=encoder_ids,
            attention_mask=encoder_mask,
            decoder_input_ids=prompt.input_ids,
            past_key_values=EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config)),
            **given,
        )
        context = {"encoder_hidden": output.encoder_last_hidden_state, "encoder_mask": encoder_mask}
        return output.logits[:, -1], State(output.past_key_values, context)


def input_device(model: Any) -> torch.device:
    """Where a model's inputs go: to its embeddings, or to where accelerate brings these when they are offloaded."""
    embeddings = model.get_input_embeddings()
    device: torch.device = embeddings.weight.device
    return torch.device(embeddings._hf_hook.execution_device) if device.type == "meta" else device


def _called(model: Any, **given: Any) -> Any:
    output = model(**given, use_cache=True, return_dict=True)
    return getattr(output, "language_model_outputs", output)


def _last_only(model: Any) -> Mapping[str, int]:
    """The argument that leaves out the scores of all but the last position, where the model has it."""
    return {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(model.forward).parameters else {}


def _can_crop(layer: Any) -> bool:
    if getattr(layer, "is_sliding", False):
        return bool(layer.get_seq_length() < layer.sliding_window)
    return bool(getattr(layer, "is_croppable", True))
