"""Settings: to and from JSON, ranges, what tells two legs apart, and that a model's own defaults do not leak in."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles.recompute import encode
from vdd.config import REFERENCES, SCHEDULES, DebiasConfig, Leg, SamplingConfig, from_json, override, to_json

DEBIAS = st.builds(
    DebiasConfig,
    reference=st.sampled_from(REFERENCES),
    alpha=st.floats(0, 1000),
    beta=st.floats(0, 1),
    schedule=st.sampled_from(SCHEDULES),
    noise_step=st.integers(0, 999),
    seed=st.integers(0, 2**31),
    unk_per=st.sampled_from(["image", "patch"]),
    instruction=st.text(max_size=20),
)
SAMPLING = st.builds(SamplingConfig, temperature=st.floats(0, 5), top_k=st.integers(0, 99), num_beams=st.integers(1, 5))


@given(DEBIAS, SAMPLING)
def test_settings_survive_json(debias, sampling):
    for config in (debias, sampling):
        assert from_json(type(config), json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    "leg",
    [
        Leg("vdd", DebiasConfig(reference="both", alpha=0.5), SamplingConfig(temperature=0.2)),
        Leg("plain", None, SamplingConfig(num_beams=3)),
        Leg("post hoc", post_hoc="both"),
    ],
    ids=lambda leg: leg.name,
)
def test_a_leg_survives_json_with_what_is_nested_in_it(leg):
    assert from_json(Leg, json.loads(json.dumps(to_json(leg)))) == leg


def test_missing_settings_take_the_default_and_unknown_ones_are_named_with_the_known():
    assert from_json(DebiasConfig, {"alpha": 2.0}) == DebiasConfig(alpha=2.0)
    with pytest.raises(ValueError, match="unknown setting 'alhpa'; known: reference, alpha"):
        from_json(DebiasConfig, {"alhpa": 1})
    with pytest.raises(ValueError, match="unknown setting 'top'; known: temperature"):
        from_json(SamplingConfig, {"top": 1})
    with pytest.raises(ValueError, match="unknown setting 'gamma'; known: reference"):
        override(DebiasConfig(), {"gamma": 1})


def test_override_changes_a_copy():
    config = DebiasConfig()
    assert override(config, {"alpha": 0.5, "reference": "unk"}) == DebiasConfig(alpha=0.5, reference="unk")
    assert config == DebiasConfig()


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [(DebiasConfig, "alpha", value) for value in (-1e-9, math.nan, math.inf, "1", None, True)]
    + [(DebiasConfig, "beta", value) for value in (-0.01, 1.01, math.nan)]
    + [(DebiasConfig, "confidence", value) for value in (0.0, 1.1)]
    + [(DebiasConfig, "decay", -0.1), (DebiasConfig, "noise_step", 1000), (DebiasConfig, "noise_step", -1)]
    + [(DebiasConfig, "noise_step", 1.5), (DebiasConfig, "seed", -1), (DebiasConfig, "reference", "blur")]
    + [(DebiasConfig, "schedule", "linear"), (DebiasConfig, "unk_per", "word"), (DebiasConfig, "derive", "guess")]
    + [(SamplingConfig, "temperature", value) for value in (-0.1, math.nan, math.inf)]
    + [(SamplingConfig, "top_p", value) for value in (0.0, 1.5)]
    + [(SamplingConfig, "top_k", value) for value in (-1, 1.0, True)]
    + [(SamplingConfig, "repetition_penalty", 0.0), (SamplingConfig, "num_beams", 0)]
    + [(SamplingConfig, "max_new_tokens", 0)],
)
def test_a_value_out_of_range_is_an_error_that_names_the_setting_and_the_value(kind, name, value):
    with pytest.raises(ValueError, match=name.replace("_", "[_ ]")) as error:
        kind(**{name: value})
    shown = f"{value:g}" if isinstance(value, float) and math.isfinite(value) else repr(value)
    assert shown in str(error.value)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_ends_of_betas_range_are_allowed(value):
    assert DebiasConfig(beta=value).beta == value


def test_nothing_to_subtract_means_cutoff_only_except_for_m3id_which_has_no_alpha():
    assert DebiasConfig(alpha=0.0).is_cutoff_only
    assert DebiasConfig(alpha=0.0, schedule="nolan").is_cutoff_only
    assert not DebiasConfig(alpha=0.0, schedule="m3id").is_cutoff_only
    assert not DebiasConfig(alpha=0.1).is_cutoff_only


# ---- signatures

OTHER = {
    "reference": "unk",
    "alpha": 0.5,
    "beta": 0.2,
    "schedule": "m3id",
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 7,
    "repetition_penalty": 1.2,
    "num_beams": 3,
    "max_new_tokens": 64,
}
#: A setting that matters only beside others: (base, the setting's other value).
BESIDE = {
    "decay": (DebiasConfig(schedule="m3id"), 0.05),
    "confidence": (DebiasConfig(schedule="m3id"), 0.5),
    "unk_per": (DebiasConfig(reference="unk"), "patch"),
    "derive": (DebiasConfig(), "ids"),
    "noise_step": (DebiasConfig(reference="noise"), 999),
    "seed": (DebiasConfig(reference="noise"), 1),
    "instruction": (DebiasConfig(reference="instruction"), "Look away."),
}


@pytest.mark.parametrize("name", [f.name for f in fields(DebiasConfig)])
def test_a_signature_tells_apart_legs_that_differ_in_a_setting_of_the_contrast(name):
    base, value = BESIDE.get(name, (DebiasConfig(), OTHER.get(name)))
    assert Leg("x", base).signature() != Leg("x", replace(base, **{name: value})).signature()


@pytest.mark.parametrize("base", [SamplingConfig(), SamplingConfig(temperature=1.0)])
@pytest.mark.parametrize("name", [f.name for f in fields(SamplingConfig)])
def test_a_signature_tells_apart_legs_that_differ_in_how_tokens_are_chosen(name, base):
    if base.temperature == 0 and name in ("top_p", "top_k"):
        return  # greedy decoding does not look at them
    changed = replace(base, **{name: OTHER[name]})
    assert Leg("x", sampling=base).signature() != Leg("x", sampling=changed).signature()


def test_a_signature_tells_plain_post_hoc_cutoff_only_and_debiased_apart_and_not_by_name():
    legs = [Leg("x"), Leg("x", post_hoc="none"), Leg("x", post_hoc="unk"), Leg("x", DebiasConfig())]
    legs += [Leg("x", DebiasConfig(alpha=0.0)), Leg("x", DebiasConfig(), post_hoc="none")]
    assert len({leg.signature() for leg in legs}) == len(legs)
    assert Leg("x").signature() == Leg("y").signature()
    assert Leg("x", DebiasConfig()).signature() == "ref:none|a:1|b:0.1|greedy"


# ---- generate's arguments

LEAKS = {"do_sample": True, "temperature": 0.05, "top_k": 1, "top_p": 0.01, "num_beams": 2, "repetition_penalty": 3.0}


def answers(model, inputs, sampling: SamplingConfig) -> list[list[int]]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model.generate(**inputs, **sampling.generate_kwargs()).tolist()


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingConfig(max_new_tokens=8),
        SamplingConfig(temperature=1.5, max_new_tokens=8),
        SamplingConfig(temperature=0.9, top_p=0.8, top_k=20, max_new_tokens=8),
        SamplingConfig(num_beams=3, max_new_tokens=8),
    ],
    ids=["greedy", "sampling", "nucleus", "beams"],
)
def test_a_models_own_generation_settings_do_not_leak_into_ours(llava, sampling):
    model, processor = llava
    inputs = encode(processor, ["is there a cat ?", "what color is the dog ?"])
    want = answers(model, inputs, sampling)
    biased = copy.copy(model)
    biased.generation_config = copy.deepcopy(model.generation_config)
    biased.generation_config.update(**LEAKS)
    assert answers(biased, inputs, sampling) == want


def test_transformers_default_of_50_for_top_k_is_not_active(llava):
    model, processor = llava
    inputs = encode(processor, ["is there a cat ?"])
    logits = torch.zeros(1, model.config.text_config.vocab_size)
    logits[:, 0] = -3.0

    def flatten(input_ids, scores):
        seen.append(scores.clone())
        return logits.to(scores).expand_as(scores)

    seen: list[torch.Tensor] = []
    biased = copy.copy(model)
    biased.generation_config = copy.deepcopy(model.generation_config)
    biased.generation_config.top_k = 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kwargs = SamplingConfig(temperature=1.0, max_new_tokens=40).generate_kwargs()
        tokens = biased.generate(**inputs, **kwargs, logits_processor=[flatten], eos_token_id=[])
    assert len(set(tokens[0, inputs["input_ids"].shape[1] :].tolist())) > 10
