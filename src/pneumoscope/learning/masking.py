"""Random changes of what a network should not look at: surroundings, borders, any single place.

Collimation, markers, cables and the position of the arms go with the class as exposure does. A network that
finds the chest of one film in the surroundings of another has to look at the chest.

In: a float batch in [0, 1] and a seeded generator. Out: the batch, changed in place.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Generator, Tensor

from pneumoscope.learning.chance import chosen, uniform
from pneumoscope.learning.config import AugmentationConfig

PLAIN_SHARE, PLAIN_BRIGHTEST = 0.3, 0.6
"""Share of new surroundings that are plain grey, and their brightest grey: from black to a blanket."""

SMALLEST_CHEST, LARGEST_CHEST = 0.62, 0.88
"""Half axes of what is kept, as a share of half the side: about the lungs, and nearly the whole film."""

SHIFT = 0.1
"""Largest shift of its centre, as a share of half the side."""

SQUARENESS, STEEPNESS = 3.0, 8.0
"""Exponent of the superellipse (2: ellipse; lungs fill more of their box), and how sharp its edge is."""


def exchange_backgrounds(batch: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Put the chests of some films into the surroundings of other films of the batch, or into plain grey.

    Args:
        batch: (B, 1, S, S).
        config: how often.
        generator: source of all randomness.
    """
    films = chosen(len(batch), config.background_probability, generator)
    count = len(films)
    others = torch.randint(len(batch), (count,), generator=generator)
    grey = uniform(count, 0.0, PLAIN_BRIGHTEST, generator).view(-1, 1, 1, 1)
    plain = torch.rand(count, 1, 1, 1, generator=generator) < PLAIN_SHARE
    surroundings = torch.where(plain, grey, batch[others])
    batch[films] = surroundings.lerp(batch[films], _chests(count, batch.shape[-1], generator))


def _chests(count: int, side: int, generator: Generator) -> Tensor:
    """(B, 1, S, S) superellipses with soft edges, 1 inside, at random places and of random sizes."""
    axis = _axis(side)
    centres = uniform(2 * count, -SHIFT, SHIFT, generator).view(2, -1, 1, 1, 1)
    halves = uniform(2 * count, SMALLEST_CHEST, LARGEST_CHEST, generator).view(2, -1, 1, 1, 1)
    down = ((axis.view(-1, 1) - centres[0]) / halves[0]).abs() ** SQUARENESS
    across = ((axis - centres[1]) / halves[1]).abs() ** SQUARENESS
    return torch.sigmoid((1 - down - across) * STEEPNESS)


@cache
def _axis(side: int) -> Tensor:
    return torch.linspace(-1, 1, side)


def erase(batch: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Fill a random rectangle of some films with a random grey (random erasing, Zhong et al., AAAI 2020)."""
    side = batch.shape[-1]
    for film in chosen(len(batch), config.erasing_probability, generator).tolist():
        area, shape, top, left, value = torch.rand(5, generator=generator).tolist()
        extent = side * math.sqrt(config.erasing_area * (0.1 + 0.9 * area))
        height = min(side, max(1, round(extent * math.exp(shape - 0.5))))
        width = min(side, max(1, round(extent / math.exp(shape - 0.5))))
        y, x = round(top * (side - height)), round(left * (side - width))
        batch[film, :, y : y + height, x : x + width] = value


def blank_borders(batch: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Blank the borders of some films, as another collimation or another crop leaves them."""
    side = batch.shape[-1]
    for film in chosen(len(batch), config.border_probability, generator).tolist():
        widths = (torch.rand(4, generator=generator) * config.border_width * side).round().int().tolist()
        top, left, bottom, right = widths
        batch[film, :, :top] = 0.0
        batch[film, :, side - bottom :] = 0.0
        batch[film, :, :, :left] = 0.0
        batch[film, :, :, side - right :] = 0.0
