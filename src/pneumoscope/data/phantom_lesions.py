"""What the two kinds of pneumonia add to a phantom: a dense lobe, or a fine net through both lungs.

In: a random generator. Out: canvases in anatomical coordinates: how much air is replaced, how much density is
added, and the affected region. "Bacterial" and "viral" are the textbook patterns (lobar consolidation with
air bronchograms; diffuse bilateral interstitial markings), drawn so that texture and place tell them apart;
real disease is not that clear and no medical claim is made from them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.special import expit

from pneumoscope.core.records import Label
from pneumoscope.data.phantom_canvas import CANVAS, CANVAS_EXTENT, canvas_grid

Field = npt.NDArray[np.floating]

# Centre (x, y), half axes (x, y) of where consolidation sits: right upper, middle and lower lobe, left upper
# and lower lobe. The film's left is the patient's right.
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
    """The lesion of a label: consolidation, interstitial pattern, or None for a normal film.

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
