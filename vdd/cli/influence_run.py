"""What `vdd influence value` and `misaligned` do: files in, scores kept in a folder, tables and pictures out."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vdd._check import UserError, whole
from vdd.cli.influence_options import PARTS, TRAINING, Influencing, warned_in_a_line, with_options_named
from vdd.cli.show import progress, say, shortened, show_table
from vdd.data import write_atomic
from vdd.images import image_path, load_image
from vdd.influence import ValidationPairs
from vdd.influence.detection import detectors, in_words, ranks, suspicions
from vdd.influence.ecif import ECIF
from vdd.influence.features import digest_of_files, digest_of_model, readable
from vdd.influence.pairs import PairRecord, Skipped, read_pairs
from vdd.influence.ranking import Valued, check_format, gradient_scores, valued, write_table
from vdd.influence.refit import KEPT
from vdd.influence.store import Store, claim, config_of, digest_of, settings_of, write_run
from vdd.plots import RIGHT, WRONG, Captioned, contact_sheet
from vdd.run_folder import only_one, refuse_foreign

FIXED = frozenset({"weights", "params", "dtype", "pairs"})
"""Settings that what is kept before the solve depends on; the others may change until a solve is kept."""
CAPTION = 48
"""Letters of a caption on the terminal."""


@dataclass(frozen=True)
class Asked:
    """Files and folders of a run."""

    pairs: Path
    images: Path
    val: Path
    val_images: Path
    out: Path
    limit: int | None
    format: str
    top: int

    @contextmanager
    def run(self, how: Influencing) -> Iterator[Run]:
        """Value every pair, and hold the folder for as long as tables are written into it.

        Raises:
            UserError: on whatever is wrong in the files, the settings or the folder.
        """
        check_format(self.format)
        whole("influence", "top", self.top, low=1)
        if self.limit is not None:
            whole("influence", "limit", self.limit, low=2)
        refuse_foreign(self.out)
        records, skipped = read_pairs(self.pairs, self.images)
        records = records[: self.limit]
        _check_count(self.pairs, len(records))
        how.check(len(records))
        clean, unread = read_pairs(self.val, self.val_images)
        clean, undecoded = readable(clean, self.val_images)
        _check_count(self.val, len(clean))
        towers = how.towers()
        settings = {
            **how.settings(),
            "weights": digest_of_model(towers)[:12],
            "pairs": digest_of([[one.id, one.image, one.caption] for one in records])[:12],
            "validation": digest_of([[one.id, one.image, one.caption] for one in clean])[:12],
        }
        claim(self.out, settings, free=_free(self.out, settings))
        with only_one(self.out):
            claim(self.out, settings, free=_free(self.out, settings))
            if settings_of(self.out) != settings:
                write_run(self.out, settings, {})
            pairs, kept, unopened = how.pairs(towers, records, self.images, self.out)
            out = [("pairs", one) for one in (*skipped, *unopened)]
            out += [("validation", one) for one in (*unread, *undecoded)]
            _write_skipped(self.out / "skipped.csv", out)
            files = [digest_of_files(kept, self.images), digest_of_files(clean, self.val_images)]
            store = Store(self.out / PARTS, digest_of(settings, files))
            query = ValidationPairs(
                [image_path(self.val_images, one.image) for one in clean],
                [one.caption for one in clean],
                batch_size=how.batch_size,
                seed=how.seed,
            )
            with progress("influence") as advance, warned_in_a_line(), with_options_named():
                if how.refit:
                    advance(0, 1, TRAINING)
                ecif = how.ecif(towers, pairs, store)
                found = valued(ecif, query, kept, store, progress=advance)
            report = {"model": how.model, "skipped": len(out), "validation_pairs": len(clean), **found.report()}
            trained = store.get(KEPT)
            if trained is not None:
                report["refit"] = trained.notes
            write_run(self.out, settings, report)
            yield Run(self, found, ecif, query, store, config_of(settings), len(out))


@dataclass(frozen=True)
class Run:
    """Pairs that are valued, and what is said of them."""

    asked: Asked
    found: Valued
    ecif: ECIF
    query: ValidationPairs
    store: Store
    config: str
    skipped: int

    def show_value(self) -> None:
        """The table of scores, the contact sheets, the most harmful and the most valuable pairs on the terminal."""
        out, top, found = self.asked.out, self.asked.top, self.found
        table = out / f"scores.{self.asked.format}"
        write_table(table, found.columns(self.config), found.order)
        total = found.scores.total
        harmful = [place for place in found.order[:top].tolist() if total[place] < 0]
        valuable = [place for place in found.order.flip(0)[:top].tolist() if total[place] > 0]
        for name, places, color in (("harmful", harmful, WRONG), ("valuable", valuable, RIGHT)):
            title = f"the {len(places)} most {name} pairs" if places else f"no pair is {name}"
            contact_sheet(
                f"{title}: change of the validation loss on removal", self._cells(places, color), out / f"{name}.png"
            )
        columns = ["pair", "image", "change on removal", "± (s.e.)", "CLIP score", "pair loss"]
        show_table("most harmful pairs: without them the validation loss would fall", columns, self._rows(harmful))
        show_table("most valuable pairs: without them it would rise", columns, self._rows(valuable))
        self._say_rest(table)

    def show_misaligned(self) -> None:
        """The suspects with their ranks by each score; how well each finds the shuffled ones, where these are known."""
        out, found = self.asked.out, self.found
        suspicion = suspicions(
            found.scores.total, found.clip_score, found.pair_loss, gradient_scores(self.ecif, self.query, self.store)
        )
        shuffled = [record.shuffled for record in found.records]
        by = {f"rank_by_{name.lower().replace(' ', '_')}": ranks(values) for name, values in suspicion.items()}
        columns = {**found.columns(self.config), **by, "shuffled": shuffled}
        table = out / f"suspects.{self.asked.format}"
        write_table(table, columns, found.order)
        suspects = found.order[: self.asked.top].tolist()
        names = ["pair", "change on removal", *(f"rank by {name}" for name in suspicion), "shuffled"]
        rows = [
            [
                _named(found.records[place]),
                f"{float(found.scores.total[place]):+.3g}",
                *(str(one[place]) for one in by.values()),
                {True: "yes", False: "no", None: ""}[shuffled[place]],
            ]
            for place in suspects
        ]
        show_table("most suspicious pairs, by influence", names, rows)
        if any(one is not None for one in shuffled):
            self._show_detectors(suspicion, shuffled)
        else:
            say("no column `shuffled`: how well each score finds mismatched pairs cannot be said here")
        cells = self._cells(suspects, WRONG)
        contact_sheet(f"the {len(cells)} most suspicious pairs, by influence", cells, out / "suspects.png")
        self._say_rest(table)

    def _show_detectors(self, suspicion: dict[str, Tensor], shuffled: Sequence[bool | None]) -> None:
        told = detectors(suspicion, shuffled)
        depths = list(told[0].precision)
        rows = [[one.name, f"{one.auroc:.3f}", *(f"{one.precision[k]:.3f}" for k in depths)] for one in told]
        known = [one for one in shuffled if one is not None]
        title = f"finding the {sum(known)} shuffled ones of {len(known)} pairs"
        show_table(title, ["score", "AUROC", *(f"precision@{k}" for k in depths)], rows)
        say(in_words(told))
        record: dict[str, Any] = {
            "config": self.config,
            "pairs": len(known),
            "shuffled": sum(known),
            "detectors": [one.to_json() for one in told],
            "in_words": in_words(told),
        }
        write_json(self.asked.out / "detection.json", record)

    def _rows(self, places: Sequence[int]) -> list[list[str]]:
        found = self.found
        figures = (found.scores.standard_error, found.clip_score, found.pair_loss)
        return [
            [
                _named(found.records[place]),
                found.records[place].image,
                f"{float(found.scores.total[place]):+.3g}",
                *(f"{float(figure[place]):.3g}" for figure in figures),
            ]
            for place in places
        ]

    def _cells(self, places: Sequence[int], color: str) -> list[Captioned]:
        records, total = self.found.records, self.found.scores.total
        return [
            Captioned(
                load_image(image_path(self.asked.images, records[place].image)),
                f"{float(total[place]):+.3g}   pair {shortened(str(records[place].id), 14)}",
                records[place].caption,
                color,
            )
            for place in places
        ]

    def _say_rest(self, table: Path) -> None:
        found, how = self.found, self.found.scores.solve
        if not found.computed:
            say("nothing was computed anew: these settings had been run before")
        if self.skipped:
            say(f"{self.skipped} pairs could not be used: {self.asked.out / 'skipped.csv'}")
        trained = self.store.get(KEPT)
        if trained is not None:
            known = trained.notes
            say(
                f"trained to a gradient norm of {known['gradient_norm']:.2g} from {known['gradient_norm_before']:.3g}, "
                f"with damping {known['damping']:.3g}, in {known['seconds']:.1f} s"
            )
        if not how.converged:
            say(f"warning: the solve did not converge (residual {how.residual:.2g}); the scores are what was asked for")
        say(
            f"solved in {how.products} products, {how.seconds:.1f} s, residual {how.residual:.2g}; before it "
            f"{found.preparation.products} products, {found.preparation.seconds:.1f} s"
        )
        say(f"all {len(found.records)} pairs: {table}")


def _free(out: Path, settings: Mapping[str, Any]) -> Collection[str]:
    """Settings that may be others than those of the run in `out`."""
    return () if (out / PARTS / "direction.safetensors").exists() else settings.keys() - FIXED


def _check_count(path: Path, count: int) -> None:
    if count < 2:
        raise UserError(f"{path}: {count} pair can be used; wanted two or more, as a pair alone has no negatives.")


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Write a record as JSON that people can read."""
    import json

    write_atomic(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _write_skipped(path: Path, out: Sequence[tuple[str, Skipped]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "where", "id", "reason"])
    writer.writerows([file, one.where, one.id, one.reason] for file, one in out)
    write_atomic(path, text.getvalue())


def _named(record: PairRecord) -> str:
    return f"{record.id}: {shortened(record.caption, CAPTION)}"
