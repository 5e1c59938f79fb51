"""The whole circle on the embedded world: its data, its exam, its legs after a kill, its report from the records."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from vdd._check import UserError
from vdd.cli.demo_train import train_demo
from vdd.pipeline import Pipeline
from vdd.preference import circle, world
from vdd.preference import circle_report as report
from vdd.preference.exam import FIGURES, examine, figures, gain, questions
from vdd.preference.pairs import Pair
from vdd.toy.measure import measure
from vdd.toy.questions import TRAIN_PAIRS, TRAIN_PAIRS_START
from vdd.toy.scenes import COLORS, OBJECTS, POSITIONS, SEEDS, render, scene_at
from vdd.toy.train import PLANS, SCENES_FROM


def scene_of(row):
    return scene_at("train", int(row.id.partition("-")[0]))


def true_answer(scene, question: str) -> str:
    """The truth by the scene alone, from the question's words."""
    words = question.lower().replace("?", " ").replace(".", " ").split()
    there = {item.object: item.color for item in scene.items}
    if words[0] in ("describe", "what") and "color" not in words:
        article = {True: "an", False: "a"}
        parts = [
            f"there is {article[i.color[0] in 'aeiou']} {i.color} {i.object} {POSITIONS[i.cell]}." for i in scene.items
        ]
        return " ".join(parts)
    (name,) = (word for word in words if word in OBJECTS)
    if words[0] == "what":
        return there[name]
    asked = [word for word in words if word in COLORS]
    return "yes" if name in there and (not asked or there[name] == asked[0]) else "no"


def test_rows_are_true_of_their_scene_and_show_its_drawing():
    rows = world.rows(60, seed=1)
    assert len(rows) == 300
    assert len({row.id for row in rows}) == 300
    for row in rows:
        assert row.answer == true_answer(scene_of(row), row.prompt), row
        assert np.array_equal(np.asarray(row.images[0]), np.asarray(render(scene_of(row))))
    assert len({id(row.images[0]) for row in rows}) == 60
    kinds = [row.answer for row in rows]
    assert kinds.count("yes") > 60
    assert kinds.count("no") > 60
    assert sum(kind in COLORS for kind in kinds) == 60
    assert sum(kind.endswith(".") for kind in kinds) == 60


def test_rows_are_of_training_scenes_that_nothing_else_uses():
    numbers = [int(row.id.partition("-")[0]) for seed in (0, 1, 99) for row in world.rows(30, seed=seed)]
    assert len(set(numbers)) == 90
    assert set(numbers) <= set(SEEDS["train"])
    used = [range(start, start + PLANS["full"][phase].scenes) for phase, start in SCENES_FROM.items()]
    used += [range(TRAIN_PAIRS_START, TRAIN_PAIRS_START + TRAIN_PAIRS), range(4000)]
    assert not any(number in taken for number in numbers for taken in used)
    for place in ("dev", "test", "counterfactual"):
        assert not set(numbers) & set(SEEDS[place])


def test_colours_that_nobody_expects_are_among_the_rows():
    rows = [row for row in world.rows(100) if row.answer in COLORS]
    odd = sum(not item.typical for row in rows for item in scene_of(row).items if item.object in row.prompt)
    assert 10 <= odd <= 40


@pytest.mark.parametrize(
    ("scenes", "seed", "name"), [(0, 0, "scenes"), (10_001, 0, "scenes"), (1, -1, "seed"), (1, 100, "seed")]
)
def test_more_scenes_or_seeds_than_there_are_is_an_error(scenes, seed, name):
    with pytest.raises(UserError, match=f"rows: {name} is"):
        world.rows(scenes, seed=seed)


def pair(chosen, rejected):
    return Pair(1, (), "what is it ?", chosen, rejected, source="bdhs-attention")


def test_random_words_stand_where_the_pair_differs_and_nowhere_else():
    one = pair("there is a brown fox on the left.", "there is a red fox at the top.")
    seen = set()
    for seed in range(120):
        (other,) = world.random_words([one], np.random.default_rng(seed))
        assert other == replace(one, rejected=other.rejected, source="random-words")
        words = other.rejected.rstrip(".").split()
        assert words[:3] == ["there", "is", "a"]
        assert words[4] == "fox"
        assert len(words) == 8
        assert other.rejected.endswith(".")
        seen.update([words[3], *words[5:7]])
    assert seen <= set(world.WORDS) | {"the"}
    assert set(world.WORDS) <= seen


@pytest.mark.parametrize(
    ("chosen", "rejected"),
    [
        ("yes", "no"),
        ("red", "red."),
        ("red.", "red"),
        ("a..", "a"),
        ("red", ""),
        ("a fox.", "a fox. a bus."),
    ],
)
def test_a_control_never_rejects_what_it_chooses(chosen, rejected):
    for seed in range(50):
        (other,) = world.random_words([pair(chosen, rejected)], np.random.default_rng(seed))
        assert other.rejected.split() != chosen.split()
        assert any(word in other.rejected for word in world.WORDS)


def test_a_pair_without_a_difference_has_no_control():
    with pytest.raises(UserError, match="rejects what it chooses"):
        world.random_words([pair("a fox", "a  fox")], np.random.default_rng(0))


def test_the_changed_share_counts_objects_colours_and_yes_or_no():
    same = pair("there is a red fox at the top.", "there is a red fox on the left.")
    others = [pair("a red fox", "a red bus"), pair("a red fox", "a blue fox"), pair("Yes, it is", "No, it is")]
    assert world.changed_share([same, *others]) == 0.75
    with pytest.raises(UserError, match="no pairs"):
        world.changed_share([])


def test_the_exam_gives_the_shipped_measures_figures(toy):
    answers = examine(Pipeline(*toy), "dev", images=12)
    got, want = figures(answers), measure(*toy, "dev", images=12)
    for name in ("random_accuracy", "popular_accuracy", "adversarial_accuracy", "adversarial_yes", "counter_color"):
        assert got[name] == pytest.approx(want[name], abs=0.051), name
    assert got["chair_s"] == pytest.approx(want["caption_chairs"], abs=0.051)
    assert got["recall"] == pytest.approx(want["caption_recall"], abs=0.051)


def made_up(right: float, rng) -> dict:
    """Answers of a model that is right so often."""
    asked = questions([scene_at("test", index) for index in range(40)], 40)
    said = {"yes": "no", "no": "yes"}

    def told(truth: str, kind: str) -> str:
        if rng.random() < right:
            return "there is a " + " and a ".join(truth.split()) + "." if kind == "captions" else truth
        return "there is a unicorn and a tire." if kind == "captions" else said.get(truth, "pink")

    return {kind: [[image, truth, told(truth, kind)] for image, _, truth in rows] for kind, rows in asked.items()}


def test_a_gain_is_the_difference_of_the_figures_and_its_interval_covers_it():
    before, after = made_up(0.6, np.random.default_rng(0)), made_up(0.9, np.random.default_rng(1))
    for name in FIGURES:
        found = gain(before, after, name)
        assert found.value == pytest.approx(figures(after)[name] - figures(before)[name])
        assert found.low <= found.value <= found.high
    assert gain(before, after, "counter_color").low > 0
    assert gain(before, before, "chair_s") == (0, 0, 0)


def write_records(out, seed):
    folder = out / circle.FOLDER / f"seed-{seed}"
    folder.mkdir(parents=True)
    pairs = {"rows": 10, "pairs": 8, "seconds": 2.4, "measure": "words", "epsilon": 0.95, "similar": {"1": [10, 3]}}
    (folder / "pairs.json").write_text(json.dumps(pairs | {"changed_share": 0.875, "control_changed_share": 1.0}))
    for number, leg in enumerate((circle.BASE, *circle.LEGS)):
        rng = np.random.default_rng([seed, number])
        answers = {way: made_up(0.5 + 0.1 * number, rng) for way in (circle.PLAIN, circle.WITH_VDD)}
        tuning = {"method": "sft" if leg == circle.SFT else "dpo", "beta": 0.1, "learning_rate": 1e-3}
        tuning["sft_weight"] = 0.5
        record = {"leg": leg, "answers": answers, "tuning": tuning, "training_seconds": 60.0 + number}
        (folder / f"{leg}.json").write_text(json.dumps(record))


def test_the_report_is_made_of_the_records_alone(tmp_path):
    for seed in (10, 2):
        write_records(tmp_path, seed)
    (tmp_path / circle.FOLDER / "seed-3").mkdir()  # begun, not done
    seeds = report.read_circle(tmp_path)
    assert [one.seed for one in seeds] == [2, 10]
    rows = report.table(seeds)
    assert [row[0] for row in rows] == [
        leg + mark for leg in ("base", "bdhs-dpo", "bdhs-dpo-0", "sft", "random-dpo") for mark in ("", " + VDD")
    ]
    answers = json.loads((tmp_path / "circle/seed-2/sft.json").read_text())["answers"]["vdd"]["adversarial"]
    share = 100 * sum(truth == said for _, truth, said in answers) / len(answers)
    assert seeds[0].values["sft + VDD"]["adversarial_accuracy"] == pytest.approx(share)
    both = [one.values["sft + VDD"]["adversarial_accuracy"] for one in seeds]
    told = rows[7][report.COLUMNS.index("adversarial accuracy")]
    assert told == f"{sum(both) / 2:.1f} ({min(both):.1f}–{max(both):.1f})"
    base = json.loads((tmp_path / "circle/seed-2/base.json").read_text())["answers"]["plain"]["adversarial"]
    rise = share - 100 * sum(truth == said for _, truth, said in base) / len(base)
    (risen,) = (row for row in report.gains(seeds) if row[0] == "sft + VDD")
    assert risen[1].startswith(f"{rise:+.1f} [")
    text = report.write_report(tmp_path, seeds).read_text()
    assert f"| sft + VDD | {' | '.join(rows[7][1:])} |" in text
    assert "| 2 | 10 | 8 | 87.5 | 100.0 | 2 |" in text
    assert "3 of 10" in text
    assert "| bdhs-dpo | dpo | 0.1 | 0.5 | 0.001 | 61 (61–61) |" in text
    assert "| sft | sft |  |  | 0.001 | 63 (63–63) |" in text
    drawn = report.chart_rows(seeds)["adversarial accuracy"]["sft + VDD"]
    assert drawn == pytest.approx((sum(both) / 2, min(both), max(both)))
    one = report.table(seeds[:1])
    assert one[0][1] == f"{seeds[0].values['base']['random_accuracy']:.1f}"


def test_a_folder_without_a_finished_seed_is_no_report(tmp_path):
    with pytest.raises(UserError, match="no seed whose legs are all done"):
        report.read_circle(tmp_path)


def test_another_runs_folder_is_refused(tmp_path):
    circle.claim(tmp_path / "a", {"seed": 1})
    circle.claim(tmp_path / "a", {"seed": 1})
    with pytest.raises(UserError, match="other settings"):
        circle.claim(tmp_path / "a", {"seed": 2})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="no run of vdd"):
        circle.claim(tmp_path / "b", {"seed": 1})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_circle_that_was_killed_goes_on_and_ends_as_an_unbroken_one(tmp_path):
    pytest.importorskip("trl")
    pytest.importorskip("datasets")
    torch.set_num_threads(1)
    size = circle.Size(scenes=12, steps=6, batch_size=4, rank=4, images=12)

    def killed(done, total, part):
        if part == "measuring sft, vdd":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        circle.circle(tmp_path / "broken", size=size, progress=killed)
    first = tmp_path / "broken" / "circle" / "seed-0"
    stood = {path.name: path.stat().st_mtime_ns for path in first.glob("*.json")}
    assert set(stood) == {"run.json", "base.json", "pairs.json", "bdhs-dpo.json", "bdhs-dpo-0.json"}
    seen = set()
    circle.circle(tmp_path / "broken", size=size, progress=lambda done, total, part: seen.add(part))
    assert {path.name: path.stat().st_mtime_ns for path in first.glob("*.json") if path.name in stood} == stood
    assert not {part for part in seen if "base" in part or "bdhs" in part or "pairs" in part}
    circle.circle(tmp_path / "whole", size=size)
    broken, whole = (report.read_circle(tmp_path / name)[0] for name in ("broken", "whole"))
    for leg in whole.legs:
        assert broken.legs[leg]["answers"] == whole.legs[leg]["answers"], leg
    assert whole.legs["bdhs-dpo"]["answers"]["plain"] != whole.legs["base"]["answers"]["plain"]
    with pytest.raises(UserError, match="other settings"):
        circle.circle(tmp_path / "whole", size=replace(size, steps=7))


def test_the_command_writes_its_table_and_says_where_it_is(tmp_path, monkeypatch, capsys):
    drawn = {}
    monkeypatch.setattr("vdd.plots_training.circle_chart", lambda title, panels, path: drawn.update(panels))
    monkeypatch.setattr("vdd.plots.can_chart", lambda: True)
    monkeypatch.setattr(circle, "circle", lambda out, *, seed, progress: write_records(out, seed))
    out = tmp_path / "demo"
    train_demo(out, 4, 2)
    said = capsys.readouterr().out
    text = (out / "circle.md").read_text()
    assert "seeds 4, 5" in text
    assert [line for line in said.splitlines() if line.startswith("table:")] == [f"table:    {out / 'circle.md'}"]
    assert drawn == report.chart_rows(report.read_circle(out))
    assert (out / "ABOUT.txt").is_file()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty"):
        train_demo(tmp_path / "other", 0, 1)
    with pytest.raises(UserError, match="seeds is 0"):
        train_demo(out, 0, 0)


def test_without_the_extra_the_command_names_it(tmp_path, monkeypatch):
    monkeypatch.setattr("vdd.preference.train.find_spec", lambda name: None)
    monkeypatch.setattr("vdd.plots_training.circle_chart", None, raising=False)
    for start in (lambda out: train_demo(out, 0, 1), circle.circle):
        with pytest.raises(UserError, match=r"trl, peft, datasets.*visual-debias-decoding\[train\]"):
            start(tmp_path / "out")
        assert not (tmp_path / "out").exists()
