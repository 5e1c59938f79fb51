"""Wrong answers traced to the training pairs that made the tower see so.

A query is a choice between texts (see `statements`); its loss is −log p(right | image) by the tower alone. Pairs whose
relative influence `tied` on it is below 0 are harmful: to have learnt from them made the right text less probable. The
answer may be wrong though the tower saw well, so its own probability of a right text always comes along.

Source: arXiv:2411.11667 (misprediction trace-back).
Knows: ECIF, pairs, diagnoses. Does not know: models that answer, runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from vdd._check import UserError, whole
from vdd.diagnosis import Misread, Traced, TracedPair, claim, keep
from vdd.images import Picture
from vdd.influence.curvature import NotSolvedError
from vdd.influence.ecif import ECIF
from vdd.influence.encoders import Towers
from vdd.influence.pairs import PairRecord
from vdd.influence.query import Choice, loss_of
from vdd.influence.scores import Norms
from vdd.influence.statements import contrasted
from vdd.influence.store import Store
from vdd.records import Misprediction
from vdd.scoring.words import LABELS, official

PROBES = 64
"""Of which the norms have a rank correlation of 0.98 to 0.99 with the exact ones on the small problem of the tests."""
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Influences:
    """All that is known of every pair for one query, (N,) each, in the order of the pairs.

    Attributes:
        probability: that the tower gives to a right text.
        tied, free, delta_loss_on_removal, standard_error: see `vdd.diagnosis.TracedPair`.
    """

    probability: float
    tied: Tensor
    free: Tensor
    delta_loss_on_removal: Tensor
    standard_error: Tensor


class Tracer:
    """Traces choices of a tower to its training pairs.

    Args:
        ecif: of the tower and its pairs.
        records: the pairs by name, in the same order.
        tower: that answered, where the influence is that of another, as of one trained to a minimum first.
        probes: random directions that the norms of relative influence are estimated by, one solve each.
        store: where what the probes told is kept, so that another process need not ask again; None keeps nothing.
        progress: called with (probes done, in all), before the first trace.

    Raises:
        ValueError: where the records are others than the pairs.
    """

    def __init__(
        self,
        ecif: ECIF,
        records: Sequence[PairRecord],
        *,
        tower: Towers | None = None,
        probes: int = PROBES,
        store: Store | None = None,
        progress: Progress | None = None,
    ) -> None:
        if [record.id for record in records] != list(ecif.data.ids):
            raise UserError(f"trace: {len(records)} records are not the {len(ecif.data)} pairs; wanted the same ids.")
        self.ecif, self.records, self.tower = ecif, records, tower or ecif.towers
        self.probes = whole("trace", "probes", probes, low=1)
        self._store, self._progress = store or Store(None, ""), progress

    def influences(self, query: Choice) -> Influences:
        """Every pair's influence on a choice.

        Raises:
            NotSolvedError: see `ECIF.scores`.
            ValueError: where the image cannot be read, or the tower reads all texts alike, as where what differs is
                behind the last word that it reads.
        """
        ecif = self.ecif
        loss = loss_of(query, self.tower)
        gradient = ecif.query_gradient(query)
        even = math.log(len(query.texts) / len(query.right))  # where no text is likelier than another, to rounding
        if abs(loss - even) <= 128 * torch.finfo(gradient.dtype).eps:
            raise UserError("trace: the tower reads all texts alike; wanted texts whose first words differ.")
        found = ecif.scores_along(*ecif.solve(gradient))
        relative = self._norms.relative(ecif.data.ids, found.pos, found.neg)
        return Influences(math.exp(-loss), relative.tied, relative.signed_free, found.total, found.standard_error)

    def trace(self, query: Choice, top: int = 6, *, misread: Misread | None = None) -> Traced:
        """The pairs that harmed a choice most, and those that helped most.

        Args:
            query: what the tower is asked.
            top: pairs of either kind at most.
            misread: the wrong answer that the query is about.
        """
        about = misread or Misread(0, "", texts=query.texts, right=query.right)
        return self.extremes(self.influences(query), top, about)

    def attempt(
        self,
        misread: Misread,
        picture: Picture,
        top: int = 6,
        *,
        hear: Callable[[Influences], object] | None = None,
    ) -> Traced:
        """`trace` of a wrong answer with its texts; where its image or texts cannot be used, a trace with the reason.

        Args:
            hear: called with every pair's figures.

        Raises:
            NotSolvedError: see `ECIF.scores`.
        """
        try:
            found = self.influences(Choice(picture, misread.texts, misread.right))
        except NotSolvedError:
            raise
        except UserError as error:
            return Traced(misread, reason=str(error))
        if hear is not None:
            hear(found)
        return self.extremes(found, top, misread)

    def extremes(self, found: Influences, top: int, misread: Misread) -> Traced:
        """`trace`, from what `influences` gave."""
        whole("trace", "top", top, low=1)
        order = [place for place in found.tied.argsort().tolist() if math.isfinite(float(found.tied[place]))]
        harmful = [self._pair(found, place) for place in order[:top] if found.tied[place] < 0]
        helpful = [self._pair(found, place) for place in order[::-1][:top] if found.tied[place] > 0]
        return Traced(misread, found.probability, harmful, helpful)

    def rows(self, found: Influences) -> list[TracedPair]:
        """Every pair's figures, the most harmful first."""
        return [self._pair(found, place) for place in found.tied.argsort().tolist()]

    def _pair(self, found: Influences, place: int) -> TracedPair:
        record, (clip, loss) = self.records[place], self._figures
        return TracedPair(
            record.id,
            record.image,
            record.caption,
            tied=float(found.tied[place]),
            free=float(found.free[place]),
            delta_loss_on_removal=float(found.delta_loss_on_removal[place]),
            standard_error=float(found.standard_error[place]),
            clip_score=float(clip[place]),
            pair_loss=float(loss[place]),
        )

    @cached_property
    def _figures(self) -> tuple[Tensor, Tensor]:
        """CLIP score and own loss of every pair."""
        return self.ecif.point.pair_figures()

    @cached_property
    def _norms(self) -> Norms:
        """What the probes tell, each kept as it is done; only as many as are asked for, whatever is kept."""
        store, ecif, name = self._store, self.ecif, f"norms-{self.probes}"
        found = store.get(name)
        known = None if found is None else Norms(found.tensors["sums"].to(ecif.theta), found.notes["probes"])

        def kept(norms: Norms) -> None:
            store.put(name, {"sums": norms.sums}, {"probes": norms.probes})

        return ecif.norms(self.probes, known=known, keep=kept, progress=self._progress)


class TraceMispredictions:
    """A callback for `vdd.Pipeline(…, on_misprediction=…)`: traces what it is called with, and collects it.

    Args:
        tracer: of the tower that saw the images.
        folder: where traces are written too, behind those that are there; see `vdd.diagnosis`.
        images: folder of the pairs' images, for their small pictures there.
        top: pairs of either kind at most.

    Attributes:
        traced: so far; where nothing could be traced, with the reason.
    """

    def __init__(self, tracer: Tracer, folder: Path | None = None, *, images: Path | None = None, top: int = 6) -> None:
        self.tracer, self.folder, self.images = tracer, folder, images
        self.top = whole("trace", "top", top, low=1)
        self.traced: list[Traced] = []
        self._before = 0 if folder is None else len(claim(folder, {"pairs": len(tracer.records), "top": top}))

    def __call__(self, misprediction: Misprediction) -> None:
        """Trace one wrong answer; what cannot be traced is collected with the reason, and stops nothing."""
        said, truth = misprediction.answer.text, misprediction.truth
        wrong = Misread(
            self._before + len(self.traced), misprediction.answer.image, misprediction.question, said, truth
        )
        if truth.strip().casefold() in LABELS:
            said = official(said.lower(), truth)
        asked = contrasted(wrong, said)
        picture = misprediction.images[0] if len(misprediction.images) == 1 else None
        if picture is None:
            found = Traced(wrong, reason=f"{len(misprediction.images)} images; wanted one")
        elif asked is None:
            found = Traced(wrong, reason="no wrong answer that texts could stand for")
        else:
            try:
                found = self.tracer.attempt(asked, picture, self.top)
            except NotSolvedError as error:
                found = Traced(asked, reason=str(error))
        if self.folder is not None:
            found = keep(self.folder, found, picture=picture, images=self.images)
        self.traced.append(found)
