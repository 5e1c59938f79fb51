"""The world: what is drawn, asked and written agrees with itself and repeats byte for byte."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vdd.toy import questions, scenes
from vdd.toy.questions import write_toy_data
from vdd.toy.scenes import COLORS, OBJECTS, THEME_OF, TYPICAL_COLOR, Scene, negatives, render, sample_scene, scene_at

SPLITS = ("dev", "test", "counterfactual")
KINDS = ("random", "popular", "adversarial")
SENTENCE = re.compile(r"there is (a|an) (\w+) (\w+) (at the [a-z ]+|on the [a-z]+|in the [a-z]+)\.")


def digest(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def scene_of(split: str, image: str) -> Scene:
    return scene_at(split, int(image.removesuffix(".png")))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    write_toy_data(folder)
    return folder


def test_every_run_writes_the_same_bytes(data: Path, tmp_path: Path) -> None:
    said: list[str] = []
    write_toy_data(tmp_path, progress=said.append)
    assert digest(tmp_path) == digest(data)
    assert len(said) == 4


def test_the_splits_never_share_a_seed() -> None:
    ranges = sorted(scenes.SEEDS.values(), key=lambda r: r.start)
    assert all(a.stop <= b.start for a, b in itertools.pairwise(ranges))


def test_a_scene_outside_its_splits_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match="outside 0 to"):
        scene_at("dev", len(scenes.SEEDS["dev"]))
    with pytest.raises(ValueError, match="split is 'validation'"):
        scene_at("validation", 0)  # type: ignore[arg-type]


def test_the_prior_is_as_the_header_says() -> None:
    drawn = [scene_at("train", index) for index in range(3000)]
    items = [item for scene in drawn for item in scene.items]
    assert np.mean([item.typical for item in items]) == pytest.approx(0.8, abs=0.02)
    own = [THEME_OF[item.object] == scene.theme for scene in drawn for item in scene.items]
    assert np.mean(own) == pytest.approx(0.9, abs=0.02)
    assert {len(scene.items) for scene in drawn} == {1, 2, 3}
    assert {item.object for item in items} == set(OBJECTS)
    assert {item.color for item in items} == set(COLORS)


def test_counterfactual_scenes_break_both_priors() -> None:
    for index in range(200):
        scene = scene_at("counterfactual", index)
        assert not any(item.typical for item in scene.items)
        assert len({THEME_OF[name] for name in scene.objects}) == len(scene.items)


def test_items_are_different_objects_in_reading_order() -> None:
    for index in range(300):
        scene = scene_at("dev", index)
        cells = [item.cell for item in scene.items]
        assert cells == sorted(set(cells))
        assert len(set(scene.objects)) == len(scene.objects)


def test_a_caption_says_exactly_what_is_there() -> None:
    for index in range(100):
        scene = scene_at("dev", index)
        found = SENTENCE.findall(scenes.caption(scene))
        assert [(color, name, where) for _, color, name, where in found] == [
            (item.color, item.object, scenes.POSITIONS[item.cell]) for item in scene.items
        ]
        assert all((first == "an") == (color[0] in "aeiou") for first, color, _, _ in found)


def test_an_image_shows_its_colours_in_its_cells_and_nothing_elsewhere() -> None:
    for index in range(50):
        scene = scene_at("dev", index)
        pixels = np.asarray(render(scene)).astype(int)
        taken = {item.cell: item for item in scene.items}
        for cell in range(9):
            row, column = divmod(cell, 3)
            part = pixels[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32].reshape(-1, 3)
            drawn = np.abs(part - scenes.BACKGROUND).sum(-1) > 0
            assert drawn.any() == (cell in taken)
            if cell in taken:
                values, counts = np.unique(part[drawn], axis=0, return_counts=True)
                shade = values[counts.argmax()]
                nearest = min(COLORS, key=lambda name: np.abs(shade - COLORS[name]).sum())
                assert nearest == taken[cell].color


def test_silhouettes_differ_clearly_from_each_other() -> None:
    masks = {name: np.asarray(scenes.silhouette(name, 28)).astype(float) / 255 for name in OBJECTS}
    for a in OBJECTS:
        for b in OBJECTS:
            if a < b:
                overlap = np.minimum(masks[a], masks[b]).sum() / np.maximum(masks[a], masks[b]).sum()
                assert overlap < 0.8, f"{a} and {b} overlap by {overlap:.2f}"


def test_negatives_are_absent_and_of_their_kind() -> None:
    rng = np.random.default_rng(0)
    scene = next(s for s in (scene_at("dev", i) for i in range(99)) if len(s.items) == 1)
    for kind in KINDS:
        assert not set(negatives(scene, kind, 3, rng)) & set(scene.objects)  # type: ignore[arg-type]
    assert {THEME_OF[name] for name in negatives(scene, "adversarial", 3, rng)} == {THEME_OF[scene.objects[0]]}
    single, _ = scenes.statistics()
    popular = negatives(scene, "popular", 11, rng)
    assert [single[name] for name in popular] == sorted((single[name] for name in popular), reverse=True)
    with pytest.raises(ValueError, match="are absent"):
        negatives(scene, "random", 12, rng)


def test_a_bad_prior_or_count_is_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="prior is"):
        sample_scene(rng, prior="usual")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count is 4"):
        sample_scene(rng, count=4)


@pytest.mark.parametrize("split", SPLITS)
def test_pope_labels_agree_with_the_scenes(data: Path, split: str) -> None:
    asked: dict[str, list[tuple[str, str]]] = {}
    for kind in KINDS:
        records = lines(data / split / f"pope_{kind}.json")
        assert [r["question_id"] for r in records] == list(range(1, len(records) + 1))
        assert sum(r["label"] == "yes" for r in records) * 2 == len(records)
        for record in records:
            assert set(record) == {"question_id", "image", "text", "label"}
            match = re.fullmatch(r"Is there (a|an) (\w+) in the image\?", record["text"])
            assert match is not None
            present = match[2] in scene_of(split, record["image"]).objects
            assert record["label"] == ("yes" if present else "no")
            assert (data / split / "images" / record["image"]).is_file()
        asked[kind] = [(r["image"], r["text"]) for r in records if r["label"] == "yes"]
    assert asked["random"] == asked["popular"] == asked["adversarial"]


@pytest.mark.parametrize("split", SPLITS)
def test_mme_lines_come_in_pairs_that_agree_with_the_scenes(data: Path, split: str) -> None:
    for task in ("existence", "color"):
        rows = [line.split("\t") for line in (data / split / "mme" / f"{task}.txt").read_text().splitlines()]
        for first, second in zip(rows[::2], rows[1::2], strict=True):
            assert first[0] == second[0]
            assert (first[2], second[2]) == ("Yes", "No")
        for image, text, label in rows:
            match = re.fullmatch(r"Is there an? (?:(\w+) )?(\w+) in the image\? Please answer yes or no\.", text)
            assert match is not None
            pairs = {(item.object, item.color) for item in scene_of(split, image).items}
            true = (match[2], match[1]) in pairs if match[1] else match[2] in {name for name, _ in pairs}
            assert label == ("Yes" if true else "No")


@pytest.mark.parametrize("split", SPLITS)
def test_colours_and_choices_agree_with_the_scenes(data: Path, split: str) -> None:
    for name, typical in (("typical", True), ("counter", False)):
        for record in lines(data / split / f"colors_{name}.json"):
            about = record["text"].removeprefix("What color is the ").removesuffix("?")
            item = next(i for i in scene_of(split, record["image"]).items if i.object == about)
            assert record["label"] == item.color
            assert (TYPICAL_COLOR[about] == item.color) == typical
    for record in lines(data / split / "choice.jsonl"):
        options = dict(re.findall(r"\((\w)\) (\w+)", record["text"]))
        assert list(options.values()) == record["options"]
        assert len(set(record["options"])) == 4
        scene = scene_of(split, record["image"])
        right = options[record["label"]]
        if record["text"].startswith("What color is the "):
            about = record["text"].split("?")[0].removeprefix("What color is the ")
            assert next(i.color for i in scene.items if i.object == about) == right
        else:
            assert [option for option in options.values() if option in scene.objects] == [right]


def test_captions_name_the_objects_of_each_image(data: Path) -> None:
    records = lines(data / "dev" / "captions.jsonl")
    assert len(records) == questions.IMAGES["dev"]
    for record in records:
        scene = scene_of("dev", record["image"])
        assert record["objects"] == list(scene.objects)
        assert record["caption"] == scenes.caption(scene)
    known = {line.split(", ")[0] for line in (data / "dev" / "synonyms.txt").read_text().splitlines()}
    assert known == set(OBJECTS)


@pytest.mark.parametrize("percent", questions.SHUFFLED_PERCENT)
def test_shuffled_pairs_are_marked_and_only_they_changed(data: Path, percent: int) -> None:
    clean, mixed = lines(data / "train_pairs.jsonl"), lines(data / f"train_pairs_shuffled_{percent}.jsonl")
    assert sum(row["shuffled"] for row in mixed) == round(len(clean) * percent / 100)
    for before, after in zip(clean, mixed, strict=True):
        assert before["image"] == after["image"]
        assert (before["caption"] != after["caption"]) == after["shuffled"]
    assert sorted(row["caption"] for row in clean) == sorted(row["caption"] for row in mixed)


def test_images_are_small_rgb_squares(data: Path) -> None:
    with Image.open(data / "dev" / "images" / "00000.png") as image:
        assert image.size == (scenes.IMAGE_SIZE, scenes.IMAGE_SIZE)
        assert image.mode == "RGB"


def test_the_world_can_be_had_without_torch() -> None:
    code = "import sys, vdd.toy, vdd.toy.scenes, vdd.toy.questions; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
