"""Write on from many places of known answers at once: the tails of rejected answers.

    read the prompts                  (rows)        once, images hidden as they are to be
    read the good answers behind them (rows)        once: every place has the true text before it, never a corrupted one
    at each place: head, then tail    (places)      columns behind the place are hidden from it; tails are sampled

    x = min {t : F(t) ≥ u},  F the cumulative distribution, sorted, cut at top-p and renormalised,  u of the place's own

Source: arXiv:2407.02477, §3.4; nucleus: arXiv:1904.09751.
Knows: a reader's prefill and steps, tensors. Does not know: sentences, similarity, transformers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from vdd._check import UserError
from vdd.placeholders import Row
from vdd.reader import Reader, State
from vdd.reference import BlindPrompt, right_aligned


@dataclass
class Place:
    """Where a tail begins, and what became of it.

    Attributes:
        row: of the prompt.
        start: tokens of the good answer that stand before it.
        head: tokens behind these that are given.
        draws: (longest tail,) in [0, 1): one for each token.
        stops: whether a tail is at its end.
        may_be_empty: whether the first token may end the text.
        tail: what was written, without an end-of-text token.
    """

    row: int
    start: int
    head: Row
    draws: Tensor
    stops: Callable[[Row], bool]
    may_be_empty: bool = False
    tail: Row = field(default_factory=list)


class TooLong(UserError):
    """Prompt, answer and tail are more than the model reads."""


@torch.no_grad()
def write_tails(
    reader: Reader,
    prompt: BlindPrompt,
    answers: Sequence[Row],
    places: Sequence[Place],
    *,
    temperature: float,
    top_p: float,
    ends: Sequence[int],
    never: Sequence[int],
) -> None:
    """Write every place's tail.

    Args:
        reader: the model's.
        prompt: with the images, hidden as they are to be.
        answers: the good answer's tokens, of each row.
        places: one or more; their tails are filled.
        temperature: 0 takes the likeliest token.
        top_p: nucleus, in (0, 1].
        ends: end-of-text tokens.
        never: tokens that are not written.

    Raises:
        TooLong: where prompt, answer and tail take more positions than the model has, or more columns than its sliding
            window, where hidden ones would push out others.
        UserError: where the model's scores are no numbers.
    """
    scores, state = reader.prefill(prompt)
    device = prompt.input_ids.device
    rows, starts = (torch.tensor([getattr(one, name) for one in places], device=device) for name in ("row", "start"))
    heads = [_head(place, answers) for place in places]
    read = int((starts - torch.tensor([bool(place.start) for place in places], device=device).long()).max())
    mask, after = prompt.attention_mask, prompt.position_ids[..., -1:] + 1
    longest = max(len(place.draws) for place in places)
    _check_window(state, mask.shape[1] + read + max(map(len, heads)) + longest)
    _check_reach(reader, int(after.max()) + max(place.start + len(place.head) for place in places) + longest)
    if read:
        ids, real = _left_aligned([row[:read] for row in answers], prompt.input_ids, read)
        reader.step(ids, torch.cat([mask, real], dim=1), after + torch.arange(read, device=device), state)
    state.take(rows)
    before = torch.tensor([place.start - bool(place.start) for place in places], device=device)
    shown = (torch.arange(read, device=device) < before[:, None]).to(mask.dtype)
    mask, first = torch.cat([mask[rows], shown], dim=1), scores[rows, -1]
    after = after[..., rows, :] + before[:, None]
    ids, real = right_aligned(heads, prompt.input_ids)
    if ids.shape[1]:
        mask = torch.cat([mask, real], dim=1)
        steps = (real.cumsum(-1) - 1).clamp(min=0)
        behind = reader.step(ids, mask, after + steps, state)[:, 0]
        after = after + real.sum(-1, keepdim=True)
        first = torch.where(real.any(-1, keepdim=True), behind, first)
    _sample(reader, places, first, mask, after, state, temperature, top_p, set(ends), list(never))


def drawn(scores: Tensor, draws: Tensor, *, temperature: float, top_p: float) -> Tensor:
    """One token a row.

    Args:
        scores: (rows, vocab) logits or log-probabilities; −inf never.
        draws: (rows,) in [0, 1).
        temperature: 0 takes the likeliest token.
        top_p: the fewest likeliest tokens that together have this probability, in (0, 1].

    Returns:
        (rows,) int64.
    """
    if temperature == 0:
        return scores.argmax(-1)
    probabilities, order = (scores.double() / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    reached = probabilities.cumsum(-1)
    kept = probabilities * (reached - probabilities < top_p)
    reached = kept.cumsum(-1)
    place = torch.searchsorted(reached, draws.to(reached)[:, None] * reached[:, -1:], right=True)
    last = (kept > 0).sum(-1, keepdim=True) - 1
    return order.gather(-1, torch.minimum(place, last))[:, 0]


def _sample(
    reader: Reader,
    places: Sequence[Place],
    scores: Tensor,
    mask: Tensor,
    after: Tensor,
    state: State,
    temperature: float,
    top_p: float,
    ends: set[int],
    never: list[int],
) -> None:
    """Token by token; rows that are at their end leave once they are the half."""
    live = list(places)
    done: set[int] = set()
    barred = [place for place, one in enumerate(live) if not one.may_be_empty]
    for step in range(max(len(place.draws) for place in places)):
        if bool(scores.isnan().any()):
            raise UserError("BDHS: the model's scores are no numbers (NaN); wanted a dtype in which it computes such.")
        scores = scores.clone()
        scores[:, [token for token in never if token < scores.shape[-1]]] = -torch.inf
        if step == 0 and barred:
            scores[torch.tensor(barred)[:, None], torch.tensor(sorted(ends), dtype=torch.long)] = -torch.inf
        draws = torch.tensor([float(one.draws[step]) if step < len(one.draws) else 0.0 for one in live])
        tokens = drawn(scores, draws.to(scores.device), temperature=temperature, top_p=top_p)
        for number, (place, token) in enumerate(zip(live, tokens.tolist(), strict=True)):
            if number in done:
                continue
            if token not in ends:
                place.tail.append(token)
            if token in ends or place.stops(place.tail) or step + 1 >= len(place.draws):
                done.add(number)
        if len(done) == len(live):
            return
        if 2 * len(done) >= len(live):
            kept = torch.tensor([number for number in range(len(live)) if number not in done], device=mask.device)
            live, done = [live[number] for number in kept.tolist()], set()
            state.take(kept)
            mask, after, tokens = mask[kept], after[..., kept, :], tokens[kept]
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        scores = reader.step(tokens[:, None], mask, after, state)[:, 0]
        after = after + 1


def _head(place: Place, answers: Sequence[Row]) -> Row:
    """What is read at a place: its head, behind the last token before it, whose score it may need again."""
    return [*answers[place.row][place.start - 1 : place.start], *place.head] if place.start else place.head


def _left_aligned(rows: Sequence[Row], like: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """(rows, width) ids with zeros behind the shorter, and the mask that tells these."""
    ids = like.new_tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return ids, like.new_tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])


def _check_window(state: State, columns: int) -> None:
    windows = [layer.sliding_window for layer in state.cache.layers if getattr(layer, "is_sliding", False)]
    if windows and columns > min(windows):
        raise TooLong(
            f"BDHS: prompt, answer and tail have {columns} columns, and the model's sliding window has {min(windows)}; "
            "wanted a shorter answer, smaller images or a smaller max_new_tokens."
        )


def _check_reach(reader: Reader, positions: int) -> None:
    most = getattr(reader.text_model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if most is not None and positions > most:
        raise TooLong(
            f"BDHS: prompt, answer and tail take {positions} positions, and the model has {most}; wanted a shorter "
            "answer, smaller images or a smaller max_new_tokens."
        )
