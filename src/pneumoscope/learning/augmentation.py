"""Random changes of training films, on whole batches at once.

In: a batch of uint8 films and a seeded generator. Out: a float batch in [0, 1] in which position, exposure
and borders differ from those of the films, so that a network cannot lean on them. Batched tensor operations
on small films cost a few per cent of a training step; per-image augmentation costs more than the step.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pneumoscope.learning.config import AugmentationConfig

__all__ = ["augment", "to_unit"]


def to_unit(films: Tensor) -> Tensor:
    """(B, S, S) uint8 to (B, 1, S, S) float32 in [0, 1]."""
    return films.unsqueeze(1).float().div_(255.0)


def augment(films: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Change each film at random.

    Args:
        films: (B, S, S) uint8.
        config: the ranges.
        generator: source of all randomness, so that a batch can be repeated.

    Returns:
        (B, 1, S, S) float32 in [0, 1].
    """
    if not config.enabled:
        return to_unit(films)
    batch = _soften_some(_expose(films, config, generator), config, generator)
    batch = _move(batch, config, generator)
    _add_noise(batch, config, generator)
    _blank(batch, config, generator)
    return batch.clamp_(0.0, 1.0)


def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def _chosen(count: int, probability: float, generator: Generator) -> Tensor:
    """Indices of the films that a change with this probability falls on."""
    return torch.nonzero(torch.rand(count, generator=generator) < probability).flatten()


def _move(batch: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Rotate, zoom, stretch, shear, shift and (when allowed) mirror in one interpolation."""
    count = len(batch)
    angle = _uniform(count, -config.rotation_degrees, config.rotation_degrees, generator) * (math.pi / 180)
    shear = torch.tan(
        _uniform(count, -config.shear_degrees, config.shear_degrees, generator) * (math.pi / 180)
    )
    zoom = 1 / _uniform(count, 1 - config.scale, 1 + config.scale, generator)
    stretch = _uniform(count, 1 - config.aspect, 1 + config.aspect, generator).sqrt()
    shift = _uniform(2 * count, -2 * config.translation, 2 * config.translation, generator).view(count, 2)
    mirror = torch.ones(count)
    if config.horizontal_flip:
        mirror[_chosen(count, 0.5, generator)] = -1.0
    cos, sin = torch.cos(angle), torch.sin(angle)
    matrix = torch.zeros(count, 2, 3)
    matrix[:, 0, 0] = cos * zoom * stretch * mirror
    matrix[:, 0, 1] = (cos * shear - sin) * zoom * stretch
    matrix[:, 1, 0] = sin * zoom / stretch * mirror
    matrix[:, 1, 1] = (sin * shear + cos) * zoom / stretch
    matrix[:, :, 2] = shift
    grid = _affine_grid(matrix, batch.shape[-1])
    return F.grid_sample(batch, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def _affine_grid(matrix: Tensor, side: int) -> Tensor:
    """(B, S, S, 2) sampling points of the (B, 2, 3) matrices, as ``affine_grid`` of torch gives them.

    An affine map is a sum of what the row gives and what the column gives. One addition of points that are
    held as complex numbers takes a thirtieth of the time of torch's product of matrices.
    """
    centres = (2 * torch.arange(side) + 1) / side - 1
    x = torch.view_as_complex(matrix[:, None, :, 0] * centres[:, None])
    y = torch.view_as_complex(matrix[:, None, :, 1] * centres[:, None] + matrix[:, None, :, 2])
    return torch.view_as_real(x[:, None, :] + y[:, :, None])


def _expose(films: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Change gamma, contrast round the film's mean and brightness, by a table of the 256 grey values."""
    count = len(films)
    grey = torch.linspace(0, 1, 256).expand(count, 256)
    exponent = torch.exp(_uniform(count, -config.gamma, config.gamma, generator)).unsqueeze(1)
    contrast = _uniform(count, 1 - config.contrast, 1 + config.contrast, generator).unsqueeze(1)
    brightness = _uniform(count, -config.brightness, config.brightness, generator).unsqueeze(1)
    centre = (films.flatten(1).float().mean(dim=1, keepdim=True) / 255).pow(exponent)
    table = ((grey.pow(exponent) - centre) * contrast + centre + brightness).clamp_(0.0, 1.0)
    return table.gather(1, films.flatten(1).long()).view(films.shape).unsqueeze(1)


def _soften_some(batch: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Lose detail in some films, as a small or strongly compressed copy does: shrink and enlarge again."""
    side = batch.shape[-1]
    for film in _chosen(len(batch), config.soften_probability, generator).tolist():
        share = float(_uniform(1, config.soften_scale, 1.0, generator))
        small = F.interpolate(batch[film, None], size=max(2, round(side * share)), mode="area")
        batch[film] = F.interpolate(small, size=side, mode="bilinear")[0]
    return batch


@cache
def _noise(side: int) -> Tensor:
    """White noise of unit variance for 64 films, drawn once: fresh noise would cost more than the rest."""
    return torch.randn(64 * side * side, generator=Generator().manual_seed(0))


def _add_noise(batch: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Add to each film, in place, a random stretch of the noise at a random strength."""
    side = batch.shape[-1]
    noise = _noise(side)
    starts = torch.randint(len(noise) - side * side, (len(batch),), generator=generator).tolist()
    deviations = _uniform(len(batch), 0.0, config.noise, generator).tolist()
    for film, start, deviation in zip(batch, starts, deviations, strict=True):
        film.view(-1).add_(noise[start : start + side * side], alpha=deviation)


def _blank(batch: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Erase a random rectangle (Zhong 2020) in some films and the border of others, in place."""
    side = batch.shape[-1]
    for film in _chosen(len(batch), config.erasing_probability, generator).tolist():
        area, shape, top, left, value = torch.rand(5, generator=generator).tolist()
        extent = side * math.sqrt(config.erasing_area * (0.1 + 0.9 * area))
        height = min(side, max(1, round(extent * math.exp(shape - 0.5))))
        width = min(side, max(1, round(extent / math.exp(shape - 0.5))))
        y, x = round(top * (side - height)), round(left * (side - width))
        batch[film, :, y : y + height, x : x + width] = value
    for film in _chosen(len(batch), config.border_probability, generator).tolist():
        widths = (torch.rand(4, generator=generator) * config.border_width * side).round().int().tolist()
        top, left, bottom, right = widths
        batch[film, :, :top] = 0.0
        batch[film, :, side - bottom :] = 0.0
        batch[film, :, :, :left] = 0.0
        batch[film, :, :, side - right :] = 0.0
