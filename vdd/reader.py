"""A model as the image-free branch reads with it: one prefill, then steps, alike for every family.

Knows: how transformers' models are called, their caches. Does not know: references, memos, contrasts.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.cache_utils import DynamicLayer
from transformers.modeling_outputs import BaseModelOutput

from vdd.families import Family, unwrapped
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

    def fork(self) -> State:
        """A second state that reads on by itself; columns that only grow by concatenation are not copied."""
        if not self.can_stack:
            return copy.deepcopy(self)
        cache: Any = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        return replace(self, cache=cache)

    @property
    def can_stack(self) -> bool:
        """Whether these rows can be read in one forward with others: full attention in every layer, nothing beside."""
        return not self.context and can_stack(self.cache)

    @staticmethod
    def stacked(states: Sequence[State]) -> State:
        """The rows of all states one below the other, columns aligned on the right; zeros where a state has none."""
        first = states[0].fork()
        width = max(state.cache.get_seq_length() for state in states)
        for layer, *others in zip(*(state.cache.layers for state in (first, *states[1:])), strict=True):
            if layer.get_seq_length():
                layer.keys = torch.cat([_widened(own.keys, width) for own in (layer, *others)])
                layer.values = torch.cat([_widened(own.values, width) for own in (layer, *others)])
        return first

    def keep_last(self, columns: int) -> None:
        """Forget all but so many of the last positions, of which the first are padding in every row."""
        for layer in self._layers:
            if layer.get_seq_length():
                layer.keys, layer.values = layer.keys[..., -columns:, :], layer.values[..., -columns:, :]

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
        self._whole_keeps, self._text_keeps = _keeps_last(model), _keeps_last(self.text_model)
        self._cache = cache_argument(self.text_model)
        attention = getattr(self.text_model.config.get_text_config(decoder=True), "_attn_implementation", None)
        self._takes_masks = attention == "sdpa" and not (part or family.adapter.prefix)

    def prefill(self, prompt: BlindPrompt, last: int = 1) -> tuple[Tensor, State]:
        """Read the prompt.

        Args:
            prompt: with or without images.
            last: at how many of its last positions the next token is scored.

        Returns:
            (rows, last, vocab) scores, and what the model keeps.
        """
        model = self.model if prompt.pixels else self.text_model
        given = {**prompt.extras, **prompt.pixels}
        if self.family.encoder_decoder:
            return self._prefill_decoder(model, prompt, given, last)
        config = self.text_model.config.get_text_config(decoder=True)
        scores, cache, _ = self._called(
            model,
            DynamicCache(config=config),
            last,
            input_ids=prompt.input_ids,
            attention_mask=prompt.attention_mask,
            position_ids=prompt.position_ids,
            **given,
        )
        image_layers = frozenset(getattr(config, "cross_attention_layers", None) or ())
        context = {name: given[name][:, -1:] for name in self.family.adapter.steps if name in given}
        return scores, State(cache, context, image_layers)

    def prefills_on(self, prompt: BlindPrompt) -> bool:
        """Whether what follows the prompt may be read in one forward with it: plain text, read from left to right."""
        return not (self.family.encoder_decoder or self.family.adapter.prefix or prompt.extras or prompt.pixels)

    def step(self, tokens: Tensor, mask: Tensor, positions: Tensor, state: State, last: int = 1) -> Tensor:
        """Read on.

        Args:
            tokens: (rows, n) ids behind what was read.
            mask: (rows, read + n), 0 where nobody may attend.
            positions: (rows, n) or (3, rows, n).
            state: changed in place.
            last: at how many of the last positions the next token is scored, at most n.

        Returns:
            (rows, last, vocab) scores.
        """
        read = mask.shape[1] - tokens.shape[1]
        widest = read if self.family.adapter.prefix else tokens.shape[1]
        scores: list[Tensor] = []
        for start in range(0, tokens.shape[1], widest):
            stop = min(start + widest, tokens.shape[1])
            part = slice(start, stop)
            kept = min(last, stop - start)
            scores.append(self._step(tokens[:, part], mask[:, : read + stop], positions[..., part], state, kept))
        return scores[0] if len(scores) == 1 else torch.cat(scores, dim=1)[:, -last:]

    def _step(self, tokens: Tensor, mask: Tensor, positions: Tensor, state: State, last: int) -> Tensor:
        if self.family.encoder_decoder:
            scores, state.cache, _ = self._called(
                self.text_model,
                state.cache,
                last,
                encoder_outputs=BaseModelOutput(last_hidden_state=state.context["encoder_hidden"]),
                attention_mask=state.context["encoder_mask"],
                decoder_input_ids=tokens,
            )
            return scores
        rows, width = tokens.shape
        if rows > 1 and width == 1 and self._takes_masks and can_stack(state.cache):
            mask = mask[:, None, None].bool()  # as attention takes it: transformers makes it anew at each step
        scores, state.cache, _ = self._called(
            self.text_model,
            state.cache,
            last,
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            **{name: row.expand(-1, width, *row.shape[2:]) for name, row in state.context.items()},
        )
        return scores

    def _prefill_decoder(
        self, model: Any, prompt: BlindPrompt, given: dict[str, Tensor], last: int
    ) -> tuple[Tensor, State]:
        encoder_ids, encoder_mask = given.pop("encoder_ids"), given.pop("encoder_mask")
        config = self.text_model.config.get_text_config(decoder=True)
        scores, cache, encoded = self._called(
            model,
            EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config)),
            last,
            input_ids=encoder_ids,
            attention_mask=encoder_mask,
            decoder_input_ids=prompt.input_ids,
            **given,
        )
        return scores, State(cache, {"encoder_hidden": encoded, "encoder_mask": encoder_mask})

    def _called(self, model: Any, cache: Any, last: int, **given: Any) -> tuple[Tensor, Any, Any]:
        """(rows, last, vocab) scores, the cache, an encoder's last hidden state."""
        if self._text_keeps if model is self.text_model else self._whole_keeps:
            given["logits_to_keep"] = last
        output = model(**given, **{self._cache: cache}, use_cache=True, return_dict=True)
        output = getattr(output, "language_model_outputs", output)
        return output.logits[:, -last:], output[self._cache], getattr(output, "encoder_last_hidden_state", None)


def can_stack(cache: Any) -> bool:
    """Whether a cache has a column for every position in every layer, and nothing else."""
    return isinstance(cache, DynamicCache) and all(type(layer) is DynamicLayer for layer in cache.layers)


def cache_argument(model: Any) -> str:
    """What the model's forward calls its KV cache: `past_key_values` became `cache` in transformers 5.24."""
    return "cache" if "cache" in inspect.signature(unwrapped(model).forward).parameters else "past_key_values"


def input_device(model: Any) -> torch.device:
    """Where a model's inputs go: to its embeddings, or to where accelerate brings these when they are offloaded."""
    embeddings = model.get_input_embeddings()
    device: torch.device = embeddings.weight.device
    return torch.device(embeddings._hf_hook.execution_device) if device.type == "meta" else device


def _keeps_last(model: Any) -> bool:
    """Whether the model can leave out the scores of all but the last positions."""
    return "logits_to_keep" in inspect.signature(unwrapped(model).forward).parameters


def _widened(columns: Tensor, width: int) -> Tensor:
    """(rows, heads, columns, size) with zeros put before it up to so many columns."""
    return torch.nn.functional.pad(columns, (0, 0, width - columns.shape[-2], 0))


def _can_crop(layer: Any) -> bool:
    if getattr(layer, "is_sliding", False):
        return bool(layer.get_seq_length() < layer.sliding_window)
    return bool(getattr(layer, "is_croppable", True))
