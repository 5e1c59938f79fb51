"""Debiased decoding by the call: `generate` for one, `patch` for all that any code makes.

    vdd.generate(model, processor, **inputs, alpha=1.0, reference="none", max_new_tokens=64)
    with vdd.patch(model, processor): pipe(images, text="…")

Knows: transformers' `generate` and what it drops. Does not know: images, chat templates.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor
from transformers import GenerationMixin, LogitsProcessorList

from vdd._check import UserError
from vdd.config import DebiasConfig
from vdd.families import Family, family_of, unwrapped
from vdd.placeholders import Placeholders
from vdd.processor import VDDLogitsProcessor

_OPTIONS = {field.name for field in fields(DebiasConfig)}
_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()
_UNDEBIASED = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
"""Methods by which transformers generates without logits processors."""


class CalledLogitsProcessor(VDDLogitsProcessor):
    """The processor of one call, which is seen to reach it whatever the model's own `generate` does.

    Attributes:
        was_called: whether `generate` came by.
    """

    relies_on_generate = False
    was_called = False

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """As VDDLogitsProcessor."""
        self.was_called = True
        return super().__call__(input_ids, scores)


def generate(
    model: Any,
    processor: Any = None,
    *,
    preset: str = "vdd",
    blind_inputs: Mapping[str, Tensor] | None = None,
    **given: Any,
) -> Any:
    """`model.generate`, debiased.

    Args:
        model: a vision-language model.
        processor: its multimodal processor; see `VDDLogitsProcessor`.
        preset: one of vdd.PRESETS.
        blind_inputs: see `VDDLogitsProcessor`.
        **given: settings of `DebiasConfig` (alpha, beta, reference, …), and what `model.generate` takes: the inputs
            that the multimodal processor made, generation settings, a streamer, an assistant model, further processors.

    Returns:
        What `model.generate` returns.

    Raises:
        ValueError: on an unknown family or a setting out of range; where no prompt has an image; where this way of
            generating would leave the debiasing out.

    Example:
        >>> import vdd
        >>> from vdd.toy import load
        >>> from vdd.toy.scenes import Item, Scene, render
        >>> model, processor = load()
        >>> image = render(Scene((Item("fox", "yellow", 4),), "forest"))
        >>> text = "USER: <image>\\nWhat color is the fox? ASSISTANT:"
        >>> inputs = processor(images=image, text=text, return_tensors="pt")
        >>> ids = vdd.generate(model, processor, **inputs, alpha=1.0)
        >>> processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        'yellow'
    """
    options = {name: given.pop(name) for name in _OPTIONS.intersection(given)}
    call = _bound(model.generate, (), given)
    return _debiased(model, model.generate, call, processor, preset=preset, blind_inputs=blind_inputs, **options)


@contextlib.contextmanager
def patch(model: Any, processor: Any = None, *, preset: str = "vdd", **options: Any) -> Iterator[Any]:
    """Debias every `model.generate` that is called inside, by whatever code; afterwards the model is as it was.

    Calls without any image go through unchanged: there is nothing to debias. In families that keep something on the
    module while they generate, calls from several threads wait for one another.

    Args:
        model: a vision-language model.
        processor: its multimodal processor; see `VDDLogitsProcessor`.
        preset: one of vdd.PRESETS.
        **options: settings of `DebiasConfig`, such as alpha=1.0, beta=0.1, reference="none".

    Yields:
        the model.

    Raises:
        ValueError: at once on an unknown family, a setting out of range, or a model that is patched already.
    """
    if isinstance(vars(model).get("generate"), _Debiased):
        raise UserError("vdd: this model is patched already; wanted one patch at a time.")
    CalledLogitsProcessor(model, processor, preset=preset, **options)
    instead: dict[str, Any] = {"generate": _Debiased(model, model.generate, processor, {"preset": preset, **options})}
    instead.update({name: _refused for name in _UNDEBIASED if hasattr(model, name)})
    before = {name: vars(model)[name] for name in instead if name in vars(model)}
    for name, method in instead.items():
        setattr(model, name, method)
    try:
        yield model
    finally:
        for name in instead:
            delattr(model, name)
        for name, method in before.items():
            setattr(model, name, method)


@dataclass
class _Debiased:
    """What stands in the place of a patched model's `generate`."""

    model: Any
    original: Callable[..., Any]
    processor: Any
    settings: dict[str, Any]

    def __post_init__(self) -> None:
        functools.update_wrapper(self, self.original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = _bound(self.original, args, kwargs)
        family = family_of(self.model, self.processor)
        if _shows_image(call, family, self.processor):
            return _debiased(self.model, self.original, call, self.processor, **self.settings)
        _check_prompt(call, family)
        with turn(self.model, family):
            return self.original(*args, **kwargs)


def _debiased(model: Any, original: Callable[..., Any], call: dict[str, Any], processor: Any, **settings: Any) -> Any:
    """Run `original` on the arguments in `call` with a processor of its own."""
    given = call.pop("logits_processor", None) or []
    if any(isinstance(plugin, VDDLogitsProcessor) for plugin in given):
        return original(**call, logits_processor=given)  # from within a custom generate that was debiased already
    generation = call.get("generation_config")
    if "paged" in (call.get("cache_implementation"), getattr(generation, "cache_implementation", None)):
        raise UserError(
            "vdd: cache_implementation='paged' generates without logits processors, so without debiasing; wanted "
            "another cache, such as 'static' or none."
        )
    if call.get("assistant_tokenizer") is not None:
        raise UserError(
            "vdd: transformers asks logits processors about an assistant's own ids as well; wanted an assistant_model "
            "of the same tokenizer, or prompt_lookup_num_tokens."
        )
    inputs = {name: value for name, value in call.items() if isinstance(value, Tensor)}
    plugin = CalledLogitsProcessor(model, processor, inputs=inputs, **settings)
    family = plugin.family
    _check_prompt(call, family)
    if family.adapter.drops_processors and call.pop("generation_mode", "text") != "text":
        raise UserError(
            f"vdd: generation_mode is not 'text'; only the texts of the family {family.kind!r} are debiased."
        )
    with turn(model, family):
        out = asking(model, original, family)(**call, logits_processor=LogitsProcessorList([*given, plugin]))
    if not plugin.was_called:
        raise UserError(
            "vdd: this way of generating asked no logits processor, so nothing was debiased; wanted one that does. "
            "Does the model's own `generate`, or a custom one, leave `logits_processor` out?"
        )
    return out


def _bound(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a call by name; the prompt's ids are `input_ids`, as the multimodal processor calls them."""
    signature = inspect.signature(function)
    if any(p.kind is p.VAR_POSITIONAL for p in signature.parameters.values()):  # a wrapper's, as PEFT's
        signature, args = inspect.signature(GenerationMixin.generate), (None, *args)
    call = dict(signature.bind(*args, **kwargs).arguments)
    call.pop("self", None)
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), "")
    call.update(call.pop(rest, {}))
    if call.get("inputs") is not None:
        call["input_ids"] = call.pop("inputs")
    return call


def _shows_image(call: Mapping[str, Any], family: Family, processor: Any) -> bool:
    if any(call.get(name) is not None for name in family.pixel_inputs):
        return True
    ids, find = call.get("input_ids"), Placeholders(family, processor, derive="ids")
    return ids is not None and any(find.blocks(row) for row in ids.tolist())


def _check_prompt(call: Mapping[str, Any], family: Family) -> None:
    """Raise where `input_ids` are not the whole prompt: what of the rest is an image cannot be known."""
    ids, mask, cache = (call.get(name) for name in ("input_ids", "attention_mask", "past_key_values"))
    if ids is None:
        if call.get("inputs_embeds") is None:
            return
        raise UserError("vdd: inputs_embeds came alone, and images cannot be found in them; wanted input_ids as well.")
    read = 0 if cache is None or family.encoder_decoder else int(cache.get_seq_length())
    if read and (ids.shape[1] <= read or (mask is not None and mask.shape[1] > ids.shape[1])):
        raise UserError(
            f"vdd: past_key_values holds {read} positions and input_ids has {ids.shape[1]}; wanted the ids of the "
            "whole conversation, of which `generate` reads what the cache does not hold."
        )


def _refused(*args: Any, **kwargs: Any) -> Any:
    raise UserError("vdd: continuous batching runs without logits processors, so without debiasing; wanted generate.")


def asking(model: Any, original: Callable[..., Any], family: Family) -> Callable[..., Any]:
    """The `generate` that asks logits processors: `original`, or the one of transformers where that leaves them out."""
    return functools.partial(GenerationMixin.generate, model) if family.adapter.drops_processors else original


def turn(model: Any, family: Family) -> contextlib.AbstractContextManager[Any]:
    """One generation at a time on a model that keeps something on the module; a model keeps its lock while it lives."""
    if not family.adapter.stateful:
        return contextlib.nullcontext()
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(unwrapped(model), threading.RLock())
