"""vdd: make vision-language models answer from the image, not from the priors of their language model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vdd._version import __version__

if TYPE_CHECKING:
    from vdd import influence, integrations, toy
    from vdd.calibrate import AffineCalibration
    from vdd.config import DebiasConfig, SamplingConfig
    from vdd.decoding import decode
    from vdd.generation import generate, patch
    from vdd.loading import load
    from vdd.memory import Memory
    from vdd.pipeline import LlavaPipeline, Pipeline
    from vdd.processor import PRESETS, VDDLogitsProcessor
    from vdd.records import Answer, DecodingReport, Question, Score

_HOMES = {
    "AffineCalibration": "vdd.calibrate",
    "Answer": "vdd.records",
    "DebiasConfig": "vdd.config",
    "DecodingReport": "vdd.records",
    "LlavaPipeline": "vdd.pipeline",
    "Memory": "vdd.memory",
    "PRESETS": "vdd.processor",
    "Pipeline": "vdd.pipeline",
    "Question": "vdd.records",
    "SamplingConfig": "vdd.config",
    "Score": "vdd.records",
    "VDDLogitsProcessor": "vdd.processor",
    "decode": "vdd.decoding",
    "generate": "vdd.generation",
    "load": "vdd.loading",
    "patch": "vdd.generation",
}

__all__ = [
    "PRESETS",
    "AffineCalibration",
    "Answer",
    "DebiasConfig",
    "DecodingReport",
    "LlavaPipeline",
    "Memory",
    "Pipeline",
    "Question",
    "SamplingConfig",
    "Score",
    "VDDLogitsProcessor",
    "__version__",
    "decode",
    "generate",
    "influence",
    "integrations",
    "load",
    "patch",
    "toy",
]


def __getattr__(name: str) -> Any:
    if name in ("influence", "integrations", "toy"):
        return import_module(f"vdd.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vdd' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
