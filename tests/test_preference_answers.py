"""Prompt and answer as training reads them: the prompt is the pipeline's, the answer has its end, nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import tiny_processor
from tests.zoo import EVERY, Member, picture
from vdd._check import UserError
from vdd.pipeline import Pipeline
from vdd.preference.answers import Answers

PROMPTS = ["is there a dog ?", "what color is the cat in the image ?"]
SAID = ["yes .", "no it is red ."]
SEVERAL = ("InstructBLIP (Vicuna)", "InstructBLIP (T5)", "BLIP-2 (OPT)", "Florence-2", "Kosmos-2")
STAND_IN = ("Phi-4-multimodal",)  # the zoo's image processor takes no images in lists

LLAVA = (  # as llava-hf publishes it: no end token, a space instead
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ content['text'] + ' ' }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


@pytest.mark.parametrize("member", EVERY)
def test_the_prompts_ids_are_those_that_the_model_is_asked_with(member: Member) -> None:
    if not member.available:
        pytest.skip(f"this transformers has no {member.model_class}")
    model, processor = member.build()
    if member.name in SEVERAL:
        with pytest.raises(UserError, match="another part of the model reads the text"):
            Answers(model, processor)
        return
    if member.name in STAND_IN:
        pytest.skip("the image processor here is a stand-in that takes no nested lists")
    answers = Answers(model, processor)
    images = [[picture(1)], [picture(2)]]
    batch = answers.batch(images, PROMPTS, SAID)
    stops = {2, processor.tokenizer.eos_token_id}
    for row in range(2):
        real = batch["attention_mask"][row].bool()
        assert not bool(real[int(real.sum()) :].any())  # padded on the right
        ids, said = batch["input_ids"][row][real].tolist(), int(batch["completion_mask"][row].sum())
        asked = Pipeline(model, processor).inputs([images[row]], [PROMPTS[row]])["input_ids"][0].tolist()
        assert ids[:-said] == asked
        assert ids[-1] in stops
        spoken = processor.tokenizer.decode(ids[-said:], skip_special_tokens=True)
        assert "".join(spoken.split()).startswith("".join(SAID[row].split()))
        assert bool(batch["completion_mask"][row][real][-said:].all())


@pytest.mark.parametrize("member", EVERY)
def test_rows_read_together_score_as_token_by_token_without_padding(member: Member) -> None:
    if not member.available or member.name in SEVERAL or member.name in STAND_IN:
        pytest.skip("not trained, or not here")
    model, processor = member.build()
    images = [[picture(1)], [picture(2)]]
    batch = Answers(model, processor).batch(images, PROMPTS, SAID)
    mask = batch.pop("completion_mask").bool()
    with torch.no_grad():
        logits = model(**batch, use_cache=False).logits
    for row in range(2):
        asked = Pipeline(model, processor).inputs([images[row]], [PROMPTS[row]])
        said = batch["input_ids"][row][mask[row]].tolist()
        got = logits[row][:-1][mask[row][1:]]
        for place in range(len(said)):
            want = member.seen_logits(model, asked, said[:place])
            torch.testing.assert_close(got[place], want, rtol=0, atol=getattr(member, "tolerance", 1e-9))


def test_the_embedded_models_rows_are_these(toy: Any) -> None:
    model, processor = toy
    answers = Answers(model, processor)
    images = [[picture(1, 96, 96)], [picture(2, 96, 96)]]
    batch = answers.batch(images, ["Is there a fox?", "Is there?"], ["yes", "no, there is a fox."])
    rows = [processor.tokenizer.convert_ids_to_tokens(row) for row in batch["input_ids"].tolist()]
    begin = ["<s>", "USER:", *["<image>"] * 36, "\n"]
    assert rows[0] == [*begin, *["is", "there", "a", "fox", "?", "ASSISTANT:", "yes", "</s>"], *["<pad>"] * 4]
    assert rows[1] == [*begin, *["is", "there", "?", "ASSISTANT:", "no", ",", "there", "is", "a", "fox", ".", "</s>"]]
    said = [[token for token, own in zip(*row, strict=True) if own] for row in zip(rows, batch["completion_mask"])]  # noqa: B905
    assert said == [["yes", "</s>"], ["no", ",", "there", "is", "a", "fox", ".", "</s>"]]


@pytest.mark.parametrize("template", ["publishers", "ends", "ignores"])
def test_the_end_is_there_once_whatever_the_template_writes(llava: Any, template: str) -> None:
    model, _ = llava
    processor = tiny_processor()
    if template != "ignores":
        processor.chat_template = LLAVA
    if template == "ends":
        processor.chat_template = LLAVA.replace("+ ' ' }}", "+ ('</s>' if message['role'] == 'assistant' else ' ') }}")
    answers = Answers(model, processor)
    ids = answers.tokens("is there a dog ?", "  yes . ")
    assert processor.tokenizer.convert_ids_to_tokens(ids) == ["yes", ".", "</s>"]


def test_a_chat_template_that_takes_plain_text_alone_is_asked_so(llava: Any) -> None:
    model, _ = llava
    processor = tiny_processor()
    processor.chat_template = processor.chat_template.replace(
        "{% endfor %}{% if add_gen",
        "{% if message['role'] == 'assistant' %}ASSISTANT: {{ message['content'] }}</s>{% endif %}"
        "{% endfor %}{% if add_gen",
    )
    ids = Answers(model, processor).tokens("is there a dog ?", "yes .")
    assert processor.tokenizer.convert_ids_to_tokens(ids) == ["yes", ".", "</s>"]


@pytest.mark.parametrize(
    ("answer", "told"),
    [("", "wanted text"), (" \n", "wanted text"), ("a <image> b", "'<image>'"), ("a </s>", "'</s>'")],
)
def test_an_answer_that_is_none_is_refused(llava: Any, answer: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Answers(*llava).tokens("is it ?", answer)


def test_a_tokenizer_without_an_end_is_refused(llava: Any) -> None:
    processor = tiny_processor()
    processor.tokenizer.eos_token = None
    with pytest.raises(UserError, match="never to stop"):
        Answers(llava[0], processor)


def test_a_row_longer_than_the_model_is_told_and_not_cut(llava: Any) -> None:
    with pytest.raises(UserError, match="wanted at most 256, the model's positions"):
        Answers(*llava).batch([[picture(1)]], ["is it ?"], ["yes " * 300])


def test_several_images_of_a_row_stay_in_their_order(llava: Any) -> None:
    model, processor = llava
    batch = Answers(model, processor).batch([[picture(1), picture(2)], [picture(3)]], PROMPTS, SAID)
    image = model.config.image_token_id
    assert [int((row == image).sum()) for row in batch["input_ids"]] == [8, 4]
    assert len(batch["pixel_values"]) == 3


def test_an_answer_is_not_mistaken_for_a_part_of_what_closes_it(llava: Any) -> None:
    model, _ = llava
    processor = tiny_processor()
    processor.chat_template = LLAVA.replace("+ ' ' }}", "+ (' a a </s>' if message['role'] == 'assistant' else ' ') }}")
    ids = Answers(model, processor).tokens("is there a dog ?", "a")
    assert processor.tokenizer.convert_ids_to_tokens(ids) == ["a", "a", "a", "</s>"]


def test_a_tokenizer_that_marks_spaces_sees_the_one_before_the_answer(llava: Any) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model, _ = llava
    processor = tiny_processor()
    processor.chat_template = LLAVA
    words = ["<pad>", "<s>", "</s>", "<unk>", "<image>", "▁ASSISTANT:", "▁yes", "yes", "▁", "▁USER:"]
    core = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    processor.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="</s>", bos_token="<s>", unk_token="<unk>", pad_token="<pad>"
    )
    assert Answers(model, processor).tokens("is it ?", "yes") == [words.index("▁yes"), words.index("</s>")]
