"""The text that a decoding loop writes: which tokens are final, where it ends, what `generate` returns of it.

Knows: the contracts of stopping criteria, streamers and generate's outputs; random states. Does not know: who scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from transformers import EosTokenCriteria, MaxLengthCriteria
from transformers.generation.utils import GenerateDecoderOnlyOutput


class Text:
    """The tokens that are final, and what `generate` returns of them.

    Args:
        ids: (rows, width) the prompts.
        criteria: when to stop.
        config: of the generation.
        streamer: gets each row of new tokens, or None.
    """

    def __init__(self, ids: Tensor, criteria: Any, config: Any, streamer: Any) -> None:
        self.ids, self.width = ids, ids.shape[1]
        self.criteria, self.config, self.streamer = criteria, config, streamer
        self.unfinished = torch.ones(len(ids), dtype=torch.bool, device=ids.device)
        self.pads = any(isinstance(one, EosTokenCriteria) for one in criteria)
        self.ends: list[Any] = [one for one in criteria if isinstance(one, (EosTokenCriteria, MaxLengthCriteria))]
        self.pad = config._pad_token_tensor.to(ids.device) if self.pads else None
        dictionary = config.return_dict_in_generate
        self.scores: tuple[Tensor, ...] | None = () if dictionary and config.output_scores else None
        self.logits: tuple[Tensor, ...] | None = () if dictionary and config.output_logits else None

    @property
    def done(self) -> bool:
        """Whether every row has ended."""
        return not bool(self.unfinished.any())

    @property
    def most(self) -> int:
        """How many new tokens there may be."""
        return int(self.config.max_length) - self.width

    def choose(self, scores: Tensor, unfinished: Tensor) -> Tensor:
        """(rows,) the next token of each row by `scores` (rows, vocab); padding behind a row's end."""
        if self.config.do_sample:
            chosen = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1)[:, 0]
        else:
            chosen = scores.argmax(dim=-1)
        return self.padded(chosen, unfinished)

    def padded(self, chosen: Tensor, unfinished: Tensor) -> Tensor:
        """(rows,) `chosen`, with padding behind a row's end."""
        return chosen if self.pad is None else torch.where(unfinished, chosen, self.pad)

    def still(self, ids: Tensor, unfinished: Tensor) -> Tensor:
        """(rows,) which rows go on behind `ids`, by length and end tokens alone."""
        for criterion in self.ends:
            unfinished = unfinished & ~criterion(ids, None)
        return unfinished

    def add(self, chosen: Tensor, scores: Tensor, raw: Tensor) -> None:
        """Make (rows,) tokens final, which were chosen by `scores` from the model's `raw` ones."""
        self.ids = torch.cat([self.ids, chosen[:, None]], dim=1)
        if self.scores is not None:
            self.scores += (scores,)
        if self.logits is not None:
            self.logits += (raw,)
        if self.streamer is not None:
            self.streamer.put(chosen.cpu())
        self.unfinished = self.unfinished & ~self.criteria(self.ids, self.scores)

    def output(self, cache_over: Callable[[Tensor], Any]) -> Any:
        """What `generate` returns; `cache_over` gives the KV cache over all but the last of its tokens."""
        if self.streamer is not None:
            self.streamer.end()
        if not self.config.return_dict_in_generate:
            return self.ids
        output: Any = GenerateDecoderOnlyOutput
        name = "cache" if "cache" in {one.name for one in fields(output)} else "past_key_values"
        cache = cache_over(self.ids[:, self.width : -1])
        return output(sequences=self.ids, scores=self.scores, logits=self.logits, **{name: cache})


def random_state(scores: Tensor) -> Tensor:
    """The state of the generator that a draw from `scores` uses."""
    device = scores.device
    if device.type == "cpu":
        return torch.get_rng_state()
    return torch.get_device_module(device).get_rng_state(*((device,) if device.type == "cuda" else ()))


def set_random_state(scores: Tensor, state: Tensor | None) -> None:
    """Let the next draw from `scores` use `state`; None leaves the generator as it is."""
    device = scores.device
    if state is None:
        return
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, *((device,) if device.type == "cuda" else ()))
