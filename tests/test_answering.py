"""The controls and further methods among a run's legs: each answers as its formula says, from the stored rows alone."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from tests.oracles import legs as oracle
from tests.test_runner import answers, images, lower, questions  # noqa: F401
from vdd._check import UserError
from vdd.answering import _chosen
from vdd.config import DebiasConfig, Leg, SamplingConfig
from vdd.job import Run
from vdd.pipeline import Pipeline
from vdd.processor import PRESETS, VDDLogitsProcessor
from vdd.run_folder import leg_extras
from vdd.runner import run

SHORT = SamplingConfig(max_new_tokens=3)
METHOD = '''
import torch

def generate(model, input_ids, logits_processor=None, stopping_criteria=None, generation_config=None, **kwargs):
    """Says the least probable token, twice."""
    for _ in range(2):
        given = {name: kwargs[name] for name in ("pixel_values",) if name in kwargs}
        scores = model(input_ids=input_ids, attention_mask=torch.ones_like(input_ids), **given).logits[:, -1]
        input_ids = torch.cat([input_ids, scores.argmin(-1, keepdim=True)], dim=1)
    return input_ids
'''


@pytest.fixture
def forms(lower):  # noqa: F811
    return [[lower[1].tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "no")]


def ran(lower, images, questions, out, legs, **settings):  # noqa: F811
    run(Pipeline(*lower), Run("tiny", questions, images, legs, **{"batch_size": 3, **settings}), out)
    return {leg.name: answers(out, leg.name) for leg in legs}


@pytest.mark.parametrize("bias", [-2.0, -0.3, 0.7, 30.0])
def test_a_bias_moves_the_odds_of_the_first_label_and_nothing_else(lower, images, questions, tmp_path, forms, bias):  # noqa: F811
    legs = [Leg("greedy", None, SHORT), Leg("bias", None, SHORT, bias=bias)]
    found = ran(lower, images, questions, tmp_path / "out", legs)
    rows = oracle.of_each_question(load_file(tmp_path / "out" / "rows.safetensors"))
    p = oracle.of_labels(np.exp(rows["image"]), forms)
    for answer, plain, (yes, no) in zip(found["bias"], found["greedy"], p, strict=True):
        assert answer.margin == pytest.approx(math.log(yes) - math.log(no) + bias, rel=1e-4)
        assert answer.text == ("yes" if math.log(yes) + bias > math.log(no) else "no")
        assert answer.debiased["bias"]["yes"] == pytest.approx(
            yes * math.exp(bias) / (yes * math.exp(bias) + no), rel=1e-4
        )
        assert answer.probabilities == plain.probabilities


def test_labels_are_drawn_as_often_as_they_are_probable():
    scores = torch.tensor([[0.8, 0.2], [0.0, 1.0]], dtype=torch.float64)
    hot, warm = SamplingConfig(temperature=1.0), SamplingConfig(temperature=0.5)
    for sampling, yes in ((hot, 0.8), (warm, 0.64 / 0.68)):
        drawn = [_chosen(scores, sampling, seed) for seed in range(2000)]
        share = Counter(first for first, _ in drawn)[0] / 2000
        assert abs(share - yes) < 4 * math.sqrt(yes * (1 - yes) / 2000)
        assert {second for _, second in drawn} == {1}
    assert _chosen(scores, SHORT, 0) == [0, 1]


def test_post_hoc_at_t_1_draws_from_the_calibrated_labels(lower, images, questions, tmp_path):  # noqa: F811
    hot = replace(SHORT, temperature=1.0)
    legs = [Leg("greedy", None, SHORT)]
    legs += [Leg(f"posthoc.{n}", None, hot, post_hoc="none", repeat=n) for n in range(40)]
    found = ran(lower, images, questions, tmp_path / "out", legs)
    chance = [answer.debiased["none"]["yes"] for answer in found["posthoc.0"]]
    said = [[answer.text == "yes" for answer in found[leg.name]] for leg in legs[1:]]
    drawn, mean = np.sum(said), np.sum(chance) * len(said)
    deviation = math.sqrt(len(said) * sum(p * (1 - p) for p in chance))
    assert abs(drawn - mean) < 4 * deviation + 1e-9


def test_a_leg_with_a_wording_of_its_own_is_asked_in_it(lower, images, questions, tmp_path):  # noqa: F811
    wording = "is it so that {question}"
    found = ran(
        lower, images, questions, tmp_path / "out", [Leg("a", None, SHORT), Leg("b", None, SHORT, prompt=wording)]
    )
    alone = ran(lower, images, questions, tmp_path / "alone", [Leg("b", None, SHORT)], prompt=wording)
    assert [answer.text for answer in found["b"]] == [answer.text for answer in alone["b"]]
    assert [answer.question for answer in found["b"]] == [answer.question for answer in found["a"]]
    assert {answer.margin for answer in found["b"]} == {None}


def test_a_folder_of_the_users_own_method_is_a_leg(lower, images, questions, tmp_path):  # noqa: F811
    (tmp_path / "mine" / "custom_generate").mkdir(parents=True)
    (tmp_path / "mine" / "custom_generate" / "generate.py").write_text(METHOD)
    legs = [Leg("greedy", None, SHORT), Leg("mine", None, SHORT, custom_generate=str(tmp_path / "mine"))]
    found = ran(lower, images, questions, tmp_path / "out", legs, batch_size=1)
    pipe = Pipeline(*lower)
    from vdd.images import load_image

    for answer in found["mine"]:
        inputs = pipe.inputs([load_image(images / answer.image)], [answer.question])
        with torch.no_grad():
            least = pipe.model(**inputs).logits[0, -1].argmin()
        assert answer.text.split()[0] == pipe.processor.tokenizer.decode(least).strip()
        assert answer.probabilities is None
    assert "custom:mine" in legs[1].signature()


@pytest.mark.parametrize("preset", ["vcd", "m3id", "nolan", "icd"])
def test_post_hoc_stands_on_what_the_methods_processor_says_first(lower, images, questions, tmp_path, forms, preset):  # noqa: F811
    debias = PRESETS[preset]
    legs = [
        Leg("greedy", None, SHORT),
        Leg(preset, debias, SHORT),
        Leg("on", debias, SHORT, post_hoc="none"),
    ]
    found = ran(lower, images, questions, tmp_path / "out", legs, batch_size=1)
    rows = oracle.of_each_question(load_file(tmp_path / "out" / "rows.safetensors"))
    pipe = Pipeline(*lower)
    from vdd.images import load_image

    ordered = sorted(questions, key=lambda question: question.question_id)
    for place, question in enumerate(ordered):
        inputs = pipe.inputs([load_image(images / question.image)], [question.text])
        with torch.no_grad():
            seen = pipe.model(**inputs).logits[:, -1]
            plugin = VDDLogitsProcessor(*lower, inputs=inputs, preset=preset)
            p = plugin(inputs["input_ids"], seen).exp().double().numpy()
        want = oracle.of_labels(p, forms)[0]
        one = {name: own[place : place + 1] for name, own in rows.items()}
        got = found[preset][place]
        if want.sum():
            assert list(got.probabilities.values()) == pytest.approx(want.tolist(), rel=1e-4, abs=1e-9)
            scores = oracle.post_hoc(p, one, "none", forms)[0]
            assert list(found["on"][place].debiased["none"].values()) == pytest.approx(scores.tolist(), rel=1e-3)
            assert found["on"][place].text == ("yes", "no")[int(scores.argmax())]


def test_free_answers_have_a_text_and_nothing_else(lower, images, questions, tmp_path):  # noqa: F811
    legs = [Leg("greedy", None, SHORT), Leg("vdd", DebiasConfig(alpha=2.0), SHORT)]
    free = ran(lower, images, questions, tmp_path / "free", legs, labels=())
    with_labels = ran(lower, images, questions, tmp_path / "labels", legs)
    for leg in legs:
        assert [a.text for a in free[leg.name]] == [a.text for a in with_labels[leg.name]]
        assert {a.margin for a in free[leg.name]} == {None}
    assert not (tmp_path / "free" / "rows.safetensors").exists()


def test_the_share_of_steps_that_did_not_ask_the_image_free_side_is_kept(lower, images, questions, tmp_path):  # noqa: F811
    sure = DebiasConfig(alpha=1.0, beta=1.0)  # one token alone is plausible: nothing is ever asked
    legs = [Leg("greedy", None, SHORT), Leg("sure", sure, SHORT), Leg("open", replace(sure, beta=0.0), SHORT)]
    ran(lower, images, questions, tmp_path / "out", legs)
    extras = leg_extras(tmp_path / "out")
    assert (extras["sure"]["skipped"], extras["open"]["skipped"]) == (1.0, 0.0)
    assert "skipped" not in extras["greedy"]
    assert all(100 < extras[leg.name]["peak_mib"] < 100_000 for leg in legs)


@pytest.mark.parametrize(
    ("leg", "message"),
    [
        (Leg("x", None, SHORT, bias=1.0, prompt="{question}"), "answers with labels, which have no prompt"),
        (Leg("x", None, SHORT, post_hoc="none", custom_generate="here"), "answers with labels, which have no prompt"),
        (Leg("x", None, SHORT, prompt="what?"), r"wanted \{question\} in it"),
    ],
)
def test_legs_that_make_no_sense_are_errors(images, questions, leg, message):  # noqa: F811
    with pytest.raises(UserError, match=message):
        Run("tiny", questions, images, [leg])
    with pytest.raises(UserError, match="answers with labels, and there are none"):
        Run("tiny", questions, images, [Leg("x", None, SHORT, bias=1.0)], labels=())


def test_an_image_folder_that_disappears_stops_the_run_and_loses_nothing(lower, images, questions, tmp_path):  # noqa: F811
    import shutil

    shutil.copytree(images, tmp_path / "images")
    job = Run("tiny", questions, tmp_path / "images", [Leg("greedy", None, SHORT)], batch_size=1)
    run(Pipeline(*lower), job, tmp_path / "whole")

    def vanish(done, total):
        if done == 3:
            (tmp_path / "images").rename(tmp_path / "elsewhere")

    with pytest.raises(UserError, match="the folder of the images is gone; what is answered stays"):
        run(Pipeline(*lower), job, tmp_path / "out", progress=vanish)
    (tmp_path / "elsewhere").rename(tmp_path / "images")
    run(Pipeline(*lower), job, tmp_path / "out")
    one, two = ((tmp_path / name / "answers" / "greedy.jsonl").read_bytes() for name in ("whole", "out"))
    assert one == two
