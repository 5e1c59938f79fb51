"""Images and a question in, answer out: a vision-language model with its processor, debiased.

    vdd.Pipeline(*vdd.load("llava-hf/llava-1.5-7b-hf"))("photo.jpg", "Is there a dog in the image?")

Knows: transformers' `generate`, images. Does not know: files of questions, scores, the command line.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vdd._check import UserError, choice
from vdd.calibrate import AffineCalibration
from vdd.config import IMAGE, STRATEGIES, DebiasConfig, SamplingConfig, override
from vdd.custom import blamed, checked_width
from vdd.distributions import Distributions, Prefill, named, parts_of, priors_of
from vdd.families import tokenizer_of
from vdd.generation import CalledLogitsProcessor, decoded, ends_of, settings_of, transformers_own
from vdd.images import Picture, as_picture
from vdd.processor import PRESETS
from vdd.prompts import Shared, check_inputs, check_processor, check_question, inputs_of, prompt_of, shared_of
from vdd.reader import input_device
from vdd.records import Answer, DecodingReport, Misprediction
from vdd.reliance import Trace, Width, pieces
from vdd.scoring.words import is_right


class Pipeline(Distributions):
    """Answers questions about images, debiased.

    Args:
        model: a vision-language model of one of `vdd.families.ADAPTERS`.
        processor: its processor.
        preset: one of vdd.PRESETS.
        strategy: how the image-free side is run; see `vdd.generate`.
        allow_urls: whether an image may be an http or https address, which is then fetched.
        on_misprediction: called with each wrong answer, where the right one is known; see
            `vdd.influence.TraceMispredictions`.
        **options: settings of `DebiasConfig`, such as alpha=1.0, beta=0.1, reference="none".

    Raises:
        ValueError: on an unknown family, a processor without images, or a setting out of range.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        *,
        preset: str = "vdd",
        strategy: str = "auto",
        allow_urls: bool = False,
        on_misprediction: Callable[[Misprediction], object] | None = None,
        **options: Any,
    ) -> None:
        choice("vdd", "preset", preset, PRESETS)
        self.strategy = choice("vdd", "strategy", strategy, STRATEGIES)
        super().__init__(model, processor)
        check_processor(model, processor)
        self.debias = override(PRESETS[preset], options)
        self.allow_urls = allow_urls
        self.on_misprediction = on_misprediction

    def __call__(
        self,
        image: Picture | Sequence[Picture],
        question: str,
        *,
        labels: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        priors: Sequence[str] | None = None,
        mode: str = "diagonal",
        best_form: bool = False,
        debias: bool = True,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
        truth: str | None = None,
    ) -> Answer:
        """Answer one question about one image, or about several.

        Args:
            image: path, PIL image, the bytes of an image file, or, where allowed, a URL; or a list of such.
            question: without image placeholders.
            labels: the possible answers ("yes", "no"); their probabilities come with the answer, raw, without the
                image, and debiased.
            priors: the meaningless inputs that post-hoc debiasing takes p' from: "none", "unk", "both", "noise",
                "zero", "one", "mask"; by default those of the first three that the model has.
            mode: "diagonal" or "identity"; see `AffineCalibration`.
            best_form: a label's most probable surface form instead of the sum over its forms.
            debias: False for the model's plain answer.
            sampling: greedy, at most 32 tokens, by default.
            seed: of sampling.
            truth: the right answer, where it is known; where it is "yes" or "no" the text is read by POPE's rule, in
                any case, else it must be the same but for case and surrounding spaces.

        Returns:
            the answer; `reliance` is None for a plain one and where the reference is not run (alpha=0).

        Raises:
            ValueError: on an image that cannot be read, more images than the family takes, a question with an image's
                placeholder, or a reference that makes no sense for the family.
        """
        clock = _Clock(self.device)
        given, inputs = self._asked(image, question)
        clock.tick("inputs")
        prefill = None
        if labels is not None:
            prefill = self.prefill(inputs)
            clock.tick("prefill")
        trace = Trace()
        (text,) = self.generate(
            inputs,
            debias=self.debias if debias else None,
            sampling=sampling or SamplingConfig(),
            seed=seed,
            prefill=prefill,
            trace=trace,
        )
        clock.tick("generate")
        answer = Answer(
            0,
            question,
            _named(given),
            text,
            tokens=pieces(tokenizer_of(self.processor), next(iter(trace.tokens), ())),
            reliance=None if trace.reliance is None else trace.reliance[0],
            decoding=trace.report,
        )
        if labels is not None and prefill is not None:
            answer = self._with_labels(
                answer, inputs, prefill, labels, self.priors if priors is None else priors, mode, best_form
            )
            clock.tick("labels")
        answer = replace(answer, timings=clock.seconds)
        if truth is not None and self.on_misprediction is not None and not is_right(answer.text, truth):
            self.on_misprediction(Misprediction(given, question, answer, truth))
        return answer

    def explain(
        self,
        image: Picture | Sequence[Picture],
        question: str,
        text: str | None = None,
        *,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
    ) -> Answer:
        """What each token of a plain answer, or of any text, owes to the image; a debiased answer knows it already.

        Args:
            image: as in a call.
            question: without image placeholders.
            text: whose tokens are asked about, as an answer to the question; None for the model's plain answer.
            sampling: of the plain answer; greedy, at most 32 tokens, by default.
            seed: of sampling.

        Returns:
            the answer with its `reliance`, held against the pipeline's reference (alpha does not matter).

        Raises:
            ValueError: as a call does; on a text that holds an image's placeholder.
        """
        clock = _Clock(self.device)
        given, inputs = self._asked(image, question)
        clock.tick("inputs")
        prefill, trace = self.prefill(inputs), Trace()
        clock.tick("prefill")
        if text is None:
            how = sampling or SamplingConfig()
            (text,) = self.generate(inputs, debias=None, sampling=how, seed=seed, prefill=prefill, trace=trace)
            (ids,) = trace.tokens
            clock.tick("generate")
        else:
            self.check_question(text)
            ids = tuple(self.tokens(text))
        owed: list[float] = []
        if ids:
            row = torch.tensor([ids], device=inputs["input_ids"].device)
            owed = self.reliance(inputs, row, self.debias, prefill=prefill)[0].tolist()
        clock.tick("reliance")
        return Answer(
            0,
            question,
            _named(given),
            text,
            tokens=pieces(tokenizer_of(self.processor), ids),
            reliance=tuple(owed),
            timings=clock.seconds,
        )

    def _asked(self, image: Picture | Sequence[Picture], question: str) -> tuple[list[Any], Any]:
        """The images as a list, and what `generate` takes."""
        given: list[Any] = list(image) if isinstance(image, (list, tuple)) else [image]
        if not given:
            raise UserError("vdd: no image came with the question; wanted one or more.")
        self.prompt(question, len(given))
        return given, self.inputs([[as_picture(one, allow_urls=self.allow_urls) for one in given]], [question])

    def inputs(self, images: Sequence[Image.Image | Sequence[Image.Image]], questions: Sequence[str]) -> Any:
        """What `generate` takes, on the model's device and in its dtype: one question a row.

        Args:
            images: RGB; one, or a list, for each question.
            questions: without image placeholders.

        Raises:
            ValueError: on a question that cannot be asked, or a processor that is another model's.
        """
        nested = [[own] if isinstance(own, Image.Image) else list(own) for own in images]
        inputs = inputs_of(self.processor, self.family, nested, questions)
        check_inputs(self.model, self.processor, self.family, inputs)
        return inputs.to(self.device, dtype=self.model.dtype)

    @property
    def reads_itself(self) -> bool:
        """Whether the family's own `generate` reads the prompt, so that it cannot go on from a prefill."""
        return bool(transformers_own(self.model, self.family, {}))

    def tokens(self, question: str) -> list[int]:
        """The question's own tokens."""
        return list(tokenizer_of(self.processor)(question, add_special_tokens=False).input_ids)

    def prompt(self, question: str, images: int = 1) -> str:
        """The prompt for a question and so many images, with their placeholders; see `vdd.prompts.prompt_of`."""
        return prompt_of(self.processor, self.family, question, images)

    def check_question(self, question: str) -> None:
        """Raise UserError where the question holds an image's placeholder."""
        check_question(self.processor, self.family, question)

    def shared(self, images: Sequence[Sequence[Image.Image]], questions: Sequence[Sequence[str]]) -> Shared | None:
        """Questions in groups that share their images, on the model's device; None where they cannot be put so.

        Args:
            images: RGB, of each group.
            questions: of each group, without image placeholders.
        """
        if self.unshared:
            return None
        shared = shared_of(self.processor, self.family, images, questions)
        if shared is None:
            return None
        check_inputs(self.model, self.processor, self.family, shared.first)
        return replace(shared, first=shared.first.to(self.device, dtype=self.model.dtype))

    def generate(
        self,
        inputs: Mapping[str, Tensor],
        *,
        debias: DebiasConfig | None,
        sampling: SamplingConfig,
        seed: int = 0,
        strategy: str | None = None,
        prefill: Prefill | None = None,
        trace: Trace | None = None,
        custom: Mapping[str, Any] | None = None,
        report: DecodingReport | None = None,
    ) -> list[str]:
        """The answers' texts, without special tokens.

        Args:
            inputs: from `inputs`; with a prefill that this package's loop goes on from, the ids and mask are enough.
            debias: None for plain decoding.
            sampling: every setting is passed on, whatever the model's generation_config says.
            seed: of sampling; the global random state is left as it was.
            strategy: how the image-free side is run, where it is not the pipeline's.
            prefill: from `prefill` or `prefill_shared`; where this package's loop runs, the image is then not read
                again, and what was computed without the image before is remembered. The same up to kernel rounding.
            trace: filled with every answer's tokens, how they were decoded and, unless plain, what each owes to the
                image.
            report: filled with how the answers were decoded, unless plain.
            custom: arguments of `generate` that name another decoding method, from `Leg.custom_call`; its code is run.
        """
        record = trace is not None and debias is not None and not debias.is_cutoff_only
        width, plugin = Width(), None
        if debias is not None:
            plugin = CalledLogitsProcessor.from_config(
                debias,
                self.model,
                self.processor,
                inputs=inputs,
                strategy=strategy or self.strategy,
                memory=None if prefill is None else self.memory,
            )
            plugin.report = plugin.report if report is None else report
        call: dict[str, Any] = {
            **inputs,
            "logits_processor": [width],
            "return_dict_in_generate": True,
            "output_logits": record,
            **sampling.generate_kwargs(),
            **(custom or {}),
        }
        seen = None if prefill is None else prefill.seen(self.reader)
        with _seeded(seed, self.device), torch.no_grad(), blamed(custom):
            output = decoded(
                self.model,
                self.model.generate,
                call,
                self.family,
                processor=self.processor,
                plugin=plugin,
                seen=seen,
            )
        if custom and not self.family.encoder_decoder:
            width.columns = checked_width(custom, getattr(output, "sequences", output), inputs["input_ids"])
        if width.columns is None:
            raise UserError("vdd: this model's `generate` asked no logits processor, so nothing was debiased.")
        tokens = getattr(output, "sequences", output)[:, width.columns :]
        texts = tokenizer_of(self.processor).batch_decode(tokens, skip_special_tokens=True)
        if trace is not None:
            trace.take(output, width.columns, ends_of(settings_of(self.model, call)), plugin)
        return [text.strip() for text in texts]

    def _with_labels(
        self,
        answer: Answer,
        inputs: Mapping[str, Tensor],
        prefill: Prefill,
        words: Sequence[str] | Mapping[str, Sequence[str]],
        references: Sequence[str],
        mode: str,
        best_form: bool,
    ) -> Answer:
        labels = self.labels(words)
        rows = self.distributions(inputs, (IMAGE, *parts_of(references)), prefill=prefill)
        found = self.label_probabilities(inputs, labels, rows=rows, prefill=prefill, best_form=best_form)
        priors = priors_of(found, references)
        calibrated = {
            name: AffineCalibration.from_prior(prior, mode=mode)(found[IMAGE]) for name, prior in priors.items()
        }
        return replace(
            answer,
            probabilities=named(labels, found[IMAGE])[0],
            blind_probabilities={name: named(labels, prior)[0] for name, prior in priors.items()},
            debiased={name: named(labels, scores)[0] for name, scores in calibrated.items()},
        )

    @property
    def device(self) -> torch.device:
        """Where inputs go."""
        return input_device(self.model)


LlavaPipeline = Pipeline
"""The same class, by its first name."""


def _named(images: Sequence[Any]) -> str:
    """The paths among images."""
    return ", ".join(os.fspath(one) for one in images if isinstance(one, (str, os.PathLike)))


class _Clock:
    """Seconds by phase, from one tick to the next."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, float]()
        self.last = time.perf_counter()

    def tick(self, phase: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[phase], self.last = now - self.last, now


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """`generate` draws from torch's global generators; seed them inside, put them back after."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
