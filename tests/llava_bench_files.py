"""A small set in LLaVA-Bench's own files, and a model's answers to it."""

from __future__ import annotations

import json
from pathlib import Path

CATEGORIES = ("conv", "detail", "complex")
RULES = {
    f"llava_bench_{category}": {"role": "Assistant", "prompt": f"Rate both ({category}).\nPoints first."}
    for category in CATEGORIES
}


def write_lines(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def write_bench(folder: Path, count: int = 6) -> Path:
    """`count` questions, two an image, the categories in turn; captions as a text and as a list of texts in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    questions = [
        {"question_id": n, "image": f"{n // 2:03d}.jpg", "text": f"What of {n}?", "category": CATEGORIES[n % 3]}
        for n in range(count)
    ]
    write_lines(folder / "questions.jsonl", questions)
    captions = [f"A photo of {n}." if n % 2 else [f"A photo of {n}.", "It is old."] for n in range(count)]
    write_lines(folder / "context.jsonl", [{"image": f"{n:03d}.jpg", "caption": captions[n]} for n in range(count)])
    references = [{"question_id": n, "prompt": "another wording", "text": f"Reference {n}."} for n in range(count)]
    write_lines(folder / "answers_gpt4.jsonl", references)
    (folder / "rule.json").write_text(json.dumps(RULES, indent=2), "utf-8")
    return folder


def write_answers(path: Path, count: int = 6, word: str = "Answer") -> Path:
    rows = [{"question_id": n, "prompt": f"What of {n}?", "text": f"{word} {n}."} for n in range(count)]
    return write_lines(path, rows)
