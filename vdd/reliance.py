"""How much each generated token relies on the image, by what both sides said of it.

    reliance(t) = log p(token t | image, text before) − log p(token t | reference, text before)

Above 0 the image made the token more probable. Both are read before penalties, cut-off and temperature.

Knows: what `generate` returns, scores. Does not know: prompts, images, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from vdd.contrast import FLOOR, upcast
from vdd.records import DecodingReport


@dataclass
class Trace:
    """What a `generate` call wrote in its first row.

    Attributes:
        tokens: generated ids, the end token among them; in a batch also the padding behind it.
        reliance: of each on the image, in nats; None for plain decoding and where the reference is not run.
        report: how a debiased one was decoded.
    """

    tokens: tuple[int, ...] = ()
    reliance: tuple[float, ...] | None = None
    report: DecodingReport | None = None


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


def reliance_of(output: Any, tokens: Tensor, said: Tensor) -> tuple[float, ...]:
    """The reliance of one answer's tokens.

    Args:
        output: what `generate` returned for one prompt with output_logits=True; greedy, sampled or from beams.
        tokens: (t,) the first sequence's generated ids.
        said: (t, vocab) the reference's scores of each, given those before.

    Returns:
        one number a token, in nats. Scores far below their maximum are raised as in the contrast.
    """
    beams = getattr(output, "beam_indices", None)
    rows = [0] * len(tokens) if beams is None else beams[0].tolist()
    seen = torch.stack([scores[row] for scores, row in zip(output.logits, rows, strict=False)])
    return tuple((_log_p(seen, tokens) - _log_p(said[: len(seen)], tokens)).tolist())


def pieces(tokenizer: Any, tokens: Sequence[int]) -> tuple[str, ...]:
    """What each token adds to the text, special tokens written out; "" where a letter is not whole yet."""
    found, known = [], ""
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        whole = not text.endswith("\ufffd") or end == len(tokens)
        found.append(text[len(known) :] if whole else "")
        known = text if whole else known
    return tuple(found)


def _log_p(scores: Tensor, tokens: Tensor) -> Tensor:
    """(t,) log-probability of each token by its row of (t, vocab) scores."""
    scores = upcast(scores)
    raised = scores.clamp(min=scores.amax(dim=-1, keepdim=True) - FLOOR)
    return torch.log_softmax(raised, dim=-1).gather(-1, tokens[: len(scores), None])[:, 0]
