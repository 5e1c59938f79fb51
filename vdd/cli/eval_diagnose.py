"""`vdd eval … --diagnose`: the wrong answers of the first leg, traced to the training pairs of the tower that saw."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vdd.cli.influence_tracing import Opened
    from vdd.cli.options import Asking

Diagnose = Annotated[
    Path | None,
    typer.Option(
        help="Training pairs of the vision tower, as `vdd influence trace` takes them: wrong answers of the first leg "
        "are traced to them, into OUT/diagnosis, and `vdd report` shows them. The tower's heads are trained to the "
        "pairs' minimum before."
    ),
]
DiagnoseImages = Annotated[
    Path | None, typer.Option(help="Folder of the images that they name; by default the one that their file is in.")
]
Tower = Annotated[
    str | None,
    typer.Option(
        help="CLIP or SigLIP that the vision tower comes from, as a folder or a name on the Hub; of the embedded model "
        "the embedded one."
    ),
]
DiagnoseLimit = Annotated[int, typer.Option(help="Wrong answers to trace at most, those the model was surest of.")]


def opened(asking: Asking, pairs: Path | None, images: Path | None, tower: str | None, limit: int) -> Opened | None:
    """What wrong answers will be traced with; None where nobody wants that, and nothing is imported.

    Raises:
        UserError: on whatever can be known to be wrong before anything is answered.
    """
    from vdd._check import UserError, whole
    from vdd.cli.models import EMBEDDED

    if pairs is None:
        if images is not None or tower is not None:
            raise UserError(
                "eval: --diagnose-images or --tower came without --diagnose; wanted the pairs' file beside."
            )
        return None
    whole("eval", "diagnose_limit", limit, low=1)
    if tower is None and asking.model != EMBEDDED:
        raise UserError(
            f"eval: --diagnose wants to know whose vision tower {asking.model!r} has; wanted it as --tower, a CLIP or "
            "SigLIP as a folder or a name on the Hub. LLaVA-1.5's is openai/clip-vit-large-patch14-336."
        )
    from vdd.cli.influence_options import Influencing
    from vdd.cli.influence_tracing import Tracing
    from vdd.diagnosis import DIAGNOSIS
    from vdd.influence.trace import PROBES

    how = Influencing(
        model=tower or EMBEDDED,
        params="heads",
        device=None if asking.device == "auto" else asking.device,
        dtype="auto",
        method="exact",
        curvature="ggn",
        damping=None,
        partitions=4,
        batch_size=256,
        normaliser="sum",
        duplicates="negatives",
        curvature_pairs=None,
        tolerance=None,
        max_products=500,
        allow_unsolved=False,
        seed=asking.seed,
        refit=True,  # the formula holds and solves are short; shuffled pairs are harmful by AUROC 0.57, without it 0.52
    )
    out = asking.out / DIAGNOSIS
    found = Tracing(pairs=pairs, images=images or pairs.parent, out=out, how=how, probes=PROBES).opened()
    found.check()
    return found


def diagnose(with_: Opened, out: Path, images: Path, *, parser: str, limit: int) -> None:
    """Trace the wrong answers of a finished run, into a folder of its own, and say what came of it."""
    from vdd._check import UserError
    from vdd.cli.show import say
    from vdd.diagnose import wrong_answers
    from vdd.finished import read_run

    found = wrong_answers(read_run(out), parser=parser)
    about = {"of": found.leg, "wrong": found.wrong, "answered": found.answered}
    if not found.asked:
        say(f"{found.wrong} of {found.answered} answers of {found.leg} are wrong; none of them can be traced")
        return
    try:
        traced = with_.trace(found.asked[:limit], images, about)
    except UserError as error:
        raise type(error)(
            f"{error} Answers and scores are whole; `vdd influence trace --run {out}` has options for this."
        ) from error
    well = sum(one.tower_is_right or False for one in traced)
    say(
        f"{len(traced)} of {found.wrong} wrong answers of {found.leg} are traced to training pairs of the tower: "
        f"{with_.tracing.out}"
    )
    say(f"in {well} of them the tower itself holds what is right for likelier: there it is not to blame")
