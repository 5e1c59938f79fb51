"""Debiasing where people already are: a decoding method for the Hub, a model for lmms-eval.

Light on purpose: lmms-eval imports this file whenever it starts, whatever model it is asked for.
Knows: where its files lie, names. Does not know: torch, transformers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any


def custom_generate_folder() -> Path:
    """The folder to push to the Hub, or to give to `generate(custom_generate=str(folder), trust_remote_code=True)`.

    `generate` takes a name on the Hub or a path, both as a string; it overlooks a `Path` without a word.

    Example:
        >>> sorted(path.name for path in custom_generate_folder().iterdir())
        ['README.md', 'custom_generate']
    """
    return Path(__file__).parent / "custom_generate"


def lmms_eval_models() -> Any:
    """What the entry point of the group `lmms_eval.models` gives: the model `vdd`."""
    from lmms_eval.models.registry_v2 import ModelManifest

    home = "vdd.integrations.lmms_eval"
    return ModelManifest("vdd", simple_class_path=f"{home}.VDD", chat_class_path=f"{home}.VDDChat")
