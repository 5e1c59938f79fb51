"""What `vdd influence trace` and `vdd eval … --diagnose` share: pairs and a tower in, traces in a folder out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vdd._check import whole
from vdd.cli.influence_options import PARTS, TRAINING, Influencing, warned_in_a_line
from vdd.cli.show import progress, say
from vdd.diagnose import trace_all
from vdd.diagnosis import PICTURES, Misread, Traced, check_settings, claim
from vdd.images import image_path, load_image
from vdd.influence.features import digest_of_files, digest_of_model
from vdd.influence.pairs import PairRecord, Skipped, read_pairs
from vdd.influence.store import Store, digest_of
from vdd.influence.towers import HubTowers
from vdd.influence.trace import PROBES, Tracer
from vdd.plots import INK, RIGHT, WRONG, Captioned, contact_sheet
from vdd.run_folder import only_one

SHEETS = "sheets"
RANK = 256
"""Of the preconditioner's sketch: many systems are solved with it."""


@dataclass(frozen=True, kw_only=True)
class Tracing:
    """Pairs, and how wrong answers are traced to them.

    Attributes:
        pairs: their file.
        images: folder of their images.
        out: folder for the traces.
        how: the tower, and how influence is computed.
        top: pairs of either kind.
        probes: see `Tracer`.
        tables: whether every pair's figures are written.
    """

    pairs: Path
    images: Path
    out: Path
    how: Influencing
    top: int = 6
    probes: int = PROBES
    tables: bool = False

    def opened(self) -> Opened:
        """The pairs' file and the tower; raises UserError on whatever can be known to be wrong of them."""
        whole("trace", "top", self.top, low=1)
        whole("trace", "probes", self.probes, low=1)
        records, skipped = read_pairs(self.pairs, self.images)
        self.how.check(len(records))
        return Opened(self, records, skipped, self.how.towers())


@dataclass(frozen=True)
class Opened:
    """Pairs that are there and a tower that is open."""

    tracing: Tracing
    records: list[PairRecord]
    skipped: Sequence[Skipped]
    towers: HubTowers

    def settings(self) -> dict[str, Any]:
        """All that traces depend on, but for what is asked."""
        tracing = self.tracing
        return {
            "tower": tracing.how.model,
            **tracing.how.settings(),
            "probes": tracing.probes,
            "top": tracing.top,
            "weights": digest_of_model(self.towers)[:12],
            "pairs": digest_of([[one.id, one.image, one.caption] for one in self.records])[:12],
        }

    def check(self) -> None:
        """Raise UserError where the folder for the traces is another's."""
        check_settings(self.tracing.out, self.settings())

    def trace(self, asked: Sequence[Misread], pictures: Path, about: Mapping[str, Any]) -> list[Traced]:
        """Trace each wrong answer; what a killed call has done is not done again.

        Args:
            asked: with their texts.
            pictures: folder of the questions' images.
            about: where they come from, as JSON has it; a folder holds traces of one source.
        """
        out = self.tracing.out
        done = claim(out, {**self.settings(), **about})
        with only_one(out):
            known = {one.misread.question_id: one for one in done}
            if all(one.question_id in known for one in asked):
                say("nothing was traced anew: these wrong answers had been traced before")
                found = [known[one.question_id] for one in asked]
            else:
                found = self._traced(asked, pictures, done)
            for number, one in enumerate(found, 1):
                if one.reason is None:
                    draw_sheet(one, out / PICTURES, out / SHEETS / f"{number}.png")
        return found

    def _traced(self, asked: Sequence[Misread], pictures: Path, done: Sequence[Traced]) -> list[Traced]:
        tracing, how = self.tracing, self.tracing.how
        pairs, records, unopened = how.pairs(self.towers, self.records, tracing.images, tracing.out)
        lost = [*self.skipped, *unopened]
        if lost:
            say(f"{len(lost)} pairs could not be used, the first of them {lost[0].where}: {lost[0].reason}")
        store = Store(tracing.out / PARTS, digest_of(self.settings(), digest_of_files(records, tracing.images)))
        with progress("influence") as advance, warned_in_a_line():
            if how.refit:
                advance(0, 1, TRAINING)
            ecif = how.ecif(self.towers, pairs, store, rank=RANK)
            ecif.check_optimum()
            tracer = Tracer(
                ecif,
                records,
                tower=self.towers,
                probes=tracing.probes,
                store=store,
                progress=lambda number, total: advance(number, total, "probes"),
            )
            return trace_all(
                tracer,
                asked,
                pictures,
                tracing.out,
                done=done,
                images=tracing.images,
                top=tracing.top,
                tables=tracing.tables,
                progress=lambda number, total: advance(number, total, "wrong answers"),
            )


def draw_sheet(traced: Traced, pictures: Path, path: Path) -> None:
    """Save the question's image and those of its harmful and helpful pairs as one picture."""

    def cell(name: str | None, head: str, caption: str, color: str) -> list[Captioned]:
        if name is None or not (pictures / name).is_file():
            return []
        return [Captioned(load_image(image_path(pictures, name)), head, caption, color)]

    misread = traced.misread
    said = f"answered: {misread.answer}. right: {misread.truth}. {tower_in_words(traced)}"
    cells = cell(traced.picture, misread.question or misread.texts[0], said, INK)
    for pairs, color in ((traced.harmful, WRONG), (traced.helpful, RIGHT)):
        for pair in pairs:
            cells += cell(pair.picture, f"{pair.id}: {pair.tied:+.3g}", pair.caption, color)
    contact_sheet(f"{misread.image}: pairs that harmed (red) and helped (green)", cells, path)


def tower_in_words(traced: Traced) -> str:
    """What the tower itself makes of the image."""
    return "" if traced.probability is None else f"the tower gives what is right {100 * traced.probability:.0f} %."
