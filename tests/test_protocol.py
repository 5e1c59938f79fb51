"""The protocol: which legs there are, and settings chosen on images that the test never shows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracles import first_token as oracle
from tests.test_search import FORMS, stored_of
from vdd._check import UserError
from vdd.config import DebiasConfig, SamplingConfig
from vdd.data import load_questions
from vdd.job import Run
from vdd.pipeline import Pipeline
from vdd.processor import PRESETS
from vdd.protocol import (
    ALPHAS,
    BETAS,
    Settings,
    choose_settings,
    chosen_on_dev,
    fitted_bias,
    protocol_legs,
    split_dev,
    write_settings,
)
from vdd.runner import run
from vdd.split import split_by_image
from vdd.toy.questions import write_split

GIVEN = Settings.given(("none", "unk", "both"), alpha=1.0, beta=0.1)


def test_every_leg_of_the_protocol_is_there():
    names = [leg.name for leg in protocol_legs(replace(GIVEN, bias=0.3), repeats=1)]
    assert names[0] == "greedy"
    assert set(names) == {
        "greedy",
        *(f"vdd-{name}" for name in GIVEN.debias),
        *(f"posthoc-{name}" for name in GIVEN.debias),
        *(f"vdd-{name}+posthoc-{name}" for name in GIVEN.debias),
        "bias",
        "prompt-alone",
        "T=1",
        "cutoff-only@T=1",
        "vdd-none@T=1",
        "vdd-none+posthoc-none@T=1",
    }


def test_methods_of_the_users_get_every_leg_too(tmp_path):
    (tmp_path / "mine").mkdir()
    legs = {
        leg.name: leg
        for leg in protocol_legs(GIVEN, presets={"vcd": PRESETS["vcd"]}, custom_generate=[str(tmp_path / "mine")])
    }
    assert {"vcd", "vcd@T=1", "vcd+posthoc-none", "vcd+posthoc-none@T=1", "mine"} <= set(legs)
    assert legs["mine"].custom_generate == str(tmp_path / "mine")
    assert "bias" not in legs


def test_sampling_legs_are_drawn_several_times_and_say_which_draw_they_are():
    legs = protocol_legs(GIVEN, repeats=5)
    hot = [leg for leg in legs if leg.name.startswith("T=1")]
    assert [(leg.name, leg.repeat) for leg in hot] == [("T=1", 0), *((f"T=1.{n + 1}", n) for n in range(1, 5))]
    assert len({leg.name for leg in legs}) == len(legs)
    assert all(leg.sampling.temperature or not leg.repeat for leg in legs)


def test_the_prompts_control_keeps_the_runs_wording():
    leg = next(leg for leg in protocol_legs(GIVEN, prompt="Look. {question} Be brief.") if leg.name == "prompt-alone")
    assert leg.prompt.startswith("Look. {question} Be brief. ")


def test_a_folder_called_as_a_method_is_an_error(tmp_path):
    with pytest.raises(UserError, match="called 'vdd-none', as another"):
        protocol_legs(GIVEN, custom_generate=[str(tmp_path / "vdd-none")])


# ---- the scalar bias


@given(st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=1, max_size=12))
def test_no_other_bias_is_right_more_often_and_none_as_good_is_nearer_to_zero(drawn):
    margins = np.array([value / 2 for value, _ in drawn])
    positive = np.array([label for _, label in drawn])

    def right(bias: float) -> int:
        return sum((margin + bias > 0) == label for margin, label in zip(margins, positive, strict=True))

    bias = fitted_bias(margins, positive)
    tried = [0.0, *(value / 4 + 1e-9 for value in range(-16, 17)), *(value / 4 - 1e-9 for value in range(-16, 17))]
    assert right(bias) == max(map(right, tried))
    if right(0.0) == right(bias):
        assert bias == 0


def test_the_bias_lies_between_the_answers_that_it_parts():
    assert fitted_bias(np.array([-3.0, -1.0, 2.0]), np.array([False, True, True])) == pytest.approx(2.0)


# ---- settings


def test_the_settings_are_the_best_of_the_grid_by_hand():
    stored = stored_of(10, seed=4)
    margins = {q.question_id: float(n) for n, q in enumerate(stored.questions)}
    found = choose_settings(stored, margins)
    assert found.dev == 10
    for reference, chosen in found.debias.items():

        def right(alpha, beta, reference=reference):
            total = 0.0
            for place, question in enumerate(stored.questions):
                none, unk = (stored.rows[name][stored.index[name][place]].tolist() for name in ("none", "unk"))
                both = [(a + b) / 2 for a, b in zip(none, unk, strict=True)]
                blind = {"none": none, "unk": unk, "both": both}[reference]
                scores = oracle.moved(stored.rows["image"][place].tolist(), blind, alpha, beta)
                label = ("yes", "no").index(question.label)
                total += oracle.label_chances(oracle.chances(scores, 0, 0, 1.0), FORMS)[label]
            return total

        grid = [(alpha, beta) for alpha in ALPHAS for beta in BETAS]
        best = max(right(*pair) for pair in grid)
        assert (chosen.alpha, chosen.beta) == next(pair for pair in grid if right(*pair) == best)


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    folder = tmp_path_factory.mktemp("toy")
    write_split(folder, "dev")
    asked = load_questions(folder / "pope_adversarial.json", labels=("yes", "no"))
    return folder / "images", asked[:24]


def test_settings_come_from_a_run_on_the_dev_questions_alone(toy, questions, tmp_path):
    images, asked = questions
    dev, test = split_by_image(asked, 0.5)
    job = Run("toy", test, images, [protocol_legs(GIVEN)[0]], batch_size=8)
    pipe = Pipeline(*toy)
    found = chosen_on_dev(pipe, job, dev, tmp_path / "out", otherwise=GIVEN)
    assert not (tmp_path / "out" / "chosen.json").exists()
    write_settings(tmp_path / "out", found)
    assert json.loads((tmp_path / "out" / "chosen.json").read_text()) == found.to_json()
    stored = load_questions(tmp_path / "out" / "dev" / "questions.jsonl", labels=("yes", "no"))
    assert {q.question_id for q in stored} == {q.question_id for q in dev}
    run(pipe, replace(job, legs=protocol_legs(found, max_new_tokens=2, repeats=1)), tmp_path / "out")
    assert (tmp_path / "out" / "answers" / "prompt-alone.jsonl").is_file()
    assert chosen_on_dev(pipe, job, dev, tmp_path / "out", otherwise=GIVEN) == found


def test_dev_questions_about_the_tests_images_are_an_error(toy, questions, tmp_path):
    images, asked = questions
    job = Run("toy", asked, images, [protocol_legs(GIVEN)[0]])
    with pytest.raises(UserError, match="in the dev questions and in the test questions"):
        chosen_on_dev(Pipeline(*toy), job, asked[:4], tmp_path / "out", otherwise=GIVEN)


def test_dev_questions_without_a_readable_image_are_an_error(toy, questions, tmp_path):
    images, asked = questions
    dev, test = split_by_image(asked, 0.5)
    job = Run("toy", test, images, [protocol_legs(GIVEN)[0]])
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match=r"none of the \d+ dev questions has a readable image"):
        chosen_on_dev(Pipeline(*toy), job, dev, tmp_path / "out", otherwise=GIVEN, dev_images=tmp_path / "none")


def test_the_same_picture_under_another_name_is_found_on_both_sides(toy, questions, tmp_path):
    images, asked = questions
    (tmp_path / "copies").mkdir()
    other = [replace(question, image=f"other-{question.image}") for question in asked[:4]]
    for question, copy in zip(asked, other, strict=False):
        (tmp_path / "copies" / copy.image).write_bytes((images / question.image).read_bytes())
    job = Run("toy", asked, images, [protocol_legs(GIVEN)[0]])
    with pytest.raises(UserError, match="in the dev questions and in the test questions"):
        chosen_on_dev(Pipeline(*toy), job, other, tmp_path / "o", otherwise=GIVEN, dev_images=tmp_path / "copies")


def test_a_picture_with_two_names_is_on_one_side(questions, tmp_path):
    images, asked = questions
    both = [*asked, *(replace(q, question_id=f"copy-{q.question_id}", image=f"copy-{q.image}") for q in asked)]
    for question in both:
        name = question.image.removeprefix("copy-")
        (tmp_path / question.image).write_bytes((images / name).read_bytes())
    dev, test = split_dev(both, tmp_path, 0.4)
    sides = [{q.image.removeprefix("copy-") for q in side} for side in (dev, test)]
    assert not sides[0] & sides[1]
    assert len(dev) + len(test) == len(both)


def test_presets_keep_their_own_settings_whatever_dev_says():
    legs = {leg.name: leg for leg in protocol_legs(GIVEN, presets={"m3id": PRESETS["m3id"]})}
    assert legs["m3id"].debias == PRESETS["m3id"]
    assert legs["m3id"].sampling == SamplingConfig(max_new_tokens=16)
    assert isinstance(legs["vdd-none"].debias, DebiasConfig)
