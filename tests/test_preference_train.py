"""Training on pairs: TRL's loss is the paper's, only what should be trained is, a killed training goes on the same."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.oracles.dpo import dpo_loss, log_p, tiny_pixels, tiny_rows
from tests.preference_pairs import FULL, LORA, PAIRS, trained
from tests.tiny import tiny_llava
from vdd.preference.alignment import AlignConfig
from vdd.preference.answers import Answers
from vdd.preference.lent import quiet
from vdd.preference.train import align

peft = pytest.importorskip("peft", reason="the extra `train` is not installed")
pytest.importorskip("trl", reason="the extra `train` is not installed")

from vdd.preference import trainers  # noqa: E402
from vdd.preference.watch import read_curves  # noqa: E402


def log_ps(model: Any, processor: Any) -> list[tuple[float, float]]:
    found = []
    for pair in PAIRS:
        pixels = tiny_pixels(processor, pair.images[0])
        rows = [tiny_rows(processor, pair.prompt, answer) for answer in (pair.chosen, pair.rejected)]
        found.append((log_p(model, pixels, *rows[0]), log_p(model, pixels, *rows[1])))
    return found


def supervised(log_ps: list[tuple[float, float]], processor: Any) -> float:
    """−mean_t log p(y⁺_t) over the tokens of all chosen answers."""
    tokens = sum(len(tiny_rows(processor, pair.prompt, pair.chosen)[1]) for pair in PAIRS)
    return -math.fsum(good for good, _ in log_ps) / tokens


@pytest.mark.parametrize(
    "config",
    [LORA, replace(FULL, sft_weight=0.5)],
    ids=["adapters", "all weights, with a supervised term"],
)
def test_the_loss_is_the_papers_at_the_first_update_and_after_some(config: AlignConfig, tmp_path: Path) -> None:
    base, processor = tiny_llava()
    before = log_ps(base, processor)
    weight = config.sft_weight
    near = 1e-5 if weight else 1e-6  # the supervised term is a mean in float32
    align(copy.deepcopy(base), processor, PAIRS, tmp_path / "five", replace(config, max_steps=5))
    tuned = align(copy.deepcopy(base), processor, PAIRS, tmp_path / "four", config)
    curves = read_curves(tmp_path / "five" / "curves.jsonl")
    assert [one["step"] for one in curves] == [1, 2, 3, 4, 5]
    assert curves[0]["loss"] == pytest.approx(math.log(2) + weight * supervised(before, processor), abs=near)
    after = log_ps(tuned, processor)
    want = dpo_loss(config.beta, after, before) + weight * supervised(after, processor)
    assert curves[4]["loss"] == pytest.approx(want, abs=near)
    assert curves[4]["loss"] < curves[0]["loss"] - 0.005
    apart = [
        (good - bad) - (old_good - old_bad) for (good, bad), (old_good, old_bad) in zip(after, before, strict=True)
    ]
    assert curves[4]["margin"] == pytest.approx(config.beta * math.fsum(apart) / len(apart), abs=1e-6)
    assert curves[4]["margin"] > 0.01


def test_the_supervised_leg_learns_the_chosen_answers_alone(tmp_path: Path) -> None:
    base, processor = tiny_llava()
    config = replace(FULL, method="sft", max_steps=2)
    before = log_ps(base, processor)
    align(copy.deepcopy(base), processor, PAIRS, tmp_path / "one", config)
    other = [replace(pair, rejected="a car .") for pair in PAIRS]
    weights = [
        trained(align(copy.deepcopy(base), processor, pairs, tmp_path / name, config))
        for name, pairs in (("two", PAIRS), ("other", other))
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    first = read_curves(tmp_path / "one" / "curves.jsonl")[0]
    assert first["loss"] == pytest.approx(supervised(before, processor), abs=1e-5)


def test_adapters_touch_the_language_model_and_the_projector_and_nothing_that_sees(tmp_path: Path) -> None:
    base, processor = tiny_llava()
    held = {name: value.clone() for name, value in base.named_parameters()}
    tuned = align(base, processor, PAIRS, tmp_path / "run", LORA)
    names = list(trained(tuned))
    assert any("lora_B" in name for name in names)
    assert any("multi_modal_projector" in name for name in names)
    assert not any("vision" in name or "lm_head" in name for name in names)
    kept = {
        name.replace("base_model.model.", "").replace(".base_layer", "").replace("original_module.", ""): value
        for name, value in tuned.named_parameters()
        if not value.requires_grad
    }
    assert kept.keys() == held.keys()
    assert all(torch.equal(kept[name], held[name]) for name in held)


def test_the_reference_is_the_model_without_adapters_and_with_its_own_projector(tmp_path: Path) -> None:
    base, processor = tiny_llava()
    inputs = Answers(base, processor).batch([PAIRS[0].images], [PAIRS[0].prompt], ["yes ."])
    del inputs["completion_mask"]
    before = base(**inputs).logits
    tuned = align(base, processor, PAIRS, tmp_path / "run", LORA)
    projector = [value for name, value in trained(tuned).items() if "multi_modal_projector" in name]
    original = [value for name, value in tuned.named_parameters() if "original_module" in name]
    assert all(not torch.equal(one, other) for one, other in zip(projector, original, strict=True))
    assert not torch.allclose(tuned(**inputs).logits, before, atol=1e-4)
    with tuned.disable_adapter():
        assert torch.equal(tuned(**inputs).logits, before)


@pytest.mark.parametrize(
    "config", [pytest.param(LORA, id="adapters"), pytest.param(FULL, id="all weights", marks=pytest.mark.slow)]
)
def test_what_is_saved_is_what_is_returned(config: AlignConfig, tmp_path: Path) -> None:
    base, processor = tiny_llava()
    inputs = Answers(base, processor).batch([PAIRS[0].images], [PAIRS[0].prompt], ["yes ."])
    del inputs["completion_mask"]
    tuned = align(copy.deepcopy(base), processor, PAIRS, tmp_path, config, save_merged=bool(config.lora_rank))
    assert not tuned.training
    want = tuned(**inputs).logits
    again = align(copy.deepcopy(base), processor, PAIRS, tmp_path, config)  # it is done: nothing is trained
    assert torch.equal(again(**inputs).logits, want)
    if config.lora_rank:
        with quiet():
            loaded = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter")
        assert torch.equal(loaded(**inputs).logits, want)
        merged = type(base).from_pretrained(tmp_path / "merged", dtype=torch.float64)
        torch.testing.assert_close(merged(**inputs).logits, want, rtol=0, atol=1e-9)
    assert json.loads((tmp_path / "summary.json").read_text())["updates"] == 4
    assert not (tmp_path / "checkpoints").exists()
    assert not list(tmp_path.rglob("*.bin"))
    assert not list(tmp_path.rglob("*.pt"))


class Fails(TrainerCallback):
    """Ends a training at an update."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("rank", [4, pytest.param(0, marks=pytest.mark.slow)])
def test_a_killed_training_goes_on_to_the_same_weights(rank: int, tmp_path: Path, monkeypatch: Any) -> None:
    base, processor = tiny_llava()
    config = replace(LORA, lora_rank=rank, batch_size=2, max_steps=7, schedule="linear", save_steps=2)
    whole = trained(align(copy.deepcopy(base), processor, PAIRS, tmp_path / "whole", config))
    stock = trainers.PairTrainer.__init__

    def failing(self: Any, *args: Any, **kwargs: Any) -> None:
        stock(self, *args, **kwargs)
        self.add_callback(Fails(5))

    model = copy.deepcopy(base)
    with monkeypatch.context() as patch:
        patch.setattr(trainers.PairTrainer, "__init__", failing)
        with pytest.raises(KeyboardInterrupt):
            align(model, processor, PAIRS, tmp_path / "killed", config)
    assert {name: value.sum() for name, value in model.named_parameters()}.keys() == dict(
        base.named_parameters()
    ).keys()
    assert "forward" not in vars(model)
    half = tmp_path / "killed" / "checkpoints" / "checkpoint-6"
    half.mkdir()
    (half / "trainer_state.json").write_text("{")
    seen: list[int] = []
    again = align(
        copy.deepcopy(base),
        processor,
        PAIRS,
        tmp_path / "killed",
        config,
        progress=lambda done, total: seen.append(done),
    )
    assert seen == [4, 5, 6, 7]
    found = trained(again)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[name], whole[name]) for name in whole)
    curves = [read_curves(tmp_path / name / "curves.jsonl") for name in ("whole", "killed")]
    assert curves[0] == curves[1]


def test_a_batch_of_different_lengths_is_read_as_its_rows_alone(llava: Any) -> None:
    model, processor = llava
    answers = Answers(model, processor)
    batch = trainers.written(answers, PAIRS)
    mask = batch.pop("completion_mask")
    assert len({int(row.sum()) for row in mask}) > 3
    logits = model(**batch).logits.detach().log_softmax(-1)
    for row, (pair, text) in enumerate(
        [(pair, pair.chosen) for pair in PAIRS] + [(pair, pair.rejected) for pair in PAIRS]
    ):
        tokens = batch["input_ids"][row, 1:, None]
        got = float((logits[row, :-1].gather(-1, tokens)[:, 0] * mask[row, 1:]).sum())
        want = log_p(model, tiny_pixels(processor, pair.images[0]), *tiny_rows(processor, pair.prompt, text))
        assert got == pytest.approx(want, abs=1e-9)


@pytest.mark.slow
def test_gradients_summed_over_two_forwards_are_those_of_one(tmp_path: Path) -> None:
    base, processor = tiny_llava()
    pairs = PAIRS[:4]
    runs = [replace(FULL, batch_size=4, max_steps=2), replace(FULL, batch_size=2, gradient_accumulation=2, max_steps=2)]
    one, two = (
        trained(align(copy.deepcopy(base), processor, pairs, tmp_path / str(number), config))
        for number, config in enumerate(runs)
    )
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-7)


@pytest.mark.slow
def test_checkpointed_activations_change_nothing_and_are_off_after(tmp_path: Path) -> None:
    base, processor = tiny_llava()
    runs = [
        align(copy.deepcopy(base), processor, PAIRS, tmp_path / str(on), replace(LORA, gradient_checkpointing=on))
        for on in (False, True)
    ]
    one, two = map(trained, runs)
    for name in one:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-9)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in runs[1].modules())


def test_chance_outside_is_left_as_it_was(tmp_path: Path) -> None:
    base, processor = tiny_llava()
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    align(base, processor, PAIRS, tmp_path, replace(LORA, max_steps=2))
    assert torch.equal(torch.rand(3), want)


def test_dropout_is_off_while_it_trains_and_on_again_after(tmp_path: Path) -> None:
    base, processor = tiny_llava()
    for module in base.modules():
        if isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.5
    align(base, processor, PAIRS, tmp_path, replace(LORA, max_steps=2))
    assert read_curves(tmp_path / "curves.jsonl")[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert {m.attention_dropout for m in base.modules() if hasattr(m, "attention_dropout")} == {0.5}


@pytest.mark.slow
def test_dropout_of_the_adapters_is_kept(tmp_path: Path) -> None:
    base, processor = tiny_llava()
    one = align(copy.deepcopy(base), processor, PAIRS, tmp_path / "a", replace(LORA, max_steps=2))
    two = align(copy.deepcopy(base), processor, PAIRS, tmp_path / "b", replace(LORA, max_steps=2, lora_dropout=0.5))
    assert any(not torch.equal(trained(one)[name], trained(two)[name]) for name in trained(one))


def test_nothing_is_sent(tmp_path: Path, monkeypatch: Any) -> None:
    from trl.trainer import base_trainer

    def send(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("sent")

    monkeypatch.setattr(base_trainer, "send_telemetry", send)
    base, processor = tiny_llava()
    base.config._name_or_path = "somebody/a-model"  # PEFT would ask the Hub for it
    monkeypatch.setattr("peft.utils.save_and_load.check_file_exists_on_hf_hub", send)
    align(base, processor, PAIRS, tmp_path, replace(LORA, max_steps=2, save_steps=1))
