"""What influence is asked about: a loss on images and texts that were not trained on.

    ValidationPairs   mean over the pairs of the training loss, in batches           which pairs help, which harm
    Choice            −log Σ_right softmax(S(image, text))                           why one image was misread

Source: arXiv:2411.11667 (data valuation; misprediction trace-back); zero-shot choice: arXiv:2103.00020.
Knows: tensors, towers. Does not know: training pairs, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from vdd._check import UserError, whole
from vdd.influence.encoders import Embeddings, Pairs, Towers
from vdd.influence.loss import PairLoss


class Query(Protocol):
    """A scalar function of the embeddings of its own images and texts."""

    @property
    def images(self) -> Any:
        """As the towers' `image_inputs` take them."""

    @property
    def texts(self) -> Any:
        """As the towers' `text_inputs` take them."""

    def value(self, at: Embeddings, loss: PairLoss) -> Tensor:
        """The loss, a scalar that can be differentiated by the embeddings; in nats."""


def asked(query: Query, towers: Towers) -> Pairs:
    """A query's images and texts as towers read them; they are no pairs, and there may be more of the one."""
    return Pairs(towers.image_inputs(query.images), towers.text_inputs(query.texts), (), torch.empty(0))


def loss_of(query: Query, towers: Towers) -> float:
    """A query's loss as towers have it."""
    return float(query.value(towers.embed(asked(query, towers), towers.parameters), towers.loss))


@dataclass(frozen=True)
class ValidationPairs:
    """Clean pairs; the loss is that of training, a mean over pairs in random batches of one draw.

    Attributes:
        images, texts: one of each a pair.
        batch_size: pairs a batch at most.
        seed: of the batches.
    """

    images: Any
    texts: Any
    batch_size: int = 256
    seed: int = 0

    def value(self, at: Embeddings, loss: PairLoss) -> Tensor:
        """See `Query`."""
        count = len(at.texts)
        if count < 2 or len(at.images) != count:
            raise UserError(
                f"influence: {len(at.images)} validation images with {count} texts; wanted two pairs or more."
            )
        whole("influence", "batch_size", self.batch_size, low=2)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.seed))
        total = at.texts.new_zeros(())
        for places in torch.tensor_split(order, -(-count // self.batch_size)):
            logits = at.joint[0] * at.texts[places] @ at.images[places].T + at.joint[1]
            total = total + loss.values(logits, torch.ones_like(logits, dtype=torch.bool)).sum()
        return total / count


@dataclass(frozen=True)
class Choice:
    """One image and texts of which some are right.

    Attributes:
        image: the one.
        texts: two at least.
        right: positions of the right ones.

    Raises:
        ValueError: where `right` is something else.
    """

    image: Any
    texts: Any
    right: Sequence[int] = field(default=(0,))

    def __post_init__(self) -> None:
        places: Any = self.right
        if not isinstance(places, Sequence) or not all(type(place) is int for place in places):
            raise UserError(f"influence: right is {places!r}; wanted positions of the right texts, such as [0].")

    @property
    def images(self) -> list[Any]:
        """The one image."""
        return [self.image]

    def value(self, at: Embeddings, loss: PairLoss) -> Tensor:
        """See `Query`."""
        count = len(at.texts)
        if not self.right or len(set(self.right)) >= count or not all(0 <= place < count for place in self.right):
            raise UserError(
                f"influence: right is {list(self.right)} of {count} texts; wanted one or more of them, and not all."
            )
        logits = at.joint[0] * (at.texts @ at.images[0]) + at.joint[1]
        wrong = sorted(set(range(count)) - set(self.right))
        # log(1 + Σ_wrong / Σ_right), which keeps its digits where the choice is almost certain.
        return F.softplus(logits[wrong].logsumexp(0) - logits[list(self.right)].logsumexp(0))
