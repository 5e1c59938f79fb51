"""Photographs as files through every way in: the answer is that of the same picture given as RGB pixels."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import GenerationMixin
from transformers.image_utils import load_image as read_by_transformers
from typer.testing import CliRunner

import vdd
from tests.photos import KINDS, save
from vdd.cli import app
from vdd.config import SamplingConfig
from vdd.images import load_image
from vdd.integrations import custom_generate_folder

pytestmark = [  # transformers leaves the file of an animation open
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
QUESTION = "is there a red car in the image ?"
STEPS = 6
LABELS = {"yes": ["yes"], "no": ["no"]}


@pytest.fixture(scope="module")
def loaded(toy, tmp_path_factory):
    """The embedded model from a folder, as users load one, and the folder."""
    folder = tmp_path_factory.mktemp("toy")
    for part in toy:
        part.save_pretrained(folder)
    return *vdd.load(str(folder), device="cpu"), folder


@pytest.fixture(params=["tiny", "from disk"])
def pair(request, llava, loaded):
    return llava if request.param == "tiny" else loaded[:2]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return {kind: save(kind, folder) for kind in KINDS}


kinds = pytest.mark.parametrize("kind", KINDS)


def chat(image):
    part = {"type": "image", "image": image} if not isinstance(image, str) else {"type": "image", "path": image}
    return [{"role": "user", "content": [part, {"type": "text", "text": QUESTION}]}]


def encoded(model, processor, image):
    """What `generate` takes: transformers reads a path by itself."""
    inputs = processor.apply_chat_template(
        chat(image), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return inputs.to(model.dtype)


def a_loop_of_ones_own(model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs):
    return GenerationMixin._sample(
        model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs
    )


def in_generate(model, processor, inputs, **options):
    return model.generate(**inputs, logits_processor=[vdd.VDDLogitsProcessor(model, processor)], **options)


def by_vdd_generate(model, processor, inputs, **options):
    return vdd.generate(model, processor, **inputs, **options)


def under_patch(model, processor, inputs, **options):
    with vdd.patch(model, processor):
        return model.generate(**inputs, **options)


def by_a_callable(model, processor, inputs, **options):
    return in_generate(model, processor, inputs, custom_generate=a_loop_of_ones_own, **options)


def by_the_folder(model, processor, inputs, **options):
    folder = str(custom_generate_folder())
    return model.generate(**inputs, custom_generate=folder, trust_remote_code=True, processor=processor, **options)


@kinds
@pytest.mark.parametrize("way", [in_generate, by_vdd_generate, under_patch, by_a_callable, by_the_folder])
def test_a_file_that_transformers_reads_is_answered_like_its_pixels(pair, photos, kind, way):
    model, processor = pair
    path = str(photos[kind])
    options = {"max_new_tokens": STEPS, "output_logits": True, "return_dict_in_generate": True}
    from_file = way(model, processor, encoded(model, processor, path), **options)
    from_pixels = way(model, processor, encoded(model, processor, read_by_transformers(path)), **options)
    assert torch.equal(from_file.sequences, from_pixels.sequences)
    assert all(map(torch.equal, from_file.logits, from_pixels.logits))
    reference = in_generate(model, processor, encoded(model, processor, read_by_transformers(path)), **options)
    assert torch.equal(from_file.sequences, reference.sequences)


@kinds
def test_transformers_pipeline_debiases_files_like_pixels(pair, photos, kind):
    model, processor = pair
    pipe = transformers.pipeline("image-text-to-text", model=model, processor=processor)
    path = str(photos[kind])
    pixels = read_by_transformers(path)
    inputs = encoded(model, processor, pixels)
    ids = in_generate(model, processor, inputs, max_new_tokens=STEPS)
    want = processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    text = processor.apply_chat_template(chat(pixels), add_generation_prompt=True)

    def said(image, **options):
        given = {"images": image, "text": text, "return_full_text": False, "max_new_tokens": STEPS}
        return pipe(**given, **options)[0]["generated_text"].strip()

    plugin = vdd.VDDLogitsProcessor(model, processor)
    by_kwargs = [said(image, generate_kwargs={"logits_processor": [plugin]}) for image in (path, pixels)]
    with vdd.patch(model, processor):
        by_patch = [said(image) for image in (path, pixels)]
    assert by_kwargs == by_patch == [want.strip()] * 2


@kinds
def test_the_pipeline_answers_a_file_like_its_pixels(pair, photos, kind):
    pipe = vdd.Pipeline(*pair)
    path = photos[kind]
    how = {"labels": LABELS, "sampling": SamplingConfig(max_new_tokens=STEPS)}
    want = pipe(load_image(path), QUESTION, **how)
    for given in (path, str(path), path.read_bytes(), bytearray(path.read_bytes())):
        answer = pipe(given, QUESTION, **how)
        assert (answer.text, answer.reliance) == (want.text, want.reliance)
        assert (answer.probabilities, answer.debiased) == (want.probabilities, want.debiased)


@kinds
def test_vdd_ask_answers_a_file_like_its_pixels(loaded, photos, kind, tmp_path):
    load_image(photos[kind]).save(tmp_path / "pixels.png")
    said = [
        CliRunner().invoke(app, ["ask", str(path), QUESTION, "--model", str(loaded[2]), "--labels", "yes,no"])
        for path in (photos[kind], tmp_path / "pixels.png")
    ]
    assert [result.exit_code for result in said] == [0, 0], said[0].output
    assert said[0].stdout == said[1].stdout
    assert "debiased" in said[0].stdout


def test_different_photographs_get_different_label_probabilities(pair, photos):
    """Else the equalities above would say nothing."""
    pipe = vdd.Pipeline(*pair)
    found = {str(pipe(path, QUESTION, labels=LABELS).probabilities) for path in photos.values()}
    assert len(found) >= len(photos) - 1
