"""`vdd app`: a page to look at, on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from vdd.cli.models import EMBEDDED, MODEL_HELP


def app_page(
    model: Annotated[str, typer.Option(help=MODEL_HELP)] = EMBEDDED,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 7860,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, mps, or auto to spread the model.")] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    quantize: Annotated[str | None, typer.Option(help="4bit or 8bit (extra `bnb`).")] = None,
) -> None:
    """Show plain, debiased and post-hoc answers side by side in a browser (extra `app`)."""
    from vdd.app.server import is_own, serve
    from vdd.cli.models import open_pipeline
    from vdd.cli.show import notes, say
    from vdd.config import DebiasConfig
    from vdd.pipeline import Pipeline

    def opener(name: str) -> Pipeline:
        embedded = name == EMBEDDED
        return open_pipeline(
            name,
            debias=DebiasConfig(),
            device="cpu" if embedded and device == "auto" else device,
            dtype=dtype,
            quantize=None if embedded else quantize,
        )

    with notes.status(f"opening {model}"):
        served = serve(opener, model, host=host, port=port)
    if not is_own(host):
        say(
            f"warning: {host} lets everybody in who can reach this machine, without a password. They can ask {model} "
            "and upload images; they cannot open other models."
        )
    say(f"{served.url} (Ctrl-C ends it)")
    try:
        served.wait()
    finally:
        served.close()
