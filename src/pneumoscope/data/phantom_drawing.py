"""A synthetic chest radiograph from a seed: anatomy, lesion, position, exposure, noise and markers.

In: a label and a random generator. Out: a :class:`Phantom` with its pixels and the mask of its lesion. The
same generator state gives the same anatomy, lesion and position at any size. Everything that is not the
lesion (exposure, scatter, gamma, noise, position, turn, markers, leads) is drawn from the same distribution
whatever the label, so that only the lungs tell the classes apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field as Limits
from scipy import ndimage

from pneumoscope.core.config import Config
from pneumoscope.core.records import FloatArray, Label, freeze
from pneumoscope.data.phantom_anatomy import Anatomy, Chest, project_chest, sample_anatomy
from pneumoscope.data.phantom_canvas import sample_canvas, vessel_canvas
from pneumoscope.data.phantom_lesions import Lesion, draw_lesion

VISIBLE_LUNG = 0.3
"""Thickness from which lung is seen as such; less is the recess behind the domes or what the heart hides."""


class PhantomConfig(Config):
    """How phantoms vary.

    Attributes:
        aspect: width over height of the film.
        turn_degrees: standard deviation of the turn in the film's plane, in degrees.
        shift: standard deviation of the position, in half heights of the film.
        scale_range: smallest and largest magnification.
        lesion_strength: multiplies the lesions' contrast; 1 is meant to be hard for a network without
            convolutions.
        noise: multiplies the quantum noise.
        markers: draw side letters and burned-in text.
    """

    aspect: float = Limits(default=1.0, gt=0.3, lt=3.0)
    turn_degrees: float = Limits(default=4.0, ge=0, le=45)
    shift: float = Limits(default=0.06, ge=0, le=0.5)
    scale_range: tuple[float, float] = (1.0, 1.32)
    lesion_strength: float = Limits(default=1.0, ge=0, le=3)
    noise: float = Limits(default=1.0, ge=0, le=10)
    markers: bool = True


@dataclass(frozen=True)
class Phantom:
    """A synthetic film.

    Attributes:
        pixels: (H, W) float32 in [0, 1], bright = dense.
        lesion_mask: (H, W) bool, where the lesion changes the lungs; all False for a normal film.
        lungs: (2, H, W) bool, the patient's right and left lung where the film shows them: beside heart and
            mediastinum, above the domes.
        label: what was drawn.
        anatomy: the patient's proportions; pass it again for another film of the same patient.
    """

    pixels: FloatArray
    lesion_mask: npt.NDArray[np.bool_]
    lungs: npt.NDArray[np.bool_]
    label: Label
    anatomy: Anatomy


def draw_phantom(
    label: Label,
    rng: np.random.Generator,
    size: int = 224,
    *,
    config: PhantomConfig | None = None,
    anatomy: Anatomy | None = None,
) -> Phantom:
    """Draw one film.

    Args:
        label: normal, bacterial (lobar consolidation), viral (interstitial pattern) or unspecified
            pneumonia (either).
        rng: source of all chance.
        size: height of the film in pixels, at least 16; its width is ``size * config.aspect``.
        config: variation; the default when None.
        anatomy: the patient; a new one when None.
    """
    if size < 16:
        raise ValueError(f"size is at least 16, not {size}")
    config = config or PhantomConfig()
    anatomy = anatomy or sample_anatomy(rng)
    shape = size, max(16, round(size * config.aspect))
    x, y = _coordinates(shape, rng, config)
    lesion = draw_lesion(label, rng, config.lesion_strength)
    chest = project_chest(anatomy, x, y, sample_canvas(vessel_canvas(anatomy.vessel_seed), x, y))
    density, mask = _with_lesion(chest, lesion, x, y)
    exposed = _expose(density, rng, config)
    if config.markers:
        exposed = _mark(exposed, rng)
    lung = chest.lung > VISIBLE_LUNG
    lungs = np.stack([lung & (x < 0), lung & (x >= 0)])
    return Phantom(freeze(exposed), freeze(mask), freeze(lungs), label, anatomy)


def _coordinates(
    shape: tuple[int, int], rng: np.random.Generator, config: PhantomConfig
) -> tuple[FloatArray, FloatArray]:
    """Anatomical x and y (H, W) of each pixel: turned, shifted, scaled, skewed a little by the roll."""
    height, width = shape
    rows = (np.arange(height, dtype=np.float32) + 0.5) / height * 2 - 1
    columns = ((np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1) * width / height
    u, v = np.meshgrid(columns, rows)
    turn = math.radians(rng.normal(0, config.turn_degrees))
    scale = rng.uniform(*config.scale_range)
    stretch = rng.uniform(0.94, 1.06)
    shift = rng.normal(0, config.shift, size=2).tolist()
    u, v = (u - shift[0]) / scale, (v - shift[1]) / scale
    x = (math.cos(turn) * u + math.sin(turn) * v) * stretch
    y = -math.sin(turn) * u + math.cos(turn) * v
    # Roll about the long axis brings one side nearer: that side is magnified.
    roll = rng.normal(0, 0.05)
    return (x + roll * (x * x - 0.25)).astype(np.float32), y.astype(np.float32)


def _with_lesion(
    chest: Chest, lesion: Lesion | None, x: FloatArray, y: FloatArray
) -> tuple[npt.NDArray[np.floating], npt.NDArray[np.bool_]]:
    """Density (H, W) with the lesion, and where it is."""
    if lesion is None:
        return chest.density, np.zeros(chest.density.shape, dtype=bool)
    added = 0.66 * sample_canvas(lesion.filling, x, y) + sample_canvas(lesion.markings, x, y)
    mask = (sample_canvas(lesion.region, x, y) > 0.5) & (chest.lung > VISIBLE_LUNG)
    return chest.density + chest.lung * added, mask


def _expose(density: FloatArray, rng: np.random.Generator, config: PhantomConfig) -> FloatArray:
    """Pixels (H, W) float32 in [0, 1]: scatter, heel effect, window, gamma and quantum noise."""
    height, width = density.shape
    scattered = ndimage.gaussian_filter(density, 0.06 * height)
    density = density + rng.uniform(0.05, 0.35) * (scattered - density)
    slope = rng.normal(0, 0.05, size=2).tolist()
    density = density + slope[0] * np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    density = density + slope[1] * np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    low, high = rng.uniform(-0.10, 0.30), rng.uniform(1.15, 1.5)
    film = np.clip((density - low) / (high - low), 0, 1) ** rng.uniform(0.7, 1.35)
    grain = rng.standard_normal(density.shape, dtype=np.float32)
    blurred = ndimage.gaussian_filter(grain, 0.7)
    noise = rng.uniform(0.003, 0.014) * config.noise * (0.6 * grain + blurred / 0.4)
    film = film * rng.uniform(0.82, 1.0) + noise * (1.2 - film)
    return np.clip(ndimage.gaussian_filter(film, rng.uniform(0.0, 0.0022) * height), 0, 1).astype(np.float32)


def _mark(film: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Burn in a side letter, sometimes a line of text and a monitoring lead."""
    height, width = film.shape
    image = Image.new("L", (width, height))
    pen = ImageDraw.Draw(image)
    letter_size = max(8, round(height * rng.uniform(0.045, 0.075)))
    corner = (rng.uniform(0.02, 0.12) * width, rng.uniform(0.02, 0.5) * height)
    if rng.random() < 0.8:
        pen.text(corner, "R", fill=255, font=ImageFont.load_default(letter_size))
    else:
        pen.text(
            (width - corner[0] - letter_size, corner[1]),
            "L",
            fill=255,
            font=ImageFont.load_default(letter_size),
        )
    if rng.random() < 0.3:
        text = str(rng.choice(["AP SUPINE", "PORTABLE", "60 kV 2 mAs", "12:40"]))
        place = (rng.uniform(0.02, 0.7) * width, rng.uniform(0.9, 0.95) * height)
        pen.text(place, text, fill=220, font=ImageFont.load_default(max(7, round(height * 0.04))))
    if rng.random() < 0.2:
        _lead(pen, rng, film.shape)
    marks = np.asarray(image, dtype=np.float32) / 255
    return np.maximum(film, marks * rng.uniform(0.8, 1.0)).astype(np.float32)


def _lead(pen: ImageDraw.ImageDraw, rng: np.random.Generator, shape: tuple[int, int]) -> None:
    """A monitoring wire across the film, ending in a round electrode."""
    height, width = shape
    t = np.linspace(0, 1, 40)
    start, end = rng.uniform(0, 1, size=2), rng.uniform(0.15, 0.85, size=2)
    start[int(rng.integers(2))] = float(rng.integers(2))
    bend = rng.normal(0, 0.15, size=2)
    path = start[None] * (1 - t[:, None]) + end[None] * t[:, None] + bend[None] * np.sin(np.pi * t)[:, None]
    points = [(float(px * width), float(py * height)) for px, py in path]
    pen.line(points, fill=170, width=max(1, round(height / 180)))
    radius = 0.018 * height
    cx, cy = points[-1]
    pen.ellipse((cx - radius, cy - radius, cx + radius, cy + radius), fill=200)
