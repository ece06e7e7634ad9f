"""Random changes of grey levels, one table of 256 values a film.

How a film was exposed and processed goes with its class in most collections, because ill and healthy people
are X-rayed in different rooms. These changes give every film the look of another room.

In: a batch of uint8 films and a seeded generator. Out: a float batch in [0, 1] with other grey levels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pneumoscope.learning.chance import chosen, uniform
from pneumoscope.learning.config import AugmentationConfig

LEVELS = 256

TONE_KNOTS, TONE_SPREAD = 6, 0.5
"""Slopes of a random tone curve, and the standard deviation of their logarithm: slopes of 0.6 to 1.6 are
common, so that a curve differs from a straight line about as two manufacturers' defaults do."""


def expose(films: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Take another film's histogram, bend the tone curve, change gamma, contrast and brightness.

    Args:
        films: (B, S, S) uint8.
        config: how often and how much.
        generator: source of all randomness.

    Returns:
        (B, 1, S, S) float32 in [0, 1].
    """
    count = len(films)
    levels = films.flatten(1).long()
    histograms = _histograms(levels)
    table = torch.linspace(0, 1, LEVELS).repeat(count, 1)
    _exchange_histograms(table, histograms, config, generator)
    _bend(table, config, generator)
    table = table.pow(torch.exp(uniform(count, -config.gamma, config.gamma, generator)).unsqueeze(1))
    contrast = uniform(count, 1 - config.contrast, 1 + config.contrast, generator).unsqueeze(1)
    brightness = uniform(count, -config.brightness, config.brightness, generator).unsqueeze(1)
    mean = (histograms * table).sum(dim=1, keepdim=True)
    table = ((table - mean) * contrast + mean + brightness).clamp_(0.0, 1.0)
    return table.gather(1, levels).view(films.shape).unsqueeze(1)


def _histograms(levels: Tensor) -> Tensor:
    """(B, 256) shares of the grey levels of (B, P) films."""
    offsets = LEVELS * torch.arange(len(levels)).unsqueeze(1)
    counts = torch.bincount((levels + offsets).flatten(), minlength=LEVELS * len(levels))
    return counts.view(len(levels), LEVELS).float() / levels.shape[1]


def _exchange_histograms(
    table: Tensor, histograms: Tensor, config: AugmentationConfig, generator: Generator
) -> None:
    """Match some films, in part, to the histogram of another film of the batch, in place."""
    films = chosen(len(table), config.histogram_probability, generator)
    others = torch.randint(len(table), (len(films),), generator=generator)
    strength = uniform(len(films), 0.0, 1.0, generator).sqrt().unsqueeze(1)
    cumulated = histograms.cumsum(dim=1)
    # Rounding may leave the last value a little below 1; no level lies above the highest.
    matched = torch.searchsorted(cumulated[others], cumulated[films]).clamp_(max=LEVELS - 1)
    table[films] = table[films].lerp(matched / (LEVELS - 1), strength)


def _bend(table: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Send the grey levels of some films through a random rising curve from 0 to 1, in place."""
    films = chosen(len(table), config.tone_probability, generator)
    slopes = torch.exp(torch.randn(len(films), 1, TONE_KNOTS, generator=generator) * TONE_SPREAD)
    curve = F.interpolate(slopes, size=LEVELS, mode="linear")[:, 0].cumsum(dim=1)
    first, last = curve[:, :1], curve[:, -1:]
    curve = (curve - first) / (last - first)
    table[films] = curve.gather(1, (table[films] * (LEVELS - 1)).round().long())
