"""What can be set, validated once, to and from JSON.

Knows: names and ranges. Does not know: tensors, models, files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeVar

from vdd._check import UserError, choice, real, whole

REFERENCES = ("none", "unk", "both", "noise", "zero", "one", "mask", "instruction")
"""The second input v': no visual tokens, `<unk>` in their place, the mean of these two, a noised image, an all-zero
or all-one pixel tensor, the same prompt with attention to every image token off, a disturbed instruction."""

IMAGE = "image"
"""Name of the image-conditioned distribution beside those of the references."""

PRIORS = ("none", "unk", "both")
"""References whose answer distribution post-hoc debiasing divides out."""

CALIBRATION_NOISE_STEP = 999
"""Diffusion step of the reference "noise" where it gives a prior; decoding uses 500 (arXiv:2403.05262, 2311.16922)."""

TEXT_REFERENCES = ("none", "unk", "both", "mask")
"""References that need no pixels: the prompt's token ids are enough."""

MAX_ALPHA = 1000.0
"""Beyond it only the image-free scores would count; far beyond it float32 overflows."""

MAX_SEED = 2**31 - 1

STRATEGIES = ("auto", "two-pass", "skip", "fuse", "speculate")
"""How the image-free side is run; all give the same tokens. `auto` takes the one that is measured to be fastest."""

SCHEDULES = ("constant", "m3id", "nolan")

_Config = TypeVar("_Config")


@dataclass(frozen=True)
class DebiasConfig:
    """How the image-conditioned scores are moved away from the reference's.

    Attributes:
        reference: one of REFERENCES.
        alpha: contrast strength, 0 to 1000; for the schedule "nolan" its scale; not used by "m3id".
        beta: plausibility cut-off, fraction of the top probability, in [0, 1]; 0 keeps every token.
        schedule: how strong at which step: "constant", "m3id" (grows with the text), "nolan" (by the branches'
            divergence).
        decay: M3ID's λ per token, ≥ 0.
        confidence: M3ID's gate: nothing is subtracted where the top probability reaches this, in (0, 1].
        unk_per: one `<unk>` per "image" (per unbroken run of image tokens), or per "patch".
        derive: how the image leaves the prompt for "none": "template" re-renders the chat template without it,
            "ids" removes the image's own tokens and leaves what the template put around them.
        noise_step: diffusion step of "noise", 0 … 999.
        seed: of the noise.
        instruction: the disturbance that "instruction" puts in the place of a system prompt.
    """

    reference: str = "none"
    alpha: float = 1.0
    beta: float = 0.1
    schedule: str = "constant"
    decay: float = 0.02
    confidence: float = 0.3
    unk_per: str = "image"
    derive: str = "template"
    noise_step: int = 500
    seed: int = 0
    instruction: str = "You are a confused objects detector to provide a fuzzy overview or impression of the image."

    def __post_init__(self) -> None:
        """Raise UserError on the first value out of range."""
        who = "vdd"
        choice(who, "reference", self.reference, REFERENCES)
        choice(who, "schedule", self.schedule, SCHEDULES)
        choice(who, "unk_per", self.unk_per, ("image", "patch"))
        choice(who, "derive", self.derive, ("template", "ids"))
        real(who, "alpha", self.alpha, low=0.0, high=MAX_ALPHA)
        real(who, "beta", self.beta, low=0.0, high=1.0)
        real(who, "decay", self.decay, low=0.0)
        real(who, "confidence", self.confidence, low=1e-6, high=1.0)
        whole(who, "seed", self.seed, low=0, high=MAX_SEED)
        whole(who, "noise_step", self.noise_step, low=0, high=999)

    @property
    def is_cutoff_only(self) -> bool:
        """True where nothing is subtracted, so that the reference need not run."""
        return self.schedule != "m3id" and self.alpha == 0


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are chosen; every value is passed to `generate` explicitly, whatever the model's own defaults are.

    Attributes:
        temperature: 0 is greedy (or beam search without sampling), > 0 samples.
        top_p: nucleus, in (0, 1]; 1 is off.
        top_k: 0 is off.
        repetition_penalty: > 0; 1 is off.
        num_beams: ≥ 1.
        max_new_tokens: ≥ 1.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    num_beams: int = 1
    max_new_tokens: int = 32

    def __post_init__(self) -> None:
        """Raise UserError on the first value out of range."""
        real("sampling", "temperature", self.temperature, low=0.0)
        real("sampling", "top_p", self.top_p, low=1e-6, high=1.0)
        real("sampling", "repetition_penalty", self.repetition_penalty, low=1e-6)
        whole("sampling", "top_k", self.top_k, low=0)
        whole("sampling", "num_beams", self.num_beams, low=1)
        whole("sampling", "max_new_tokens", self.max_new_tokens, low=1)

    def generate_kwargs(self) -> dict[str, Any]:
        """Arguments for `model.generate`; warpers only where sampling uses them, else transformers warns."""
        kwargs: dict[str, Any] = {
            "do_sample": self.temperature > 0,
            "num_beams": self.num_beams,
            "repetition_penalty": self.repetition_penalty,
            "max_new_tokens": self.max_new_tokens,
        }
        if self.temperature > 0:
            kwargs |= {"temperature": self.temperature, "top_p": self.top_p, "top_k": self.top_k}
        else:
            kwargs |= {"temperature": None, "top_p": None, "top_k": None}
        return kwargs


@dataclass(frozen=True)
class Leg:
    """One way of answering, as an evaluation compares them.

    Attributes:
        name: as it stands in tables and file names.
        debias: None for plain decoding.
        sampling: how tokens are chosen.
        post_hoc: the reference whose answer prior is divided out ("none", "unk", "both"), None for generated text.
        bias: added to the log-odds of the first label against all others; None for none.
        prompt: this leg's own wording of the question, "{question}" in it; None for the run's.
        custom_generate: a decoding method that transformers loads, a folder or a name on the Hub, and behind commas
            what it is called with ("transformers-community/dola,dola_layers=low"); "" for its own or this package's.
        repeat: which of several draws of the same way this is, from 0.

    A leg with `post_hoc` or a bias answers with a label, the most probable one or, where sampling, a drawn one, and
    needs no generation of its own.
    """

    name: str
    debias: DebiasConfig | None = None
    sampling: SamplingConfig = SamplingConfig()
    post_hoc: str | None = None
    bias: float | None = None
    prompt: str | None = None
    custom_generate: str = ""
    repeat: int = 0

    def custom_call(self) -> dict[str, Any]:
        """What `custom_generate` means as arguments of `generate`; its code is run."""
        if not self.custom_generate:
            return {}
        method, *settings = self.custom_generate.split(",")
        given: dict[str, Any] = {"custom_generate": method, "trust_remote_code": True}
        for setting in settings:
            name, _, value = setting.partition("=")
            try:
                given[name.strip()] = json.loads(value)
            except ValueError:
                given[name.strip()] = value
        return given

    @property
    def labels_alone(self) -> bool:
        """Whether it answers with a label rather than by writing."""
        return self.post_hoc is not None or self.bias is not None

    def signature(self) -> str:
        """`ref:none|a:1|b:0.1|greedy` and the like, with whatever else is not the default."""
        parts = [f"posthoc:{self.post_hoc}"] if self.post_hoc else []
        parts += [f"bias:{self.bias:.3g}"] if self.bias is not None else []
        parts += [f"prompt:{_digest(self.prompt)}"] if self.prompt is not None else []
        method, *settings = self.custom_generate.split(",")
        method = ",".join([Path(method).name, *settings])
        parts += [f"custom:{re.sub(r'[|]+', '_', method)}".replace(" ", "_")] if self.custom_generate else []
        if self.debias is None:
            parts.append("plain")
        elif self.debias.is_cutoff_only:
            parts.append(f"cutoff-only|b:{self.debias.beta:g}")
        else:
            parts += [f"ref:{self.debias.reference}", f"a:{self.debias.alpha:g}", f"b:{self.debias.beta:g}"]
            parts += _changed(self.debias, but=("reference", "alpha", "beta"))
        s = self.sampling
        parts.append("greedy" if s.temperature == 0 else f"T:{s.temperature:g}|p:{s.top_p:g}|k:{s.top_k}")
        return "|".join(parts + _changed(s, but=("temperature", "top_p", "top_k")))


def _changed(config: DebiasConfig | SamplingConfig, *, but: tuple[str, ...]) -> list[str]:
    """`name:value` of the settings that are not the default; free text by its digest, since it may hold anything."""
    parts = []
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name not in but and value != field.default:
            text = _digest(value) if field.name == "instruction" else value
            parts.append(f"{field.name}:{text}")
    return parts


def _digest(text: str) -> str:
    return sha256(text.encode()).hexdigest()[:8]


def to_json(config: DebiasConfig | SamplingConfig | Leg) -> dict[str, Any]:
    """Plain values, nested configurations as dictionaries."""
    return asdict(config)


def from_json(kind: type[_Config], values: Mapping[str, Any]) -> _Config:
    """A configuration of type `kind` from plain values; unknown keys are an error, missing ones take the default."""
    known = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        choice(kind.__name__, "setting", key, known)
    nested: dict[str, type[Any]] = {}
    if kind is Leg:
        nested = {"debias": DebiasConfig, "sampling": SamplingConfig}
    inner = {key: from_json(nested[key], values[key]) for key in nested if isinstance(values.get(key), Mapping)}
    return kind(**{**values, **inner})


def load_leg(path: str | os.PathLike[str]) -> Leg:
    """The decoding in a file that `vdd advise` wrote, or a bare `DebiasConfig` in JSON.

    Raises:
        UserError: where the file cannot be read, or holds something else.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); wanted vdd.json, as `vdd advise` writes it.") from error
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}; wanted a JSON object, as `vdd advise` writes it.")
    if isinstance(values.get("decoding"), dict):
        return from_json(Leg, values["decoding"])
    return Leg(Path(path).stem, from_json(DebiasConfig, values))


def load_debias(path: str | os.PathLike[str]) -> DebiasConfig:
    """What a logits processor does for the decoding in a file; α = β = 0, which changes nothing, where that is plain.

    Raises:
        UserError: as `load_leg`; where the decoding answers with labels, which no logits processor does.
    """
    leg = load_leg(path)
    if leg.labels_alone:
        how = f"post_hoc={leg.post_hoc!r}" if leg.post_hoc else f"bias={leg.bias:g}"
        raise UserError(
            f"{path}: this decoding answers with labels ({how}), which a logits processor cannot; wanted a contrast. "
            "Use vdd.Pipeline(model, processor)(image, question, labels=[…]), or `vdd eval pope --config`."
        )
    return leg.debias or DebiasConfig(alpha=0.0, beta=0.0)


def override(config: DebiasConfig, options: Mapping[str, Any]) -> DebiasConfig:
    """`config` with the settings in `options`; unknown names are an error that lists the known ones."""
    known = [f.name for f in fields(config)]
    for key in options:
        choice("vdd", "setting", key, known)
    return replace(config, **options)
