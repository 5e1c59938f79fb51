"""What hypothesis draws: logits on a grid of 1/8, so that equal values are real ties, and walks over a branch."""

from __future__ import annotations

import math

import torch
from hypothesis import strategies as st

GRID = 0.125
ALPHA = st.one_of(st.sampled_from([0.0, 0.5, 1.0, 3.0]), st.floats(0, 10))
BETA = st.one_of(
    st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]),
    st.integers(0, 40).map(lambda n: math.exp(-n * GRID) * (1 - 2e-15)),  # a hair below: exp itself rounds up or down
)


def grid_logits(low: int = -64, high: int = 64) -> st.SearchStrategy[float]:
    return st.integers(low, high).map(lambda n: n * GRID)


@st.composite
def branches(draw: st.DrawFn, *, rows: int = 1, dtype: torch.dtype = torch.float64, forbid: bool = False):
    """(seen, blind), each (rows, vocab); with `forbid` some scores are −inf or finfo.min, never a whole row."""
    vocab = draw(st.integers(1, 12))
    value = grid_logits()
    if forbid:
        value = st.one_of(value, value, st.sampled_from([-math.inf, torch.finfo(dtype).min]))
    pair = []
    for _ in range(2):
        table = draw(st.lists(st.lists(value, min_size=vocab, max_size=vocab), min_size=rows, max_size=rows))
        for row in table:
            row[draw(st.integers(0, vocab - 1))] = draw(grid_logits())
        pair.append(torch.tensor(table, dtype=dtype))
    return tuple(pair)


WALK = st.lists(
    st.one_of(
        st.tuples(st.just("extend"), st.integers(1, 4), st.integers(0, 10_000)),
        st.tuples(st.just("same"), st.just(0), st.just(0)),
        st.tuples(st.just("roll back"), st.integers(1, 6), st.just(0)),
        st.tuples(st.just("diverge"), st.integers(1, 3), st.integers(0, 10_000)),
        st.tuples(st.just("reorder"), st.just(0), st.integers(0, 10_000)),
        st.tuples(st.just("take rows"), st.integers(1, 4), st.integers(0, 10_000)),
        st.tuples(st.just("new prompt"), st.integers(1, 4), st.integers(0, 10_000)),
    ),
    min_size=3,
    max_size=8,
)
"""Operations on a branch: (name, how many, seed)."""
