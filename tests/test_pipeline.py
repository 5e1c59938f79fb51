"""Image and question in, answer out: against decoding by hand, from every kind of image, with and without a prefill."""

from __future__ import annotations

import io
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

import vdd
from tests.legs import standard_legs
from tests.oracles import calibrate as plain
from tests.oracles.recompute import blind_logits, encode, greedy_by_hand, next_logits, picture, seconds
from tests.tiny import tiny_processor
from vdd._check import UserError
from vdd.config import DebiasConfig, SamplingConfig
from vdd.pipeline import LlavaPipeline, Pipeline

YES_NO = {"yes": ["yes"], "no": ["no"]}
QUESTIONS = ["is there a fox ?", "what color is the car in the image ?", "dog ?"]
SHORT = SamplingConfig(max_new_tokens=5)
TEXT_ONLY = {
    "vocab_size": 40,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
}


@pytest.fixture
def pipe(llava):
    return Pipeline(*llava)


@pytest.fixture
def batch(pipe):
    return pipe.inputs([picture(n) for n in range(len(QUESTIONS))], QUESTIONS)


def by_hand(model, processor, question, reference="none", **settings):
    """The text of one answer, decoded greedily without `generate`, caches or padding; reference "seen" is plain."""
    inputs = encode(processor, [question])
    shown = seconds(processor, [question], "seen", inputs=inputs)
    second = seconds(processor, [question], reference, inputs=inputs)
    (tokens,) = greedy_by_hand(model, shown, second, SHORT.max_new_tokens, **settings)
    return processor.tokenizer.decode(tokens, skip_special_tokens=True).strip()


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_plain_and_the_debiased_answer_are_those_of_decoding_by_hand(llava, pipe, question):
    plainly = pipe(picture(0), question, debias=False, sampling=SHORT)
    assert plainly.text == by_hand(*llava, question, "seen", alpha=0.0, beta=0.0)
    for reference in ("none", "unk", "both"):
        debiased = Pipeline(*llava, reference=reference, alpha=2.0, beta=0.05)(picture(0), question, sampling=SHORT)
        assert debiased.text == by_hand(*llava, question, reference, alpha=2.0, beta=0.05), reference


def test_debiasing_is_on_unless_told_otherwise(llava, pipe):
    assert pipe(picture(0), QUESTIONS[0], sampling=SHORT).text == by_hand(*llava, QUESTIONS[0], "none")
    assert pipe.debias == DebiasConfig(reference="none", alpha=1.0, beta=0.1)


def test_the_answer_says_what_was_asked_about_what(pipe, tmp_path):
    picture(3).save(tmp_path / "a.png")
    answer = pipe(tmp_path / "a.png", QUESTIONS[0], sampling=SHORT)
    assert (answer.question, answer.image, answer.error) == (QUESTIONS[0], str(tmp_path / "a.png"), None)
    assert pipe(picture(3), QUESTIONS[0], sampling=SHORT).image == ""
    assert answer.probabilities is answer.blind_probabilities is answer.debiased is None


def test_a_path_a_string_bytes_and_a_pil_image_give_the_same_answer(pipe, tmp_path):
    path = tmp_path / "käse 图.png"
    picture(3).save(path)
    given = [path, str(path), path.read_bytes(), picture(3), picture(3).convert("RGBA")]
    answers = [pipe(image, QUESTIONS[0], labels=YES_NO, sampling=SHORT) for image in given]
    assert len({(answer.text, str(answer.probabilities)) for answer in answers}) == 1


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"this is no image", "not an image"),
        (b"", "0 bytes, so not an image"),
        (None, "no such file"),
        ("truncated", "is the file whole"),
    ],
)
def test_an_image_that_cannot_be_read_is_an_error(pipe, tmp_path, content, complaint):
    path = tmp_path / "a.png"
    if content == "truncated":
        stream = io.BytesIO()
        picture(0, 64).save(stream, "PNG")
        content = stream.getvalue()[:2000]
    if content is not None:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=complaint):
            pipe(content, "?")
    with pytest.raises(ValueError, match=complaint):
        pipe(path, "?")


def test_label_probabilities_are_the_softmax_rows_of_forwards_by_hand(llava, pipe):
    model, processor = llava
    answer = pipe(picture(0), QUESTIONS[1], labels=YES_NO, sampling=SHORT)
    ids = [processor.tokenizer.convert_tokens_to_ids(word) for word in YES_NO]
    inputs = encode(processor, [QUESTIONS[1]])

    def row(condition):
        ((second,),) = seconds(processor, [QUESTIONS[1]], condition, inputs=inputs)
        return next_logits(model, second, []).softmax(-1)[ids].tolist()

    seen, none, unk = row("seen"), row("none"), row("unk")
    both = plain.mean_of([none, unk])
    near = {"rel": 1e-6}
    assert list(answer.probabilities) == ["yes", "no"]
    assert list(answer.probabilities.values()) == pytest.approx(seen, **near)
    for name, want in {"none": none, "unk": unk, "both": both}.items():
        assert list(answer.blind_probabilities[name].values()) == pytest.approx(want, **near)
        assert list(answer.debiased[name].values()) == pytest.approx(plain.debiased(seen, want), **near)


def test_a_row_does_not_depend_on_its_batch_mates(llava, pipe, batch):
    labels = pipe.labels(YES_NO)
    together = pipe.label_probabilities(batch, labels)
    texts = pipe.generate(batch, debias=DebiasConfig(), sampling=SHORT)
    for number, question in enumerate(QUESTIONS):
        alone = Pipeline(*llava)
        inputs = alone.inputs([picture(number)], [question])
        for condition, rows in alone.label_probabilities(inputs, labels).items():
            torch.testing.assert_close(rows[0], together[condition][number], rtol=1e-9, atol=1e-12)
        assert alone.generate(inputs, debias=DebiasConfig(), sampling=SHORT) == [texts[number]]


def test_distributions_follow_given_tokens_and_come_back_after_them(llava, pipe, batch):
    model, processor = llava
    tokens = tuple(processor.tokenizer("red fox in").input_ids)
    first = pipe.distributions(batch, ("image", "none", "unk"))
    behind = pipe.distributions(batch, ("image", "none", "unk"), tokens=tokens)
    again = pipe.distributions(batch, ("image", "none", "unk"))
    inputs = encode(processor, QUESTIONS)
    for condition, name in (("image", "seen"), ("none", "none"), ("unk", "unk")):
        prompts = seconds(processor, QUESTIONS, name, inputs=inputs)
        for given, got in (((), first), (tokens, behind), ((), again)):
            want = torch.stack([next_logits(model, second, list(given)).log_softmax(-1) for (second,) in prompts])
            torch.testing.assert_close(got[condition], want, rtol=1e-7, atol=1e-9)


LEGS = [leg for leg in standard_legs(max_new_tokens=6) if leg.post_hoc is None]


@pytest.mark.parametrize("leg", LEGS, ids=lambda leg: leg.name)
def test_an_answer_is_the_same_with_the_image_encoded_before(pipe, batch, leg):
    prefill = pipe.prefill(batch)
    for seed in (0, 7):
        want = pipe.generate(batch, debias=leg.debias, sampling=leg.sampling, seed=seed)
        got = pipe.generate(batch, debias=leg.debias, sampling=leg.sampling, seed=seed, prefill=prefill)
        assert got == want


@pytest.mark.parametrize("reference", ["mask", "noise", "zero", "one", "instruction"])
def test_references_that_keep_the_image_work_from_a_prefill_too(pipe, batch, reference):
    config = DebiasConfig(reference=reference, beta=0.01)
    want = pipe.generate(batch, debias=config, sampling=SHORT)
    assert pipe.generate(batch, debias=config, sampling=SHORT, prefill=pipe.prefill(batch)) == want


def test_beams_work_from_a_prefill_too(pipe, batch):
    beams = replace(SHORT, num_beams=3)
    want = pipe.generate(batch, debias=DebiasConfig(), sampling=beams)
    assert pipe.generate(batch, debias=DebiasConfig(), sampling=beams, prefill=pipe.prefill(batch)) == want


def test_one_prefill_serves_any_number_of_decodings(pipe, batch):
    prefill = pipe.prefill(batch)
    before = prefill.logits.clone()
    want = pipe.generate(batch, debias=DebiasConfig(), sampling=SHORT)
    for _ in range(2):
        assert pipe.generate(batch, debias=DebiasConfig(), sampling=SHORT, prefill=prefill) == want
    assert torch.equal(prefill.logits, before)
    row = pipe.distributions(batch, ("image",), prefill=prefill)["image"]
    torch.testing.assert_close(row, pipe.distributions(batch, ("image",))["image"], rtol=1e-9, atol=1e-12)


def test_sampling_follows_its_seed_and_nothing_else(pipe):
    hot = SamplingConfig(temperature=1.0, max_new_tokens=12)
    texts = {seed: pipe(picture(0), QUESTIONS[0], debias=False, sampling=hot, seed=seed).text for seed in (0, 1, 2)}
    torch.rand(3)
    assert pipe(picture(0), QUESTIONS[0], debias=False, sampling=hot, seed=1).text == texts[1]
    assert len(set(texts.values())) > 1


def test_random_states_and_the_tokenizers_padding_side_are_left_alone(llava):
    processor = tiny_processor()
    processor.tokenizer.padding_side = "right"
    model = llava[0]
    pipe = Pipeline(model, processor)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    training, settings = model.training, model.generation_config.to_dict()
    inputs = pipe.inputs([picture(n) for n in range(3)], QUESTIONS)
    for leg in standard_legs(max_new_tokens=2)[-3:]:
        pipe.generate(inputs, debias=leg.debias, sampling=leg.sampling, seed=3)
    pipe(picture(0), QUESTIONS[0], labels=YES_NO, sampling=SHORT)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.array_equal(np.random.get_state()[1], states[1])  # noqa: NPY002
    assert random.getstate() == states[2]
    assert processor.tokenizer.padding_side == "right"
    assert bool((inputs["attention_mask"][:, -1] == 1).all()), "padded on the right"
    assert (model.training, model.generation_config.to_dict()) == (training, settings)
    left = Pipeline(*llava).inputs([picture(n) for n in range(3)], QUESTIONS)
    assert torch.equal(inputs["input_ids"], left["input_ids"])


def test_the_image_that_came_is_not_modified(pipe):
    image = picture(0, 40).convert("RGBA")
    kept = image.copy()
    pipe(image, QUESTIONS[0], sampling=SHORT)
    assert image.tobytes() == kept.tobytes()
    assert image.mode == "RGBA"


def test_a_processor_without_a_chat_template_gets_the_prompt_of_llava(llava):
    model = llava[0]
    processor = tiny_processor()
    processor.chat_template = None
    pipe = Pipeline(model, processor)
    assert pipe.prompt("is {0} {question} there ?") == "USER: <image>\nis {0} {question} there ? ASSISTANT:"
    inputs = pipe.inputs([picture(0)], [QUESTIONS[0]])
    expected = processor.tokenizer("USER: " + "<image>" * 4 + f"\n{QUESTIONS[0]} ASSISTANT:")["input_ids"]
    assert inputs["input_ids"][0].tolist() == expected
    answer = pipe(picture(0), QUESTIONS[0], labels=YES_NO, sampling=SHORT)
    assert set(answer.debiased) == {"none", "unk", "both"}
    assert answer.text == pipe.generate(inputs, debias=pipe.debias, sampling=SHORT)[0]


def test_the_beginning_of_the_sequence_stands_once(llava, toy):
    for model, processor in (llava, toy):
        ids = Pipeline(model, processor).inputs([picture(0)], ["is there a fox ?"])["input_ids"][0].tolist()
        assert ids.count(processor.tokenizer.bos_token_id) == 1
        assert ids[0] == processor.tokenizer.bos_token_id


def test_labels_give_the_embedded_model_probabilities(toy):
    answer = Pipeline(*toy)(Image.new("RGB", (50, 80), "gray"), "Is there a fox in the image?", labels=("yes", "no"))
    for shares in (answer.probabilities, *answer.blind_probabilities.values(), *answer.debiased.values()):
        assert list(shares) == ["yes", "no"]
        assert all(0 <= value <= 1 for value in shares.values())
        assert sum(shares.values()) <= 1 + 1e-6
    for scores in answer.debiased.values():
        assert sum(scores.values()) == pytest.approx(1)


def test_the_first_name_is_the_same_class():
    assert LlavaPipeline is Pipeline is vdd.Pipeline is vdd.LlavaPipeline


def test_several_images_go_into_one_prompt_in_their_order(llava, pipe, tmp_path):
    picture(1).save(tmp_path / "b.png")
    answer = pipe([picture(0), tmp_path / "b.png"], QUESTIONS[0], labels=YES_NO, sampling=SHORT)
    assert answer.image == str(tmp_path / "b.png")
    inputs = pipe.inputs([[picture(0), picture(1)]], [QUESTIONS[0]])
    assert len(inputs["pixel_values"]) == 2
    assert answer.text == pipe.generate(inputs, debias=pipe.debias, sampling=SHORT)[0]
    ids = [llava[1].tokenizer.convert_tokens_to_ids(word) for word in YES_NO]
    encoded = encode(llava[1], [QUESTIONS[0]], counts=[2])
    ((seen,),) = seconds(llava[1], [QUESTIONS[0]], "seen", inputs=encoded, counts=[2])
    want = next_logits(llava[0], seen, []).softmax(-1)[ids].tolist()
    assert list(answer.probabilities.values()) == pytest.approx(want)
    swapped = pipe([picture(1), picture(0)], QUESTIONS[0], labels=YES_NO, sampling=SHORT)
    assert swapped.probabilities != answer.probabilities
    assert pipe((picture(0),), QUESTIONS[0], sampling=SHORT) == pipe(picture(0), QUESTIONS[0], sampling=SHORT)


def test_an_answer_holds_its_tokens_their_reliance_and_its_times(pipe):
    answer = pipe(picture(0), QUESTIONS[1], labels=YES_NO, sampling=SHORT)
    assert len(answer.tokens) == len(answer.reliance) > 0
    words = [token.strip() for token in answer.tokens if token.strip() not in ("", "</s>", "<unk>")]
    assert " ".join(words) == " ".join(answer.text.split())
    assert list(answer.timings) == ["inputs", "prefill", "generate", "labels"]
    assert all(seconds >= 0 for seconds in answer.timings.values())
    plainly = pipe(picture(0), QUESTIONS[1], debias=False, sampling=SHORT)
    assert plainly.reliance is None
    assert list(plainly.timings) == ["inputs", "generate"]


@pytest.mark.parametrize("reference", ["none", "unk", "both", "mask", "noise", "zero"])
def test_reliance_is_against_the_reference_of_the_run(llava, reference):
    model, processor = llava
    answer = Pipeline(model, processor, reference=reference, beta=0.02)(picture(0), QUESTIONS[1], sampling=SHORT)
    inputs = encode(processor, [QUESTIONS[1]])
    ((seen,),) = seconds(processor, [QUESTIONS[1]], "seen", inputs=inputs)
    (blind,) = seconds(processor, [QUESTIONS[1]], reference, inputs=inputs)
    ids = processor.tokenizer.convert_tokens_to_ids([token.strip(" ") for token in answer.tokens])
    for number, (token, got) in enumerate(zip(ids, answer.reliance, strict=True)):
        with_image = next_logits(model, seen, ids[:number]).log_softmax(-1)[token]
        without = blind_logits(model, blind, ids[:number]).log_softmax(-1)[token]
        assert got == pytest.approx(float(with_image - without), abs=1e-5)


def test_reliance_is_none_where_nothing_is_subtracted(llava):
    pipe = Pipeline(*llava, preset="cutoff-only")
    answer = pipe(picture(0), QUESTIONS[0], sampling=SHORT)
    assert answer.reliance is None
    assert answer.tokens


def test_no_image_is_a_users_error(pipe):
    with pytest.raises(UserError, match="no image came with the question; wanted one or more"):
        pipe([], QUESTIONS[0])


def test_urls_are_refused_unless_they_are_allowed(llava, monkeypatch):
    address = "https://example.org/photo.png"
    with pytest.raises(UserError, match=r"photo.png: a URL, .*allow_urls=True"):
        Pipeline(*llava)(address, QUESTIONS[0])
    stream = io.BytesIO()
    picture(3).save(stream, "PNG")
    monkeypatch.setattr("vdd.images.fetched", {address: stream.getvalue()}.get)
    got = Pipeline(*llava, allow_urls=True)(address, QUESTIONS[0], labels=YES_NO, sampling=SHORT)
    want = Pipeline(*llava)(picture(3), QUESTIONS[0], labels=YES_NO, sampling=SHORT)
    assert (got.text, got.probabilities, got.image) == (want.text, want.probabilities, address)


def test_a_processor_of_another_model_is_a_users_error(llava):
    with pytest.raises(UserError, match=r"PreTrainedTokenizerFast|TokenizersBackend.* prepares no images"):
        Pipeline(llava[0], llava[1].tokenizer)
    other = tiny_processor()
    other.tokenizer.add_tokens([f"word{n}" for n in range(9)])
    with pytest.raises(UserError, match=r"LlavaProcessor does not belong to .*wrote the token 43 where 35 are known"):
        Pipeline(llava[0], other)(picture(0), "is it word8 ?")


def test_a_question_that_holds_the_images_placeholder_is_a_users_error_and_no_crash(pipe):
    """The placeholder stands for an image in the prompt; a second one has no pixels."""
    with pytest.raises(UserError, match="<image>"):
        pipe(picture(0), "is there <image> a fox ?", sampling=SHORT)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"alpha": -1}, "alpha is -1; wanted a number in"),
        ({"beta": 1.5}, r"beta is 1.5; wanted a number in \[0, 1\]"),
        ({"reference": "sideways"}, "unknown reference 'sideways'; known: none, unk, both"),
        ({"preset": "best"}, "unknown preset 'best'; known: vdd"),
        ({"gamma": 1}, "unknown setting 'gamma'; known: reference"),
    ],
)
def test_settings_out_of_range_are_errors_at_once(llava, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        Pipeline(*llava, **options)


def test_a_model_without_image_tokens_is_an_error_that_says_what_was_wanted():
    text = LlamaForCausalLM(LlamaConfig(**TEXT_ONLY))
    with pytest.raises(
        ValueError, match=r"LlamaForCausalLM is of the family 'llama', whose image-free input is not known"
    ):
        Pipeline(text, tiny_processor())


@pytest.mark.parametrize("mode", ["diagonal", "identity"])
def test_priors_come_from_every_meaningless_input(llava, mode):
    """Against a forward pass of its own on degraded pixels, and the formula by hand."""
    model, processor = llava
    pipeline = Pipeline(model, processor)
    image = Image.new("RGB", (16, 16), "red")
    references = ("none", "unk", "both", "noise", "zero", "one", "mask")
    answer = pipeline(image, "is it red ?", labels=("yes", "no"), priors=references, mode=mode)
    assert set(answer.blind_probabilities) == set(answer.debiased) == set(references)
    inputs = dict(pipeline.inputs([image], ["is it red ?"]))
    ids = processor.tokenizer.convert_tokens_to_ids(["yes", "no"])
    for name, fill in (("zero", 0.0), ("one", 1.0)):
        degraded = {**inputs, "pixel_values": torch.full_like(inputs["pixel_values"], fill)}
        with torch.no_grad():
            prior = model(**degraded).logits[0, -1].softmax(-1)[ids]
        assert list(answer.blind_probabilities[name].values()) == pytest.approx(prior.tolist())
        share = (prior / prior.sum() + 1e-4).tolist()
        seen = list(answer.probabilities.values())
        seen = [value / sum(seen) for value in seen]
        if mode == "identity":
            wanted = [p - q for p, q in zip(seen, share, strict=True)]
        else:
            ratios = [p / q for p, q in zip(seen, share, strict=True)]
            wanted = [ratio / sum(ratios) for ratio in ratios]
        assert list(answer.debiased[name].values()) == pytest.approx(wanted)
