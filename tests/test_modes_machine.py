"""Number formats, quantised weights, offloaded layers and compiled forwards: the tokens of a recompute all the same."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CompileConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LogitsProcessor,
)

import vdd
from tests.oracles.recompute import picture
from tests.recomputed import QUESTIONS, STRONG, Case, built
from tests.tiny import SPECIALS, WORDS, tiny_llava, tiny_processor
from tests.zoo import MEMBERS
from tests.zoo.member import set_weights
from vdd.generation import CalledLogitsProcessor

everyone = pytest.mark.parametrize("family", [member.name for member in MEMBERS])
quietly = pytest.mark.filterwarnings(  # what torch says of its own insides
    "ignore::DeprecationWarning:torch.*", "ignore::UserWarning:torch.*", "ignore::FutureWarning:torch.*"
)
OTHERS = ("Qwen2.5-VL", "Gemma3", "PaliGemma", "Florence-2")


def debiased(case: Case, **settings):
    return case.new(case.debiased(**settings))


# ---- number formats


class Forced(LogitsProcessor):
    """Lets a plugin debias zeros, keeps what it makes of them, and says the same words whatever the model says."""

    def __init__(self, plugin, words) -> None:
        self.plugin, self.words, self.made = plugin, words, []

    def __call__(self, ids, scores):
        self.made.append(self.plugin(ids, torch.zeros_like(scores)))
        said = torch.full_like(scores, -1e4)
        said[:, self.words[len(self.made) - 1]] = 0.0
        return said


def of_the_branch_alone(case: Case) -> torch.Tensor:
    """(steps, rows, vocab) of the image-free branch: minus its log-probabilities, up to a constant."""
    plugin = CalledLogitsProcessor(case.model, case.processor, inputs=case.inputs, alpha=1.0, beta=0.0)
    forced = Forced(plugin, [9, 14, 11])
    case.plain([forced], max_new_tokens=3)
    return torch.stack(forced.made)


def narrowed(family: str, dtype: torch.dtype):
    """The zoo's model in another number format; what it keeps as complex numbers stays."""
    model = copy.deepcopy(built(family)[0])
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype)
    if hasattr(getattr(model, "model", None), "text_config_dtype"):  # PaliGemma's in transformers 4.57
        model.model.text_config_dtype = dtype
    return model


@everyone
def test_batch_mates_move_a_rows_scores_by_less_than_one_in_a_hundred_thousand_in_float32(family):
    model = narrowed(family, torch.float32)
    together = of_the_branch_alone(Case(family, model=model, dtype=torch.float32))
    for row, question in enumerate(QUESTIONS):
        alone = of_the_branch_alone(Case(family, [question], first=row, model=model, dtype=torch.float32))
        torch.testing.assert_close(together[:, row], alone[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["LLaVA-1.5", *OTHERS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_each_number_format_runs_and_gives_the_same_twice(family, dtype):
    case = Case(family, model=narrowed(family, dtype), dtype=dtype)
    first = debiased(case, do_sample=False)
    assert debiased(case, do_sample=False) == first
    if dtype == torch.float32:
        assert first == case.new(case.plain([case.oracle()]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_cut_off_is_decided_on_upcast_scores(dtype):
    model, processor = tiny_llava(dtype=dtype)
    case = Case("LLaVA-1.5", QUESTIONS[:1], model=model, dtype=dtype)
    ids = case.inputs["input_ids"]
    narrow = torch.zeros(1, model.config.text_config.vocab_size).to(dtype)
    narrow[0, :4] = torch.tensor([0.0, -2.296875, -2.3125, -2.28125]) + 8  # ln 0.1 = -2.3026
    got, wide = (vdd.VDDLogitsProcessor(model, processor, beta=0.1)(ids, scores) for scores in (narrow, narrow.float()))
    assert got.dtype == torch.float32
    assert torch.equal(got, wide)
    kept = torch.isfinite(got[0]).nonzero().flatten().tolist()
    assert kept == [n for n, score in enumerate(narrow[0].tolist()) if score - 8 >= -2.302585092994046]


# ---- bitsandbytes


@pytest.fixture(scope="module")
def wide_llava(tmp_path_factory):
    """Folder of a LLaVA whose layers are 64 wide, as four bits want them."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**sizes, image_size=16, patch_size=8),
        text_config=LlamaConfig(
            **sizes,
            vocab_size=len(SPECIALS + WORDS),
            max_position_embeddings=256,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
        image_token_index=4,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    with torch.random.fork_rng(devices=[]):
        model = LlavaForConditionalGeneration(config)
    set_weights(model, std=0.25)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, 2
    model.save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}], ids=str)
@pytest.mark.filterwarnings("ignore::FutureWarning:bitsandbytes.*", "ignore::UserWarning:bitsandbytes.*")
def test_a_model_quantised_by_bitsandbytes_gives_the_tokens_of_a_recompute_on_it(wide_llava, quantize, dtype, settings):
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    if "cpu" not in getattr(bitsandbytes, "supported_torch_devices", ()):
        pytest.skip(f"bitsandbytes {bitsandbytes.__version__} has no CPU backend")
    model, processor = vdd.load(str(wide_llava), device="cpu", dtype=dtype, quantize=quantize)
    kind = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}[quantize]
    assert isinstance(model.model.language_model.layers[0].mlp.up_proj, kind)
    case = Case("LLaVA-1.5", model=model, dtype=model.dtype)
    case.processor = processor
    got = debiased(case, **settings)
    assert got == case.new(case.plain([case.oracle()], **settings))
    assert got != case.new(case.plain([], **settings))


# ---- accelerate


@pytest.mark.parametrize("family", ["LLaVA-1.5", *OTHERS])
@pytest.mark.parametrize("how", ["cpu", "disk"])
@pytest.mark.filterwarnings("ignore:You are calling .generate.. with the `input_ids` being on a device:UserWarning")
def test_offloaded_weights_give_the_tokens_of_a_recompute(family, how, tmp_path):
    import accelerate

    whole = Case(family)
    want = whole.new(whole.plain([whole.oracle()]))
    model = copy.deepcopy(whole.model)
    if how == "cpu":
        accelerate.cpu_offload(model, execution_device="cpu")
    else:
        places = {name: "disk" for name, _ in model.named_children()}
        accelerate.dispatch_model(model, places, main_device="cpu", offload_dir=tmp_path, force_hooks=True)
    assert model.device.type == "meta"
    model.generation_config = whole.model.generation_config
    assert debiased(Case(family, model=model)) == want
    with vdd.patch(model, whole.processor, **STRONG):
        assert whole.new(model.generate(**whole.call({"num_beams": 2}))) == whole.new(
            whole.plain([whole.oracle()], num_beams=2)
        )


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL", "Mllama", "InstructBLIP (T5)"])
def test_a_model_spread_by_device_map_auto_gives_the_tokens_of_a_recompute(family, tmp_path):
    whole = Case(family)
    want = whole.new(whole.plain([whole.oracle()]))
    whole.model.save_pretrained(tmp_path)
    model = type(whole.model).from_pretrained(tmp_path, device_map="auto", dtype=torch.float64)
    model.generation_config = whole.model.generation_config
    assert debiased(Case(family, model=model)) == want


# ---- PEFT


@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL"])
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore:Input and output embeddings")
def test_a_model_with_an_adapter_gives_the_tokens_of_a_recompute_on_its_merged_weights(family):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    settings = peft.LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False, r=4)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = peft.get_peft_model(copy.deepcopy(built(family)[0]), settings).double().eval()
    merged = Case(family, model=copy.deepcopy(model).merge_and_unload().double().eval())
    want = merged.new(merged.plain([merged.oracle()]))
    case = Case(family, model=model)
    assert debiased(case) == want
    call = case.call({})
    ids = call.pop("input_ids")
    with vdd.patch(model, case.processor, **STRONG):
        assert case.new(model.generate(input_ids=ids, **call)) == want
        assert case.new(model.generate(ids, **call)) == want


# ---- torch.compile


@pytest.fixture
def compiling():
    yield
    torch._dynamo.reset()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["LLaVA-1.5", "Qwen2.5-VL"])
@quietly
def test_a_compiled_forward_gives_the_tokens_of_a_recompute(family, compiling):
    plain = Case(family)
    want = plain.new(plain.plain([plain.oracle()], max_new_tokens=3))
    model = copy.deepcopy(plain.model)
    calls = []

    def backend(graph, _):
        def run(*args):
            calls.append(1)
            return graph(*args)

        return run

    model.forward = torch.compile(model.forward, backend=backend)
    assert debiased(Case(family, model=model), max_new_tokens=3) == want
    assert calls


@quietly
def test_a_static_cache_whose_decoding_steps_are_compiled_gives_the_tokens_of_a_recompute(compiling):
    plain = Case("LLaVA-1.5")
    want = plain.new(plain.plain([plain.oracle()]))
    model = copy.deepcopy(plain.model)
    how = CompileConfig(backend="eager", fullgraph=False, mode=None)
    how._compile_all_devices = True
    assert debiased(Case("LLaVA-1.5", model=model), cache_implementation="static", compile_config=how) == want
    assert hasattr(model, "_compiled_call")


def test_inputs_go_where_accelerate_brings_the_embeddings_when_the_model_is_offloaded():
    from accelerate import cpu_offload

    model, processor = tiny_llava()
    pipe = vdd.Pipeline(model, processor)
    want = pipe(picture(0), "is it red ?").text
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.get_input_embeddings().weight.device.type == "meta"
    assert pipe.device == torch.device("cpu")
    assert pipe(picture(0), "is it red ?").text == want
