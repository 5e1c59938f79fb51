"""Debiased decoding by the call: `generate` for one, `patch` for all that any code makes.

    vdd.generate(model, processor, **inputs, alpha=1.0, reference="none", max_new_tokens=64)
    with vdd.patch(model, processor): pipe(images, text="…")

Knows: transformers' `generate` and what it drops. Does not know: images, chat templates.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationMixin, LogitsProcessorList, StopStringCriteria
from transformers.generation.configuration_utils import GenerationMode

from vdd._check import UserError
from vdd.config import DebiasConfig, load_debias, to_json
from vdd.decoding import Decoder, Seen, cannot_read, pads_right
from vdd.families import Family, family_of, unwrapped
from vdd.placeholders import Placeholders
from vdd.processor import VDDLogitsProcessor
from vdd.records import DecodingReport
from vdd.reliance import Trace

_OPTIONS = {field.name for field in fields(DebiasConfig)}
_LOCKS: WeakKeyDictionary[Any, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()
CACHES = ("cache", "past_key_values")
"""What `generate` calls a KV cache that it is given: since transformers 5.24, and before."""
_KEEPS_WHILE_GENERATING = not hasattr(GenerationMixin, "_prepare_position_ids_for_generation")
"""Whether what a module keeps for a later turn is known only behind its own prefill, as before transformers 5."""
_UNDEBIASED = ("generate_batch", "init_continuous_batching", "continuous_batching_context_manager")
"""Methods by which transformers generates without logits processors."""


class CalledLogitsProcessor(VDDLogitsProcessor):
    """The processor of one call, which is seen to reach it whatever the model's own `generate` does."""

    relies_on_generate = False


def generate(
    model: Any,
    processor: Any = None,
    *,
    preset: str = "vdd",
    strategy: str = "auto",
    blind_inputs: Mapping[str, Tensor] | None = None,
    report: DecodingReport | None = None,
    trace: Trace | None = None,
    **given: Any,
) -> Any:
    """`model.generate`, debiased.

    Greedy decoding and sampling run in a loop of this package, which makes the image-free side nearly free; whatever
    else `generate` can do runs in its own, where the image-free side is left out at steps that it cannot change.

    Args:
        model: a vision-language model.
        processor: its multimodal processor; see `VDDLogitsProcessor`.
        preset: one of vdd.PRESETS.
        strategy: how the image-free side is run: "two-pass", "skip", "fuse", "speculate", or "auto", which measures the
            model once and takes the fastest. All give the same tokens, up to the rounding of the kernels.
        blind_inputs: see `VDDLogitsProcessor`.
        report: filled in with what ran, why, and what it cost.
        trace: filled in with every row's tokens and what each owes to the image (`vdd.Trace`). It costs one image-free
            forward at the end, and memory for the logits of all steps.
        **given: settings of `DebiasConfig` (alpha, beta, reference, …), and what `model.generate` takes: the inputs
            that the multimodal processor made, generation settings, a streamer, an assistant model, further processors.

    Returns:
        What `model.generate` returns.

    Raises:
        ValueError: on an unknown family or strategy, or a setting out of range; where no prompt has an image; where
            this way of generating would leave the debiasing out.

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
    settings = {"preset": preset, "strategy": strategy, "blind_inputs": blind_inputs, **options}
    return _debiased(model, model.generate, call, processor, settings, report, trace)


@contextlib.contextmanager
def patch(
    model: Any,
    processor: Any = None,
    *,
    preset: str = "vdd",
    strategy: str = "auto",
    config: DebiasConfig | str | os.PathLike[str] | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Debias every `model.generate` that is called inside, by whatever code; afterwards the model is as it was.

    Calls without any image go through unchanged: there is nothing to debias. In families that keep something on the
    module while they generate, calls from several threads wait for one another.

    Args:
        model: a vision-language model.
        processor: its multimodal processor; see `VDDLogitsProcessor`.
        preset: one of vdd.PRESETS.
        strategy: how the image-free side is run; see `generate`.
        config: all settings at once, in the place of the preset: a `DebiasConfig`, or a file that `vdd advise` wrote.
        **options: settings of `DebiasConfig` that replace the preset's or the config's, such as alpha=1.0.

    Yields:
        the model.

    Raises:
        ValueError: at once on an unknown family, a setting out of range, or a model that is patched already.
    """
    if isinstance(vars(model).get("generate"), _Debiased):
        raise UserError("vdd: this model is patched already; wanted one patch at a time.")
    if config is not None:
        options = {**to_json(config if isinstance(config, DebiasConfig) else load_debias(config)), **options}
    settings = {"preset": preset, "strategy": strategy, **options}
    CalledLogitsProcessor(model, processor, **settings)
    instead: dict[str, Any] = {"generate": _Debiased(model, model.generate, processor, settings)}
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
            return _debiased(self.model, self.original, call, self.processor, self.settings)
        _check_prompt(call, family)
        with turn(self.model, family):
            return self.original(*args, **kwargs)


def _debiased(
    model: Any,
    original: Callable[..., Any],
    call: dict[str, Any],
    processor: Any,
    settings: Mapping[str, Any],
    report: DecodingReport | None = None,
    trace: Trace | None = None,
) -> Any:
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
    plugin.report = plugin.report if report is None else report
    family = plugin.family
    _check_prompt(call, family)
    if family.adapter.drops_processors and call.pop("generation_mode", "text") != "text":
        raise UserError(
            f"vdd: generation_mode is not 'text'; only the texts of the family {family.kind!r} are debiased."
        )
    call["logits_processor"] = given
    asked = call if trace is None else _recorded(call, logits=not plugin.config.is_cutoff_only)
    out = decoded(model, original, asked, family, processor=processor, plugin=plugin)
    if not plugin.report.steps:
        raise UserError(
            "vdd: this way of generating asked no logits processor, so nothing was debiased; wanted one that does. "
            "Does the model's own `generate`, or a custom one, leave `logits_processor` out?"
        )
    if trace is None or plugin.prompt is None:
        return out
    config = settings_of(model, call)
    trace.take(out, plugin.prompt.ids.shape[1], ends_of(config), plugin)
    return out if config.return_dict_in_generate else out.sequences


def decoded(
    model: Any,
    original: Callable[..., Any],
    call: Mapping[str, Any],
    family: Family,
    *,
    processor: Any = None,
    plugin: VDDLogitsProcessor | None = None,
    seen: Seen | None = None,
) -> Any:
    """What `original` returns for the arguments in `call`, by this package's loop where that serves them.

    Args:
        model: a vision-language model.
        original: its `generate`.
        call: the arguments, by name; `logits_processor` is a list.
        family: the model's facts.
        processor: its multimodal processor.
        plugin: what debiases; None for plain decoding.
        seen: the image's side, where it was read already; left aside where transformers' own loop runs.
    """
    given: dict[str, Any] = {**call}
    plugins = [*given.pop("logits_processor", []), *([] if plugin is None else [plugin])]
    why = transformers_own(model, family, given, read_already=seen is not None)
    if not why and (plugin is not None or seen is not None):
        stops = given.pop("stop_strings", None)
        if stops is not None:  # a custom method is handed no tokenizer
            criterion = StopStringCriteria(given.pop("tokenizer"), stops)
            given["stopping_criteria"] = [*(given.get("stopping_criteria") or []), criterion]
        inputs = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        given["custom_generate"] = Decoder(family, plugin, processor, given.get("streamer"), inputs, seen)
        given = {name: value for name, value in given.items() if "pixel_values" not in name}  # they are read here
    if plugin is not None:
        plugin.report.because = why and f"{why}: transformers' own loop"
    with turn(model, family):
        return asking(model, original, family)(**given, logits_processor=LogitsProcessorList(plugins))


def transformers_own(model: Any, family: Family, call: Mapping[str, Any], *, read_already: bool = False) -> str:
    """Why a call must run in transformers' own loop; "" where this package's serves it.

    Args:
        model: a vision-language model.
        family: its facts.
        call: `generate`'s arguments, by name.
        read_already: whether the image's side was, so that nobody goes on from the cache that is returned.
    """
    config = settings_of(model, call)
    mode = config.get_generation_mode(call.get("assistant_model"))
    own = type(unwrapped(model)).generate is not GenerationMixin.generate
    reasons = {
        mode.value.replace("_", " "): mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE),
        cannot_read(family): True,
        "a `generate` of its own": own and not family.adapter.drops_processors,
        "another custom_generate": call.get("custom_generate") is not None,
        "a KV cache that came with the call": any(call.get(name) is not None for name in CACHES),
        "a KV cache that is returned without what the module keeps beside it": _KEEPS_WHILE_GENERATING
        and family.adapter.stateful
        and not read_already
        and bool(config.return_dict_in_generate),
        "inputs_embeds": call.get("inputs_embeds") is not None,
        "synced_gpus": bool(call.get("synced_gpus")),
        "attentions or hidden states are wanted": bool(config.output_attentions or config.output_hidden_states),
        "a cache_implementation": config.cache_implementation not in (None, "dynamic"),
        "use_cache=False": config.use_cache is False,
        "guidance_scale": config.guidance_scale not in (None, 1),
        "stop_strings that are not of the call, or came without a tokenizer": config.stop_strings is not None
        and None in (call.get("stop_strings"), call.get("tokenizer")),
        "padding on the right": pads_right(call.get("attention_mask")),
        "a prompt that is read in parts": config.prefill_chunk_size is not None,
        "token healing": bool(config.token_healing),
    }
    return next((why for why, holds in reasons.items() if holds and why), "")


def settings_of(model: Any, call: Mapping[str, Any]) -> Any:
    """The generation settings of a call: the model's own, those of a `generation_config`, the arguments'."""
    config = copy.deepcopy(model.generation_config)
    asked = call.get("generation_config")
    if asked is not None:
        config.update(**{name: value for name, value in asked.to_diff_dict().items() if value is not None})
    config.update(**{name: value for name, value in call.items() if name != "generation_config"})
    return config


def _recorded(call: Mapping[str, Any], *, logits: bool) -> dict[str, Any]:
    """The arguments of a call that returns what a trace is taken from."""
    kept = {"return_dict_in_generate": True, "output_logits": logits}
    config = copy.deepcopy(call.get("generation_config"))
    if config is None:
        return {**call, **kept}
    config.update(**kept)
    return {**{name: value for name, value in call.items() if name not in kept}, "generation_config": config}


def ends_of(config: Any) -> frozenset[int]:
    """The end tokens by generation settings."""
    found = config.eos_token_id
    return frozenset() if found is None else frozenset(torch.as_tensor(found).flatten().tolist())


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
    ids, mask = call.get("input_ids"), call.get("attention_mask")
    cache = next((call[name] for name in CACHES if call.get(name) is not None), None)
    if ids is None:
        if call.get("inputs_embeds") is None:
            return
        raise UserError("vdd: inputs_embeds came alone, and images cannot be found in them; wanted input_ids as well.")
    read = 0 if cache is None or family.encoder_decoder else int(cache.get_seq_length())
    if read and (ids.shape[1] <= read or (mask is not None and mask.shape[1] > ids.shape[1])):
        raise UserError(
            f"vdd: the KV cache holds {read} positions and input_ids has {ids.shape[1]}; wanted the ids of the "
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
