"""What can be measured of a film without looking at the lungs: the properties that may give its label away.

In: the manifest and the uint8 pixel cache. Out: one :class:`Property` a measure, a number a film. ``file``
properties come from the manifest (size, aspect, bytes, age, ...); ``picture`` properties describe exposure,
frame and sharpness of the cached pixels, whose percentiles were already stretched by the preprocessing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import Progress, Sample
from pneumoscope.data.cache import PixelCache

Values = npt.NDArray[np.float64]

_BLOCK = 256
CENTRE = (30 / 224, 190 / 224)
"""Rows and columns 30 to 190 of 224: the thorax without collimation, markers and burned-in text."""
_CORNER = 0.1
_NEARLY = 2


@dataclass(frozen=True)
class Property:
    """One measure of every film.

    Attributes:
        name: key in the JSON; title: for readers; unit: of the values, or empty.
        kind: ``file`` or ``picture``.
        values: (N,) float64, not-a-number where the manifest does not say.
        logarithmic: better shown on a logarithmic axis.
        names: of the values 0, 1, ... when they stand for categories.
    """

    name: str
    title: str
    unit: str
    kind: str
    values: Values
    logarithmic: bool = False
    names: tuple[str, ...] = ()


def measure_properties(
    samples: Sequence[Sample], cache: PixelCache, *, progress: Progress | None = None
) -> tuple[Property, ...]:
    """All properties of ``samples`` that any film has, in their order; constant ones are kept."""
    both = (*file_properties(samples), *picture_properties(samples, cache, progress=progress))
    return tuple(item for item in both if np.isfinite(item.values).any())


def file_properties(samples: Sequence[Sample]) -> tuple[Property, ...]:
    """What the manifest says of each file and person."""
    width = _numbers(samples, lambda s: s.width)
    height = _numbers(samples, lambda s: s.height)
    file_bytes = _numbers(samples, lambda s: s.file_bytes)
    size = [Property("file_bytes", "File size", "bytes", "file", file_bytes, logarithmic=True)]
    if np.ptp(width * height) != 0:
        density = file_bytes / (width * height)
        size.append(
            Property("bytes_per_pixel", "File size per pixel", "bytes", "file", density, logarithmic=True)
        )
    return (
        Property("width", "Width", "pixels", "file", width),
        Property("height", "Height", "pixels", "file", height),
        Property("aspect", "Width over height", "", "file", width / height),
        *size,
        Property("age", "Age", "years", "file", _numbers(samples, lambda s: s.age_years)),
        _categories("sex", "Sex", samples, lambda s: s.sex),
        _categories("view", "View", samples, lambda s: s.view),
        _categories("site", "Site", samples, lambda s: s.site),
    )


def picture_properties(
    samples: Sequence[Sample], cache: PixelCache, *, progress: Progress | None = None
) -> tuple[Property, ...]:
    """Exposure, frame and sharpness of each film, from the cached pixels (grey levels 0 to 255)."""
    rows = cache.rows(samples)
    measured = np.empty((len(rows), 7))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        measured[start : start + len(block)] = _measure(cache.pixels[block])
        if progress:
            progress(start + len(block), len(rows))
    level, level_range, centre_range, black, white, corners, sharpness = measured.T
    return (
        Property("mean_level", "Mean brightness", "grey levels", "picture", level),
        Property("contrast", "Contrast (standard deviation)", "grey levels", "picture", level_range),
        Property(
            "centre_range",
            "Grey range of the chest (5th to 95th percentile)",
            "grey levels",
            "picture",
            centre_range,
        ),
        Property("black_share", "Share of black pixels", "", "picture", black),
        Property("white_share", "Share of white pixels", "", "picture", white),
        Property("corner_level", "Brightness of the corners", "grey levels", "picture", corners),
        Property(
            "sharpness", "Sharpness (mean step between neighbours)", "grey levels", "picture", sharpness
        ),
    )


def _measure(pixels: npt.NDArray[np.uint8]) -> Values:
    """(n, 7) measures of (n, S, S) films."""
    n, side = len(pixels), pixels.shape[1]
    low, high = (round(side * edge) for edge in CENTRE)
    corner = max(1, round(side * _CORNER))
    whole, centre = grey_histograms(pixels), grey_histograms(pixels[:, low:high, low:high])
    levels = np.arange(256)
    mean = whole @ levels
    spread = np.sqrt(np.maximum(whole @ levels**2 - mean**2, 0))
    ends = (slice(None, corner), slice(-corner, None))
    corners = np.mean([pixels[:, r, c].reshape(n, -1).mean(axis=1) for r in ends for c in ends], axis=0)
    steps = np.abs(np.diff(pixels.astype(np.int16), axis=2)).reshape(n, -1).mean(axis=1)
    return np.stack(
        [
            mean,
            spread,
            grey_percentile(centre, 0.95) - grey_percentile(centre, 0.05),
            whole[:, : _NEARLY + 1].sum(axis=1),
            whole[:, 255 - _NEARLY :].sum(axis=1),
            corners,
            steps,
        ],
        axis=1,
    )


def grey_histograms(pixels: npt.NDArray[np.uint8]) -> Values:
    """(n, 256) share of each grey level."""
    n = len(pixels)
    index = pixels.reshape(n, -1) + 256 * np.arange(n, dtype=np.int32)[:, None]
    counts = np.bincount(index.ravel(), minlength=256 * n).reshape(n, 256)
    return counts / counts.sum(axis=1, keepdims=True)


def grey_percentile(histograms: Values, share: float) -> Values:
    """The lowest grey level up to which at least ``share`` of the pixels lie, (n,)."""
    return (np.cumsum(histograms, axis=1) >= share - 1e-12).argmax(axis=1).astype(np.float64)


def _numbers(samples: Sequence[Sample], read: Callable[[Sample], float | None]) -> Values:
    return np.array([np.nan if read(s) is None else read(s) for s in samples], dtype=np.float64)


def _categories(
    name: str, title: str, samples: Sequence[Sample], read: Callable[[Sample], str | None]
) -> Property:
    names = sorted({value for s in samples if (value := read(s)) is not None})
    codes = _numbers(samples, lambda s: None if read(s) is None else names.index(str(read(s))))
    return Property(name, title, "", "file", codes, names=tuple(names))
