"""Opening a model by the name that the command line was given, quietly."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vdd._check import UserError, choice

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
    import torch
    from transformers.utils import logging

    from vdd import toy
    from vdd.config import to_json
    from vdd.loading import DTYPES, QUANTIZED, check_device, load
    from vdd.pipeline import LlavaPipeline

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    choice("load", "dtype", dtype, DTYPES)
    check_device(device)
    if quantize is not None:
        choice("load", "quantize", quantize, QUANTIZED)
    if name != EMBEDDED:
        model, processor = load(name, device=device, dtype=dtype, quantize=quantize)
    elif quantize is not None or device == "auto":
        raise UserError("load: the embedded model is neither quantised nor spread; leave --quantize and auto out.")
    else:
        torch.set_num_threads(1)  # too small to gain from more; beside other work more cost it four times the time
        precision = torch.float32 if dtype == "auto" else getattr(torch, dtype)
        model, processor = toy.load(dtype=precision, device=device or "cpu")
    return LlavaPipeline(model, processor, **to_json(debias))
