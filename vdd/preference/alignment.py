"""How a model is aligned: the method, its step sizes, what is trained, and where fresh pairs come from.

    loss = −log σ(β [log π(y⁺)/π_ref(y⁺) − log π(y⁻)/π_ref(y⁻)]) − w mean_t log π(y⁺_t)     (dpo, online-dpo, mixed-dpo)
    loss = −mean_t log π(y⁺_t)                                          (sft, the control without rejected answers)

Source: arXiv:2305.18290; mixing arXiv:2407.02477, eq. 4; the supervised term arXiv:2404.19733. The defaults are the
second's settings, but for the learning rate; it has no supervised term.
Knows: numbers and names. Does not know: models, files, trainers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from vdd._check import UserError, choice, real, whole
from vdd.preference.pairs import VARIANTS, Variant

Method = Literal["dpo", "online-dpo", "mixed-dpo", "sft"]
METHODS: tuple[Method, ...] = get_args(Method)
FreshBy = Literal["bdhs", "ranked"]
FRESH: tuple[FreshBy, ...] = get_args(FreshBy)
Schedule = Literal["linear", "cosine", "constant"]
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


@dataclass(frozen=True, kw_only=True)
class AlignConfig:
    """Settings of one training; any that is out of range raises UserError.

    Attributes:
        method: "dpo" takes the pairs as they came; "online-dpo" samples the pair anew from the model as it is at that
            step; "mixed-dpo" does either; "sft" learns the chosen answers, and reads the rejected ones only to tell how
            far apart they are.
        beta: β > 0, what distance from the reference model costs.
        sft_weight: w ≥ 0, of the supervised term: DPO alone may make the chosen answer less probable too, and what
            both lose goes to anything else. Not of "sft".
        learning_rate: of AdamW, > 0.
        epochs: passes over the pairs, > 0; not read where max_steps is given.
        max_steps: updates.
        batch_size: pairs a forward and device.
        gradient_accumulation: forwards an update.
        schedule: of the learning rate, from full to nothing or constant.
        warmup: share of the updates in which the learning rate rises, in [0, 1].
        weight_decay, max_grad_norm: of AdamW, ≥ 0; the gradient is cut to that norm, 0 leaves it.
        lora_rank: of the adapters on the language model's projections; 0 trains every weight.
        lora_alpha, lora_dropout: of the adapters; dropout in [0, 1), of the trained model alone.
        train_projector: whether the part that brings image features into the language model is trained in full too.
        gradient_checkpointing: less memory for about a third more time.
        mix: of mixed-dpo, the probability of taking the pair as it came; 1 is dpo, 0 is online-dpo.
        fresh: where a fresh pair comes from: "bdhs", the model's own bias against the chosen answer; "ranked", two
            samples, the better one by the grounding reward of the frozen model.
        rho, epsilon, iterations, variant: of "bdhs"; see `BDHS`.
        temperature, top_p, max_new_tokens: of sampling fresh answers.
        patience: updates without any effect, or pairs asked for in vain, after which the training stops with an error.
        save_steps: updates between checkpoints.
        seed: of everything random.
    """

    method: Method = "dpo"
    beta: float = 0.1
    sft_weight: float = 0.0
    learning_rate: float = 5e-6
    epochs: float = 3.0
    max_steps: int | None = None
    batch_size: int = 8
    gradient_accumulation: int = 1
    schedule: Schedule = "linear"
    warmup: float = 0.0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lora_rank: int = 128
    lora_alpha: int = 256
    lora_dropout: float = 0.0
    train_projector: bool = True
    gradient_checkpointing: bool = False
    mix: float = 0.5
    fresh: FreshBy = "bdhs"
    rho: float = 0.99
    epsilon: float | None = None
    iterations: int = 5
    variant: Variant = "attention"
    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 64
    patience: int = 20
    save_steps: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        who = "align"
        choice(who, "method", self.method, METHODS)
        choice(who, "schedule", self.schedule, SCHEDULES)
        choice(who, "fresh", self.fresh, FRESH)
        choice(who, "variant", self.variant, VARIANTS)
        tiny = 1e-300  # of what must be above 0
        for name in ("beta", "learning_rate", "epochs", "temperature", "top_p"):
            real(who, name, getattr(self, name), low=tiny)
        for name in ("sft_weight", "weight_decay", "max_grad_norm"):
            real(who, name, getattr(self, name), low=0.0)
        for name in ("warmup", "mix", "rho", "top_p", "lora_dropout"):
            real(who, name, getattr(self, name), low=0.0, high=1.0)
        if self.lora_dropout == 1:
            raise UserError("align: lora_dropout is 1, which drops everything; wanted a number in [0, 1).")
        if self.epsilon is not None:
            real(who, "epsilon", self.epsilon, low=-1.0)
        for name in ("batch_size", "gradient_accumulation", "iterations", "max_new_tokens", "patience", "save_steps"):
            whole(who, name, getattr(self, name), low=1)
        whole(who, "lora_rank", self.lora_rank, low=0)
        whole(who, "lora_alpha", self.lora_alpha, low=1)
        whole(who, "seed", self.seed, low=0, high=2**32 - 1)
        if self.max_steps is not None:
            whole(who, "max_steps", self.max_steps, low=1)
        for name in ("train_projector", "gradient_checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise UserError(f"align: {name} is {getattr(self, name)!r}; wanted true or false.")

    @property
    def offline_share(self) -> float:
        """The probability of taking a pair as it came."""
        return {"dpo": 1.0, "sft": 1.0, "online-dpo": 0.0}.get(self.method, self.mix)

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> AlignConfig:
        """From what `to_json` gave; UserError on a setting that is not known."""
        known = {field.name for field in fields(cls)}
        strange = sorted(set(record) - known)
        if strange:
            raise UserError(f"align: unknown settings {', '.join(strange)}; known: {', '.join(sorted(known))}.")
        return cls(**record)
