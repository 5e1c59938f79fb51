"""Next-token distributions that were computed before, by the complete content of what was read.

POPE asks 3,000 questions a split with some 80 different texts: the image-free side of each is computed once.

Knows: tensors, keys. Does not know: models beyond their identity, prompts, what a key stands for.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from vdd._check import whole

_NUMBERS: WeakKeyDictionary[Any, int] = WeakKeyDictionary()
_COUNT = itertools.count()


class Memory:
    """A bounded table of score rows; the row that was not asked for longest is forgotten first.

    Every row is computed by itself, without batch-mates or padding, so that what is remembered does not depend on who
    asked first. A model's weights are not part of the key: `clear` after they change.

    Args:
        megabytes: how much the rows may take, ≥ 1.

    Attributes:
        hits, misses: how often a row was known and was not.
    """

    def __init__(self, megabytes: int = 256) -> None:
        self.limit = whole("memory", "megabytes", megabytes, low=1) * 2**20
        self.hits = self.misses = self.size = 0
        self._rows: OrderedDict[tuple[int, str, bytes], Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._rows)

    def row(self, model: Any, content: bytes, compute: Callable[[], Tensor]) -> Tensor:
        """(vocab,) scores for what `content` is the digest of: known, or computed now.

        Args:
            model: whose scores; its identity and dtype are part of the key.
            content: digest of all else that they depend on.
            compute: gives the (vocab,) scores.
        """
        key = (_NUMBERS.setdefault(model, next(_COUNT)), str(model.dtype), content)
        known = self._rows.get(key)
        if known is not None:
            self.hits += 1
            self._rows.move_to_end(key)
            return known
        self.misses += 1
        row = compute()
        self._rows[key] = row
        self.size += row.nbytes
        while self.size > self.limit and len(self._rows) > 1:
            self.size -= self._rows.popitem(last=False)[1].nbytes
        return row

    def clear(self) -> None:
        """Forget every row."""
        self._rows.clear()
        self.size = 0
