"""Drafts of an assistant model or from the prompt, debiased: the tokens of step-by-step debiased decoding."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import LlamaForCausalLM, LogitsProcessor

import vdd
from tests.recomputed import QUESTIONS, STRONG, Case
from tests.tiny import tiny_llava, tiny_tokenizer

OLD = Version(transformers.__version__) < Version("5")
LONG = 12


def asked(name: str, **more) -> Case:
    """One prompt: transformers drafts for a batch of one."""
    return Case(name, QUESTIONS[1:], **more)


def debiased(case: Case, **settings):
    return case.new(case.debiased(**{"max_new_tokens": LONG, **settings}))


def recomputed(case: Case, reference: str = "none", **settings):
    return case.new(case.plain([case.oracle(reference)], **{"max_new_tokens": LONG, **settings}))


def assistants(case: Case) -> dict:
    """Models of the same vocabulary: the model itself, one a little off, and one that is always wrong."""
    near = copy.deepcopy(case.model)
    generator = torch.Generator().manual_seed(0)
    for parameter in near.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype) * 0.02
    far = copy.deepcopy(case.model)
    far.get_output_embeddings().weight.data *= -1.0
    return {"itself": copy.deepcopy(case.model), "near": near, "far": far}


def unsaid(case: Case) -> dict:
    """Ids that a trained model never says, and that transformers takes for an image where they are drafted."""
    names = ("image_token_id", "vision_start_token_id", "vision_end_token_id", "video_token_id")
    return {"suppress_tokens": [getattr(case.model.config, n) for n in names if hasattr(case.model.config, n)]}


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL", "Gemma3"])
@pytest.mark.parametrize("kind", ["itself", "near", "far"])
def test_an_assistants_drafts_give_the_tokens_of_greedy_debiased_decoding(family, kind):
    case = asked(family)
    got = debiased(case, assistant_model=assistants(case)[kind], **unsaid(case))
    assert got == recomputed(case, **unsaid(case))
    assert got != case.new(case.plain([], max_new_tokens=LONG, **unsaid(case)))


@pytest.mark.parametrize("kind", ["itself", "near", "far"])
def test_drafts_are_sampled_as_beside_a_recompute(kind):
    case = asked("LLaVA-1.5")
    assistant = assistants(case)[kind]  # copied for each call: transformers keeps notes in its configuration
    settings = {"do_sample": True, "top_k": 0, "temperature": 1.2}
    got = debiased(case, assistant_model=copy.deepcopy(assistant), **settings)
    assert got == recomputed(case, assistant_model=copy.deepcopy(assistant), **settings)


@pytest.mark.parametrize("reference", ["mask", "noise", "both"])
@pytest.mark.parametrize("drafts", ["assistant", "prompt"])
def test_drafts_go_with_every_kind_of_reference(reference, drafts):
    case = asked("LLaVA-1.5", first=3)
    settings = {"prompt_lookup_num_tokens": 3}
    if drafts == "assistant":
        settings = {"assistant_model": assistants(case)["itself"]}
    assert debiased(case, reference=reference, **settings) == recomputed(case, reference)


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL", "Gemma3", "PaliGemma", "InstructBLIP (T5)"])
@pytest.mark.parametrize("settings", [{}, {"repetition_penalty": 1.2}, {"max_matching_ngram_size": 1}], ids=str)
def test_drafts_from_the_prompt_give_the_tokens_of_greedy_debiased_decoding(family, settings):
    case = asked(family)
    looked_up = debiased(case, prompt_lookup_num_tokens=3, **settings)
    assert looked_up == recomputed(case, **{name: settings[name] for name in settings if name == "repetition_penalty"})


def test_drafts_from_the_prompt_are_sampled_as_beside_a_recompute():
    case = asked("LLaVA-1.5")
    settings = {"prompt_lookup_num_tokens": 3, "do_sample": True, "top_k": 0}
    assert debiased(case, **settings) == recomputed(case, **settings)


class Counting(LogitsProcessor):
    """Counts the questions that a processor is asked, those of the look-up's made-up scores apart."""

    def __init__(self, plugin) -> None:
        self.plugin, self.asked, self.made_up = plugin, 0, 0

    def __call__(self, ids, scores):
        made_up = bool((scores == 1).all())
        self.asked, self.made_up = self.asked + (not made_up), self.made_up + made_up
        return self.plugin(ids, scores)


@pytest.mark.parametrize("drafts", ["itself", "near", "far", "prompt"])
def test_a_draft_costs_at_most_one_step_of_the_branch_for_each_question_asked(drafts):
    case = asked("LLaVA-1.5")
    settings = {"prompt_lookup_num_tokens": 3}
    if drafts != "prompt":
        settings = {"assistant_model": assistants(case)[drafts]}
    plugin = vdd.VDDLogitsProcessor(case.model, case.processor, **STRONG)
    counting = Counting(plugin)
    blind = torch.tensor([case.member.blind_ids(case.processor, case.questions[0])])
    read = []

    def note(_, args, given):
        read.append(torch.equal(given["input_ids"], blind))

    hook = case.model.register_forward_pre_hook(note, with_kwargs=True)
    case.plain([counting], max_new_tokens=LONG, **settings)
    hook.remove()
    assert plugin.forwards <= counting.asked
    assert (counting.made_up > 0) == (drafts == "prompt")
    assert sum(read) == 1  # the prompt without its image


def test_an_assistant_that_reads_text_alone_is_followed_or_refused_as_transformers_does():
    case = asked("LLaVA-1.5")
    with torch.random.fork_rng(devices=[]):
        text = LlamaForCausalLM(case.model.config.text_config).double().eval()
    text.model.load_state_dict(case.model.model.language_model.state_dict())
    text.lm_head.load_state_dict(case.model.lm_head.state_dict())
    if OLD:
        with pytest.raises(ValueError, match="not used by the model: \\['pixel_values'\\]"):
            debiased(case, assistant_model=text)
        return
    assert debiased(case, assistant_model=text, **unsaid(case)) == recomputed(case, **unsaid(case))


@pytest.mark.parametrize("sampled", [False, True])
def test_an_assistant_with_another_tokenizer_is_an_error(sampled):
    case = asked("LLaVA-1.5")
    other = tiny_tokenizer()
    other.add_tokens(["zebra"])
    assistant, _ = tiny_llava(99)
    assistant.resize_token_embeddings(len(other), mean_resizing=False)
    settings = {
        "assistant_model": assistant,
        "tokenizer": case.processor.tokenizer,
        "assistant_tokenizer": other,
        "do_sample": sampled,
    }
    with pytest.raises(ValueError, match="wanted an assistant_model of the same tokenizer"):
        debiased(case, **settings)
    with pytest.raises(ValueError):  # ours or, in 4.57, that of transformers, which feeds it the image without its ids
        case.plain([vdd.VDDLogitsProcessor(case.model, case.processor)], **settings)


def test_an_assistant_of_another_vocabulary_without_its_tokenizer_is_an_error():
    case = asked("LLaVA-1.5")
    other, _ = tiny_llava(99)
    other.resize_token_embeddings(40, mean_resizing=False)
    with pytest.raises(ValueError, match="different tokenizers"):
        debiased(case, assistant_model=other)


@pytest.mark.parametrize("settings", [{"prompt_lookup_num_tokens": 3}, {"assistant_model": None}], ids=str)
def test_a_family_whose_state_cannot_be_taken_back_is_refused_by_transformers(settings):
    if OLD:
        pytest.skip("transformers 4.57 has no Qwen3.5")
    case = asked("Qwen3.5")
    if "assistant_model" in settings:
        settings = {"assistant_model": copy.deepcopy(case.model)}
    with pytest.raises(ValueError, match="not supported with stateful models"):
        debiased(case, **settings)
