"""Advice: what helps is found, what does not is said, and no answer is scored by settings that saw it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import vdd
from tests.test_search import FORMS, VOCABULARY, stored_of
from vdd._check import UserError
from vdd.advise import BIAS, NOTHING, POST_HOC, VDD, advise, write_decoding
from vdd.config import DebiasConfig, Leg, load_debias, load_leg
from vdd.records import Question
from vdd.search import Stored

COUNT = 240


def world(*, prior: float, bias: float, knows: float = 2.0, seed: int = 0) -> tuple[Stored, dict[int, float]]:
    """A model that sees `knows`, leans by `prior` to what each question's text suggests, and by `bias` to yes."""
    rng = np.random.default_rng(seed)
    labels = rng.random(COUNT) < 0.5
    lean = np.where(rng.random(COUNT) < 0.5, 1.0, -1.0)
    odds = np.where(labels, 1.0, -1.0) * knows + rng.normal(size=COUNT) * 1.5 + prior * lean + bias
    rows = torch.full((COUNT, VOCABULARY), -30.0, dtype=torch.float64)
    blind = rows.clone()
    for own, values in ((rows, odds), (blind, prior * lean)):
        own[:, FORMS[0][0]], own[:, FORMS[1][0]] = torch.from_numpy(values) / 2, -torch.from_numpy(values) / 2
    owner = stored_of(2).owner
    questions = [Question(n, f"{n // 2}.png", "?", "yes" if label else "no") for n, label in enumerate(labels)]
    stored = Stored(
        questions,
        {"image": rows.log_softmax(-1), "none": blind.log_softmax(-1)},
        {"none": torch.arange(COUNT)},
        owner,
        ("yes", "no"),
    )
    return stored, {n: float(value) for n, value in enumerate(odds)}


def test_a_model_without_a_prior_is_left_as_it_is():
    advice = advise(*world(prior=0.0, bias=0.0))
    assert advice.kind == NOTHING
    assert advice.in_words().startswith("Nothing helps here beyond chance")
    assert [option.kind for option in advice.options] == [NOTHING, BIAS, POST_HOC, VDD]


def test_a_mere_lean_to_yes_gets_a_mere_bias():
    advice = advise(*world(prior=0.0, bias=3.0))
    assert advice.kind == BIAS
    assert advice.chosen.leg.bias == pytest.approx(-3.0, abs=1.5)
    assert advice.chosen.gain.low > 0


def test_a_lean_to_what_the_text_suggests_gets_more_than_a_bias():
    advice = advise(*world(prior=3.0, bias=0.0))
    assert advice.kind == POST_HOC
    gain = {option.kind: option.gain for option in advice.options}
    assert gain[VDD].low > 0
    assert gain[BIAS].low <= 0


def test_answers_are_scored_by_settings_that_did_not_see_them():
    rng = np.random.default_rng(3)  # labels that nothing tells: what is fitted on them is worth nothing
    stored, _ = world(prior=0.0, bias=0.0, knows=0.0, seed=3)
    margins = {n: float(value) for n, value in enumerate(rng.normal(size=COUNT))}
    bias = next(option for option in advise(stored, margins).options if option.kind == BIAS)
    assert abs(bias.accuracy - 0.5) < 0.1


def test_fewer_images_than_folds_are_an_error():
    stored, margins = world(prior=0.0, bias=0.0)
    with pytest.raises(UserError, match=r"image\(s\) for 500 folds"):
        advise(stored, margins, folds=500)


# ---- the file


@pytest.mark.parametrize(("prior", "bias", "kind"), [(0.0, 0.0, NOTHING), (3.0, 0.0, POST_HOC), (0.0, 3.0, BIAS)])
def test_the_file_gives_the_advice_back(tmp_path, prior, bias, kind):
    advice = advise(*world(prior=prior, bias=bias))
    write_decoding(tmp_path / "vdd.json", advice)
    assert load_leg(tmp_path / "vdd.json") == advice.chosen.leg
    assert json.loads((tmp_path / "vdd.json").read_text())["advice"] == kind
    if kind == NOTHING:
        assert load_debias(tmp_path / "vdd.json") == DebiasConfig(alpha=0.0, beta=0.0)
    else:
        with pytest.raises(UserError, match="answers with labels"):
            load_debias(tmp_path / "vdd.json")


def test_a_file_of_settings_is_loaded_by_the_processor_and_the_patch(tmp_path, llava):
    model, processor = llava
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"reference": "unk", "alpha": 0.7, "beta": 0.3}))
    want = DebiasConfig(reference="unk", alpha=0.7, beta=0.3)
    assert load_leg(path) == Leg("mine", want)
    assert vdd.VDDLogitsProcessor.from_config(path, model, processor).config == want
    with vdd.patch(model, processor, config=path) as patched:
        assert patched.generate.settings["reference"] == "unk"
    with vdd.patch(model, processor, config=want, alpha=0.1) as patched:
        assert patched.generate.settings["alpha"] == 0.1


@pytest.mark.parametrize("text", ["", "[]", "{", '{"alhpa": 1}', '{"decoding": {"name": "x", "colour": 1}}'])
def test_other_files_are_errors_that_name_the_file_or_the_setting(tmp_path, text):
    (tmp_path / "vdd.json").write_text(text)
    with pytest.raises(UserError):
        load_leg(tmp_path / "vdd.json")
    with pytest.raises(UserError, match="cannot be read"):
        load_leg(tmp_path / "missing.json")
