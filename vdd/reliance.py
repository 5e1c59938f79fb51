"""How much each generated token relies on the image, by what both sides said of it.

    reliance(t) = log p(token t | image, text before) − log p(token t | reference, text before)

Above 0 the image made the token more probable. Both are read before penalties, cut-off and temperature.

Knows: what `generate` returns, scores, a processor that asks the reference. Does not know: images, files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from vdd._check import UserError
from vdd.contrast import FLOOR, upcast
from vdd.processor import VDDLogitsProcessor
from vdd.records import DecodingReport


@dataclass
class Trace:
    """What a `generate` call wrote, row by row; of returned sequences and beams, those that it returned.

    Attributes:
        tokens: each row's generated ids, the first end token among them. Where something else ends a row of a batch (a
            stop string), also the padding behind it.
        reliance: of each on the image, in nats; 0 in rows without an image; None for plain decoding and where the
            reference is not run.
        report: how debiased ones were decoded.
    """

    tokens: tuple[tuple[int, ...], ...] = ()
    reliance: tuple[tuple[float, ...], ...] | None = None
    report: DecodingReport | None = None

    def take(self, output: Any, width: int, ends: Iterable[int], plugin: VDDLogitsProcessor | None) -> None:
        """Fill in what `generate` did.

        Args:
            output: what it returned; for reliance, a dictionary with logits.
            width: columns of the prompt in its sequences.
            ends: the end tokens.
            plugin: that debiased; None, or one that subtracts nothing, leaves reliance out.
        """
        sequences = getattr(output, "sequences", output)
        tokens = sequences[:, width:]
        lengths = [_length(row, frozenset(ends)) for row in tokens.tolist()]
        self.tokens = tuple(tuple(row[:end]) for row, end in zip(tokens.tolist(), lengths, strict=True))
        self.report = self.reliance = None
        if plugin is None:
            return
        self.report = replace(plugin.report)
        if not plugin.config.is_cutoff_only:
            plugin.report = DecodingReport()  # asking on is no part of the decoding
            rows = reliance_of(output, sequences[:, :width], tokens, plugin).tolist()
            self.reliance = tuple(tuple(row[:end]) for row, end in zip(rows, lengths, strict=True))


class Width(LogitsProcessor):
    """Changes nothing, and sees how wide the prompt is that `generate` works on: its own ids, a decoder's, or none.

    Attributes:
        columns: of the first call's ids; None before it.
    """

    columns: int | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return `scores` as they are."""
        if self.columns is None:
            self.columns = input_ids.shape[1]
        return scores


def reliance_of(output: Any, prompts: Tensor, tokens: Tensor, plugin: VDDLogitsProcessor) -> Tensor:
    """The reliance of tokens that `generate` wrote, from the scores that it had then.

    Args:
        output: what it returned with output_logits=True; greedy, sampled, from beams or drafts.
        prompts: (rows, width) the prompts' ids in its sequences.
        tokens: (rows, t) those behind them.
        plugin: whose reference is asked: once, about all tokens.

    Returns:
        (rows, t) nats; of no meaning behind a row's end.

    Raises:
        ValueError: where the output holds no logits.
    """
    logits = getattr(output, "logits", None)
    if not logits or len(logits) < tokens.shape[1]:
        raise UserError(
            "vdd: this way of generating returned no logits, by which a token's reliance on the image is known; "
            "wanted another, or the text's by Pipeline.explain."
        )
    beams = getattr(output, "beam_indices", None)
    owners = torch.arange(len(tokens), device=tokens.device)[:, None].expand_as(tokens) if beams is None else beams
    seen = [
        log_p(step[rows.clamp(min=0).to(step.device)], chosen)
        for step, rows, chosen in zip(logits, owners.unbind(1), tokens.unbind(1), strict=False)
    ]
    blind, left_alone = said_without(plugin, prompts, tokens)
    return less(torch.stack(seen, dim=1), blind.to(logits[0].dtype), tokens, left_alone)


def said_without(plugin: VDDLogitsProcessor, prompts: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
    """The reference's scores of each of (rows, t) tokens, (rows, t, vocab), and (rows, 1) which rows have no image."""
    prompt = plugin.find_prompt(prompts)
    return plugin.blind_scores(prompt, tokens[:, :-1], tokens.shape[1]), prompt.left_alone


def less(seen: Tensor, blind: Tensor, tokens: Tensor, left_alone: Tensor | None) -> Tensor:
    """(rows, t) nats: `seen` (rows, t) log-probabilities less the reference's, by its (rows, t, vocab) scores."""
    without = torch.stack([log_p(row, own) for row, own in zip(blind.unbind(1), tokens.unbind(1), strict=True)], dim=1)
    found = seen - without.to(seen.device)
    if not bool(torch.isfinite(found).all()):
        raise UserError(
            "reliance: the model's scores are NaN or infinite; wanted finite ones. Did a float16 model overflow? "
            "bfloat16 or float32 avoids it."
        )
    return found if left_alone is None else found.masked_fill(left_alone.to(found.device), 0.0)


def log_p(scores: Tensor, tokens: Tensor) -> Tensor:
    """(rows, …) log-probability of each token by its (rows, …, vocab) scores.

    Those far below their maximum are raised as in the contrast, so that a forbidden token does not owe infinitely much.
    """
    scores = upcast(scores)
    raised = scores.clamp(min=scores.amax(dim=-1, keepdim=True) - FLOOR)
    return torch.log_softmax(raised, dim=-1).gather(-1, tokens.to(scores.device)[..., None])[..., 0]


def pieces(tokenizer: Any, tokens: Sequence[int]) -> tuple[str, ...]:
    """What each token adds to the text, special tokens written out; "" where a letter is not whole yet."""
    found, known = [], ""
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        whole = not text.endswith("\ufffd") or end == len(tokens)
        found.append(text[len(known) :] if whole else "")
        known = text if whole else known
    return tuple(found)


def _length(row: Sequence[int], ends: frozenset[int]) -> int:
    """How many tokens there are up to the first end, which counts."""
    return next((place for place, token in enumerate(row, start=1) if token in ends), len(row))
