"""Visual Debias Decoding as a custom generation method of transformers.

    model.generate(**inputs, custom_generate=REPO, trust_remote_code=True, processor=processor, alpha=1.0)

transformers hands over everything that `generate` was given, except `custom_generate` and `trust_remote_code`.
Source: arXiv:2403.05262. Knows: that contract. Does not know: how it is done; the package `vdd` does it.
"""

from __future__ import annotations

from typing import Any

try:  # in a `try`, for transformers else names missing packages itself, and `vdd` on PyPI is another project
    from vdd import VDDLogitsProcessor
    from vdd import generate as debiased
except ImportError as error:
    raise ImportError(
        "this generation method needs visual-debias-decoding 0.1.0 or newer "
        "(pip install visual-debias-decoding; the project that PyPI calls `vdd` is another one)."
    ) from error

LOADING = ("cache_dir", "force_download", "local_files_only", "proxies", "repo_type", "revision", "token")
"""Arguments that told transformers where to find this file; no model knows them."""


def generate(model: Any, processor: Any = None, *, preset: str = "vdd", **kwargs: Any) -> Any:
    """Generate, and subtract at every step what the model would say without the image.

    Args:
        model: a vision-language model.
        processor: its multimodal processor. Without it only the image's own tokens are taken out of the prompt.
        preset: "vdd", "vcd", "icd", "m3id", "nolan" or "cutoff-only".
        **kwargs: settings of the method, such as alpha=1.0, beta=0.1, reference="none"; all else as in `generate`:
            the inputs, streamer, stop_strings with tokenizer, logits_processor, num_beams, assistant_model, …

    Returns:
        What `model.generate` returns without `custom_generate`.
    """
    for name in LOADING:
        kwargs.pop(name, None)
    if any(isinstance(given, VDDLogitsProcessor) for given in kwargs.get("logits_processor") or ()):
        return type(model).generate(model, **kwargs)  # a model loaded from beside this file has it for its `generate`
    return debiased(model, processor, preset=preset, **kwargs)
