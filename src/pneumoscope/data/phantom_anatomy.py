"""The body of a phantom: what a small chest looks like to X-rays, as smooth functions of position.

A phantom is made of overlapping shadows, as a radiograph is: soft tissue, air-filled lungs, heart and
mediastinum, vessels, spine, ribs behind and in front, clavicles, arms and chin. Each is a closed-form field
over anatomical coordinates, so that one patient can be drawn at any size, turned and shifted.

In: anatomical coordinates (x to the right of the film, which is the patient's left; y downwards; the rib cage
spans about x = -0.7 to 0.7 and y = -0.7 to 0.7) and an :class:`Anatomy`. Out: thickness along the ray, in
units of the trunk's own soft tissue. Proportions were set by eye against paediatric frontal films; nothing
here is a measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit

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
