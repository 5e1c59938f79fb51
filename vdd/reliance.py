"""How much each generated token relies on the image, while it is generated.

    reliance(t) = log p(token t | image, text before) − log p(token t | reference, text before)

Above 0 the image made the token more probable. Both are read before penalties, cut-off and temperature.

Knows: what `generate` returns, the image-free branch. Does not know: prompts, images, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from vdd.branch import Branch
from vdd.contrast import FLOOR, upcast
from vdd.reference import BlindPrompt


@dataclass
class Recorder(Branch):
    """The image-free branch, which keeps what it said.

    Attributes:
        said: (rows, vocab) scores of every step.
    """

    said: list[Tensor] = field(default_factory=list)

    def logits(self, prompt: BlindPrompt, tokens: Tensor) -> Tensor:
        """As the branch; a step that is asked for again replaces what was said from there on."""
        scores = super().logits(prompt, tokens)
        self.said[tokens.shape[1] :] = [scores]
        return scores


@dataclass
class Trace:
    """What a `generate` call wrote in its first row.

    Attributes:
        tokens: generated ids, the end token among them; in a batch also the padding behind it.
        reliance: of each on the image, in nats; None for plain decoding and where the reference is not run.
    """

    tokens: tuple[int, ...] = ()
    reliance: tuple[float, ...] | None = None


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


def reliance_of(output: Any, tokens: Sequence[int], said: Sequence[Sequence[Tensor]]) -> tuple[float, ...]:
    """The reliance of one answer's tokens.

    Args:
        output: what `generate` returned for one prompt with output_logits=True; greedy, sampled or from beams.
        tokens: the first sequence's generated ids.
        said: what each branch of the reference said at every step.

    Returns:
        one number a token, in nats. Scores far below their maximum are raised as in the contrast.
    """
    beams = getattr(output, "beam_indices", None)
    rows = [0] * len(tokens) if beams is None else beams[0].tolist()
    found = []
    for step, (token, row) in enumerate(zip(tokens, rows, strict=False)):
        blind = torch.stack([upcast(branch[step][row]) for branch in said]).mean(dim=0)
        found.append(_log_p(output.logits[step][row], token) - _log_p(blind, token))
    return tuple(found)


def pieces(tokenizer: Any, tokens: Sequence[int]) -> tuple[str, ...]:
    """What each token adds to the text, special tokens written out; "" where a letter is not whole yet."""
    found, known = [], ""
    for end in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:end], skip_special_tokens=False, clean_up_tokenization_spaces=False)
        whole = not text.endswith("\ufffd") or end == len(tokens)
        found.append(text[len(known) :] if whole else "")
        known = text if whole else known
    return tuple(found)


def _log_p(scores: Tensor, token: int) -> float:
    scores = upcast(scores)
    return float(torch.log_softmax(scores.clamp(min=scores.max() - FLOOR), dim=-1)[token])
