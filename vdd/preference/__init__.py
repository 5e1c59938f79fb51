"""Preference data from a model's own bias, and the training that removes it (extra `train` for the training)."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vdd.preference.alignment import AlignConfig as AlignConfig
    from vdd.preference.bdhs import BDHS as BDHS
    from vdd.preference.checks import check_pairs as check_pairs
    from vdd.preference.dataset import read_pairs as read_pairs
    from vdd.preference.dataset import trl_rows as trl_rows
    from vdd.preference.dataset import write_pairs as write_pairs
    from vdd.preference.pairs import Pair as Pair
    from vdd.preference.pairs import Refused as Refused
    from vdd.preference.pairs import Row as Row
    from vdd.preference.ranking import rerank as rerank
    from vdd.preference.reward import GroundingReward as GroundingReward
    from vdd.preference.similarity import Embedder as Embedder
    from vdd.preference.similarity import NamedThings as NamedThings
    from vdd.preference.similarity import Words as Words
    from vdd.preference.sources import read_rows as read_rows
    from vdd.preference.train import align as align

_HOMES = {
    "AlignConfig": "alignment",
    "BDHS": "bdhs",
    "Embedder": "similarity",
    "GroundingReward": "reward",
    "NamedThings": "similarity",
    "Pair": "pairs",
    "Refused": "pairs",
    "Row": "pairs",
    "Words": "similarity",
    "align": "train",
    "check_pairs": "checks",
    "read_pairs": "dataset",
    "read_rows": "sources",
    "rerank": "ranking",
    "trl_rows": "dataset",
    "write_pairs": "dataset",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(_HOMES)}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(_HOMES)
