"""Training a model on preference pairs, in a folder that a killed training goes on in.

    run.json            what is trained on what: another training's folder is refused
    curves.jsonl        one line an update
    left_out.jsonl      pairs that nothing can be learned from, with the reason
    checkpoints/        while it trains
    adapter/ or model/  what was trained: adapters, or with lora_rank 0 the whole model
    merged/             where asked for, a model that needs no PEFT
    summary.json        written last: it says that the training is done

Source: arXiv:2407.02477. Knows: TRL and PEFT where they are installed. Does not know: how pairs are made.
"""

from __future__ import annotations

import copy
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from vdd._check import UserError
from vdd.data import write_atomic
from vdd.images import Picture, as_picture
from vdd.preference.alignment import AlignConfig
from vdd.preference.answers import Answers
from vdd.preference.fresh import FromBias, Mixture, Ranked, Source
from vdd.preference.lent import borrowed, own_chance, quiet
from vdd.preference.pairs import Pair, Refused
from vdd.preference.similarity import Similarity
from vdd.preference.training_folder import claim, last_whole, save, told_apart
from vdd.run_folder import only_one, refuse_foreign

SUMMARY = "summary.json"
_NEEDED = ("trl", "peft", "datasets")


def align(
    model: Any,
    processor: Any,
    pairs: Sequence[Pair],
    out: Path,
    config: AlignConfig | None = None,
    *,
    progress: Callable[[int, int], object] | None = None,
    measure: Similarity | None = None,
    save_merged: bool = False,
) -> Any:
    """Train a model on pairs, or go on with a training that was killed, or load one that is done.

    Args:
        model: a vision-language model, not yet wrapped by PEFT; adapters are put onto it, with lora_rank 0 its own
            weights are trained. Where the training fails it is given back as it came.
        processor: its processor.
        pairs: what to train on.
        out: the training's folder, new or its own.
        config: settings; `AlignConfig()` by default.
        progress: called with (updates, in all).
        measure: tells fresh answers from the chosen ones; see `BDHS`.
        save_merged: whether to write `out/merged` as well, which `vdd.load` opens.

    Returns:
        The trained model in eval mode: a PeftModel, or with lora_rank 0 `model` itself (loaded anew where the training
        was done before).

    Raises:
        UserError: where TRL is missing, the family cannot be trained, no pair can be used, the folder is another's, or
            nothing is learned.
    """
    config = config or AlignConfig()
    out = Path(out)
    check_installed()
    refuse_foreign(out)
    _check_model(model, processor, config)
    answers = Answers(model, processor)
    usable, left_out = _usable(pairs, answers)
    claim(out, {**config.to_json(), "measure": measure.name if measure else "", **told_apart(model, pairs)})
    with only_one(out):
        lines = [json.dumps({"id": one.id, "reason": one.reason}, ensure_ascii=False) + "\n" for one in left_out]
        write_atomic(out / "left_out.jsonl", "".join(lines))
        if (out / SUMMARY).is_file():
            tuned = _loaded(model, out)
        else:
            source = _source(processor, config, measure)
            tuned = _trained(model, processor, usable, len(left_out), out, config, answers, source, progress)
        if save_merged and not (out / "merged").is_dir():
            whole = copy.deepcopy(tuned)
            save(out, "merged", whole.merge_and_unload() if config.lora_rank else whole, processor)
    return tuned


def check_installed() -> None:
    """Raise UserError where a package of the extra `train` is missing."""
    lacking = [name for name in _NEEDED if find_spec(name) is None]
    if lacking:
        raise UserError(
            f"align: training needs {', '.join(lacking)}, which is not installed; wanted the extra `train`: "
            "pip install 'visual-debias-decoding[train]'."
        )


def _check_model(model: Any, processor: Any, config: AlignConfig) -> None:
    from transformers import ProcessorMixin

    if not isinstance(processor, ProcessorMixin):
        raise UserError(
            f"align: the processor is {type(processor).__name__}; wanted transformers' own for {type(model).__name__}, "
            "which the trainer takes."
        )
    half = model.dtype in (torch.float16, torch.bfloat16)
    if hasattr(model, "peft_config"):
        raise UserError("align: the model has adapters already; wanted it without: model.merge_and_unload().")
    if not config.lora_rank and half:
        raise UserError(
            f"align: lora_rank is 0 and the weights are {model.dtype}, in which small steps are rounded away; wanted "
            "float32, or adapters."
        )
    if half and next(model.parameters()).device.type == "cpu":
        raise UserError(f"align: the weights are {model.dtype} on a CPU; wanted float32 there.")


def _usable(pairs: Sequence[Pair], answers: Answers) -> tuple[list[Pair], list[Refused]]:
    """The pairs that can be trained on, and the others; a picture that is broken should not end a night's training."""
    usable, left_out = list[Pair](), list[Refused]()
    whole = set[Picture]()
    for pair in pairs:
        try:
            if not pair.images:
                raise UserError("no image came with it")
            for picture in pair.images:
                if isinstance(picture, Image.Image) or picture not in whole:
                    as_picture(picture)
                if not isinstance(picture, Image.Image):
                    whole.add(picture)
            count = len(pair.images)
            chosen, rejected = (answers.tokens(pair.prompt, one, count) for one in (pair.chosen, pair.rejected))
            if chosen == rejected:
                raise UserError(f"both answers are {pair.chosen!r} to the tokenizer")
            usable.append(pair)
        except UserError as error:
            left_out.append(Refused(pair.id, str(error)))
    if not usable:
        first = f"the first: {left_out[0].id!r}, {left_out[0].reason}" if left_out else "none came"
        raise UserError(f"align: none of {len(pairs)} pairs can be trained on ({first}); wanted some.")
    return usable, left_out


def _source(processor: Any, config: AlignConfig, measure: Similarity | None) -> Source | None:
    if config.offline_share == 1:
        return None
    if config.fresh == "bdhs":
        return FromBias(processor, config, measure)
    return Ranked(processor, config)


def _trained(
    model: Any,
    processor: Any,
    pairs: Sequence[Pair],
    left_out: int,
    out: Path,
    config: AlignConfig,
    answers: Answers,
    source: Source | None,
    progress: Callable[[int, int], object] | None,
) -> Any:
    from transformers import PrinterCallback

    from vdd.preference.trainers import PairTrainer, adapters, check_scores
    from vdd.preference.watch import Watch, read_curves

    begun = time.perf_counter()
    mixture = Mixture(source, config.offline_share, config.seed)
    curves = out / "curves.jsonl"
    with quiet(), borrowed(model) as held, own_chance():
        whole = not config.lora_rank
        reference = copy.deepcopy(model).eval().requires_grad_(False) if whole else None
        held["reference"] = reference
        if isinstance(source, Ranked) and whole:
            mixture.source = Ranked(processor, config, copy.deepcopy(reference))
        trainer = PairTrainer(
            model,
            pairs,
            answers,
            mixture,
            ref_model=reference,
            args=_arguments(model, len(pairs), out, config),
            processing_class=processor,
            peft_config=None if whole else adapters(model, config),
        )
        held["policy"] = policy = trainer.accelerator.unwrap_model(trainer.model)
        for value in policy.parameters():
            if value.requires_grad and value.dtype in (torch.float16, torch.bfloat16):
                value.data = value.data.float()
        trainer.remove_callback(PrinterCallback)
        watch = Watch(curves, patience=config.patience, progress=progress, refusal=lambda: mixture.refusal)
        trainer.add_callback(watch)
        check_scores(trainer)
        trainer.train(resume_from_checkpoint=last_whole(out / "checkpoints"))
        tuned = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False).eval()
        tuned.zero_grad(set_to_none=True)
        if config.gradient_checkpointing:
            tuned.gradient_checkpointing_disable()
        for name, value in tuned.named_parameters():
            if value.requires_grad and "lora_" not in name:
                value.data = value.data.to(answers.dtype)
        save(out, "model" if whole else "adapter", tuned, processor if whole else None)
    records = read_curves(curves)
    asked = sum(one.get("asked", 0.0) for one in records)
    fresh = sum(one.get("fresh", 0.0) for one in records)
    summary = {
        "updates": int(records[-1]["step"]),
        "pairs": len(pairs),
        "left_out": left_out,
        "fresh_of_asked": fresh / asked if asked else None,
        "seconds": time.perf_counter() - begun,
        "first": records[0],
        "last": records[-1],
    }
    write_atomic(out / SUMMARY, json.dumps(summary, indent=1) + "\n")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return tuned


def _arguments(model: Any, count: int, out: Path, config: AlignConfig) -> Any:
    from trl import DPOConfig

    device = next(model.parameters()).device
    per_epoch = math.ceil(math.ceil(count / config.batch_size) / config.gradient_accumulation)
    updates = config.max_steps or math.ceil(config.epochs * per_epoch)
    return DPOConfig(
        output_dir=str(out / "checkpoints"),
        loss_type=["sft"] if config.method == "sft" else ["sigmoid", "sft"] if config.sft_weight else ["sigmoid"],
        loss_weights=[1.0, config.sft_weight] if config.method != "sft" and config.sft_weight else None,
        beta=config.beta,
        learning_rate=config.learning_rate,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation,
        lr_scheduler_type=config.schedule if config.schedule != "constant" else "constant_with_warmup",
        warmup_steps=math.ceil(config.warmup * updates),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        gradient_checkpointing=config.gradient_checkpointing,
        router_aux_loss_coef=0.0,  # else a mixture of experts has another loss
        max_length=None,  # else image tokens or, without a word, answers are cut
        disable_dropout=False,  # `borrowed` does it, and puts it back
        use_cpu=device.type == "cpu",
        bf16=model.dtype == torch.bfloat16,
        fp16=model.dtype == torch.float16,
        seed=config.seed,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,  # else a loss that is no number is written down as another
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        report_to="none",
    )


def _loaded(model: Any, out: Path) -> Any:
    """What a training that is done has made of the model."""
    if (out / "adapter").is_dir():
        from peft import PeftModel

        with quiet():
            return PeftModel.from_pretrained(model, out / "adapter").eval()
    loaded: Any = type(model).from_pretrained(out / "model", dtype=model.dtype, local_files_only=True)
    return loaded.to(next(model.parameters()).device).eval()
