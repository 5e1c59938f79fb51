"""How much damping an objective needs, where nobody says.

    δ = max(−3 λ, tr(G)/10P)        λ the least eigenvalue of the Hessian, G the Gauss-Newton matrix, P its size

Away from a minimum the loss bends down in some directions; −λ makes it convex at the point. On some pairs of the
embedded model that was too little to train to a minimum with, and three times as much was enough on all.

Source: arXiv:2308.03296 (5.1) for a tenth of the mean curvature, there for each layer; the convexity is this project's.
Knows: points of objectives. Does not know: influence.
"""

from __future__ import annotations

import torch

from vdd.influence.curvature import least_curvature
from vdd.influence.objective import Point

SHARE = 0.1
"""Of the mean curvature."""
CONVEX = 3.0
"""Times what makes the objective convex."""
PROBES = 8
"""Of the trace."""
LANCZOS = 16
"""Products with the Hessian for its least eigenvalue; eight are right to 1 % on the embedded model's heads."""


def usual_damping(point: Point, seed: int) -> tuple[float, int]:
    """δ for an objective that has none yet, and the products with the curvature that it took to find.

    Args:
        point: of an objective whose damping is 0.
        seed: of the probes.
    """
    generator = torch.Generator().manual_seed(seed)
    trace = 0.0
    for _ in range(PROBES):
        probe = torch.randn(len(point.theta), generator=generator, dtype=torch.float64).to(point.theta)
        trace += float(probe @ point.gauss_newton(probe)) / PROBES
    mean = trace / len(point.theta)
    return max(CONVEX * convex_damping(point, seed), SHARE * mean), PROBES + LANCZOS


def convex_damping(point: Point, seed: int) -> float:
    """The least damping by which an objective without one bends up in every direction at a point; may be below 0."""
    return -least_curvature(point.hessian, point.theta, LANCZOS, torch.Generator().manual_seed(seed))
