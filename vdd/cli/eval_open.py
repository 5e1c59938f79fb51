"""`vdd eval open`: free answers, plain and debiased, for `vdd score chair`, `amber` and `llava-bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vdd.cli import options
from vdd.cli.models import EMBEDDED


def open_(
    questions: Annotated[
        Path, typer.Option(help="JSON lines with question_id, image and text, as LLaVA-Bench has them.")
    ],
    images: options.Images,
    out: options.Out,
    model: options.Model = EMBEDDED,
    alpha: options.Alpha = None,
    beta: options.Beta = None,
    method: options.Methods = None,
    custom_generate: options.CustomGenerate = None,
    trust_remote_code: options.TrustRemoteCode = False,
    config: options.Config = None,
    repeats: options.Repeats = 1,
    prompt: options.Prompt = "{question}",
    batch_size: options.BatchSize = 16,
    share_images: options.ShareImages = True,
    strategy: options.Strategy = "skip",
    max_new_tokens: options.MaxNewTokens = 512,
    limit: options.Limit = None,
    seed: options.Seed = 0,
    device: options.Device = None,
    dtype: options.Dtype = "auto",
    quantize: options.Quantize = None,
) -> None:
    """Captions and other free answers in every leg that generates, a file each, to be scored by `vdd score`."""
    from vdd._check import whole
    from vdd.data import load_questions

    if limit is not None:
        whole("eval", "limit", limit, low=1)
    asked = load_questions(questions)[:limit]
    options.check_images(images)
    asking = options.Asking(
        model=model,
        out=out,
        images=images,
        alpha=alpha,
        beta=beta,
        methods=method or (),
        custom_generate=custom_generate or (),
        trust_remote_code=trust_remote_code,
        config=config,
        repeats=repeats,
        prompt=prompt,
        batch_size=batch_size,
        share_images=share_images,
        strategy=strategy,
        max_new_tokens=max_new_tokens,
        seed=seed,
        device=device,
        dtype=dtype,
        quantize=quantize,
        labels=(),
    )
    asking.check()
    _, workers = asking.answer(asked, [])
    if not workers.is_first:
        return
    from vdd.cli.show import say, show_table
    from vdd.run_folder import leg_costs

    costs = leg_costs(out)
    legs = [(path.stem, *costs.get(path.stem, (0.0, 0.0))) for path in sorted((out / "answers").glob("*.jsonl"))]
    rows = [[name, f"{forwards:.2f}", f"{1000 * seconds:.1f}"] for name, forwards, seconds in legs]
    show_table(str(questions), ("leg", "fwd", "ms"), rows)
    say(f"answers, to be scored by `vdd score chair`, `amber` or `llava-bench`: {out / 'answers'}")
