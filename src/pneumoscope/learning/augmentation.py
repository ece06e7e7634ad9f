"""Random changes of training films, on whole batches at once.

In: a batch of uint8 films and a seeded generator. Out: a float batch in [0, 1] in which position, exposure
and borders differ from those of the films, so that a network cannot lean on them. Batched tensor operations
on small films cost a few per cent of a training step; per-image augmentation costs more than the step.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pneumoscope.learning.chance import chosen, uniform
from pneumoscope.learning.config import AugmentationConfig
from pneumoscope.learning.grey_levels import expose
from pneumoscope.learning.lung_exchange import exchange_bodies, hide_lungs
from pneumoscope.learning.masking import blank_borders, erase, exchange_backgrounds
from pneumoscope.learning.texture import add_noise, change_sharpness, soften


def to_unit(films: Tensor) -> Tensor:
    """(B, S, S) uint8 to (B, 1, S, S) float32 in [0, 1]."""
    return films.unsqueeze(1).float().div_(255.0)


def augment(
    films: Tensor, config: AugmentationConfig, generator: Generator, lungs: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Change each film at random.

    Args:
        films: (B, S, S) uint8.
        config: the ranges.
        generator: source of all randomness, so that a batch can be repeated.
        lungs: (B, S, S) uint8, 1 in the lungs; needed where the configuration changes bodies or hides lungs.

    Returns:
        (B, 1, S, S) float32 in [0, 1], and (B,) bool: films whose lungs are hidden, which have no class.
    """
    hidden = torch.zeros(len(films), dtype=torch.bool)
    if not config.enabled:
        return to_unit(films), hidden
    batch = expose(films, config, generator)
    soften(batch, config, generator)
    if lungs is None:
        batch = move(batch, config, generator)
    else:
        moved = move(torch.cat([batch, lungs.unsqueeze(1).float()], dim=1), config, generator)
        batch, masks = moved[:, :1].contiguous(), moved[:, 1:].contiguous()
        exchange_bodies(batch, masks, config.body_probability, generator)
        hidden = hide_lungs(batch, masks, config.hidden_lungs_probability, generator)
    change_sharpness(batch, config, generator)
    add_noise(batch, config, generator)
    exchange_backgrounds(batch, config, generator)
    erase(batch, config, generator)
    blank_borders(batch, config, generator)
    return batch.clamp_(0.0, 1.0), hidden


def move(batch: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Rotate, zoom, stretch, shear, shift and (when allowed) mirror (B, C, S, S), in one interpolation."""
    count = len(batch)
    angle = uniform(count, -config.rotation_degrees, config.rotation_degrees, generator) * (math.pi / 180)
    shear = torch.tan(
        uniform(count, -config.shear_degrees, config.shear_degrees, generator) * (math.pi / 180)
    )
    zoom = 1 / uniform(count, 1 - config.scale, 1 + config.scale, generator)
    stretch = uniform(count, 1 - config.aspect, 1 + config.aspect, generator).sqrt()
    shift = uniform(2 * count, -2 * config.translation, 2 * config.translation, generator).view(count, 2)
    mirror = torch.ones(count)
    if config.horizontal_flip:
        mirror[chosen(count, 0.5, generator)] = -1.0
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
