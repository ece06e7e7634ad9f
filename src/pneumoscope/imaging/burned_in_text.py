"""Burned-in text: letters, numbers and markers in the pixels, found and covered before an image is exported.

What a console writes into the pixels has an edge of one or two pixels, far steeper than anything
anatomical, thin strokes, and the size of a letter. So: thin bright and thin dark structures (top-hat
transforms, Serra, Image Analysis and Mathematical Morphology, 1982) of two widths, of these the compact
ones whose outline is steeper than anatomy's, and what is like them and lies beside them. Each is covered as
a box, so that its shape does not show, and the boxes are filled from their surroundings. Lead markers and
clips whose shadow is as sharp go with them.

It is a filter and no guarantee:
soft, handwritten and very large text can stay (docs/monitoring.md has the measured shares).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import FloatArray

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

# Sizes are shares of the image's longer side. Measured on the project's images, with and without drawn text.
STROKES = (0.012, 0.05)
"""Widest strokes that the two top-hats find: small print, and the letters R and L."""

LARGEST = 0.12
"""Longest side of a letter or of letters that touch; wires, tubes and collimator edges are longer."""

MIN_CONTRAST = 0.12
"""Of a stroke against its surroundings, in grey levels from 0 to 1."""

MIN_STEP = 0.20
"""Least mean gradient of an outline, grey levels a pixel. Of the thin structures of real images those inside
the body reach 0.17, console text 0.6 to 1.1, the shadow of lead letters 0.3 to 0.5."""

WEAK = 0.5
"""Share of it that is enough beside what was found already."""

_SMALLEST = 6  # pixels: a comma of the smallest legible print (5 x 7 cells)


@dataclass(frozen=True, slots=True)
class _Parts:
    """Connected thin structures: boxes (N, 4) top, left, bottom, right; mean gradient of the outline (N,)."""

    boxes: Ints
    steps: npt.NDArray[np.float64]


def find_text(pixels: FloatArray) -> Bools:
    """Where text and markers lie, as boxes.

    Args:
        pixels: (H, W) float32 in [0, 1], on the image's original grid: a reduced one has no thin strokes.

    Returns:
        (H, W); True is covered.
    """
    from scipy import ndimage

    side = max(pixels.shape)
    gradient = np.hypot(ndimage.sobel(pixels, 0), ndimage.sobel(pixels, 1)) / 4
    steep = ndimage.maximum_filter(gradient, 3)  # the steepest place is beside the outline, not on it
    mask = np.zeros(pixels.shape, bool)
    candidates = []
    for film in (pixels, 1 - pixels):
        for width in STROKES:
            parts = _thin_parts(film, steep, max(5, round(width * side)), round(LARGEST * side))
            _draw(mask, parts.boxes[parts.steps >= MIN_STEP], side)
            candidates.append(parts.boxes[(parts.steps >= WEAK * MIN_STEP) & (parts.steps < MIN_STEP)])
    near = _beside(mask, side)
    for boxes in candidates:
        touched = [box for box in boxes if near[_inside(box, pixels.shape)].any()]
        _draw(mask, np.array(touched, np.int64).reshape(-1, 4), side)
    return mask


def mask_text(pixels: FloatArray) -> tuple[FloatArray, Bools]:
    """The image with its text covered, and where that is."""
    mask = find_text(pixels)
    return cover(pixels, mask), mask


def cover(pixels: FloatArray, mask: Bools) -> FloatArray:
    """Fill the mask from the pixels round it: each takes the nearest value outside, then all are smoothed."""
    from scipy import ndimage

    if not mask.any() or mask.all():
        return pixels.copy()
    smooth = _smooth_outside(pixels, mask)
    rows, columns = ndimage.distance_transform_edt(mask, return_distances=False, return_indices=True)
    filled = np.where(mask, smooth[rows, columns], pixels)
    blurred = ndimage.gaussian_filter(filled, max(2.0, 0.006 * max(pixels.shape)))
    return np.where(mask, blurred, pixels).astype(np.float32)


def _smooth_outside(pixels: FloatArray, mask: Bools) -> FloatArray:
    """Local means of what is not covered, so that a filled box repeats no noise in stripes."""
    from scipy import ndimage

    size = max(5, round(0.01 * max(pixels.shape)))
    weight = ndimage.uniform_filter((~mask).astype(np.float32), size)
    total = ndimage.uniform_filter(np.where(mask, np.float32(0), pixels), size)
    return np.where(weight > 1e-3, total / np.maximum(weight, 1e-3), pixels).astype(np.float32)


def _thin_parts(film: FloatArray, steep: FloatArray, width: int, largest: int) -> _Parts:
    """Bright structures thinner than ``width`` and no longer than ``largest`` pixels."""
    from scipy import ndimage

    thin = film - ndimage.grey_opening(film, size=(width, width)) > MIN_CONTRAST
    labels, count = ndimage.label(thin, np.ones((3, 3)))
    slices = ndimage.find_objects(labels)
    boxes = np.array([(r.start, c.start, r.stop, c.stop) for r, c in slices], np.int64).reshape(-1, 4)
    outline = thin & ~ndimage.binary_erosion(thin, np.ones((3, 3)))
    on = labels[outline]
    length = np.bincount(on, minlength=count + 1)[1:]
    steps = np.bincount(on, weights=steep[outline], minlength=count + 1)[1:] / np.maximum(length, 1)
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    longest = (boxes[:, 2:] - boxes[:, :2]).max(axis=1, initial=0)
    kept = (area >= _SMALLEST) & (longest <= largest)
    return _Parts(boxes[kept], steps[kept])


def _draw(mask: Bools, boxes: Ints, side: int) -> None:
    """Cover boxes and a margin: half-lit pixels at the outline, and the shadow that some consoles draw."""
    for top, left, bottom, right in boxes:
        margin = max(2, round(0.002 * side), (bottom - top) // 6)
        mask[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = True


def _beside(mask: Bools, side: int) -> Bools:
    """The mask and one letter's breadth round it."""
    from scipy import ndimage

    reach = 2 * max(3, round(0.012 * side)) + 1
    return np.asarray(ndimage.maximum_filter(mask, reach))


def _inside(box: Ints, shape: tuple[int, ...]) -> tuple[slice, slice]:
    top, left, bottom, right = (int(value) for value in box)
    return slice(top, min(bottom, shape[0])), slice(left, min(right, shape[1]))
