"""A decoding loop that runs the image-free side where it is cheapest, with the tokens of transformers' own loop.

    two-pass   the image-free side reads every token when it comes
    skip       it is asked only where more than one token is plausible, and then reads all since in one forward
    fuse       both sides' rows are read in one forward
    speculate  the image side goes on by itself; the image-free side checks a run of its tokens in one forward, and what
               follows the first one that it changes is thrown away

Sampling draws each token with the random state that the plain loop would have there, so a token that was read ahead
stays exactly if the debiased distribution, drawn from with the same state, gives it.

Source: draft and verify after arXiv:2211.17192, with the model itself as its own draft.
Knows: the contract of `custom_generate`, logits processors. Does not know: beams, images, chat templates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, SynthIDTextWatermarkLogitsProcessor

from vdd._check import UserError
from vdd.batch import batch_of
from vdd.branch import Branch
from vdd.families import Family
from vdd.pace import Habits, Pace, known_of, pace_of, worth_reading_ahead
from vdd.processor import Prompt, VDDLogitsProcessor
from vdd.reader import Reader, State
from vdd.reference import seen_prompt
from vdd.sides import Apart, Fused, Seen, Sides
from vdd.text import Text, random_state, set_random_state

SHORT = 16
"""Up to so many new tokens `auto` skips: there is too little to gain to measure anything."""


def decode(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    **model_kwargs: Any,
) -> Any:
    """For `model.generate(**inputs, custom_generate=vdd.decode, logits_processor=[VDDLogitsProcessor(…)])`.

    The processor's `strategy` says how the image-free side is run, its `report` which way that was. Greedy decoding and
    sampling, one sequence or several a prompt. transformers hands a custom method no streamer, no tokenizer and, from
    5.24 on, no pixels: give the processor `inputs`. `vdd.generate` needs none of this.

    Raises:
        ValueError: without a VDDLogitsProcessor; for beams and for families that `vdd.generate` alone serves.
    """
    plugin = next((given for given in logits_processor if isinstance(given, VDDLogitsProcessor)), None)
    if plugin is None:
        raise UserError(
            "vdd: custom_generate=vdd.decode came without a VDDLogitsProcessor; wanted one in `logits_processor`, or "
            "vdd.generate(model, processor, **inputs)."
        )
    mask = model_kwargs.get("attention_mask")
    beams = "beams" if generation_config.num_beams > 1 else ""
    why = cannot_read(plugin.family) or beams or ("padding on the right" if pads_right(mask) else "")
    if why:
        raise UserError(f"vdd: vdd.decode does not serve {why}; wanted vdd.generate.")
    return Decoder(plugin.family, plugin, plugin.processor, inputs=plugin.inputs)(
        model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs
    )


def cannot_read(family: Family) -> str:
    """Why this loop does not serve a family; "" where it does."""
    if family.encoder_decoder:
        return "an encoder-decoder"
    if family.adapter.text_model:
        return "a family whose language model generates by itself"
    return "" if family.image_ids or family.opens else "a family that is not known"


def pads_right(mask: Tensor | None) -> bool:
    """Whether a prompt ends in padding, which transformers' own loop reads as part of the text."""
    return mask is not None and not bool(mask[:, -1:].all())


@dataclass
class Decoder:
    """One decoding, to be handed to `generate` as its `custom_generate`.

    Attributes:
        family: the model's facts.
        plugin: what debiases; None for plain decoding.
        processor: the model's multimodal processor.
        streamer: gets tokens when they are final.
        inputs: what the multimodal processor made; where it is missing, what `generate` hands on.
        seen: the image's side, where it was read already.
    """

    family: Family
    plugin: VDDLogitsProcessor | None = None
    processor: Any = None
    streamer: Any = None
    inputs: Mapping[str, Tensor] | None = None
    seen: Seen | None = None

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **model_kwargs: Any,
    ) -> Any:
        """As transformers calls a decoding method."""
        text, plugin = Text(input_ids, stopping_criteria, generation_config, self.streamer), self.plugin
        if plugin is not None:
            plugin.use_inputs(plugin.inputs)  # a prompt that begins with the last one is a new one
            plugin.find_prompt(input_ids)
        seen = self.seen or self._seen(model, input_ids, model_kwargs)
        before = seen.branch.forwards
        if plugin is None or plugin.config.is_cutoff_only:
            cache = self._plain(text, seen, logits_processor)
        else:
            cache = self._debiased(model, text, seen, plugin, logits_processor)
        if plugin is not None:
            plugin.report.seen_forwards = seen.branch.forwards - before
        return text.output(cache)

    def _seen(self, model: Any, input_ids: Tensor, model_kwargs: dict[str, Any]) -> Seen:
        inputs = {name: value for name, value in model_kwargs.items() if isinstance(value, Tensor)}
        inputs = {"attention_mask": torch.ones_like(input_ids), **inputs, "input_ids": input_ids}
        batch = batch_of(input_ids, self.family, processor=self.processor, inputs=self.inputs or inputs)
        return Seen(Branch(Reader(model, self.family)), seen_prompt(batch, self.family, processor=self.processor))

    @staticmethod
    def _plain(text: Text, seen: Seen, logits_processor: Any) -> Callable[[Tensor], Any]:
        """Write `text` with nothing subtracted; gives the cache over tokens."""
        while not text.done:
            raw = seen.logits(text.ids[:, text.width :]).to(torch.float32, copy=True).to(text.ids.device)
            scores = logits_processor(text.ids, raw)
            text.add(text.choose(scores, text.unfinished), scores, raw)
        return seen.cache

    @staticmethod
    def _debiased(
        model: Any, text: Text, seen: Seen, plugin: VDDLogitsProcessor, logits_processor: Any
    ) -> Callable[[Tensor], Any]:
        """Write `text` by the strategy that is asked for or cheapest; gives the cache over tokens."""
        prompt, report, place = plugin.find_prompt(text.ids), plugin.report, logits_processor.index(plugin)
        forwards, rows = plugin.forwards, len(text.ids)
        habits = known_of(model).habits.setdefault((rows, plugin.config, bool(text.config.do_sample)), Habits())
        known = all(
            isinstance(one, VDDLogitsProcessor)
            or (
                type(one).__module__.split(".")[0] in ("transformers", "vdd")
                and not isinstance(one, SynthIDTextWatermarkLogitsProcessor)
            )
            for one in logits_processor
        )
        report.strategy, report.because, pace = _way(plugin, seen, prompt, habits, text.most, known)
        sides: Sides = (Fused if report.strategy == "fuse" else Apart)(seen, plugin, prompt)
        loop = Loop(
            text,
            sides,
            plugin,
            prompt,
            LogitsProcessorList(logits_processor[:place]),
            LogitsProcessorList(logits_processor[place + 1 :]),
            habits,
            ahead=pace if report.strategy == "speculate" else None,
            every=report.strategy == "two-pass",
        )
        loop.run()
        habits.texts += 1
        report.blind_forwards = plugin.forwards - forwards
        return sides.seen_cache


def _way(
    plugin: VDDLogitsProcessor, seen: Seen, prompt: Prompt, habits: Habits, most: int, known: bool
) -> tuple[str, str, Pace | None]:
    """(strategy, why, pace where it was measured) for texts of at most `most` tokens.

    A logits processor that is not `known` may keep what it was shown, so it must see no token that is thrown away.
    """
    asked = plugin.strategy
    if asked in ("two-pass", "skip"):
        return asked, "", None
    seen.logits(seen.prompt.input_ids[:, :0])
    memo = seen.branch.memo
    if memo is None or not isinstance(memo.state, State) or not memo.state.can_stack:
        return (
            "skip",
            "not every layer attends to all that was read: it can neither be rolled back nor read beside another",
            None,
        )
    if asked == "fuse":
        return asked, "", None
    if asked == "speculate" and not known:
        return "skip", "a logits processor that may keep what it sees would see tokens that are thrown away", None
    if asked == "auto" and most <= SHORT:
        return "skip", f"at most {most} tokens are wanted", None
    pace = pace_of(plugin.reader, memo, 1 + len(plugin.branches))
    if asked == "speculate":
        return asked, "", pace
    seconds = habits.seconds_a_token(pace, prompt.blind[0].input_ids.shape[1])
    if not known:
        del seconds["speculate"]
    costs = ", ".join(f"{name} {value / pace.step:.2f}" for name, value in seconds.items())
    return min(seconds, key=lambda name: seconds[name]), f"expected steps a token: {costs}", pace


@dataclass
class Position:
    """A token that was chosen by the image side alone, and what it was chosen from.

    Attributes:
        ids: (rows, length) what it stands behind.
        raw: (rows, vocab) the model's scores given the image.
        scores: the same after the processors before the debiasing.
        undecided: whether the image-free side could change it.
        chosen: (rows,) the token; None for the last position of a round, whose token is not needed to go on.
        final: (rows, vocab) by which it was chosen.
        random: state of the random numbers before it was drawn.
    """

    ids: Tensor
    raw: Tensor
    scores: Tensor
    undecided: bool
    chosen: Tensor | None = None
    final: Tensor | None = None
    random: Tensor | None = None


@dataclass
class Loop:
    """Debiased decoding in rounds: choose ahead, ask the image-free side about all of it at once, keep what stays.

    Attributes:
        text: what is final.
        sides: whom to ask.
        plugin: debiases.
        prompt: of its image-free side.
        before, after: the logits processors in front of it and behind it.
        ahead: pace and habits by which tokens are chosen ahead; None to ask about each at once.
        every: whether the image-free side is asked where it could change nothing.
    """

    text: Text
    sides: Sides
    plugin: VDDLogitsProcessor
    prompt: Prompt
    before: Any
    after: Any
    habits: Habits
    ahead: Pace | None = None
    every: bool = False

    def run(self) -> None:
        """Decode until every row has ended."""
        while not self.text.done:
            self._settle(self._round())

    @cached_property
    def likeliest(self) -> bool:
        """Whether nothing is wanted of an outcome but its most probable token."""
        return not (self.after or self.text.config.do_sample or self.text.scores is not None)

    def _round(self) -> list[Position]:
        """Choose ahead as far as it is worth; at least one position, the last maybe without a token."""
        text, positions = self.text, list[Position]()
        ids, unfinished = text.ids, text.unfinished
        while True:
            raw = self.sides.seen(ids[:, text.width :]).to(torch.float32, copy=True).to(ids.device)
            scores = self.before(ids, raw)
            step = ids.shape[1] - text.width
            undecided = bool((self.plugin.undecided(scores, self.prompt, step) & unfinished).any())
            position = Position(ids, raw, scores, undecided)
            positions.append(position)
            could_change = [one.undecided for one in positions]
            if self.ahead is None or not any(could_change):
                return positions
            if not worth_reading_ahead(self.ahead, self.habits, could_change):
                return positions
            position.random = random_state(scores) if text.config.do_sample else None
            position.final = self._final(position, None)
            position.chosen = text.choose(position.final, unfinished)
            ids = torch.cat([ids, position.chosen[:, None]], dim=1)
            unfinished = text.still(ids, unfinished)
            if not bool(unfinished.any()):
                return positions

    def _settle(self, positions: list[Position]) -> None:
        """Ask the image-free side where it could change something, and make final all up to its first change."""
        text, report = self.text, self.plugin.report
        asked = [place for place, one in enumerate(positions) if one.undecided or self.every]
        blind = torch.empty(0)
        if asked:
            tokens = positions[asked[-1]].ids[:, text.width :]
            blind = self.sides.blind(tokens, asked[-1] - asked[0] + 1)
        ahead = positions[0].chosen is not None
        states = [one.random for one in positions[1:]]
        states.append(random_state(positions[0].scores) if ahead and text.config.do_sample else None)
        for place, one in enumerate(positions):
            is_asked = place in asked
            after = states[place] if states[place] is not None else states[-1]
            if is_asked or one.final is None or one.chosen is None:
                final = self._final(one, blind[:, place - asked[0]] if is_asked else None)
                set_random_state(one.scores, states[-1] if one.chosen is None else one.random)
                chosen = text.choose(final, text.unfinished)
            else:
                final, chosen = one.final, text.padded(one.chosen, text.unfinished)
            agrees = one.chosen is None or torch.equal(one.chosen, chosen)
            self._count(one, is_asked, chosen)
            text.add(chosen, final, one.raw)
            if text.done or not agrees:
                report.rejected += len(positions) - place - 1
                break
        if one.chosen is not None:
            set_random_state(one.scores, after)

    def _final(self, one: Position, blind: Tensor | None) -> Tensor:
        """(rows, vocab) by which the token is chosen; `blind` (rows, vocab) where the image-free side was asked."""
        if blind is None and self.likeliest:
            return one.scores  # its maximum is the outcome's
        if blind is None:
            return self.after(one.ids, self.plugin.decided(one.scores, self.prompt))
        step = one.ids.shape[1] - self.text.width
        return self.after(one.ids, self.plugin.debiased(one.scores, blind, self.prompt, step))

    def _count(self, one: Position, is_asked: bool, chosen: Tensor) -> None:
        habits, report, text = self.habits, self.plugin.report, self.text
        report.steps += 1
        report.skipped += not is_asked
        habits.steps += 1
        habits.undecided += one.undecided
        if one.undecided and not text.config.do_sample:
            own = torch.where(text.unfinished, one.scores.argmax(dim=-1), chosen)
            habits.compared += 1
            habits.agreed += torch.equal(own, chosen)
        elif one.undecided and one.chosen is not None:
            habits.compared += 1
            habits.agreed += torch.equal(one.chosen, chosen)
