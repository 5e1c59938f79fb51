"""Loading a model by name: as it was in memory, or a clear error; never half of one."""

from __future__ import annotations

import copy
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.oracles.recompute import picture
from tests.test_pipeline import QUESTIONS, SHORT, TEXT_ONLY, YES_NO
from tests.tiny import tiny_tokenizer
from tests.zoo import MEMBERS
from vdd._check import UserError
from vdd.loading import load
from vdd.pipeline import Pipeline


@pytest.fixture(scope="module")
def saved(llava, tmp_path_factory):
    """Folder of the tiny LLaVA as `save_pretrained` writes it, in float32."""
    folder = tmp_path_factory.mktemp("saved")
    model, processor = llava
    copy.deepcopy(model).float().save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_model_saved_to_disk_answers_as_it_did_in_memory(llava, saved):
    model, processor = load(str(saved), dtype="float32")
    assert not model.training
    assert model.dtype == torch.float32
    question = QUESTIONS[1]
    got = Pipeline(model, processor)(picture(0), question, labels=YES_NO, sampling=SHORT)
    want = Pipeline(*llava)(picture(0), question, labels=YES_NO, sampling=SHORT)
    assert list(got.probabilities.values()) == pytest.approx(list(want.probabilities.values()), rel=1e-3)
    for name in ("none", "unk", "both"):
        assert list(got.debiased[name].values()) == pytest.approx(list(want.debiased[name].values()), rel=1e-3)


@pytest.mark.parametrize(("dtype", "wanted"), [("auto", torch.float32), ("bfloat16", torch.bfloat16)])
def test_the_dtype_is_the_one_asked_for_and_by_default_the_stored_one(saved, dtype, wanted):
    model, processor = load(str(saved), dtype=dtype, device="cpu")
    assert model.dtype == wanted
    answer = Pipeline(model, processor)(picture(0), QUESTIONS[0], labels=YES_NO, sampling=SHORT)
    assert all(0 <= value <= 1 for value in answer.probabilities.values())


def test_a_family_that_transformers_files_under_text_is_loaded_too(tmp_path, monkeypatch):
    member = next(member for member in MEMBERS if member.name == "Phi-4-multimodal")
    model, processor = member.build()
    model.save_pretrained(tmp_path)
    monkeypatch.setattr("transformers.AutoProcessor.from_pretrained", lambda name: processor)  # it is a stand-in
    got, _ = load(str(tmp_path), device="cpu")
    assert type(got) is type(model)
    assert torch.equal(got.lm_head.weight, model.lm_head.weight)


def test_a_folder_that_is_not_there_is_an_error_that_says_what_was_wanted(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.*could not be loaded.*wanted a folder with a vision-language model"):
        load(str(tmp_path / "nowhere"))


def test_a_name_that_nobody_has_is_an_error_offline():
    with pytest.raises(ValueError, match=r"'no-such/model' could not be loaded"):
        load("no-such/model")


def test_a_text_only_model_is_an_error_that_says_what_was_wanted(tmp_path):
    LlamaForCausalLM(LlamaConfig(**TEXT_ONLY)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"could not be loaded.*wanted a folder with a vision-language model"):
        load(str(tmp_path))


@pytest.mark.parametrize("harm", ["truncated", "empty", "another shape"])
def test_a_damaged_file_of_weights_is_a_users_error(saved, tmp_path, harm):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    weights = folder / "model.safetensors"
    if harm == "truncated":
        weights.write_bytes(weights.read_bytes()[:5000])
    elif harm == "empty":
        weights.write_bytes(b"")
    else:
        config = json.loads((folder / "config.json").read_text())
        config["text_config"]["hidden_size"] = 64
        (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="could not be loaded"):
        load(str(folder))


def test_weights_that_are_missing_from_the_file_are_a_users_error_and_not_random_numbers(saved, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "lm_head" not in name}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="lm_head"):
        load(str(folder))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"dtype": "nonsense"}, "unknown dtype 'nonsense'; known: auto, float32, bfloat16, float16"),
        ({"quantize": "3bit"}, "unknown quantize '3bit'; known: 4bit, 8bit"),
        ({"device": "nonsense"}, "nonsense"),
    ],
)
def test_loading_with_settings_that_nobody_knows_is_a_users_error(saved, options, complaint):
    with pytest.raises(UserError, match=complaint):
        load(str(saved), **options)
