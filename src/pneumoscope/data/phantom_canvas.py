"""Canvases in anatomical coordinates: what cannot be written as a formula is drawn here and sampled later.

In: a seed, or anatomical coordinates. Out: square fields that do not depend on the size of the film.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage

Field = npt.NDArray[np.floating]

CANVAS = 288
"""Side of a canvas in its own pixels."""
CANVAS_EXTENT = 1.1
"""A canvas covers -CANVAS_EXTENT to CANVAS_EXTENT on both anatomical axes."""


def canvas_grid() -> tuple[Field, Field]:
    """Anatomical x and y, each (CANVAS, CANVAS) float32, of a canvas's pixels."""
    axis = np.linspace(-CANVAS_EXTENT, CANVAS_EXTENT, CANVAS, dtype=np.float32)
    x, y = np.meshgrid(axis, axis)
    return x, y


def sample_canvas(canvas: Field, x: Field, y: Field) -> Field:
    """A canvas's values at anatomical coordinates, 0 outside it."""
    to_pixel = (CANVAS - 1) / 2
    where = [(y / CANVAS_EXTENT + 1) * to_pixel, (x / CANVAS_EXTENT + 1) * to_pixel]
    return ndimage.map_coordinates(canvas, where, order=1, mode="constant", output=np.float32)


def vessel_canvas(seed: int) -> Field:
    """Branching lung vessels on a canvas: (CANVAS, CANVAS) float32 in [0, 1]; they taper from the hila."""
    rng = np.random.default_rng(seed)
    image = Image.new("L", (CANVAS, CANVAS))
    pen = ImageDraw.Draw(image)
    trunks = 34
    side = np.where(np.arange(trunks) % 2, 1.0, -1.0)
    tip = np.stack([side * rng.uniform(0.14, 0.22, trunks), rng.uniform(-0.15, 0.12, trunks)], axis=1)
    angle, width = rng.uniform(-1.25, 1.25, trunks), rng.uniform(2.0, 4.2, trunks)
    for _ in range(4):
        path = [tip]
        for _ in range(3):
            angle = angle + rng.normal(0, 0.18, len(angle))
            step = rng.uniform(0.04, 0.075, len(angle))
            path.append(path[-1] + step[:, None] * np.stack([side * np.cos(angle), np.sin(angle)], axis=1))
        tip = path[-1]
        pixels = (np.stack(path, axis=1) / CANVAS_EXTENT + 1) * (CANVAS - 1) / 2
        for line, thick in zip(pixels.reshape(len(angle), -1).tolist(), width.tolist(), strict=True):
            pen.line(line, fill=min(255, int(60 + 45 * thick)), width=max(1, round(thick)))
        turn = rng.uniform(0.15, 0.6, (2, len(angle)))
        angle = np.concatenate([angle + turn[0], angle - turn[1]])
        side, tip, width = np.tile(side, 2), np.tile(tip, (2, 1)), np.tile(width, 2) * 0.7
    canvas = np.asarray(image, dtype=np.float32) / 255
    return np.clip(ndimage.gaussian_filter(canvas, 0.7), 0, 1)
