"""Draw one synthetic chest radiograph from a seed: anatomy, lesion, position, exposure, noise and markers.

A phantom is made of overlapping shadows, as a radiograph is: soft tissue, air-filled lungs, heart and
mediastinum, vessels, spine, ribs, clavicles, arms and chin. Each is a smooth function of anatomical
coordinates (x to the right of the image, which is the patient's left; y downwards; the rib cage spans about
x = -0.7 to 0.7 and y = -0.7 to 0.7), so that one patient can be drawn at any size, turned and shifted; what
cannot be written as a formula is drawn on a canvas and sampled. Proportions were set by eye against
paediatric frontal radiographs; nothing here is a measurement.

The same generator state gives the same anatomy, lesion and position at any size. Everything but the lesion is
drawn from the same distribution whatever the label, so that only the lungs tell the classes apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from pydantic import Field as Limits
from scipy import ndimage
from scipy.special import expit

from pneumoscope.core.config import Config
from pneumoscope.core.records import FloatArray, Label, freeze

Field = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Anatomy:
    """One patient's proportions, in anatomical units (see the module), drawn by :func:`sample_anatomy`."""

    chest_half_width: float
    apex: float
    right_dome: float
    left_dome: float
    dome_curve: float
    heart_width: float
    heart_height: float
    heart_turn: float
    heart_y: float
    mediastinum: float
    thymus: float
    spine_half_width: float
    rib_spacing: float
    rib_phase: float
    rib_half_width: float
    rib_back_drop: float
    rib_front_drop: float
    rib_strength: float
    clavicle_y: float
    clavicle_slope: float
    wall: float
    arm_angle: float
    chin: float
    stomach: float
    vessels: float
    vessel_seed: int


@dataclass(frozen=True)
class Chest:
    """The projected chest.

    Attributes:
        density: (H, W) float32, 0 in air, about 1 through the abdomen, more through bone.
        lung: (H, W) float32 in [0, 1], thickness of air-filled lung that a lesion can replace.
        soft: (H, W) float32 in [0, 1], 1 where the ray passes the trunk or an arm.
    """

    density: Field
    lung: Field
    soft: Field


def sample_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw a patient's proportions."""
    normal, uniform = rng.normal, rng.uniform
    dome = 0.46 + normal(0, 0.05)
    return Anatomy(
        chest_half_width=float(np.clip(0.69 + normal(0, 0.045), 0.58, 0.80)),
        apex=float(-0.70 + normal(0, 0.03)),
        right_dome=float(dome - 0.02 + normal(0, 0.015)),
        left_dome=float(dome + 0.04 + normal(0, 0.015)),
        dome_curve=uniform(0.55, 1.1),
        heart_width=float(np.clip(0.27 + normal(0, 0.04), 0.19, 0.37)),
        heart_height=uniform(0.32, 0.46),
        heart_turn=float(normal(0, 0.03)),
        heart_y=float(0.20 + normal(0, 0.03)),
        mediastinum=uniform(0.12, 0.18),
        thymus=float(np.clip(normal(0.0, 0.06), 0, 0.13)),
        spine_half_width=uniform(0.075, 0.10),
        rib_spacing=uniform(0.125, 0.155),
        rib_phase=uniform(0, 1),
        rib_half_width=uniform(0.024, 0.034),
        rib_back_drop=uniform(0.18, 0.30),
        rib_front_drop=uniform(0.30, 0.45),
        rib_strength=uniform(0.7, 1.25),
        clavicle_y=float(-0.62 + normal(0, 0.035)),
        clavicle_slope=uniform(0.05, 0.35),
        wall=uniform(0.08, 0.20),
        arm_angle=uniform(-0.9, 0.9),
        chin=uniform(-1.15, -0.85),
        stomach=uniform(0, 0.35),
        vessels=uniform(0.6, 1.5),
        vessel_seed=int(rng.integers(2**32)),
    )


def project_chest(anatomy: Anatomy, x: Field, y: Field, vessels: Field) -> Chest:
    """The chest's shadow at anatomical coordinates ``x``, ``y`` (H, W); ``vessels`` (H, W) in [0, 1]."""
    soft_thickness, soft = _soft_tissue(anatomy, x, y)
    lung = _lung(anatomy, x, y)
    heart = _heart(anatomy, x, y)
    lung = lung * (1 - 0.9 * heart)
    density = soft_thickness * (1 - 0.66 * lung) + 0.04 * heart
    density += 0.11 * anatomy.vessels * vessels * lung
    density += _bones(anatomy, x, y)
    density -= _airways_and_gas(anatomy, x, y)
    return Chest(density.astype(np.float32), lung.astype(np.float32), soft.astype(np.float32))


def _step(distance: Field, softness: float) -> Field:
    """0 to 1 as ``distance`` grows through zero, over about four times ``softness``."""
    return expit(distance / softness)


def _rib_cage(anatomy: Anatomy, y: Field) -> Field:
    """Half width of the rib cage at height ``y``: a dome above, slowly narrowing below its widest part."""
    t = np.maximum((y - anatomy.apex) / 1.15, 1e-3)
    dome = np.sqrt(np.clip(1 - np.clip(1 - t, 0, 1) ** 2.1, 0, 1))
    return anatomy.chest_half_width * (dome - 0.25 * np.maximum(t - 1, 0) ** 2)


def _capsule(
    x: Field, y: Field, start: tuple[float, float], end: tuple[float, float], radius: float
) -> Field:
    """Distance of each point to a segment, over ``radius``."""
    right, down = end[0] - start[0], end[1] - start[1]
    dx, dy = x - start[0], y - start[1]
    along = np.clip((dx * right + dy * down) / (right**2 + down**2), 0, 1)
    return np.hypot(dx - along * right, dy - along * down) / radius


def _soft_tissue(anatomy: Anatomy, x: Field, y: Field) -> tuple[Field, Field]:
    """Thickness of soft tissue, and whether there is any."""
    half_width = anatomy.chest_half_width + anatomy.wall
    trunk = np.sqrt(np.clip(1 - np.abs(x / (half_width * (1 + 0.05 * y))) ** 3.2, 0, 1)) * _step(
        y + 0.62, 0.05
    )
    shoulder = half_width - 0.16
    parts = [trunk]
    parts.append(0.62 * _round(_capsule(x, y, (-shoulder, -0.6), (shoulder, -0.6), 0.26)))
    parts.append(0.72 * _round(_capsule(x, y, (0, -0.4), (0, -1.6), 0.34)))
    for side in (-1, 1):
        shift = math.cos(anatomy.arm_angle), math.sin(anatomy.arm_angle)
        elbow = (side * (shoulder + 0.8 * shift[0]), -0.6 + 0.8 * shift[1])
        parts.append(0.42 * _round(_capsule(x, y, (side * shoulder, -0.6), elbow, 0.15)))
    parts.append(
        1.15 * _round(_capsule(x, y, (-0.16, anatomy.chin - 0.25), (0.16, anatomy.chin - 0.25), 0.33))
    )
    thickness = np.maximum.reduce(parts)
    return thickness, np.minimum(thickness * 3, 1)


def _round(relative: Field) -> Field:
    """Thickness through a round cross-section at a relative distance from its axis."""
    return np.sqrt(np.clip(1 - relative**2, 0, 1))


def _lung(anatomy: Anatomy, x: Field, y: Field) -> Field:
    """Thickness of both lungs in [0, 1]; heart and mediastinum are cut later."""
    depth = (_rib_cage(anatomy, y) - np.abs(x)) / 0.22
    thickness = np.clip(depth, 0, 1) ** 0.45 * _step(y - anatomy.apex - 0.03, 0.02)
    dome = np.where(x < 0, anatomy.right_dome, anatomy.left_dome)
    distance = np.abs(x) - 0.55 * anatomy.chest_half_width
    floor = dome + anatomy.dome_curve * distance**2 + 0.35 * np.maximum(distance, 0)
    lit = _step(floor - y, 0.009)
    # Lung hides behind the domes: the recess is faintly dark below them.
    recess = (
        0.16 * np.clip(depth, 0, 1) ** 0.45 * _step(floor + 0.16 - y, 0.03) * _step(np.abs(x) - 0.15, 0.03)
    )
    return np.maximum(thickness * lit, recess * _step(y - anatomy.apex, 0.02))


def _heart(anatomy: Anatomy, x: Field, y: Field) -> Field:
    """Heart and mediastinum in [0, 1]: the band about the spine that widens downwards into the heart.

    The right border bulges a little, the left one runs obliquely to the apex; both are softer than the dome.
    """
    upper = anatomy.mediastinum * (0.8 + 0.3 * np.abs(y + 0.25))
    thymus = anatomy.thymus * np.exp(-(((y + 0.30) / 0.17) ** 2))
    down = (y - anatomy.heart_y) / anatomy.heart_height
    right_bulge = np.exp(-((np.abs(down) / 0.62) ** 2.6))
    left_slope = _step(down + 0.30, 0.16) * _step(1.15 - down, 0.16)
    right = upper + thymus * 1.3 + (0.42 * anatomy.heart_width + anatomy.heart_turn) * right_bulge
    left = upper + thymus + (1.02 * anatomy.heart_width - anatomy.heart_turn) * left_slope
    return _step(right + x, 0.013) * _step(left - x, 0.015)


def _tube(distance: Field, half_width: float) -> Field:
    """Shadow of a bone of round section with a dense cortex, at a distance from its axis; peak about 1."""
    relative = np.abs(distance) / half_width
    cortex = np.exp(-(((relative - 0.82) / 0.24) ** 2))
    return 0.62 * np.sqrt(np.clip(1 - relative**2, 0, 1)) + 0.42 * cortex


def _bones(anatomy: Anatomy, x: Field, y: Field) -> Field:
    return 0.20 * anatomy.rib_strength * _ribs(anatomy, x, y) + _spine(anatomy, x, y) + _girdle(anatomy, x, y)


def _ribs(anatomy: Anatomy, x: Field, y: Field) -> Field:
    """Ribs as tilted hoops with evenly spaced lateral ends: back halves rise, front halves fall."""
    relative = np.abs(x) / np.maximum(_rib_cage(anatomy, y) + 0.025, 0.05)
    hoop = np.sqrt(np.maximum(1 - relative**2, 0) + 0.015)
    inside = _step(1.0 - relative, 0.012) * _step(y - anatomy.apex + 0.08, 0.02)
    lateral = (y - anatomy.apex) / anatomy.rib_spacing - anatomy.rib_phase
    back = lateral + anatomy.rib_back_drop / anatomy.rib_spacing * hoop
    front = (
        lateral - anatomy.rib_front_drop / anatomy.rib_spacing * (np.maximum(1 - relative, 0) + 0.01) ** 0.75
    )
    shadow = _rib_rows(back, x, y, anatomy.rib_half_width) * (back < 11.5) * _step(np.abs(x) - 0.05, 0.01)
    front_end = _step(relative - 0.45, 0.05)
    shadow = shadow + 0.75 * _rib_rows(front, x, y, anatomy.rib_half_width * 1.15) * front_end * (front < 6.5)
    return shadow * inside


def _rib_rows(phase: Field, x: Field, y: Field, half_width: float) -> Field:
    """Tubes where ``phase`` passes whole numbers, of constant width across their own direction."""
    down = np.gradient(phase, axis=0) / np.gradient(y, axis=0).mean()
    right = np.gradient(phase, axis=1) / np.gradient(x, axis=1).mean()
    distance = (phase - np.round(phase)) / np.maximum(np.hypot(down, right), 1e-3)
    return _tube(distance, half_width) * (phase > -0.5)


def _spine(anatomy: Anatomy, x: Field, y: Field) -> Field:
    width = anatomy.spine_half_width
    body = _step(width - np.abs(x), 0.01)
    period = (y - anatomy.rib_phase) / (0.9 * anatomy.rib_spacing)
    disc = np.exp(-(((period - np.round(period)) / 0.13) ** 2))
    pedicle = np.exp(
        -(((np.abs(x) - 0.62 * width) / 0.018) ** 2) - ((period - np.round(period) - 0.22) / 0.12) ** 2
    )
    return 0.20 * body * (1 - 0.38 * disc) + 0.05 * pedicle


def _girdle(anatomy: Anatomy, x: Field, y: Field) -> Field:
    """Clavicles, shoulder blades and upper arms."""
    reach = np.abs(x)
    line = anatomy.clavicle_y - anatomy.clavicle_slope * (reach - 0.08) + 0.035 * np.sin(7.5 * (reach - 0.1))
    ends = _step(reach - 0.09, 0.012) * _step(anatomy.chest_half_width - 0.02 - reach, 0.02)
    shadow = 0.17 * _tube(y - line, 0.034) * ends
    shoulder = anatomy.chest_half_width + anatomy.wall - 0.16
    shift = math.cos(anatomy.arm_angle), math.sin(anatomy.arm_angle)
    for side in (-1, 1):
        elbow = (side * (shoulder + 0.8 * shift[0]), -0.6 + 0.8 * shift[1])
        shadow = shadow + 0.26 * _tube(_capsule(x, y, (side * (shoulder + 0.06), -0.6), elbow, 1.0), 0.05)
        blade = _capsule(x, y, (side * (shoulder - 0.06), -0.55), (side * (shoulder - 0.1), -0.12), 0.11)
        shadow = shadow + 0.05 * _step(1 - blade, 0.05) + 0.04 * np.exp(-(((blade - 0.95) / 0.1) ** 2))
    return shadow


def _airways_and_gas(anatomy: Anatomy, x: Field, y: Field) -> Field:
    trachea = np.exp(-(((x + 0.01) / 0.045) ** 4)) * _step(-0.18 - y, 0.02) * _step(y + 1.0, 0.05)
    bubble = np.hypot((x - 0.36) / 0.2, (y - anatomy.left_dome - 0.22) / 0.1)
    return 0.17 * trachea + anatomy.stomach * _step(1 - bubble, 0.1)


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


# Centre (x, y), half axes (x, y) of where consolidation sits: right upper, middle and lower lobe, left upper
# and lower lobe. The image's left is the patient's right.
_LOBES = (
    (-0.38, -0.36, 0.20, 0.17),
    (-0.34, 0.16, 0.19, 0.14),
    (-0.46, 0.30, 0.20, 0.20),
    (0.38, -0.32, 0.19, 0.20),
    (0.47, 0.28, 0.19, 0.22),
)


@dataclass(frozen=True)
class Lesion:
    """A lesion on a canvas, all fields (CANVAS, CANVAS) float32.

    Attributes:
        filling: in [0, 1], the share of the lung's air that is replaced.
        markings: added density per unit of lung thickness.
        region: in [0, 1], how much a point belongs to the affected region.
    """

    filling: Field
    markings: Field
    region: Field


def draw_lesion(label: Label, rng: np.random.Generator, strength: float) -> Lesion | None:
    """The lesion of a label: consolidation, interstitial pattern, or None for a normal image.

    ``strength`` multiplies the lesion's contrast. ``PNEUMONIA`` (unspecified) is either kind by chance.
    """
    if label is Label.NORMAL:
        return None
    if label is Label.BACTERIAL or (label is not Label.VIRAL and rng.random() < 0.5):
        return _consolidation(rng, strength)
    return _interstitial(rng, strength)


def _smooth_noise(rng: np.random.Generator, scale: float) -> Field:
    """Smooth noise (CANVAS, CANVAS) of unit deviation, from a lattice with cells of ``2.5 * scale``."""
    cells = max(4, round(2 * CANVAS_EXTENT / (2.5 * scale)))
    lattice = Image.fromarray(rng.standard_normal((cells, cells), dtype=np.float32))
    noise = np.asarray(lattice.resize((CANVAS, CANVAS), Image.Resampling.BICUBIC))
    return noise / noise.std()


def _consolidation(rng: np.random.Generator, strength: float) -> Lesion:
    x, y = canvas_grid()
    count = 2 if rng.random() < 0.2 else 1
    outline = np.full_like(x, -np.inf)
    for index in rng.choice(len(_LOBES), size=count, replace=False):
        cx, cy, rx, ry = _LOBES[index]
        cx, cy = cx + rng.normal(0, 0.04), cy + rng.normal(0, 0.04)
        grow = rng.uniform(0.75, 1.3)
        outline = np.maximum(outline, 1 - np.hypot((x - cx) / (rx * grow), (y - cy) / (ry * grow)))
    outline = outline + 0.26 * _smooth_noise(rng, 0.07)
    region = expit(outline / 0.09)
    patches = np.clip(0.85 + 0.22 * _smooth_noise(rng, 0.035), 0, 1)
    bronchi = np.exp(-((_smooth_noise(rng, 0.05) / 0.09) ** 2)) * (_smooth_noise(rng, 0.1) > 0.8)
    filling = np.clip(rng.uniform(0.55, 1.0) * strength * region * patches * (1 - 0.35 * bronchi), 0, 1)
    return Lesion(filling.astype(np.float32), np.zeros_like(x), region.astype(np.float32))


def _interstitial(rng: np.random.Generator, strength: float) -> Lesion:
    x, y = canvas_grid()
    spread = rng.uniform(0.35, 0.6)
    from_hilum = np.hypot((np.abs(x) - 0.24) / spread, (y - rng.uniform(-0.05, 0.15)) / (1.3 * spread))
    balance = 1 + rng.uniform(-0.25, 0.25) * np.sign(x)
    region = np.exp(-(from_hilum**2)) * balance * np.clip(1 + 0.25 * _smooth_noise(rng, 0.15), 0.3, 1.6)
    # The zero lines of smooth noise form a net; two scales give septa and finer reticulation.
    net = np.exp(-((_smooth_noise(rng, 0.030) / 0.30) ** 2)) + 0.8 * np.exp(
        -((_smooth_noise(rng, 0.017) / 0.35) ** 2)
    )
    markings = rng.uniform(0.12, 0.22) * strength * region * (net - net.mean())
    filling = np.clip(rng.uniform(0.09, 0.30) * strength * region, 0, 1)
    return Lesion(
        filling.astype(np.float32), markings.astype(np.float32), np.clip(region, 0, 1).astype(np.float32)
    )


VISIBLE_LUNG = 0.3
"""Thickness from which lung is seen as such; less is the recess behind the domes or what the heart hides."""


class PhantomConfig(Config):
    """How phantoms vary.

    Attributes:
        aspect: width over height of the image.
        turn_degrees: standard deviation of the turn in the image's plane, in degrees.
        shift: standard deviation of the position, in half heights of the image.
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
    """A synthetic image.

    Attributes:
        pixels: (H, W) float32 in [0, 1], bright = dense.
        lesion_mask: (H, W) bool, where the lesion changes the lungs; all False for a normal image.
        lungs: (2, H, W) bool, the patient's right and left lung where the image shows them: beside heart and
            mediastinum, above the domes.
        label: what was drawn.
        anatomy: the patient's proportions; pass it again for another image of the same patient.
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
    """Draw one image.

    Args:
        label: normal, bacterial (lobar consolidation), viral (interstitial pattern) or unspecified
            pneumonia (either).
        rng: source of all chance.
        size: height of the image in pixels, at least 16; its width is ``size * config.aspect``.
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
    """A monitoring wire across the image, ending in a round electrode."""
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
