"""The debiased decoding recomputed from scratch at every step: no cache, no padding, one row at a time.

    l' = logits of (second prompt + the tokens so far),   log p* = log softmax((1+α)·l − α·l' where l ≥ max l + log β)

The second prompt is rendered as text and tokenised here, image features are placed by hand in the embeddings, and
hidden image tokens are shut out with an explicit four-dimensional mask. Source: arXiv:2403.05262.
Knows: transformers' models and processors, prompts as a user writes them. Imports nothing of this project.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LogitsProcessor

IMAGE_ID = 4  # of the tiny LLaVA and of the embedded model alike


def picture(seed: int, size: int = 16) -> Image.Image:
    """An RGB image of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (size, size, 3)).astype(np.uint8))


def chat(processor, question: str, images: int = 1) -> str:
    """The chat template's text for a user's turn with so many images."""
    content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def encode(processor, questions: Sequence[str], *, first: int = 0, counts: Sequence[int] = (), size: int = 16):
    """What `generate` is called with, pixels in float64; images are numbered from `first`, one to a row by default."""
    counts = list(counts) or [1] * len(questions)
    images = [picture(first + n, size) for n in range(sum(counts))]
    texts = [chat(processor, q, n) for q, n in zip(questions, counts, strict=True)]
    return processor(images=images, text=texts, padding=True, return_tensors="pt").to(torch.float64)


@dataclass
class Second:
    """One row's complete input: ids, which of them nobody may attend to, and the pixels of its images."""

    ids: list[int]
    hidden: list[bool] | None = None
    pixels: Tensor | None = None


def seconds(
    processor, questions, reference, *, inputs=None, instruction="", counts=(), unk_per="image", seed=0, step=500
) -> list[tuple[Second, ...]]:
    """For each question the second inputs of `reference` (two for "both"), from the rendered text."""
    counts = list(counts) or [1] * len(questions)
    tokenizer = processor.tokenizer
    out, used = [], 0
    for row, (question, count) in enumerate(zip(questions, counts, strict=True)):
        shown = chat(processor, question, count)
        none = Second(tokenizer(chat(processor, question, 0)).input_ids)
        if inputs is not None:
            real = inputs["attention_mask"][row].bool()
            ids = inputs["input_ids"][row][real].tolist()
            pixels = inputs["pixel_values"][used : used + count]
        used += count
        if reference == "seen":
            out.append((Second(ids, pixels=pixels),))
        elif reference == "none":
            out.append((none,))
        elif reference in ("unk", "both"):
            times = 1 if unk_per == "image" else ids.count(IMAGE_ID) // count
            unk = Second(tokenizer(shown.replace("<image>", "<unk>" * times)).input_ids)
            out.append((unk,) if reference == "unk" else (none, unk))
        elif reference == "mask":
            out.append((Second(ids, hidden=[i == IMAGE_ID for i in ids], pixels=pixels),))
        elif reference == "instruction":
            start = "<s>" if shown.startswith("<s>") else ""
            text = f"{start}{instruction} {shown[len(start) :]}"
            expanded = text.replace("<image>", "<image>" * (ids.count(IMAGE_ID) // count))
            out.append((Second(tokenizer(expanded).input_ids, pixels=pixels),))
        else:
            out.append((Second(ids, pixels=degraded(pixels, reference, seed=seed, step=step)),))
    return out


def degraded(pixels: Tensor, reference: str, *, seed: int, step: int) -> Tensor:
    """`pixels` as zeros, ones, or after VCD's diffusion; ε is one standard normal draw in float64 for all images."""
    if reference == "zero":
        return pixels * 0
    if reference == "one":
        return pixels * 0 + 1
    x = torch.arange(1000, dtype=torch.float64) * 12 / 999 - 6
    share = (1 - (1 / (1 + torch.exp(-x)) * (0.5e-2 - 1e-5) + 1e-5))[: step + 1].prod()
    epsilon = torch.randn(pixels.shape[1:], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return share.sqrt() * pixels + (1 - share).sqrt() * epsilon


@torch.no_grad()
def next_logits(model, second: Second, tokens: Sequence[int]) -> Tensor:
    """(vocab,) scores of the token after `second` and `tokens`; images go only where the prompt has image tokens."""
    ids = torch.tensor([[*second.ids, *tokens]])
    length = ids.shape[1]
    embeddings = model.get_input_embeddings()(ids)
    if second.pixels is not None:
        found = model.get_image_features(pixel_values=second.pixels)
        features = torch.cat(list(getattr(found, "pooler_output", found))).reshape(-1, embeddings.shape[-1])
        places = [n for n, i in enumerate(second.ids) if i == IMAGE_ID]
        embeddings[0, places] = features.to(embeddings.dtype)
    allowed = torch.ones(length, length, dtype=torch.bool).tril()
    for column, hidden in enumerate(second.hidden or []):
        if hidden:
            allowed[:, column] = False
            allowed[column, column] = True  # it may look at itself: nobody looks at it
    mask = torch.where(allowed, 0.0, -math.inf).to(embeddings.dtype)[None, None]
    output = model(
        inputs_embeds=embeddings, attention_mask=mask, position_ids=torch.arange(length)[None], use_cache=False
    )
    return output.logits[0, -1].double()


def blind_logits(model, row: Sequence[Second], tokens: Sequence[int]) -> Tensor:
    """The mean over a row's second inputs."""
    return sum(next_logits(model, second, tokens) for second in row) / len(row)


def debias(seen: Tensor, blind: Tensor, alpha: float, beta: float) -> Tensor:
    """The printed formula for one row in float64."""
    moved = (1 + alpha) * seen.double() - alpha * blind
    if beta > 0:
        moved[seen - seen.max() < math.log(beta)] = -math.inf
    return moved.log_softmax(-1)


class Recompute(LogitsProcessor):
    """A logits processor without any state but the prompts: rows may come in any order and number."""

    def __init__(self, model, rows: Sequence[Sequence[Second]], width: int, *, alpha=1.0, beta=0.1) -> None:
        self.model, self.rows, self.width, self.alpha, self.beta = model, rows, width, alpha, beta

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        repeats = len(input_ids) // len(self.rows)
        out = []
        for number, (ids, seen) in enumerate(zip(input_ids.tolist(), scores, strict=True)):
            blind = blind_logits(self.model, self.rows[number // repeats], ids[self.width :])
            out.append(debias(seen, blind, self.alpha, self.beta))
        return torch.stack(out).to(scores.dtype)


def greedy_by_hand(model, shown, rows, steps: int, *, alpha=1.0, beta=0.1, eos=2, pad=0) -> list[list[int]]:
    """Greedy decoding without `generate`: both branches from scratch at every step. → one list of tokens per row."""
    texts = []
    for (seen,), row in zip(shown, rows, strict=True):
        tokens: list[int] = []
        while len(tokens) < steps and eos not in tokens:
            scores = debias(next_logits(model, seen, tokens), blind_logits(model, row, tokens), alpha, beta)
            tokens.append(int(scores.argmax()))
        texts.append(tokens)
    longest = max(map(len, texts))
    return [tokens + [pad] * (longest - len(tokens)) for tokens in texts]
