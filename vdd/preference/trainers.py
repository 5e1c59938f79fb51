"""TRL's DPOTrainer on pairs that are written as tokens, or sampled anew, only when their turn comes.

Stock are the loss, the reference model and the adapters. Other are: the batch (TRL's collator loses a `<s>` that the
template does not write, and cuts), the checkpoints (trained weights by name, in safetensors), and that nothing is sent.

Knows: TRL and PEFT, which it imports. Does not know: how pairs are made, run folders.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from trl import DPOTrainer

from vdd._check import UserError
from vdd.images import as_picture
from vdd.preference.alignment import AlignConfig
from vdd.preference.answers import Answers
from vdd.preference.fresh import Mixture
from vdd.preference.lent import resting
from vdd.preference.pairs import Pair

WEIGHTS = "trained.safetensors"
"""In a checkpoint: every weight that is trained, by its name."""


PROJECTORS = ("multi_modal_projector", "mm_projector", "connector", "aligner", "merger", "embed_vision")
PROJECTOR_LISTS = ("deepstack_merger_list",)
"""Names of the part that brings image features into the language model, whole or as a list of such."""
_SIGHT = re.compile(r"(vision|visual|image|img|vqmodel|audio|speech)")
_ROUTERS = ("gate", "router", "shared_expert_gate")
"""Projections that choose experts, which small steps should not turn over."""


class PairTrainer(DPOTrainer):
    """Trains on pairs.

    Args:
        model: the one to train; `peft_config` among `more` puts adapters on it.
        pairs: what to train on.
        answers: writes them as the model's inputs.
        mixture: decides which of them are sampled anew.
        more: arguments of `trl.DPOTrainer`.
    """

    def __init__(self, model: Any, pairs: Sequence[Pair], answers: Answers, mixture: Mixture, **more: Any) -> None:
        self.pairs, self.answers, self.mixture = pairs, answers, mixture
        rows = Dataset.from_dict({"row": list(range(len(pairs))), "images": [None] * len(pairs)})
        super().__init__(model, train_dataset=rows, data_collator=_numbers, **more)

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        policy = self.accelerator.unwrap_model(self.model)
        with self.accelerator.autocast():
            drawn = self.mixture(policy, [self.pairs[row] for row in inputs["rows"].tolist()], self.state.global_step)
        for name, count in (("asked", drawn.asked), ("fresh", drawn.fresh), ("cut", drawn.cut)):
            self._metrics["train"][f"pairs/{name}"].append(count / len(drawn.pairs))
        return dict(super()._prepare_inputs(written(self.answers, drawn.pairs)))

    def _send_telemetry(self) -> None:
        """Nothing is sent."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None is written."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().contiguous() for name, value in _trained(self.model)}, folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        stored, own = load_file(Path(resume_from_checkpoint) / WEIGHTS), dict(_trained(model or self.model))
        if stored.keys() != own.keys():
            raise UserError(f"{resume_from_checkpoint}: holds other weights than are trained; wanted a new folder.")
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(stored[name])


def adapters(model: Any, config: AlignConfig) -> LoraConfig:
    """Adapters on the language model's projections, none on the vision tower, and the projector to train in full.

    Raises:
        UserError: where a model has no such part that is known by its name.
    """
    decoder = model.get_decoder()
    inside = next(name for name, module in model.named_modules() if module is decoder)
    prefix = f"{inside}." if inside else ""
    targets, projectors = list[str](), list[str]()
    for name, module in model.named_modules():
        above, _, last = name.rpartition(".")
        if last in PROJECTORS or above.rpartition(".")[2] in PROJECTOR_LISTS:
            projectors.append(name)
        elif isinstance(module, nn.Linear) and name.startswith(prefix) and last not in _ROUTERS:
            own = name.removeprefix(prefix)
            if not _SIGHT.search(own) and module is not model.get_output_embeddings():
                targets.append(name)
    if not targets or (config.train_projector and not projectors):
        what = "linear projection in its language model" if not targets else "projector"
        parts = ", ".join(dict.fromkeys(name for name, _ in model.named_modules() if 0 < len(name.split(".")) <= 2))
        raise UserError(
            f"align: no {what} was found in {type(model).__name__}, which has {parts}; wanted one of the names "
            f"{', '.join(PROJECTORS + PROJECTOR_LISTS)}, or lora_rank=0 or train_projector=False."
        )
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=targets,
        modules_to_save=projectors if config.train_projector else None,
    )


def written(answers: Answers, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """Pairs as the loss reads them: (2 × pairs, width), the chosen answers first.

    Raises:
        UserError: on an image that cannot be read, and where a row has no answer in it.
    """
    images = [[as_picture(one) for one in pair.images] for pair in pairs]
    prompts = [pair.prompt for pair in pairs]
    said = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    batch = answers.batch([*images, *images], [*prompts, *prompts], said)
    answered = (batch["completion_mask"] * batch["attention_mask"]).sum(-1)
    if not bool((answered > 0).all()):
        which = pairs[int(answered.argmin()) % len(pairs)].id
        raise UserError(f"align: pair {which!r} has an answer without a token, of which nothing can be learned.")
    return batch


def check_scores(trainer: Any) -> None:
    """See that the trainer's loss reads the scores that the model itself gives; it computes them by a way of its own.

    Raises:
        UserError: where they differ, as in families that change the scores behind the last layer.
    """
    batch = written(trainer.answers, trainer.pairs[:1])
    mask = batch.pop("completion_mask")
    labels = batch["input_ids"].masked_fill(mask == 0, -100)
    with resting(trainer.model), trainer.accelerator.autocast():
        scores = trainer.model(**batch, use_cache=False).logits[:, :-1]
        try:
            read = trainer.model(**batch, use_cache=False, labels=labels, fused_lm_head=True).log_probs
        except (AttributeError, TypeError) as error:
            raise UserError(
                f"align: the trainer's loss cannot read {type(trainer.answers.model).__name__} ({error}); wanted a "
                "family that this version of TRL knows."
            ) from error
    scores = scores if scores.dtype == torch.float64 else scores.float()
    own = scores.log_softmax(-1).gather(-1, labels[:, 1:, None].clamp(min=0))[..., 0] * mask[:, 1:]
    furthest = float((own - read).abs().max())
    half = trainer.answers.dtype in (torch.float16, torch.bfloat16)
    if not furthest <= (0.25 if half else 1e-3):
        raise UserError(
            f"align: {type(trainer.answers.model).__name__} gives an answer's tokens other log-probabilities than the "
            f"trainer's loss reads (by up to {furthest:.3g}); wanted the same. This version of TRL cannot train the "
            "family."
        )


def _numbers(rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
    return {"rows": torch.tensor([row["row"] for row in rows])}


def _trained(model: Any) -> list[tuple[str, Tensor]]:
    return [(name, value) for name, value in model.named_parameters() if value.requires_grad]
