"""`vdd align`: train a model on preference pairs, so that it says what it sees rather than what is usual."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vdd.cli.models import EMBEDDED
from vdd.cli.options import Device, Dtype, Model

if TYPE_CHECKING:
    from vdd.preference.alignment import AlignConfig


def align(
    pairs: Annotated[Path, typer.Option(help="File of pairs (parquet or JSON lines), or the folder of `vdd prefer`.")],
    out: Annotated[Path, typer.Option(help="Folder for what is trained; a killed training goes on in it.")],
    images: Annotated[
        Path | None, typer.Option(help="Folder of the images that the pairs name; by default the file's.")
    ] = None,
    model: Model = EMBEDDED,
    method: Annotated[
        str,
        typer.Option(
            help="dpo: the pairs as they came. online-dpo: sampled anew from the model as it is. mixed-dpo: either. "
            "sft: the chosen answers alone, as a control."
        ),
    ] = "dpo",
    beta: Annotated[float, typer.Option(help="What distance from the model before costs, above 0.")] = 0.1,
    sft_weight: Annotated[
        float, typer.Option(help="Weight of a supervised term on the chosen answers beside DPO's loss, from 0 on.")
    ] = 0.0,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, above 0.")] = 5e-6,
    epochs: Annotated[float, typer.Option(help="Passes over the pairs.")] = 3.0,
    max_steps: Annotated[int | None, typer.Option(help="Updates, instead of epochs.")] = None,
    batch_size: Annotated[int, typer.Option(help="Pairs a forward.")] = 8,
    gradient_accumulation: Annotated[int, typer.Option(help="Forwards an update.")] = 1,
    schedule: Annotated[str, typer.Option(help="Of the learning rate: linear, cosine or constant.")] = "linear",
    warmup: Annotated[float, typer.Option(help="Share of the updates in which the learning rate rises.")] = 0.0,
    lora_rank: Annotated[int, typer.Option(help="Of the adapters; 0 trains every weight.")] = 128,
    lora_alpha: Annotated[int, typer.Option(help="Of the adapters.")] = 256,
    train_projector: Annotated[
        bool, typer.Option(help="Also train the part between the vision tower and the language model.")
    ] = True,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory for more time.")
    ] = False,
    mix: Annotated[
        float, typer.Option(help="mixed-dpo: probability of the pair as it came; 1 is dpo, 0 is online-dpo.")
    ] = 0.5,
    fresh: Annotated[
        str,
        typer.Option(
            help="Fresh pairs: bdhs, by the model's own bias; ranked, two samples ranked by the grounding reward."
        ),
    ] = "bdhs",
    rho: Annotated[float, typer.Option(help="Of bdhs, as for `vdd prefer`.")] = 0.99,
    epsilon: Annotated[float | None, typer.Option(help="Of bdhs, as for `vdd prefer`.")] = None,
    iterations: Annotated[int, typer.Option(help="Of bdhs, as for `vdd prefer`.")] = 5,
    variant: Annotated[str, typer.Option(help="Of bdhs: attention, noise or unguided.")] = "attention",
    embedder: Annotated[
        str | None, typer.Option(help="Of bdhs: similarity by this sentence-transformers model (extra `embed`).")
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of fresh answers.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Of fresh answers: nucleus, above 0 to 1.")] = 0.95,
    max_new_tokens: Annotated[int, typer.Option(help="Length of a fresh answer at most.")] = 64,
    save_steps: Annotated[int, typer.Option(help="Updates between checkpoints.")] = 100,
    merged: Annotated[
        bool, typer.Option("--merged", help="Also write OUT/merged, a model that any command takes by --model.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 0,
    limit: Annotated[int | None, typer.Option(help="Only the first so many pairs.")] = None,
    device: Device = None,
    dtype: Dtype = "auto",
) -> None:
    """Train a model on preference pairs by DPO, offline, online or mixed, with TRL and PEFT (extra `train`)."""
    from vdd._check import whole
    from vdd.preference.alignment import AlignConfig
    from vdd.preference.dataset import read_pairs
    from vdd.preference.train import check_installed
    from vdd.run_folder import refuse_foreign

    given: dict[str, Any] = {
        "method": method,
        "beta": beta,
        "sft_weight": sft_weight,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_size": batch_size,
        "gradient_accumulation": gradient_accumulation,
        "schedule": schedule,
        "warmup": warmup,
        "lora_rank": lora_rank,
        "lora_alpha": lora_alpha,
        "train_projector": train_projector,
        "gradient_checkpointing": gradient_checkpointing,
        "mix": mix,
        "fresh": fresh,
        "rho": rho,
        "epsilon": epsilon,
        "iterations": iterations,
        "variant": variant,
        "temperature": temperature,
        "top_p": top_p,
        "max_new_tokens": max_new_tokens,
        "save_steps": save_steps,
        "seed": seed,
    }
    config = AlignConfig.from_json(given)
    if limit is not None:
        whole("align", "limit", limit, low=1)
    check_installed()
    refuse_foreign(out)
    taken = read_pairs(pairs, images)[:limit]
    from vdd.cli.models import open_pipeline
    from vdd.cli.show import notes, progress
    from vdd.config import DebiasConfig
    from vdd.preference.similarity import Embedder
    from vdd.preference.train import align as trained

    measure = None if embedder is None else Embedder(embedder)
    with notes.status("loading the model"):
        opened = open_pipeline(model, debias=DebiasConfig(), device=device, dtype=dtype)
    with progress("updates") as advance:
        trained(
            opened.model,
            opened.processor,
            taken,
            out,
            config,
            progress=advance,
            measure=measure,
            save_merged=merged,
        )
    _show(out, config)


def _show(out: Path, config: AlignConfig) -> None:
    """What came of it, from the folder alone."""
    import json

    from vdd.cli.show import say, show_table
    from vdd.plots import can_chart
    from vdd.plots_training import training_curves
    from vdd.preference.watch import read_curves

    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    names = {
        "loss": "loss",
        "margin": "margin between chosen and rejected",
        "accuracy": "share of pairs with the chosen above",
        "reward_chosen": "reward of the chosen",
        "reward_rejected": "reward of the rejected",
    }
    rows = [[told, *(f"{summary[when][name]:.4f}" for when in ("first", "last"))] for name, told in names.items()]
    title = f"{config.method}: {summary['updates']} updates on {summary['pairs']} pairs"
    show_table(title, ["figure", "first update", "last update"], rows)
    if summary["fresh_of_asked"] is not None:
        say(f"{100 * summary['fresh_of_asked']:.0f} % of the pairs that were to be fresh could be sampled")
    if summary["left_out"]:
        say(f"{summary['left_out']} pairs were left out, with the reasons: {out / 'left_out.jsonl'}")
    if can_chart():
        training_curves(title, read_curves(out / "curves.jsonl"), out / "curves.png")
        say(f"figure:   {out / 'curves.png'}")
    else:
        say("for the chart of the curves: pip install 'visual-debias-decoding[plot]'")
    kept = next(out / name for name in ("adapter", "model") if (out / name).is_dir())
    say(f"trained:  {kept}")
    if (out / "merged").is_dir():
        say(f"as one model, for --model: {out / 'merged'}")
