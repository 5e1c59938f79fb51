"""Which questions settings are chosen on, and which they are scored on: whole images, so that no side sees the other's.

Knows: questions. Does not know: files, answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256

from vdd._check import UserError, real
from vdd.records import Question


def image_of(question: Question) -> str:
    """The picture that a question names."""
    return question.image


def split_by_image(
    questions: Sequence[Question], share: float, *, seed: int = 0, key: Callable[[Question], str] = image_of
) -> tuple[list[Question], list[Question]]:
    """(dev, test): all questions about `share` of the images, and all others, each in the given order.

    Which images those are depends on their names and the seed alone, not on the order of the questions or the platform.

    Args:
        questions: about two images at least.
        share: of the images, in (0, 1); at least one image goes to each side.
        seed: other seeds draw other images.
        key: what tells which picture a question is about.

    Raises:
        UserError: on a share out of range or a single image.
    """
    real("split", "share", share, low=1e-6, high=1 - 1e-6)
    names = {key(question) for question in questions}
    if len(names) < 2:
        raise UserError(f"split: the questions are about {len(names)} image(s); wanted two at least, to part them.")
    drawn = _drawn(names, seed)
    chosen = set(drawn[: min(max(round(share * len(drawn)), 1), len(drawn) - 1)])
    return [q for q in questions if key(q) in chosen], [q for q in questions if key(q) not in chosen]


def folds_by_image(images: Sequence[str], count: int, *, seed: int = 0) -> list[int]:
    """For each question the fold of its image, 0 … count − 1; the folds have the same number of images, or one less.

    Args:
        images: of the questions; at least `count` different ones.
        count: ≥ 2.
        seed: other seeds draw other folds.

    Raises:
        UserError: on fewer images than folds.
    """
    names = set(images)
    if len(names) < count:
        raise UserError(f"split: {len(names)} image(s) for {count} folds; wanted at least one image for each.")
    drawn = _drawn(names, seed)
    fold = {name: place % count for place, name in enumerate(drawn)}
    return [fold[name] for name in images]


def _drawn(names: set[str], seed: int) -> list[str]:
    """The names in an order that depends on them and the seed alone."""
    return sorted(names, key=lambda name: sha256(f"{seed}:{name}".encode()).digest())
