"""The lungs of the films of a shortcut audit, found once and laid onto each film at whatever size it comes.

In: samples and their pixel cache. Out: a mask of both lungs by film, and what the masks' shapes are in
numbers: a mask that gives the class away by its outline would make a film without lungs readable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pneumoscope.core.records import Progress, Sample
from pneumoscope.data.audit_properties import Property
from pneumoscope.data.cache import PixelCache
from pneumoscope.inference.lungs import segment_lungs

SMALLEST_LUNGS = 0.08
"""Least share of the film: below it the segmenter found no pair of lungs (in phantoms 0.15 to 0.4)."""

_BLOCK = 64  # films segmented at a time, between two calls of the progress
_REACH = 0.03  # how far the wide region reaches beyond the lungs' hulls, as a share of the side

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LungMasks:
    """Lungs by film, each squashed to one square grid.

    Attributes:
        side: of the grid in pixels.
        packed: by the film's hash, the bits of its (2, side, side) masks, as ``numpy.packbits`` has them.
    """

    side: int
    packed: Mapping[str, npt.NDArray[np.uint8]]

    def each(self, sha256: str) -> Mask:
        """(2, side, side): the patient's right lung (left on the picture), then the left one."""
        bits = np.unpackbits(self.packed[sha256], count=2 * self.side * self.side)
        return bits.reshape(2, self.side, self.side).astype(bool)

    def lung(self, sha256: str, side: int, shape: tuple[int, ...]) -> Mask:
        """One lung (0: the patient's right one) on a film's own grid of ``shape`` (rows, columns)."""
        return resize_mask(self.each(sha256)[side], shape)

    def found(self, sha256: str) -> bool:
        """Whether there are two lungs, of at least :data:`SMALLEST_LUNGS` of the film together."""
        lungs = self.each(sha256)
        return bool(lungs.any(axis=(1, 2)).all() and lungs.any(axis=0).mean() >= SMALLEST_LUNGS)


def find_lungs(
    samples: Sequence[Sample], cache: PixelCache, *, progress: Progress | None = None
) -> LungMasks:
    """The lungs of ``samples`` on the grid of ``cache``, whose films are squashed to a square.

    Raises:
        DatasetError: a film is not in the cache.
    """
    rows = cache.rows(samples)
    packed = {}
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        masks = segment_lungs(cache.pixels[block].astype(np.float32) / np.float32(255))
        for sample, mask in zip(samples[start : start + len(block)], masks, strict=True):
            packed[sample.sha256] = np.packbits(mask)
        if progress:
            progress(start + len(block), len(rows))
    return LungMasks(cache.preprocessing.size, packed)


def resize_mask(mask: Mask, shape: tuple[int, ...]) -> Mask:
    """A mask on a grid of ``shape`` (rows, columns): a pixel belongs to it when at least half of it does."""
    if mask.shape == tuple(shape):
        return mask
    picture = Image.fromarray(mask.astype(np.float32))
    return np.asarray(picture.resize((shape[1], shape[0]), Image.Resampling.BILINEAR)) >= 0.5


def wide_region(lungs: Mask) -> Mask:
    """The lungs (2, S, S) with what a reader would still count to them, as one mask (S, S).

    The convex hull of each lung, 3 % of the side wider: the pleura, and much of a consolidation that the
    outline leaves out.
    """
    return _grown(_hull(lungs[0]) | _hull(lungs[1]))


def chest_region(lungs: Mask) -> Mask:
    """The convex hull of both lungs (2, S, S) together, 3 % of the side wider, with what lies between them.

    Neither a lung nor its outline is left of it, only how wide and how high the chest is.
    """
    return _grown(_hull(np.asarray(lungs.any(axis=0))))


def _grown(mask: Mask) -> Mask:
    from scipy import ndimage

    if not mask.any():
        return mask
    return np.asarray(ndimage.distance_transform_edt(~mask) <= _REACH * mask.shape[-1])


def _hull(mask: Mask) -> Mask:
    """The convex hull of a mask, filled; a mask without area stays as it is."""
    from scipy.spatial import ConvexHull, QhullError

    points = np.argwhere(mask)
    try:
        corners = points[ConvexHull(points).vertices]
    except (QhullError, ValueError):
        return mask
    picture = Image.new("1", (mask.shape[1], mask.shape[0]))
    ImageDraw.Draw(picture).polygon([(int(column), int(row)) for row, column in corners], fill=1)
    return np.asarray(picture, dtype=bool) | mask


def shape_properties(samples: Sequence[Sample], masks: LungMasks) -> tuple[Property, ...]:
    """Size and place of each film's lungs, as shares of the film: 12 numbers that hold no grey level."""
    names = ("area", "top", "bottom", "inner", "outer", "fill")
    values = np.array([_shape(masks.each(sample.sha256)) for sample in samples])
    return tuple(
        Property(f"{lung}_{name}", f"{lung} lung: {name}", "", "lungs", values[:, 6 * side + place])
        for side, lung in enumerate(("right", "left"))
        for place, name in enumerate(names)
    )


def _shape(lungs: Mask) -> list[float]:
    """Area, edges and fill of the box of either lung; not-a-number where there is none."""
    side = lungs.shape[-1]
    numbers: list[float] = []
    for number, lung in enumerate(lungs):
        if not lung.any():
            numbers += [float("nan")] * 6
            continue
        rows, columns = np.flatnonzero(lung.any(axis=1)), np.flatnonzero(lung.any(axis=0))
        ends = (columns[-1] + 1, columns[0]) if number == 0 else (columns[0], columns[-1] + 1)
        box = (rows[-1] + 1 - rows[0]) * (columns[-1] + 1 - columns[0])
        edges = (rows[0], rows[-1] + 1, *ends)
        numbers += [float(lung.mean()), *(float(edge) / side for edge in edges), float(lung.sum() / box)]
    return numbers
