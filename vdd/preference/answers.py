"""Questions with their answers as a model reads them in training: the prompt's tokens, then the answer's, then its end.

    <s> USER: <image>… question ASSISTANT:  |  answer </s>        completion_mask 1 behind the bar, padding at the end

The prompt's ids are those that the model is asked with (`vdd.Pipeline.inputs`), whoever writes the first token. The
answer is tokenised behind the prompt's text, so that spaces are the template's, and closes with what the template
writes behind a turn, or with the tokenizer's end token where it writes none. Nothing is ever cut.

Knows: processors, chat templates. Does not know: losses, trainers, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from PIL import Image
from torch import Tensor

from vdd._check import UserError
from vdd.families import family_of, tokenizer_of, unwrapped
from vdd.generation import ends_of
from vdd.prompts import check_inputs, check_processor, inputs_of, prompt_of
from vdd.reader import input_device

_MARK = "\u2042"
"""Stands for an answer where it is looked up what a template writes around one."""


class Answers:
    """Writes questions and answers as a model's inputs.

    Args:
        model: a vision-language model of one of `vdd.families.ADAPTERS`, as it is before anything wraps it.
        processor: its processor.

    Attributes:
        family: the model's facts.
        ends: the tokens that end an answer when the model writes one.

    Raises:
        UserError: on a family that is not known or reads text with another part, or a processor without images.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model, self.processor = unwrapped(model), processor
        self.family = family_of(model, processor)
        check_processor(model, processor)
        if self.family.encoder_decoder or self.family.adapter.text_model:
            raise UserError(
                f"align: in the family {self.family.kind!r} another part of the model reads the text, which the "
                "trainer's loss does not know; wanted a model that reads image, prompt and answer in one row."
            )
        self.dtype = self.model.dtype
        self.tokenizer = tokenizer_of(processor)
        self.ends = ends_of(self.tokenizer) | ends_of(self.model.generation_config)
        if self.tokenizer.eos_token_id is None:
            raise UserError(
                f"align: the tokenizer of {type(processor).__name__} has no end token, so that a model would learn "
                "never to stop; wanted one in `processor.tokenizer.eos_token`."
            )

    def tokens(self, prompt: str, answer: str, images: int = 1) -> list[int]:
        """The answer's ids behind a question about so many images, its end among them.

        Raises:
            UserError: on an answer that is empty, or holds a token of an image or an end.
        """
        if not isinstance(answer, str) or not answer.strip():
            raise UserError(f"align: an answer is {answer!r}; wanted text.")
        answer = answer.strip()
        head = prompt_of(self.processor, self.family, prompt, images)
        lead, close = self._around(prompt, head, images)
        before, whole = (self._ids(text) for text in (head, head + lead + answer + close))
        self._check_length(len(whole), prompt)
        ids = whole[len(before) :] if whole[: len(before)] == before else self._ids(lead + answer + close)
        own = self._ids(answer)
        strange = self.ends.union(self.family.image_ids, self.family.frame_ids).intersection(own)
        if strange or not own:
            what = f"the token {self.tokenizer.decode([min(strange)])!r}" if strange else "no token"
            raise UserError(f"align: the answer {answer!r} holds {what}; wanted words alone.")
        stop = next((place for place, token in enumerate(ids) if token in self.ends), None)
        return [*ids, int(self.tokenizer.eos_token_id)] if stop is None else ids[: stop + 1]

    def batch(
        self, images: Sequence[Sequence[Image.Image]], prompts: Sequence[str], answers: Sequence[str]
    ) -> dict[str, Tensor]:
        """What the model's forward takes, on its device and in its dtype, and `completion_mask`.

        Args:
            images: RGB, one or more for each row.
            prompts: questions, without image placeholders.
            answers: of each row.

        Returns:
            `input_ids`, `attention_mask`, `completion_mask`: (rows, width), padded on the right; what the family reads
            beside them.

        Raises:
            UserError: as `tokens`; on a row with more tokens than the model has positions.
        """
        inputs = inputs_of(self.processor, self.family, images, prompts)
        check_inputs(self.model, self.processor, self.family, inputs)
        ends = [
            self.tokens(prompt, answer, len(own)) for own, prompt, answer in zip(images, prompts, answers, strict=True)
        ]
        mask = inputs["attention_mask"]
        real = torch.zeros(len(ends), max(map(len, ends)), dtype=mask.dtype)
        ids = torch.full_like(real, self._pad)
        for row, own in enumerate(ends):
            ids[row, : len(own)] = torch.tensor(own)
            real[row, : len(own)] = 1
        added = {"input_ids": ids, "attention_mask": real, "completion_mask": real}
        columns = dict(inputs, completion_mask=torch.zeros_like(mask))
        whole = {
            name: torch.cat([value, added.get(name, self._beside(name, value, real))], dim=1)
            if self._by_token(name, value, mask)
            else value
            for name, value in columns.items()
        }
        flushed = self._right_padded(whole)
        for length, prompt in zip(flushed["attention_mask"].sum(-1).tolist(), prompts, strict=True):
            self._check_length(length, prompt)
        device = input_device(self.model)
        return {
            name: value.to(device, dtype=self.dtype if value.is_floating_point() else None)
            for name, value in flushed.items()
            if isinstance(value, Tensor) and name != "labels"
        }

    def _around(self, prompt: str, head: str, images: int) -> tuple[str, str]:
        """What the template writes between the prompt and an answer, and behind it; found with a mark in its place."""
        spaced = "" if not head or head[-1].isspace() or self._ids(head)[-1] in self._special else " "
        if not getattr(self.processor, "chat_template", None):
            return spaced, ""
        asked = [{"type": "image"}] * images + [{"type": "text", "text": prompt}]
        for said in ([{"type": "text", "text": _MARK}], _MARK):  # templates take the one or the other
            turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]
            try:
                text = str(self.processor.apply_chat_template(turns, tokenize=False))
            except (TemplateError, TypeError, ValueError):
                continue
            before, found, close = text.rpartition(_MARK)
            lead = before.removeprefix(head)
            if found and "'text'" not in lead:  # else the list itself was printed
                return (lead if before.startswith(head) and not lead.strip() else spaced), close.rstrip()
        return spaced, ""

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    @property
    def _special(self) -> frozenset[int]:
        return frozenset(self.tokenizer.all_special_ids)

    @property
    def _pad(self) -> int:
        own = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if own is None else own)

    def _by_token(self, name: str, value: Any, mask: Tensor) -> bool:
        """Whether an argument has a value for each token of the prompt."""
        if not isinstance(value, Tensor) or value.shape[:2] != mask.shape:
            return False
        return name in self.family.adapter.steps or (value.ndim == 2 and name != "pixel_values")

    def _beside(self, name: str, value: Tensor, real: Tensor) -> Tensor:
        """What an argument says of the answer's tokens."""
        if name in self.family.adapter.steps:
            return value[:, -1:].repeat_interleave(real.shape[1], dim=1)
        types = self.family.adapter.types
        suffix = types is not None and types[0] == name and not types[1]  # 0 on the prompt that is read as a whole
        return real.to(value.dtype) if suffix else torch.zeros_like(real, dtype=value.dtype)

    def _right_padded(self, whole: dict[str, Any]) -> dict[str, Any]:
        """The padding before each prompt moved behind its answer, columns of padding alone cut off."""
        mask = whole["attention_mask"]
        front = (mask.cumsum(-1) == 0).sum(-1).tolist()
        width = int(mask.sum(-1).max())

        def rolled(tensor: Tensor) -> Tensor:
            rows = [row.roll(-shift, dims=0) for row, shift in zip(tensor, front, strict=True)]
            return torch.stack(rows)[:, :width]

        return {name: rolled(value) if self._by_token(name, value, mask) else value for name, value in whole.items()}

    def _check_length(self, length: int, prompt: str) -> None:
        room = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        if room is not None and length > room:
            raise UserError(
                f"align: question {prompt!r} and its answer have {length} tokens or more, its images' among them; "
                f"wanted at most {room}, the model's positions. Nothing is cut: leave the row out."
            )
