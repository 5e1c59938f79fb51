"""Opening a model by the name that the command line was given, quietly."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vdd.config import DebiasConfig
    from vdd.pipeline import LlavaPipeline

MODEL_HELP = 'Name on the Hub, a folder, or "toy" for the embedded model.'
EMBEDDED = "toy"


def open_pipeline(
    name: str,
    *,
    debias: DebiasConfig,
    device: str | None = None,
    dtype: str = "auto",
    quantize: str | None = None,
) -> LlavaPipeline:
    """The model called `name`, ready to answer; transformers' own progress bars and advice are left out."""
    from transformers.utils import logging

    from vdd.pipeline import LlavaPipeline, load

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if name == EMBEDDED:
        import torch

        from vdd import toy

        torch.set_num_threads(1)  # too small to gain from more; beside other work more cost it four times the time
        model, processor = toy.load()
    else:
        model, processor = load(name, device=device, dtype=dtype, quantize=quantize)
    settings = {key: getattr(debias, key) for key in debias.__dataclass_fields__}
    return LlavaPipeline(model, processor, **settings)
