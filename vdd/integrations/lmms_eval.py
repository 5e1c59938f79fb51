"""Any vision-language model, debiased or plain, as a model of lmms-eval.

    lmms-eval eval --model vdd --model_args pretrained=llava-hf/llava-1.5-7b-hf,alpha=1.0,beta=0.1 --tasks pope
    lmms-eval eval --model vdd --model_args pretrained=llava-hf/llava-1.5-7b-hf,plain=True --tasks pope

Unlike the models that lmms-eval brings, this one swallows no exception: a question that cannot be answered ends the run
instead of counting as an empty answer.
Source: lmms-eval 0.7.3. Knows: its requests, chat templates, decoding. Does not know: tasks, scores.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from lmms_eval.api.instance import GenerationResult, TokenCounts
from lmms_eval.api.model import lmms
from lmms_eval.protocol import ChatMessages
from lmms_eval.utils import Collator
from loguru import logger
from PIL import Image
from torch import Tensor
from tqdm import tqdm
from transformers import LogitsProcessor, StoppingCriteria

from vdd._check import UserError, choice, whole
from vdd.config import SamplingConfig, override, to_json
from vdd.contrast import upcast
from vdd.families import family_of, tokenizer_of
from vdd.generation import generate
from vdd.images import load_image, to_rgb
from vdd.loading import load
from vdd.processor import PRESETS, VDDLogitsProcessor
from vdd.reader import input_device

PLACEHOLDER = "<image>"
"""What lmms-eval's tasks write where an image belongs in the text."""

MAX_NEW_TOKENS = 1024
"""Where a task sets no limit; as in lmms-eval's own LLaVA."""

SAMPLING = tuple(field.name for field in fields(SamplingConfig))
OTHER_SETTINGS = ("until", "do_sample", "image_aspect_ratio")
"""Settings of a task that are read besides SAMPLING, or belong to other models' image processing."""

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Chat:
    """One document's conversation.

    Attributes:
        messages: role and content, as chat templates take them.
        images: those of its image parts, in order.
    """

    messages: list[dict[str, Any]]
    images: list[Image.Image]


class VDD(lmms):
    """Tasks that give a text and its images, multiple choice by likelihood included (`--force_simple`).

    Args:
        pretrained: folder of a model, or its name on the Hub.
        preset: one of vdd.PRESETS.
        plain: the model as it is, for the control leg.
        device: as for `vdd.load`; "cuda", or none given, is this process's own GPU where there are several.
        dtype: as for `vdd.load`.
        quantize: "4bit", "8bit" or None.
        batch_size: documents at a time.
        max_batch_size: not used; lmms-eval passes it to every model.
        **options: settings of `DebiasConfig`, such as alpha=1.0, beta=0.1, reference="none".
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str,
        *,
        preset: str = "vdd",
        plain: bool = False,
        device: str | None = None,
        dtype: str = "auto",
        quantize: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        choice("vdd", "preset", preset, PRESETS)
        self.debias = override(PRESETS[preset], options)
        self.plain = plain
        self.batch_size = _batch_size(batch_size)
        self.model, self.processor = load(pretrained, device=_own_device(device), dtype=dtype, quantize=quantize)
        self.tokenizer = tokenizer_of(self.processor)
        if not getattr(self.processor, "chat_template", None):
            raise UserError(f"vdd: the processor of {pretrained!r} has no chat template; wanted one with it.")
        if not plain:
            family_of(self.model, self.processor)  # an unknown family is an error now, not when the data is loaded

    @property
    def device(self) -> torch.device:
        """Where inputs go; lmms-eval gathers over it."""
        return input_device(self.model)

    def generate_until(self, requests: list[Any]) -> list[GenerationResult]:
        """The answers, in the requests' order; greedy unless the task asks for something else."""
        order = Collator([request.args for request in requests], self._by_length, self._settings, grouping=True)
        unknown = {name for request in requests for name in self._settings(request.args)} - {*SAMPLING, *OTHER_SETTINGS}
        if unknown:
            logger.warning(f"vdd: generation_kwargs that are not used: {', '.join(sorted(unknown))}.")
        answers: list[GenerationResult] = []
        with self._progress(len(requests)) as progress:
            for chunk in order.get_batched(n=self.batch_size):
                settings = self._settings(chunk[0])
                chats = [self._chat(request) for request in chunk]
                answers += _by_kind(chats, partial(self._answers, chats, settings))
                progress.update(len(chunk))
        return order.get_original(answers)

    def loglikelihood(self, requests: list[Any]) -> list[GenerationResult]:
        """How well each continuation fits.

        Under debiasing a continuation that the cut-off excludes gets ∞; where all of a document's do, they are compared
        without the cut-off.

        Returns:
            For each, as `text`, the mean negative log-likelihood of its tokens and whether greedy decoding says it.
            Smaller is better: lmms-eval chooses by `argmin`, since its own models return their loss. Of a bare pair
            lmms-eval 0.7.3 makes a string, on which it then fails.
        """
        order = Collator([request.args for request in requests], self._by_length)
        found: list[tuple[float, bool]] = []
        with self._progress(len(requests)) as progress:
            for chunk in order.get_batched(n=self.batch_size):
                found += self._fits(chunk, beta=self.debias.beta)
                progress.update(len(chunk))
        found = order.get_original(found)
        lost = _without_choice([request.args for request in requests], found)
        for start in range(0, len(lost), self.batch_size):
            some = lost[start : start + self.batch_size]
            fits = self._fits([requests[number].args for number in some], beta=0.0)
            for number, (loss, _) in zip(some, fits, strict=True):
                found[number] = (loss, False)
        return [GenerationResult(text=fit) for fit in found]

    def generate_until_multi_round(self, requests: list[Any]) -> list[str]:
        """Not supported: a task in rounds builds its next prompt from the last answer."""
        raise NotImplementedError("vdd answers tasks of one round; this one has several (generate_until_multi_round).")

    def _settings(self, request: tuple[Any, ...]) -> dict[str, Any]:
        """How the task wants this request decoded."""
        return request[1] or {}

    def _chat(self, request: tuple[Any, ...]) -> Chat:
        text, _, doc_to_visual, doc_id, task, split = request
        visuals = doc_to_visual(self.task_dict[task][split][doc_id]) if doc_to_visual else None
        return _chat_of([{"role": "user", "content": _interleaved(text, visuals or [])}])

    def _by_length(self, request: tuple[Any, ...]) -> tuple[int, str]:
        """Longest first, so that memory runs out at once or never."""
        return -len(self.tokenizer(request[0], add_special_tokens=False)["input_ids"]), request[0]

    def _progress(self, total: int) -> Any:
        return tqdm(total=total, disable=self.rank != 0, desc="vdd")

    @torch.no_grad()
    def _answers(
        self, chats: Sequence[Chat], settings: Mapping[str, Any], numbers: Sequence[int]
    ) -> list[GenerationResult]:
        inputs = self._inputs([chats[number] for number in numbers])
        width = inputs["input_ids"].shape[1]
        until = _until(settings)
        stops = [_Until(self.tokenizer, until, width)] if until else []
        given = {**inputs, **_sampling(settings).generate_kwargs(), "stopping_criteria": stops}
        if self._has_prior(chats[numbers[0]]):
            ids = generate(self.model, self.processor, **given, **to_json(self.debias))[:, width:]
        else:
            ids = self.model.generate(**given)[:, width:]
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        counts = torch.isin(ids, self._ends(), invert=True).sum(-1).tolist()
        return [
            GenerationResult(_before(text, until), TokenCounts(output_tokens=count))
            for text, count in zip(texts, counts, strict=True)
        ]

    def _ends(self) -> Tensor:
        """Tokens that an answer does not go beyond."""
        config = self.model.generation_config
        last = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
        return torch.tensor([end for end in (config.pad_token_id, *last) if end is not None]).to(self.device)

    def _fits(self, requests: Sequence[tuple[Any, ...]], *, beta: float) -> list[tuple[float, bool]]:
        chats = [self._chat(request) for request in requests]
        texts = [self._continuation(request) for request in requests]
        return _by_kind(chats, partial(self._forced, chats, texts, beta))

    @torch.no_grad()
    def _forced(
        self, chats: Sequence[Chat], texts: Sequence[str], beta: float, numbers: Sequence[int]
    ) -> list[tuple[float, bool]]:
        rows = [self._tokens(chats[number], texts[number]) for number in numbers]
        inputs = self._inputs([chats[number] for number in numbers])
        plugins: list[Any] = [forced := _Forced(rows)]
        if self._has_prior(chats[numbers[0]]):
            config = replace(self.debias, beta=beta)
            plugins.insert(0, VDDLogitsProcessor.from_config(config, self.model, self.processor, inputs=inputs))
        sampling = SamplingConfig(max_new_tokens=max(map(len, rows)))
        self.model.generate(**inputs, **sampling.generate_kwargs(), logits_processor=plugins)
        return forced.fits()

    def _continuation(self, request: tuple[Any, ...]) -> str:
        target, doc_id, task, split = request[1], *request[3:]
        return target if isinstance(target, str) else str(target(self.task_dict[task][split][doc_id]))

    def _tokens(self, chat: Chat, text: str) -> list[int]:
        """The tokens of `text` behind the prompt; without the space before it where the prompt ends with one."""
        prompt = self._rendered(chat)
        if prompt[-1:].isspace():
            text = text.lstrip()
        before, whole_ids = (
            self.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (prompt, prompt + text)
        )
        if whole_ids[: len(before)] != before:  # the tokenizer joins across the border
            whole_ids = before + self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if len(whole_ids) == len(before):
            raise UserError(f"vdd: the continuation {text!r} has no tokens; wanted at least one.")
        return whole_ids[len(before) :]

    def _rendered(self, chat: Chat) -> str:
        return str(self.processor.apply_chat_template(chat.messages, add_generation_prompt=True))

    def _inputs(self, chats: Sequence[Chat]) -> Any:
        """What `generate` takes: left-padded, all rows with images or none."""
        prompts = [self._rendered(chat) for chat in chats]
        bos = getattr(self.tokenizer, "bos_token", None)
        images = [chat.images for chat in chats]
        batch = self.processor(
            images=images if images[0] else None,
            text=prompts,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=not (bos and prompts[0].startswith(bos)),
        )
        return batch.to(self.device, self.model.dtype)

    def _has_prior(self, chat: Chat) -> bool:
        """Whether there is something to subtract: where no image is shown, all the model says is said without one."""
        return not self.plain and bool(chat.images)


class VDDChat(VDD):
    """Tasks that give whole conversations; lmms-eval takes this one unless it is told `--force_simple`."""

    is_simple = False

    def _settings(self, request: tuple[Any, ...]) -> dict[str, Any]:
        return request[2] or {}

    def _chat(self, request: tuple[Any, ...]) -> Chat:
        _, doc_to_messages, _, doc_id, task, split = request
        messages = ChatMessages(messages=doc_to_messages(self.task_dict[task][split][doc_id])).messages
        content = [[_part(part) for part in message.content] for message in messages]
        return _chat_of(
            [{"role": message.role, "content": parts} for message, parts in zip(messages, content, strict=True)]
        )


class _Until(StoppingCriteria):
    """Ends a row once one of the texts stands in what it generated."""

    def __init__(self, tokenizer: Any, until: Sequence[str], start: int) -> None:
        self.tokenizer = tokenizer
        self.until = until
        self.start = start
        self.window = 8 + max(len(end.encode()) for end in until)  # tokens; none is less than a byte, save special ones

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        tails = self.tokenizer.batch_decode(input_ids[:, self.start :][:, -self.window :], skip_special_tokens=True)
        return torch.tensor([any(end in tail for end in self.until) for tail in tails], device=input_ids.device)


class _Forced(LogitsProcessor):
    """Makes `generate` write given tokens, and keeps the log-probability of each; behind a row's end any token."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.rows = rows
        self.steps: list[tuple[Tensor, Tensor]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        step = len(self.steps)
        tokens = torch.tensor([row[min(step, len(row) - 1)] for row in self.rows], device=scores.device)[:, None]
        rows = torch.log_softmax(upcast(scores), dim=-1)
        self.steps.append((rows.gather(1, tokens)[:, 0], rows.argmax(-1) == tokens[:, 0]))
        return torch.full_like(scores, -torch.inf).scatter(1, tokens, 0.0)

    def fits(self) -> list[tuple[float, bool]]:
        """For each row: mean negative log-likelihood, whether every token was the most probable."""
        if not self.steps:
            raise NotImplementedError("vdd: this model's generate leaves logits processors out, so no likelihood.")
        logs = torch.stack([log for log, _ in self.steps], dim=1).tolist()
        tops = torch.stack([top for _, top in self.steps], dim=1).tolist()
        return [
            (-sum(log[: len(row)]) / len(row), all(top[: len(row)]))
            for row, log, top in zip(self.rows, logs, tops, strict=True)
        ]


def _interleaved(text: str, visuals: Sequence[Any]) -> list[dict[str, Any]]:
    """Images where the text says `<image>`, else before it."""
    images = [_image_part(visual) for visual in visuals]
    pieces = text.split(PLACEHOLDER)
    if len(pieces) != len(images) + 1:
        return [*images, {"type": "text", "text": text}]
    parts: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        parts += [{"type": "text", "text": piece}] if piece.strip() else []
        parts += images[number : number + 1]
    return parts


def _part(part: Any) -> dict[str, Any]:
    if part.type == "text":
        return {"type": "text", "text": part.text}
    if part.type == "image":
        return _image_part(part.url)
    raise UserError(f"vdd: the document has a part of type {part.type!r}; wanted text and images.")


def _image_part(visual: Any) -> dict[str, Any]:
    if isinstance(visual, Image.Image):
        return {"type": "image", "image": to_rgb(visual)}
    if isinstance(visual, (str, Path)):
        return {"type": "image", "image": load_image(visual)}
    raise UserError(f"vdd: the document shows a {type(visual).__name__}; wanted images (PIL's, or paths of files).")


def _chat_of(messages: list[dict[str, Any]]) -> Chat:
    return Chat(messages, [part["image"] for message in messages for part in message["content"] if "image" in part])


def _by_kind(chats: Sequence[Chat], answer: Callable[[list[int]], list[_Result]]) -> list[_Result]:
    """Asks about those with images and those without apart: a batch has pixels for all rows or for none."""
    found: dict[int, _Result] = {}
    for wanted in (True, False):
        numbers = [number for number, chat in enumerate(chats) if bool(chat.images) == wanted]
        if numbers:
            found |= dict(zip(numbers, answer(numbers), strict=True))
    return [found[number] for number in range(len(chats))]


def _without_choice(requests: Sequence[tuple[Any, ...]], found: Sequence[tuple[float, bool]]) -> list[int]:
    """The numbers of the requests of documents all whose continuations got ∞."""
    documents: dict[tuple[Any, ...], list[int]] = {}
    for number, request in enumerate(requests):
        documents.setdefault(tuple(request[3:]), []).append(number)
    return [n for numbers in documents.values() if all(found[n][0] == float("inf") for n in numbers) for n in numbers]


def _sampling(settings: Mapping[str, Any]) -> SamplingConfig:
    """Greedy, unless the task sets a temperature above 0 or `do_sample`."""
    given = {name: settings[name] for name in SAMPLING if settings.get(name) is not None}
    temperature = given.get("temperature", 1.0 if settings.get("do_sample") else 0.0)
    if settings.get("do_sample") is False or temperature == 0:
        given = {name: value for name, value in given.items() if name not in ("top_p", "top_k")}
        temperature = 0.0
    return SamplingConfig(**{"max_new_tokens": MAX_NEW_TOKENS, **given, "temperature": temperature})


def _until(settings: Mapping[str, Any]) -> list[str]:
    until = settings.get("until") or []
    return [end for end in ([until] if isinstance(until, str) else until) if end]


def _before(text: str, until: Sequence[str]) -> str:
    """`text` up to the first of these."""
    return text[: min([text.find(end) for end in until if end in text], default=len(text))]


def _batch_size(size: int | str) -> int:
    if not str(size).isdecimal():
        raise UserError(f"vdd: batch_size is {size!r}; wanted a whole number ≥ 1.")
    return whole("vdd", "batch_size", int(size), low=1)


def _own_device(device: str | None) -> str | None:
    """This process's GPU, where lmms-eval runs as several processes."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and device in (None, "cuda") and torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return device
