"""Question sets in the Hub's schemas, written by `datasets` as the Hub's own are."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

datasets = pytest.importorskip("datasets", reason="`datasets` (extra `eval`) is not installed")

TEXT = datasets.Value("string")
POPE = datasets.Features(
    {
        "id": TEXT,
        "question_id": TEXT,
        "question": TEXT,
        "answer": TEXT,
        "image_source": TEXT,
        "image": datasets.Image(),
        "category": TEXT,
    }
)
MME = datasets.Features(
    {"question_id": TEXT, "image": datasets.Image(), "question": TEXT, "answer": TEXT, "category": TEXT}
)
CATEGORIES = ("random", "popular", "adversarial")


@cache
def picture(number: int, *, mode: str = "RGB", form: str = "JPEG") -> bytes:
    """An image file unlike that of any other number."""
    grey = Image.new("L", (12, 8), 40 * number % 256)
    grey.putpixel((0, 0), number)
    if mode == "RGBA":
        grey = Image.merge("RGBA", [grey, grey, grey, Image.new("L", grey.size, 128)])
    stream = io.BytesIO()
    grey.convert(mode).save(stream, form)
    return stream.getvalue()


def pope_row(number: int, category: str = "random", **changes) -> dict[str, object]:
    """Question `number` from 1 of a category: two to an image."""
    of_image = (number - 1) // 2
    return {
        "id": str(number - 1),
        "question_id": str(number),
        "question": f"Is there a {('dog', 'car')[number % 2]} in the image?",
        "answer": ("no", "yes")[number % 2],
        "image_source": f"COCO_val2014_{of_image:012d}",
        "image": {"bytes": picture(of_image), "path": None},
        "category": category,
        **changes,
    }


def mme_row(subtask: str, file: str, number: int, **changes) -> dict[str, object]:
    """The first or the second question about a picture."""
    return {
        "question_id": f"{subtask}/{file}",
        "image": {"bytes": picture(len(file), form="PNG"), "path": None},
        "question": f"Is this {('red', 'blue')[number - 1]}? Please answer yes or no.",
        "answer": ("Yes", "No")[number - 1],
        "category": subtask,
        **changes,
    }


def write(path: Path, rows, features=POPE, *, group: int = 4) -> Path:
    """A parquet file of these rows, in groups of so many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[name] for row in rows] for name in features}
    datasets.Dataset.from_dict(columns, features=features).to_parquet(path, batch_size=group)
    return path


def pope_set(folder: Path) -> Path:
    """Three categories of six questions about the same three images, in one file as lmms-lab/POPE has it."""
    rows = [pope_row(number, category) for category in CATEGORIES for number in range(1, 7)]
    return write(folder / "data" / "test-00000-of-00001.parquet", rows)


def content(folder: Path) -> dict[str, bytes]:
    """Every file under a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
