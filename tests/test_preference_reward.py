"""The grounding reward against whole forwards, alone and in batches; the re-ranker; as TRL's reward function."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from tests.oracles.preference_reward import answer_log_p, llava_rows, reward
from tests.test_pipeline_families import built, small
from tests.zoo import MEMBERS, picture
from vdd._check import UserError
from vdd.pipeline import Pipeline
from vdd.preference.ranking import rerank
from vdd.preference.reward import GroundingReward, Grounds
from vdd.toy.scenes import render, scene_at

QUESTIONS = ["is there a fox in the image ?", "what color is it ?", "what is it ?"]
ANSWERS = ["yes", "the dog is red and the car is blue .", "a brown fox ."]
QUICK = ("LLaVA-NeXT", "Qwen2.5-VL", "Mllama", "Florence-2")
EVERY = [
    pytest.param(member, id=member.name, marks=[] if member.name in QUICK else pytest.mark.slow) for member in MEMBERS
]


@pytest.fixture
def judge(llava):
    return GroundingReward(*llava, floor=0.25, batch_size=2)


def by_hand(llava, image, question, answer, over="sum", floor=0.25):
    model, processor = llava
    tokens = [*processor.tokenizer(answer, add_special_tokens=False).input_ids, processor.tokenizer.eos_token_id]
    seen = llava_rows(model, processor, image, f"<s>USER: <image>\n{question} ASSISTANT:")
    blind = llava_rows(model, processor, None, f"<s>USER: {question} ASSISTANT:")
    return reward(seen, blind, tokens, over, floor)


@pytest.mark.parametrize("over", ["sum", "mean"])
@pytest.mark.parametrize("floor", [0.0, 0.7])
def test_it_is_the_printed_formula_by_whole_forwards(llava, over, floor):
    images = [picture(n) for n in range(3)]
    want = [by_hand(llava, *row, over, floor) for row in zip(images, QUESTIONS, ANSWERS, strict=True)]
    got = GroundingReward(*llava, over=over, floor=floor).score(images, QUESTIONS, ANSWERS)
    assert got == pytest.approx(want, abs=1e-9)


def test_rows_in_a_batch_are_rows_alone_whatever_they_share(judge):
    one, other = picture(0), picture(1)
    images = [one, other, one, one, other]
    questions = [QUESTIONS[0], QUESTIONS[1], QUESTIONS[0], QUESTIONS[1], QUESTIONS[1]]
    answers = [*ANSWERS, *ANSWERS[:2]]
    together = GroundingReward(judge.pipeline.model, judge.pipeline.processor, floor=0.25).score(
        images, questions, answers
    )
    alone = [judge.score([i], [q], [a])[0] for i, q, a in zip(images, questions, answers, strict=True)]
    assert together == pytest.approx(alone, abs=1e-9)
    assert judge.score(images, questions, answers) == pytest.approx(alone, abs=1e-9)  # two at a time


@pytest.mark.parametrize("member", EVERY)
def test_every_family_gives_what_its_own_forwards_give(member):
    if not member.available:
        pytest.skip(f"this version of transformers has no {member.model_class}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "__array_wrap__", DeprecationWarning)
        pipe = built(member)
        model, processor = pipe.model, small(pipe)
        judge = GroundingReward(model, pipe.processor)
        questions = ["is it red ?", "what color is the dog in the image ?"]
        images, words = [picture(0), picture(1)], ("brown dog", "red")
        answers = [processor.tokenizer(text, add_special_tokens=False).input_ids for text in words]
        answers[0].append(2)
        got = judge.grounds(images, questions, answers)
        for image, question, tokens, own in zip(images, questions, answers, got, strict=True):
            inputs, ids = judge.pipeline.inputs([image], [question]), member.blind_ids(processor, question)
            seen = answer_log_p(lambda said, given=inputs: member.seen_logits(model, given, said).tolist(), tokens)
            blind = answer_log_p(lambda said, row=ids: member.blind_logits(model, row, said).tolist(), tokens)
            near = max(1e-6, 10 * getattr(member, "tolerance", 0))
            assert (own.seen, own.blind) == pytest.approx((seen, blind), abs=near)


def test_a_reference_of_both_is_the_mean_of_its_parts_scores(llava):
    model, processor = llava
    question, tokens = QUESTIONS[1], [20, 2]
    none = llava_rows(model, processor, None, f"<s>USER: {question} ASSISTANT:")
    unk = llava_rows(model, processor, None, f"<s>USER: <unk>\n{question} ASSISTANT:")
    mean = answer_log_p(lambda said: [(a + b) / 2 for a, b in zip(none(said), unk(said), strict=True)], tokens)
    (got,) = GroundingReward(model, processor, reference="both").grounds([picture(0)], [question], [tokens])
    assert got.blind == pytest.approx(mean, abs=1e-9)
    assert got.tokens == 2


def test_a_near_tie_prefers_neither(llava):
    judge = GroundingReward(*llava, tie=0.5)
    assert judge.prefers(1.75, 1.0)
    assert not judge.prefers(1.5, 1.0)
    assert not judge.prefers(1.0, 1.5)


def test_trl_may_hand_over_conversations_texts_or_tokens(llava, judge):
    image, question, answer = picture(0), QUESTIONS[0], ANSWERS[2]
    want = pytest.approx([by_hand(llava, image, question, answer)], abs=1e-9)
    turn = [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": question}]}]
    bare = [{"role": "user", "content": question}]
    said = [{"role": "assistant", "content": [{"type": "text", "text": answer}]}]
    ids = [*llava[1].tokenizer(answer, add_special_tokens=False).input_ids, 2]
    assert judge(prompts=[turn], completions=[said]) == want
    assert judge(prompts=[turn], completions=[said], completion_ids=[ids], trainer_state=None) == want
    assert judge(prompts=[bare], completions=[answer], images=[[image]]) == want
    assert judge(prompts=[question], completions=[answer], image=[image]) == want
    cut = judge(prompts=[turn], completions=[said], completion_ids=[ids[:-1]])
    assert cut != want  # tokens are taken as they are: this one was not ended
    assert judge.__name__ == "grounding_reward"


def test_what_cannot_be_compared_is_refused(llava, judge):
    image, question = picture(0), QUESTIONS[0]
    with pytest.raises(UserError, match=r"row 1 .* has no image"):
        judge.score([image, []], [question] * 2, ["yes", "no"])
    with pytest.raises(UserError, match="no image"):
        judge(prompts=[[{"role": "user", "content": question}]], completions=["yes"])
    with pytest.raises(UserError, match="1 images, 1 prompts, 2 answers"):
        judge.score([image], [question], ["yes", "no"])
    with pytest.raises(UserError, match="turns system, user; wanted one of the user"):
        judge(prompts=[[{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]], completions=["yes"])
    with pytest.raises(UserError, match="answer is empty"):
        judge.score([image], [question], [[]])
    with pytest.raises(UserError, match="answer is empty"):
        judge.score([image], [question], [None])
    for token in (-1, 999):
        with pytest.raises(UserError, match="holds an unknown token"):
            judge.score([image], [question], [[token]])
    with pytest.raises(UserError, match="image's token"):
        judge.score([image], [question], ["a <image> fox"])
    with pytest.raises(UserError, match="unknown over 'max'; known: sum, mean"):
        GroundingReward(*llava, over="max")
    with pytest.raises(UserError, match="floor is -1"):
        GroundingReward(*llava, floor=-1)


def test_a_model_that_is_trained_on_is_noticed(llava):
    model, processor = copy.deepcopy(llava[0]), llava[1]
    judge = GroundingReward(model, processor)
    row = ([picture(0)], [QUESTIONS[0]], ["yes"])
    judge.score(*row)
    optimizer = torch.optim.AdamW(model.parameters())
    model(input_ids=torch.tensor([[1, 5, 9]])).logits.sum().backward()
    optimizer.step()
    with pytest.raises(UserError, match=r"weights changed .*deepcopy"):
        judge.score(*row)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_an_adapter_is_left_out_and_the_models_mode_stays(llava):
    peft = pytest.importorskip("peft")
    row = ([picture(0)], [QUESTIONS[0]], ["yes"])
    want = GroundingReward(*llava).score(*row)
    names = r".*language_model.*(q_proj|v_proj)"
    config = peft.LoraConfig(r=2, target_modules=names, init_lora_weights=False, lora_dropout=0.5)
    model = peft.get_peft_model(copy.deepcopy(llava[0]), config).train()
    judge = GroundingReward(model, llava[1])
    assert judge.score(*row) == pytest.approx(want, abs=1e-9)
    assert model.training
    for weight in model.parameters():
        if weight.requires_grad:
            torch.nn.init.ones_(weight)
    assert judge.score(*row) == pytest.approx(want, abs=1e-9)


def test_reranked_answers_are_each_sampled_once_and_stand_by_reward(toy):
    pipe, image = Pipeline(*toy), render(scene_at("dev", 3))
    ranked = rerank(pipe, image, "Describe the image.", n=6, temperature=1.5, top_p=1.0, seed=3, max_new_tokens=24)
    texts = [one.text for one in ranked.answers]
    assert 1 < len(texts) == len(set(texts))
    assert sum(one.times for one in ranked.answers) == 6
    judge = GroundingReward(*toy, over="mean")
    rewards = judge.score([image] * len(texts), ["Describe the image."] * len(texts), texts)
    assert [one.reward for one in ranked.answers] == pytest.approx(rewards, abs=1e-3)
    level = [one for one in rewards if max(rewards) - one <= judge.tie]
    assert set(rewards[: len(level)]) == set(level)
    assert rewards[len(level) :] == sorted(rewards[len(level) :], reverse=True)
    assert ranked.best == texts[0]


@pytest.mark.parametrize("name", ["LLaVA-NeXT", "Qwen2.5-VL", "Florence-2"])
def test_families_rerank_whether_they_share_an_image_or_not(name):
    (member,) = [one for one in MEMBERS if one.name == name]
    if not member.available:
        pytest.skip(f"this version of transformers has no {member.model_class}")
    model, processor = member.build()
    pipe = Pipeline(model, processor)
    ranked = rerank(pipe, picture(0), "is it red ?", n=3, max_new_tokens=3, seed=1)
    judge, texts = GroundingReward(model, processor, over="mean"), [one.text for one in ranked.answers]
    alone = [judge.score([picture(0)], ["is it red ?"], [text])[0] for text in texts]
    assert [one.reward for one in ranked.answers] == pytest.approx(alone, abs=1e-6)
    assert sum(one.times for one in ranked.answers) == 3


def test_samples_are_decided_by_the_seed_alone(toy):
    pipe, image = Pipeline(*toy), render(scene_at("dev", 5))
    how = {"n": 5, "temperature": 2.0, "top_p": 1.0, "max_new_tokens": 12}
    first = rerank(pipe, image, "Describe the image.", seed=1, **how)
    torch.manual_seed(99)
    assert rerank(pipe, image, "Describe the image.", seed=1, **how) == first
    other = rerank(pipe, image, "Describe the image.", seed=2, **how)
    assert {one.text for one in other.answers} != {one.text for one in first.answers}


def test_of_level_answers_the_most_probable_leads(toy):
    pipe, image = Pipeline(*toy), render(scene_at("dev", 3))
    how = {"n": 6, "temperature": 1.5, "top_p": 1.0, "seed": 3, "max_new_tokens": 24}
    level = rerank(pipe, image, "Describe the image.", reward=GroundingReward(*toy, tie=1e6), **how)
    seen = [one.grounds.seen for one in level.answers]
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize(("option", "value"), [("n", 0), ("temperature", 0), ("max_new_tokens", 0), ("top_p", 2)])
def test_a_setting_out_of_range_is_named(toy, option, value):
    with pytest.raises(UserError, match=f"{option} is {value}"):
        rerank(Pipeline(*toy), render(scene_at("dev", 0)), "Describe the image.", **{option: value})


def test_the_value_is_made_of_both_sides(llava):
    judge = GroundingReward(*llava, over="mean", floor=0.5)
    assert judge.value(Grounds(-2.0, -5.0, 4)) == pytest.approx((-2 + 5 - 1) / 4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # TRL, accelerate and datasets warn of each other
@pytest.mark.parametrize("method", ["GRPO", "RLOO"])
def test_trls_trainers_take_it_as_it_is(toy, method, tmp_path):
    trl, datasets = pytest.importorskip("trl"), pytest.importorskip("datasets")
    model, processor = toy
    images = [render(scene_at("dev", number)) for number in range(2)]
    prompt, text = [{"role": "user", "content": "Describe the image."}], datasets.Value("string")
    rows = datasets.Dataset.from_list(
        [{"prompt": prompt, "image": image} for image in images],
        features=datasets.Features({"prompt": [{"role": text, "content": text}], "image": datasets.Image()}),
    )
    judge = GroundingReward(model, processor)
    told = []

    def watched(prompts, completions, **columns):
        rewards = judge(prompts, completions, **columns)
        texts = [turns[0]["content"] for turns in completions]
        told.append((rewards, texts, columns["completion_ids"]))
        return rewards

    settings = getattr(trl, f"{method}Config")(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        report_to="none",
        max_steps=1,
        per_device_train_batch_size=4,
        num_generations=2,
        max_completion_length=24,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = getattr(trl, f"{method}Trainer")(
        copy.deepcopy(model), watched, args=settings, train_dataset=rows, processing_class=processor
    )
    trainer.train()
    ((rewards, texts, ids),) = told
    assert len(rewards) == 4
    ended = [row[-1] == processor.tokenizer.eos_token_id for row in ids]
    assert any(ended)
    for image in images:  # each completion that ended has its text's reward for one of the two images
        alone = judge.score([image] * 4, ["Describe the image."] * 4, texts)
        for place in range(4):
            if ended[place] and rewards[place] == pytest.approx(alone[place], abs=1e-3):
                ended[place] = None
    assert not any(ended)
