"""Questions and their images as a model's inputs: by the chat template, or as the model's card writes a question.

    what a user types → the prompt's text → what `generate` takes

Knows: processors of transformers. Does not know: how a model reads or decodes, files.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from PIL import Image

from vdd._check import UserError
from vdd.families import Family, placeholder_of, tokenizer_of, unwrapped
from vdd.placeholders import Placeholders, Row

CARDS = {
    "llava": "USER: {images}\n{question} ASSISTANT:",
    "vipllava": (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions.###Human: {images}\n{question}###Assistant:"
    ),
    "paligemma": "{images}{question}",
    "chameleon": "{question}{images}",
    "blip-2": "Question: {question} Answer:",
    "instructblip": "{question}",
    "florence2": "{question}",
    "kosmos-2": "<grounding> Question: {question} Answer:",
}
"""`config.model_type` → the prompt of families whose processors may have no chat template, from their model cards.
Where `{images}` is missing the processor itself puts in the image, and takes one a question."""


def check_processor(model: Any, processor: Any) -> None:
    """Raise UserError where `processor` prepares no images."""
    if getattr(processor, "image_processor", None) is None:
        raise UserError(
            f"vdd: {type(processor).__name__} prepares no images; wanted the multimodal processor of "
            f"{type(model).__name__}, as AutoProcessor.from_pretrained gives it."
        )


def check_inputs(model: Any, processor: Any, family: Family, inputs: Any) -> None:
    """Raise UserError where the processor made what the model does not know, or no image that it sees."""
    ids, find = inputs["input_ids"], Placeholders(family, processor, derive="ids")
    known = getattr(model.get_input_embeddings(), "num_embeddings", None)
    strange = set(inputs).difference(inspect.signature(unwrapped(model).forward).parameters, family.pixel_inputs)
    wrong = ""
    if strange:
        wrong = f"made {', '.join(sorted(strange))}, which that does not take"
    elif known is not None and int(ids.max()) >= known:
        wrong = f"wrote the token {int(ids.max())} where {known} are known"
    elif not all(find.blocks(row) for row in ids.tolist()):
        wrong = "wrote a prompt without a token of an image"
    if wrong:
        raise UserError(
            f"vdd: {type(processor).__name__} does not belong to {type(model).__name__}, for which it {wrong}; wanted "
            "the processor that was published with this model."
        )


def prompt_of(processor: Any, family: Family, question: str, images: int = 1) -> str:
    """The text of a prompt with so many images.

    Args:
        processor: the model's.
        family: the model's facts.
        question: without image placeholders.
        images: how many, 1 or more.

    Raises:
        ValueError: on a question with a placeholder, more images than the family takes, or a family without a chat
            template whose card's prompt is not known.
    """
    check_question(processor, family, question)
    card = CARDS.get(family.kind, "")
    own = bool(getattr(processor, "chat_template", None))
    if not own and not card:
        raise UserError(
            f"vdd: {type(processor).__name__} has no chat template; wanted one in `processor.chat_template`, as the "
            f"prompts of the family {family.kind!r} are written by it."
        )
    if images > 1 and not own and "{images}" not in card:
        raise UserError(
            f"vdd: {images} images came with a question; the family {family.kind!r} takes one. Ask once each."
        )
    if not own:
        return card.format(question=question, images=placeholder_of(processor) * images)
    content = [{"type": "image"}] * images + [{"type": "text", "text": question}]
    return str(
        processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
        )
    )


def check_question(processor: Any, family: Family, question: str) -> None:
    """Raise UserError where the question is no text or holds a token that stands for an image or frames one."""
    if not isinstance(question, str):
        raise UserError(f"vdd: the question is {type(question).__name__}; wanted text.")
    tokenizer, marks = tokenizer_of(processor), family.image_ids | family.frame_ids
    held = [mark for mark in (placeholder_of(processor),) if mark in question]
    held += [tokenizer.decode([token]) for token in tokenizer(question).input_ids if not held and token in marks]
    if held:
        raise UserError(f"vdd: the question holds {held[0]!r}; wanted text alone, the image has its own place.")


@dataclass(frozen=True)
class Shared:
    """Questions about a few images, as one beginning for each image and one end for each question.

    Attributes:
        first: what the processor makes of the first question of each image.
        cuts: for each image, how many of that question's last tokens are its own.
        owners: for each question, the number of its image.
        tails: for each question, the tokens behind the beginning; one at least.
        rows: for each question, all its tokens.
    """

    first: Any
    cuts: tuple[int, ...]
    owners: tuple[int, ...]
    tails: tuple[Row, ...]
    rows: tuple[Row, ...]


def shared_of(
    processor: Any, family: Family, images: Sequence[Sequence[Image.Image]], questions: Sequence[Sequence[str]]
) -> Shared | None:
    """Questions in groups that share their images; an image is prepared once, its tokens are written once.

    Args:
        processor: the model's.
        family: the model's facts.
        images: RGB, of each group.
        questions: of each group, one or more.

    Returns:
        None where a prompt's tokens do not begin with the images, alike for every question of a group.
    """
    first = inputs_of(processor, family, images, [asked[0] for asked in questions])
    prompts = [
        [prompt_of(processor, family, one, len(own)) for one in asked]
        for asked, own in zip(questions, images, strict=True)
    ]
    encoded = [tokenizer_of(processor)(texts, **_once(processor, prompts[0][0])).input_ids for texts in prompts]
    marks = family.image_ids | family.frame_ids
    cuts, owners, tails, rows = list[int](), list[int](), list[Row](), list[Row]()
    for number, (ids, mask, group) in enumerate(zip(first["input_ids"], first["attention_mask"], encoded, strict=True)):
        common = _common_length(group)
        whole = ids[mask.bool()].tolist()
        own = len(group[0]) - common
        ends = [row[common:] for row in group]
        if whole[-own:] != ends[0] or len(whole) == own or any(marks.intersection(end) for end in ends):
            return None
        cuts.append(own)
        owners += [number] * len(group)
        tails += ends
        rows += [whole[:-own] + end for end in ends]
    return Shared(first, tuple(cuts), tuple(owners), tuple(tails), tuple(rows))


def inputs_of(processor: Any, family: Family, images: Sequence[Sequence[Image.Image]], questions: Sequence[str]) -> Any:
    """What `generate` takes, from the processor, on the CPU.

    Padded on the left; on the right for an encoder, whose positions are columns.

    Args:
        processor: the model's.
        family: the model's facts.
        images: RGB, one or more for each question.
        questions: without image placeholders.
    """
    prompts = [
        prompt_of(processor, family, question, len(own)) for question, own in zip(questions, images, strict=True)
    ]
    batch = processor(
        images=[list(own) for own in images],
        text=prompts,
        return_tensors="pt",
        padding=True,
        padding_side="right" if family.encoder_decoder else "left",
        **_once(processor, prompts[0]),
    )
    second = getattr(processor, "qformer_tokenizer", None)
    if second is not None:  # the processor pads these on the other tokenizer's side, which shifts their positions
        own = second(prompts, padding=True, padding_side="right", return_tensors="pt")
        batch["qformer_input_ids"], batch["qformer_attention_mask"] = own.input_ids, own.attention_mask
    return batch


def _once(processor: Any, prompt: str) -> dict[str, bool]:
    """The argument that keeps a tokenizer from putting in what the template has written already."""
    bos = getattr(tokenizer_of(processor), "bos_token", None)
    return {"add_special_tokens": False} if bos and prompt.startswith(bos) else {}


def _common_length(rows: Sequence[Row]) -> int:
    """How many first tokens all rows share, leaving one to each."""
    shortest = min(map(len, rows)) - 1
    columns = zip(*(row[:shortest] for row in rows), strict=True)
    return sum(1 for _ in takewhile(lambda column: len(set(column)) == 1, columns))
