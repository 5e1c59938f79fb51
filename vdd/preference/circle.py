"""The whole circle on the embedded model: measure the bias, make pairs of it, train it out, measure again.

    base          the model as it ships
    bdhs-dpo      DPO on BDHS pairs: the model's own bias is what is rejected; with a supervised term
    bdhs-dpo-0    the same without that term
    sft           as many steps of supervised training on the same chosen answers
    random-dpo    as bdhs-dpo, on the same chosen answers against random words in the same places
    each          plain, and with VDD (α, β by default) on top

Pairs come of training scenes alone; settings were chosen on dev scenes (`choose`); what is told is of test scenes.

    circle/seed-N/run.json         what is done: another run's folder is refused
    circle/seed-N/pairs.*          the pairs, and how they came about
    circle/seed-N/LEG.json         one leg's answers, settings and seconds; a leg whose file stands is not done again
    circle/seed-N/LEG/             its training: adapter, curves, checkpoints

Source: arXiv:2407.02477 for BDHS and its training; the controls are this project's own.
Knows: the embedded world and model, the parts that do the work. Does not know: tables, printing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from vdd._check import UserError, whole
from vdd.config import DebiasConfig, to_json
from vdd.data import write_atomic
from vdd.families import unwrapped
from vdd.pipeline import Pipeline
from vdd.preference import world
from vdd.preference.alignment import AlignConfig, Method
from vdd.preference.bdhs import BDHS
from vdd.preference.dataset import read_pairs, write_pairs
from vdd.preference.exam import examine, figures
from vdd.preference.pairs import Pair
from vdd.preference.train import align, check_installed
from vdd.run_folder import claimed
from vdd.toy.model import load

BASE = "base"
PLAIN, WITH_VDD = "plain", "vdd"
DPO, BARE, SFT, RANDOM = "bdhs-dpo", "bdhs-dpo-0", "sft", "random-dpo"
FOLDER = "circle"


@dataclass(frozen=True)
class Tuning:
    """How one leg is trained: the method, DPO's β (not used by sft), the peak learning rate, the supervised term."""

    method: Method
    beta: float
    learning_rate: float
    sft_weight: float = 0.0


LEGS: Mapping[str, Tuning] = {
    DPO: Tuning("dpo", 0.1, 1e-3, 1.0),
    BARE: Tuning("dpo", 0.1, 1e-3),
    SFT: Tuning("sft", 0.1, 1e-3),
    RANDOM: Tuning("dpo", 0.1, 1e-3, 1.0),
}
"""The trained legs with their settings, chosen from GRID by `choose` on all dev scenes, seed 0, in the default size.

What each was worth there, at a learning rate of 3e-4, 1e-3, 3e-3: bdhs-dpo-0 89.3, 95.7, 90.0, with β = 0.5 95.0 at
1e-3; sft 96.5, 97.7, 97.0; random words without the supervised term 77.2, 81.1, 72.7. At 1e-3 with the term: bdhs-dpo
98.5 (97.8 at a weight of 0.2 instead of 1); random-dpo 98.2."""
RATES = (3e-4, 1e-3, 3e-3)
_BARE = tuple(Tuning("dpo", 0.1, rate) for rate in RATES)
GRID: Mapping[str, tuple[Tuning, ...]] = {
    DPO: (*_BARE, Tuning("dpo", 0.5, 1e-3), Tuning("dpo", 0.1, 1e-3, 0.2), Tuning("dpo", 0.1, 1e-3, 1.0)),
    SFT: tuple(Tuning("sft", 0.1, rate) for rate in RATES),
    RANDOM: (*_BARE, Tuning("dpo", 0.1, 1e-3, 1.0)),
}


@dataclass(frozen=True)
class Size:
    """How much is done.

    Attributes:
        scenes: training scenes; five questions each.
        steps: of training, the same for every leg.
        batch_size: pairs, or chosen answers, a step.
        rank: of the adapters.
        images: that are examined at most; None for the whole split.
    """

    scenes: int = 200
    steps: int = 150
    batch_size: int = 16
    rank: int = 16
    images: int | None = None

    def __post_init__(self) -> None:
        """Raise UserError on the first number out of range."""
        for name in ("scenes", "steps", "batch_size", "rank"):
            whole("circle", name, getattr(self, name), low=1)


class Advance(Protocol):
    """Is told how far a part of the work is."""

    def __call__(self, done: int, total: int, part: str) -> None:
        """`done` of `total` of the part of this name."""


def circle(out: Path, *, seed: int = 0, size: Size | None = None, progress: Advance | None = None) -> None:
    """Do every leg of one seed that is not done yet.

    Args:
        out: receives `circle/seed-N`; created.
        seed: of scenes, pairs and training.
        size: how much is done; about six minutes on two cores by default.
        progress: told of every part.

    Raises:
        UserError: where the folder holds another run, or the extra `train` is missing.
    """
    check_installed()
    size = size or Size()
    folder = out / FOLDER / f"seed-{whole('circle', 'seed', seed, low=0)}"
    claim(folder, {"seed": seed, "size": asdict(size), "legs": {name: asdict(one) for name, one in LEGS.items()}})
    tell = progress or (lambda done, total, part: None)
    if not (folder / f"{BASE}.json").is_file():
        model, processor = load()
        _measured(folder, BASE, Pipeline(model, processor), size, tell, {})
    pairs = biased_pairs(folder, size, seed, tell)
    for name, tuning in LEGS.items():
        if (folder / f"{name}.json").is_file():
            continue
        model, seconds = tuned(folder / name, leg_pairs(name, pairs, seed), tuning, size, seed, tell, name)
        told = {"tuning": asdict(tuning), "training_seconds": seconds}
        _measured(folder, name, Pipeline(model, load()[1]), size, tell, told)


def biased_pairs(folder: Path, size: Size, seed: int, tell: Advance) -> list[Pair]:
    """The BDHS pairs of the embedded model, read where they stand, else sampled and written."""
    path, record = folder / "pairs.parquet", folder / "pairs.json"
    if record.is_file():
        return read_pairs(path)
    rows = world.rows(size.scenes, seed=seed)
    sampler = BDHS(*load(), name="toy")
    start, found = time.monotonic(), []
    step = 5 * sampler.batch_size
    for first in range(0, len(rows), step):
        part = rows[first : first + step]
        found += sampler.sample(part, seeds=[seed * 2**32 + first + place for place in range(len(part))])
        tell(len(found), len(rows), "sampling pairs")
    pairs = [one for one in found if isinstance(one, Pair)]
    if not pairs:
        raise UserError("circle: none of the rows became a pair; wanted some. Are the weights those that ship?")
    control = leg_pairs(RANDOM, pairs, seed)
    write_pairs(pairs, path)
    told = {
        "rows": len(rows),
        "pairs": len(pairs),
        "seconds": round(time.monotonic() - start, 1),
        "measure": sampler.measure.name,
        "epsilon": sampler.epsilon,
        "similar": {str(number): list(counts) for number, counts in sampler.similar.items()},
        "changed_share": world.changed_share(pairs),
        "control_changed_share": world.changed_share(control),
        "examples": [
            {"prompt": one.prompt, "chosen": one.chosen, "rejected": one.rejected, "random": other.rejected}
            for one, other in zip(pairs[:10], control[:10], strict=True)
        ],
    }
    write_atomic(record, json.dumps(told, indent=1) + "\n")
    return read_pairs(path)


def leg_pairs(name: str, pairs: Sequence[Pair], seed: int) -> list[Pair]:
    """The pairs that a leg is trained on; supervised training looks at the chosen answers alone."""
    return world.random_words(pairs, np.random.default_rng([seed, 72])) if name == RANDOM else list(pairs)


def tuned(
    folder: Path, pairs: Sequence[Pair], tuning: Tuning, size: Size, seed: int, tell: Advance, name: str
) -> tuple[Any, float]:
    """The embedded model, trained; and the seconds that it took."""
    config = AlignConfig(
        method=tuning.method,
        beta=tuning.beta,
        learning_rate=tuning.learning_rate,
        sft_weight=tuning.sft_weight,
        max_steps=size.steps,
        batch_size=size.batch_size,
        lora_rank=size.rank,
        lora_alpha=2 * size.rank,
        save_steps=50,
        seed=seed,
    )
    start = time.monotonic()
    model, processor = load()
    trained = align(model, processor, pairs, folder, config, progress=partial(tell, part=f"training {name}"))
    return unwrapped(trained), round(time.monotonic() - start, 1)


def choose(
    out: Path, *, seed: int = 0, size: Size | None = None, progress: Advance | None = None
) -> dict[str, list[tuple[Tuning, float, dict[str, float]]]]:
    """How LEGS was chosen: every setting of GRID, trained on one seed's pairs and measured on dev scenes.

    Args:
        out, seed, size, progress: as of `circle`; `out` is used for nothing else.

    Returns:
        leg → (setting, what it is worth, dev figures), the best first; of equals, the earlier in GRID. A setting is
        worth the mean of the adversarial accuracy, that of counter-typical colours, 100 − CHAIRs, and recall, in %.
    """
    size = size or Size()
    claim(out, {"choose": True, "seed": seed, "size": asdict(size)})
    tell = progress or (lambda done, total, part: None)
    pairs = biased_pairs(out, size, seed, tell)
    found: dict[str, list[tuple[Tuning, float, dict[str, float]]]] = {}
    for leg, settings in GRID.items():
        for number, tuning in enumerate(settings):
            place = out / f"{leg}-{number}"
            record = place.with_suffix(".json")
            if not record.is_file():
                model, _ = tuned(place, leg_pairs(leg, pairs, seed), tuning, size, seed, tell, place.name)
                answers = examine(Pipeline(model, load()[1]), "dev", images=size.images)
                write_atomic(record, json.dumps(figures(answers), indent=1) + "\n")
            values = json.loads(record.read_text(encoding="utf-8"))
            found.setdefault(leg, []).append((tuning, worth(values), values))
        found[leg].sort(key=lambda one: -one[1])
    return found


def worth(values: Mapping[str, float]) -> float:
    """What `choose` compares settings by, in %."""
    parts = (values["adversarial_accuracy"], values["counter_color"], 100 - values["chair_s"], values["recall"])
    return sum(parts) / len(parts)


def _measured(folder: Path, name: str, pipe: Pipeline, size: Size, tell: Advance, told: dict[str, Any]) -> None:
    """Examine a model on the test scenes, plain and debiased, and write the leg's record."""
    debias = DebiasConfig()
    answers, seconds = {}, {}
    for way, how in ((PLAIN, None), (WITH_VDD, debias)):
        start = time.monotonic()
        told_as = partial(tell, part=f"measuring {name}, {way}")
        answers[way] = examine(pipe, "test", debias=how, images=size.images, progress=told_as)
        seconds[way] = round(time.monotonic() - start, 1)
    record = {"leg": name, **told, "place": "test", "vdd": to_json(debias), "measuring_seconds": seconds}
    write_atomic(folder / f"{name}.json", json.dumps({**record, "answers": answers}) + "\n")


def claim(folder: Path, description: Mapping[str, Any]) -> None:
    """Make `folder` this run's, or see that it is; UserError where it is another's."""
    differing = claimed(folder, description, foreign="holds something else")
    if differing:
        raise UserError(
            f"{folder}: holds a run with other settings ({', '.join(differing)}); wanted a new folder, or the same "
            "settings to go on with it."
        )
