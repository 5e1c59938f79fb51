"""The folder for the Hub under transformers' own loader; the model for lmms-eval under its own command line."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import ModelCard
from packaging.version import Version
from PIL import Image
from transformers import GenerationConfig, LlavaForConditionalGeneration

import vdd
from tests.oracles.contrast import log_debias_row, log_softmax
from tests.tiny import tiny_llava
from vdd.config import IMAGE, SamplingConfig
from vdd.integrations import custom_generate_folder
from vdd.toy.questions import pope_questions
from vdd.toy.scenes import Item, Scene, render, scene_at

FOLDER = str(custom_generate_folder())
QUESTION = "USER: <image>\nWhat color is the fox? ASSISTANT:"

# The folder for the Hub


@pytest.fixture(autouse=True)
def own_modules(tmp_path, monkeypatch):
    """transformers copies loaded code into a folder of the user's; here into the test's."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.fixture(scope="module")
def fox(toy):
    """(model, processor, inputs): the plain answer is brown, the debiased one yellow."""
    model, processor = toy
    image = render(Scene((Item("fox", "yellow", 4),), "forest"))
    return model, processor, processor(images=image, text=QUESTION, return_tensors="pt")


def first_of(inputs) -> dict:
    """The first prompt of a batch, without a least length: assisted decoding refuses one."""
    return {"max_new_tokens": 8, **{name: inputs[name][:1] for name in ("input_ids", "attention_mask", "pixel_values")}}


@pytest.fixture(scope="module")
def batch(llava):
    """(model, processor, inputs): two left-padded prompts, float64; no answer ends before its limit."""
    model, processor = llava
    noise = torch.randint(0, 256, (2, 16, 16, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    texts = ["USER: <image>\nis there a dog in the image? ASSISTANT:", "USER: <image>\nwhat color is it? ASSISTANT:"]
    images = [Image.fromarray(pixels.numpy()) for pixels in noise]
    inputs = processor(images=images, text=texts, padding=True, return_tensors="pt")
    inputs["pixel_values"] = inputs["pixel_values"].to(model.dtype)
    return model, processor, {**inputs, "min_new_tokens": 8, "max_new_tokens": 8}


def custom(model, *args, **kwargs):
    return model.generate(*args, custom_generate=FOLDER, trust_remote_code=True, **kwargs)


def answer(processor, inputs, ids) -> str:
    return processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_the_folder_has_what_the_hub_and_transformers_look_for():
    assert {str(path.relative_to(FOLDER)) for path in Path(FOLDER).rglob("*") if path.is_file()} == {
        "README.md",
        os.path.join("custom_generate", "generate.py"),
        os.path.join("custom_generate", "requirements.txt"),
    }
    card = ModelCard.load(custom_generate_folder() / "README.md").data
    assert card.library_name == "transformers"
    assert "custom_generate" in card.tags
    needed = (custom_generate_folder() / "custom_generate" / "requirements.txt").read_text()
    name, _, least = needed.strip().partition(">=")
    assert Version(least) <= Version(version(name))
    assert name == "visual-debias-decoding"


def test_one_argument_to_generate_debiases(fox):
    model, processor, inputs = fox
    assert answer(processor, inputs, model.generate(**inputs)) == "brown"
    ids = custom(model, **inputs, alpha=1.0, beta=0.1, reference="none", processor=processor)
    assert answer(processor, inputs, ids) == "yellow"


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ({}, {}),
        ({"reference": "unk", "alpha": 2.0, "beta": 0.2}, {}),
        ({"reference": "both", "derive": "ids"}, {}),
        ({"reference": "noise", "noise_step": 700}, {}),
        ({"preset": "m3id"}, {}),
        ({}, {"num_beams": 3, "num_return_sequences": 2}),
        ({}, {"do_sample": True, "temperature": 1.5, "top_k": 0}),
        ({"alpha": 0.0}, {"repetition_penalty": 1.3}),
    ],
)
def test_answers_are_those_of_the_plug_in(batch, options, settings):
    model, processor, inputs = batch
    plugin = vdd.VDDLogitsProcessor(model, processor, inputs=inputs, **options)
    torch.manual_seed(3)
    want = model.generate(**inputs, **settings, logits_processor=[plugin])
    torch.manual_seed(3)
    got = custom(model, **inputs, **settings, **options, processor=processor)
    assert torch.equal(got, want)


def test_without_strength_and_cut_off_answers_are_plain(batch):
    model, _, inputs = batch
    assert torch.equal(custom(model, **inputs, alpha=0.0, beta=0.0), model.generate(**inputs))


def test_ids_may_come_first_and_the_processor_may_be_missing(fox):
    model, processor, inputs = fox
    rest = {name: value for name, value in inputs.items() if name != "input_ids"}
    assert answer(processor, inputs, custom(model, inputs["input_ids"], **rest)) == "yellow"


def test_a_streamer_gets_the_debiased_tokens(fox):
    model, processor, inputs = fox
    got: list[int] = []
    streamer = SimpleNamespace(put=lambda ids: got.extend(ids.flatten().tolist()), end=lambda: got.append(-1))
    ids = custom(model, **inputs, processor=processor, streamer=streamer)
    assert got == [*ids[0].tolist(), -1]


def test_stop_strings_reach_generate_with_their_tokenizer(batch, llava):
    model, processor, inputs = batch
    tokenizer = tiny_llava()[1].tokenizer
    tokenizer.add_tokens(["abcdef"])  # transformers measures every token behind this word
    one = first_of(inputs)
    full = custom(model, **one, processor=processor)
    third = tokenizer.decode(full[0, -6])
    ids = custom(model, **one, processor=processor, stop_strings=[third], tokenizer=tokenizer)
    assert ids.shape[1] < full.shape[1]
    assert torch.equal(ids, full[:, : ids.shape[1]])
    with pytest.raises(ValueError, match="could not locate a tokenizer"):
        custom(model, **one, processor=processor, stop_strings=[third])


@pytest.mark.parametrize("seed", [7, 8], ids=["the model itself", "another model"])
@pytest.mark.filterwarnings("ignore")
def test_an_assistant_model_changes_nothing_but_speed(batch, seed):
    model, processor, inputs = batch
    one = first_of(inputs)
    want = custom(model, **one, processor=processor)
    assert want.shape[1] >= one["input_ids"].shape[1] + 5
    got = custom(model, **one, processor=processor, assistant_model=tiny_llava(seed=seed)[0])
    assert torch.equal(got, want)


def test_other_arguments_of_generate_arrive(batch):
    model, processor, inputs = batch
    limit = GenerationConfig(max_new_tokens=3, pad_token_id=0)
    prompt = {name: inputs[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    forbid = SimpleNamespace(calls=0)

    def count(ids, scores):
        forbid.calls += 1
        return scores

    output = custom(
        model,
        **prompt,
        processor=processor,
        generation_config=limit,
        logits_processor=[count],
        return_dict_in_generate=True,
        output_scores=True,
        synced_gpus=False,
        revision="main",
        local_files_only=True,
    )
    assert output.sequences.shape[1] == prompt["input_ids"].shape[1] + 3
    assert len(output.scores) == forbid.calls == 3


def test_what_is_wrong_is_said(batch):
    model, _, inputs = batch
    with pytest.raises(ValueError, match="unknown reference 'black'"):
        custom(model, **inputs, reference="black")
    with pytest.raises(ValueError, match="alfa"):
        custom(model, **inputs, alfa=1.0)
    with pytest.raises(ValueError, match="cache_implementation='paged'"):
        custom(model, **inputs, cache_implementation="paged")


@pytest.mark.filterwarnings("ignore")
def test_a_model_repository_with_the_folder_in_it_debiases_by_itself(fox, tmp_path):
    model, processor, inputs = fox
    home = tmp_path / "repository"
    model.save_pretrained(home)
    shutil.copytree(custom_generate_folder() / "custom_generate", home / "custom_generate")
    loaded = LlavaForConditionalGeneration.from_pretrained(home, trust_remote_code=True)
    assert answer(processor, inputs, loaded.generate(**inputs, processor=processor)) == "yellow"
    assert answer(processor, inputs, loaded.generate(**inputs, alpha=0.0, beta=0.0)) == "brown"


@pytest.mark.parametrize("found", [None, SimpleNamespace()], ids=["no package", "another project's"])
def test_without_the_package_the_right_one_is_named(monkeypatch, found):
    monkeypatch.setitem(sys.modules, "vdd", found)
    spec = importlib.util.spec_from_file_location("hub_generate", Path(FOLDER, "custom_generate", "generate.py"))
    with pytest.raises(ImportError, match="pip install visual-debias-decoding"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


# The model for lmms-eval

NEEDS = [name for name in ("lmms_eval", "datasets", "pytablewriter") if importlib.util.find_spec(name) is None]
needs_lmms = pytest.mark.skipif(bool(NEEDS), reason=f"{', '.join(NEEDS)} not installed: pip install lmms-eval")
ENTRY_POINT = 'vdd = "vdd.integrations:lmms_eval_models"\n'


def test_the_package_declares_its_model_to_lmms_eval():
    declared = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    assert f'[project.entry-points."lmms_eval.models"]\n{ENTRY_POINT}' in declared
    home, name = ENTRY_POINT.split('"')[1].split(":")
    assert callable(getattr(importlib.import_module(home), name))


@pytest.fixture(scope="module")
def questions() -> list[tuple[dict, Image.Image]]:
    """POPE's questions about the embedded world; among them one that only debiasing gets right."""
    scenes = [scene_at("test", index) for index in range(48)]
    records = [record for record in pope_questions(scenes, "adversarial") if record["image"] >= "00044.png"]
    return [(record, render(scenes[int(record["image"][:5])])) for record in records]


@pytest.fixture(scope="module")
def work(toy, questions, tmp_path_factory) -> Path:
    """A folder with the saved model, the questions as lmms-eval reads them, and the entry point."""
    import datasets

    folder = tmp_path_factory.mktemp("lmms")
    for part in toy:
        part.save_pretrained(folder / "model")
    features = datasets.Features(
        {name: datasets.Value("string") for name in ("question_id", "question", "answer")}
        | {"images": datasets.Sequence(datasets.Image())}
    )
    columns = {
        "question_id": [str(record["question_id"]) for record, _ in questions],
        "question": [record["text"] for record, _ in questions],
        "answer": [record["label"] for record, _ in questions],
        "images": [[image] for _, image in questions],
    }
    split = datasets.Dataset.from_dict(columns, features=features)
    datasets.DatasetDict({"test": split}).save_to_disk(folder / "questions")
    site = folder / "site" / "vdd_entry_point-0.dist-info"
    site.mkdir(parents=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: vdd-entry-point\nVersion: 0\n")
    (site / "entry_points.txt").write_text("[lmms_eval.models]\n" + ENTRY_POINT.replace('"', ""))
    return folder


def lmms_eval(work: Path, tasks: str, model_args: str, *flags: str) -> tuple[dict, dict[str, list[dict]]]:
    """Run lmms-eval's command line; (figures by task, samples by task)."""
    out = work / f"out-{len(list(work.iterdir()))}"
    paths = [str(work / "site"), str(Path(vdd.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_HOME": str(work / "hf"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "lmms_eval", "eval", "--model", "vdd", "--tasks", tasks]
    command += ["--model_args", f"pretrained=model,{model_args}", "--device", "cpu", "--batch_size", "3"]
    command += ["--include_path", str(Path(__file__).parent / "lmms_task"), "--output_path", str(out), "--log_samples"]
    run = subprocess.run([*command, *flags], cwd=work, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    results = json.loads(next(out.rglob("*_results.json")).read_text())["results"]
    samples = {
        task: [json.loads(line) for line in next(out.rglob(f"*_samples_{task}.jsonl")).read_text().splitlines()]
        for task in tasks.split(",")
    }
    return results, samples


def own_answers(toy, questions, *, debias: bool) -> list[str]:
    """What the package itself answers."""
    pipeline = vdd.LlavaPipeline(*toy)
    sampling = SamplingConfig(max_new_tokens=4)
    return [pipeline(image, record["text"], debias=debias, sampling=sampling).text for record, image in questions]


@needs_lmms
@pytest.mark.parametrize("debias", [False, True], ids=["plain", "debiased"])
def test_lmms_eval_measures_what_the_package_measures(toy, questions, work, debias):
    own = own_answers(toy, questions, debias=debias)
    labels = [record["label"] for record, _ in questions]
    accuracy = sum(text.strip() == label for text, label in zip(own, labels, strict=True)) / len(own)
    model_args = "alpha=1.0,beta=0.1,reference=none" if debias else "plain=True"

    results, samples = lmms_eval(work, "toy_pope", model_args)  # as a model for conversations
    assert results["toy_pope"]["pope_accuracy,none"] == pytest.approx(accuracy)
    answers = {sample["doc_id"]: sample["filtered_resps"] for sample in samples["toy_pope"]}
    assert [answers[number].strip() for number in range(len(own))] == [text.strip() for text in own]

    results, _ = lmms_eval(work, "toy_pope,toy_choice", model_args, "--force_simple")
    assert results["toy_pope"]["pope_accuracy,none"] == pytest.approx(accuracy)
    assert results["toy_choice"]["acc,none"] == pytest.approx(accuracy)  # the answers are the choices


@needs_lmms
def test_the_questions_tell_debiased_from_plain(toy, questions):
    assert own_answers(toy, questions, debias=False) != own_answers(toy, questions, debias=True)


@pytest.fixture(scope="module")
def lmms() -> SimpleNamespace:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from vdd.integrations import lmms_eval, lmms_eval_models
    return SimpleNamespace(module=lmms_eval, manifest=lmms_eval_models())


@pytest.fixture(scope="module")
def asked(work, lmms):
    """The model for lmms-eval on the embedded world's: asked(kind, **options)."""

    def model(kind: str = "VDD", **options):
        return getattr(lmms.module, kind)(str(work / "model"), device="cpu", **options)

    return model


def simple(documents, settings=None):
    """(requests of a simple task, task_dict)."""
    requests = [
        SimpleNamespace(args=(text, dict(settings or {"max_new_tokens": 4}), lambda doc: doc[0], number, "t", "test"))
        for number, (_, text) in enumerate(documents)
    ]
    return requests, {"t": {"test": documents}}


def texts_of(model, documents, settings=None) -> list[str]:
    requests, model.task_dict = simple(documents, settings)
    return [result.text for result in model.generate_until(requests)]


DOCUMENTS = [
    ([("fox", "yellow")], "What color is the fox?"),
    ([], "What color is the fox?"),
    ([("fox", "red"), ("frog", "blue")], "What color is the frog?"),
    ([("banana", "blue")], "Is there a banana in the image? Please answer yes or no."),
    (None, "Is there a frog in the image?"),
]


def documents_of() -> list[tuple[list[Image.Image] | None, str]]:
    def picture(name, color):
        return render(Scene((Item(name, color, 4),), "forest"))

    return [(images and [picture(*image) for image in images], text) for images, text in DOCUMENTS]


@needs_lmms
def test_the_manifest_names_both_kinds(lmms):
    assert lmms.manifest.model_id == "vdd"
    for path, is_simple in ((lmms.manifest.simple_class_path, True), (lmms.manifest.chat_class_path, False)):
        home, name = path.rsplit(".", 1)
        assert home == lmms.module.__name__
        assert getattr(lmms.module, name).is_simple is is_simple


@needs_lmms
@pytest.mark.parametrize("batch_size", [1, 2, "5"])
@pytest.mark.parametrize("plain", [False, True])
def test_documents_have_any_number_of_images(toy, asked, batch_size, plain):
    model, processor = toy
    documents = documents_of()
    want = []
    for images, text in documents:
        prompt = "USER: " + "<image>\n" * len(images or []) + text + " ASSISTANT:"
        inputs = processor(images=images or None, text=prompt, return_tensors="pt")
        decode = vdd.generate if images and not plain else lambda model, processor, **given: model.generate(**given)
        ids = decode(model, processor, **inputs, max_new_tokens=4)
        want.append(answer(processor, inputs, ids))
    assert texts_of(asked(plain=plain, batch_size=batch_size), documents) == want
    assert len(set(want)) > 2


@needs_lmms
def test_settings_of_the_method_come_from_model_args(asked):
    documents = documents_of()
    plain, debiased = texts_of(asked(plain=True), documents), texts_of(asked(), documents)
    assert plain != debiased
    assert texts_of(asked(alpha=0.0), documents) == texts_of(asked(preset="cutoff-only"), documents) == plain
    assert texts_of(asked(preset="nolan", reference="unk", alpha=3), documents) not in (plain, debiased)


@needs_lmms
def test_conversations_answer_like_texts_with_images(asked):
    documents = documents_of()
    want = texts_of(asked(batch_size=3), documents)
    model = asked("VDDChat", batch_size=3)

    def messages(doc):
        images = [{"type": "image", "url": image} for image in doc[0] or []]
        return [{"role": "user", "content": [*images, {"type": "text", "text": doc[1]}]}]

    model.task_dict = {"t": {"test": documents}}
    settings = {"max_new_tokens": 4}
    requests = [
        SimpleNamespace(args=(doc[1], messages, settings, number, "t", "test")) for number, doc in enumerate(documents)
    ]
    results = model.generate_until(requests)
    assert [result.text for result in results] == want
    words = [len(result.text.split()) for result in results]  # a token is a word
    assert [result.token_counts.output_tokens for result in results] == words


@needs_lmms
def test_images_stand_where_the_text_puts_them(lmms):
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    parts = lmms.module._interleaved("first <image> then <image>?", [red, blue])
    assert [part["type"] for part in parts] == ["text", "image", "text", "image", "text"]
    assert [part["image"].getpixel((0, 0)) for part in parts if "image" in part] == [(255, 0, 0), (0, 0, 255)]
    parts = lmms.module._interleaved("both", [red, blue])
    assert [part["type"] for part in parts] == ["image", "image", "text"]


@needs_lmms
def test_requests_are_decoded_as_their_task_wants(lmms):
    read = lmms.module._sampling
    assert read({}) == SamplingConfig(max_new_tokens=1024)
    assert read({"temperature": 0, "top_p": 0, "do_sample": True, "num_beams": 3}) == SamplingConfig(
        max_new_tokens=1024, num_beams=3
    )
    assert read({"temperature": 0.7, "do_sample": False}).temperature == 0
    assert read({"do_sample": True}).temperature == 1
    assert read({"temperature": 0.2, "top_p": None, "max_new_tokens": 5}) == SamplingConfig(
        temperature=0.2, max_new_tokens=5
    )


@needs_lmms
def test_an_answer_ends_before_the_first_stop(asked):
    model = asked(plain=True)
    document = ([render(Scene((Item("fox", "yellow", 4), Item("frog", "red", 0)), "forest"))], "Describe the image.")
    (full,) = texts_of(model, [document], {"max_new_tokens": 30})
    words = full.split()
    steps = []
    model.model.register_forward_pre_hook(lambda *_: steps.append(1))
    (cut,) = texts_of(model, [document], {"max_new_tokens": 30, "until": [words[3], "never"]})
    assert cut == full[: full.index(words[3])]
    assert len(steps) <= 5
    assert texts_of(model, [document], {"max_new_tokens": 30, "until": words[0]}) == [""]


@needs_lmms
def test_different_settings_do_not_share_a_batch(asked):
    model = asked(plain=True, batch_size=8)
    document = (documents_of()[0][0], "Describe the image.")
    requests, model.task_dict = simple([document] * 4)
    for number, request in enumerate(requests):
        request.args[1]["max_new_tokens"] = 1 + number % 2
    counts = [result.token_counts.output_tokens for result in model.generate_until(requests)]
    assert counts == [1, 2, 1, 2]


def stepwise(toy, image, text, tokens, *, alpha) -> tuple[list[float], bool]:
    """log p* of each token by the printed formula on the model's own distributions; whether each is the largest."""
    pipeline = vdd.LlavaPipeline(*toy)
    inputs = pipeline.inputs([image], [text])
    logs, greedy = [], True
    for step, token in enumerate(tokens):
        rows = pipeline.distributions(inputs, (IMAGE, "none"), tokens=tuple(tokens[:step]))
        seen, blind = (rows[name][0].double().tolist() for name in (IMAGE, "none"))
        row = log_softmax(seen) if alpha is None else log_debias_row(seen, blind, alpha, 0.0)
        logs.append(row[token])
        greedy = greedy and row[token] == max(row)
    return logs, greedy


@needs_lmms
@pytest.mark.parametrize(("options", "alpha"), [({"plain": True}, None), ({"alpha": 1.5, "beta": 0.0}, 1.5)])
def test_likelihoods_are_the_formulas(toy, asked, options, alpha):
    _, processor = toy
    image, text = render(Scene((Item("fox", "yellow", 4),), "forest")), "What color is the fox?"
    choices = ["yellow", "brown", "a brown fox", "the yellow fox ."]
    model = asked(batch_size=3, **options)
    model.task_dict = {"t": {"test": [([image], text)]}}
    requests = [SimpleNamespace(args=(text, " " + c, lambda doc: doc[0], 0, "t", "test")) for c in choices]
    for choice, result in zip(choices, model.loglikelihood(requests), strict=True):
        tokens = processor.tokenizer(choice, add_special_tokens=False)["input_ids"]
        logs, is_greedy = stepwise(toy, image, text, tokens, alpha=alpha)
        loss, greedy = result.text
        assert loss == pytest.approx(-sum(logs) / len(logs), abs=2e-4)
        assert greedy is is_greedy


@needs_lmms
def test_choices_that_are_all_cut_off_are_compared_without_the_cut_off(toy, asked):
    image, text = render(Scene((Item("fox", "yellow", 4),), "forest")), "What color is the fox?"
    documents = [([image], text), ([image], "What color is the fox in the image?")]  # the longer one is asked first
    model = asked(batch_size=2)
    model.task_dict = {"t": {"test": documents}}
    asks = [(0, "yellow"), (0, "fox"), (1, "fox"), (1, "there")]
    requests = [SimpleNamespace(args=(documents[n][1], " " + c, lambda doc: doc[0], n, "t", "test")) for n, c in asks]
    losses = [result.text[0] for result in model.loglikelihood(requests)]
    assert losses[0] < 1
    assert losses[1] == float("inf")
    uncut = asked(batch_size=2, beta=0.0)
    uncut.task_dict = model.task_dict
    assert losses[2:] == pytest.approx([result.text[0] for result in uncut.loglikelihood(requests)][2:])


@needs_lmms
def test_nothing_that_goes_wrong_counts_as_an_answer(asked):
    with pytest.raises(ValueError, match="unknown setting 'alfa'"):
        asked(alfa=1.0)
    with pytest.raises(ValueError, match="batch_size is 'auto'"):
        asked(batch_size="auto")
    model = asked()
    with pytest.raises(ValueError, match="shows a ndarray"):
        texts_of(model, [([torch.zeros(2).numpy()], "What?")])
    with pytest.raises(ValueError, match="no such file"):
        texts_of(model, [(["missing.png"], "What?")])
    with pytest.raises(NotImplementedError, match="several"):
        model.generate_until_multi_round([])
    chat = asked("VDDChat")
    messages = [{"role": "user", "content": [{"type": "video", "url": "film.mp4"}]}]
    chat.task_dict = {"t": {"test": [None]}}
    with pytest.raises(ValueError, match="of type 'video'"):
        chat.generate_until([SimpleNamespace(args=("", lambda doc: messages, {}, 0, "t", "test"))])
    model.model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        texts_of(model, documents_of()[:1])
