"""Where a model's attention goes while it answers: to the image, to text, to special tokens.

    mass(class | layer, step) = Σ over the class's positions of the mean over heads of weight(step's query → position)

The query of a step is the position that chooses its token: the prompt's last one for the first, then each token
written before. The three add up to 1. Attention is computed in the way that gives its weights ("eager") for this
analysis alone, and the model is set back behind it. Each layer's weights are reduced to three sums as soon as they are
there, one row at a time, so that no more than one layer's are ever held.

Source: arXiv:2403.05262, analysis of attention.
Knows: a pipeline, transformers' attention modules. Does not know: files, questions beyond one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vdd._check import UserError, whole
from vdd.batch import batch_of
from vdd.config import DebiasConfig
from vdd.distributions import Distributions
from vdd.families import tokenizer_of, unwrapped
from vdd.generation import ends_of
from vdd.placeholders import Placeholders
from vdd.reader import Reader
from vdd.reference import BlindPrompt, blind_prompts, seen_prompt

CLASSES = ("image", "text", "special")
IMAGE, TEXT, SPECIAL = range(3)

NEAR = 0.05
"""How far the weights of a query may add up to another number than 1, in low precision, and still be taken for such."""

_MODULES = ("self_attn", "cross_attn")
"""What decoder layers call their attention; a layer with neither is of another kind, such as linear attention."""


@dataclass(frozen=True)
class Attended:
    """Where the attention went during one answer.

    Attributes:
        tokens: ids of the plain greedy answer, the end token among them.
        seen: (steps, layers, 3) mass by CLASSES with the image; NaN for layers without attention weights.
        blind: the same for the same tokens behind the prompt without the image.
    """

    tokens: tuple[int, ...]
    seen: Tensor
    blind: Tensor


class Watch:
    """Looks at one prompt after another; made by `watching`.

    Args:
        pipeline: a decoder-only model whose attention gives weights.
        layers: its decoder's.
    """

    def __init__(self, pipeline: Distributions, layers: int) -> None:
        self.pipeline, self.layers = pipeline, layers
        self.reader = Reader(pipeline.model, pipeline.family)
        self.find = Placeholders(pipeline.family, pipeline.processor, derive="ids")
        specials = set(getattr(tokenizer_of(pipeline.processor), "all_special_ids", None) or ())
        self.specials = specials | pipeline.family.frame_ids
        self._classes = torch.zeros(0, 3)
        self._found: dict[int, Tensor] = {}

    @torch.no_grad()
    def look(self, inputs: Mapping[str, Tensor], *, max_new_tokens: int = 16) -> Attended:
        """Answer greedily, and follow the attention of every step, with the image and without it.

        Args:
            inputs: what `generate` takes, of one row.
            max_new_tokens: of the answer, ≥ 1.

        Raises:
            UserError: on several rows.
        """
        whole("attention", "max_new_tokens", max_new_tokens, low=1)
        if len(inputs["input_ids"]) != 1:
            raise UserError(f"attention: {len(inputs['input_ids'])} rows came; wanted one.")
        family, processor = self.pipeline.family, self.pipeline.processor
        batch = batch_of(inputs["input_ids"], family, processor=processor, inputs=inputs)
        (blind,) = blind_prompts(batch, DebiasConfig(reference="none"), family, processor=processor)
        seen, tokens = self._followed(seen_prompt(batch, family, processor=processor), (), max_new_tokens)
        return Attended(tokens, seen, self._followed(blind, tokens, len(tokens))[0])

    def _followed(self, prompt: BlindPrompt, given: tuple[int, ...], steps: int) -> tuple[Tensor, tuple[int, ...]]:
        """Mass by step, and the tokens: those that are given, else the model's own choice until it ends."""
        row = prompt.input_ids[0].tolist()
        places = self.find.is_image(row)
        classes = [self._class(token, image=image) for token, image in zip(row, places, strict=True)]
        self._classes = torch.eye(3, dtype=torch.float64, device=prompt.input_ids.device)[classes]
        self._found.clear()
        logits, state = self.reader.prefill(prompt)
        masses, tokens = [self._taken()], list[int]()
        mask, position = prompt.attention_mask, prompt.position_ids[..., -1:]
        ends = self._ends()
        while True:
            tokens.append(given[len(tokens)] if given else int(logits[0, -1].argmax()))
            if len(tokens) == steps or (not given and tokens[-1] in ends):
                return torch.stack(masses), tuple(tokens)
            mask, position = torch.cat([mask, mask.new_ones(1, 1)], dim=1), position + 1
            own = torch.eye(3, dtype=torch.float64, device=mask.device)[[self._class(tokens[-1], image=False)]]
            self._classes = torch.cat([self._classes, own])
            logits = self.reader.step(mask.new_tensor([[tokens[-1]]]).to(prompt.input_ids), mask, position, state)
            masses.append(self._taken())

    def _class(self, token: int, *, image: bool) -> int:
        # where images stand beside the prompt, their token in it holds nothing of them
        if image and not self.pipeline.family.adapter.steps:
            return IMAGE
        return SPECIAL if image or token in self.specials else TEXT

    def _ends(self) -> frozenset[int]:
        return ends_of(self.pipeline.model.generation_config) or ends_of(tokenizer_of(self.pipeline.processor))

    def _taken(self) -> Tensor:
        """(layers, 3) what the last forward left, on the CPU."""
        found = torch.full((self.layers, 3), torch.nan, dtype=torch.float64)
        for layer, mass in self._found.items():
            found[layer] = mass.cpu()
        self._found.clear()
        return found

    def reduce(self, layer: int, cross: bool, output: Any) -> None:
        """Keep three sums of what an attention module returned; nothing where those are no weights of one row."""
        weights = output[1] if isinstance(output, (tuple, list)) and len(output) > 1 else None
        if not isinstance(weights, Tensor) or weights.ndim != 4 or len(weights) != 1:
            return
        mean = weights[0, :, -1].double().mean(dim=0)
        if cross:
            mass = torch.stack([mean.sum(), mean.new_zeros(()), mean.new_zeros(())])
        elif len(mean) > len(self._classes):
            return
        else:  # a sliding window holds the last positions
            mass = mean @ self._classes[len(self._classes) - len(mean) :].to(mean.device)
        total = mass.sum()
        if abs(float(total) - 1) < NEAR:
            self._found[layer] = mass / total


@contextmanager
def watching(pipeline: Distributions) -> Iterator[Watch]:
    """Compute attention so that its weights can be read, as long as the block lasts; then as before, also on an error.

    Args:
        pipeline: a decoder-only model.

    Raises:
        UserError: for an encoder-decoder, or a model whose attention layers cannot be found.
    """
    if pipeline.family.encoder_decoder:
        raise UserError(
            f"attention: the family {pipeline.family.kind!r} reads prompts by an encoder, whose attention mixes image "
            "and text before any answer begins; wanted a decoder-only model."
        )
    decoder = _decoder(pipeline)
    inner = getattr(decoder, "model", decoder)
    layers = list(getattr(decoder, "layers", None) or getattr(inner, "layers", None) or ())
    modules = {
        number: (name, getattr(layer, name))
        for number, layer in enumerate(layers)
        for name in _MODULES
        if hasattr(layer, name)
    }
    if not modules:
        raise UserError(
            f"attention: no attention layers were found in {type(decoder).__name__}; wanted a decoder whose `layers` "
            "have `self_attn`, as transformers' own have."
        )
    with _eager(decoder), ExitStack() as hooks:
        watch = Watch(pipeline, len(layers))
        for number, (name, module) in modules.items():
            take = partial(_take, watch, number, name == "cross_attn")
            hooks.callback(module.register_forward_hook(take).remove)
        yield watch


def _take(watch: Watch, layer: int, cross: bool, _module: Any, _args: Any, output: Any) -> None:
    watch.reduce(layer, cross, output)


def _decoder(pipeline: Distributions) -> Any:
    """The part that reads text, image tokens among it."""
    model = unwrapped(pipeline.model)
    part = pipeline.family.adapter.text_model
    return (getattr(model, part) if part else model).get_decoder()


@contextmanager
def _eager(decoder: Any) -> Iterator[None]:
    """Attention that gives its weights, in the decoder alone."""
    parts = [part for part in decoder.modules() if isinstance(part, PreTrainedModel)]
    before = [part.config._attn_implementation for part in parts]
    try:
        decoder.set_attn_implementation("eager")
        yield
    finally:
        for part, implementation in zip(parts, before, strict=True):  # from the outside in
            if part.config._attn_implementation != implementation:
                part.set_attn_implementation(implementation)
