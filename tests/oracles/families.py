"""Debiased decoding of any family, the image-free scores recomputed from scratch at every step, one row at a time.

Knows: the members of the zoo. Of the project it uses the noise alone, which has an oracle of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

from tests.oracles.recompute import debias
from vdd.config import DebiasConfig
from vdd.pixels import degraded

Blind = Callable[[list[int]], Tensor]


class Recompute(LogitsProcessor):
    """A logits processor without state but, for each prompt, a function of the tokens behind it (None: no image)."""

    def __init__(self, rows: Sequence[Blind | None], width: int, *, alpha: float = 1.0, beta: float = 0.1) -> None:
        self.rows, self.width, self.alpha, self.beta = rows, width, alpha, beta

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if bool((scores == 1).all()):  # prompt look-up's question
            return scores
        repeats = len(input_ids) // len(self.rows)
        out = []
        for number, (ids, seen) in enumerate(zip(input_ids.tolist(), scores, strict=True)):
            blind = self.rows[number // repeats]
            moved = seen if blind is None else debias(seen, blind(ids[self.width :]), self.alpha, self.beta)
            out.append(moved)
        return torch.stack(out).to(scores.dtype)


def blind_rows(member, model, processor, questions, pictures, reference: str) -> list[Blind | None]:
    """For each question the scores of `reference` as a function of the tokens so far; None for a row without image."""
    return [
        blind_row(member, model, processor, question, own, reference) if own else None
        for question, own in zip(questions, pictures, strict=True)
    ]


def blind_row(member, model, processor, question, own, reference: str) -> Blind:
    if reference == "both":
        parts = [blind_row(member, model, processor, question, own, part) for part in ("none", "unk")]
        return lambda tokens: (parts[0](tokens) + parts[1](tokens)) / 2
    if reference in ("none", "unk"):
        ids = member.blind_ids(processor, question)
        if reference == "unk":
            ids = member.unk_ids(processor, question, len(own))
        return lambda tokens: member.blind_logits(model, ids, tokens)
    alone = member.inputs(processor, [question], [own])
    if reference == "mask":
        return lambda tokens: masked_logits(member, model, alone, tokens)
    config = DebiasConfig(reference=reference)
    changed = {name: degraded(name, tensor, alone, config) for name, tensor in alone.items()}
    return lambda tokens: member.seen_logits(model, changed, tokens)


@torch.no_grad()
def masked_logits(member, model, inputs, tokens: Sequence[int]) -> Tensor:
    """The scores with every image token shut out in the decoder, at the positions that the plain forward used."""
    if hasattr(member, "masked_logits"):
        return member.masked_logits(model, inputs, tokens)
    open_columns = (inputs["attention_mask"] * ~member.image_places(model, inputs)).long()
    if member.counts_columns:
        return member.seen_logits(model, {**inputs, "attention_mask": open_columns}, tokens)
    caught: list[Tensor] = []
    plain = copy.deepcopy(model)
    for decoder in decoders(plain):
        decoder.register_forward_pre_hook(lambda _, args, given: _keep(caught, given), with_kwargs=True)
    plain(**inputs, use_cache=False)

    def shut(_, args, given):
        length = next(given[name] for name in ("inputs_embeds", "input_ids") if given.get(name) is not None).shape[1]
        more = length - open_columns.shape[1]
        behind = caught[0].max() + 1 + torch.arange(more)
        positions = torch.cat([caught[0], behind.expand(*caught[0].shape[:-1], -1)], dim=-1)
        mask = torch.cat([open_columns, open_columns.new_ones(1, more)], dim=1)
        made = given.get("attention_mask")
        if isinstance(made, dict):  # one for each kind of layer
            return args, {**given, "attention_mask": {kind: _shut(own, mask.bool()) for kind, own in made.items()}}
        if made is not None and made.ndim == 4:
            return args, {**given, "attention_mask": _shut(made, mask.bool())}
        return args, {**given, "attention_mask": mask, "position_ids": positions}

    blind = copy.deepcopy(model)
    for decoder in decoders(blind):
        decoder.register_forward_pre_hook(shut, with_kwargs=True)
    return member.seen_logits(blind, inputs, tokens)


def _shut(made: Tensor | None, columns: Tensor) -> Tensor:
    """A four-dimensional mask (None: causal) with these columns shut, but for each token itself."""
    if made is None:
        made = torch.ones(columns.shape[1], columns.shape[1], dtype=torch.bool).tril()[None, None]
    allowed = made if made.dtype == torch.bool else made == 0
    itself = torch.eye(allowed.shape[-1], dtype=torch.bool)
    allowed = allowed & (columns[:, None, None, :] | itself)
    if made.dtype == torch.bool:
        return allowed
    return (
        torch.zeros_like(made, dtype=made.dtype).expand_as(allowed).masked_fill(~allowed, torch.finfo(made.dtype).min)
    )


def decoders(model) -> list:
    """The parts of a model that read embeddings of text and images."""
    return [module for name, module in model.named_modules() if name.split(".")[-1] in ("language_model", "text_model")]


def _keep(caught: list[Tensor], given: dict) -> None:
    positions = given.get("position_ids")
    embeddings = given.get("inputs_embeds")
    if not caught and embeddings is not None:
        caught.append(torch.arange(embeddings.shape[1])[None] if positions is None else positions)
