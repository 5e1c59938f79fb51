"""Searching: every configuration's chances against a token-by-token transcription; choices that never see the test."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from tests.oracles import first_token as oracle
from vdd._check import UserError
from vdd.config import DebiasConfig, Leg, SamplingConfig, to_json
from vdd.records import Answer, Question
from vdd.search import (
    ONE_TOKEN,
    Stored,
    candidates,
    chances,
    choose,
    configurations,
    few,
    load_margins,
    load_stored,
    on_dev,
    rightness,
    said_chances,
)
from vdd.split import split_by_image

FORMS = [[3, 5], [7]]
VOCABULARY = 12


def log_rows(seed: int, count: int, spread: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(count, VOCABULARY, generator=generator, dtype=torch.float64)).log_softmax(-1)


def stored_of(count: int, seed: int = 0) -> Stored:
    owner = torch.full((VOCABULARY,), -1)
    for label, tokens in enumerate(FORMS):
        owner[tokens] = label
    questions = [Question(n, f"{n // 2}.png", "is it ?", ("yes", "no")[n % 2]) for n in range(count)]
    rows = {"image": log_rows(seed, count), "none": log_rows(seed + 1, 2), "unk": log_rows(seed + 2, 3)}
    index = {"none": torch.arange(count) % 2, "unk": torch.arange(count) % 3}
    return Stored(questions, rows, index, owner, ("yes", "no"))


def by_hand(stored: Stored, leg: Leg, place: int) -> list[float]:
    seen = stored.rows["image"][place].tolist()
    debias = leg.debias
    if debias is None:
        scores = dict(enumerate(seen))
    else:
        none, unk = (stored.rows[name][stored.index[name][place]].tolist() for name in ("none", "unk"))
        blind = {"none": none, "unk": unk, "both": [(a + b) / 2 for a, b in zip(none, unk, strict=True)]}
        scores = oracle.moved(seen, blind[debias.reference], debias.alpha, debias.beta)
    sampling = leg.sampling
    return oracle.label_chances(oracle.chances(scores, sampling.temperature, sampling.top_k, sampling.top_p), FORMS)


@settings(max_examples=40)
@given(
    st.sampled_from(["none", "unk", "both", None]),
    st.sampled_from([0.0, 0.5, 1.0, 2.0]),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.sampled_from([0.0, 0.05, 0.5, 1.0]),
    st.sampled_from([0, 1, 2, 5, 500]),
    st.sampled_from([ONE_TOKEN, 0.3, 0.9, 1.0]),
    st.integers(0, 1000),
)
def test_chances_are_those_of_every_token_by_hand(reference, alpha, beta, temperature, top_k, top_p, seed):
    stored = stored_of(5, seed)
    debias = None if reference is None else DebiasConfig(reference=reference, alpha=alpha, beta=beta)
    leg = Leg("x", debias, SamplingConfig(temperature, top_p=top_p, top_k=top_k))
    (found,) = chances(stored, [leg])
    for place, row in enumerate(found):
        assert row.tolist() == pytest.approx(by_hand(stored, leg, place), abs=1e-12)


@pytest.mark.parametrize("sampling", configurations()[1:], ids=str)
def test_a_configuration_is_what_transformers_warpers_make_of_the_row(sampling):
    stored = stored_of(6, 3)
    scores = stored.rows["image"].clone()
    if sampling.temperature != 1:
        scores = TemperatureLogitsWarper(sampling.temperature)(None, scores)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    drawn = scores.softmax(-1)
    want = np.stack([drawn[:, tokens].sum(-1).numpy() for tokens in FORMS], axis=-1)
    np.testing.assert_allclose(chances(stored, [Leg("x", None, sampling)])[0], want, atol=1e-9)


def test_the_papers_fifty_configurations_are_there_once_each_beside_greedy():
    found = configurations()
    assert len(found) == len(set(found)) == 1 + 48 + 1
    assert found[0].temperature == 0
    hot = [one for one in found if one.temperature == 1]
    assert Counter(one.temperature for one in found if one.top_p == 1 and not one.top_k)[0.35] == 1
    assert {one.top_k for one in hot} == {0, 1, 2, 5, 10, 20, 50, 100, 200, 500}
    assert len({one.top_p for one in hot}) == 21


def test_candidates_begin_with_the_simplest_and_have_names_of_their_own():
    legs = candidates(("none", "unk", "both"), (0.5, 1.0), (0.1, 0.0), configurations())
    assert legs[0] == Leg("plain@greedy", None, SamplingConfig(max_new_tokens=1))
    assert len({leg.name for leg in legs}) == len(legs)
    assert not [leg for leg in legs if leg.debias and leg.debias.is_cutoff_only and leg.sampling.temperature == 0]
    generated = few(legs, 16)
    assert {leg.sampling.max_new_tokens for leg in generated} == {16}
    assert len(generated) == len(configurations()) + 3 * 2 * 2


def test_parts_of_the_rows_do_not_matter(monkeypatch):
    stored = stored_of(9, 5)
    legs = candidates(("none", "both"), (1.0,), (0.1,), configurations())
    whole = chances(stored, legs)
    monkeypatch.setattr("vdd.search._BLOCK", 2 * VOCABULARY)
    told = []
    np.testing.assert_allclose(chances(stored, legs, progress=lambda *at: told.append(at)), whole, atol=1e-12)
    assert told[-1] == (len(legs), len(legs))


# ---- choosing


def known_answers(count: int, best: int, legs: int = 4) -> tuple[list[Question], np.ndarray]:
    questions = [Question(n, f"{n // 4}.png", "?", ("yes", "no")[n % 2]) for n in range(count)]
    found = np.full((legs, count, 2), 0.5)
    for place, question in enumerate(questions):
        found[best, place] = (0.9, 0.1) if question.label == "yes" else (0.1, 0.9)
    return questions, found


def test_the_best_on_dev_is_chosen_and_scored_on_the_rest_alone():
    questions, found = known_answers(40, best=2)
    legs = [Leg(str(n)) for n in range(4)]
    mask = on_dev(questions, 0.3, seed=1)
    positive = np.array([q.label == "yes" for q in questions])
    found[3, mask] = np.where(positive[mask, None], (1.0, 0.0), (0.0, 1.0))  # right on dev
    found[3, ~mask] = np.where(positive[~mask, None], (0.0, 1.0), (1.0, 0.0))  # wrong elsewhere
    choice = choose(questions, legs, found, share=0.3, seed=1)
    assert choice.leg.name == "3"
    assert choice.dev == 1
    assert choice.test["accuracy"] == 0
    assert choice.plain["accuracy"] == pytest.approx(0.5)
    assert choice.gain.value == pytest.approx(-0.5)
    assert choice.best_on_test == pytest.approx(0.9)


def test_of_equals_the_first_is_chosen():
    questions, found = known_answers(12, best=1)
    assert choose(questions, [Leg(str(n)) for n in range(4)], found * 0 + 0.5).leg.name == "0"


@given(st.integers(2, 12), st.floats(0.05, 0.95), st.integers(0, 9))
def test_dev_and_test_share_no_image_and_leave_no_question_out(images, share, seed):
    questions = [Question(n, f"{n % images}.png", "?", "yes") for n in range(3 * images)]
    dev, test = split_by_image(questions, share, seed=seed)
    assert not {q.image for q in dev} & {q.image for q in test}
    assert sorted(q.question_id for q in dev + test) == list(range(3 * images))
    assert len({q.image for q in dev}) == min(max(round(share * images), 1), images - 1)
    again = split_by_image(questions[::-1], share, seed=seed)[0]
    assert {q.question_id for q in again} == {q.question_id for q in dev}


def test_one_image_cannot_be_parted():
    with pytest.raises(UserError, match="about 1 image"):
        split_by_image([Question(1, "a.png", "?", "yes")], 0.5)


# ---- what is stored


@pytest.fixture
def folder(tmp_path):
    """A run's folder, written by hand: three questions, the second without an answer."""
    stored = stored_of(2)
    legs = [Leg("greedy", None, SamplingConfig(max_new_tokens=1))]
    (tmp_path / "answers").mkdir()
    questions = [Question(n, f"{n}.png", "is it ?", ("yes", "no")[n % 2]) for n in range(3)]
    answers = [Answer(n, "is it ?", f"{n}.png", "no", margin=float(n)) for n in range(3)]
    answers[1] = Answer(1, "is it ?", "1.png", "", error="unreadable")
    (tmp_path / "answers" / "greedy.jsonl").write_text("".join(a.to_json() + "\n" for a in answers))
    lines = [{"question_id": q.question_id, "image": q.image, "text": q.text, "label": q.label} for q in questions]
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    record = {"labels": {name: [[t] for t in own] for name, own in zip(("yes", "no"), FORMS, strict=True)}}
    (tmp_path / "run.json").write_text(json.dumps({**record, "legs": [to_json(leg) for leg in legs]}))
    (tmp_path / "timings.jsonl").write_text("")
    rows = {name: own.float().contiguous() for name, own in stored.rows.items()}
    save_file(
        {**rows, **{f"{n}_index": own.contiguous() for n, own in stored.index.items()}}, tmp_path / "rows.safetensors"
    )
    return tmp_path


def test_questions_without_an_answer_are_left_out_and_rows_are_found_by_their_index(folder):
    stored = load_stored(folder)
    assert [q.question_id for q in stored.questions] == [0, 2]
    assert stored.references == ["none", "unk", "both"]
    want = stored_of(2)
    for name in ("image", "none", "unk"):
        torch.testing.assert_close(stored.of(name, slice(0, 2)), want.of(name, slice(0, 2)).float())
    mass = want.rows["image"].exp()
    assert stored.label_mass("image")[0].tolist() == pytest.approx(
        [mass[0, FORMS[k]].sum().item() for k in (0, 1)], abs=1e-6
    )
    assert stored.undecided == pytest.approx(1 - mass[:, [3, 5, 7]].sum(-1).mean().item(), abs=1e-6)


def test_margins_and_generated_answers_are_read_from_the_legs_file(folder):
    (leg,) = [Leg("greedy", None, SamplingConfig(max_new_tokens=1))]
    assert load_margins(folder, leg) == {0: 0.0, 2: 2.0}
    said = said_chances(folder, [leg], load_stored(folder).questions)
    assert said.tolist() == [[[0, 1], [0, 1]]]
    assert rightness(load_stored(folder).questions, said).tolist() == [[0, 0]]


def test_labels_of_several_tokens_are_an_error_that_says_so(folder):
    record = json.loads((folder / "run.json").read_text())
    record["labels"]["yes"] = [[3, 4]]
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match="take several tokens"):
        load_stored(folder)


def test_an_unfinished_run_is_an_error(folder):
    (folder / "timings.jsonl").unlink()
    with pytest.raises(UserError, match="is no finished run"):
        load_stored(folder)


def test_a_low_temperature_approaches_greedy():
    stored = stored_of(8, 11)
    cold = chances(stored, [Leg("x", None, SamplingConfig(1e-4)), Leg("y")])
    np.testing.assert_allclose(cold[0], cold[1], atol=1e-9)
    assert replace(stored, labels=("yes",)).labels == ("yes",)
    assert math.isfinite(float(cold.sum()))
