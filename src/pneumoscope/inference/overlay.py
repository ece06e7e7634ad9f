"""A heat map on its film: laid over it in colour, or as contour lines.

In: a radiograph and its explanation. Out: RGB pixels on the film's original grid.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import Explanation, FloatArray, Radiograph

RGB = npt.NDArray[np.uint8]

OPACITY = 0.6
"""Opacity of the strongest evidence; the film's structure stays visible under it."""

LEVELS = (0.25, 0.5, 0.75)
"""Strengths that contour lines follow."""

LINE = 1 / 250
"""Width of a contour line as a share of the film's shorter side; at least 1.5 pixels."""

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


def overlay(radiograph: Radiograph, explanation: Explanation, target: str | None = None) -> RGB:
    """The film in grey with the heat map over it; opacity grows with strength, no evidence leaves it bare.

    Args:
        radiograph: the film; when it was decoded at reduced size it is enlarged to its original grid.
        explanation: its heat maps, (H, W) on the original grid.
        target: the class whose map is shown; None is the likelier one.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: the heat map belongs to a film of another size, or there is none of that class.
    """
    heat = _map_of(radiograph, explanation, target)
    film = _on_original_grid(radiograph) * np.float32(255)
    alpha = heat * np.float32(OPACITY)
    shades = colours(np.linspace(0, 1, 256, dtype=np.float32))
    shade = np.rint(heat * np.float32(255)).astype(np.uint8)
    film *= 1 - alpha
    picture = np.empty((*heat.shape, 3), np.uint8)
    for channel in range(3):  # one at a time: a film of 2,000 x 2,000 as float RGB is 48 MB
        picture[..., channel] = np.rint(film + shades[shade, channel] * alpha)
    return picture


def contour(radiograph: Radiograph, explanation: Explanation, target: str | None = None) -> RGB:
    """The film in grey with lines, in the scale's colours, where the strength passes :data:`LEVELS`.

    A pixel's distance from a line is, to first order, the difference to the level over the map's slope; so
    the lines have smooth edges and the same width everywhere. A dark rim shows them on dense parts.

    Args, Returns, Raises: as :func:`overlay`.
    """
    heat = _map_of(radiograph, explanation, target)
    slope = np.maximum(np.hypot(*np.gradient(heat)), np.float32(1e-6))
    half = max(1.5, min(heat.shape) * LINE) / 2
    picture = np.repeat(grey(radiograph)[..., None], 3, axis=2)
    for level, shade in zip(LEVELS, colours(np.array(LEVELS, np.float32)), strict=True):
        distance = np.abs(heat - np.float32(level)) / slope
        near = np.flatnonzero(distance.ravel() < 2 * half + 0.5)
        beside = distance.ravel()[near, None]
        pixels = picture.reshape(-1, 3)[near].astype(np.float32)
        pixels *= 1 - 0.7 * np.clip(2 * half + 0.5 - beside, 0, 1)
        cover = np.clip(half + 0.5 - beside, 0, 1)
        picture.reshape(-1, 3)[near] = np.rint(pixels * (1 - cover) + shade * cover)
    return picture


def grey(radiograph: Radiograph) -> npt.NDArray[np.uint8]:
    """(H, W) uint8, the film on its original grid."""
    pixels: npt.NDArray[np.uint8] = np.rint(_on_original_grid(radiograph) * np.float32(255)).astype(np.uint8)
    return pixels


def _map_of(radiograph: Radiograph, explanation: Explanation, target: str | None) -> FloatArray:
    if target is not None and target not in explanation.heat_maps:
        raise ValueError(f"no heat map of '{target}', only of {', '.join(explanation.heat_maps)}")
    heat = explanation.heat_map if target is None else explanation.heat_maps[target]
    if heat.shape != radiograph.original_size:
        raise ValueError(f"heat map {heat.shape}, film {radiograph.original_size}")
    return heat


def _on_original_grid(radiograph: Radiograph) -> FloatArray:
    from PIL import Image

    if radiograph.pixels.shape == radiograph.original_size:
        return radiograph.pixels
    rows, columns = radiograph.original_size
    image = Image.fromarray(radiograph.pixels).resize((columns, rows), Image.Resampling.BILINEAR)
    return np.asarray(image)
