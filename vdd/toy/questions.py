"""What can be asked about a scene, with the true answer; and the question sets as files.

    existence  "Is there a fox in the image?"                        yes | no     POPE's words
    color      "What color is the fox?"                              one word
    agreement  "Is there a brown fox in the image?"                  yes | no     MME's words for colour
    choice     a question and four options, "(a) red" and so on      the letter
    caption    "Describe the image."                                 one sentence per object, in reading order

Source: POPE (arXiv:2305.10355), MME (arXiv:2306.13394), CHAIR (arXiv:1809.02156) for the forms of the files.
Knows: scenes, files. Does not know: torch, models, how answers are scored.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from vdd.toy.scenes import (
    COLORS,
    OBJECTS,
    TYPICAL_COLOR,
    Item,
    Negatives,
    Scene,
    Split,
    article,
    caption,
    negatives,
    render,
    scene_at,
)

YES_NO = " Please answer yes or no."  # MME's suffix
ONE_WORD = " Please answer this question with one word."  # LLaVA's suffix on POPE
LETTERS = ("a", "b", "c", "d")
DESCRIBE = "Describe the image."
#: Images per evaluation split, and how many of the first ones POPE asks about (4 questions each, 2 where one object).
IMAGES: dict[str, int] = {"dev": 200, "test": 300, "counterfactual": 200}
POPE_IMAGES: dict[str, int] = {"dev": 120, "test": 180, "counterfactual": 120}
TRAIN_PAIRS = 400
SHUFFLED_PERCENT = (10, 20, 30)
#: Training pairs are taken from here on: far behind the scenes that the shipped training run uses.
TRAIN_PAIRS_START = 9_000_000


@dataclass(frozen=True)
class Asked:
    """A question with its true answer, both as plain text."""

    text: str
    answer: str


def ask_existence(name: str, present: bool, *, noun: str = "the image", suffix: str = "") -> Asked:
    """POPE's question."""
    return Asked(f"Is there {article(name)} {name} in {noun}?{suffix}", "yes" if present else "no")


def ask_color(item: Item, *, suffix: str = "") -> Asked:
    """The colour of an object that is there."""
    return Asked(f"What color is the {item.object}?{suffix}", item.color)


def ask_agreement(item: Item, color: str, *, suffix: str = YES_NO) -> Asked:
    """MME's colour question: is the object, which is there, of this colour?"""
    text = f"Is there {article(color)} {color} {item.object} in the image?{suffix}"
    return Asked(text, "yes" if color == item.color else "no")


def ask_choice(question: str, right: str, wrong: Sequence[str], rng: np.random.Generator) -> tuple[Asked, list[str]]:
    """A question with four options in random order; returns it with the options. The answer is a letter."""
    options = [str(option) for option in rng.permutation([right, *wrong])]
    lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=True)]
    text = "\n".join([question, *lines, "Answer with the letter."])
    return Asked(text, LETTERS[options.index(right)]), options


def choice_of_color(item: Item, rng: np.random.Generator) -> tuple[Asked, list[str]]:
    """Which of four colours an object has; the typical one is always among the options."""
    usual = TYPICAL_COLOR[item.object]
    others = [c for c in COLORS if c not in (item.color, usual)]
    lures = [] if item.typical else [usual]
    wrong = lures + [others[i] for i in rng.permutation(len(others))[: 3 - len(lures)]]
    return ask_choice(f"What color is the {item.object}?", item.color, wrong, rng)


def choice_of_object(scene: Scene, rng: np.random.Generator) -> tuple[Asked, list[str]]:
    """Which of four objects is in the image."""
    right = scene.objects[int(rng.integers(len(scene.objects)))]
    return ask_choice("Which object is in the image?", right, negatives(scene, "random", 3, rng), rng)


def pope_questions(scenes: Sequence[Scene], kind: Negatives) -> list[dict[str, Any]]:
    """POPE's records: per image as many "no" as "yes" questions, at most two each; equal "yes" in all three kinds."""
    records: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng([scene.seed, 1])
        present = [scene.objects[i] for i in rng.permutation(len(scene.objects))[:2]]
        for right, wrong in zip(present, negatives(scene, kind, len(present), rng), strict=True):
            for asked in (ask_existence(right, True), ask_existence(wrong, False)):
                records.append(_record(len(records) + 1, number, asked))
    return records


def mme_lines(scenes: Sequence[Scene], task: str) -> list[str]:
    """MME's lines, two per image (one Yes, one No): image, question, answer between tabs. `task`: existence | color."""
    lines = []
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng([scene.seed, 2])
        item = scene.items[int(rng.integers(len(scene.items)))]
        if task == "existence":
            pair = (
                ask_existence(item.object, True, suffix=YES_NO),
                ask_existence(negatives(scene, "random", 1, rng)[0], False, suffix=YES_NO),
            )
        else:
            others = [c for c in COLORS if c != item.color]
            usual = TYPICAL_COLOR[item.object]
            wrong = others[int(rng.integers(len(others)))] if item.typical else usual
            pair = (ask_agreement(item, item.color), ask_agreement(item, wrong))
        lines += [f"{image_name(number)}\t{asked.text}\t{asked.answer.capitalize()}" for asked in pair]
    return lines


def color_questions(scenes: Sequence[Scene], *, typical: bool) -> list[dict[str, Any]]:
    """The colour of every object that does (or does not) wear its typical colour."""
    records: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes):
        for item in scene.items:
            if item.typical == typical:
                asked = ask_color(item)
                records.append(_record(len(records) + 1, number, asked))
    return records


def choice_questions(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """Two multiple-choice questions per image: a colour, and an object."""
    records: list[dict[str, Any]] = []
    for number, scene in enumerate(scenes):
        rng = np.random.default_rng([scene.seed, 3])
        item = scene.items[int(rng.integers(len(scene.items)))]
        for asked, options in (choice_of_color(item, rng), choice_of_object(scene, rng)):
            records.append(_record(len(records) + 1, number, asked) | {"options": options})
    return records


def image_name(number: int) -> str:
    """File name of image `number`."""
    return f"{number:05d}.png"


def write_toy_data(directory: Path, *, progress: Callable[[str], None] | None = None) -> None:
    """Write every question set with its images; the same bytes on every run.

    Args:
        directory: receives `dev/`, `test/`, `counterfactual/`, `train_images/` and the training pairs; created.
        progress: called with one line per finished part.
    """
    report = progress or (lambda line: None)
    for split in ("dev", "test", "counterfactual"):
        write_split(directory / split, split)
        report(f"{split}: {IMAGES[split]} images")
    write_pairs(directory)
    report(f"training pairs: {TRAIN_PAIRS}")


def write_split(folder: Path, split: Split) -> None:
    """One evaluation split: images, POPE, MME, multiple choice, captions, colours, vocabulary."""
    scenes = [scene_at(split, index) for index in range(IMAGES[split])]
    asked_about = scenes[: POPE_IMAGES[split]]
    _save_images(folder / "images", scenes)
    for kind in get_args(Negatives):
        _write_lines(folder / f"pope_{kind}.json", map(json.dumps, pope_questions(asked_about, kind)))
    for task in ("existence", "color"):
        _write_lines(folder / "mme" / f"{task}.txt", mme_lines(asked_about, task))
    _write_lines(folder / "choice.jsonl", map(json.dumps, choice_questions(asked_about)))
    for name, typical in (("typical", True), ("counter", False)):
        _write_lines(folder / f"colors_{name}.json", map(json.dumps, color_questions(scenes, typical=typical)))
    _write_lines(folder / "captions.jsonl", map(json.dumps, caption_records(scenes)))
    _write_lines(folder / "synonyms.txt", (f"{name}, {name}s" for name in OBJECTS))


def caption_records(scenes: Sequence[Scene]) -> list[dict[str, Any]]:
    """What CHAIR needs: the objects of each image, and the true caption."""
    return [
        {"image_id": number, "image": image_name(number), "objects": list(scene.objects), "caption": caption(scene)}
        for number, scene in enumerate(scenes)
    ]


def write_pairs(directory: Path) -> None:
    """Training image-caption pairs, and copies in which a share of the captions changed places (`"shuffled": true`)."""
    scenes = [scene_at("train", TRAIN_PAIRS_START + index) for index in range(TRAIN_PAIRS)]
    _save_images(directory / "train_images", scenes)
    rows = [
        {"id": number, "image": f"train_images/{image_name(number)}", "caption": caption(scene)}
        for number, scene in enumerate(scenes)
    ]
    _write_lines(directory / "train_pairs.jsonl", map(json.dumps, rows))
    for percent in SHUFFLED_PERCENT:
        mixed = shuffle_captions(rows, percent, np.random.default_rng([percent, 5]))
        _write_lines(directory / f"train_pairs_shuffled_{percent}.jsonl", map(json.dumps, mixed))


def shuffle_captions(rows: Sequence[dict[str, Any]], percent: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Copies of `rows` in which `percent` % carry the caption of another chosen row, never words equal to their own.

    Raises:
        ValueError: if no such exchange was found in 100 tries (too few different captions).
    """
    chosen = [int(i) for i in rng.permutation(len(rows))[: round(len(rows) * percent / 100)]]
    for _ in range(100):
        donors = [chosen[int(i)] for i in rng.permutation(len(chosen))]
        if all(rows[a]["caption"] != rows[b]["caption"] for a, b in zip(chosen, donors, strict=True)):
            swapped = dict(zip(chosen, donors, strict=True))
            return [
                {**row, "caption": rows[swapped.get(i, i)]["caption"], "shuffled": i in swapped}
                for i, row in enumerate(rows)
            ]
    raise ValueError(f"shuffle_captions: {len(chosen)} rows hold too few different captions to exchange.")


def _record(question_id: int, image: int, asked: Asked) -> dict[str, Any]:
    return {"question_id": question_id, "image": image_name(image), "text": asked.text, "label": asked.answer}


def _save_images(folder: Path, scenes: Sequence[Scene]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes):
        render(scene).save(folder / image_name(number), format="PNG")


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(line + "\n" for line in lines).encode())
