"""What a training writes down while it runs, and when it must stop: curves, progress, signs that nothing is learned.

    curves.jsonl   one line an update: loss, rewards, margin, accuracy, learning rate, share of fresh and of cut pairs

Knows: transformers' callbacks, numbers. Does not know: models, pairs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from vdd._check import UserError
from vdd.data import write_atomic
from vdd.preference.training_folder import WHOLE

STILL = 1e-9
"""A margin within this is none; the first update of any model that learns moves it further."""

_NAMES = {
    "loss": "loss",
    "rewards/chosen": "reward_chosen",
    "rewards/rejected": "reward_rejected",
    "rewards/margins": "margin",
    "rewards/accuracies": "accuracy",
    "logps/chosen": "logp_chosen",
    "logps/rejected": "logp_rejected",
    "learning_rate": "learning_rate",
    "grad_norm": "gradient_norm",
    "pairs/asked": "asked",
    "pairs/fresh": "fresh",
    "pairs/cut": "cut",
}


class Watch(TrainerCallback):
    """Writes curves, moves a bar, and stops a training that goes nowhere.

    Args:
        path: of the curves; what stands there behind the step that a training goes on from is dropped.
        patience: updates in which no margin moves, or in which pairs are asked for in vain, before it stops.
        progress: called with (updates, in all).
        refusal: why the last pair could not be made.
    """

    def __init__(
        self,
        path: Path,
        *,
        patience: int,
        progress: Callable[[int, int], object] | None = None,
        refusal: Callable[[], str] = str,
    ) -> None:
        self.path, self.patience, self.progress, self.refusal = path, patience, progress, refusal
        self.records: list[dict[str, float]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Keep the lines up to here."""
        self.records = [one for one in read_curves(self.path) if one["step"] <= state.global_step]
        write_atomic(self.path, "".join(map(_line, self.records)))
        if self.progress is not None:
            self.progress(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Write a line and look at it; UserError where the training must stop."""
        if not logs or "loss" not in logs:
            return
        found = {ours: float(logs[theirs]) for theirs, ours in _NAMES.items() if theirs in logs}
        record = {"step": state.global_step, "epoch": float(state.epoch or 0.0), **found}
        wrong = [name for name, value in record.items() if not math.isfinite(value)]
        if wrong:
            raise UserError(
                f"align: at update {state.global_step} {' and '.join(wrong)} came out as {record[wrong[0]]}; wanted "
                "finite numbers. Lower the learning rate, or train in float32 or bfloat16 instead of float16; the "
                "checkpoint before stays."
            )
        self.records.append(record)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(_line(record))
        self._check(last=state.global_step >= state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar."""
        if self.progress is not None:
            self.progress(state.global_step, state.max_steps)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the checkpoint as whole."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if folder.is_dir():
            write_atomic(folder / WHOLE, f"{state.global_step}\n")

    def _check(self, *, last: bool) -> None:
        """Raise UserError where nothing has moved for `patience` updates, or at the end of two or more."""
        done = len(self.records)
        if done == self.patience or (last and 1 < done < self.patience):
            if all(abs(one["margin"]) <= STILL for one in self.records):
                raise UserError(
                    f"align: after {done} updates the margins between chosen and rejected are exactly zero and the "
                    f"loss is {self.records[-1]['loss']:.4f}, so nothing is learned; wanted pairs whose answers "
                    "differ in the model's tokens, and a learning rate that its precision can take."
                )
            asked = sum(one.get("asked", 0.0) for one in self.records)
            if asked and not any(one.get("fresh", 0.0) for one in self.records):
                cut = sum(one.get("cut", 0.0) for one in self.records) / asked
                raise UserError(
                    f"align: of the pairs that were to be sampled in {done} updates none could be made "
                    f"({100 * cut:.0f} % were cut short; the last: {self.refusal() or 'unknown'}); wanted some. Raise "
                    "max_new_tokens, change rho or epsilon, or take method dpo."
                )


def read_curves(path: Path) -> list[dict[str, float]]:
    """The records of a curves file, without a last line that is half there; none where there is no file."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def _line(record: dict[str, float]) -> str:
    return json.dumps(record) + "\n"
