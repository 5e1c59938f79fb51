"""Solving A x = b for a positive definite A that is known by its products alone, and what the solve says of A.

    conjugate gradients, preconditioned by a sketch of a related matrix: with G ≈ U Λ Uᵀ of rank k,
    M⁻¹ = U (λ_k + δ)(Λ + δ)⁻¹ Uᵀ + (I − U Uᵀ)

Source: conjugate gradients (Hestenes and Stiefel 1952); the randomised Nyström preconditioner (arXiv:2110.02820,
Algorithms 2.1 and 5.1); the least curvature by Lanczos' iteration (1950).
Knows: tensors. Does not know: losses, encoders.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vdd._check import UserError

Product = Callable[[Tensor], Tensor]


@dataclass
class Preparation:
    """What all solves have in common: products with the curvature, and their seconds."""

    products: int = 0
    seconds: float = 0.0

    def add(self, products: int, seconds: float) -> None:
        """Count more."""
        self.products += products
        self.seconds += seconds


class NotSolvedError(UserError):
    """The linear system was not solved to the tolerance."""


@dataclass(frozen=True)
class Solve:
    """How a solve went.

    Attributes:
        products: with the matrix, the check of the residual included.
        seconds: of the clock.
        residual: ‖b − A x‖ / ‖b‖, computed anew from x.
        smallest_curvature: the least pᵀA p / pᵀp of all directions p that were searched.
        converged: whether the residual is within the tolerance; never where a curvature was ≤ 0, as A is then not
            positive definite and x no minimum.
    """

    products: int
    seconds: float
    residual: float
    smallest_curvature: float
    converged: bool

    def refuse_unsolved(self, tolerance: float) -> None:
        """Raise NotSolvedError where the solve did not converge.

        Args:
            tolerance: that was wanted.
        """
        if self.converged:
            return
        if self.smallest_curvature <= 0:
            what = f"a direction has curvature {self.smallest_curvature:.3g}, so that this is no minimum"
            advice = 'curvature="ggn", or a larger damping'
        else:
            what = f"after {self.products} products the residual is {self.residual:.2g} of the right-hand side"
            advice = "more max_products, a larger damping or tolerance, or parameters in float64"
        raise NotSolvedError(
            f"influence: the system was not solved: {what}; wanted {tolerance:g}. Try {advice}; or take scores as they "
            "are with allow_unsolved=True."
        )


@dataclass(frozen=True)
class Sketch:
    """A low-rank likeness U Λ Uᵀ of a positive semi-definite matrix.

    Attributes:
        vectors: U, (P, k), orthonormal columns.
        values: Λ, (k,), from large to small, ≥ 0.
        shift: δ > 0, what is added to the matrix.
    """

    vectors: Tensor
    values: Tensor
    shift: float

    def apply(self, residual: Tensor) -> Tensor:
        """(P,): M⁻¹ r."""
        within = self.vectors.T @ residual
        scaled = (self.values[-1] + self.shift) / (self.values + self.shift) * within
        return residual + self.vectors @ (scaled - within)


def sketch(product: Product, size: int, rank: int, shift: float, like: Tensor, generator: torch.Generator) -> Sketch:
    """A Nyström sketch of a matrix from `rank` products.

    Args:
        product: with a positive semi-definite matrix, (P,) → (P,), without the shift.
        size: P.
        rank: k ≤ P.
        shift: δ.
        like: a tensor of the type and on the device that products take.
        generator: of the random directions, on the CPU.
    """
    image = like.new_empty(rank, size).T  # by columns, as products are written; the largest thing here, so never twice
    for column in image.T:
        column.copy_(torch.randn(size, generator=generator, dtype=torch.float64))
    basis = torch.linalg.qr(image).Q
    for column, direction in zip(image.T, basis.T, strict=True):
        column.copy_(product(direction))
    small = torch.finfo(image.dtype).eps * torch.linalg.matrix_norm(image)
    image.add_(small * basis)
    inner = basis.T @ image
    del basis
    root, info = torch.linalg.cholesky_ex((inner + inner.T) / 2)
    if info:
        values, vectors = torch.linalg.eigh((inner + inner.T) / 2)
        root = vectors * values.clamp(min=small).sqrt()
        half = torch.linalg.lstsq(root, image.T).solution.T
    else:
        half = torch.linalg.solve_triangular(root, image.T, upper=False).T
    del image
    vectors, singular, _ = torch.linalg.svd(half, full_matrices=False)
    values = (singular.square() - small).clamp(min=0)
    return Sketch(vectors, values, max(shift, float(values[0]) * torch.finfo(values.dtype).eps))


def least_curvature(product: Product, like: Tensor, steps: int, generator: torch.Generator) -> float:
    """About the least eigenvalue of a symmetric matrix, and never below it.

    Args:
        product: with the matrix, (P,) → (P,).
        like: (P,), of the type and on the device that products take.
        steps: products at most.
        generator: of the first direction, on the CPU.
    """
    direction = torch.randn(len(like), generator=generator, dtype=torch.float64).to(like)
    direction = direction / torch.linalg.vector_norm(direction)
    behind, link = torch.zeros_like(direction), 0.0
    bends: list[float] = []
    links: list[float] = []
    for _ in range(min(steps, len(like))):
        image = product(direction) - link * behind
        bends.append(float(direction @ image))
        image = image - bends[-1] * direction
        link = float(torch.linalg.vector_norm(image))
        if not link > torch.finfo(image.dtype).eps * abs(bends[0]):
            break
        links.append(link)
        behind, direction = direction, image / link
    off = torch.tensor(links[: len(bends) - 1], dtype=torch.float64)
    found = torch.diag(torch.tensor(bends, dtype=torch.float64)) + torch.diag(off, 1) + torch.diag(off, -1)
    return float(torch.linalg.eigvalsh(found)[0])


def solve(
    product: Product,
    target: Tensor,
    *,
    tolerance: float,
    max_products: int,
    precondition: Product | None = None,
    start: Tensor | None = None,
) -> tuple[Tensor, Solve]:
    """x with ‖b − A x‖ ≤ tolerance · ‖b‖, by conjugate gradients.

    Args:
        product: with A, (P,) → (P,).
        target: b.
        tolerance: > 0, relative to ‖b‖.
        max_products: after so many the search stops.
        precondition: r → M⁻¹ r; None for none.
        start: where to begin; None for 0.

    Returns:
        x, the one of least residual on the way, and how it went. Where a direction of curvature ≤ 0 was met, x is what
        was found before it.
    """
    began = time.perf_counter()
    precondition = precondition or (lambda residual: residual)
    length = float(torch.linalg.vector_norm(target))
    if length == 0:
        return torch.zeros_like(target), Solve(0, 0.0, 0.0, float("inf"), True)
    found = torch.zeros_like(target) if start is None else start.clone()
    residual = target.clone() if start is None else target - product(found)
    products = int(start is not None)
    smallest = float("inf")
    ahead = precondition(residual)
    direction, alignment = ahead, residual @ ahead
    true = float(torch.linalg.vector_norm(residual)) / length
    best, kept = true, found.clone()
    while products < max_products and true > tolerance:
        image = product(direction)
        products += 1
        bend = float(direction @ image)
        smallest = min(smallest, bend / float(direction @ direction))
        if bend <= 0:
            break
        step = alignment / bend
        found += step * direction
        residual = residual - step * image
        true = float(torch.linalg.vector_norm(residual)) / length
        if true <= tolerance or products % 50 == 0:  # the recursion drifts; what counts is the residual itself
            residual = target - product(found)
            products += 1
            true = float(torch.linalg.vector_norm(residual)) / length
        if true < best:
            best, kept = true, found.clone()
        ahead = precondition(residual)
        alignment, before = residual @ ahead, alignment
        direction = ahead + alignment / before * direction
    true = float(torch.linalg.vector_norm(target - product(kept))) / length
    seconds = time.perf_counter() - began
    return kept, Solve(products + 1, seconds, true, smallest, true <= tolerance and smallest > 0)
