"""A model as it is lent to a trainer, which writes into it and into the process: what it takes is put back.

TRL replaces the model's forward on the instance, sets dropout to 0 for good, seeds every global generator.

Knows: modules, generators, warnings. Does not know: TRL, losses, files.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from vdd.families import unwrapped


@contextmanager
def borrowed(model: Any) -> Iterator[dict[str, Any]]:
    """The model without dropout inside, its forward its own again after; as it came where the training fails.

    What is yielded is to be filled with `policy`, what trains, and `reference`, a copy from before, where there is one.
    """
    base, held = unwrapped(model), dict[str, Any]()
    forward = vars(base).get("forward")
    padded = [(one, one.pad_token_id) for one in (base.config.get_text_config(), base.generation_config)]
    wanted = {value: value.requires_grad for value in base.parameters()}
    rates = [
        (module, name, rate)
        for module in base.modules()
        for name in ("p", "dropout", "attention_dropout")
        for rate in [getattr(module, name, None)]
        if isinstance(rate, float) and (name != "p" or isinstance(module, nn.Dropout))
    ]
    for module, name, _ in rates:
        setattr(module, name, 0.0)
    try:
        yield held
    except BaseException:
        _give_back(base, held.get("policy"), held.get("reference"))
        for value, flag in wanted.items():
            value.requires_grad_(flag)
        base.eval()
        raise
    finally:
        vars(base).pop("forward", None)
        if forward is not None:
            base.forward = forward
        for one, token in padded:
            one.pad_token_id = token
        for module, name, rate in rates:
            setattr(module, name, rate)


def _give_back(base: Any, policy: Any, reference: Any) -> None:
    """Undo what was trained, as far as that had come."""
    if hasattr(policy, "unload"):
        kept = {name: one.original_module for name, one in base.named_modules() if hasattr(one, "original_module")}
        policy.unload()  # leaves the trained copy of a module that was trained in full
        for name, module in kept.items():
            base.set_submodule(name, module)
    if reference is not None:
        with torch.no_grad():
            for value, before in zip(base.parameters(), reference.parameters(), strict=True):
                value.copy_(before)


@contextmanager
def resting(model: Any) -> Iterator[None]:
    """The model without dropout, gradients and checkpointing inside; each part as it was after."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
def own_chance() -> Iterator[None]:
    """The trainer seeds every global generator; they are put back after."""
    state, numbers = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(state)
            np.random.set_state(numbers)  # noqa: NPY002


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' advice to one another about names that will change."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"The following \w+_pattern keys", category=RuntimeWarning)
        warnings.filterwarnings("ignore", category=FutureWarning, module=r"(transformers|trl|peft|accelerate)\.")
        yield
