"""Sentences, the tokens of answers and their cuts, and one token drawn: against what is written down by hand."""

from __future__ import annotations

import re
from functools import lru_cache
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import vdd
from tests.oracles.preference import nucleus_pick
from tests.zoo import EVERY
from vdd.families import Family
from vdd.preference.sentences import cuts, ends_sentence, same, sentences, swapped
from vdd.preference.wording import Wording
from vdd.preference.writer import drawn

ANSWERS = [
    "yes it is a red fox . no dog is in the image . a cat is there .",
    "a red fox",
    "it is red . \n there is a dog .",
    " yes , it is . ",
]
TEXTS = [
    "Yes, it is. A red fox sits on the mat!",
    "The café isn't open… 3.5 m wide? No.",
    "这是一只狐狸。它是红色的。",
    "«Да», это лиса.\nОна рыжая.",
    "  Two  spaces ;  a\ttab. ",
    "🦊 A fox 🦊. Nothing else",
    "word",
]

# ---- sentences


@given(st.text(alphabet="aB .!?。\n\"'”)3,é狐\t", max_size=40) | st.text(max_size=30))
def test_the_sentences_joined_are_the_answer_and_none_is_blank_but_a_blank_answer(text):
    parts = sentences(text)
    assert "".join(parts) == text
    assert all(part.strip() for part in parts) or not text.strip()


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("It is red. A fox? yes", ["It is red.", " A fox?", " yes"]),
        ("It is 3.5 m. Wide!", ["It is 3.5 m.", " Wide!"]),
        ('He said "no." Then left.', ['He said "no."', " Then left."]),
        ("one\ntwo\n\nthree", ["one\n", "two\n\n", "three"]),
        ("\none", ["\none"]),
        (" \n", [" \n"]),
        ("Wait... what?! Yes.", ["Wait...", " what?!", " Yes."]),
        ("no end", ["no end"]),
        ("。", ["。"]),
        ("", []),
    ],
)
def test_where_sentences_end(text, want):
    assert sentences(text) == want


@given(st.text(alphabet="ab .\n", min_size=1, max_size=30))
def test_a_cut_is_before_the_first_word_or_behind_one_that_is_not_the_last(text):
    found = cuts(text)
    words = text.split()
    assert [text[:cut].split() for cut in found] == [words[:count] for count in range(max(len(words), 1))]
    assert all(cut == len(text[:cut].rstrip()) for cut in found)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("Yes, it is.", "No, it is."),
        ("No.", "Yes."),
        ("no", "yes"),
        ("YES!", "NO!"),
        ("NO it is not", "YES it is not"),
        (" Yes there is a dog.", " No there is a dog."),
        ('"Yes", he said.', '"No", he said.'),
        ("No, 3 dogs.", "Yes, 3 dogs."),
        ("Not at all.", None),
        ("North of it.", None),
        ("Nobody is there.", None),
        ("Yesterday it rained.", None),
        ("No dogs are here.", None),
        ("No one is there.", None),
        ("No-one is there.", None),
        ("It is no dog.", None),
        ("", None),
    ],
)
def test_a_yes_or_no_is_turned_round_where_it_answers_and_nowhere_else(text, other):
    assert swapped(text) == other


@given(st.sampled_from(["yes", "Yes", "YES", "no", "No", "NO"]), st.sampled_from([".", ", it is.", "", " it is", "!"]))
def test_turned_twice_is_as_before_in_the_same_case(word, rest):
    once = swapped(word + rest)
    assert once is not None
    assert once.endswith(rest)
    assert (once[0].isupper(), once[:2].isupper()) == (word[0].isupper(), word.isupper())
    assert swapped(once) == word + rest


def test_what_ends_a_sentence_and_which_answers_are_the_same():
    assert all(map(ends_sentence, ["a.", 'a."', "a!? ", "a\n", "好。"]))
    assert not any(map(ends_sentence, ["a", "a. b", "3.5", "", "a,"]))
    assert same("A  red\nFOX.", "a red fox.")
    assert not same("a red fox", "a red fox.")


# ---- the tokens of an answer


def _trained(tokenizer, trainer, bare=False):
    corpus = [
        *TEXTS,
        *ANSWERS,
        "The quick red fox is in the image. Yes, there is a dog. No, it isn't.",
        "USER: ASSISTANT:",
    ]
    tokenizer.train_from_iterator(corpus * 3, trainer)
    if bare:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])  # words were kept apart for the training alone
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


SPECIALS = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]


@lru_cache
def tokenizer_named(name):
    """The kinds that published families have: bytes; sentence pieces, their mark before words or in a space's place."""
    if name == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    elif name == "metaspace":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        alphabet = []
    else:
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        alphabet = []
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    return _trained(tokenizer, trainer, bare=name == "normalised")


def wording_of(name, **more):
    processor = SimpleNamespace(tokenizer=tokenizer_named(name), chat_template=None, **more)
    return Wording(processor, Family(kind="llava", image_ids=frozenset({4})))


TOKENIZERS = ["bytes", "metaspace", "normalised"]
PROMPT = "USER: <image>\nIs there a fox? ASSISTANT:"


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("answer", TEXTS + ANSWERS)
def test_an_answers_tokens_say_it_and_every_cut_is_one_of_its_text_and_of_its_tokens(name, answer):
    wording = wording_of(name)
    worded = wording.of(PROMPT, answer)
    assert "".join(sentence.text for sentence in worded.sentences) == answer
    assert wording.text([], worded.ids).split() == answer.split()
    starts = [0]
    for sentence in worded.sentences:
        assert sentence.start == starts[-1]
        assert sentence.cuts[0] == (0, sentence.start)
        for letters, tokens in sentence.cuts:
            said = wording.tokenizer.decode(worded.ids[:tokens])
            assert said.split() == answer[: _stands(answer, worded, sentence) + letters].split()
        later = worded.sentences[len(starts) :]
        starts += [later[0].start] if later else []


def _stands(answer, worded, sentence) -> int:
    return sum(len(one.text) for one in worded.sentences[: worded.sentences.index(sentence)])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_are_cut_where_words_end_and_a_tail_is_what_the_tokens_say_behind_them(name):
    wording = wording_of(name)
    worded = wording.of(PROMPT, TEXTS[0])
    assert [len(sentence.cuts) for sentence in worded.sentences] == [3, 7]
    first, second = worded.sentences
    for letters, tokens in second.cuts:
        before, rest = worded.ids[:tokens], worded.ids[tokens:]
        assert (second.text[:letters] + wording.text(before, rest)).split() == second.text.split()
    assert wording.ids(PROMPT, first.text, " A red") == worded.ids[second.start : dict(second.cuts)[len(" A red")]]
    assert wording.closes(worded.ids[: second.start])
    assert wording.closes(worded.ids)
    assert not wording.closes(worded.ids[:-1])


def test_tokens_that_are_no_text_are_found():
    wording = wording_of("bytes")
    assert wording.special("a fox </s> here") == "</s>"
    assert wording.special("a fox <image>") == "<image>"
    assert wording.special("a < b, and </ s>") == ""
    assert wording_of("metaspace").special("an unknown 𒀀 sign") == ""


@pytest.mark.parametrize("member", EVERY)
def test_in_every_family_an_answer_is_cut_behind_its_words(member):
    if not member.available:
        pytest.skip(f"this version of transformers has no {member.model_class}")
    model, processor = member.build()
    pipeline = vdd.Pipeline(model, processor)
    wording = Wording(processor, pipeline.family)
    prompt = pipeline.prompt(ANSWERS[1])
    for answer in ANSWERS:
        worded = wording.of(prompt, answer)
        parts = worded.sentences
        assert "".join(part.text for part in parts) == answer
        assert re.sub(r"\s", "", wording.text([], worded.ids)) == re.sub(r"\s", "", answer)
        assert [len(part.cuts) for part in parts] == [len(part.split()) for part in sentences(answer)]


def test_what_a_template_writes_before_an_answer_stands_before_its_tokens(toy):
    _, processor = toy
    text = "Yes, there is a fox."
    pipeline = vdd.Pipeline(*toy)
    wording, prompt = Wording(processor, pipeline.family), pipeline.prompt("Is there a fox?")
    chat = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a fox?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": text}]},
    ]
    whole = processor.apply_chat_template(chat, tokenize=False)
    both, first = (processor.tokenizer(one, add_special_tokens=False).input_ids for one in (whole, prompt))
    ids = wording.of(prompt, text).ids
    assert both[: len(first) + len(ids)] == first + ids


# ---- one token drawn

SCORES = st.lists(st.integers(-24, 24).map(lambda score: score / 8), min_size=1, max_size=12)


@settings(max_examples=150)
@given(
    SCORES,
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([0.0, 0.25, 1.0, 2.0]),
    st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_a_draw_is_the_token_that_the_nucleus_in_plain_python_gives(scores, draw, temperature, top_p):
    got = drawn(
        torch.tensor([scores], dtype=torch.float64),
        torch.tensor([draw], dtype=torch.float64),
        temperature=temperature,
        top_p=top_p,
    )
    want = nucleus_pick(scores, draw, temperature, top_p)
    near = {nucleus_pick(scores, min(max(draw + by, 0.0), 1 - 1e-12), temperature, top_p) for by in (-1e-9, 1e-9)}
    near |= {nucleus_pick(scores, draw, temperature, top_p + by) for by in (-1e-9, 1e-9)}
    assert int(got) in {want, *near}  # on a bound, sums in another order may fall on either side


def test_rows_are_drawn_each_by_its_own_draw():
    scores = torch.tensor([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    draws = torch.tensor([0.1, 0.95, 0.5], dtype=torch.float64)
    want = [nucleus_pick(row, draw, 1.0, 1.0) for row, draw in zip(scores.tolist(), draws.tolist(), strict=True)]
    assert drawn(scores, draws, temperature=1.0, top_p=1.0).tolist() == want == [2, 2, 1]


def test_what_may_never_be_written_is_never_drawn_and_the_first_of_equals_is_the_likeliest():
    scores = torch.tensor([[-torch.inf, 1.0, 1.0, -torch.inf]])
    for draw in (0.0, 0.3, 0.999999):
        assert int(drawn(scores, torch.tensor([draw]), temperature=1.0, top_p=1.0)) in (1, 2)
        assert int(drawn(scores, torch.tensor([draw]), temperature=0.0, top_p=1.0)) == 1
        assert int(drawn(scores, torch.tensor([draw]), temperature=1.0, top_p=0.4)) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_tokens_come_as_often_as_the_cut_distribution_says(dtype):
    scores = torch.tensor([1.5, 0.25, -0.5, 1.0, -3.0, 0.0], dtype=dtype)
    temperature, top_p, count = 0.75, 0.9, 20_000
    draws = torch.rand(count, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    got = torch.bincount(drawn(scores.expand(count, -1), draws, temperature=temperature, top_p=top_p), minlength=6)
    weights = (scores.double() / temperature).exp()
    order, kept, total = weights.argsort(descending=True).tolist(), [], 0.0
    while total < top_p:
        kept.append(order[len(kept)])
        total = float(weights[kept].sum() / weights.sum())
    assert sorted(kept) == [token for token in range(6) if got[token]]
    assert chisquare(got[kept].numpy(), (weights[kept] / weights[kept].sum() * count).numpy()).pvalue > 0.01
