"""A validation in parts that a kill does not undo: which there are, each computed once, and what they say together.

    parts/SECTION-PROBLEM-SEED-PERCENT.safetensors        one part, whole or not there

Source: this project's own.
Knows: problems, what is measured on them, stores. Does not know: tables, pictures, terminals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np

from vdd._check import choice, whole
from vdd.influence.detection import Detector
from vdd.influence.problems import (
    EMBEDDED_DAMPING,
    LINEAR_DAMPING,
    LINEAR_PAIRS,
    PERCENT,
    Problem,
    embedded,
    linear,
)
from vdd.influence.ranking import Progress
from vdd.influence.store import Store
from vdd.influence.validate import (
    ORDERS,
    SHARES,
    Agreement,
    Cost,
    Predicted,
    Removed,
    agreement,
    cost,
    detection,
    leave_one_out,
    removal,
    subsets,
)

LINEAR, EMBEDDED = "linear", "embedded"
PROBLEMS = (LINEAR, EMBEDDED)
Section = Literal["leave-one-out", "subsets", "removal", "detection", "cost"]
FEWEST_PAIRS, FEWEST = 40, 3
"""That the embedded problem is made of; that are removed, and subsets: of fewer there is no correlation to speak of."""
Hears = Callable[[int, int], None]


@dataclass(frozen=True)
class Detected:
    """How well each score finds the mismatched pairs of one draw.

    Attributes:
        mismatched: how many there are.
        detectors: by score, chance among them.
    """

    mismatched: int
    detectors: Sequence[Detector]


@dataclass(frozen=True)
class Part:
    """One thing that takes time.

    Attributes:
        section: what is measured.
        problem: on which.
        seed, percent: of the problem.
        steps: that its progress counts.
    """

    section: Section
    problem: str
    seed: int
    percent: int
    steps: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"{self.section}-{self.problem}-{self.seed}-{self.percent}"


@dataclass(frozen=True)
class Plan:
    """What is asked.

    Attributes:
        problems: of `PROBLEMS`.
        seeds: draws of each problem.
        removals: pairs left out of the embedded problem, one at a time.
        linear_removals: of the linear one.
        subsets: random tenths that are left out of the embedded problem.
        pairs: of the embedded problem.
        percents: of its captions, exchanged, for detection.

    Raises:
        ValueError: on sizes out of range.
    """

    problems: Sequence[str] = PROBLEMS
    seeds: int = 3
    removals: int = 64
    linear_removals: int = LINEAR_PAIRS
    subsets: int = 30
    pairs: int = 400
    percents: Sequence[int] = (10, 20, 30)

    def __post_init__(self) -> None:
        for name in self.problems:
            choice("validate", "problem", name, PROBLEMS)
        whole("validate", "seeds", self.seeds, low=1)
        whole("validate", "pairs", self.pairs, low=FEWEST_PAIRS)
        whole("validate", "removals", self.removals, low=FEWEST, high=self.pairs)
        whole("validate", "linear_removals", self.linear_removals, low=FEWEST, high=LINEAR_PAIRS)
        whole("validate", "subsets", self.subsets, low=FEWEST)

    @classmethod
    def shortest(cls, problems: Sequence[str] = PROBLEMS) -> Plan:
        """The least that has every part, to see that it runs: its figures say nothing."""
        return cls(problems, 1, FEWEST, FEWEST, FEWEST, FEWEST_PAIRS, (PERCENT,))

    def settings(self) -> dict[str, Any]:
        """All that the figures depend on but the code and the embedded model's weights, as JSON has it."""
        damping = {LINEAR: LINEAR_DAMPING, EMBEDDED: EMBEDDED_DAMPING}
        sizes = {**asdict(self), "problems": list(self.problems), "percents": list(self.percents)}
        return {"task": "validate", **sizes, "damping": [damping[name] for name in self.problems]}

    def parts(self) -> Iterator[Part]:
        """All of them; those of one problem's draw one after another."""
        if LINEAR in self.problems:
            for seed in range(self.seeds):
                yield Part("leave-one-out", LINEAR, seed, PERCENT, self.linear_removals)
                yield Part("cost", LINEAR, seed, PERCENT, 1)
        if EMBEDDED in self.problems:
            for seed in range(self.seeds):
                yield Part("leave-one-out", EMBEDDED, seed, PERCENT, self.removals)
                yield Part("subsets", EMBEDDED, seed, PERCENT, self.subsets)
                yield Part("removal", EMBEDDED, seed, PERCENT, len(ORDERS) * len(SHARES))
                yield Part("cost", EMBEDDED, seed, PERCENT, 1)
                for percent in sorted(self.percents, key=lambda one: one != PERCENT):
                    yield Part("detection", EMBEDDED, seed, percent, 1)


@dataclass(frozen=True)
class Validation:
    """What was found.

    Attributes:
        settings: what was asked.
        parts: each with what it found: `Predicted` of "leave-one-out" and "subsets", a list of `Removed` of "removal",
            `Detected` of "detection", `Cost` of "cost".
    """

    settings: Mapping[str, Any]
    parts: Sequence[tuple[Part, Any]]

    def runs(self, section: Section, problem: str, percent: int = PERCENT) -> list[Any]:
        """What was found, by seed."""
        wanted = (section, problem, percent)
        return [found for part, found in self.parts if (part.section, part.problem, part.percent) == wanted]

    @property
    def problems(self) -> list[str]:
        """That were measured on."""
        return [name for name in PROBLEMS if any(part.problem == name for part, _ in self.parts)]

    @cached_property
    def agreements(self) -> dict[tuple[Section, str], dict[str, Agreement]]:
        """How well each estimator agrees with the truth, by section and problem; computed once."""
        found: dict[tuple[Section, str], dict[str, Agreement]] = {}
        for part, one in self.parts:
            at = (part.section, part.problem)
            if isinstance(one, Predicted) and at not in found:
                runs = self.runs(*at)
                found[at] = {name: agreement(runs, name) for name in one.estimates}
        return found

    @property
    def percents(self) -> list[int]:
        """Of captions, exchanged, that detection was tried with."""
        return sorted({part.percent for part, _ in self.parts if part.section == "detection"})

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        parts = [{**asdict(part), "found": _to_json(found)} for part, found in self.parts]
        return {"settings": dict(self.settings), "parts": parts}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Validation:
        """From what `to_json` gave."""
        parts = []
        for one in record["parts"]:
            part = Part(**{name: value for name, value in one.items() if name != "found"})
            parts.append((part, _from_json(part.section, one["found"])))
        return cls(record["settings"], parts)


def computed(plan: Plan, settings: Mapping[str, Any], store: Store, *, progress: Progress | None = None) -> Validation:
    """What all parts find; those that the store has are not computed again.

    Args:
        plan: what is asked.
        settings: of the run, which stand beside what was found.
        store: for as long as nothing changes.
        progress: called with steps done, steps in all, and the part's name.

    Raises:
        UserError: where a problem's training did not reach its minimum.
    """
    tell: Progress = progress or (lambda done, total, part: None)
    parts, found, done = list(plan.parts()), [], 0
    total = sum(part.steps for part in parts)
    at: tuple[Any, Problem] | None = None
    for part in parts:
        told = f"{part.problem}, seed {part.seed}: {part.section}"
        told += f" at {part.percent} %" if part.section == "detection" else ""
        tell(done, total, told)
        kept = store.get(part.name)
        if kept is None:
            draw = (part.problem, part.seed, part.percent)
            if at is None or at[0] != draw:
                at = draw, _problem(plan, part)
            hear = partial(_shifted, tell, done, total, told)
            kept = store.put(part.name, {}, _to_json(_measured(plan, part, at[1], hear)))
        found.append((part, _from_json(part.section, kept.notes)))
        done += part.steps
    tell(done, total, "done")
    return Validation(settings, found)


def _problem(plan: Plan, part: Part) -> Problem:
    if part.problem == LINEAR:
        return linear(part.seed, percent=part.percent, curvature="hessian")
    return embedded(part.seed, percent=part.percent, pairs=plan.pairs, curvature="hessian")


def _measured(plan: Plan, part: Part, problem: Problem, hear: Hears) -> Any:
    if part.section == "leave-one-out":
        return leave_one_out(problem, part.steps, part.seed, progress=hear)
    if part.section == "subsets":
        return subsets(problem, plan.subsets, part.seed, progress=hear)
    if part.section == "removal":
        return removal(problem, part.seed, progress=hear)
    if part.section == "cost":
        return cost(problem)
    return Detected(int(problem.mismatched.sum()), detection(problem))


def _shifted(progress: Progress, before: int, total: int, told: str, done: int, of: int) -> None:
    """Progress of a part as that of the whole."""
    progress(before + done, total, told)


def _to_json(found: Any) -> Any:
    if isinstance(found, Predicted):
        estimates = {name: values.tolist() for name, values in found.estimates.items()}
        return {"true": found.true.tolist(), "estimates": estimates, "seconds": found.seconds}
    if isinstance(found, Detected):
        return {"mismatched": found.mismatched, "detectors": [one.to_json() for one in found.detectors]}
    return [asdict(one) for one in found] if isinstance(found, list) else asdict(found)


def _from_json(section: Section, notes: Any) -> Any:
    if section in ("leave-one-out", "subsets"):
        estimates = {name: np.array(values) for name, values in notes["estimates"].items()}
        return Predicted(np.array(notes["true"]), estimates, notes["seconds"])
    if section == "removal":
        return [Removed(**one) for one in notes]
    if section == "cost":
        return Cost(**notes)
    return Detected(notes["mismatched"], [Detector.from_json(one) for one in notes["detectors"]])
