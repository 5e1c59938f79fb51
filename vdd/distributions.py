"""What a model would say next given the image, or a reference in its place; from that, the labels' probabilities.

    p(label | condition) = Σ over its forms Π over the form's tokens p(token | condition, prompt, tokens before)

Knows: a model and its processor, their prompts' tensors. Does not know: images, generated text, files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from vdd._check import UserError, choice
from vdd.batch import Batch, batch_of
from vdd.branch import Branch, memo_after
from vdd.calibrate import Labels, TokenIds, average_prior
from vdd.config import CALIBRATION_NOISE_STEP, IMAGE, PRIORS, REFERENCES, DebiasConfig
from vdd.contrast import contrast, upcast
from vdd.families import family_of, tokenizer_of, unknown_token
from vdd.generation import CalledLogitsProcessor
from vdd.memory import Memory
from vdd.prompts import Shared
from vdd.reader import Reader, State, can_stack
from vdd.reference import SeenPrompt, blind_prompts, right_aligned, seen_prompt
from vdd.reliance import less, log_p, said_without
from vdd.sides import Seen

CONDITIONS = (IMAGE, *(name for name in REFERENCES if name != "both"))


@dataclass(frozen=True)
class Prefill:
    """What the model computed for a batch of prompts with their images: any number of continuations start from it.

    Attributes:
        prompt: what it read.
        logits: (batch, vocab) of the first answer token.
        state: the caches over the prompts; forked before use.
    """

    prompt: SeenPrompt
    logits: Tensor
    state: State

    def seen(self, reader: Reader) -> Seen:
        """The image's side, for a decoding loop to go on from."""
        memo = memo_after(self.prompt, self.logits, self.state.fork())
        return Seen(Branch(reader, memo=memo), self.prompt)


class Distributions:
    """Next-token distributions of a vision-language model and the probabilities of labels.

    Args:
        model: a vision-language model of one of `vdd.families.ADAPTERS`.
        processor: its processor.

    Attributes:
        memory: image-free distributions that were computed before; `memory.clear()` after the weights change.
    """

    def __init__(self, model: Any, processor: Any) -> None:
        self.model = model
        self.processor = processor
        self.family = family_of(model, processor)
        self.reader = Reader(model, self.family)
        self.memory = Memory()
        self._branches: dict[str, Branch] = {}

    @cached_property
    def priors(self) -> tuple[str, ...]:
        """The references of PRIORS that make sense: `unk` and `both` need an unknown token that is nothing else."""
        refused = "unk" in self.family.adapter.refused or unknown_token(self.processor) is None
        return ("none",) if refused else PRIORS

    @torch.no_grad()
    def prefill(self, inputs: Mapping[str, Tensor]) -> Prefill:
        """Read the prompts and their images once, for every continuation that follows."""
        batch, ids = self._batch(inputs)
        prompt = seen_prompt(batch, self.family, processor=self.processor, decoder_ids=ids)
        logits, state = self.reader.prefill(prompt)
        return Prefill(prompt, logits[:, 0], state)

    @cached_property
    def unshared(self) -> str:
        """Why questions about one image cannot share what was read of it; "" where they can."""
        family, adapter = self.family, self.family.adapter
        config = self.reader.text_model.config.get_text_config(decoder=True)
        reasons = {
            "an encoder reads each prompt as a whole": family.encoder_decoder,
            "another part of the model reads the text": bool(adapter.text_model),
            "the prompt is read in both directions": adapter.prefix or adapter.types is not None,
            "images stand beside the prompt": bool(adapter.steps),
            "not every layer attends to all that was read": not can_stack(DynamicCache(config=config)),
        }
        return next((why for why, holds in reasons.items() if holds), "")

    @torch.no_grad()
    def prefill_shared(self, shared: Shared, inputs: Mapping[str, Tensor]) -> Prefill:
        """As `prefill`, for questions that share their images: each image is read once, then each question's end.

        Args:
            shared: on the model's device.
            inputs: `input_ids` and `attention_mask` of all questions, left-padded.
        """
        batch, ids = self._batch(shared.first)
        whole = seen_prompt(batch, self.family, processor=self.processor, decoder_ids=ids)
        begun = whole.without_ends(shared.cuts)
        scores, state = self.reader.prefill(begun)
        owners = torch.tensor(shared.owners, device=begun.input_ids.device)
        memo = memo_after(begun, scores[:, 0], state)
        memo.take(owners)
        tails, real = right_aligned(shared.tails, begun.input_ids)
        steps = (real.cumsum(-1) - 1).clamp(min=0)
        prompt = SeenPrompt(
            input_ids=torch.cat([begun.input_ids[owners], tails], dim=1),
            attention_mask=torch.cat([memo.mask, real], dim=1),
            position_ids=torch.cat([begun.position_ids[..., owners, :], memo.next_position + steps], dim=-1),
            sources=tuple(range(len(owners))),
        )
        logits = self.reader.step(tails, prompt.attention_mask, memo.next_position + steps, state)
        return Prefill(prompt, logits[:, 0], state)

    def reads(self, shared: Shared) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` of all questions, left-padded."""
        ids, mask = right_aligned(shared.rows, shared.first["input_ids"])
        pad = getattr(tokenizer_of(self.processor), "pad_token_id", None)
        return {"input_ids": ids.masked_fill(mask == 0, pad or 0), "attention_mask": mask}

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
            inputs: what `generate` takes.
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
            choice("distributions", "condition", condition, CONDITIONS)
            if condition == IMAGE:
                rows[condition] = self._seen_logits(follow, prefill or self.prefill(inputs))
                continue
            config = DebiasConfig(reference=condition, noise_step=CALIBRATION_NOISE_STEP)
            batch, first = self._batch(inputs)
            (prompt,) = blind_prompts(batch, config, self.family, processor=self.processor, decoder_ids=first)
            branch = self._branches.setdefault(condition, Branch(self.reader, self.memory))
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
            inputs: what `generate` takes.
            labels: from `labels`.
            rows: first-token distributions by condition, where they are known already; those of the image, "none"
                and "unk" by default ("unk" where the model has it).
            prefill: from `prefill`, where it is at hand.
            best_form: the most probable surface form instead of the sum.

        Returns:
            condition → (batch, labels).
        """
        if prefill is None and (rows is None or not labels.single_token):
            prefill = self.prefill(inputs)
        if rows is None:
            rows = self.distributions(inputs, (IMAGE, *parts_of(self.priors)), prefill=prefill)

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
        """p(label) under the debiased distribution.

        Args:
            inputs: what `generate` takes; with the pixels where the reference looks at them.
            labels: from `labels`; of one token each unless the distribution follows from the rows, see `follows`.
            config: any.
            rows: first-token distributions by condition.
            prefill: from `prefill`, where it is at hand.

        Returns:
            (batch, labels); without the cut-off in rows where it leaves no label.
        """
        if not follows(config) and not labels.single_token:
            raise UserError(
                f"vdd: labels of several tokens, and a first token by reference={config.reference!r}, "
                f"schedule={config.schedule!r} does not tell the rest; wanted labels of one token each."
            )
        if prefill is None and not labels.single_token:
            prefill = self.prefill(inputs)

        def after(beta: float, tokens: TokenIds) -> Tensor:
            if not follows(config):
                return self.debiased_row(inputs, replace(config, beta=beta), rows[IMAGE])
            step = self.distributions(inputs, tuple(rows), tokens=tokens, prefill=prefill) if tokens else rows
            return contrast(step[IMAGE], reference_row(step, config.reference), alpha=config.alpha, beta=beta)

        def found(beta: float) -> Tensor:
            return labels.probabilities(after(beta, ()), rest=partial(_rest, partial(after, beta)))

        cut = found(config.beta)
        lost = cut.sum(dim=-1, keepdim=True) == 0
        return torch.where(lost, found(0.0), cut) if bool(lost.any()) else cut

    @torch.no_grad()
    def debiased_row(self, inputs: Mapping[str, Tensor], config: DebiasConfig, seen: Tensor) -> Tensor:
        """(batch, vocab) log-probabilities of the first token as a processor with these settings makes them.

        Args:
            inputs: what `generate` takes.
            config: any.
            seen: (batch, vocab) log-probabilities given the image.
        """
        settings = {"inputs": inputs, "strategy": "two-pass", "memory": self.memory}
        plugin = CalledLogitsProcessor.from_config(config, self.model, self.processor, **settings)
        return plugin(self._batch(inputs)[1], seen)

    @torch.no_grad()
    def reliance(
        self, inputs: Mapping[str, Tensor], tokens: Tensor, config: DebiasConfig, *, prefill: Prefill | None = None
    ) -> Tensor:
        """What each token of any answers owes to the image, whoever wrote them: each side reads them in one forward.

        Args:
            inputs: what `generate` takes.
            tokens: (rows, t) behind the prompts, t ≥ 1.
            config: with the reference; how strongly it is subtracted does not matter.
            prefill: from `prefill`, where it is at hand.

        Returns:
            (rows, t) nats, 0 in rows without an image.
        """
        settings = {"inputs": inputs, "strategy": "two-pass", "memory": self.memory}
        asked = replace(config, alpha=config.alpha or 1.0)
        plugin = CalledLogitsProcessor.from_config(asked, self.model, self.processor, **settings)
        blind, left_alone = said_without(plugin, self._batch(inputs)[1], tokens)
        side = (prefill or self.prefill(inputs)).seen(self.reader)
        scores = side.branch.scores(side.prompt, tokens[:, :-1], tokens.shape[1])
        seen = [log_p(step, own) for step, own in zip(scores.unbind(1), tokens.unbind(1), strict=True)]
        return less(torch.stack(seen, dim=1), blind, tokens, left_alone)

    def _batch(self, inputs: Mapping[str, Tensor]) -> tuple[Batch, Tensor]:
        """The prompts, and the ids that `generate` would show a processor first."""
        ids = inputs["input_ids"]
        if self.family.encoder_decoder:
            starts = torch.tensor(_decoder_start(self.reader.text_model), dtype=ids.dtype, device=ids.device)
            ids = starts.expand(len(ids), -1)
        return batch_of(ids, self.family, processor=self.processor, inputs=inputs), ids

    @torch.no_grad()
    def _seen_logits(self, follow: Tensor, prefill: Prefill) -> Tensor:
        width = follow.shape[1]
        if not width:
            return prefill.logits
        prompt = prefill.prompt
        mask = torch.cat([prompt.attention_mask, prompt.attention_mask.new_ones(follow.shape)], dim=1)
        positions = prompt.position_ids[..., -1:] + 1 + torch.arange(width, device=follow.device)
        return self.reader.step(follow, mask, positions, prefill.state.fork())[:, 0]


def priors_of(found: Mapping[str, Tensor], references: Sequence[str]) -> dict[str, Tensor]:
    """p' by reference from the label probabilities by condition; that of `both` is the mean of its parts'."""
    return {name: average_prior(found["none"], found["unk"]) if name == "both" else found[name] for name in references}


def parts_of(references: Sequence[str]) -> list[str]:
    """The conditions that these references are made of: `both` of none and unk, every other of itself."""
    return sorted({part for name in references for part in (("none", "unk") if name == "both" else (name,))})


def follows(config: DebiasConfig) -> bool:
    """Whether debiased distributions follow by arithmetic from those of the image and of `none` and `unk`."""
    plain = config.schedule == "constant" and config.derive == "template" and config.unk_per == "image"
    return plain and config.reference in PRIORS


def reference_row(rows: Mapping[str, Tensor], reference: str) -> Tensor:
    """The reference's scores from those of its parts; for `both` the mean of the log-probabilities.

    The mean of log-probabilities and the mean of logits differ by a constant per row, which the contrast cancels.
    """
    return (rows["none"] + rows["unk"]) / 2 if reference == "both" else rows[reference]


def named(labels: Labels, values: Tensor) -> list[dict[str, float]]:
    """(batch, labels) → one label → value dictionary a row."""
    return [dict(zip(labels.names, row, strict=True)) for row in values.tolist()]


def _rest(after: Callable[[TokenIds], Tensor], form: TokenIds) -> Tensor:
    """(batch,) log-probability of a form's second to last token; `after` gives the distribution behind some tokens."""
    parts = [after(form[:length])[:, form[length]] for length in range(1, len(form))]
    return torch.stack(parts).sum(dim=0)


def _decoder_start(model: Any) -> list[int]:
    """The ids that every answer of an encoder-decoder begins with, as `generate` finds them."""
    sources = (model.generation_config, model.config.get_text_config(), model.config)
    names = ("decoder_start_token_id", "bos_token_id")
    found = (getattr(source, name, None) for name in names for source in sources)
    start = next((value for value in found if value is not None), None)
    if start is None:
        raise UserError(
            f"vdd: no decoder_start_token_id in the configuration of {type(model).__name__}; wanted the token that "
            "answers begin with in `model.generation_config`."
        )
    forced = getattr(model.generation_config, "forced_bos_token_id", None)
    return [int(start)] if forced is None else [int(start), int(forced)]
