"""vdd.generate and vdd.patch: whatever code calls `generate`, images are debiased once and the model is given back."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import transformers
from transformers import GenerationConfig, GenerationMixin, LlavaForConditionalGeneration, LogitsProcessorList

import vdd
from tests.recomputed import QUESTIONS, STEPS, STRONG, Case
from tests.tiny import tiny_llava


@pytest.fixture
def case():
    return Case("LLaVA-1.5", QUESTIONS[1:])


@pytest.fixture
def want(case):
    tokens = case.new(case.plain([case.oracle()]))
    assert tokens != case.new(case.plain([]))
    return tokens


# ---- what code may call


def test_positional_inputs_and_a_configuration_behind_them_are_debiased(case, want):
    call = case.call({})
    ids = call.pop("input_ids")
    config = GenerationConfig(max_new_tokens=call.pop("max_new_tokens"), pad_token_id=0, eos_token_id=2)
    with vdd.patch(case.model, case.processor, **STRONG):
        assert case.new(case.model.generate(ids, config, **call)) == want
        assert case.new(case.model.generate(inputs=ids, generation_config=config, **call)) == want
    assert (
        case.new(vdd.generate(case.model, case.processor, inputs=ids, generation_config=config, **call, **STRONG))
        == want
    )


def test_a_call_without_an_image_inside_the_patch_is_plain_decoding(case, want):
    plain = case.model.generate(**case.text_only())
    with vdd.patch(case.model, case.processor, **STRONG):
        assert torch.equal(case.model.generate(**case.text_only()), plain)
        assert case.new(case.model.generate(**case.call({}))) == want
        assert torch.equal(case.model.generate(**case.text_only()), plain)


def test_the_settings_of_the_patch_reach_the_branch(case):
    with vdd.patch(case.model, case.processor, reference="noise", **STRONG):
        got = case.new(case.model.generate(**case.call({})))
    assert got == case.new(case.plain([case.oracle("noise")]))
    with vdd.patch(case.model, case.processor, preset="cutoff-only"):
        assert case.new(case.model.generate(**case.call({}))) == case.new(case.plain([]))


@pytest.mark.parametrize("way", ["patch", "generate_kwargs"])
def test_the_pipeline_of_transformers_is_debiased(case, want, way):
    pipe = transformers.pipeline("image-text-to-text", model=case.model, processor=case.processor)
    call = {"images": case.shown[0], "text": case.member.prompt(case.processor, QUESTIONS[1], 1)}
    settings = {"max_new_tokens": STEPS}
    if way == "patch":
        with vdd.patch(case.model, case.processor, **STRONG):
            out = pipe(**call, generate_kwargs=settings, return_tensors=True)
    else:
        settings["logits_processor"] = [vdd.VDDLogitsProcessor(case.model, case.processor, **STRONG)]
        out = pipe(**call, generate_kwargs=settings, return_tensors=True)
    ids = torch.as_tensor(out[0]["generated_token_ids"]).tolist()
    assert ids[-STEPS:] == want[0]


def test_a_conversation_given_to_the_pipeline_is_debiased(case, want):
    pipe = transformers.pipeline("image-text-to-text", model=case.model, processor=case.processor)
    content = [{"type": "image", "image": case.shown[0][0]}, {"type": "text", "text": QUESTIONS[1]}]
    with vdd.patch(case.model, case.processor, **STRONG):
        out = pipe(
            text=[{"role": "user", "content": content}], generate_kwargs={"max_new_tokens": STEPS}, return_tensors=True
        )
    assert torch.as_tensor(out[0]["generated_token_ids"]).tolist()[-STEPS:] == want[0]


# ---- once and only once


def loop(model, input_ids, logits_processor, stopping_criteria, generation_config, **kwargs):
    """A decoding method as users write them."""
    return model._sample(
        input_ids,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        generation_config=generation_config,
        **kwargs,
    )


def forgetful(model, input_ids, logits_processor, **kwargs):
    return loop(model, input_ids, LogitsProcessorList(), **kwargs)


SCORED = {"return_dict_in_generate": True, "output_scores": True}


def both_ways(case: Case, **settings):
    """What vdd.generate returns, and `generate` inside the patch."""
    yield case.debiased(**settings)
    with vdd.patch(case.model, case.processor, **STRONG):
        yield case.model.generate(**case.call(settings))


def once(case: Case, out) -> bool:
    """Whether the scores are those of one contrast: two would be close enough for the same tokens."""
    want = torch.stack(case.plain([case.oracle()], **SCORED).scores)
    return torch.allclose(torch.stack(out.scores), want, rtol=1e-5, atol=1e-5)


def test_a_decoding_method_of_the_users_own_is_debiased_once(case):
    assert all(once(case, out) for out in both_ways(case, custom_generate=loop, **SCORED))


def test_a_decoding_method_that_leaves_processors_out_is_an_error(case):
    with pytest.raises(ValueError, match="asked no logits processor, so nothing was debiased"):
        next(both_ways(case, custom_generate=forgetful))
    with (
        vdd.patch(case.model, case.processor),
        pytest.raises(ValueError, match="asked no logits processor, so nothing was debiased"),
    ):
        case.model.generate(**case.call({"custom_generate": forgetful}))


@pytest.mark.parametrize("again", ["GenerationMixin.generate(model, ", "model.generate("])
def test_a_folder_with_a_custom_generate_is_debiased_once(case, again, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    (tmp_path / "custom_generate").mkdir()
    code = (
        "from transformers import GenerationMixin\n\n"
        "def generate(model, *args, **kwargs):\n"
        "    kwargs.pop('custom_generate', None)\n"
        f"    return {again}*args, **kwargs)\n"
    )
    (tmp_path / "custom_generate" / "generate.py").write_text(code)
    settings = {"custom_generate": str(tmp_path), "trust_remote_code": True}
    assert all(once(case, out) for out in both_ways(case, **settings, **SCORED))


def test_generate_on_a_patched_model_takes_its_own_settings_and_debiases_once(case):
    with vdd.patch(case.model, case.processor, alpha=0.1):
        assert once(case, case.debiased(**SCORED))


def test_a_processor_that_is_passed_inside_the_patch_is_the_one_that_counts(case):
    plugin = vdd.VDDLogitsProcessor(case.model, case.processor, **STRONG)
    with vdd.patch(case.model, case.processor, alpha=0.1):
        assert once(case, case.model.generate(**case.call({"logits_processor": [plugin], **SCORED})))


# ---- the model afterwards


def test_a_second_patch_inside_the_first_is_an_error_and_the_first_goes_on(case, want):
    with vdd.patch(case.model, case.processor, **STRONG):
        with pytest.raises(ValueError, match="patched already"), vdd.patch(case.model, case.processor):
            pass
        assert case.new(case.model.generate(**case.call({}))) == want
    assert "generate" not in vars(case.model)


@pytest.mark.parametrize("where", ["in the block", "in generate", "at once"])
def test_an_exception_gives_the_model_back(case, where):
    before = dict(vars(case.model))

    def failing():
        with vdd.patch(case.model, case.processor, **({"reference": "blur"} if where == "at once" else {})):
            if where == "in generate":
                case.model.generate(**case.call({"num_beams": -1}))
            raise RuntimeError("stop")

    with pytest.raises((RuntimeError, ValueError)):
        failing()
    assert vars(case.model) == before
    assert case.model.generate.__func__ is LlavaForConditionalGeneration.generate


def test_an_instances_own_generate_is_called_and_put_back(case, want):
    calls = []
    original = case.model.generate

    def own(*args, **kwargs):
        calls.append(1)
        return original(*args, **kwargs)

    case.model.generate = own
    try:
        with vdd.patch(case.model, case.processor, **STRONG):
            got = case.new(case.model.generate(**case.call({})))
        assert case.model.generate is own
    finally:
        del case.model.generate
    assert got == want
    assert calls == [1]


def test_a_wrapped_generate_that_names_no_arguments_takes_positional_ids(case, want):
    original = case.model.generate

    def wrapper(*args, **kwargs):  # as PEFT's
        return original(*args, **kwargs)

    call = case.call({})
    ids = call.pop("input_ids")
    case.model.generate = wrapper
    try:
        with vdd.patch(case.model, case.processor, **STRONG):
            assert case.new(case.model.generate(ids, **call)) == want
    finally:
        del case.model.generate


def test_a_copy_of_a_patched_model_debiases_with_its_own_weights():
    model, processor = tiny_llava(38)
    case = Case("LLaVA-1.5", QUESTIONS[1:], model=model)
    with vdd.patch(model, processor, **STRONG):
        copied = copy.deepcopy(model)
        copied.lm_head.weight.data.mul_(-1.0)
        got = copied.generate(**case.call({}))
        kept = case.new(model.generate(**case.call({})))
    assert "generate" not in vars(model)
    other = Case("LLaVA-1.5", QUESTIONS[1:], model=copied)
    assert other.new(got) == other.new(other.plain([other.oracle()]))
    assert kept == case.new(case.plain([case.oracle()]))


def test_a_patched_model_is_saved_as_it_is(case, tmp_path: Path):
    with vdd.patch(case.model, case.processor):
        case.model.save_pretrained(tmp_path)
    loaded = LlavaForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64)
    saved, kept = loaded.state_dict(), case.model.state_dict()
    assert saved.keys() == kept.keys()
    assert all(torch.equal(saved[name], kept[name]) for name in kept)
    assert "generate" not in vars(loaded)


def test_unwrapping_by_accelerate_leaves_the_patch_in_place(case, want):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    prepared = accelerator.prepare_model(case.model, evaluation_mode=True)
    with vdd.patch(case.model, case.processor, **STRONG):
        assert case.new(accelerator.unwrap_model(prepared).generate(**case.call({}))) == want


# ---- images that cannot be seen


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL", "Janus"])
def test_embeddings_alone_are_an_error_and_with_their_ids_debiased(family):
    case = Case(family, QUESTIONS[:1])
    ids = case.inputs["input_ids"]
    call = {"inputs_embeds": case.model.get_input_embeddings()(ids).detach(), "max_new_tokens": STEPS}
    with pytest.raises(ValueError, match="wanted input_ids as well"):
        vdd.generate(case.model, case.processor, **call)
    with vdd.patch(case.model, case.processor, **STRONG):
        with pytest.raises(ValueError, match="wanted input_ids as well"):
            case.model.generate(**call)
        got = case.new(case.model.generate(**call, input_ids=ids))
    want = GenerationMixin.generate(case.model, **call, input_ids=ids, logits_processor=[case.oracle()])
    assert got == case.new(want)


# ---- Janus


def test_janus_is_debiased_by_generate_and_patch_and_its_own_generate_alone_would_not():
    case = Case("Janus")
    want = case.new(case.plain([case.oracle()]))
    assert [case.new(out) for out in both_ways(case)] == [want, want]
    dropped = case.model.generate(**case.call({"logits_processor": [case.oracle()], "generation_mode": "text"}))
    assert case.new(dropped) != want
    with pytest.raises(ValueError, match=r"leaves logits processors out; wanted\s+vdd.generate"):
        vdd.VDDLogitsProcessor(case.model, case.processor)


def test_janus_text_mode_by_name_is_debiased_and_its_image_mode_an_error():
    case = Case("Janus")
    want = case.new(case.plain([case.oracle()]))
    assert [case.new(out) for out in both_ways(case, generation_mode="text")] == [want, want]
    for call in (
        lambda: next(both_ways(case, generation_mode="image")),
        lambda: list(both_ways(case, generation_mode="image"))[1],
    ):
        with pytest.raises(ValueError, match="generation_mode is not 'text'"):
            call()
