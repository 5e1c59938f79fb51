"""Another decoding method inside `generate` (`custom_generate`): whose fault a failure is, what it must return.

Knows: arguments of `generate`, token ids. Does not know: models, debiasing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from vdd._check import UserError


@contextlib.contextmanager
def blamed(custom: Mapping[str, Any] | None) -> Iterator[None]:
    """Say of what fails inside whose fault it is, where that is another decoding method's."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if not custom:
            raise
        raise UserError(
            f"{custom['custom_generate']}: the decoding method failed ({type(error).__name__}: {error})."
        ) from error


def checked_width(custom: Mapping[str, Any], sequences: Any, ids: Tensor) -> int:
    """Columns of the prompt in what a decoding method returned; such a method need not ask a logits processor."""
    width = ids.shape[1]
    if not isinstance(sequences, Tensor) or sequences.ndim != 2 or not torch.equal(sequences[:, :width], ids):
        came = tuple(sequences.shape) if isinstance(sequences, Tensor) else type(sequences).__name__
        raise UserError(
            f"{custom['custom_generate']}: the decoding method returned {came}; wanted ({len(ids)}, ≥ {width}) token "
            "ids, each row beginning with its prompt, as transformers' own do."
        )
    return width
