"""What a run has found so far, in its folder: tensors by name, each with what it was made of; and whose folder it is.

    run.json                what was asked
    parts/NAME.safetensors  one thing that took time, whole or not there; another run's counts as not there

Knows: safetensors, files. Does not know: what is kept.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from vdd._check import UserError
from vdd._version import __version__
from vdd.data import write_atomic
from vdd.run_folder import refuse_foreign


@dataclass(frozen=True)
class Kept:
    """One thing as it was kept: tensors, and whatever JSON can say of them."""

    tensors: dict[str, Tensor]
    notes: Any


@dataclass(frozen=True)
class Store:
    """Things that took time, by name.

    Attributes:
        folder: where they lie; made when needed. None keeps nothing.
        digest: what they are made of, but for the version of vdd: of another, what lies there is not seen, and is
            written over.
    """

    folder: Path | None
    digest: str

    def get(self, name: str) -> Kept | None:
        """What was put there; None where there is nothing, or nothing of this digest."""
        if self.folder is None:
            return None
        try:
            with safe_open(self.folder / f"{name}.safetensors", framework="pt") as file:
                about = file.metadata() or {}
                if about.get("digest") != self._made_of:
                    return None
                return Kept({key: file.get_tensor(key) for key in list(file.keys())}, json.loads(about["notes"]))
        except (OSError, SafetensorError, ValueError, KeyError):
            return None

    def put(self, name: str, tensors: Mapping[str, Tensor], notes: Any) -> Kept:
        """Keep it, and give it back.

        Raises:
            UserError: where it cannot be written.
        """
        kept = {key: value.detach().contiguous().cpu() for key, value in tensors.items()}
        if self.folder is not None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(f"{self.folder}: cannot be made a folder ({error.strerror}).") from error
            about = {"digest": self._made_of, "notes": json.dumps(notes)}
            write_atomic(self.folder / f"{name}.safetensors", save(kept, metadata=about))
        return Kept(kept, notes)

    @property
    def _made_of(self) -> str:
        return f"{__version__} {self.digest}"


def digest_of(*values: Any) -> str:
    """Of whatever JSON can say, 64 hexadecimal digits."""
    return sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def claim(out: Path, settings: Mapping[str, Any], *, free: Collection[str] = ()) -> None:
    """Make `out` this run's folder, or see that it is; settings that may differ are left as they stand there.

    Args:
        settings: what is asked, as JSON has it.
        free: which may differ.

    Raises:
        UserError: where the folder is another run's, or holds something else.
    """
    refuse_foreign(out)
    if not (out / "run.json").exists():
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out}: cannot be made a folder ({error.strerror}).") from error
        write_run(out, settings, {})
    found = settings_of(out)
    differing = sorted(
        key for key in settings.keys() | found.keys() if settings.get(key) != found.get(key) and key not in free
    )
    if differing:
        told = ", ".join(f"{key} {found.get(key)!r}, now {settings.get(key)!r}" for key in differing)
        raise UserError(
            f"{out}: holds another run's results ({told}); wanted a new folder, or the same settings to go on with "
            "that run."
        )


def settings_of(out: Path) -> dict[str, Any]:
    """What was asked of the run in a folder.

    Raises:
        UserError: where it is no run of `vdd influence`.
    """
    try:
        found = json.loads((out / "run.json").read_text(encoding="utf-8"))["influence"]
        return dict(found)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{out}: holds something else than a run of `vdd influence`; wanted a new or empty folder."
        ) from error


def write_run(out: Path, settings: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Write run.json: the settings, their hash, and what the run found."""
    record = {"influence": settings, "config": config_of(settings), **found}
    write_atomic(out / "run.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def config_of(settings: Mapping[str, Any]) -> str:
    """12 hexadecimal digits that stand for the settings beside every score."""
    return digest_of(settings)[:12]
