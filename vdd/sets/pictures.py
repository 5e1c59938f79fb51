"""A folder of pictures that a question set brings with it: each written once, whole, and byte for byte as it came.

A picture is known by its name. What lies in the folder under a name is kept where it is the same picture, and never
overwritten where it is not: so a killed writing goes on, and several sets may share a folder.

Knows: files, bytes. Does not know: question sets, what is in a picture.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from vdd._check import UserError
from vdd.data import write_atomic
from vdd.images import ImageError, image_path


@dataclass
class PictureFolder:
    """Where pictures are kept.

    Attributes:
        folder: made with the first picture, its parents too.
        kept: SHA-256 of what each name stands for, and where it came from.
    """

    folder: Path
    kept: dict[str, tuple[bytes, str]] = field(default_factory=dict)

    def keep(self, name: str, content: bytes, where: str) -> None:
        """See that `content` lies in the folder under `name`; readers see nothing or all of it.

        Args:
            name: path relative to the folder.
            content: an image file's bytes, which are not looked into: the runner records what cannot be decoded.
            where: file and row, for error messages.

        Raises:
            UserError: where `name` leads out of the folder or stands for another picture already, in the set or in the
                folder, or the file cannot be written.
        """
        digest = hashlib.sha256(content).digest()
        known, first = self.kept.setdefault(name, (digest, where))
        if known != digest:
            raise UserError(f"{where}: another picture than in {first}, both named {name}; wanted a name for each.")
        if first != where:
            return
        try:
            path = image_path(self.folder, name)
        except ImageError as error:
            raise UserError(f"{where}: {error}.") from error
        try:
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(path, content)
            elif path.read_bytes() != content:
                raise UserError(
                    f"{path}: is another picture than the set's ({where}); wanted a new folder, or that of this set."
                )
        except OSError as error:
            raise UserError(f"{path}: cannot be written or read ({error.strerror}).") from error
