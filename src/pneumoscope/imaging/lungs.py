"""Lung segmentation: a small network of our own that outlines each lung on a frontal chest radiograph.

It gives the box that a bundle of fit ``lungs`` looks at, the zones of an explanation, and the masks of the
shortcut audit. docs/lungs.md says what the network learnt from and how well it agrees with outlines drawn by
hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import BundleError
from pneumoscope.core.files import read_json, sha256_file
from pneumoscope.core.findings import Finding
from pneumoscope.core.records import FloatArray, Geometry, LungField, Preprocessing
from pneumoscope.imaging.resampling import Box, expose, resize
from pneumoscope.imaging.session import open_session, run_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Masks = npt.NDArray[np.bool_]

LUNG_SIZE = 96
"""Side of the segmenter's input in pixels: a rib is three pixels wide, a lung border is good to one."""

_DIRECTORY = Path(__file__).resolve().parent.parent / "bundles" / "lungs"
_PREPROCESSING = Preprocessing(LUNG_SIZE, "squash", "percentile")
_BATCH = 16

# The box of both lungs. Quantiles are those of the 5,216 images of the Guangzhou train split.
TAIL = 0.01
"""Share of a lung's area beyond each edge of its extent, so that crumbs elsewhere do not move the edge."""
BOX_MARGIN = 0.05
"""Added on each side of the box, as a share of the picture's side."""
LEAST_AREA = 0.015
"""A lung smaller than this share of the picture was not found (1st percentile: right 0.070, left 0.040)."""
SHORT = 0.70
"""Ratio of heights below which a lung was cut short and ends where the other does (0.5th percentile 0.71)."""
NARROW = 0.55
"""Ratio of the lungs' reach from the midline below which the narrower one is mirrored from the other."""
MIDLINE = 0.505
"""Median of the midline, where it cannot be measured, as a share of the width."""
OWN_HALF = 0.62
"""Share of the width in which a lung lies (99.5th percentiles of the medial edges 0.58 and 0.50): crumbs on
the arm or the blanket of the other side are no lung."""
PIECE = 0.25
"""A piece smaller than this share of the largest is gas of the stomach or a dark border; a consolidated lung
falls into pieces of like size, which stay."""
LEAST_SIDES = 0.35, 0.40
"""Least height and width of a plausible box, as shares of the picture's."""
OFF_CENTRE = 0.2
"""Farthest plausible midline from the middle, as a share of the width."""


def find_lung_field(pixels: FloatArray, segmenter: Path | None = None) -> LungField:
    """Find the box of both lungs on one frontal radiograph.

    A lung that was segmented short or narrow, or not at all, is completed by the mirror image of the other: a
    consolidated lung must not lose its lower lobe.

    Args:
        pixels: (H, W) in [0, 1], bright = dense, upright.
        segmenter: ONNX file of another segmenter than the package's.

    Raises:
        BundleError: the segmenter's file is missing or damaged.
    """
    log_odds, _ = run_session(_session(segmenter), _input(pixels)[None])
    box, state = _box(log_odds[0])
    return LungField(box, state, log_odds[0])


def lung_findings(lungs: LungField | None) -> tuple[Finding, ...]:
    """What the lung field says for or against an answer."""
    if lungs is None or lungs.state == "found":
        return ()
    return (Finding.warning("no-lung-field" if lungs.state == "not-found" else "lung-completed"),)


LUNG_NUMBERS = 15
"""Numbers that describe the lungs' shape (:func:`lung_shape`)."""


def lung_shape(lungs: LungField) -> npt.NDArray[np.float64]:
    """Size, place and shape of what was found, to tell frontal lungs from what is none.

    Returns:
        (15,): for each lung the root of its area, its four edges, its share of the box of its edges and the
        mean confidence inside; then the mean confidence everywhere. All lie in [0, 1].
    """
    confidence = 1 / (1 + np.exp(-np.abs(lungs.log_odds.astype(np.float64))))
    numbers: list[float] = []
    for mask, sure in zip(lungs.log_odds > 0, confidence, strict=True):
        area = float(mask.mean())
        edges = _edges(mask) if area else np.full(4, 0.5)
        box = float(np.prod(edges[2:] - edges[:2]))
        numbers += [area**0.5, *edges, area / box if box else 0.0, float(sure[mask].mean()) if area else 0.5]
    return np.array([*numbers, confidence.mean()])


def lung_masks(lungs: LungField, geometry: Geometry) -> Masks:
    """The lungs on the grid of the model input, (2, S, S), that on the picture's left first."""
    side = geometry.input_size
    box = tuple(share * lungs.log_odds.shape[1] for share in geometry.box)
    return np.stack([_largest_part(resize(one, (side, side), box) > 0) for one in lungs.log_odds])


def segment_lungs(films: npt.NDArray[np.floating]) -> Masks:
    """Outline the lungs on frontal images.

    The visible lung fields are meant: beside heart and mediastinum and above the domes of the diaphragm,
    with any shadow that lies in them. Each lung is one connected region; it is empty where none was found.

    Args:
        films: (N, H, W) in [0, 1], bright = dense, upright.

    Returns:
        (N, 2, H, W) bool: first the patient's right lung, which lies on the left of the picture by the
        radiological convention, then the left lung.

    Raises:
        ValueError: the array has another shape.
        BundleError: the segmenter's file is missing or damaged.
    """
    if films.ndim != 3:
        raise ValueError(f"images {films.shape}, expected (N, H, W)")
    masks = np.zeros((len(films), 2, *films.shape[1:]), dtype=bool)
    for start in range(0, len(films), _BATCH):
        some = films[start : start + _BATCH]
        logits, _ = run_session(_session(None), np.stack([_input(film) for film in some]))
        for number, film in enumerate(logits, start):
            for side, lung in enumerate(film):
                masks[number, side] = _largest_part(resize(lung, films.shape[1:]) > 0)
    return masks


def segmenter_file() -> Path:
    """The package's segmenter, checked against ``lungs.json``.

    Raises:
        BundleError: the file is missing or damaged.
    """
    file = _DIRECTORY / "model.onnx"
    if not file.is_file() or sha256_file(file) != _document()["sha256"]:
        raise BundleError(
            "missing, or not the file that lungs.json names", where=file, remedy="install pneumoscope again"
        )
    return file


def segmenter_id(segmenter: Path | None = None) -> str:
    """Twelve hexadecimal digits that name a segmenter (None: the package's); keys what is kept of it."""
    return (sha256_file(segmenter) if segmenter else str(_document()["sha256"]))[:12]


def _input(film: npt.NDArray[np.floating]) -> FloatArray:
    """(1, G, G): the image as the segmenter sees it."""
    return expose(resize(film, (LUNG_SIZE, LUNG_SIZE)), _PREPROCESSING)[None]


def _box(log_odds: FloatArray) -> tuple[Box, str]:
    """The box of both lungs from their log-odds (2, G, G), and how it was found."""
    extents = [_extent(lung) for lung in _plausible(log_odds)]
    box, mended = _join(*extents)
    if box is not None:
        top, left, bottom, right = np.clip(box + BOX_MARGIN * np.array([-1, -1, 1, 1]), 0, 1).tolist()
        if bottom - top >= LEAST_SIDES[0] and right - left >= LEAST_SIDES[1]:
            return (top, left, bottom, right), "mended" if mended else "found"
    return (0.0, 0.0, 1.0, 1.0), "not-found"


def _plausible(log_odds: FloatArray) -> Iterator[Masks]:
    """The mask (G, G) of each lung in its own part of the picture, without crumbs."""
    masks = log_odds > 0
    cut = round(OWN_HALF * masks.shape[2])
    masks[0, :, cut:] = False
    masks[1, :, :-cut] = False
    for mask in masks:
        yield _without_crumbs(mask)


def _without_crumbs(mask: Masks) -> Masks:
    """The mask (G, G) without connected parts under a share :data:`PIECE` of the largest.

    Connected-component labelling by runs of a row and union-find (Rosenfeld and Pfaltz, JACM 13, 1966). On a
    grid this small it takes half a millisecond; importing ``scipy.ndimage`` would take as long as all else
    that a single answer needs.
    """
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = (index.tolist() for index in np.nonzero(edges == 1))
    ends = np.nonzero(edges == -1)[1].tolist()
    parent = list(range(len(rows)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    above = 0  # the first run of the row before that may touch this one
    for run, row in enumerate(rows):
        while rows[above] < row - 1 or (rows[above] == row - 1 and ends[above] <= starts[run]):
            above += 1
        for other in range(above, run):
            if rows[other] != row - 1 or starts[other] >= ends[run]:
                break
            parent[root(run)] = root(other)
    sizes = [0] * len(rows)
    for run in range(len(rows)):
        sizes[root(run)] += ends[run] - starts[run]
    kept = mask.copy()
    for run, row in enumerate(rows):
        if sizes[root(run)] < PIECE * max(sizes):
            kept[row, starts[run] : ends[run]] = False
    return kept


def _extent(mask: Masks) -> npt.NDArray[np.float64] | None:
    """(top, left, bottom, right) of a lung as shares of the sides; None where it was not found."""
    return _edges(mask) if mask.mean() >= LEAST_AREA else None


def _edges(mask: Masks) -> npt.NDArray[np.float64]:
    edges = []
    for axis in (1, 0):
        share = np.concatenate([[0], np.cumsum(mask.sum(axis=axis))]) / mask.sum()
        edges.append(np.interp([TAIL, 1 - TAIL], share, np.linspace(0, 1, len(share))))
    return np.stack(edges, axis=1).ravel()


def _join(
    right: npt.NDArray[np.float64] | None, left: npt.NDArray[np.float64] | None
) -> tuple[npt.NDArray[np.float64] | None, bool]:
    """The box of the patient's right and left lung, and whether one of them was completed by the other."""
    if right is None or left is None:
        one = right if left is None else left
        if one is None:
            return None, False
        reach = max(MIDLINE - one[1], one[3] - MIDLINE)
        return np.array([one[0], MIDLINE - reach, one[2], MIDLINE + reach]), True
    middle = (right[3] + left[1]) / 2
    if abs(middle - 0.5) > OFF_CENTRE or right[1] >= left[1] or right[3] >= left[3]:
        return None, False
    heights = right[2] - right[0], left[2] - left[0]
    reaches = middle - right[1], left[3] - middle
    mended = min(heights) < SHORT * max(heights) or min(reaches) < NARROW * max(reaches)
    if mended:
        reaches = (max(reaches),) * 2
    top, bottom = min(right[0], left[0]), max(right[2], left[2])
    return np.array([top, middle - reaches[0], bottom, middle + reaches[1]]), mended


def _largest_part(mask: Masks) -> Masks:
    """The largest connected part of a mask; crumbs elsewhere are the segmenter's errors."""
    from scipy import ndimage

    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = np.bincount(parts.ravel())[1:]
    return np.asarray(parts == 1 + int(sizes.argmax()))


@cache
def _document() -> dict[str, Any]:
    file = _DIRECTORY / "lungs.json"
    try:
        document: dict[str, Any] = read_json(file)
    except (OSError, ValueError) as error:
        raise BundleError(
            f"cannot be read: {error}", where=file, remedy="install pneumoscope again"
        ) from error
    return document


@cache
def _session(segmenter: Path | None) -> InferenceSession:
    """A segmenter, opened at first use and kept for the life of the process.

    It has one thread: images are prepared in several threads, and one of its passes takes milliseconds.
    """
    return open_session(segmenter or segmenter_file(), 1)
