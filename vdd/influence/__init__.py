"""Which training pairs made a contrastive model see badly (arXiv:2411.11667).

value       `ECIF.scores` of `ValidationPairs`; `valued` keeps every step in a folder
misaligned  `detectors` of `suspicions`
trace       `Tracer`, `TraceMispredictions`
"""

from __future__ import annotations

from vdd.influence.curvature import NotSolvedError
from vdd.influence.detection import detectors, suspicions
from vdd.influence.ecif import ECIF, NotOptimalWarning
from vdd.influence.encoders import Pairs, Towers
from vdd.influence.opening import influence_of
from vdd.influence.query import Choice, Query, ValidationPairs
from vdd.influence.ranking import valued
from vdd.influence.refit import at_minimum
from vdd.influence.scores import RelativeScores, Scores
from vdd.influence.store import Store
from vdd.influence.towers import HubTowers, open_towers
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
    "Store",
    "Towers",
    "TraceMispredictions",
    "Tracer",
    "ValidationPairs",
    "at_minimum",
    "detectors",
    "influence_of",
    "open_towers",
    "suspicions",
    "valued",
]
