"""Derivatives of functions of named tensors: gradients, and what central differences say of a direction.

    (f(θ + ε v) − f(θ − ε v)) / 2ε,     ε = eps^⅓ · max(1, ‖θ‖) / ‖v‖, which balances rounding and curvature

Knows: tensors. Does not know: encoders.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

Parameters = dict[str, Tensor]


def gradient(function: Callable[[Parameters], Tensor], at: Parameters, by: Tensor) -> Parameters:
    """Σ ∂f/∂θ · by, for a function's derivatives `by` in the place of its values."""
    return vjp(function, at)[1](by)[0]


def central_difference(function: Callable[[Parameters], Any], at: Parameters, direction: Parameters) -> Any:
    """About the derivative along a direction of a function whose values are a tensor, or named tensors."""
    length = math.sqrt(sum(float(value.square().sum()) for value in direction.values())) or 1.0
    size = max(1.0, math.sqrt(sum(float(value.square().sum()) for value in at.values())))
    epsilon = torch.finfo(next(iter(at.values())).dtype).eps ** (1 / 3) * size / length
    ahead, behind = (
        function({name: value + sign * epsilon * direction[name] for name, value in at.items()}) for sign in (1, -1)
    )
    if isinstance(ahead, Tensor):
        return (ahead - behind) / (2 * epsilon)
    return {name: (ahead[name] - behind[name]) / (2 * epsilon) for name in ahead}
