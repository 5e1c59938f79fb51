"""A small world and a small model with a strong prior: everything works on it, offline, on a CPU, in seconds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vdd.toy.model import WEIGHTS as WEIGHTS
    from vdd.toy.model import load as load
    from vdd.toy.model import load_clip as load_clip
    from vdd.toy.questions import write_toy_data as write_toy_data

_HOMES = {
    "WEIGHTS": "model",
    "load": "model",
    "load_clip": "model",
    "write_toy_data": "questions",
}
__all__ = ["WEIGHTS", "load", "load_clip", "write_toy_data"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
