"""BDHS on bad rows, odd answers, models in adapters and settings out of range: a pair, a reason or a clear error."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from PIL import Image

from tests.test_preference_bdhs import ROWS, SEEDS
from tests.tiny import tiny_llava
from tests.zoo import MEMBERS
from vdd._check import UserError
from vdd.preference.bdhs import BDHS
from vdd.preference.pairs import VARIANTS, Pair, Refused
from vdd.preference.sentences import same

# ---- rows that become no pair


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"images": ()}, "no image"),
        ({"images": ("/nowhere/at/all.png",)}, "nowhere"),
        ({"images": (b"no image",)}, "image"),
        ({"images": (3,)}, "image"),
        ({"prompt": ""}, "prompt is empty"),
        ({"prompt": " \n"}, "prompt is empty"),
        ({"prompt": "is <image> red ?"}, "holds '<image>'"),
        ({"prompt": None}, "prompt is empty"),
        ({"answer": ""}, "answer is empty"),
        ({"answer": " \t\n "}, "answer is empty"),
        ({"answer": None}, "answer is empty"),
        ({"answer": "a fox </s> ."}, "special token '</s>'"),
        ({"answer": "<image>"}, "special token '<image>'"),
        ({"answer": "fox . " * 150}, "positions, and the model has 256"),
    ],
)
def test_a_bad_row_says_why_and_the_others_become_pairs(llava, changed, reason):
    rows = [ROWS[0], replace(ROWS[1], id="bad", **changed), ROWS[2]]
    how = {"max_new_tokens": 4}
    first, refused, last = BDHS(*llava, **how).sample(rows, seeds=[1, 2, 3])
    assert isinstance(refused, Refused)
    assert refused.id == "bad"
    assert reason in refused.reason
    assert [first, last] == BDHS(*llava, **how).sample([rows[0], rows[2]], seeds=[1, 3])


def test_rows_that_are_bad_alone_are_refused_alone_and_counted_nowhere(llava):
    bdhs = BDHS(*llava, max_new_tokens=4)
    found = bdhs.sample([replace(ROWS[0], images=()), replace(ROWS[0], answer="fox . " * 150)], seeds=[1, 2])
    assert [type(one) for one in found] == [Refused, Refused]
    assert (bdhs.similar, bdhs.sample([])) == ({}, [])


@pytest.mark.parametrize(
    "answer",
    [
        "fox",
        ".",
        "?!",
        "no sentence end",
        "... . .",
        "\n\nfox\n\n",
        "这是一只狐狸。它是红色的。",
        "Это лиса. 🦊🦊",
        "fox " * 60,
        "it is . " * 20,
        "'no'",
        "Yes",
        "nO .",
        "a\x00b \ud83e .",
    ],
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_odd_answers_become_pairs_or_say_why_not(llava, variant, answer):
    bdhs = BDHS(*llava, variant=variant, rho=0.9, max_new_tokens=5, iterations=3)
    (found,) = bdhs.sample([replace(ROWS[0], answer=answer)], seeds=[9])
    if isinstance(found, Pair):
        assert found.chosen == answer
        assert found.rejected.strip()
        assert not same(found.rejected, answer)
    else:
        assert found.reason


def test_rows_of_gray_wide_and_animated_images_are_read_as_rgb(llava):
    odd = [Image.new("L", (9, 31)), Image.new("RGBA", (1, 1)), Image.new("P", (64, 3))]
    found = BDHS(*llava, max_new_tokens=4).sample([replace(ROWS[0], images=(one,)) for one in odd], seeds=[1, 2, 3])
    assert all(isinstance(pair, Pair) for pair in found)


# ---- models and settings


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_a_model_in_adapters_samples_as_the_model_itself(llava):
    peft = pytest.importorskip("peft", reason="the extra `train` is not installed")
    model, processor = tiny_llava()
    config = peft.LoraConfig(r=2, target_modules=r".*language_model.*(q_proj|v_proj)")
    wrapped = peft.get_peft_model(model, config)
    want = BDHS(*llava, rho=0.7, max_new_tokens=6).sample(ROWS, seeds=SEEDS)
    got = BDHS(wrapped, processor, rho=0.7, max_new_tokens=6, name=want[0].model).sample(ROWS, seeds=SEEDS)
    assert [pair.rejected for pair in got] == [pair.rejected for pair in want]
    for name, value in wrapped.named_parameters():
        if "lora_B" in name:
            value.data.normal_(std=0.5, generator=torch.Generator().manual_seed(1))
    moved = BDHS(wrapped, processor, rho=0.7, max_new_tokens=6).sample(ROWS, seeds=SEEDS)
    assert [pair.rejected for pair in moved] != [pair.rejected for pair in want]


def test_a_model_without_an_end_token_writes_until_the_sentence_ends(llava):
    model, processor = tiny_llava()
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id = None
    found = BDHS(model, processor, max_new_tokens=5).sample(ROWS, seeds=SEEDS)
    assert all(isinstance(pair, Pair) for pair in found)


def test_a_model_that_computes_no_numbers_is_an_error():
    model, processor = tiny_llava()
    model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(UserError, match="scores are no numbers"):
        BDHS(model, processor).sample(ROWS, seeds=SEEDS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rho": 1.5}, r"rho is 1\.5; wanted a number in \[0, 1\]"),
        ({"rho": float("nan")}, "rho is nan"),
        ({"epsilon": 2}, "epsilon is 2; wanted"),
        ({"iterations": 0}, "iterations is 0; wanted a whole number ≥ 1"),
        ({"variant": "mask"}, "unknown variant 'mask'; known: attention, noise, unguided"),
        ({"temperature": -1}, "temperature is -1"),
        ({"top_p": 0}, "top_p is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_a_setting_out_of_range_is_an_error(llava, wrong, message):
    with pytest.raises(UserError, match=message):
        BDHS(*llava, **wrong)


@pytest.mark.parametrize(
    ("seeds", "message"), [([1], "1 seeds came with 2 rows"), ([1, -1], "seed is -1"), ([1, 0.5], r"seed is 0\.5")]
)
def test_seeds_are_whole_numbers_one_a_row(llava, seeds, message):
    with pytest.raises(UserError, match=f"BDHS: {message}"):
        BDHS(*llava).sample(ROWS[:2], seeds=seeds)


def test_a_family_that_cannot_hide_is_an_error_before_anything_is_sampled():
    member = next(one for one in MEMBERS if one.name == "Florence-2")
    with pytest.raises(UserError, match="cannot be hidden in the family 'florence2'"):
        BDHS(*member.build())


def test_the_embedded_model_says_other_things_of_its_own_world(toy):
    from vdd.preference.world import named, rows

    given = rows(4, seed=3)
    bdhs = BDHS(*toy, max_new_tokens=32)
    pairs = bdhs.sample(given, seeds=range(len(given)))
    made = [pair for pair in pairs if isinstance(pair, Pair)]  # a few one-word answers are what the model says anyway
    assert len(made) >= 3 * len(given) // 4
    assert sum(named(pair.chosen) != named(pair.rejected) for pair in made) >= len(made) // 2
    assert bdhs.similar[1][0] == len(given)
