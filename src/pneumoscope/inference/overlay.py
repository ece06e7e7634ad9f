"""Heat map overlay: a heat map blended over its image in colour, or drawn as contour lines. Arrays only."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import FloatArray

RGB = npt.NDArray[np.uint8]

OPACITY = 0.6
"""Opacity of the strongest evidence; the image's structure stays visible under it."""

LEVELS = (0.25, 0.5, 0.75)
"""Strengths that contour lines follow."""

LINE = 1 / 250
"""Width of a contour line as a share of the image's shorter side; at least 1.5 pixels."""

# Every sixteenth of "plasma", a perceptually uniform map by S. van der Walt and N. Smith, CC0
# (https://bids.github.io/colormap). It never passes through grey, so colour always means evidence.
_PLASMA = np.array(
    [
        (13, 8, 135), (49, 5, 151), (76, 2, 161), (102, 0, 167), (126, 3, 168), (149, 17, 161),
        (170, 35, 149), (188, 53, 135), (204, 71, 120), (217, 88, 106), (229, 107, 93), (240, 127, 79),
        (248, 148, 65), (253, 171, 51), (253, 195, 40), (249, 221, 37), (240, 249, 33),
    ],
    np.float32,
)  # fmt: skip


def colours(strength: npt.NDArray[np.float32]) -> FloatArray:
    """Colours (..., 3), float32 from 0 to 255, of strengths in [0, 1]; linear between control points."""
    position = np.clip(strength, 0, 1) * (len(_PLASMA) - 1)
    lower = np.minimum(position.astype(np.intp), len(_PLASMA) - 2)
    share = (position - lower)[..., None].astype(np.float32)
    return np.asarray(_PLASMA[lower] * (1 - share) + _PLASMA[lower + 1] * share)


def overlay(image: npt.NDArray[Any], heat_map: FloatArray) -> RGB:
    """The image in grey with the heat map blended over it; opacity grows with strength.

    Args:
        image: (h, w), float32 in [0, 1] or uint8; a smaller one is enlarged to the heat map's grid.
        heat_map: (H, W) float32 in [0, 1], on the original pixel grid.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: the two differ in proportion, so they are not of one image.
    """
    film = _on_grid(image, heat_map.shape) * np.float32(255)
    alpha = heat_map * np.float32(OPACITY)
    shades = colours(np.linspace(0, 1, 256, dtype=np.float32))
    shade = np.rint(heat_map * np.float32(255)).astype(np.uint8)
    film *= 1 - alpha
    picture = np.empty((*heat_map.shape, 3), np.uint8)
    for channel in range(3):  # one at a time: 2,000 x 2,000 pixels as float RGB are 48 MB
        picture[..., channel] = np.rint(film + shades[shade, channel] * alpha)
    return picture


def contour(image: npt.NDArray[Any], heat_map: FloatArray) -> RGB:
    """The image in grey with lines, in the scale's colours, where the strength passes :data:`LEVELS`.

    A pixel's distance from a line is, to first order, the difference to the level over the map's slope; so
    the lines have smooth edges and the same width everywhere. A dark rim shows them on dense parts.

    Args, Returns, Raises: as :func:`overlay`.
    """
    slope = np.maximum(np.hypot(*np.gradient(heat_map)), np.float32(1e-6))
    half = max(1.5, min(heat_map.shape) * LINE) / 2
    picture = np.repeat(grey(image, heat_map.shape)[..., None], 3, axis=2)
    for level, shade in zip(LEVELS, colours(np.array(LEVELS, np.float32)), strict=True):
        distance = np.abs(heat_map - np.float32(level)) / slope
        near = np.flatnonzero(distance.ravel() < 2 * half + 0.5)
        beside = distance.ravel()[near, None]
        pixels = picture.reshape(-1, 3)[near].astype(np.float32)
        pixels *= 1 - 0.7 * np.clip(2 * half + 0.5 - beside, 0, 1)
        cover = np.clip(half + 0.5 - beside, 0, 1)
        picture.reshape(-1, 3)[near] = np.rint(pixels * (1 - cover) + shade * cover)
    return picture


def grey(image: npt.NDArray[Any], size: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """(H, W) uint8: ``image``, as in :func:`overlay`, on a grid of ``size``."""
    pixels: npt.NDArray[np.uint8] = np.rint(_on_grid(image, size) * np.float32(255)).astype(np.uint8)
    return pixels


def _on_grid(image: npt.NDArray[Any], size: tuple[int, ...]) -> FloatArray:
    """(H, W) float32 in [0, 1]."""
    from PIL import Image

    pixels = image / np.float32(255) if image.dtype == np.uint8 else image
    if pixels.shape == size:
        return np.asarray(pixels, np.float32)
    (h, w), (rows, columns) = pixels.shape, size
    if abs(h * columns - w * rows) > max(rows, columns, h, w):  # more than rounding to whole pixels
        raise ValueError(f"heat map {tuple(size)}, image {image.shape}")
    return np.asarray(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.BILINEAR))
