"""A prompt with some image tokens hidden, read slowly: one whole forward for each place, no cache, no padding.

    allowed(q, k) = the family's own mask without hidden columns ∧ k is not hidden   (each token sees itself)

The mask is handed to every attention layer of the decoder, four-dimensional and additive, whatever the model would have
made of a mask of columns. `removed_scores` does the same for a LLaVA by leaving the hidden columns out. `nucleus_pick`
is inverse sampling from a nucleus in Python's floats.

Imports nothing of this project.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

BESIDE = ("vision", "visual", "qformer", "image", "audio", "projector", "resampler", "vq", "perceiver", "connector")
"""What a module's name holds where it is no part of the decoder."""


def attentions(model: Any) -> list[Any]:
    """The decoder's attention layers."""
    return [
        module
        for name, module in model.named_modules()
        if type(module).__name__.endswith("Attention")
        and not any(word in name for word in BESIDE)
        and "attention_mask" in inspect.signature(module.forward).parameters
    ]


@torch.no_grad()
def hidden_scores(member: Any, model: Any, inputs: Any, hidden: Tensor, tokens: Sequence[int]) -> Tensor:
    """(vocab,) scores behind one row of `inputs` and `tokens`; `hidden` (width,) is True where nobody looks."""
    if not bool(hidden.any()):
        return member.seen_logits(model, inputs, tokens)
    blind, called = copy.deepcopy(model), []

    def shut(module: Any, args: Any, given: Any) -> Any:
        bound = inspect.signature(module.forward).bind_partial(*args, **given)
        length = bound.arguments["hidden_states"].shape[1]
        if length < len(hidden):  # read in pieces: oracles do not
            raise ValueError("the decoder was not asked for the whole row")
        called.append(length)
        bound.arguments["attention_mask"] = _without(bound.arguments.get("attention_mask"), hidden, length)
        more = bound.arguments.pop("kwargs", {})
        return bound.args, {**bound.kwargs, **more}

    for layer in attentions(blind):
        layer.register_forward_pre_hook(shut, with_kwargs=True)
    found = member.seen_logits(blind, inputs, tokens)
    if not called:
        raise ValueError(f"{member.name}: no attention layer was asked")
    return found


def _without(made: Tensor | None, hidden: Tensor, length: int) -> Tensor:
    """The family's own mask (None: causal) as an additive one, hidden columns shut but for each token itself."""
    if made is None:
        made = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    allowed = made if made.dtype == torch.bool else made == 0
    columns = torch.cat([~hidden, torch.ones(length - len(hidden), dtype=torch.bool)])
    allowed = allowed[..., :length] & (columns | torch.eye(length, dtype=torch.bool))
    return torch.zeros(allowed.shape, dtype=torch.float64).masked_fill(~allowed, torch.finfo(torch.float64).min)


@torch.no_grad()
def removed_scores(model: Any, inputs: Any, hidden: Tensor, tokens: Sequence[int]) -> Tensor:
    """The same of a LLaVA: hidden columns are left out, the others keep their places."""
    caught: list[Tensor] = []
    plain = copy.deepcopy(model)
    plain.model.language_model.register_forward_pre_hook(
        lambda _, args, given: caught.append(given["inputs_embeds"]), with_kwargs=True
    )
    plain(**inputs, use_cache=False)
    words = model.get_input_embeddings()(torch.tensor([list(tokens)], dtype=torch.long))
    embedded = torch.cat([caught[0], words], dim=1)
    kept = torch.cat([~hidden, torch.ones(len(tokens), dtype=torch.bool)])
    places = torch.arange(embedded.shape[1])[kept][None]
    out = copy.deepcopy(model).model.language_model(
        inputs_embeds=embedded[:, kept],
        position_ids=places,
        attention_mask=torch.ones_like(places),  # without one, transformers takes a gap for another text's beginning
        use_cache=False,
    )
    return model.lm_head(out.last_hidden_state[:, -1])[0]


def nucleus_pick(scores: Sequence[float], draw: float, temperature: float, top_p: float) -> int:
    """The token that a draw in [0, 1) stands for: likeliest first, of equals the first; as few as reach `top_p`."""
    if temperature == 0:
        return max(range(len(scores)), key=lambda token: (scores[token], -token))
    top = max(scores)
    weights = [math.exp((score - top) / temperature) for score in scores]
    total = math.fsum(weights)
    order = sorted(range(len(scores)), key=lambda token: (-scores[token], token))
    nucleus: list[int] = []
    for token in order:
        if nucleus and math.fsum(weights[one] for one in nucleus) / total >= top_p:
            break
        nucleus.append(token)
    mass = math.fsum(weights[token] for token in nucleus)
    reached = 0.0
    for token in nucleus:
        reached += weights[token] / mass
        if draw < reached:
            return token
    return nucleus[-1]
