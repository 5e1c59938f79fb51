"""VDD as a transformers LogitsProcessor: hand it to `model.generate` and nothing else changes.

    model.generate(**inputs, logits_processor=[VDDLogitsProcessor(model, processor)])

transformers runs a user's processor behind its own (repetition penalty, …) and before temperature, top-k and top-p. So
the cut-off sees the scores that `generate` passes; the authors contrast first. With neither in use both are the same.

Source: arXiv:2403.05262. Knows: the contract of LogitsProcessor. Does not know: files, benchmarks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from vdd._check import UserError, choice
from vdd.batch import batch_of, has_image
from vdd.branch import Branch
from vdd.config import STRATEGIES, DebiasConfig, load_debias, override, to_json
from vdd.contrast import contrast, m3id_alpha, nolan_alpha, several_plausible, upcast
from vdd.families import family_of, hand_fed
from vdd.memory import Memory
from vdd.reader import Reader
from vdd.records import DecodingReport
from vdd.reference import BlindPrompt, blind_prompts, prompt_by_hand

PRESETS: Mapping[str, DebiasConfig] = {
    "vdd": DebiasConfig(reference="none", alpha=1.0, beta=0.1),
    "vcd": DebiasConfig(reference="noise", noise_step=500, alpha=1.0, beta=0.1),
    "icd": DebiasConfig(reference="instruction", alpha=1.0, beta=0.1),
    "m3id": DebiasConfig(reference="none", schedule="m3id", decay=0.02, confidence=0.3, beta=0.0),
    "nolan": DebiasConfig(reference="none", schedule="nolan", alpha=0.8, beta=0.0),
    "cutoff-only": DebiasConfig(alpha=0.0, beta=0.1),
}
"""Methods that are this processor with other parts. Sources: arXiv 2403.05262 (vdd), 2311.16922 (vcd), 2403.18715
(icd), 2403.14003 (m3id), 2602.22144 (nolan), 2504.10020 (cutoff-only, a control)."""


@dataclass
class Prompt:
    """The batch of prompts that is being continued.

    Attributes:
        ids: (rows, width) as `generate` passed them first.
        asked: (rows, length) `input_ids` of the last call.
        blind: the reference's prompts; none where nothing is subtracted.
        left_alone: (rows, 1) True where a prompt has no image; None where every prompt has one.
    """

    ids: Tensor
    asked: Tensor
    blind: tuple[BlindPrompt, ...]
    left_alone: Tensor | None

    def leads_to(self, input_ids: Tensor) -> bool:
        """Whether `input_ids` are these prompts and, but for the last token, what some row was asked about before."""
        width, known = self.ids.shape[1], input_ids.shape[1] - 1
        if len(input_ids) != len(self.ids) or not torch.equal(input_ids[:, :width], self.ids):
            return False
        before, now = self.asked[:, :known], input_ids[:, :known]
        if before.shape != now.shape:
            return False
        return torch.equal(before, now) or bool((now[:, None] == before[None]).all(dim=-1).any(dim=-1).all())


class VDDLogitsProcessor(LogitsProcessor):
    """Subtracts what the model would say without the image.

    One object serves any number of `generate` calls, one after another: greedy, sampling, beams, drafts, batches.
    The prompt is found from the ids of the first call. References that keep an image (`noise`, `zero`, `one`,
    `instruction`) need `inputs`, since a logits processor is not shown the pixels: call `use_inputs` before the same
    question about another image; so do encoder-decoders, whose prompt it is not shown either. Rows whose prompt has no
    image are left alone. The preset "m3id", whose strength grows with the text, wants `reset()` between calls whose
    prompts begin with one another; every object wants it when the model's weights or adapters change.

    Args:
        model: the vision-language model that `generate` is called on.
        processor: its multimodal processor. Without it only the image's own tokens can be taken out of the prompt, and
            the padding is not recognised unless `inputs` is given; padding on the right never without `inputs`.
        inputs: what `generate` is called with (`input_ids`, `attention_mask`, `pixel_values`, …).
        blind_inputs: for a family that is not known: what the model is given in the image's place, as forward
            arguments (`input_ids`, `attention_mask`, …), one prompt for each of the batch; replaces the reference.
        preset: one of PRESETS.
        strategy: "two-pass" asks the image-free side at every step, "skip" only where it can change the outcome; the
            others want a decoding loop of their own (`vdd.generate`, or `custom_generate=vdd.decode`): called as a
            processor they skip.
        memory: scores behind whole prompts that were computed before, to be shared with other processors.
        **options: settings of `DebiasConfig` that replace the preset's, such as alpha=1.0, beta=0.1, reference="none".

    Raises:
        ValueError: on an unknown family or setting, or one out of range, here; on prompts without image tokens, a
            vocabulary that differs from the model's, or NaN scores, when called.

    Example:
        >>> import vdd
        >>> from vdd.toy import load
        >>> model, processor = load()
        >>> plugin = vdd.VDDLogitsProcessor(model, processor, alpha=1.0, beta=0.1, reference="none")
    """

    supports_continuous_batching = False
    relies_on_generate = True
    """Whether it is up to the model's own `generate` that this processor is called."""

    def __init__(
        self,
        model: Any,
        processor: Any = None,
        *,
        inputs: Mapping[str, Tensor] | None = None,
        blind_inputs: Mapping[str, Tensor] | None = None,
        preset: str = "vdd",
        strategy: str = "auto",
        memory: Memory | None = None,
        **options: Any,
    ) -> None:
        choice("vdd", "preset", preset, PRESETS)
        self.strategy = choice("vdd", "strategy", strategy, STRATEGIES)
        self.report = DecodingReport()
        self.config = override(PRESETS[preset], options)
        self.processor = processor
        self.inputs = inputs
        self.blind_inputs = blind_inputs
        self.family = family_of(model, processor) if blind_inputs is None else hand_fed(model)
        if self.relies_on_generate and self.family.adapter.drops_processors:
            raise UserError(
                f"vdd: {type(model).__name__}.generate leaves logits processors out; wanted "
                "vdd.generate(model, processor, **inputs, …), or `with vdd.patch(model, processor):` around your code."
            )
        self.reader = Reader(model, self.family)
        two = self.config.reference == "both" and blind_inputs is None
        self.branches = tuple(Branch(self.reader, memory) for _ in range(2 if two else 1))
        self.prompt: Prompt | None = None
        self._forwards_before = 0

    @classmethod
    def from_config(
        cls, config: DebiasConfig | str | os.PathLike[str], model: Any, processor: Any = None, **given: Any
    ) -> VDDLogitsProcessor:
        """The processor with exactly these settings, or those of a file that `vdd advise` wrote.

        Args:
            config: settings, or a file's path; where the advice is to leave the model as it is, nothing is changed.
            model: see above.
            processor: see above.
            **given: inputs, strategy, memory.

        Raises:
            ValueError: on a file of something else, or of a decoding that answers with labels.
        """
        settings = config if isinstance(config, DebiasConfig) else load_debias(config)
        return cls(model, processor, **given, **to_json(settings))

    @property
    def forwards(self) -> int:
        """Rows × forward passes that the image-free branch has run."""
        return sum(branch.forwards for branch in self.branches)

    def use_inputs(self, inputs: Mapping[str, Tensor] | None) -> None:
        """Go on to another batch: the next call starts from these inputs."""
        self.inputs = inputs
        self.prompt = None

    def reset(self) -> None:
        """Forget prompts and caches, and free their memory."""
        self.prompt = None
        for branch in self.branches:
            branch.reset()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Debias one step.

        Args:
            input_ids: (rows, length) prompt and generated tokens.
            scores: (rows, vocab) of the next token given the image.

        Returns:
            (rows, vocab) normalised log-probabilities; −inf where cut off. Rows without an image come back as they are.
        """
        if bool((scores[:, :2] == 1).all()) and bool((scores == 1).all()):
            return scores  # prompt look-up asks with constant scores which tokens are forbidden: none are, here
        prompt, report, nothing = self.find_prompt(input_ids), self.report, self.config.is_cutoff_only
        every = self.strategy == "two-pass"
        report.steps += 1
        report.strategy = "plain" if nothing else "two-pass" if every else "skip"
        step = input_ids.shape[1] - prompt.ids.shape[1]
        if nothing or not (every or bool(self.undecided(scores, prompt, step).any())):
            report.skipped += 1
            return self.decided(scores, prompt)
        blind = self.blind_scores(prompt, input_ids[:, prompt.ids.shape[1] :], 1)[:, 0]
        report.blind_forwards = self.forwards - self._forwards_before
        return self.debiased(scores, blind, prompt, step)

    def undecided(self, scores: Tensor, prompt: Prompt, step: int) -> Tensor:
        """(rows,) True where the image-free side can change the outcome.

        It cannot where one token alone is plausible, where nothing is subtracted, and where a prompt has no image.

        Args:
            scores: (rows, vocab) of the next token given the image.
            prompt: what is continued.
            step: number of tokens behind it.
        """
        several = several_plausible(scores, beta=self.config.beta)
        if self.config.schedule == "m3id":
            several &= self._alpha(scores, scores, step)[:, 0] > 0
        return several if prompt.left_alone is None else several & ~prompt.left_alone[:, 0]

    def decided(self, scores: Tensor, prompt: Prompt) -> Tensor:
        """(rows, vocab) outcome where the image-free side cannot change it: the cut-off alone."""
        cut = contrast(scores, scores, alpha=0.0, beta=self.config.beta)
        return cut if prompt.left_alone is None else torch.where(prompt.left_alone, scores, cut)

    def blind_scores(self, prompt: Prompt, tokens: Tensor, last: int) -> Tensor:
        """(rows, last, vocab) scores of the image-free side behind each of the last positions of `tokens` (rows, t)."""
        return self.mean(
            [branch.scores(blind, tokens, last) for branch, blind in zip(self.branches, prompt.blind, strict=True)]
        )

    @staticmethod
    def mean(parts: Sequence[Tensor]) -> Tensor:
        """The reference's scores from its branches': of `both`, the mean."""
        return parts[0] if len(parts) == 1 else parts[0] + (upcast(parts[1]) - parts[0]) / 2

    def debiased(self, scores: Tensor, blind: Tensor, prompt: Prompt, step: int) -> Tensor:
        """(rows, vocab) outcome from both sides' scores, (rows, vocab) each, `step` tokens behind the prompt."""
        blind = blind.to(scores.device)
        if blind.shape[-1] != scores.shape[-1]:
            raise UserError(
                f"vdd: the scores are over {scores.shape[-1]} tokens and the image-free branch's over "
                f"{blind.shape[-1]}; both must come from one model. Was the processor made for another model than "
                "the one that generates?"
            )
        alpha = self._alpha(scores, blind, step)
        debiased = contrast(scores, blind, alpha=alpha, beta=self.config.beta)
        return debiased if prompt.left_alone is None else torch.where(prompt.left_alone, scores, debiased)

    def _alpha(self, scores: Tensor, blind: Tensor, step: int) -> Any:
        config = self.config
        if config.schedule == "m3id":
            return m3id_alpha(scores, step + 1, decay=config.decay, confidence=config.confidence)
        if config.schedule == "nolan":
            return nolan_alpha(scores, blind, scale=config.alpha)
        return config.alpha

    def find_prompt(self, input_ids: Tensor) -> Prompt:
        """The prompt that `input_ids` continues; all of `input_ids` where it is a new one."""
        if self.prompt is None or not self.prompt.leads_to(input_ids):
            self.prompt = self._read(input_ids)
        self.prompt.asked = input_ids.clone()  # the caller may go on writing into its own
        return self.prompt

    def _read(self, input_ids: Tensor) -> Prompt:
        self.report.restart()
        self._forwards_before = self.forwards
        ids = input_ids.clone()
        if self.config.is_cutoff_only:
            return Prompt(ids, ids, (), None)
        if self.blind_inputs is not None:
            return Prompt(ids, ids, (prompt_by_hand(self.blind_inputs, self.family, ids),), None)
        batch = batch_of(input_ids, self.family, processor=self.processor, inputs=self.inputs)
        shown = torch.tensor(has_image(batch, self.family, self.processor)).repeat_interleave(batch.repeats)
        blind = blind_prompts(batch, self.config, self.family, processor=self.processor, decoder_ids=ids)
        read = [prompt.extras.get("encoder_mask", prompt.attention_mask) for prompt in blind]
        if not all(bool(mask.any(dim=-1).all()) for mask in read):
            raise UserError(
                f"vdd: a prompt is nothing but an image, of which reference={self.config.reference!r} leaves nothing; "
                "wanted some text beside it, if only the beginning-of-sequence token."
            )
        left_alone = None if bool(shown.all()) else ~shown[:, None].to(ids.device)
        return Prompt(ids, ids, blind, left_alone)
