"""Every pair's worth to clean validation pairs, found in steps that a kill does not undo; and ranked tables of it.

    damping → optimum → direction w = H⁻¹ ∇f → one sweep a partition → CLIP score and loss of each pair

Knows: ECIF, stores, tables as CSV and parquet (PyArrow, extra `eval`). Does not know: models, terminals.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from vdd._check import UserError, choice
from vdd.data import draft_of
from vdd.influence.curvature import Preparation, Solve
from vdd.influence.ecif import ECIF, Optimality
from vdd.influence.encoders import Pairs, Towers
from vdd.influence.pairs import PairRecord
from vdd.influence.query import Query
from vdd.influence.scores import Scores
from vdd.influence.store import Kept, Store

BLOCK = 4096
"""Rows of a table that are held at once."""
FORMATS = ("csv", "parquet")


class Progress(Protocol):
    """Hears how far a part of the work is."""

    def __call__(self, done: int, total: int, part: str) -> None:
        """`done` of `total`, of the part of this name."""


@dataclass(frozen=True)
class Valued:
    """What is known of every pair, (N,) each, in the order of the records.

    Attributes:
        records: the pairs.
        scores: see `Scores`.
        clip_score: cosine of the pair's embeddings.
        pair_loss: the pair's own terms of the training loss, in nats; the mean over partitions.
        optimality: of the parameters.
        damping: δ.
        preparation: what came before the solve.
        computed: parts that were not there already.
    """

    records: Sequence[PairRecord]
    scores: Scores
    clip_score: Tensor
    pair_loss: Tensor
    optimality: Optimality
    damping: float
    preparation: Preparation
    computed: Sequence[str]

    @property
    def order(self) -> Tensor:
        """Positions of the pairs, the most harmful first."""
        return self.scores.total.argsort(stable=True)

    def report(self) -> dict[str, Any]:
        """What there is to say beside the table, as JSON has it; what is infinite or NaN as null."""
        return {
            "pairs": len(self.records),
            "damping": self.damping,
            "gradient_norm": self.optimality.gradient_norm,
            "gradient_ratio": self.optimality.ratio,
            "preparation": asdict(self.preparation),
            "solve": {key: _finite(value) for key, value in asdict(self.scores.solve).items()},
        }

    def columns(self, config: str) -> dict[str, Sequence[Any]]:
        """The table of scores, by column, in the order of the records."""
        scores, count = self.scores, len(self.records)
        return {
            "id": [record.id for record in self.records],
            "image": [record.image for record in self.records],
            "caption": [record.caption for record in self.records],
            "delta_loss_on_removal": scores.total.tolist(),
            "standard_error": scores.standard_error.tolist(),
            "pos": scores.pos.tolist(),
            "neg": scores.neg.tolist(),
            "clip_score": self.clip_score.tolist(),
            "pair_loss": self.pair_loss.tolist(),
            "config": [config] * count,
        }


def opened(towers: Towers, pairs: Pairs, store: Store, *, damping: float | None, **settings: Any) -> ECIF:
    """`ECIF(towers, pairs, …)`; a damping that had to be found is kept, and not searched for again."""
    known = store.get("damping") if damping is None else None
    ecif = ECIF(towers, pairs, damping=damping if known is None else float(known.tensors["damping"]), **settings)
    if known is not None:
        ecif.preparation.add(**known.notes)
    elif damping is None:
        store.put("damping", {"damping": torch.tensor(ecif.damping, dtype=torch.float64)}, asdict(ecif.preparation))
    return ecif


def valued(
    ecif: ECIF, query: Query, records: Sequence[PairRecord], store: Store, *, progress: Progress | None = None
) -> Valued:
    """What each pair is worth to a query; what the store has is not computed again.

    Args:
        ecif: of the pairs that the records name, in their order.
        query: the same whenever the store has the same digest.
        records: of the pairs.
        store: for as long as nothing changes.
        progress: see `Progress`.

    Raises:
        NotSolvedError: see `ECIF.scores`; nothing is kept of such a solve.

    Warns:
        NotOptimalWarning: where the parameters are no minimum.
    """
    if [record.id for record in records] != list(ecif.data.ids):
        raise UserError(f"influence: {len(records)} records for {len(ecif.data)} pairs; wanted those of the same ids.")
    computed: list[str] = []

    def step(name: str, work: Callable[[], tuple[Mapping[str, Tensor], Any]]) -> Kept:
        found = store.get(name)
        if found is None:
            computed.append(name)
            found = store.put(name, *work())
        return found

    count = len(ecif.objective.partitions)
    tell = progress or (lambda done, total, part: None)
    tell(0, count + 3, "optimum")
    ecif.optimality = Optimality(**step("optimum", lambda: ({}, asdict(ecif.optimality))).notes)
    ecif.check_optimum()
    tell(1, count + 3, "solve")
    solved = step("direction", lambda: _direction(ecif, query))
    direction = solved.tensors["direction"].to(ecif.theta)
    tangents: list[Any] = []

    def sweep(number: int) -> tuple[Mapping[str, Tensor], Any]:
        if not tangents:
            tangents.append(ecif.point.tangents(direction))
        pos, neg = ecif.sweep(number, tangents[0])
        return {"pos": pos, "neg": neg}, None

    sweeps = []
    for number in range(count):
        tell(2 + number, count + 3, "sweeps")
        sweeps.append(step(f"sweep-{number:03d}", partial(sweep, number)).tensors)
    tell(2 + count, count + 3, "figures")
    figures = step("figures", lambda: (_figures(ecif), None)).tensors
    tell(3 + count, count + 3, "figures")
    pos, neg = (torch.stack([one[part] for one in sweeps]) for part in ("pos", "neg"))
    return Valued(
        records,
        Scores.of(ecif.data.ids, pos, neg, Solve(**solved.notes["solve"])),
        figures["clip_score"],
        figures["pair_loss"],
        ecif.optimality,
        ecif.damping,
        Preparation(**solved.notes["preparation"]),
        computed,
    )


def gradient_scores(ecif: ECIF, query: Query, store: Store) -> Tensor:
    """(N,): the query's gradient times what each pair leaves behind, with no curvature in between."""
    found = store.get("gradient")
    if found is None:
        pos, neg = ecif.point.sweep(ecif.point.tangents(ecif.query_gradient(query)), ecif.method)
        found = store.put("gradient", {"total": (pos + neg).mean(0)}, None)
    return found.tensors["total"]


def write_table(path: Path, columns: Mapping[str, Sequence[Any]], order: Tensor) -> None:
    """Write a table, a block of rows at a time, whole or not at all; the first column is the rank, from 1.

    Args:
        path: ending in .csv or .parquet.
        columns: of one length; NaN and None are left empty.
        order: (n,) int64, the rows to write.

    Raises:
        UserError: on another ending, where PyArrow is missing, or the file cannot be written.
    """
    kind = choice("influence", "format", path.suffix.removeprefix("."), FORMATS)
    with draft_of(path) as draft:
        (_write_csv if kind == "csv" else _write_parquet)(draft, columns, _blocks(columns, order))


def check_format(name: str) -> str:
    """`name` if tables can be written so: PyArrow may be missing."""
    if choice("influence", "format", name, FORMATS) == "parquet":
        _pyarrow()
    return name


def _figures(ecif: ECIF) -> dict[str, Tensor]:
    clip_score, pair_loss = ecif.point.pair_figures()
    return {"clip_score": clip_score, "pair_loss": pair_loss}


def _direction(ecif: ECIF, query: Query) -> tuple[Mapping[str, Tensor], Any]:
    direction, how = ecif.direction(query)
    return {"direction": direction}, {"solve": asdict(how), "preparation": asdict(ecif.preparation)}


def _blocks(columns: Mapping[str, Sequence[Any]], order: Tensor) -> Iterator[dict[str, list[Any]]]:
    for start in range(0, len(order), BLOCK):
        places = order[start : start + BLOCK].tolist()
        block: dict[str, list[Any]] = {"rank": list(range(start + 1, start + len(places) + 1))}
        for name, values in columns.items():
            block[name] = [_finite(values[place]) for place in places]
        yield block


def _write_csv(path: Path, columns: Mapping[str, Sequence[Any]], blocks: Iterator[dict[str, list[Any]]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["rank", *columns])
        for block in blocks:
            writer.writerows(zip(*block.values(), strict=True))


def _write_parquet(path: Path, columns: Mapping[str, Sequence[Any]], blocks: Iterator[dict[str, list[Any]]]) -> None:
    arrow = _pyarrow()
    from pyarrow.parquet import ParquetWriter

    schema = arrow.schema([("rank", arrow.int64()), *((name, _type(arrow, some)) for name, some in columns.items())])
    with ParquetWriter(path, schema) as writer:
        for block in blocks:
            arrays = [arrow.array(map(_shown(arrow, one.type), block[one.name]), one.type) for one in schema]
            writer.write_table(arrow.table(arrays, schema=schema))


def _shown(arrow: Any, kind: Any) -> Callable[[Any], Any]:
    """What makes a value fit a column: numbers among names are names."""
    return (lambda value: None if value is None else str(value)) if kind == arrow.string() else (lambda value: value)


def _type(arrow: Any, values: Sequence[Any]) -> Any:
    """The column's type: of ids that are numbers and names, names."""
    kinds = {type(value) for value in values if value is not None}
    for kind, known in ((bool, arrow.bool_()), (int, arrow.int64()), (float, arrow.float64())):
        if kinds == {kind}:
            return known
    return arrow.string()


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            "influence: writing parquet needs the extra `eval`, which is not installed; wanted: pip install "
            "'visual-debias-decoding[eval]', or csv."
        ) from error
    return pyarrow


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not abs(value) < float("inf") else value
