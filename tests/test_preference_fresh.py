"""Pairs sampled from the model while it trains: by chance from the seed alone, at rest, and only where they can be."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.tiny import tiny_llava
from tests.zoo import picture
from vdd.preference import fresh
from vdd.preference.alignment import AlignConfig
from vdd.preference.fresh import CUT, FromBias, Mixture, Ranked, resting, seed_of
from vdd.preference.pairs import Pair, Refused
from vdd.toy.scenes import caption, render, scene_at

PAIRS = [
    Pair(place, (picture(place),), "is there a dog in the image ?", "no it is a cat .", "yes it is a dog .")
    for place in range(6)
]
CONFIG = AlignConfig(
    lora_rank=4, lora_alpha=8, learning_rate=2e-3, batch_size=3, max_steps=4, schedule="constant", max_new_tokens=6
)


class Noted:
    """Turns every pair around and notes what it was asked, and of whom."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, int]] = []
        self.modes: set[tuple[bool, bool]] = set()

    def __call__(self, policy: Any, pairs: Sequence[Pair], seeds: Sequence[int]) -> list[Pair | Refused]:
        self.seen += [(pair.id, seed) for pair, seed in zip(pairs, seeds, strict=True)]
        self.modes.add((policy.training, torch.is_grad_enabled()))
        return [
            Refused(pair.id, CUT) if pair.id == 0 else replace(pair, chosen=pair.rejected, rejected=pair.chosen)
            for pair in pairs
        ]


def test_the_share_is_the_probability_and_only_the_seed_decides() -> None:
    policy = torch.nn.Linear(1, 1).train()
    pairs = [replace(PAIRS[0], id=f"row {place}") for place in range(2000)]
    source = Noted()
    drawn = Mixture(source, 0.7, 3)(policy, pairs, step=5)
    assert drawn.asked == drawn.fresh == len(source.seen)
    assert drawn.asked / 2000 == pytest.approx(0.3, abs=0.04)
    assert policy.training
    assert source.modes == {(False, False)}
    again, other, later = Noted(), Noted(), Noted()
    Mixture(again, 0.7, 3)(policy, pairs[::-1], step=5)  # in another order
    Mixture(other, 0.7, 4)(policy, pairs, step=5)
    Mixture(later, 0.7, 3)(policy, pairs, step=6)
    assert sorted(again.seen) == sorted(source.seen)
    assert sorted(other.seen) != sorted(source.seen) != sorted(later.seen)
    assert seed_of(0, "1") != seed_of(0, 1)


def test_a_pair_that_cannot_be_made_is_taken_as_it_came() -> None:
    source = Noted()
    mixture = Mixture(source, 0.0, 0)
    drawn = mixture(torch.nn.Linear(1, 1), PAIRS[:3], step=0)
    assert (drawn.asked, drawn.fresh, drawn.cut) == (3, 2, 1)
    assert drawn.pairs[0] == PAIRS[0]
    assert drawn.pairs[1].chosen == PAIRS[1].rejected
    assert mixture.refusal == CUT


def test_resting_puts_every_part_back_and_lets_errors_through() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(1, 1), torch.nn.Dropout()).train()
    model[0].eval()

    def fails() -> None:
        with resting(model):
            assert not model[1].training
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert (model.training, model[0].training, model[1].training) == (True, False, True)


def scripted(monkeypatch: Any, texts: list[str], rewards: list[float]) -> None:
    """Sampling and judging that say what is written here."""

    class Says(fresh.Pipeline):
        def generate(self, *args: Any, **kwargs: Any) -> list[str]:
            return texts

    class Judge:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            pass

        def score(self, images: Any, prompts: Any, answers: Sequence[str]) -> list[float]:
            assert len(images) == len(prompts) == len(answers) == len(rewards)
            return rewards

        def prefers(self, one: float, other: float) -> bool:
            return one - other > 0.1

    monkeypatch.setattr(fresh, "Pipeline", Says)
    monkeypatch.setattr("vdd.preference.reward.GroundingReward", Judge)


def test_of_two_samples_the_one_that_owes_more_to_the_image_is_chosen(llava: Any, monkeypatch: Any) -> None:
    model, processor = llava
    firsts = ["a fox", "a dog", "a cat", "", "a car"]
    seconds = ["a dog", "a fox", "a cat", "a fox", "is it a dog in the image"]
    scripted(monkeypatch, firsts + seconds, [1.0, 3.0, 2.0, 1.95])
    made = Ranked(processor, CONFIG, frozen=model)(model, PAIRS[:5], [7] * 5)
    assert isinstance(made[0], Pair)
    assert (made[0].chosen, made[0].rejected, made[0].source) == ("a dog", "a fox", "ranked")
    reasons = [one.reason for one in made[1:] if isinstance(one, Refused)]
    assert reasons == ["both samples owe as much to the image", "both samples are the same", "a sample is empty", CUT]


def test_two_samples_of_a_real_model_are_ranked_by_the_frozen_one() -> None:
    from vdd.preference.reward import GroundingReward

    model, processor = tiny_llava()
    frozen = tiny_llava(seed=11)[0]
    config = replace(CONFIG, max_new_tokens=40)
    made = Ranked(processor, config, frozen)(model, PAIRS, [3] * 6)
    pairs = [one for one in made if isinstance(one, Pair)]
    assert pairs
    judge = GroundingReward(frozen, processor)
    for pair in pairs:
        one, other = judge.score([pair.images] * 2, [pair.prompt] * 2, [pair.chosen, pair.rejected])
        assert one > other
    again = Ranked(processor, config, frozen)(model, PAIRS, [3] * 6)
    assert again == made
    assert Ranked(processor, config, frozen)(model, PAIRS, [4] * 6) != made


def trained(model: Any) -> dict[str, Tensor]:
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def run(out: Path, config: AlignConfig) -> dict[str, Tensor]:
    from vdd.preference.train import align

    model, processor = tiny_llava()
    return trained(align(model, processor, PAIRS, out, config))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_mixed_with_all_or_nothing_is_offline_or_online(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("trl", reason="the extra `train` is not installed")
    monkeypatch.setattr("vdd.preference.train._source", lambda *_: Noted())
    runs = {
        name: run(tmp_path / name, replace(CONFIG, method=method, mix=mix))
        for name, method, mix in (
            ("dpo", "dpo", 0.5),
            ("online", "online-dpo", 0.5),
            ("all", "mixed-dpo", 1.0),
            ("none", "mixed-dpo", 0.0),
        )
    }
    assert same(runs["dpo"], runs["all"])
    assert same(runs["online"], runs["none"])
    assert not same(runs["dpo"], runs["online"])
    lines = [json.loads(line) for line in (tmp_path / "none" / "curves.jsonl").read_text().splitlines()]
    assert {line["asked"] for line in lines} == {1.0}
    assert sum(3 * line["cut"] for line in lines) == pytest.approx(2)  # one pair in each of two passes


def test_an_online_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("trl", reason="the extra `train` is not installed")
    from vdd.preference import trainers

    config = replace(CONFIG, method="mixed-dpo", fresh="ranked", max_new_tokens=30, save_steps=2)
    whole = run(tmp_path / "whole", config)
    stock = trainers.PairTrainer._prepare_inputs

    def failing(self: Any, inputs: Any) -> Any:
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return stock(self, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(trainers.PairTrainer, "_prepare_inputs", failing)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "killed", config)
    assert same(run(tmp_path / "killed", config), whole)
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert summary["fresh_of_asked"] > 0


@pytest.mark.parametrize("rank", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_fresh_pairs_come_from_the_model_as_it_is(rank: int, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("trl", reason="the extra `train` is not installed")
    from vdd.preference.train import align

    seen: list[float] = []

    class Asks(FromBias):
        def __call__(self, policy: Any, pairs: Sequence[Pair], seeds: Sequence[int]) -> list[Pair | Refused]:
            inputs = fresh.Pipeline(fresh.unwrapped(policy), self.processor).inputs([[picture(1)]], ["is it ?"])
            seen.append(float(fresh.unwrapped(policy)(**inputs).logits.sum()))
            return super().__call__(policy, pairs, seeds)

    monkeypatch.setattr("vdd.preference.train.FromBias", Asks)
    model, processor = tiny_llava()
    config = replace(CONFIG, method="online-dpo", epsilon=1.0, lora_rank=rank, max_steps=3)
    tuned = align(model, processor, PAIRS, tmp_path, config)
    assert len(set(seen)) == 3
    lines = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert any(line["fresh"] > 0 for line in lines)
    assert not tuned.training


@pytest.mark.slow
@pytest.mark.parametrize("by", ["bdhs", "ranked"])
def test_the_embedded_model_learns_online(by: str, toy: Any, tmp_path: Path) -> None:
    pytest.importorskip("trl", reason="the extra `train` is not installed")
    from vdd.preference.train import align

    model, processor = copy.deepcopy(toy[0]), toy[1]
    scenes = [scene_at("train", 900_000 + place) for place in range(16)]
    pairs = [
        Pair(place, (render(scene),), "Describe the image.", caption(scene), "there is a red fox in the center.")
        for place, scene in enumerate(scenes)
    ]
    config = AlignConfig(
        method="online-dpo", fresh=by, lora_rank=8, lora_alpha=16, learning_rate=1e-3, batch_size=8, max_steps=8
    )
    align(model, processor, pairs, tmp_path, config)
    lines = [json.loads(line) for line in (tmp_path / "curves.jsonl").read_text().splitlines()]
    assert sum(line["fresh"] for line in lines) / 8 > 0.2
    assert lines[-1]["margin"] > lines[0]["margin"]
