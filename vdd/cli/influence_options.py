"""Options that the commands under `vdd influence` share, and what comes of them: towers, pairs, an ECIF."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vdd.influence import ECIF, HubTowers, Pairs
    from vdd.influence.pairs import PairRecord, Skipped
    from vdd.influence.store import Store

PairsFile = Annotated[
    Path,
    typer.Argument(
        help="Training pairs: JSON lines, a JSON array, CSV, TSV or parquet (extra `eval`) with image, caption, and "
        "where there are such id, shuffled."
    ),
]
Images = Annotated[Path, typer.Option(help="Folder of the images that the pairs name.")]
Val = Annotated[Path, typer.Option(help="Clean pairs, in the same form, whose loss the scores are about.")]
ValImages = Annotated[Path | None, typer.Option(help="Folder of their images, where that is another.")]
Out = Annotated[Path, typer.Option(help="Folder for tables and pictures; a killed run goes on in it.")]
Model = Annotated[str, typer.Option(help='CLIP or SigLIP: name on the Hub, a folder, or "toy" for the embedded one.')]
Params = Annotated[
    str, typer.Option(help="Which parameters could have learnt otherwise: heads, lora, all, or a regular expression.")
]
Method = Annotated[str, typer.Option(help="What a removed pair takes along: exact, zeta or positive_only.")]
Curvature = Annotated[str, typer.Option(help="ggn, or hessian, which wants a minimum.")]
Damping = Annotated[
    float | None,
    typer.Option(help="Added to the curvature; by default what makes the loss convex, three times over."),
]
Partitions = Annotated[int, typer.Option(help="Draws of the batches that are averaged.")]
BatchSize = Annotated[
    int, typer.Option(help="Pairs a batch, as in training: a pair's negatives are those of its batch.")
]
Normaliser = Annotated[str, typer.Option(help="A batch's loss: sum, fixed (a mean), or renormalised by who is left.")]
Duplicates = Annotated[str, typer.Option(help="Pairs of one caption: negatives of each other, or masked.")]
CurvaturePairs = Annotated[
    int | None, typer.Option(help="Take the curvature of so many random pairs; by default of all.")
]
Tolerance = Annotated[
    float | None,
    typer.Option(help="Of the solve's residual, relative; by default 1e-5 in float64, 1e-3 in float32."),
]
MaxProducts = Annotated[int, typer.Option(help="With the curvature, a solve.")]
AllowUnsolved = Annotated[bool, typer.Option("--allow-unsolved", help="Give scores of a solve that did not converge.")]
Refit = Annotated[
    bool,
    typer.Option(
        "--refit",
        help="Train the parameters to the minimum of these pairs first, which the formula supposes; where no damping "
        "is given, it is then one that keeps the loss convex. CLIP scores and losses of pairs are those by the "
        "trained parameters.",
    ),
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or mps.")]
Dtype = Annotated[str, typer.Option(help="auto (as stored, float32 at least), float32 or float64.")]
Seed = Annotated[int, typer.Option(help="Of the batches, and of what is drawn.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many pairs.")]
Top = Annotated[int, typer.Option(help="Pairs shown on the terminal and in the pictures.")]

FEATURES, PARTS = "features", "parts"
TRAINING = "training to the minimum"


@dataclass(kw_only=True)
class Influencing:
    """A contrastive model, and how the influence of its training pairs is computed.

    Attributes:
        model, params, device, dtype: what is opened, and how; see `open_towers`.
        refit: whether the parameters are trained to the pairs' minimum first; see `at_minimum`.
        the others: of `ECIF`.
    """

    model: str
    params: str
    device: str | None
    dtype: str
    method: str
    curvature: str
    damping: float | None
    partitions: int
    batch_size: int
    normaliser: str
    duplicates: str
    curvature_pairs: int | None
    tolerance: float | None
    max_products: int
    allow_unsolved: bool
    seed: int
    refit: bool = False

    def check(self, pairs: int) -> None:
        """Raise UserError on what can be known to be wrong of so many pairs before a model is opened."""
        from typing import get_args

        from vdd._check import choice, real, whole
        from vdd.influence import ecif
        from vdd.influence.loss import METHODS
        from vdd.influence.objective import NORMALISERS
        from vdd.influence.towers import DTYPES
        from vdd.loading import check_device

        choice("influence", "dtype", self.dtype, DTYPES)
        check_device(self.device)
        choice("influence", "method", self.method, METHODS)
        choice("influence", "curvature", self.curvature, get_args(ecif.Curvature))
        choice("influence", "normaliser", self.normaliser, NORMALISERS)
        choice("influence", "duplicates", self.duplicates, get_args(ecif.Duplicates))
        whole("influence", "partitions", self.partitions, low=1)
        whole("influence", "batch_size", self.batch_size, low=2)
        whole("influence", "max_products", self.max_products, low=1)
        if self.tolerance is not None:
            real("influence", "tolerance", self.tolerance, low=0.0, high=1.0)
        if self.damping is not None:
            real("influence", "damping", self.damping, low=0.0)
        if self.curvature_pairs is not None:
            whole("influence", "curvature_pairs", self.curvature_pairs, low=2, high=pairs)

    def towers(self) -> HubTowers:
        """The model, opened quietly."""
        import torch
        from transformers.utils import logging

        from vdd.influence.towers import EMBEDDED, open_towers

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        if self.model == EMBEDDED:
            torch.set_num_threads(1)  # too small to gain from more
        return open_towers(self.model, params=self.params, device=self.device, dtype=self.dtype)

    def settings(self) -> dict[str, Any]:
        """All that scores depend on but the weights and the data; of the model these are what counts, not its name."""
        return {name: value for name, value in asdict(self).items() if name not in ("model", "device")}

    def pairs(
        self, towers: HubTowers, records: list[PairRecord], images: Path, out: Path
    ) -> tuple[Pairs, list[PairRecord], list[Skipped]]:
        """The pairs as the towers read them; what a backbone says of them is kept below `out`."""
        from vdd.cli.show import progress
        from vdd.influence.features import encoded

        with progress("pairs") as advance:
            return encoded(towers, records, images, out / PARTS / FEATURES, progress=advance)

    def ecif(self, towers: HubTowers, pairs: Pairs, store: Store, **more: Any) -> ECIF:
        """The influence of these pairs; a damping or a minimum that was found before is taken from the store; `more`
        as `ECIF`."""
        from vdd.influence.ranking import opened
        from vdd.influence.refit import at_minimum

        known = ("params", "dtype", "refit")
        settings = {name: value for name, value in self.settings().items() if name not in known} | more
        if self.refit:
            return at_minimum(towers, pairs, store=store, **settings)
        return opened(towers, pairs, store, **settings)


@contextmanager
def warned_in_a_line() -> Iterator[None]:
    """Say what influence warns of as a line on standard error; other warnings stay what they are."""
    import warnings

    from rich.text import Text

    from vdd.cli.show import notes
    from vdd.influence import NotOptimalWarning

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", NotOptimalWarning)
            yield
    finally:
        for one in caught:
            if issubclass(one.category, NotOptimalWarning):
                told = f"warning: {one.message} `vdd influence … --refit` trains the parameters to a minimum first."
                notes.print(Text(told), soft_wrap=True)
            else:
                warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)


@contextmanager
def with_options_named() -> Iterator[None]:
    """Say of a solve that failed which options help."""
    from vdd.influence import NotSolvedError

    try:
        yield
    except NotSolvedError as error:
        raise NotSolvedError(
            f"{error} The options are --max-products, --damping, --tolerance and --allow-unsolved; where rounding "
            "stops it, --dtype float64."
        ) from error
