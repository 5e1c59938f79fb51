"""The second inputs against prompts rendered without the image, explicit masks, and changed pixels."""

from __future__ import annotations

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import LlavaProcessor, PreTrainedTokenizerFast

from tests.oracles.recompute import IMAGE_ID, Second, chat, encode, next_logits, picture, seconds
from tests.tiny import tiny_processor
from vdd.batch import batch_of, has_image
from vdd.branch import Branch
from vdd.config import DebiasConfig
from vdd.families import ADAPTERS, Family, family_of
from vdd.pixels import noise
from vdd.placeholders import Placeholders
from vdd.reader import Reader
from vdd.reference import BlindPrompt, blind_prompts

FAMILY = Family("llava", frozenset({IMAGE_ID}), ADAPTERS["llava"], pad_id=0, bos_id=1)


def prompts_of(input_ids, config, family, *, processor=None, inputs=None) -> tuple[BlindPrompt, ...]:
    batch = batch_of(input_ids, family, processor=processor, inputs=inputs)
    has_image(batch, family, processor)
    return blind_prompts(batch, config, family, processor=processor)


def cut(row: list[int], family, processor) -> list[int]:
    return Placeholders(family, processor).without(row)


NEWLINE = 7
QUESTIONS = [
    "what color is the dog in the image ?",
    "is it red ?",
    "is there\na fox ?\nyes and no ?",
    "what ?\n\nis it",
]


def real_rows(prompt: BlindPrompt) -> list[list[int]]:
    """Each row's ids without its padding, which must be on the left."""
    rows = []
    for ids, positions in zip(prompt.input_ids.tolist(), prompt.position_ids.tolist(), strict=True):
        length = positions[-1] + 1
        assert positions == [0] * (len(ids) - length) + list(range(length))
        rows.append(ids[len(ids) - length :])
    return rows


def made(processor, inputs, reference, **options) -> BlindPrompt:
    config = DebiasConfig(reference=reference, **options)
    (prompt,) = prompts_of(inputs["input_ids"], config, FAMILY, processor=processor, inputs=inputs)
    return prompt


# ---- none


@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [2, 2, 2, 2], [1, 2, 3, 1]], ids=str)
@pytest.mark.parametrize("give_inputs", [True, False])
def test_none_is_the_chat_template_rendered_without_the_image(llava, counts, give_inputs):
    _, processor = llava
    inputs = encode(processor, QUESTIONS, counts=counts)
    config = DebiasConfig(reference="none")
    (prompt,) = prompts_of(
        inputs["input_ids"], config, FAMILY, processor=processor, inputs=inputs if give_inputs else None
    )
    assert real_rows(prompt) == [row[0].ids for row in seconds(processor, QUESTIONS, "none")]
    assert prompt.attention_mask.sum(-1).tolist() == [len(row) for row in real_rows(prompt)]
    assert not prompt.pixels


@pytest.mark.parametrize(
    ("prompt", "blind"),
    [
        ("<s> USER: <image> what color is it ? ASSISTANT:", "<s> USER: what color is it ? ASSISTANT:"),
        ("<s> USER: what color is it ? <image> ASSISTANT:", "<s> USER: what color is it ? ASSISTANT:"),
        ("<s> USER: what color <image> \n is it ? ASSISTANT:", "<s> USER: what color is it ? ASSISTANT:"),
        ("<s> USER: is it <image> or <image> \n ? ASSISTANT:", "<s> USER: is it or ? ASSISTANT:"),
    ],
    ids=["no newline", "at the end", "in the middle", "two"],
)
def test_none_takes_out_images_that_stand_where_the_template_does_not_put_them(llava, prompt, blind):
    tokenizer = llava[1].tokenizer
    ids = tokenizer(prompt.replace("<image>", "<image> " * 4), add_special_tokens=False)["input_ids"]
    assert ids.count(IMAGE_ID) in (4, 8)
    assert cut(ids, FAMILY, llava[1]) == tokenizer(blind, add_special_tokens=False)["input_ids"]


def test_padding_is_recognised_without_a_processor(llava):
    inputs = encode(llava[1], QUESTIONS)
    (prompt,) = prompts_of(inputs["input_ids"], DebiasConfig(derive="ids"), FAMILY)
    (wanted,) = prompts_of(inputs["input_ids"], DebiasConfig(derive="ids"), FAMILY, inputs=inputs)
    assert prompt.keys == wanted.keys


@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [2, 1, 3, 1]], ids=str)
def test_derive_ids_takes_the_image_tokens_out_and_leaves_the_newlines(llava, counts):
    _, processor = llava
    inputs = encode(processor, QUESTIONS, counts=counts)
    shown = [row[0].ids for row in seconds(processor, QUESTIONS, "seen", inputs=inputs, counts=counts)]
    want = [[i for i in ids if i != IMAGE_ID] for ids in shown]
    got = real_rows(made(processor, inputs, "none", derive="ids"))
    assert got == want
    for row, blind, count in zip(got, real_rows(made(processor, inputs, "none")), counts, strict=True):
        assert row.count(NEWLINE) == blind.count(NEWLINE) + count


def test_both_is_none_and_unk(llava):
    _, processor = llava
    inputs = encode(processor, QUESTIONS)
    config = DebiasConfig(reference="both")
    both = prompts_of(inputs["input_ids"], config, FAMILY, processor=processor, inputs=inputs)
    assert [p.keys for p in both] == [made(processor, inputs, "none").keys, made(processor, inputs, "unk").keys]


def test_a_turn_of_conversation_before_the_question_stays(llava):
    _, processor = llava
    turns = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "is it red ?"}]},
        {"role": "user", "content": [{"type": "text", "text": "what color ?"}]},
    ]
    shown = processor.apply_chat_template(turns, add_generation_prompt=True)
    turns[0]["content"] = turns[0]["content"][1:]
    blind = processor.apply_chat_template(turns, add_generation_prompt=True)
    row = processor(images=[picture(0)], text=[shown])["input_ids"][0]
    assert cut(list(row), FAMILY, processor) == processor.tokenizer(blind).input_ids


# ---- unk


@pytest.mark.parametrize("per", ["image", "patch"])
@pytest.mark.parametrize("counts", [[1, 1, 1, 1], [1, 2, 3, 1]], ids=str)
def test_unk_is_one_token_for_each_image_or_each_patch(llava, per, counts):
    _, processor = llava
    inputs = encode(processor, QUESTIONS, counts=counts)
    want = seconds(processor, QUESTIONS, "unk", inputs=inputs, counts=counts, unk_per=per)
    got = real_rows(made(processor, inputs, "unk", unk_per=per))
    assert got == [row[0].ids for row in want]
    assert [row.count(3) for row in got] == [n * (1 if per == "image" else 4) for n in counts]


# ---- mask


def test_mask_equals_an_explicit_four_dimensional_mask_and_does_not_see_the_pixels(llava):
    model, processor = llava
    inputs, others = encode(processor, QUESTIONS), encode(processor, QUESTIONS, first=50)
    prompt = made(processor, inputs, "mask")
    got = Branch(Reader(model, FAMILY)).logits(prompt, inputs["input_ids"][:, :0])
    for batch in (inputs, others):
        rows = seconds(processor, QUESTIONS, "mask", inputs=batch)
        want = torch.stack([next_logits(model, row[0], []) for row in rows])
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert made(processor, others, "mask").keys == prompt.keys


def test_mask_keeps_the_positions_of_the_prompt_with_its_image(llava):
    _, processor = llava
    inputs = encode(processor, QUESTIONS)
    prompt = made(processor, inputs, "mask")
    real = inputs["attention_mask"].bool()
    assert torch.equal(prompt.position_ids[real], (inputs["attention_mask"].cumsum(-1) - 1)[real])
    assert torch.equal(prompt.attention_mask.bool(), real & (inputs["input_ids"] != IMAGE_ID))


# ---- pixels


@pytest.mark.parametrize(("reference", "value"), [("zero", 0.0), ("one", 1.0)])
def test_zero_and_one_keep_the_prompt_and_set_every_preprocessed_pixel(llava, reference, value):
    _, processor = llava
    inputs = encode(processor, QUESTIONS)
    prompt = made(processor, inputs, reference)
    assert torch.equal(prompt.pixels["pixel_values"], torch.full_like(inputs["pixel_values"], value))
    assert real_rows(prompt) == [row[0].ids for row in seconds(processor, QUESTIONS, "seen", inputs=inputs)]


def test_noise_depends_on_the_seed_and_the_image_and_not_on_batch_mates_or_the_global_random_state(llava):
    _, processor = llava
    inputs = encode(processor, QUESTIONS)
    pixels = made(processor, inputs, "noise").pixels["pixel_values"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        state = torch.get_rng_state()
        assert torch.equal(made(processor, inputs, "noise").pixels["pixel_values"], pixels)
        assert torch.equal(torch.get_rng_state(), state)
    for row, question in enumerate(QUESTIONS):
        alone = encode(processor, [question], first=row)
        assert torch.equal(made(processor, alone, "noise").pixels["pixel_values"][0], pixels[row])
    assert not torch.equal(made(processor, inputs, "noise", seed=1).pixels["pixel_values"], pixels)


def test_noise_at_step_0_is_nearly_the_image_and_grows_with_the_step():
    pixels = torch.linspace(-2, 2, 3 * 8 * 8).reshape(1, 3, 8, 8)
    gaps = [float((noise(pixels, step, seed=0) - pixels).abs().mean()) for step in (0, 300, 600, 999)]
    assert gaps[0] < 0.01
    assert gaps == sorted(gaps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_noise_keeps_shape_and_dtype_and_leaves_its_input_alone(dtype):
    pixels = torch.ones(2, 3, 4, 5, dtype=dtype)
    got = noise(pixels, 500, seed=0)
    assert (got.shape, got.dtype) == (pixels.shape, dtype)
    assert torch.equal(pixels, torch.ones_like(pixels))
    torch.testing.assert_close(got, noise(pixels.double(), 500, seed=0).to(dtype))


@pytest.mark.parametrize("repeats", [2, 3])
def test_repeated_rows_are_given_the_pixels_of_their_own_prompt(llava, repeats):
    _, processor = llava
    counts = [1, 2, 1, 1]
    inputs = encode(processor, QUESTIONS, counts=counts)
    config = DebiasConfig(reference="noise", noise_step=0)
    ids = inputs["input_ids"].repeat_interleave(repeats, dim=0)
    (prompt,) = prompts_of(ids, config, FAMILY, processor=processor, inputs=inputs)
    assert prompt.sources == tuple(row // repeats for row in range(4 * repeats))
    assert len(set(prompt.keys)) == 4
    picked = prompt.select(range(0, 4 * repeats, repeats))
    assert picked.sources == (0, 1, 2, 3)
    assert picked.keys == prompt.keys[::repeats]
    changed = noise(inputs["pixel_values"], 0, seed=0)
    assert torch.equal(picked.pixels["pixel_values"], changed)


def test_instruction_keeps_the_images_and_the_order_of_the_prompt(llava):
    _, processor = llava
    counts = [1, 2, 1, 1]
    inputs = encode(processor, QUESTIONS, counts=counts)
    prompt = made(processor, inputs, "instruction", instruction="is there no image ?")
    want = seconds(processor, QUESTIONS, "instruction", inputs=inputs, counts=counts, instruction="is there no image ?")
    assert real_rows(prompt) == [row[0].ids for row in want]
    assert torch.equal(prompt.pixels["pixel_values"], inputs["pixel_values"])
    put = processor.tokenizer("is there no image ?").input_ids
    shown = seconds(processor, QUESTIONS, "seen", inputs=inputs, counts=counts)
    for got, row in zip(real_rows(prompt), shown, strict=True):
        assert got == [row[0].ids[0], *put, *row[0].ids[1:]]


# ---- errors


def test_rows_without_an_image_are_told_apart_and_a_batch_without_any_is_an_error(llava):
    _, processor = llava
    ids = encode(processor, QUESTIONS)["input_ids"].clone()
    ids[2][ids[2] == IMAGE_ID] = 8
    assert has_image(batch_of(ids, FAMILY, processor=processor), FAMILY, processor) == [True, True, False, True]
    ids[ids == IMAGE_ID] = 8
    with pytest.raises(ValueError, match=r"none of the 4 prompts has an image token \(<image>\)"):
        has_image(batch_of(ids, FAMILY, processor=processor), FAMILY, processor)


def test_unk_without_an_unknown_token_is_an_error_that_says_what_to_use(llava):
    _, processor = llava
    bare = PreTrainedTokenizerFast(tokenizer_object=processor.tokenizer.backend_tokenizer, pad_token="<pad>")
    ids = encode(processor, QUESTIONS[:1])["input_ids"]
    for without in (bare, None):
        with pytest.raises(ValueError, match=r"needs a tokenizer with an unknown token.*reference='none'"):
            prompts_of(ids, DebiasConfig(reference="unk"), FAMILY, processor=without)


@pytest.mark.parametrize("reference", ["noise", "zero", "one", "instruction"])
def test_a_reference_that_looks_at_pixels_wants_the_inputs_of_this_batch(llava, reference):
    _, processor = llava
    inputs, others = encode(processor, QUESTIONS), encode(processor, QUESTIONS[:3])
    config = DebiasConfig(reference=reference)
    text_alone = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"]}
    for missing in (None, text_alone):
        with pytest.raises(ValueError, match=f"`{reference}` looks at pixels, and none came"):
            prompts_of(inputs["input_ids"], config, FAMILY, processor=processor, inputs=missing)
    with pytest.raises(ValueError, match="wanted the same batch"):
        prompts_of(inputs["input_ids"], config, FAMILY, processor=processor, inputs=others)
    turned = inputs["input_ids"].flip(0)
    with pytest.raises(ValueError, match="wanted the same batch"):
        prompts_of(turned, config, FAMILY, processor=processor, inputs=inputs)


def test_instruction_without_a_processor_is_an_error(llava):
    _, processor = llava
    inputs = encode(processor, QUESTIONS)
    with pytest.raises(ValueError, match="reference='instruction' needs the processor"):
        prompts_of(inputs["input_ids"], DebiasConfig(reference="instruction"), FAMILY, inputs=inputs)


def test_the_family_is_read_from_the_configuration(llava):
    assert family_of(llava[0]) == FAMILY


# ---- tokenizers that write spaces into their pieces

CORPUS = [
    "USER: \nIs there a cat in the image? ASSISTANT: yes",
    "USER: Is there a dog? ASSISTANT: Is it? What color is it? no",
    "USER: \nWhat color is the dog in the image?\nAnswer briefly. ASSISTANT: red",
] * 3
LLAVA_15 = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>\n{% endif %}{% endfor %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
NAMED = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
SPACED = [(kind, scheme) for kind in ("bpe", "unigram") for scheme in ("first", "always", "normalizer")]
#: `normalizer` is the older Llama tokenizer: it puts ▁ before every piece between special tokens, so that a decoded
#: prompt is not encoded to the same ids again.


def spaced_processor(kind: str, scheme: str, *, pad: str = "<pad>", bos: bool = True) -> LlavaProcessor:
    """LLaVA-1.5's template with a small SentencePiece-like tokenizer."""
    settings = {"special_tokens": NAMED, "initial_alphabet": ["▁", "\n"], "show_progress": False}
    if kind == "bpe":
        core, trainer = Tokenizer(models.BPE(unk_token="<unk>")), trainers.BpeTrainer(vocab_size=160, **settings)
    else:
        core = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=120, unk_token="<unk>", **settings)
    if scheme == "normalizer":
        core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        core.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split("▁", "merged_with_next"), pre_tokenizers.Split("\n", "isolated")]
        )
    else:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    core.train_from_iterator(CORPUS, trainer)
    core.add_special_tokens([AddedToken(name, normalized=False) for name in NAMED])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=pad,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    return LlavaProcessor(
        image_processor=tiny_processor().image_processor,
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_15,
        image_token="<image>",
    )


def without_images_and_their_newlines(row: list[int], tokenizer) -> list[int]:
    """The ids but for each run of image tokens and the pieces up to and with the newline behind it."""
    out, skipping = [], False
    for token in row:
        if token == IMAGE_ID:
            skipping = True
        elif skipping:
            skipping = "\n" not in tokenizer.convert_ids_to_tokens(token)
        else:
            out.append(token)
    return out


@pytest.mark.parametrize("question", ["Is there a cat in the image?", "What color is it?\nAnswer briefly."])
@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize(("kind", "scheme"), SPACED)
def test_spaced_pieces_are_those_of_the_prompt_rendered_without_the_image(kind, scheme, images, question):
    processor = spaced_processor(kind, scheme)
    tokenizer = processor.tokenizer
    pictures = [picture(n) for n in range(images)]
    row = list(processor(images=pictures, text=[chat(processor, question, images)])["input_ids"][0])
    rendered = tokenizer(chat(processor, question, 0)).input_ids
    assert row.count(IMAGE_ID) == 4 * images
    got = cut(row, FAMILY, processor)
    if tokenizer(tokenizer.decode(row), add_special_tokens=False).input_ids == row:
        assert scheme != "normalizer"
        assert got == rendered
    else:
        assert scheme == "normalizer"
        assert got == without_images_and_their_newlines(row, tokenizer)
        assert tokenizer.decode(got).replace(" ", "") == tokenizer.decode(rendered).replace(" ", "")


@pytest.mark.parametrize("pad", ["<s>", "</s>", "<unk>"])
@pytest.mark.parametrize("give_inputs", [True, False])
def test_a_padding_token_with_another_meaning_is_stripped_and_the_prompts_own_is_not(pad, give_inputs):
    processor = spaced_processor("bpe", "first", pad=pad)
    questions = ["Is there a cat in the image?", "What color?", "Is it?"]
    inputs = encode(processor, questions)
    assert not inputs["attention_mask"].all()
    want = [processor.tokenizer(chat(processor, question, 0)).input_ids for question in questions]
    given = inputs if give_inputs else None
    (prompt,) = prompts_of(
        inputs["input_ids"], DebiasConfig(reference="none"), FAMILY, processor=processor, inputs=given
    )
    assert real_rows(prompt) == want


def test_a_prompt_whose_question_ends_in_the_padding_token_keeps_it(llava):
    _, processor = llava
    row = [0, 0, 1, 5, 4, 4, 4, 4, 7, 8, 0, 0]
    (prompt,) = prompts_of(torch.tensor([row]), DebiasConfig(reference="mask"), FAMILY, processor=processor)
    assert prompt.attention_mask.tolist() == [[0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1]]


def test_a_tokenizer_alone_or_nothing_still_takes_the_image_tokens_out(llava):
    _, processor = llava
    row = encode(processor, QUESTIONS[:1])["input_ids"][0].tolist()
    want = [i for i in row if i != IMAGE_ID]
    assert cut(row, FAMILY, processor.tokenizer) == want
    assert cut(row, FAMILY, None) == want


def test_each_row_is_a_branch_of_its_own_whatever_its_padding(llava):
    model, processor = llava
    inputs = encode(processor, QUESTIONS)
    for reference in ("none", "unk", "mask"):
        got = Branch(Reader(model, FAMILY)).logits(made(processor, inputs, reference), inputs["input_ids"][:, :0])
        for row, question in enumerate(QUESTIONS):
            alone = encode(processor, [question], first=row)
            second = seconds(processor, [question], reference, inputs=alone)[0][0]
            assert isinstance(second, Second)
            torch.testing.assert_close(got[row], next_logits(model, second, []), rtol=1e-9, atol=1e-9)


def test_a_tokenizer_with_a_chat_template_of_its_own_gives_what_the_processor_gives(llava):
    _, processor = llava
    row = encode(processor, QUESTIONS[:1])["input_ids"][0].tolist()
    tokenizer = tiny_processor().tokenizer
    tokenizer.chat_template = processor.chat_template
    assert cut(row, FAMILY, tokenizer) == cut(row, FAMILY, processor)


def test_a_template_that_knows_no_images_leaves_the_images_own_tokens_to_be_cut(llava):
    _, processor = llava
    row = encode(processor, QUESTIONS[:1])["input_ids"][0].tolist()
    for template in ("{{ raise_exception('content must be a string') }}", "{{ '' + messages[0]['content'] }}"):
        other = tiny_processor()
        other.chat_template = template
        assert cut(row, FAMILY, other) == [token for token in row if token != IMAGE_ID]
