"""Which training pairs made a contrastive model see badly (arXiv:2411.11667)."""

from __future__ import annotations

from vdd.influence.curvature import NotSolvedError
from vdd.influence.ecif import ECIF, NotOptimalWarning
from vdd.influence.encoders import Pairs, Towers
from vdd.influence.query import Choice, Query, ValidationPairs
from vdd.influence.scores import RelativeScores, Scores
from vdd.influence.towers import HubTowers
from vdd.influence.trace import TraceMispredictions, Tracer

__all__ = [
    "ECIF",
    "Choice",
    "HubTowers",
    "NotOptimalWarning",
    "NotSolvedError",
    "Pairs",
    "Query",
    "RelativeScores",
    "Scores",
    "Towers",
    "TraceMispredictions",
    "Tracer",
    "ValidationPairs",
]
