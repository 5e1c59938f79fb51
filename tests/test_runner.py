"""Runs: what is stored is what the pipeline says, whatever was interrupted, broken or shuffled on the way."""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
import struct
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import normalizers

import vdd.run_folder
import vdd.runner
from tests.legs import standard_legs
from tests.oracles import legs as oracle
from tests.oracles.recompute import encode, next_logits, picture, seconds
from tests.tiny import tiny_llava
from vdd._check import UserError
from vdd.calibrate import Labels
from vdd.config import DebiasConfig, Leg, SamplingConfig
from vdd.job import Run
from vdd.pipeline import LlavaPipeline
from vdd.records import Answer, Question
from vdd.run_folder import leg_costs
from vdd.runner import run

TEXTS = ["is there a fox ?", "is there a red car in the image ?", "dog ?"]
LEGS = standard_legs(beta=0.02, max_new_tokens=3)  # so low that the random model's labels stay
SOME = [leg for leg in LEGS if leg.name in ("greedy", "vdd-both", "posthoc-none", "vdd-none@T=1")]


@pytest.fixture(scope="module")
def lower():
    """The tiny LLaVA with a tokenizer that knows "Yes" as "yes"."""
    model, processor = tiny_llava()
    processor.tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    return model, processor


@pytest.fixture
def pipe(lower):
    return LlavaPipeline(*lower)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for number in range(8):
        picture(number).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def questions():
    """Seven: ids out of order, texts of three lengths, some of them asked about several images."""
    ids = [11, 2, 3, 40, 5, 6, 7]
    return [Question(i, f"{n}.png", TEXTS[n % 3], ("yes", "no")[n % 2]) for n, i in enumerate(ids)]


@pytest.fixture
def job(images, questions):
    return Run("tiny", questions, images, SOME, batch_size=3)


@pytest.fixture(scope="module")
def done(lower, images, questions, tmp_path_factory):
    """A finished run of all standard legs: (job, folder)."""
    job = Run("tiny", questions, images, LEGS, batch_size=3, prompt="what ? {question}")
    out = tmp_path_factory.mktemp("done") / "out"
    run(LlavaPipeline(*lower), job, out)
    return job, out


def stored(out: Path) -> dict[str, bytes]:
    """Every file of a run but the one that holds times."""
    files = {str(f.relative_to(out)): f.read_bytes() for f in sorted(out.rglob("*")) if f.is_file()}
    files.pop("timings.jsonl")
    return files


def answers(out: Path, leg: str) -> list[Answer]:
    lines = (out / "answers" / f"{leg}.jsonl").read_text(encoding="utf-8").splitlines()
    return [Answer.from_json(json.loads(line)) for line in lines]


def batches(job):
    """Short questions first, else in the order of their ids; here every question has an image of its own."""
    ordered = sorted(job.questions, key=lambda q: (len(q.text.split()), q.question_id))
    return [ordered[i : i + job.batch_size] for i in range(0, len(ordered), job.batch_size)]


def inputs_of(pipe, job, batch):
    pictures = [picture(int(question.image[0])) for question in batch]
    return pipe.inputs(pictures, [job.prompt.replace("{question}", question.text) for question in batch])


# ---------------------------------------------------------------------------------------------------- what is stored


def test_a_run_leaves_these_files_and_no_others(done):
    job, out = done
    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    assert names == {"run.json", "questions.jsonl", "rows.safetensors", "timings.jsonl"} | {
        f"answers/{leg.name}.jsonl" for leg in job.legs
    }
    assert not (out / "parts").exists()


def test_every_leg_answers_every_question_once_in_the_order_of_their_ids(done):
    job, out = done
    for leg in job.legs:
        found = answers(out, leg.name)
        assert [answer.question_id for answer in found] == [2, 3, 5, 6, 7, 11, 40]
        by_id = {question.question_id: question for question in job.questions}
        for answer in found:
            question = by_id[answer.question_id]
            assert (answer.question, answer.image, answer.error) == (question.text, question.image, None)


@pytest.mark.parametrize("leg", [leg for leg in LEGS if leg.post_hoc is None], ids=lambda leg: leg.name)
def test_a_generating_legs_texts_are_the_pipelines_in_the_same_batches(lower, images, questions, tmp_path, leg):
    job = Run("tiny", questions, images, [leg], batch_size=3)
    pipe = LlavaPipeline(*lower)
    seeds = []

    class Watched(LlavaPipeline):
        def generate(self, inputs, *, seed=0, **settings):
            seeds.append(seed)
            return super().generate(inputs, seed=seed, **settings)

    run(Watched(*lower), job, tmp_path / "out")
    want = {}
    for batch, seed in zip(batches(job), seeds, strict=True):
        texts = pipe.generate(inputs_of(pipe, job, batch), debias=leg.debias, sampling=leg.sampling, seed=seed)
        want |= {question.question_id: text for question, text in zip(batch, texts, strict=True)}
    assert {answer.question_id: answer.text for answer in answers(tmp_path / "out", leg.name)} == want
    assert len(set(seeds)) == len(seeds)


def test_greedy_texts_are_those_of_single_questions(done, pipe):
    job, out = done
    for leg in job.legs:
        if leg.post_hoc is None and leg.sampling.temperature == 0:
            for answer in answers(out, leg.name):
                text = job.prompt.replace("{question}", answer.question)
                inputs = pipe.inputs([picture(int(answer.image[0]))], [text])
                assert [answer.text] == pipe.generate(inputs, debias=leg.debias, sampling=leg.sampling)


def test_the_draws_of_two_legs_and_of_two_seeds_differ(pipe, job, tmp_path):
    hot = SamplingConfig(temperature=1.0, max_new_tokens=8)
    job = replace(job, legs=[Leg("a", None, hot), Leg("b", None, hot)])
    run(pipe, job, tmp_path / "0")
    run(pipe, replace(job, seed=1), tmp_path / "1")
    texts = [[answer.text for answer in answers(tmp_path / seed, leg)] for seed in "01" for leg in "ab"]
    assert len(set(map(tuple, texts))) == 4


@pytest.mark.parametrize("condition", ["image", "none", "unk"])
def test_the_stored_rows_are_the_models_complete_distributions(done, lower, condition):
    job, out = done
    rows = load_file(out / "rows.safetensors")
    got = rows["image"] if condition == "image" else rows[condition][rows[f"{condition}_index"]]
    ordered = sorted(job.questions, key=lambda q: q.question_id)
    fresh = LlavaPipeline(*lower)
    want = fresh.distributions(inputs_of(fresh, job, ordered), (condition,))[condition].float()
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-6)
    model, processor = lower
    for number, question in enumerate(ordered):
        text = [job.prompt.replace("{question}", question.text)]
        inputs = encode(processor, text, first=int(question.image[0]))
        ((second,),) = seconds(processor, text, {"image": "seen"}.get(condition, condition), inputs=inputs)
        by_hand = next_logits(model, second, []).log_softmax(-1)
        np.testing.assert_allclose(got[number], by_hand.numpy(), rtol=1e-5)


def test_image_free_rows_are_stored_once_each(done):
    _, out = done
    rows = load_file(out / "rows.safetensors")
    for name in ("none", "unk"):
        assert len(np.unique(rows[name], axis=0)) == len(rows[name])
        # a text's row may differ in its last bit from batch to batch, no further
        assert len(np.unique(rows[name].round(4), axis=0)) == len(TEXTS)
        assert sorted(set(rows[f"{name}_index"].tolist())) == list(range(len(rows[name])))


def test_post_hoc_answers_follow_from_the_stored_rows_alone(done, lower):
    job, out = done
    rows = oracle.of_each_question(load_file(out / "rows.safetensors"))
    forms = [[lower[1].tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "no")]
    checked = 0
    for leg in job.legs:
        p = np.exp(rows["image"])
        if leg.debias is not None:
            p = oracle.moved(rows, leg.debias.reference, leg.debias.alpha, leg.debias.beta)
        found = answers(out, leg.name)
        stated = np.array([[answer.probabilities["yes"], answer.probabilities["no"]] for answer in found])
        np.testing.assert_allclose(stated, oracle.of_labels(p, forms), rtol=1e-4, atol=1e-7)
        if leg.post_hoc is None:
            assert all(answer.debiased is answer.blind_probabilities is None for answer in found)
            continue
        scores = oracle.post_hoc(p, rows, leg.post_hoc, forms)
        got = np.array([[answer.debiased[leg.post_hoc][name] for name in ("yes", "no")] for answer in found])
        np.testing.assert_allclose(got, scores, rtol=1e-4, atol=1e-7)
        assert [answer.text for answer in found] == [("yes", "no")[best] for best in scores.argmax(-1)]
        checked += 1
    assert checked == 6


def test_margins_are_log_odds_before_any_cut_off(done, lower):
    job, out = done
    rows = oracle.of_each_question(load_file(out / "rows.safetensors"))
    forms = [[lower[1].tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "no")]
    for leg in job.legs:
        p = np.exp(rows["image"])
        if leg.debias is not None:
            p = oracle.moved(rows, leg.debias.reference, leg.debias.alpha, 0.0)
        odds = np.log(oracle.post_hoc(p, rows, leg.post_hoc, forms) if leg.post_hoc else oracle.of_labels(p, forms))
        margins = [answer.margin for answer in answers(out, leg.name)]
        np.testing.assert_allclose(margins, odds[:, 0] - odds[:, 1], rtol=1e-4, atol=1e-5)


def test_the_margin_of_a_generating_leg_does_not_see_the_cut_off_that_takes_a_label_away(
    lower, images, questions, tmp_path
):
    legs = [leg for leg in standard_legs(beta=0.9, max_new_tokens=1) if leg.debias and not leg.post_hoc]
    run(LlavaPipeline(*lower), Run("tiny", questions, images, legs, batch_size=3), tmp_path / "out")
    rows = oracle.of_each_question(load_file(tmp_path / "out" / "rows.safetensors"))
    forms = [[lower[1].tokenizer.convert_tokens_to_ids(word)] for word in ("yes", "no")]
    for leg in legs:
        odds = np.log(oracle.of_labels(oracle.moved(rows, leg.debias.reference, leg.debias.alpha, 0.0), forms))
        found = answers(tmp_path / "out", leg.name)
        np.testing.assert_allclose([a.margin for a in found], odds[:, 0] - odds[:, 1], rtol=1e-4, atol=1e-5)
        cut = oracle.of_labels(oracle.moved(rows, leg.debias.reference, leg.debias.alpha, leg.debias.beta), forms)
        assert (cut == 0).any()


# ------------------------------------------------------------------------------------------------------------- costs


def test_forwards_are_what_arithmetic_predicts(lower, images, tmp_path):
    model, processor = copy.deepcopy(lower[0]), lower[1]
    model.generation_config.eos_token_id = None  # every answer has its full length
    steps, size = 4, 3
    asked = [Question(n, f"{n}.png", TEXTS[n], "yes") for n in range(size)]  # three texts: three image-free rows
    legs = standard_legs(max_new_tokens=steps)
    run(LlavaPipeline(model, processor), Run("tiny", asked, images, legs, batch_size=size), tmp_path / "out")
    plain, twice, thrice = steps, 2 * steps, 3 * steps  # per question: one branch, two, three
    want = {"image": 1, "none": 1, "unk": 1, "greedy": plain, "T=1": plain, "cutoff-only@T=1": plain}
    want |= {"vdd-none": twice, "vdd-unk": twice, "vdd-both": thrice, "vdd-none@T=1": twice}
    want |= {f"{kind}-{name}": 2 for kind in ("posthoc", "vdd+posthoc") for name in ("none", "unk")}
    want |= {f"{kind}-both": 3 for kind in ("posthoc", "vdd+posthoc")}
    costs = leg_costs(tmp_path / "out")
    assert {name: forwards for name, (forwards, _) in costs.items()} == want
    assert all(seconds > 0 for _, seconds in costs.values())


def test_equal_questions_in_a_batch_share_their_image_free_rows(pipe, images, tmp_path):
    asked = [Question(n, f"{n}.png", TEXTS[n % 2], "yes") for n in range(6)]
    legs = [leg for leg in LEGS if leg.name in ("posthoc-none", "posthoc-both")]
    run(pipe, Run("tiny", asked, images, legs, batch_size=6), tmp_path / "out")
    costs = leg_costs(tmp_path / "out")
    assert costs["posthoc-none"][0] == pytest.approx((6 + 2) / 6)
    assert costs["posthoc-both"][0] == pytest.approx((6 + 2 + 2) / 6)


def test_the_image_is_encoded_once_a_batch_also_where_a_label_has_forms_of_several_tokens(lower, images, tmp_path):
    """As with LLaVA-1.5's tokenizer, which spells " yes" in two tokens and "yes" in one."""
    model, processor = lower
    it, yes, no = processor.tokenizer.convert_tokens_to_ids(["it", "yes", "no"])

    class Spelled(LlavaPipeline):
        def labels(self, words):
            return Labels(("yes", "no"), (((yes,), (it, yes)), ((no,), (it, no))))

    encoded = []
    hook = model.model.vision_tower.register_forward_hook(lambda *args: encoded.append(1))
    try:
        asked = [Question(n, f"{n}.png", TEXTS[n], "yes") for n in range(2)]
        run(Spelled(model, processor), Run("tiny", asked, images, SOME, batch_size=2), tmp_path / "out")
    finally:
        hook.remove()
    assert len(encoded) == 1


# ------------------------------------------------------------------------------------------------- again and resumed


class Killed(Exception):
    """What stands for a kill in these tests."""


@pytest.fixture(scope="module")
def unbroken(lower, images, questions, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "out"
    run(LlavaPipeline(*lower), Run("tiny", questions, images, SOME, batch_size=3), out)
    return out


def test_equal_runs_give_equal_bytes_but_for_the_times(pipe, job, unbroken, tmp_path):
    run(pipe, job, tmp_path / "out")
    assert stored(tmp_path / "out") == stored(unbroken)


def test_the_order_of_the_question_file_does_not_matter(pipe, job, unbroken, tmp_path):
    shuffled = random.Random(0).sample(list(job.questions), len(job.questions))
    run(pipe, replace(job, questions=shuffled), tmp_path / "out")
    assert stored(tmp_path / "out") == stored(unbroken)


def die_after(questions):
    """A progress callback that raises once so many questions are done."""

    def progress(done, total):
        if done == questions:
            raise Killed

    return progress


def die_on(monkeypatch, name, wanted):
    """Let `vdd.run_folder.NAME` raise where `wanted(its first arguments)`, once."""
    real = getattr(vdd.run_folder, name)

    def deadly(*args, **kwargs):
        if wanted(*args):
            raise Killed
        return real(*args, **kwargs)

    monkeypatch.setattr(vdd.run_folder, name, deadly)


MOMENTS = {
    "before the list of questions": ("write_atomic", lambda path, text: Path(path).name == "questions.jsonl"),
    "before the settings": ("write_atomic", lambda path, text: Path(path).name == "run.json"),
    "between the tensors and the answers of a part": (
        "write_atomic",
        lambda path, text: Path(path).name == "000001.json",
    ),
    "before the tensors of a part": ("save_file", lambda tensors, path: Path(path).stem == "000001"),
    "after the first leg's answers": ("write_atomic", lambda path, text: Path(path).name == "vdd-both.jsonl"),
    "before the rows": ("save_file", lambda tensors, path: Path(path).name == "rows.safetensors"),
    "before the times": ("write_atomic", lambda path, text: Path(path).name == "timings.jsonl"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_any_moment_resumes_to_the_same_bytes(lower, job, unbroken, tmp_path, moment, monkeypatch):
    with monkeypatch.context() as patch:
        die_on(patch, *MOMENTS[moment])
        with pytest.raises(Killed):
            run(LlavaPipeline(*lower), job, tmp_path / "out")
    run(LlavaPipeline(*lower), job, tmp_path / "out")
    assert stored(tmp_path / "out") == stored(unbroken)


def test_a_run_killed_while_it_tidies_up_is_whole(pipe, job, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(vdd.runner.shutil, "rmtree", lambda *args, **kwargs: (_ for _ in ()).throw(Killed()))
        with pytest.raises(Killed):
            run(pipe, job, out)
    assert (out / "parts").is_dir()
    run(pipe, job, out)
    assert stored(out) == stored(unbroken)


def test_a_run_killed_in_the_middle_of_a_batch_resumes_without_asking_again(lower, job, unbroken, tmp_path):
    calls = []

    class Dying(LlavaPipeline):
        def generate(self, *args, **kwargs):
            calls.append(1)
            if len(calls) == 5:  # three generating legs a batch: in the second batch
                raise Killed
            return super().generate(*args, **kwargs)

    with pytest.raises(Killed):
        run(Dying(*lower), job, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out" / "parts").glob("*.json")] == ["000000.json"]
    run(Dying(*lower), job, tmp_path / "out")
    assert len(calls) == 5 + 3 + 3
    assert stored(tmp_path / "out") == stored(unbroken)


def test_a_run_killed_after_every_batch_resumes_to_the_same_bytes_and_counts(lower, job, unbroken, tmp_path):
    for after in (3, 6, 7):
        with pytest.raises(Killed):
            run(LlavaPipeline(*lower), job, tmp_path / "out", progress=die_after(after))
    run(LlavaPipeline(*lower), job, tmp_path / "out")
    assert stored(tmp_path / "out") == stored(unbroken)


def test_a_batch_costs_the_same_whatever_was_run_before_but_for_the_references_that_are_remembered(
    lower, images, tmp_path
):
    """Else a resumed run answers from other forwards than an unbroken one, and its last bits differ."""
    asked = [Question(n, f"{n % 8}.png", TEXTS[0], "yes") for n in range(4)]
    job = Run("tiny", asked, images, SOME, batch_size=2)

    run(LlavaPipeline(*lower), job, tmp_path / "whole")
    with pytest.raises(Killed):
        run(LlavaPipeline(*lower), job, tmp_path / "resumed", progress=die_after(2))
    run(LlavaPipeline(*lower), job, tmp_path / "resumed")

    def forwards(out):
        records = map(json.loads, (out / "timings.jsonl").read_text().splitlines())
        return {(record["batch"], record["part"]): record["forwards"] for record in records}

    whole, resumed = forwards(tmp_path / "whole"), forwards(tmp_path / "resumed")
    assert {key for key in whole if whole[key] != resumed[key]} == {
        (1, part) for part in ("none", "unk", "vdd-both", "posthoc-none", "vdd-none@T=1")
    }
    assert whole[1, "none"] == whole[1, "unk"] == 0
    assert resumed[1, "none"] == resumed[1, "unk"] == 1
    assert stored(tmp_path / "resumed") == stored(tmp_path / "whole")


def test_a_resumed_run_of_the_embedded_model_in_float32_repeats_its_bytes(toy, images, tmp_path):
    """Batches of unequal numbers of different texts: float32 kernels round differently by the number of rows."""
    objects = ["apple", "banana", "car", "carrot", "dog", "fox", "frog", "lemon", "leaf", "cat", "bird", "boat"]
    texts = [f"Is there a {name} in the image?" for name in [*objects, *objects[:1] * 12, *objects[:3] * 4]]
    asked = [Question(n, f"{n % 8}.png", text, "yes") for n, text in enumerate(texts)]
    legs = [leg for leg in standard_legs() if leg.name in ("posthoc-none", "posthoc-unk")]
    job = Run("toy", asked, images, legs, batch_size=12)

    ends = []
    run(LlavaPipeline(*toy), job, tmp_path / "whole", progress=lambda done, total: ends.append(done))
    for after in ends[:2]:
        with pytest.raises(Killed):
            run(LlavaPipeline(*toy), job, tmp_path / "resumed", progress=die_after(after))
    run(LlavaPipeline(*toy), job, tmp_path / "resumed")
    assert stored(tmp_path / "resumed") == stored(tmp_path / "whole")


def test_a_finished_run_is_not_run_again(pipe, job, unbroken, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(unbroken, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    seen = []

    class Asleep(LlavaPipeline):
        def prefill(self, inputs):
            raise Killed

    run(Asleep(pipe.model, pipe.processor), job, out, progress=lambda *args: seen.append(args))
    assert seen == [(7, 7)]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == before


def test_progress_is_told_after_every_batch(pipe, job, tmp_path):
    seen = []
    run(pipe, job, tmp_path / "out", progress=lambda *args: seen.append(args))
    assert seen == [(3, 7), (6, 7), (7, 7)]


# ------------------------------------------------------------------------------------------------------------ claims

OTHERS = {
    "model": {"model": "another"},
    "seed": {"seed": 1},
    "prompt": {"prompt": "no {question}"},
    "batch_size": {"batch_size": 2},
    "labels": {"labels": ("yes", "no", "car")},
    "legs": {"legs": SOME[:2]},
}


@pytest.mark.parametrize("setting", OTHERS)
def test_another_runs_folder_is_refused_and_the_setting_named(pipe, job, unbroken, tmp_path, setting):
    out = tmp_path / "out"
    shutil.copytree(unbroken, out)
    with pytest.raises(UserError, match=rf"results of another run \(other {setting}\); wanted a new folder"):
        run(pipe, replace(job, **OTHERS[setting]), out)
    assert stored(out) == stored(unbroken)


def test_all_differing_settings_are_named(pipe, job, unbroken, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(unbroken, out)
    with pytest.raises(UserError, match=r"other batch_size, prompt, seed"):
        run(pipe, replace(job, seed=9, prompt="{question} !", batch_size=4), out)


@pytest.mark.parametrize("change", [{"text": "cat ?"}, {"image": "7.png"}, {"label": "no"}])
def test_other_questions_under_the_same_ids_are_another_run(pipe, job, unbroken, tmp_path, change):
    out = tmp_path / "out"
    shutil.copytree(unbroken, out)
    asked = [replace(job.questions[0], **change), *job.questions[1:]]
    with pytest.raises(UserError, match=r"another run \(other questions\)"):
        run(pipe, replace(job, questions=asked), out)
    with pytest.raises(UserError, match=r"another run \(other questions\)"):
        run(pipe, replace(job, questions=job.questions[1:]), out)


def test_a_run_on_other_images_is_another_run(pipe, job, unbroken, tmp_path):
    """Who gave the wrong image folder and mends it must not be shown the old answers."""
    out, other = tmp_path / "out", tmp_path / "other"
    shutil.copytree(unbroken, out)
    other.mkdir()
    for number in range(8):
        picture(number + 100).save(other / f"{number}.png")
    with pytest.raises(UserError, match="images"):
        run(pipe, replace(job, images=other), out)


@pytest.mark.parametrize("there", ["notes.txt", "answers/greedy.jsonl", ".hidden"])
def test_a_folder_that_holds_something_else_is_refused_and_left_alone(pipe, job, tmp_path, there):
    path = tmp_path / "out" / there
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UserError, match="holds files that are no run of vdd; wanted a new or empty folder"):
        run(pipe, job, tmp_path / "out")
    assert [p for p in (tmp_path / "out").rglob("*") if p.is_file()] == [path]


@pytest.mark.parametrize("text", ["", "not JSON", "[1, 2]", "null", '{"steps": 100}'])
def test_another_programs_run_json_is_refused_as_a_users_error(pipe, job, tmp_path, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(UserError, match="run"):
        run(pipe, job, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_a_file_in_the_folders_place_is_a_users_error(pipe, job, tmp_path):
    (tmp_path / "out").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        with pytest.raises(UserError, match="out"):
            run(pipe, job, out)
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"prompt": "question"}, r"prompt is 'question'; wanted \{question\} in it"),
        ({"questions": []}, "no questions"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"legs": []}, "leg"),
        ({"legs": [LEGS[0], LEGS[0]]}, "greedy"),
        ({"legs": [Leg("../above")]}, "above"),
        ({"questions": [Question(1, "1.png", "a", "yes"), Question(1, "2.png", "b", "no")]}, "1"),
    ],
    ids=[
        "prompt without a place for the question",
        "no questions",
        "no batch size",
        "negative seed",
        "no legs",
        "two legs of one name",
        "a leg whose name is a path",
        "two questions of one id",
    ],
)
def test_a_run_that_cannot_be_right_is_refused_before_anything_is_written(pipe, job, tmp_path, change, complaint):
    with pytest.raises(UserError, match=complaint):
        run(pipe, replace(job, **change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------- unreadable images


def _bomb() -> bytes:
    """A few bytes that claim to be 30,000 × 30,000 pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


BROKEN = {
    "missing.png": "no such file",
    "text.png": "not an image",
    "cut.png": "is the file whole",
    "bomb.png": "pixels",
    "empty.png": "not an image",
    "folder.png": "is a folder",
    "../0.png": r"\.\.",
    "/etc/hostname": "absolute",
    "x" * 300 + ".png": "no such file",
}


@pytest.fixture(scope="module")
def shabby(images):
    """The folder of images with broken ones beside the good."""
    picture(0, 64).save(images / "cut.png")
    (images / "cut.png").write_bytes((images / "cut.png").read_bytes()[:3000])
    (images / "text.png").write_text("this is no image")
    (images / "bomb.png").write_bytes(_bomb())
    (images / "empty.png").write_bytes(b"")
    (images / "folder.png").mkdir()
    return images


@pytest.fixture(scope="module")
def mixed():
    """Batches of three: one good and two bad, one without a readable image, two good and one bad, two bad and one."""
    names = ["0.png", "missing.png", "text.png", *list(BROKEN)[2:5], "1.png", "folder.png", "2.png"]
    names += ["../0.png", "/etc/hostname", "x" * 300 + ".png", "3.png"]
    return [Question(n, name, TEXTS[n % 3], ("yes", "no")[n % 2]) for n, name in enumerate(names)]


def test_unreadable_images_are_recorded_and_the_run_goes_on(lower, shabby, mixed, tmp_path):
    job = Run("tiny", mixed, shabby, SOME, batch_size=3)
    run(LlavaPipeline(*lower), job, tmp_path / "out")
    good = [question for question in mixed if question.image not in BROKEN]
    for leg in job.legs:
        found = answers(tmp_path / "out", leg.name)
        assert [answer.question_id for answer in found] == [question.question_id for question in mixed]
        for answer, question in zip(found, mixed, strict=True):
            assert (answer.question, answer.image) == (question.text, question.image)
            if question in good:
                assert answer.error is None
                assert answer.probabilities
            else:
                assert answer.text == ""
                assert answer.probabilities is answer.margin is None
                assert re.search(BROKEN[question.image], answer.error)
    rows = load_file(tmp_path / "out" / "rows.safetensors")
    assert len(rows["image"]) == len(rows["none_index"]) == len(rows["unk_index"]) == len(good)
    model, processor = lower
    for number, question in enumerate(good):
        inputs = encode(processor, [question.text], first=int(question.image[0]))
        ((seen,),) = seconds(processor, [question.text], "seen", inputs=inputs)
        want = next_logits(model, seen, []).log_softmax(-1)
        np.testing.assert_allclose(rows["image"][number], want.numpy(), rtol=1e-5)


def test_a_run_with_unreadable_images_resumes_to_the_same_bytes(lower, shabby, mixed, tmp_path):
    job = Run("tiny", mixed, shabby, SOME, batch_size=3)
    run(LlavaPipeline(*lower), job, tmp_path / "whole")
    for after in (6, 9):
        with pytest.raises(Killed):
            run(LlavaPipeline(*lower), job, tmp_path / "resumed", progress=die_after(after))
    run(LlavaPipeline(*lower), job, tmp_path / "resumed")
    assert stored(tmp_path / "resumed") == stored(tmp_path / "whole")


def test_a_run_without_a_single_readable_image_says_so_in_every_answer(pipe, tmp_path):
    asked = [Question(n, f"{n}.png", TEXTS[0], "yes") for n in range(4)]
    job = Run("tiny", asked, tmp_path, SOME, batch_size=3)
    run(pipe, job, tmp_path / "out")
    for leg in job.legs:
        assert [bool(answer.error) for answer in answers(tmp_path / "out", leg.name)] == [True] * 4
    assert not (tmp_path / "out" / "rows.safetensors").exists()
    assert set(leg_costs(tmp_path / "out")) <= {leg.name for leg in job.legs}


# ------------------------------------------------------------------------------------------------- strange questions


def test_ids_may_be_strings_and_numbers_side_by_side(pipe, images, tmp_path):
    ids = ["b", 10, "a", 9, "ünï/..", "10x"]
    asked = [Question(i, f"{n}.png", TEXTS[0], "yes") for n, i in enumerate(ids)]
    run(pipe, Run("tiny", asked, images, SOME[:1], batch_size=4), tmp_path / "out")
    assert [answer.question_id for answer in answers(tmp_path / "out", "greedy")] == [9, 10, "10x", "a", "b", "ünï/.."]


def test_braces_and_special_tokens_in_a_question_are_only_text(pipe, images, tmp_path):
    texts = ["{question} {0} {", "</s> <s> <pad> no ?", "<unk> fox ?", "%s \\n \n ASSISTANT: no USER: fox ?"]
    asked = [Question(n, f"{n}.png", text, "yes") for n, text in enumerate(texts)]
    run(pipe, Run("tiny", asked, images, SOME, batch_size=4), tmp_path / "out")
    assert [answer.question for answer in answers(tmp_path / "out", "greedy")] == texts


@pytest.mark.parametrize("text", ["is there <image> a fox ?", "<image>"])
def test_a_question_that_holds_the_images_placeholder_does_not_cost_the_run(pipe, images, tmp_path, text):
    asked = [Question(n, f"{n}.png", TEXTS[0], "yes") for n in range(3)]
    asked[1] = replace(asked[1], text=text)
    try:
        run(pipe, Run("tiny", asked, images, SOME[:1], batch_size=2), tmp_path / "out")
    except UserError as error:  # refused by name before anything is asked …
        assert "<image>" in str(error)  # noqa: PT017
        return
    found = answers(tmp_path / "out", "greedy")  # … or recorded
    assert [answer.error is None for answer in found][::2] == [True, True]


def test_a_question_whose_labels_are_all_cut_off_does_not_cost_the_run(pipe, images, tmp_path):
    """At β = 1 only the top token stays, and nothing makes it one of the labels."""
    asked = [Question(n, f"{n}.png", TEXTS[n % 3], "yes") for n in range(4)]
    legs = standard_legs(beta=1.0, max_new_tokens=2)
    run(pipe, Run("tiny", asked, images, legs, batch_size=2), tmp_path / "out")
    for leg in legs:
        for answer in answers(tmp_path / "out", leg.name):
            assert answer.text or answer.error is None
            assert answer.margin is None or np.isfinite(answer.margin)


def test_labels_of_several_tokens_are_counted_in_whole_and_leave_no_trace_in_the_next_batch(lower, images, tmp_path):
    asked = [Question(n, f"{n}.png", TEXTS[n % 3], "yes") for n in range(4)]
    job = Run("tiny", asked, images, SOME, labels=("red fox", "blue car"), batch_size=2)
    run(LlavaPipeline(*lower), job, tmp_path / "out")
    pipe = LlavaPipeline(*lower)
    labels = pipe.labels(job.labels)
    want = pipe.label_probabilities(inputs_of(pipe, job, asked), labels)["image"]
    found = answers(tmp_path / "out", "greedy")
    got = [[answer.probabilities[name] for name in job.labels] for answer in found]
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-6)


def test_the_standard_legs_are_the_ones_that_are_always_shown_together():
    legs = standard_legs(alpha=0.5, beta=0.2, max_new_tokens=9)
    kinds = Counter((leg.post_hoc is not None, leg.debias is not None, leg.sampling.temperature) for leg in legs)
    assert kinds == {
        (False, False, 0.0): 1,
        (False, True, 0.0): 3,
        (True, False, 0.0): 3,
        (True, True, 0.0): 3,
        (False, False, 1.0): 1,
        (False, True, 1.0): 2,
    }
    assert legs[0].name == "greedy"
    assert len({leg.name for leg in legs}) == len(legs)
    for leg in legs:
        assert leg.sampling.max_new_tokens == 9
        assert (leg.sampling.top_p, leg.sampling.top_k, leg.sampling.repetition_penalty) == (1.0, 0, 1.0)
        if leg.debias and not leg.debias.is_cutoff_only:
            assert (leg.debias.alpha, leg.debias.beta) == (0.5, 0.2)
    (control,) = [leg for leg in legs if leg.debias and leg.debias.is_cutoff_only]
    assert control.debias == DebiasConfig(alpha=0.0, beta=0.2)
    assert control.sampling.temperature == 1.0
