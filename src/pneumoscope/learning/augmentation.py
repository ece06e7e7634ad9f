"""Random changes of training images, on whole batches at once: position, exposure, sharpness, surroundings.

A network must not lean on what goes with the class in one collection and not in another: exposure and
processing (ill and healthy people are X-rayed in different rooms), sharpness (healthy images often come from
larger originals; sharpness and noise alone tell the classes of the Guangzhou images apart with an AUC of
0.95), collimation, markers, cables, the child's age and the position of its arms. Batched tensor operations
on small images cost a few per cent of a training step; per-image augmentation costs more than the step. All
randomness comes from a seeded generator.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from pneumoscope.learning.config import AugmentationConfig, MixingConfig

LEVELS = 256

TONE_KNOTS, TONE_SPREAD = 6, 0.5
"""Slopes of a random tone curve, and the standard deviation of their logarithm: slopes of 0.6 to 1.6 are
common, so that a curve differs from a straight line about as two manufacturers' defaults do."""

SHARPEST, BLUREST = -1.2, 1.0
"""How far an image moves towards its blurred copy; below 0 it moves away, which sharpens."""

PLAIN_SHARE, PLAIN_BRIGHTEST = 0.3, 0.6
"""Share of new surroundings that are plain grey, and their brightest grey: from black to a blanket."""

SMALLEST_CHEST, LARGEST_CHEST = 0.62, 0.88
"""Half axes of what is kept, as a share of half the side: about the lungs, and nearly the whole image."""

SHIFT = 0.1
"""Largest shift of its centre, as a share of half the side."""

SQUARENESS, STEEPNESS = 3.0, 8.0
"""Exponent of the superellipse (2: ellipse; lungs fill more of their box), and how sharp its edge is."""


def to_unit(films: Tensor) -> Tensor:
    """(B, S, S) uint8 to (B, 1, S, S) float32 in [0, 1]."""
    return films.unsqueeze(1).float().div_(255.0)


def augment(
    films: Tensor, config: AugmentationConfig, generator: Generator, size: int | None = None
) -> Tensor:
    """Change each image at random.

    Args:
        films: (B, C, C) uint8.
        config: the ranges.
        generator: source of all randomness, so that a batch can be repeated.
        size: side S of the model input, which lies in the middle of the images; None is C.

    Returns:
        (B, 1, S, S) float32 in [0, 1].
    """
    size = size or films.shape[-1]
    if not config.enabled:
        first = (films.shape[-1] - size) // 2
        return to_unit(films[:, first : first + size, first : first + size])
    batch = expose(films, config, generator)
    soften(batch, config, generator)
    batch = move(batch, size, config, generator)
    change_sharpness(batch, config, generator)
    add_noise(batch, config, generator)
    exchange_backgrounds(batch, config, generator)
    erase(batch, config, generator)
    blank_borders(batch, config, generator)
    return batch.clamp_(0.0, 1.0)


def uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    """(count,) float32, uniform in [low, high)."""
    return torch.rand(count, generator=generator) * (high - low) + low


def chosen(count: int, probability: float, generator: Generator) -> Tensor:
    """Indices of the images that a change with this probability falls on."""
    return torch.nonzero(torch.rand(count, generator=generator) < probability).flatten()


def expose(films: Tensor, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Take another image's histogram, bend the tone curve, change gamma, contrast and brightness.

    (B, S, S) uint8 to (B, 1, S, S) float32 in [0, 1], through one table of 256 values an image.
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
    """(B, 256) shares of the grey levels of (B, P) images."""
    offsets = LEVELS * torch.arange(len(levels)).unsqueeze(1)
    counts = torch.bincount((levels + offsets).flatten(), minlength=LEVELS * len(levels))
    return counts.view(len(levels), LEVELS).float() / levels.shape[1]


def _exchange_histograms(
    table: Tensor, histograms: Tensor, config: AugmentationConfig, generator: Generator
) -> None:
    """Match some images, in part, to the histogram of another image of the batch, in place."""
    films = chosen(len(table), config.histogram_probability, generator)
    others = torch.randint(len(table), (len(films),), generator=generator)
    strength = uniform(len(films), 0.0, 1.0, generator).sqrt().unsqueeze(1)
    cumulated = histograms.cumsum(dim=1)
    # Rounding may leave the last value a little below 1; no level lies above the highest.
    matched = torch.searchsorted(cumulated[others], cumulated[films]).clamp_(max=LEVELS - 1)
    table[films] = table[films].lerp(matched / (LEVELS - 1), strength)


def _bend(table: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Send the grey levels of some images through a random rising curve from 0 to 1, in place."""
    films = chosen(len(table), config.tone_probability, generator)
    slopes = torch.exp(torch.randn(len(films), 1, TONE_KNOTS, generator=generator) * TONE_SPREAD)
    curve = F.interpolate(slopes, size=LEVELS, mode="linear")[:, 0].cumsum(dim=1)
    first, last = curve[:, :1], curve[:, -1:]
    curve = (curve - first) / (last - first)
    table[films] = curve.gather(1, (table[films] * (LEVELS - 1)).round().long())


def move(batch: Tensor, size: int, config: AugmentationConfig, generator: Generator) -> Tensor:
    """Rotate, zoom, stretch, shear, shift and (when allowed) mirror the middle of images, in one step.

    So the crop moves on the image, and black comes in only where the image ends.

    Args:
        batch: (B, K, C, C).
        size: side S of the middle, in pixels; ranges that are shares of a side are shares of S.
        config: the ranges.
        generator: source of all randomness.

    Returns:
        (B, K, S, S).
    """
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
    grid = _affine_grid(matrix, size) * (size / batch.shape[-1])
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


def soften(batch: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Lose detail in some images, as a small or strongly compressed copy does: shrink and enlarge again."""
    side = batch.shape[-1]
    for film in chosen(len(batch), config.soften_probability, generator).tolist():
        share = float(uniform(1, config.soften_scale, 1.0, generator))
        small = F.interpolate(batch[film, None], size=max(2, round(side * share)), mode="area")
        batch[film] = F.interpolate(small, size=side, mode="bilinear")[0]


def change_sharpness(batch: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Blur or sharpen some images at a random scale (unsharp masking with either sign)."""
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
    """Add to each image a random stretch of the noise at a random strength."""
    side = batch.shape[-1]
    noise = _noise(side)
    starts = torch.randint(len(noise) - side * side, (len(batch),), generator=generator).tolist()
    deviations = uniform(len(batch), 0.0, config.noise, generator).tolist()
    for film, start, deviation in zip(batch, starts, deviations, strict=True):
        film.view(-1).add_(noise[start : start + side * side], alpha=deviation)


@cache
def _noise(side: int) -> Tensor:
    """White noise of unit variance for 64 images, drawn once: fresh noise would cost more than the rest."""
    return torch.randn(64 * side * side, generator=Generator().manual_seed(0))


def exchange_backgrounds(batch: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Put the chests of some images into the surroundings of others of the batch, or into plain grey."""
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
    """Fill a random rectangle of some images with a random grey (random erasing, Zhong et al., AAAI 2020)."""
    side = batch.shape[-1]
    for film in chosen(len(batch), config.erasing_probability, generator).tolist():
        area, shape, top, left, value = torch.rand(5, generator=generator).tolist()
        extent = side * math.sqrt(config.erasing_area * (0.1 + 0.9 * area))
        height = min(side, max(1, round(extent * math.exp(shape - 0.5))))
        width = min(side, max(1, round(extent / math.exp(shape - 0.5))))
        y, x = round(top * (side - height)), round(left * (side - width))
        batch[film, :, y : y + height, x : x + width] = value


def blank_borders(batch: Tensor, config: AugmentationConfig, generator: Generator) -> None:
    """Blank the borders of some images, as another collimation or another crop leaves them."""
    side = batch.shape[-1]
    for film in chosen(len(batch), config.border_probability, generator).tolist():
        widths = (torch.rand(4, generator=generator) * config.border_width * side).round().int().tolist()
        top, left, bottom, right = widths
        batch[film, :, :top] = 0.0
        batch[film, :, side - bottom :] = 0.0
        batch[film, :, :, :left] = 0.0
        batch[film, :, :, side - right :] = 0.0


def mix(films: Tensor, targets: Tensor, config: MixingConfig, generator: Generator) -> tuple[Tensor, Tensor]:
    """Blend a batch with itself in another order (mixup), or paste patches of one into the other (cutmix).

    Args:
        films: (B, 1, S, S) float32.
        targets: (B, K) class probabilities.
        config: how often each happens; a batch undergoes at most one of them.
        generator: source of all randomness.

    Returns:
        Images and targets of the same shapes; the given ones are left alone.

    Source: mixup, Zhang et al., ICLR 2018; cutmix, Yun et al., ICCV 2019.
    """
    chance, share = torch.rand(2, generator=generator).tolist()
    partners = torch.randperm(len(films), generator=generator)
    if chance < config.mixup_probability:
        share *= config.mixup_share
        return films.lerp(films[partners], share), targets.lerp(targets[partners], share)
    if chance < config.mixup_probability + config.cutmix_probability:
        return _cut(films, targets, partners, share, generator)
    return films, targets


def _cut(
    films: Tensor, targets: Tensor, partners: Tensor, share: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """A square of ``share`` of the area comes from the partner."""
    side = films.shape[-1]
    width = round(side * math.sqrt(share))
    top, left = torch.randint(side - width + 1, (2,), generator=generator).tolist()
    patch = (..., slice(top, top + width), slice(left, left + width))
    mixed = films.clone()
    mixed[patch] = films[partners][patch]
    return mixed, targets.lerp(targets[partners], width**2 / side**2)
