"""The embedded model: everything that works on LLaVA-1.5 works on it, and it sees as well as its log says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlavaForConditionalGeneration, LlavaProcessor

import vdd.toy
from vdd.toy.batches import IGNORE, Diet, Packer
from vdd.toy.measure import answer, measure, prompt
from vdd.toy.model import ASSISTANT, BOS, IMAGE, build_tokenizer, load, load_clip, vocabulary
from vdd.toy.questions import choice_questions, color_questions, mme_lines, pope_questions
from vdd.toy.scenes import caption, render, scene_at
from vdd.toy.train import pixels, train

#: Below the shipped model's dev figures, above chance: what a healthy set of weights reaches on 40 dev images.
FLOOR = {"random_accuracy": 85.0, "adversarial_accuracy": 58.0, "typical_color": 92.0, "caption_recall": 80.0}
DIET = Diet(company=0.9, typical=0.8, count=(1, 1, 1), unseen=0.0, yes=0.5, near=0.5, blind=0.5, existence=3)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def toy() -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    return load()


def test_it_is_a_real_llava_with_its_real_processor(toy) -> None:
    model, processor = toy
    assert type(model) is LlavaForConditionalGeneration
    assert type(processor) is LlavaProcessor
    assert not model.training
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.generation_config.do_sample is False
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id


def test_the_weights_are_small() -> None:
    assert sum(path.stat().st_size for path in vdd.toy.WEIGHTS.rglob("*") if path.is_file()) <= 6_000_000


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="train"):
        load(weights=tmp_path)


def test_one_placeholder_becomes_one_token_per_feature(toy) -> None:
    model, processor = toy
    image, text = render(scene_at("dev", 0)), prompt(processor, "Is there a fox?")
    inputs = processor(images=image, text=text, return_tensors="pt")
    ids = inputs["input_ids"][0].tolist()
    features = model.model.get_image_features(inputs["pixel_values"])
    features = getattr(features, "pooler_output", features)  # transformers 5 returns an output object
    assert ids.count(model.config.image_token_id) == len(features[0]) == 36
    assert ids.count(processor.tokenizer.bos_token_id) == 1
    assert ids[0] == processor.tokenizer.bos_token_id


def test_the_template_puts_the_image_first_and_can_do_without(toy) -> None:
    _, processor = toy
    assert prompt(processor, "Is it?") == "USER: <image>\nIs it? ASSISTANT:"
    assert prompt(processor, "Is it?", image=False) == "USER: Is it? ASSISTANT:"
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Is it?"}, {"type": "image"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "yes"}]},
    ]
    assert processor.apply_chat_template(turns) == "USER: <image>\nIs it? ASSISTANT: yes</s>"


def test_a_prompt_survives_decoding_and_encoding(toy) -> None:
    _, processor = toy
    tokenizer = processor.tokenizer
    text = "USER: <image>\nIs there a Fox, in THE image?\n(a) red\n(b) zebra's ASSISTANT: yes</s>"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.encode(tokenizer.decode(ids), add_special_tokens=False) == ids
    words = tokenizer.convert_ids_to_tokens(ids)
    assert words.count("<unk>") == 3  # zebra ' s
    assert words.count("\n") == 3
    assert words[-3:] == [ASSISTANT, "yes", "</s>"]


def test_every_question_and_caption_is_made_of_known_words() -> None:
    tokenizer = build_tokenizer()
    scenes = [scene_at("dev", index) for index in range(60)]
    texts = [caption(scene) for scene in scenes]
    for records in (pope_questions(scenes, "random"), color_questions(scenes, typical=True), choice_questions(scenes)):
        texts += [f"{record['text']} {record['label']}" for record in records]
    texts += [line.split("\t")[1] for line in mme_lines(scenes, "color")]
    for text in texts:
        assert tokenizer.unk_token_id not in tokenizer.encode(text), text


def test_the_stored_tokenizer_is_the_built_one(toy) -> None:
    _, processor = toy
    assert [processor.tokenizer.convert_ids_to_tokens(i) for i in range(len(vocabulary()))] == vocabulary()
    text = "there is a brown fox at the top left. there is a green tree in the center."
    assert processor.tokenizer.encode(text) == build_tokenizer().encode(text)


def test_training_pixels_are_the_processors(toy) -> None:
    _, processor = toy
    scene = scene_at("dev", 3)
    shown = processor.image_processor(images=render(scene), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels([scene]), shown, atol=1e-5, rtol=0)


def test_clip_has_llavas_tower_and_tells_objects_and_colours_apart(toy) -> None:
    model, _ = toy
    clip, processor = load_clip()
    tower = dict(model.model.vision_tower.named_parameters())
    for name, value in clip.vision_model.named_parameters():
        assert torch.equal(value, tower.get(name, tower.get(f"vision_model.{name}")))
    scenes = [scene_at("dev", index) for index in range(24)]
    texts, images = [caption(scene) for scene in scenes], [render(scene) for scene in scenes]
    inputs = processor(text=texts, images=images, padding=True, return_tensors="pt")
    with torch.no_grad():
        best = clip(**inputs).logits_per_image.argmax(-1).tolist()
    told = [{(item.object, item.color) for item in scene.items} for scene in scenes]
    # It knows objects and colours; between equal ones in other places it may be wrong.
    assert sum(told[found] == told[row] for row, found in enumerate(best)) >= 22


def test_a_packed_row_gives_the_answers_their_own_logits(toy) -> None:
    """Packing is only a saving: each question's logits equal those of the question asked alone."""
    model, processor = toy
    packer = Packer(processor.tokenizer, 36)
    scenes = [scene_at("dev", index) for index in range(4)]
    batch = packer.pack(scenes, DIET, np.random.default_rng(1))
    image_id = model.config.image_token_id
    with torch.no_grad():
        words = model.get_input_embeddings()(batch.ids)
        for row, scene in enumerate(scenes):
            if batch.seen[row]:
                features = model.model.get_image_features(pixels([scene]))
                words[row, batch.ids[row] == image_id] = getattr(features, "pooler_output", features)[0]
        packed = model.lm_head(
            model.model.language_model(
                inputs_embeds=words, attention_mask=batch.mask, position_ids=batch.positions
            ).last_hidden_state
        )
        compared = 0
        for row, scene in enumerate(scenes):
            ids, positions = batch.ids[row], batch.positions[row]
            starts = [i for i in range(1, len(ids)) if positions[i] < positions[i - 1] and ids[i] != 0]
            first = starts[0]
            # The first question ends where positions restart; it and the shared prefix form one ordinary input.
            extra = {"pixel_values": pixels([scene])} if batch.seen[row] else {}
            alone = model(input_ids=ids[None, :first], **extra).logits[0]
            torch.testing.assert_close(packed[row, :first], alone, atol=2e-4, rtol=1e-3)
            prefix = int(positions[first])
            second = torch.cat([ids[:prefix], ids[first : starts[1]]])[None]
            alone = model(input_ids=second, **extra).logits[0, prefix:]
            torch.testing.assert_close(packed[row, first : starts[1]], alone, atol=2e-4, rtol=1e-3)
            compared += 1
    assert compared == 4
    assert 0 < int(batch.seen.sum()) < 4


def test_only_answers_are_learnt(toy) -> None:
    _, processor = toy
    packer = Packer(processor.tokenizer, 36)
    batch = packer.pack([scene_at("dev", 0)], DIET, np.random.default_rng(0))
    kept = batch.labels[batch.labels != IGNORE]
    text = processor.tokenizer.decode(kept)
    assert text.count("</s>") == DIET.existence + 4
    assert processor.tokenizer.convert_tokens_to_ids(IMAGE) not in kept
    assert processor.tokenizer.convert_tokens_to_ids(BOS) not in kept
    assert float(batch.weights.sum()) == pytest.approx(DIET.existence + 2 + 0.7 + 3.0, abs=1e-4)


def test_existence_is_answered_by_one_token(toy) -> None:
    model, processor = toy
    inputs = processor(
        images=render(scene_at("dev", 0)), text=prompt(processor, "Is there a fox in the image?"), return_tensors="pt"
    )
    new = model.generate(**inputs)[0, inputs["input_ids"].shape[1] :]
    assert processor.tokenizer.convert_ids_to_tokens(new.tolist()) in (["yes", "</s>"], ["no", "</s>"])


def test_answers_do_not_depend_on_the_batch(toy) -> None:
    model, processor = toy
    texts = ["Is there a fox in the image?", "Describe the image.", "What color is the apple?"]
    images = [render(scene_at("dev", index)) for index in range(3)]
    together, _ = answer(model, processor, texts, images)
    alone = [answer(model, processor, [text], [image])[0][0] for text, image in zip(texts, images, strict=True)]
    assert together == alone


def test_the_shipped_weights_see_at_least_this_well(toy) -> None:
    figures = measure(*toy, "dev", images=40)
    for name, floor in FLOOR.items():
        assert figures[name] >= floor, f"{name}: {figures[name]} < {floor}"


def test_the_log_names_the_recipe_and_both_measures() -> None:
    log = json.loads((vdd.toy.WEIGHTS / "training_log.json").read_text())
    assert {"seed", "steps", "plan", "losses", "dev", "test", "versions"} <= set(log)
    assert set(log["losses"]) == {"tower", "balanced", "letters", "biased"}


def test_an_unknown_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="steps is 'long'"):
        train(tmp_path, steps="long")  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_short_training_runs_resumes_and_loads(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []
    log = train(tmp_path, steps="short", progress=lambda phase, step, total, figures: seen.append((phase, step)))
    assert {phase for phase, _ in seen} == {"tower", "balanced", "letters", "biased"}
    first, last = log["losses"]["tower"][0]["loss"], log["losses"]["tower"][-1]["loss"]
    assert last < first
    again = train(tmp_path, steps="short")  # every phase comes from its checkpoint
    assert again["losses"] == log["losses"]
    assert again["dev"] == log["dev"]
    load(weights=tmp_path)
    load_clip(weights=tmp_path)
    with pytest.raises(ValueError, match="of another seed or plan"):
        train(tmp_path, steps="short", seed=7)
