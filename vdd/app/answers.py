"""A question about an image → what is known of its answers so far, again and again until they are whole.

First the image is read, once for all that follows. Then labels or first words are compared, the plain answer is
written, then the debiased one; behind each, every token's reliance on the image.

Knows: a pipeline, threads. Does not know: pages, who asks.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor

from vdd._check import UserError, choice, whole
from vdd.app.compared import Compared, compare
from vdd.app.house import Stopped, references_of
from vdd.app.received import in_words
from vdd.config import DebiasConfig, SamplingConfig
from vdd.distributions import Prefill
from vdd.families import tokenizer_of
from vdd.generation import CalledLogitsProcessor, decoded
from vdd.pipeline import Pipeline
from vdd.reliance import Width, pieces

LONGEST_QUESTION = 4000
"""Letters."""

LONGEST_ANSWER = 256
"""Tokens."""


@dataclass(frozen=True)
class Asked:
    """What a visitor wants to know.

    Attributes:
        image: RGB.
        question: without image placeholders.
        labels: possible answers; none where they are free.
        debias: how the debiased answer is made.
        length: tokens of an answer at most.
    """

    image: Image.Image
    question: str
    labels: tuple[str, ...] = ()
    debias: DebiasConfig = field(default_factory=DebiasConfig)
    length: int = 48


@dataclass(frozen=True)
class Written:
    """An answer, whole or not.

    Attributes:
        text: so far.
        done: whether it is whole.
        tokens: pieces of the whole answer, without its end.
        reliance: of each on the image, in nats.
        seconds: that it took.
    """

    text: str = ""
    done: bool = False
    tokens: tuple[str, ...] = ()
    reliance: tuple[float, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Shown:
    """What is known so far; None where nothing is.

    Attributes:
        asked: the question.
        compared: post-hoc debiasing, or why there is none.
        plain: the model's own answer.
        debiased: the one with the image's part strengthened.
    """

    asked: Asked
    compared: Compared | str | None = None
    plain: Written | None = None
    debiased: Written | None = None

    @property
    def whole(self) -> bool:
        """Whether there is nothing more to come."""
        return self.debiased is not None and self.debiased.done


def check(pipeline: Pipeline, asked: Asked) -> None:
    """Raise UserError where this model cannot be asked so."""
    if not asked.question.strip():
        raise UserError("The question is empty; wanted some words, such as “What is in the image?”")
    if len(asked.question) > LONGEST_QUESTION:
        raise UserError(f"The question has {len(asked.question)} letters; wanted at most {LONGEST_QUESTION}.")
    whole("the answer", "length", asked.length, low=1, high=LONGEST_ANSWER)
    choice("the model's family", "reference", asked.debias.reference, references_of(pipeline))
    pipeline.check_question(asked.question)


def answers(
    pipeline: Pipeline,
    asked: Asked,
    ended: threading.Event,
    turn: Callable[[threading.Event], AbstractContextManager[None]],
) -> Iterator[Shown]:
    """What is known so far, newest first when the reader is slow; the last one is whole unless it was ended.

    Args:
        pipeline: the model.
        asked: what passes `check`.
        ended: set it, or leave the iterator, to end the answer.
        turn: waits until the model is free, and holds it.

    Raises:
        UserError: on what cannot be asked.
    """
    mail: queue.SimpleQueue[Shown | Exception | None] = queue.SimpleQueue()

    def work() -> None:
        try:
            mail.put(Shown(asked))
            with turn(ended):
                _Answering(pipeline, asked, mail.put, ended).run()
        except Stopped:
            pass
        except Exception as error:  # told to the reader, in whose thread it belongs
            mail.put(error)
        mail.put(None)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            news = mail.get()
            while isinstance(news, Shown) and not mail.empty():
                newer = mail.get()
                if not isinstance(newer, Shown):
                    yield news
                news = newer
            if news is None:
                return
            if isinstance(news, Exception):
                raise news
            yield news
    finally:
        ended.set()


@dataclass
class _Answering:
    """One question's work, on a thread of its own."""

    pipeline: Pipeline
    asked: Asked
    tell: Callable[[Shown], None]
    ended: threading.Event
    shown: Shown = field(init=False)

    def __post_init__(self) -> None:
        self.shown = Shown(self.asked)

    def run(self) -> None:
        asked, pipeline = self.asked, self.pipeline
        inputs = pipeline.inputs([asked.image], [asked.question])
        with torch.no_grad():
            prefill = pipeline.prefill(inputs)
            self._know(compared=self._compare(inputs, prefill), plain=Written())
            self._know(plain=self._write(inputs, prefill, None, "plain"), debiased=Written())
            self._know(debiased=self._write(inputs, prefill, asked.debias, "debiased"))

    def _know(self, **more: object) -> None:
        if self.ended.is_set():
            raise Stopped
        self.shown = replace(self.shown, **more)  # type: ignore[arg-type]
        self.tell(self.shown)

    def _compare(self, inputs: dict[str, Tensor], prefill: Prefill) -> Compared | str:
        debias = self.asked.debias
        try:
            return compare(
                self.pipeline,
                inputs,
                prefill,
                self.asked.question,
                self.asked.labels,
                reference=debias.reference,
                beta=debias.beta,
            )
        except Exception as error:  # the other answers do not depend on it
            return in_words(error)

    def _write(self, inputs: dict[str, Tensor], prefill: Prefill, debias: DebiasConfig | None, name: str) -> Written:
        """One answer; told again with every token."""
        pipeline, start = self.pipeline, time.perf_counter()
        tokenizer, width = tokenizer_of(pipeline.processor), Width()

        def so_far(tokens: list[int]) -> None:
            text = tokenizer.decode(tokens, skip_special_tokens=True).strip().rstrip("\ufffd")
            self._know(**{name: Written(text)})

        plugin = None
        if debias is not None:
            plugin = CalledLogitsProcessor.from_config(
                debias, pipeline.model, pipeline.processor, inputs=inputs, strategy="auto", memory=pipeline.memory
            )
        call = {
            **inputs,
            "logits_processor": [width],
            "streamer": _Streamer(so_far),
            **SamplingConfig(max_new_tokens=self.asked.length).generate_kwargs(),
        }
        output = decoded(
            pipeline.model,
            pipeline.model.generate,
            call,
            pipeline.family,
            processor=pipeline.processor,
            plugin=plugin,
            seen=prefill.seen(pipeline.reader),
        )
        seconds = time.perf_counter() - start
        tokens = output[:, width.columns :]
        reliance = pipeline.reliance(inputs, tokens, self.asked.debias, prefill=prefill)[0].tolist()
        text, kept = tokenizer.decode(tokens[0], skip_special_tokens=True).strip(), tokens[0].tolist()
        while kept and kept[-1] in tokenizer.all_special_ids:
            kept.pop()
        return Written(text, True, pieces(tokenizer, kept), tuple(reliance[: len(kept)]), seconds)


class _Streamer:
    """Hands over the tokens so far; what `generate` puts first is the prompt."""

    def __init__(self, so_far: Callable[[list[int]], None]) -> None:
        self.so_far, self.tokens, self.begun = so_far, list[int](), False

    def put(self, value: Tensor) -> None:
        """Take the next tokens."""
        if self.begun:
            self.tokens += value.flatten().tolist()
            self.so_far(self.tokens)
        self.begun = True

    def end(self) -> None:
        """Take the end."""
