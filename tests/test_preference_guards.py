"""What no training goes through with: answers that are cut, weights that stay, no numbers, foreign folders."""

from __future__ import annotations

import copy
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.preference_pairs import FULL, LORA, PAIRS
from tests.tiny import tiny_llava
from tests.zoo import MEMBERS, picture
from vdd._check import UserError
from vdd.preference.alignment import AlignConfig
from vdd.preference.answers import Answers
from vdd.preference.lent import quiet
from vdd.preference.pairs import Pair, Refused
from vdd.preference.train import align

peft = pytest.importorskip("peft", reason="the extra `train` is not installed")
pytest.importorskip("trl", reason="the extra `train` is not installed")

from vdd.preference import train, trainers  # noqa: E402
from vdd.preference.watch import Watch, read_curves  # noqa: E402


def test_no_argument_of_the_trainer_cuts_or_hides(llava: Any, tmp_path: Path) -> None:
    with quiet():
        arguments = train._arguments(llava[0], 10, tmp_path, AlignConfig())
    assert arguments.max_length is None
    assert arguments.use_cpu
    assert not arguments.bf16
    assert not arguments.fp16
    assert not arguments.logging_nan_inf_filter
    assert arguments.report_to == []
    assert arguments.precompute_ref_log_probs is False


class Cut(Answers):
    """Loses every answer, as a limit on the length does."""

    def batch(self, *rows: Any) -> dict[str, Tensor]:
        batch = super().batch(*rows)
        return {**batch, "completion_mask": torch.zeros_like(batch["completion_mask"])}


def test_answers_that_were_all_cut_are_an_error_and_no_training(tmp_path: Path, monkeypatch: Any) -> None:
    base, processor = tiny_llava()
    monkeypatch.setattr(train, "Answers", Cut)
    with pytest.raises(UserError, match="answer without a token"):
        align(base, processor, PAIRS, tmp_path, LORA)
    assert not (tmp_path / "adapter").exists()


def test_a_training_in_which_nothing_moves_is_an_error(tmp_path: Path) -> None:
    base, processor = tiny_llava()
    config = replace(LORA, learning_rate=1e-30, max_steps=9, patience=3)
    with pytest.raises(UserError, match=r"after 3 updates .* nothing is learned"):
        align(base, processor, PAIRS, tmp_path, config)
    assert not (tmp_path / "summary.json").exists()


def test_a_loss_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    base, processor = tiny_llava()
    with pytest.raises(UserError, match=r"came out as (nan|inf)"):
        align(base, processor, PAIRS, tmp_path, replace(FULL, learning_rate=1e200, max_steps=5))
    assert not (tmp_path / "model").exists()


def test_pairs_that_cannot_be_learned_from_are_left_out_with_the_reason(tmp_path: Path) -> None:
    base, processor = tiny_llava()
    bad = [
        Pair("same", (picture(1),), "is it ?", "yes zebra", "yes tiger"),  # both words are unknown
        Pair("empty", (picture(1),), "is it ?", "  ", "no"),
        Pair("image", (picture(1),), "is it ?", "yes <image>", "no"),
        Pair("end", (picture(1),), "is it ?", "yes </s>", "no"),
        Pair("gone", (tmp_path / "none.png",), "is it ?", "yes", "no"),
        Pair("blind", (), "is it ?", "yes", "no"),
        Pair("broken", (tmp_path / "broken.png",), "is it ?", "yes", "no"),
        Pair("long", (picture(1),), "is it ?", "yes " * 300, "no"),
        Pair("asks", (picture(1),), "is it <image> ?", "yes", "no"),
    ]
    (tmp_path / "broken.png").write_bytes(b"no image")
    align(base, processor, [*bad, *PAIRS], tmp_path / "run", replace(LORA, max_steps=2))
    lines = [json.loads(line) for line in (tmp_path / "run" / "left_out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [pair.id for pair in bad]
    told = " ".join(line["reason"] for line in lines)
    expected = ("to the tokenizer", "wanted text", "'<image>'", "'</s>'", "no such file", "no image came")
    for words in (*expected, "not an image", "at most 256"):
        assert words in told
    with pytest.raises(UserError, match="none of 9 pairs can be trained on"):
        align(tiny_llava()[0], processor, bad, tmp_path / "other", LORA)


def test_another_trainings_folder_is_refused(tmp_path: Path) -> None:
    base, processor = tiny_llava()
    config = replace(LORA, max_steps=2)
    align(copy.deepcopy(base), processor, PAIRS, tmp_path / "run", config)
    for other, named in ((replace(config, beta=0.2), "beta"), (replace(config, seed=1), "seed")):
        with pytest.raises(UserError, match=f"another training .other {named}"):
            align(copy.deepcopy(base), processor, PAIRS, tmp_path / "run", other)
    with pytest.raises(UserError, match="other count, pairs"):
        align(copy.deepcopy(base), processor, PAIRS[:4], tmp_path / "run", config)
    with pytest.raises(UserError, match="other model"):
        align(tiny_llava(seed=3)[0], processor, PAIRS, tmp_path / "run", config)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="no run of vdd"):
        align(copy.deepcopy(base), processor, PAIRS, tmp_path / "mine", config)
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "run.json").write_text('{"legs": []}')
    with pytest.raises(UserError, match="something else than a training"):
        align(copy.deepcopy(base), processor, PAIRS, tmp_path / "eval", config)


def test_models_that_cannot_be_trained_so_are_refused_with_what_to_do(tmp_path: Path, monkeypatch: Any) -> None:
    base, processor = tiny_llava()
    with pytest.raises(UserError, match="small steps are rounded away"):
        align(copy.deepcopy(base).bfloat16(), processor, PAIRS, tmp_path, FULL)
    with pytest.raises(UserError, match="wanted float32 there"):
        align(copy.deepcopy(base).bfloat16(), processor, PAIRS, tmp_path, LORA)
    with quiet():
        wrapped = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(UserError, match="adapters already"):
        align(wrapped, processor, PAIRS, tmp_path, LORA)
    t5 = next(member for member in MEMBERS if member.name == "InstructBLIP (T5)")
    with pytest.raises(UserError, match="another part of the model reads the text"):
        align(*t5.build(), PAIRS, tmp_path, LORA)
    monkeypatch.setitem(sys.modules, "trl", None)
    monkeypatch.setattr(train, "find_spec", lambda name: None if name == "trl" else object())
    with pytest.raises(UserError, match=r"needs trl, .*\[train\]"):
        align(base, processor, PAIRS, tmp_path, LORA)


def test_a_model_without_a_known_projector_is_told_of(llava: Any) -> None:
    model = copy.deepcopy(llava[0])
    model.model.bridge = model.model.multi_modal_projector
    del model.model.multi_modal_projector
    with pytest.raises(UserError, match=r"no projector was found .*model\.bridge.* train_projector=False"):
        trainers.adapters(model, LORA)
    assert trainers.adapters(model, replace(LORA, train_projector=False)).modules_to_save is None


OTHER_PART = "another part of the model reads the text"
REFUSED = {
    **dict.fromkeys(
        ("InstructBLIP (Vicuna)", "InstructBLIP (T5)", "BLIP-2 (OPT)", "Florence-2", "Kosmos-2"), OTHER_PART
    ),
    **dict.fromkeys(("Chameleon", "Aya Vision", "Command A Vision"), "other log-probabilities"),
    "Llama 4": "cannot read",
    "Phi-4-multimodal": "no projector",
    "SmolVLM": "wanted transformers' own",  # here a stand-in
}


@pytest.mark.slow
@pytest.mark.parametrize("name", [member.name for member in MEMBERS])
def test_every_family_is_trained_or_refused_with_a_reason(name: str, tmp_path: Path) -> None:
    member = next(one for one in MEMBERS if one.name == name)
    if not member.available:
        pytest.skip(f"this transformers has no {member.model_class}")
    model, processor = member.build()
    config = replace(LORA, max_steps=3, train_projector=name not in ("Emu3", "Chameleon"), batch_size=2)
    if name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name]):
            align(model, processor, PAIRS, tmp_path, config)
        return
    align(model, processor, PAIRS, tmp_path, config)
    curves = read_curves(tmp_path / "curves.jsonl")
    assert curves[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert any(one["margin"] for one in curves[1:])


def test_settings_out_of_range_are_named() -> None:
    wrong: list[dict[str, Any]] = [
        {"method": "ppo"},
        {"beta": 0},
        {"learning_rate": -1.0},
        {"mix": 1.5},
        {"batch_size": 0},
        {"lora_dropout": 1.0},
        {"max_steps": 0},
        {"top_p": 2.0},
        {"seed": -1},
        {"train_projector": 1},
        {"fresh": "judge"},
        {"beta": float("nan")},
    ]
    for one in wrong:
        with pytest.raises(UserError, match=next(iter(one))):
            AlignConfig(**one)
    assert AlignConfig.from_json(LORA.to_json()) == LORA
    with pytest.raises(UserError, match="unknown settings alpha"):
        AlignConfig.from_json({"alpha": 1.0})


def test_pairs_that_are_never_sampled_stop_an_online_training(tmp_path: Path, monkeypatch: Any) -> None:
    base, processor = tiny_llava()
    monkeypatch.setattr(
        train, "_source", lambda *_: lambda policy, pairs, seeds: [Refused(one.id, "no luck") for one in pairs]
    )
    with pytest.raises(UserError, match=r"in 2 updates none could be made .*no luck"):
        align(base, processor, PAIRS, tmp_path, replace(LORA, method="online-dpo", patience=2))


def test_a_line_that_is_half_there_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "curves.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [one["step"] for one in read_curves(path)] == [1, 2]
    assert Watch(path, patience=2).records == []
