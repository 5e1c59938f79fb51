"""vdd: make vision-language models answer from the image, not from the priors of their language model."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from vdd._version import __version__

if TYPE_CHECKING:
    from vdd import influence, integrations, preference, toy
    from vdd.calibrate import AffineCalibration
    from vdd.config import DebiasConfig, SamplingConfig
    from vdd.decoding import decode
    from vdd.generation import generate, patch
    from vdd.loading import load
    from vdd.memory import Memory
    from vdd.pipeline import LlavaPipeline, Pipeline
    from vdd.preference.ranking import rerank
    from vdd.processor import PRESETS, VDDLogitsProcessor
    from vdd.records import Answer, DecodingReport, Question, Score
    from vdd.reliance import Trace

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
    "Trace": "vdd.reliance",
    "VDDLogitsProcessor": "vdd.processor",
    "decode": "vdd.decoding",
    "generate": "vdd.generation",
    "load": "vdd.loading",
    "patch": "vdd.generation",
    "rerank": "vdd.preference.ranking",
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
    "Trace",
    "VDDLogitsProcessor",
    "__version__",
    "decode",
    "generate",
    "influence",
    "integrations",
    "load",
    "patch",
    "preference",
    "rerank",
    "toy",
]


def __getattr__(name: str) -> Any:
    if name in ("influence", "integrations", "preference", "toy"):
        return import_module(f"vdd.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'vdd' has no attribute {name!r}; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
