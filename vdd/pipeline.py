"""Image and question in, answer out: a vision-language model with its processor, debiased.

    vdd.LlavaPipeline(*vdd.load("llava-hf/llava-1.5-7b-hf"))("photo.jpg", "Is there a dog in the image?")

Knows: transformers' models and processors, images. Does not know: files of questions, scores, the command line.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vdd._check import UserError, choice
from vdd.branch import BlindBranch
from vdd.calibrate import AffineCalibration, Labels, TokenIds, average_prior
from vdd.config import CALIBRATION_NOISE_STEP, IMAGE, PRIORS, REFERENCES, DebiasConfig, SamplingConfig, override
from vdd.contrast import contrast, upcast
from vdd.families import family_of, placeholder_of, tokenizer_of
from vdd.images import load_image, to_rgb
from vdd.processor import PRESETS, VDDLogitsProcessor
from vdd.records import Answer
from vdd.reference import blind_prompts

PLAIN_TEMPLATE = "USER: <image>\n{question} ASSISTANT:"
"""LLaVA-1.5's prompt, for processors without a chat template."""


@dataclass(frozen=True)
class Prefill:
    """What the model computed for a batch of prompts with their images: any number of decodings start from it.

    Attributes:
        cache: KV cache over the prompts; copied before use.
        logits: (batch, vocab) of the first answer token.
    """

    cache: Any
    logits: Tensor


Picture = str | Path | bytes | Image.Image


class LlavaPipeline:
    """Answers questions about images, debiased.

    Args:
        model: a LLaVA-type model.
        processor: its processor.
        preset: one of vdd.PRESETS.
        **options: settings of `DebiasConfig`, such as alpha=1.0, beta=0.1, reference="none".
    """

    def __init__(self, model: Any, processor: Any, *, preset: str = "vdd", **options: Any) -> None:
        choice("vdd", "preset", preset, PRESETS)
        self.model = model
        self.processor = processor
        self.debias = override(PRESETS[preset], options)
        self.family = family_of(model)
        self._branches: dict[str, BlindBranch] = {}

    def __call__(
        self,
        image: Picture,
        question: str,
        *,
        labels: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
        priors: Sequence[str] = PRIORS,
        mode: str = "diagonal",
        best_form: bool = False,
        debias: bool = True,
        sampling: SamplingConfig | None = None,
        seed: int = 0,
    ) -> Answer:
        """Answer one question about one image.

        Args:
            image: path, PIL image, or the bytes of an image file.
            question: without image placeholders.
            labels: the possible answers ("yes", "no"); their probabilities come with the answer, raw, without the
                image, and debiased.
            priors: the meaningless inputs that post-hoc debiasing takes p' from: "none", "unk", "both", "noise",
                "zero", "one", "mask".
            mode: "diagonal" or "identity"; see `AffineCalibration`.
            best_form: a label's most probable surface form instead of the sum over its forms.
            debias: False for the model's plain answer.
            sampling: greedy, at most 32 tokens, by default.
            seed: of sampling.
        """
        inputs = self.inputs([_picture(image)], [question])
        debiasing = self.debias if debias else None
        prefill = None if labels is None else self.prefill(inputs)
        text = self.generate(
            inputs, debias=debiasing, sampling=sampling or SamplingConfig(), seed=seed, prefill=prefill
        )[0]
        name = str(image) if isinstance(image, (str, Path)) else ""
        answer = Answer(0, question, name, text)
        if labels is None or prefill is None:
            return answer
        return self._with_labels(answer, inputs, prefill, self.labels(labels), priors, mode, best_form)

    def inputs(self, images: Sequence[Image.Image], questions: Sequence[str]) -> Any:
        """What `generate` takes, on the model's device: one image and one question a row, left-padded.

        Args:
            images: RGB.
            questions: as many, without image placeholders.
        """
        prompts = [self.prompt(question) for question in questions]
        bos = getattr(tokenizer_of(self.processor), "bos_token", None)
        batch = self.processor(
            images=list(images),
            text=prompts,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=not (bos and prompts[0].startswith(bos)),
        )
        batch = batch.to(self.device)
        batch["pixel_values"] = batch["pixel_values"].to(self.model.dtype)
        return batch

    def prompt(self, question: str) -> str:
        """The chat prompt for one image and one question, with the image's placeholder.

        Raises:
            ValueError: where the question holds a placeholder of its own.
        """
        self.check_question(question)
        if not getattr(self.processor, "chat_template", None):
            return PLAIN_TEMPLATE.format(question=question)
        chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
        return str(self.processor.apply_chat_template(chat, add_generation_prompt=True))

    def check_question(self, question: str) -> None:
        """Raise UserError where the question holds an image's placeholder."""
        placeholder = placeholder_of(self.processor)
        if placeholder in question:
            raise UserError(f"vdd: the question holds {placeholder!r}; wanted text alone, the image has its own place.")

    @torch.no_grad()
    def prefill(self, inputs: Mapping[str, Tensor]) -> Prefill:
        """Run the prompts and their images once, for every decoding that follows."""
        positions = _positions(inputs["attention_mask"])
        output = self.model(**inputs, position_ids=positions, use_cache=True, return_dict=True, logits_to_keep=1)
        return Prefill(output.past_key_values, output.logits[:, -1])

    def generate(
        self,
        inputs: Mapping[str, Tensor],
        *,
        debias: DebiasConfig | None,
        sampling: SamplingConfig,
        seed: int = 0,
        prefill: Prefill | None = None,
    ) -> list[str]:
        """The answers' texts, without special tokens.

        Args:
            inputs: from `inputs`.
            debias: None for plain decoding.
            sampling: every setting is passed on, whatever the model's generation_config says.
            seed: of sampling; the global random state is left as it was.
            prefill: from `prefill`; the image is then not encoded again. The answer is the same up to kernel rounding.
        """
        plugin = []
        if debias is not None:
            plugin = [VDDLogitsProcessor.from_config(debias, self.model, self.processor, inputs=inputs)]
        given: dict[str, Any] = dict(inputs)
        if prefill is not None:
            cache = copy.deepcopy(prefill.cache)
            cache.crop(-1)  # `generate` wants a token to go on from
            if sampling.num_beams > 1:
                cache.batch_repeat_interleave(sampling.num_beams)
            given = {name: tensor for name, tensor in given.items() if name not in self.family.pixel_inputs}
            given["past_key_values"] = cache
        with _seeded(seed, self.device), torch.no_grad():
            output = self.model.generate(**given, logits_processor=plugin, **sampling.generate_kwargs())
        answers = output[:, inputs["input_ids"].shape[1] :]
        texts = tokenizer_of(self.processor).batch_decode(answers, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def distributions(
        self,
        inputs: Mapping[str, Tensor],
        conditions: Sequence[str],
        *,
        tokens: TokenIds = (),
        prefill: Prefill | None = None,
    ) -> dict[str, Tensor]:
        """Complete next-token log-probabilities.

        Args:
            inputs: from `inputs`.
            conditions: which input the distribution is given: "image", or a reference other than "both".
            tokens: what follows the prompt already, the same for every row.
            prefill: from `prefill`, where it is at hand.

        Returns:
            condition → (batch, vocab), at least float32.
        """
        ids = inputs["input_ids"]
        follow = torch.tensor(tokens, dtype=ids.dtype, device=ids.device).expand(len(ids), -1)
        rows = {}
        for condition in conditions:
            if condition == IMAGE:
                rows[condition] = self._seen_logits(inputs, follow, prefill)
                continue
            choice("distributions", "condition", condition, (IMAGE, *(name for name in REFERENCES if name != "both")))
            config = DebiasConfig(reference=condition, noise_step=CALIBRATION_NOISE_STEP)
            (prompt,) = blind_prompts(ids, config, self.family, processor=self.processor, inputs=inputs)
            branch = self._branches.setdefault(condition, BlindBranch(self.model))
            rows[condition] = branch.logits(prompt, follow)
        return {name: torch.log_softmax(upcast(row), dim=-1) for name, row in rows.items()}

    def reset(self) -> None:
        """Forget the image-free branches, so that what follows does not depend on what came before."""
        for branch in self._branches.values():
            branch.reset()

    def labels(self, words: Sequence[str] | Mapping[str, Sequence[str]]) -> Labels:
        """The possible answers as this model's tokens."""
        tokenizer = tokenizer_of(self.processor)
        return Labels.from_words(lambda text: tokenizer(text, add_special_tokens=False)["input_ids"], words)

    def label_probabilities(
        self,
        inputs: Mapping[str, Tensor],
        labels: Labels,
        *,
        rows: Mapping[str, Tensor] | None = None,
        prefill: Prefill | None = None,
        best_form: bool = False,
    ) -> dict[str, Tensor]:
        """p(label) under every condition.

        Args:
            inputs: from `inputs`.
            labels: from `labels`.
            rows: first-token distributions by condition, where they are known already; those of the image, "none"
                and "unk" by default.
            prefill: from `prefill`, where it is at hand.
            best_form: the most probable surface form instead of the sum.

        Returns:
            condition → (batch, labels).
        """
        if prefill is None and (rows is None or not labels.single_token):
            prefill = self.prefill(inputs)
        rows = rows if rows is not None else self.distributions(inputs, (IMAGE, "none", "unk"), prefill=prefill)

        def after(name: str, tokens: TokenIds) -> Tensor:
            return self.distributions(inputs, (name,), tokens=tokens, prefill=prefill)[name]

        return {
            name: labels.probabilities(row, best_form=best_form, rest=partial(_rest, partial(after, name)))
            for name, row in rows.items()
        }

    def debiased_label_probabilities(
        self,
        inputs: Mapping[str, Tensor],
        labels: Labels,
        config: DebiasConfig,
        rows: Mapping[str, Tensor],
        *,
        prefill: Prefill | None = None,
    ) -> Tensor:
        """p(label) under the contrasted distribution of a constant-strength text reference.

        Args:
            inputs: from `inputs`.
            labels: from `labels`.
            config: reference "none", "unk" or "both".
            rows: first-token distributions by condition.
            prefill: from `prefill`, where it is at hand.

        Returns:
            (batch, labels); without the cut-off in rows where it leaves no label.
        """

        if prefill is None and not labels.single_token:
            prefill = self.prefill(inputs)

        def after(beta: float, tokens: TokenIds) -> Tensor:
            step = self.distributions(inputs, tuple(rows), tokens=tokens, prefill=prefill) if tokens else rows
            return contrast(step[IMAGE], reference_row(step, config.reference), alpha=config.alpha, beta=beta)

        def found(beta: float) -> Tensor:
            return labels.probabilities(after(beta, ()), rest=partial(_rest, partial(after, beta)))

        cut = found(config.beta)
        lost = cut.sum(dim=-1, keepdim=True) == 0
        return torch.where(lost, found(0.0), cut) if bool(lost.any()) else cut

    def _with_labels(
        self,
        answer: Answer,
        inputs: Mapping[str, Tensor],
        prefill: Prefill,
        labels: Labels,
        references: Sequence[str],
        mode: str,
        best_form: bool,
    ) -> Answer:
        parts = {part for name in references for part in (("none", "unk") if name == "both" else (name,))}
        rows = self.distributions(inputs, (IMAGE, *sorted(parts)), prefill=prefill)
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

    @torch.no_grad()
    def _seen_logits(self, inputs: Mapping[str, Tensor], follow: Tensor, prefill: Prefill | None) -> Tensor:
        prefill = prefill or self.prefill(inputs)
        if not follow.shape[1]:
            return prefill.logits
        mask = inputs["attention_mask"]
        mask = torch.cat([mask, mask.new_ones(follow.shape)], dim=1)
        return self.model(
            input_ids=follow,
            attention_mask=mask,
            position_ids=_positions(mask)[:, -follow.shape[1] :],
            past_key_values=copy.deepcopy(prefill.cache),
            use_cache=True,
            return_dict=True,
            logits_to_keep=1,
        ).logits[:, -1]

    @property
    def device(self) -> torch.device:
        """That of the input embeddings: where inputs go."""
        return self.model.get_input_embeddings().weight.device


def _rest(after: Callable[[TokenIds], Tensor], form: TokenIds) -> Tensor:
    """(batch,) log-probability of a form's second to last token; `after` gives the distribution behind some tokens."""
    parts = [after(form[:length])[:, form[length]] for length in range(1, len(form))]
    return torch.stack(parts).sum(dim=0)


def priors_of(found: Mapping[str, Tensor], references: Sequence[str]) -> dict[str, Tensor]:
    """p' by reference from the label probabilities by condition; that of `both` is the mean of its parts'."""
    return {name: average_prior(found["none"], found["unk"]) if name == "both" else found[name] for name in references}


def reference_row(rows: Mapping[str, Tensor], reference: str) -> Tensor:
    """The reference's scores from those of its parts; for `both` the mean of the log-probabilities.

    The mean of log-probabilities and the mean of logits differ by a constant per row, which the contrast cancels.
    """
    return (rows["none"] + rows["unk"]) / 2 if reference == "both" else rows[reference]


def named(labels: Labels, values: Tensor) -> list[dict[str, float]]:
    """(batch, labels) → one label → value dictionary a row."""
    return [dict(zip(labels.names, row, strict=True)) for row in values.tolist()]


def _picture(image: Picture) -> Image.Image:
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, bytes):
        return load_image(io.BytesIO(image))
    return load_image(image)


def _positions(mask: Tensor) -> Tensor:
    """(rows, width) positions that leave padding out, as `generate` counts them."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """`generate` draws from torch's global generators; seed them inside, put them back after."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
