"""The logits processor inside `generate`: the tokens of recomputing both branches from scratch, however decoded."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from tests.oracles.recompute import Recompute, chat, encode, greedy_by_hand, picture, seconds
from tests.tiny import Called, tiny_llava
from vdd.config import REFERENCES, DebiasConfig
from vdd.processor import PRESETS, VDDLogitsProcessor

INSTRUCTION = "is there no image ?"
DECODING = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "temperature": 1.3, "top_p": 0.95, "top_k": 0},
    "beams": {"do_sample": False, "num_beams": 3},
    "beam sampling": {"do_sample": True, "num_beams": 3, "temperature": 1.5, "top_k": 0},
    "several": {"do_sample": True, "num_return_sequences": 2, "top_k": 0},
}
BATCHES = {
    "alone": ["is there a cat ?"],
    "padded batch": ["what color is the dog in the image ?", "is it red ?", "is there a fox and a car on it ?"],
}
STEPS = 6
STRONG = {"alpha": 2.0, "beta": 0.02}  # strong enough that a little noise in the pixels changes tokens


def generated(model, inputs, plugin, seed: int = 0, **decoding) -> list[list[int]]:
    """New tokens of each row; the random state outside is left alone."""
    plugins = [] if plugin is None else [plugin]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out = model.generate(**inputs, max_new_tokens=STEPS, logits_processor=plugins, **decoding)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


def plugin_for(llava, inputs, **options) -> VDDLogitsProcessor:
    model, processor = llava
    return VDDLogitsProcessor(model, processor, inputs=inputs, instruction=INSTRUCTION, **options)


def oracle_for(llava, questions, inputs, reference, **options) -> Recompute:
    model, processor = llava
    rows = seconds(processor, questions, reference, inputs=inputs, instruction=INSTRUCTION)
    return Recompute(model, rows, inputs["input_ids"].shape[1], **options)


@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("reference", REFERENCES)
@pytest.mark.parametrize("decoding", DECODING)
def test_generate_gives_the_tokens_of_a_stateless_recompute(llava, decoding, reference, batch):
    model, processor = llava
    questions = BATCHES[batch]
    inputs = encode(processor, questions)
    got = generated(model, inputs, plugin_for(llava, inputs, reference=reference, **STRONG), **DECODING[decoding])
    want = generated(model, inputs, oracle_for(llava, questions, inputs, reference, **STRONG), **DECODING[decoding])
    assert got == want


def test_references_and_plain_decoding_are_told_apart_by_these_tokens(llava):
    model, processor = llava
    inputs = encode(processor, BATCHES["padded batch"])
    answers = {r: str(generated(model, inputs, plugin_for(llava, inputs, reference=r, **STRONG))) for r in REFERENCES}
    answers["plain"] = str(generated(model, inputs, None))
    assert len(set(answers.values())) == len(REFERENCES) + 1


@pytest.mark.parametrize("reference", REFERENCES)
def test_greedy_equals_a_loop_written_by_hand_without_generate(llava, reference):
    model, processor = llava
    questions = BATCHES["padded batch"]
    inputs = encode(processor, questions)
    shown = seconds(processor, questions, "seen", inputs=inputs)
    rows = seconds(processor, questions, reference, inputs=inputs, instruction=INSTRUCTION)
    want = greedy_by_hand(model, shown, rows, STEPS, alpha=0.7, beta=0.05)
    plugin = plugin_for(llava, inputs, reference=reference, alpha=0.7, beta=0.05)
    assert generated(model, inputs, plugin, do_sample=False) == want


@pytest.mark.parametrize("reference", ["noise", "zero", "mask", "none", "instruction"])
def test_rows_with_one_and_two_images_each_get_their_own(llava, reference):
    model, processor = llava
    questions, counts = ["is it red ?", "is there a dog in one image ?", "what color ?"], [2, 1, 2]
    inputs = encode(processor, questions, counts=counts, first=20)
    shown = seconds(processor, questions, "seen", inputs=inputs, counts=counts)
    rows = seconds(processor, questions, reference, inputs=inputs, instruction=INSTRUCTION, counts=counts)
    want = greedy_by_hand(model, shown, rows, STEPS)
    assert generated(model, inputs, plugin_for(llava, inputs, reference=reference), do_sample=False) == want


def test_options_of_the_reference_reach_the_branch(llava):
    model, processor = llava
    questions = BATCHES["padded batch"]
    inputs = encode(processor, questions)
    for options in ({"unk_per": "patch"}, {"seed": 5, "step": 700}):
        reference = "unk" if "unk_per" in options else "noise"
        rows = seconds(processor, questions, reference, inputs=inputs, **options)
        named = {"noise_step" if k == "step" else k: v for k, v in options.items()}
        got = generated(model, inputs, plugin_for(llava, inputs, reference=reference, **named))
        assert got == generated(model, inputs, Recompute(model, rows, inputs["input_ids"].shape[1]))


# ---- one object, many calls


@pytest.mark.parametrize("decoding", DECODING)
def test_a_second_call_equals_the_first(llava, decoding):
    model, processor = llava
    inputs = encode(processor, BATCHES["padded batch"])
    plugin = plugin_for(llava, inputs, reference="both")
    first = generated(model, inputs, plugin, **DECODING[decoding])
    assert generated(model, inputs, plugin, **DECODING[decoding]) == first


@pytest.mark.parametrize("reference", ["both", "mask"])
def test_one_object_serves_batches_of_any_size_prompts_and_decodings_in_any_order(llava, reference):
    model, processor = llava
    plugin = VDDLogitsProcessor(model, processor, reference=reference)
    questions = BATCHES["padded batch"]
    for asked, decoding in [
        (questions, "greedy"),
        (questions[:1], "beams"),
        (questions[:1], "greedy"),
        (questions[::-1], "beams"),
        (["is it red ?"] * 3, "several"),
    ]:
        inputs = encode(processor, asked)
        fresh = VDDLogitsProcessor(model, processor, reference=reference)
        got = generated(model, inputs, plugin, **DECODING[decoding])
        assert got == generated(model, inputs, fresh, **DECODING[decoding])
        assert got == generated(model, inputs, oracle_for(llava, asked, inputs, reference), **DECODING[decoding])


@pytest.mark.parametrize("extra", [1, 4, STEPS + 3])
def test_a_longer_prompt_that_extends_the_former_one_is_answered_as_if_it_were_new(llava, extra):
    model, processor = llava
    inputs = encode(processor, ["is there a cat ?"])
    plugin = VDDLogitsProcessor(model, processor)
    answer = generated(model, inputs, plugin, do_sample=False, min_new_tokens=STEPS)[0]
    more = (answer + processor.tokenizer("USER: is it red ? ASSISTANT:").input_ids)[:extra]
    longer = dict(inputs)
    longer["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([more])], dim=1)
    longer["attention_mask"] = torch.ones_like(longer["input_ids"])
    fresh = VDDLogitsProcessor(model, processor)
    assert generated(model, longer, plugin) == generated(model, longer, fresh)


def test_two_turns_with_one_object_equal_a_stateless_recompute_of_the_second(llava):
    model, processor = llava
    plugin = VDDLogitsProcessor(model, processor)
    generated(model, encode(processor, ["is there a cat ?"]), plugin)
    question = "is there a cat ? yes USER: is it red ?"
    inputs = encode(processor, [question])
    assert generated(model, inputs, plugin) == generated(model, inputs, oracle_for(llava, [question], inputs, "none"))


def test_other_pixels_for_the_same_text_are_seen_after_use_inputs(llava):
    model, processor = llava
    questions = ["is there a cat ?"]
    first, second = encode(processor, questions, first=0), encode(processor, questions, first=7)
    plugin = plugin_for(llava, first, reference="noise")
    answers = [generated(model, first, plugin)]
    plugin.use_inputs(second)
    answers.append(generated(model, second, plugin))
    for got, inputs in zip(answers, (first, second), strict=True):
        assert got == generated(model, inputs, oracle_for(llava, questions, inputs, "noise"))


def test_a_row_does_not_depend_on_its_batch_mates(llava):
    model, processor = llava
    questions = BATCHES["padded batch"]
    together = generated(model, encode(processor, questions), VDDLogitsProcessor(model, processor))
    for row, question in enumerate(questions):
        alone = generated(model, encode(processor, [question], first=row), VDDLogitsProcessor(model, processor))[0]
        assert together[row][: len(alone)] == alone


def test_an_exception_in_the_middle_leaves_the_object_usable(llava, monkeypatch):
    model, processor = llava
    inputs = encode(processor, BATCHES["padded batch"])
    plugin = VDDLogitsProcessor(model, processor)
    want = generated(model, inputs, VDDLogitsProcessor(model, processor))
    for failing in (0, 1, 3):
        branch, calls = plugin.branches[0], []

        def forward(calls=calls, failing=failing, **kwargs):
            calls.append(1)
            if len(calls) == failing + 1:
                raise RuntimeError("out of memory")
            return model(**kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(branch.reader, "text_model", Called(model, forward))
            with pytest.raises(RuntimeError, match="out of memory"):
                generated(model, inputs, plugin)
        assert generated(model, inputs, plugin) == want


def test_overwriting_the_ids_in_place_does_not_fool_the_object(llava):
    model, processor = llava
    inputs = encode(processor, ["is it red ?"])
    width = inputs["input_ids"].shape[1]
    tokens = [[8, 9, 10], [21, 22, 23], [30, 31, 32]]
    plugin = VDDLogitsProcessor(model, processor)
    buffer = torch.cat([inputs["input_ids"].repeat(3, 1), torch.tensor(tokens)], dim=1)
    scores = torch.zeros(3, model.config.text_config.vocab_size, dtype=torch.float64)
    plugin(buffer[:, :width], scores)
    plugin(buffer[:, : width + 2], scores)
    buffer.copy_(buffer[[2, 0, 0]])
    got = plugin(buffer, scores)
    fresh = VDDLogitsProcessor(model, processor)
    fresh(buffer[:, :width].clone(), scores)
    torch.testing.assert_close(got, fresh(buffer.clone(), scores), rtol=1e-9, atol=1e-9)


def test_reset_frees_the_cache_and_changes_nothing(llava):
    model, processor = llava
    inputs = encode(processor, ["is it red ?"])
    plugin = VDDLogitsProcessor(model, processor)
    want = generated(model, inputs, plugin)
    plugin.reset()
    assert plugin.prompt is None
    assert plugin.branches[0].memo is None
    assert generated(model, inputs, plugin) == want


@pytest.mark.parametrize("reference", ["noise", "zero", "mask", "none"])
def test_a_prompt_that_ends_in_its_image_is_answered_alike_the_second_time(llava, reference):
    model, processor = llava
    ids = processor(images=[picture(3)], text="<s> USER: is it red ? <image>", return_tensors="pt").to(torch.float64)
    plugin = plugin_for(llava, ids, reference=reference, alpha=3.0)
    first = generated(model, ids, plugin)
    assert generated(model, ids, plugin) == first
    assert generated(model, ids, plugin_for(llava, ids, reference=reference, alpha=3.0)) == first


# ---- beside generate's other settings


@pytest.mark.parametrize("decoding", ["greedy", "beams", "sampling"])
def test_repetition_penalty_and_min_new_tokens_work_beside_it(llava, decoding):
    model, processor = llava
    questions = BATCHES["padded batch"]
    inputs = encode(processor, questions)
    settings = DECODING[decoding] | {"repetition_penalty": 1.4, "min_new_tokens": STEPS}
    got = generated(model, inputs, VDDLogitsProcessor(model, processor), **settings)
    assert got == generated(model, inputs, oracle_for(llava, questions, inputs, "none"), **settings)
    assert all(2 not in row[: STEPS - 1] for row in got)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_single_and_half_precision_run_and_give_the_same_twice(dtype, preset):
    model, processor = tiny_llava(dtype=dtype)
    inputs = encode(processor, BATCHES["padded batch"]).to(dtype)
    first, second = (
        generated(model, inputs, VDDLogitsProcessor(model, processor, inputs=inputs, preset=preset)) for _ in range(2)
    )
    assert first == second


def test_the_model_its_configuration_and_its_logits_are_untouched_bit_for_bit(llava):
    model, processor = llava
    inputs = encode(processor, BATCHES["padded batch"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    settings, methods = model.config.to_json_string(), set(vars(model))
    plain = generated(model, inputs, None)
    logits = model(**inputs).logits
    for reference in REFERENCES:
        generated(model, inputs, plugin_for(llava, inputs, reference=reference))
    assert torch.equal(model(**inputs).logits, logits)
    assert generated(model, inputs, None) == plain
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.to_json_string() == settings
    assert set(vars(model)) == methods


def test_cutoff_only_runs_no_second_branch(llava):
    model, processor = llava
    inputs = encode(processor, BATCHES["padded batch"])
    plugin = VDDLogitsProcessor(model, processor, preset="cutoff-only")
    assert generated(model, inputs, plugin, do_sample=False) == generated(model, inputs, None, do_sample=False)
    assert plugin.forwards == 0


# ---- errors


def test_another_models_vocabulary_is_an_error_that_shows_both_sizes(llava):
    model, processor = llava
    inputs = encode(processor, ["is it red ?"])
    other, _ = tiny_llava()
    other.resize_token_embeddings(50, mean_resizing=False)
    plugin = VDDLogitsProcessor(other, processor)
    with pytest.raises(ValueError, match=r"over 35 tokens .* over 50"):
        generated(model, inputs, plugin)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_model_whose_weights_are_nan_is_a_clear_error(llava, preset):
    _, processor = llava
    broken, _ = tiny_llava()
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    inputs = encode(processor, ["is it red ?"])
    plugin = VDDLogitsProcessor(broken, processor, inputs=inputs, preset=preset)
    with pytest.raises(ValueError, match="NaN or infinite"):
        generated(broken, inputs, plugin)


def test_a_second_branch_that_alone_is_nan_is_a_clear_error(llava):
    model, processor = llava
    broken, _ = tiny_llava()
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    with pytest.raises(ValueError, match="`blind` has rows"):
        generated(model, encode(processor, ["is it red ?"]), VDDLogitsProcessor(broken, processor))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "blur"}, "unknown reference 'blur'; known: none, unk, both, noise, zero, one, mask"),
        ({"preset": "dola"}, "unknown preset 'dola'; known: vdd, vcd, icd, m3id, nolan, cutoff-only"),
        ({"alpha": -1.0}, "alpha is -1; wanted a number in"),
        ({"beta": 1.5}, r"beta is 1.5; wanted a number in \[0, 1\]"),
        ({"alhpa": 1.0}, "unknown setting 'alhpa'; known: reference, alpha, beta"),
        ({"noise_step": 1000}, "noise_step is 1000"),
        ({"schedule": "linear"}, "unknown schedule 'linear'; known: constant, m3id, nolan"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_at_once_with_what_can(llava, options, message):
    with pytest.raises(ValueError, match=message):
        VDDLogitsProcessor(*llava, **options)


def test_a_prompt_without_an_image_is_an_error(llava):
    model, processor = llava
    ids = processor.tokenizer(chat(processor, "is it red ?", 0), return_tensors="pt")
    ids.pop("token_type_ids", None)
    with pytest.raises(ValueError, match="none of the 1 prompts has an image token"):
        generated(model, ids, VDDLogitsProcessor(model, processor))


def test_a_model_that_is_no_vision_language_model_is_an_error(llava):
    model, processor = llava
    text_only = copy.copy(model.model.language_model)
    with pytest.raises(
        ValueError, match=r"of the family 'llama', whose image-free input is not known; known: llava, .*blind_inputs="
    ):
        VDDLogitsProcessor(text_only, processor)


def test_from_config_takes_the_settings_as_they_are(llava):
    config = DebiasConfig(reference="unk", alpha=0.3, beta=0.4, unk_per="patch", seed=3)
    assert VDDLogitsProcessor.from_config(config, *llava).config == config


# ---- the embedded model


@pytest.fixture(scope="module")
def toy_in_double(toy):
    model, processor = toy
    return copy.deepcopy(model).double(), processor


@pytest.mark.parametrize("reference", ["none", "unk", "noise"])
@pytest.mark.parametrize("decoding", ["greedy", "beams", "sampling"])
def test_the_embedded_model_gives_the_tokens_of_a_stateless_recompute(toy_in_double, decoding, reference):
    model, processor = toy_in_double
    questions = ["is there a red circle in the image ?", "what color is it ?"]
    inputs = encode(processor, questions, size=96)
    got = generated(model, inputs, plugin_for(toy_in_double, inputs, reference=reference), **DECODING[decoding])
    oracle = oracle_for(toy_in_double, questions, inputs, reference)
    assert got == generated(model, inputs, oracle, **DECODING[decoding])
