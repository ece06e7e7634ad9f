"""Random changes of sharpness and noise.

The healthy films of a collection often come from larger originals than the ill ones; after shrinking they
are sharper, and a network can read the class from that alone (sharpness and noise tell the classes of the
Guangzhou films apart with an AUC of 0.95). These changes take that away.

In: a float batch in [0, 1] and a seeded generator. Out: the batch, changed in place.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pneumoscope.learning.chance import chosen, uniform
from pneumoscope.learning.config import AugmentationConfig

SHARPEST, BLUREST = -1.2, 1.0
"""How far a film moves towards its blurred copy; below 0 it moves away, which sharpens."""


def soften(batch: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Lose detail in some films, as a small or strongly compressed copy does: shrink and enlarge again."""
    side = batch.shape[-1]
    for film in chosen(len(batch), config.soften_probability, generator).tolist():
        share = float(uniform(1, config.soften_scale, 1.0, generator))
        small = F.interpolate(batch[film, None], size=max(2, round(side * share)), mode="area")
        batch[film] = F.interpolate(small, size=side, mode="bilinear")[0]


def change_sharpness(batch: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Blur or sharpen some films at a random scale (unsharp masking with either sign)."""
    films = chosen(len(batch), config.sharpness_probability, generator)
    amount = uniform(len(films), SHARPEST, BLUREST, generator).view(-1, 1, 1, 1)
    scale = uniform(len(films), 0.0, 1.0, generator).view(-1, 1, 1, 1)
    before = batch[films]
    fine = _blurred(before)
    blurred = _blurred(_blurred(fine)).lerp(fine, scale)
    batch[films] = before.lerp(blurred, amount)


def _blurred(batch: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels."""
    return F.avg_pool2d(batch, 3, stride=1, padding=1, count_include_pad=False)


def add_noise(batch: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Add to each film a random stretch of the noise at a random strength."""
    side = batch.shape[-1]
    noise = _noise(side)
    starts = torch.randint(len(noise) - side * side, (len(batch),), generator=generator).tolist()
    deviations = uniform(len(batch), 0.0, config.noise, generator).tolist()
    for film, start, deviation in zip(batch, starts, deviations, strict=True):
        film.view(-1).add_(noise[start : start + side * side], alpha=deviation)


@cache
def _noise(side: int) -> Tensor:
    """White noise of unit variance for 64 films, drawn once: fresh noise would cost more than the rest."""
    return torch.randn(64 * side * side, generator=Generator().manual_seed(0))
