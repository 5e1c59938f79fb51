"""How well the embedded model sees, and how strongly its prior pulls.

    existence   accuracy and share of "yes" against random, popular and adversarial absent objects
    colour      accuracy on typical and on other colours; and without an image: how often the typical colour is named
    captions    CHAIRs (% of captions with an absent object), recall of objects (%), share of steps where the cut-off
                at β leaves one token

Source: POPE (arXiv:2305.10355), CHAIR (arXiv:1809.02156, on the world's own twelve words).
Knows: the toy's questions, plain greedy `generate`. Does not know: files of answers, debiasing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, get_args

import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from vdd.toy.questions import (
    DESCRIBE,
    IMAGES,
    POPE_IMAGES,
    ask_existence,
    choice_questions,
    color_questions,
    pope_questions,
)
from vdd.toy.scenes import OBJECTS, TYPICAL_COLOR, Negatives, Scene, Split, render, scene_at

BETA = 0.1  # the paper's default cut-off (arXiv:2403.05262)


def prompt(processor: LlavaProcessor, text: str, *, image: bool = True) -> str:
    """The chat template around one question."""
    content: list[dict[str, str]] = [{"type": "image"}] if image else []
    message: dict[str, Any] = {"role": "user", "content": [*content, {"type": "text", "text": text}]}
    return str(processor.apply_chat_template([message], add_generation_prompt=True))


@torch.no_grad()
def answer(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    texts: Sequence[str],
    images: Sequence[Image.Image] | None,
    *,
    batch_size: int = 64,
    max_new_tokens: int = 48,
) -> tuple[list[str], float]:
    """Plain greedy answers, and the share of steps at which the cut-off leaves one token.

    Args:
        texts: questions.
        images: one per question; None asks without any.
    """
    answers: list[str] = []
    single = steps = 0
    generate: Any = cast(Any, model).generate  # transformers' annotations do not know that a LLaVA can generate
    for start in range(0, len(texts), batch_size):
        chunk = slice(start, start + batch_size)
        prompts = [prompt(processor, text, image=images is not None) for text in texts[chunk]]
        shown = list(images[chunk]) if images is not None else None
        inputs = processor(text=prompts, images=shown, padding=True, return_tensors="pt").to(model.device)
        out = generate(
            **inputs, max_new_tokens=max_new_tokens, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        new = out.sequences[:, inputs["input_ids"].shape[1] :]
        answers += processor.batch_decode(new, skip_special_tokens=True)
        alive = torch.ones(len(new), dtype=torch.bool, device=new.device)
        for step, logits in enumerate(out.logits):
            p = logits.float().softmax(-1)
            kept = (p >= BETA * p.amax(-1, keepdim=True)).sum(-1)
            single += int(((kept == 1) & alive).sum())
            steps += int(alive.sum())
            alive = alive & (new[:, step] != model.generation_config.eos_token_id)
    return answers, single / max(steps, 1)


def measure(
    model: LlavaForConditionalGeneration, processor: LlavaProcessor, split: Split, *, images: int | None = None
) -> dict[str, float]:
    """Every figure of the header on a split, in %; `images` limits it to the first ones.

    "test" is to be measured once, for the model that ships.
    """
    scenes = [scene_at(split, index) for index in range(min(images or IMAGES[split], IMAGES[split]))]
    drawn = [render(scene) for scene in scenes]
    figures: dict[str, float] = {}

    def right(records: list[dict[str, Any]]) -> tuple[float, list[str]]:
        pictures = [drawn[int(record["image"][:5])] for record in records]
        given, _ = answer(model, processor, [record["text"] for record in records], pictures, max_new_tokens=4)
        hits = sum(text == record["label"] for text, record in zip(given, records, strict=True))
        return 100 * hits / len(records), given

    for kind in get_args(Negatives):
        accuracy, given = right(pope_questions(scenes[: POPE_IMAGES[split]], kind))
        figures[f"{kind}_accuracy"] = accuracy
        figures[f"{kind}_yes"] = 100 * sum(text == "yes" for text in given) / len(given)
    for name, typical in (("typical", True), ("counter", False)):
        if asked := color_questions(scenes, typical=typical):  # no counterfactual scene has a typical colour
            figures[f"{name}_color"], _ = right(asked)
    figures["choice"], _ = right(choice_questions(scenes[: POPE_IMAGES[split]]))
    figures |= measure_captions(model, processor, scenes, drawn)
    figures |= measure_prior(model, processor)
    return {name: round(value, 1) for name, value in figures.items()}


def measure_captions(
    model: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    scenes: Sequence[Scene],
    drawn: Sequence[Image.Image],
) -> dict[str, float]:
    """CHAIRs, recall and the share of single-token steps in %; sentences written per object shown."""
    texts, single = answer(model, processor, [DESCRIBE] * len(scenes), drawn)
    wrong = found = present = 0
    for text, scene in zip(texts, scenes, strict=True):
        mentioned = {word for word in text.replace(".", " ").split() if word in OBJECTS}
        wrong += bool(mentioned - set(scene.objects))
        found += len(mentioned & set(scene.objects))
        present += len(scene.objects)
    sentences = sum(text.count(".") for text in texts)
    return {
        "caption_chairs": 100 * wrong / len(scenes),
        "caption_recall": 100 * found / present,
        "caption_sentences_per_object": sentences / present,
        "caption_single_token_steps": 100 * single,
    }


def measure_prior(model: LlavaForConditionalGeneration, processor: LlavaProcessor) -> dict[str, float]:
    """Without an image: how often the typical colour is named, and how often an object is said to be there, in %."""
    colors, _ = answer(model, processor, [f"What color is the {name}?" for name in OBJECTS], None, max_new_tokens=4)
    named = sum(color == TYPICAL_COLOR[name] for color, name in zip(colors, OBJECTS, strict=True))
    asked = [ask_existence(name, False).text for name in OBJECTS]
    there, _ = answer(model, processor, asked, None, max_new_tokens=4)
    return {
        "blind_typical_color": 100 * named / len(OBJECTS),
        "blind_yes": 100 * sum(text == "yes" for text in there) / len(OBJECTS),
    }
