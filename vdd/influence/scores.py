"""What is said of each pair: how much its removal would change a query's loss, absolutely and relatively.

Relative influence is the largest change of the loss under a bound on the change of the parameters,

    tied  gᵀ(p+q) / ‖p+q‖          free  sqrt(bᵀ M⁺ b),  b = (gᵀp, gᵀq),  M the Gram matrix of p, q

with p, q the shares of H⁻¹Δ_n as a positive and as a negative, g the query's gradient. M is estimated by random probes
z: ‖H⁻¹Δ_n‖² = E_z ⟨H⁻¹z, Δ_n⟩², and so for the products.

Source: arXiv:2411.11667 (valuation, misprediction trace-back); the probes are this project's.
Knows: tensors. Does not know: solves, towers, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vdd.influence.curvature import Solve


@dataclass(frozen=True)
class Scores:
    """A query's scores, (N,) each, in the order of the pairs.

    Attributes:
        ids: of the pairs.
        pos, neg: the parts as a positive and as a negative.
        total: their sum, `delta_loss_on_removal`: below 0 harmful, above 0 valuable; in the unit of the query's loss.
        standard_error: of `total`, over the partitions; NaN where there is one.
        solve: how w was found.
    """

    ids: Sequence[int | str]
    pos: Tensor
    neg: Tensor
    total: Tensor
    standard_error: Tensor
    solve: Solve

    @classmethod
    def of(cls, ids: Sequence[int | str], pos: Tensor, neg: Tensor, how: Solve) -> Scores:
        """The scores that follow from every partition's sweep, (R, N) each."""
        totals = pos + neg
        error = totals.std(0, correction=1) if len(totals) > 1 else torch.full_like(totals[0], torch.nan)
        return cls(ids, pos.mean(0), neg.mean(0), totals.mean(0), error / len(totals) ** 0.5, how)


@dataclass(frozen=True)
class RelativeScores:
    """A query's relative scores, (N,) each.

    Attributes:
        ids: of the pairs.
        tied: gᵀ(p+q)/‖p+q‖; below 0 harmful. NaN where the pair moves nothing.
        free: sqrt(bᵀM⁺b) ≥ 0, how much it moves where both shares may be weighed; unsigned.
    """

    ids: Sequence[int | str]
    tied: Tensor
    free: Tensor

    @property
    def signed_free(self) -> Tensor:
        """`free` with the sign of `tied`."""
        return self.free * self.tied.sign()


@dataclass(frozen=True)
class Norms:
    """What random probes told of every pair's Gram matrix; the same for all queries.

    Attributes:
        sums: (3, N), Σ_z of ⟨H⁻¹z, ·⟩² as a positive, of the product, and of the square as a negative.
        probes: how many.
    """

    sums: Tensor
    probes: int = 0

    def with_probe(self, pos: Tensor, neg: Tensor) -> Norms:
        """One probe more: its products with every pair's shares, (N,) each."""
        return Norms(self.sums + torch.stack([pos * pos, pos * neg, neg * neg]), self.probes + 1)

    def relative(self, ids: Sequence[int | str], pos: Tensor, neg: Tensor) -> RelativeScores:
        """The relative scores of a query whose scores these parts are, (N,) each."""
        pp, pq, qq = self.sums / self.probes
        length = (pp + 2 * pq + qq).clamp(min=0).sqrt()
        gram = torch.stack([pp, pq, pq, qq], -1).reshape(-1, 2, 2)
        parts = torch.stack([pos, neg], -1)
        inverse = torch.linalg.pinv(gram, hermitian=True, rtol=1e-6)
        free = torch.einsum("ni,nij,nj->n", parts, inverse, parts).clamp(min=0).sqrt()
        return RelativeScores(ids, torch.where(length > 0, (pos + neg) / length, torch.nan), free)
