"""Meaningless images: pixels noised, all zero or all one, in every layout that processors write.

Source: arXiv:2403.05262; noise and its schedule: arXiv:2311.16922.
Knows: pixel tensors and their grids. Does not know: token ids, models.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vdd.config import DebiasConfig


def noise(pixels: Tensor, step: int, *, seed: int) -> Tensor:
    """`pixels` after `step` steps of forward diffusion, same shape and dtype.

        √ᾱ_t · v + √(1−ᾱ_t) · ε,   ᾱ_t = Π_{s≤t} (1 − β_s),   β = σ(linspace(−6, 6, 1000)) · (0.005 − 1e-5) + 1e-5

    Every image gets the same ε, so that a row does not depend on its batch-mates.

    Args:
        pixels: (…, channels, height, width) preprocessed pixels of images or tiles, (images, patches, values), or
            (patches, values) of one image.
        step: t in 0 … 999.
        seed: of ε.

    Source: arXiv:2311.16922, on the preprocessed pixels as in the authors' code.
    """
    betas = torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64)) * (0.5e-2 - 1e-5) + 1e-5
    kept = torch.cumprod(1 - betas, dim=0)[step]
    drawn = torch.randn(
        pixels.shape[-2 if pixels.ndim == 3 else -3 :],
        generator=torch.Generator().manual_seed(seed),
        dtype=torch.float64,
    )
    return (kept.sqrt() * pixels.cpu().double() + (1 - kept).sqrt() * drawn).to(pixels.dtype).to(pixels.device)


def degraded(name: str, pixels: Tensor, inputs: Mapping[str, Tensor], config: DebiasConfig) -> Tensor:
    """One of the arguments that carry images, after the reference's change.

    Args:
        name: of the argument; sizes, grids and masks come back as they are.
        pixels: (images, …), (rows, images, …) or (patches of all images, values).
        inputs: all arguments, with the images' sizes and grids.
        config: the reference `noise`, `zero` or `one`. Tiles of zeros among others are padding and stay.
    """
    if "pixel_values" not in name:
        return pixels
    if config.reference == "zero":
        return torch.zeros_like(pixels)
    if config.reference == "noise" and pixels.ndim == 2:
        grid = inputs["video_grid_thw" if "video" in name else "image_grid_thw"]
        images = pixels.split(grid.prod(-1).tolist())
        return torch.cat([noise(image, config.noise_step, seed=config.seed) for image in images])
    if config.reference == "noise" and pixels.ndim == 4 and "image_sizes" in inputs:
        changed = pixels.clone()
        for image, (height, width) in zip(changed, inputs["image_sizes"].tolist(), strict=True):
            image[:, :height, :width] = noise(image[:, :height, :width], config.noise_step, seed=config.seed)
        return changed
    changed = (
        torch.ones_like(pixels) if config.reference == "one" else noise(pixels, config.noise_step, seed=config.seed)
    )
    if pixels.ndim <= 4:
        return changed
    padding = (pixels == 0).flatten(-3).all(-1)
    return changed.masked_fill(padding[..., None, None, None], 0)
