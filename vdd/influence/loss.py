"""Contrastive losses of one batch as functions of its logits, and what a removed pair takes out of them.

    S_ij = scale · cos(text_i, image_j) + bias            (B, B); texts in rows, images in columns
    contrastive   L = Σ_i [−log P_ii − log Q_ii],         P = softmax of the rows, Q of the columns
    sigmoid       L = Σ_ij −log σ(z_ij S_ij),             z = 1 on the diagonal, −1 elsewhere

A pair n leaves twice: as a positive (its own terms) and as a negative (its entry in every other term). With
r_i = Σ_j P_ij Ṡ_ij, and r_i^−n the same mean over j ≠ n alone, the derivative of L(B) − L(B∖n) along Ṡ is

    pos_n = (r_n − Ṡ_nn) + (c_n − Ṡ_nn)                   of −log P_nn − log Q_nn
    neg_n = Σ_{i≠n} P_in (Ṡ_in − r_i^−n) + columns'       of −Σ_{i≠n} log(1−P_in) − …     exact
          ≈ Σ_{i≠n} P_in (Ṡ_in − r_i)   + columns'        of Σ_{i≠n} (P_in + Q_ni)        zeta, its first order

The exact form equals P/(1−P) · (Ṡ − r), which is 0/0 where P → 1; here 1−P is never formed.

Source: arXiv:2411.11667 (contrastive loss, ζ expansion); the exact forms are derived here and held against automatic
differentiation in the tests. Sigmoid: arXiv:2303.15343; its terms are pairwise, so that its first order is exact.
Knows: tensors. Does not know: encoders, parameters, files.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

Method = Literal["exact", "zeta", "positive_only"]
METHODS: tuple[Method, ...] = ("exact", "zeta", "positive_only")


class PairLoss(Protocol):
    """A loss over the logits of one batch, or of a stack of batches of one size.

    Shapes: logits, mask and tangents are (…, B, B), with texts in rows. `mask` is True where a term counts; its
    diagonal always is, and it is symmetric. Nothing is modified.
    """

    factor: float

    def values(self, logits: Tensor, mask: Tensor) -> Tensor:
        """(…, B): each pair's own terms, which sum to the batch's loss."""

    def gradient(self, logits: Tensor, mask: Tensor) -> Tensor:
        """(…, B, B): the loss's derivative by each logit."""

    def curvature(self, logits: Tensor, mask: Tensor, tangent: Tensor) -> Tensor:
        """(…, B, B): the loss's Hessian by the logits, which is positive semi-definite, times `tangent`."""

    def removal(self, logits: Tensor, mask: Tensor, tangent: Tensor, method: Method) -> tuple[Tensor, Tensor]:
        """Derivative along `tangent` of the loss minus the loss without pair n, for every n.

        Returns:
            (…, B) as a positive, and (…, B) as a negative.
        """

    def removal_gradient(self, logits: Tensor, mask: Tensor, leaving: Tensor, method: Method) -> tuple[Tensor, Tensor]:
        """By each logit: the derivative of the loss minus the loss without the pairs that are `leaving`.

        Args:
            leaving: (B,) bool, of one batch; logits (B, B).

        Returns:
            (B, B) as positives, and (B, B) as negatives.
        """


class Contrastive:
    """CLIP's loss (arXiv:2103.00020), as a sum over both directions."""

    factor = 0.5
    """What the usual mean form multiplies by, beside 1/B: the mean of the two directions."""

    def values(self, logits: Tensor, mask: Tensor) -> Tensor:
        """See `PairLoss`."""
        logits = logits.masked_fill(~mask, -math.inf)
        own = logits.diagonal(dim1=-2, dim2=-1)
        return logits.logsumexp(-1) + logits.logsumexp(-2) - 2 * own

    def gradient(self, logits: Tensor, mask: Tensor) -> Tensor:
        """See `PairLoss`."""
        logits = logits.masked_fill(~mask, -math.inf)
        return _less_one(logits.softmax(-1)) + _less_one(logits.mT.softmax(-1)).mT

    def curvature(self, logits: Tensor, mask: Tensor, tangent: Tensor) -> Tensor:
        """See `PairLoss`: P ∘ (Ṡ − r 1ᵀ) + Q ∘ (Ṡ − 1 cᵀ)."""
        logits = logits.masked_fill(~mask, -math.inf)
        return _curved_rows(logits, tangent) + _curved_rows(logits.mT, tangent.mT).mT

    def removal(self, logits: Tensor, mask: Tensor, tangent: Tensor, method: Method) -> tuple[Tensor, Tensor]:
        """See `PairLoss`."""
        logits = logits.masked_fill(~mask, -math.inf)
        row_pos, row_neg = _leaving_rows(logits, tangent, method)
        column_pos, column_neg = _leaving_rows(logits.mT, tangent.mT, method)
        return row_pos + column_pos, row_neg + column_neg

    def removal_gradient(self, logits: Tensor, mask: Tensor, leaving: Tensor, method: Method) -> tuple[Tensor, Tensor]:
        """See `PairLoss`."""
        logits = logits.masked_fill(~mask, -math.inf)
        row_pos, row_neg = _leaving_gradient(logits, leaving, method)
        column_pos, column_neg = _leaving_gradient(logits.mT, leaving, method)
        return row_pos + column_pos.mT, row_neg + column_neg.mT


class Sigmoid:
    """SigLIP's loss: every text with every image is a question of its own."""

    factor = 1.0
    """What the usual mean form multiplies by, beside 1/B."""

    def values(self, logits: Tensor, mask: Tensor) -> Tensor:
        """See `PairLoss`; a pair's own terms are those of its row."""
        sign = self._signs(logits)
        return (F.softplus(-sign * logits) * mask).sum(-1)

    def gradient(self, logits: Tensor, mask: Tensor) -> Tensor:
        """See `PairLoss`."""
        sign = self._signs(logits)
        return -sign * torch.sigmoid(-sign * logits) * mask

    def curvature(self, logits: Tensor, mask: Tensor, tangent: Tensor) -> Tensor:
        """See `PairLoss`."""
        return torch.sigmoid(logits) * torch.sigmoid(-logits) * mask * tangent

    def removal(self, logits: Tensor, mask: Tensor, tangent: Tensor, method: Method) -> tuple[Tensor, Tensor]:
        """See `PairLoss`; linear in the terms, so that "zeta" is "exact"."""
        change = self.gradient(logits, mask) * tangent
        pos = change.diagonal(dim1=-2, dim2=-1)
        neg = change.sum(-1) + change.sum(-2) - 2 * pos
        return pos, torch.zeros_like(neg) if method == "positive_only" else neg

    def removal_gradient(self, logits: Tensor, mask: Tensor, leaving: Tensor, method: Method) -> tuple[Tensor, Tensor]:
        """See `PairLoss`."""
        gradient = self.gradient(logits, mask)
        pos = torch.diag(gradient.diagonal() * leaving)
        touched = leaving[:, None] | leaving[None, :]
        neg = gradient * touched * ~torch.eye(len(leaving), dtype=torch.bool, device=leaving.device)
        return pos, torch.zeros_like(neg) if method == "positive_only" else neg

    def _signs(self, logits: Tensor) -> Tensor:
        return 2 * torch.eye(logits.shape[-1], dtype=logits.dtype, device=logits.device) - 1


def _less_one(chances: Tensor) -> Tensor:
    """P − I; its diagonal is −Σ_{j≠i} P_ij, which keeps its digits where P_ii → 1."""
    others = chances - torch.diag_embed(chances.diagonal(dim1=-2, dim2=-1))
    return others - torch.diag_embed(others.sum(-1))


def _from_top(logits: Tensor, tangent: Tensor) -> Tensor:
    """Ṡ_ij − Ṡ_it, t the row's top: only differences count, and small ones keep their digits where P_it → 1."""
    return tangent - tangent.gather(-1, logits.argmax(-1, keepdim=True))


def _curved_rows(logits: Tensor, tangent: Tensor) -> Tensor:
    """The rows' part of `curvature`."""
    chances, tangent = logits.softmax(-1), _from_top(logits, tangent)
    return chances * (tangent - (chances * tangent).sum(-1, keepdim=True))


def _leaving_rows(logits: Tensor, tangent: Tensor, method: Method) -> tuple[Tensor, Tensor]:
    """The rows' part of `removal`."""
    chances, tangent = logits.softmax(-1), _from_top(logits, tangent)
    mean = (chances * tangent).sum(-1, keepdim=True)
    pos = mean.squeeze(-1) - tangent.diagonal(dim1=-2, dim2=-1)
    if method == "positive_only":
        return pos, torch.zeros_like(pos)
    others = _means_without_each(logits, tangent, chances, mean) if method == "exact" else mean
    change = chances * (tangent - others)
    own = torch.eye(logits.shape[-1], dtype=torch.bool, device=logits.device)
    return pos, change.masked_fill(own, 0).sum(-2)


def _means_without_each(logits: Tensor, tangent: Tensor, chances: Tensor, mean: Tensor) -> Tensor:
    """(…, B, B): for each i, n the mean of Ṡ_ij over j ≠ n, weighed by softmax_{j≠n}(S_ij).

    By subtraction where P_in ≤ 1/2; where it is more, which is one n a row at most, by a softmax of the others.
    """
    top = logits.argmax(-1, keepdim=True)
    rest = logits.scatter(-1, top, -math.inf).softmax(-1).nan_to_num()  # a row of one entry has no others
    of_the_rest = (rest * tangent).sum(-1, keepdim=True)
    is_top = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, top, True)
    by_subtraction = (mean - chances * tangent) / (1 - chances.masked_fill(is_top, 0))
    return torch.where(is_top, of_the_rest, by_subtraction)


def _leaving_gradient(logits: Tensor, leaving: Tensor, method: Method) -> tuple[Tensor, Tensor]:
    """The rows' part of `removal_gradient`."""
    chances = logits.softmax(-1)
    pos = _less_one(chances) * leaving[:, None]
    if method == "positive_only" or leaving.all():
        return pos, torch.zeros_like(pos)
    share = (chances * leaving).sum(-1, keepdim=True)
    if method == "zeta":
        neg = chances * leaving - share * chances
    else:
        neg = chances - logits.masked_fill(leaving, -math.inf).softmax(-1)
    return pos, neg.masked_fill(leaving[:, None], 0)
