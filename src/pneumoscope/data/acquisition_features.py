"""How a film was taken and processed, in numbers: exposure, frame and texture, not what is in it.

In: a cache of films whose grey levels are as the file has them (:data:`ACQUISITION`, no exposure stretch).
Out: a number a film and feature. Facts of the file (size, bytes, header) take no part, so that copies that
were all saved alike can be told apart by what their first acquisition left in the pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import Preprocessing, Progress, Sample
from pneumoscope.data.audit_properties import CENTRE, grey_histograms, grey_percentile
from pneumoscope.data.cache import PixelCache

ACQUISITION = Preprocessing(size=224, fit="squash", exposure="none")
"""What the features are measured on: the grey levels of the file, all films at one size."""

Films = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]

_BLOCK = 64  # films at a time: their spectra are 26 MB
_NEARLY = 2  # grey levels from black or white that still count as black or white
_BORDER, _CORNER = 14 / 224, 24 / 224  # width of a border strip and side of a corner, as shares of the side
_BANDS = 8  # of the spectrum
_LOWEST, _HIGHEST = 0.02, 0.5  # cycles a pixel: below lies the anatomy, above is nothing (Nyquist)
_FILM_PERCENTILES, _CENTRE_PERCENTILES = (1, 5, 25, 50, 75, 95, 99), (5, 25, 50, 75, 95)


@dataclass(frozen=True, slots=True)
class Feature:
    """One measure: its key, its name for readers, and its group (``exposure``, ``frame`` or ``texture``)."""

    name: str
    title: str
    group: str


FEATURES = (
    *(Feature(f"film_p{p}", f"grey level, {p} % of the film", "exposure") for p in _FILM_PERCENTILES),
    *(Feature(f"centre_p{p}", f"grey level, {p} % of the chest", "exposure") for p in _CENTRE_PERCENTILES),
    Feature("entropy", "entropy of the grey levels", "exposure"),
    Feature("black_share", "share of black", "frame"),
    Feature("white_share", "share of white", "frame"),
    *(
        Feature(f"border_{side}", f"brightness of the {side} border", "frame")
        for side in ("top", "bottom", "left", "right")
    ),
    *(
        Feature(f"corner_{row}_{side}", f"brightness of the {row} {side} corner", "frame")
        for row in ("top", "bottom")
        for side in ("left", "right")
    ),
    *(
        Feature(f"spectrum_{band}", f"detail, band {band} of {_BANDS - 1}", "texture")
        for band in range(1, _BANDS)
    ),
    Feature("spectrum_slope", "slope of the spectrum", "texture"),
    Feature("grain", "grain (median step in the Laplacian)", "texture"),
    Feature("sharpness", "sharpness (mean step between neighbours)", "texture"),
)
"""Every feature, in the order of the columns."""


@dataclass(frozen=True)
class AcquisitionFeatures:
    """The features of N films: values (N, F) float64, columns as in :data:`FEATURES`."""

    values: Values

    def group(self, name: str) -> Values:
        """The columns of one group."""
        return self.values[:, [feature.group == name for feature in FEATURES]]


def measure_acquisition(
    samples: Sequence[Sample], cache: PixelCache, *, progress: Progress | None = None
) -> AcquisitionFeatures:
    """The features of ``samples``, in their order.

    Args:
        samples: films.
        cache: of :data:`ACQUISITION`.
        progress: called with the number of films done.
    """
    rows = cache.rows(samples)
    values = np.empty((len(rows), len(FEATURES)))
    for start in range(0, len(rows), _BLOCK):
        films = cache.pixels[rows[start : start + _BLOCK]]
        values[start : start + len(films)] = np.concatenate(
            [_exposure(films), _frame(films), _texture(films)], axis=1
        )
        if progress:
            progress(start + len(films), len(rows))
    return AcquisitionFeatures(values)


def _exposure(films: Films) -> Values:
    low, high = (round(films.shape[1] * edge) for edge in CENTRE)
    whole, centre = grey_histograms(films), grey_histograms(films[:, low:high, low:high])
    levels = [grey_percentile(whole, p / 100) for p in _FILM_PERCENTILES]
    levels += [grey_percentile(centre, p / 100) for p in _CENTRE_PERCENTILES]
    bits = -(whole * np.log2(np.where(whole > 0, whole, 1))).sum(axis=1)
    return np.stack([*levels, bits], axis=1)


def _frame(films: Films) -> Values:
    side = films.shape[1]
    border, corner = round(side * _BORDER), round(side * _CORNER)
    strips = [films[:, :border], films[:, -border:], films[:, :, :border], films[:, :, -border:]]
    ends = (slice(None, corner), slice(-corner, None))
    corners = [films[:, row, column] for row in ends for column in ends]
    black, white = films <= _NEARLY, films >= 255 - _NEARLY
    return np.stack(
        [part.reshape(len(films), -1).mean(axis=1) for part in (black, white, *strips, *corners)], axis=1
    )


def _texture(films: Films) -> Values:
    bands, centres = _spectrum(films)
    relative = bands - bands[:, :1]
    offsets = np.log(centres) - np.log(centres).mean()
    slope = relative @ offsets / (offsets**2).sum()
    pixels = films.astype(np.float32)
    inner = pixels[:, 1:-1, 1:-1]
    around = pixels[:, :-2, 1:-1] + pixels[:, 2:, 1:-1] + pixels[:, 1:-1, :-2] + pixels[:, 1:-1, 2:]
    grain = np.median(np.abs(4 * inner - around), axis=(1, 2))
    steps = np.abs(np.diff(pixels, axis=2)).mean(axis=(1, 2))
    # Steps are ratios of contrast: on a logarithmic scale, where half a grey level keeps a flat film finite.
    return np.column_stack([relative[:, 1:], slope, np.log(grain + 0.5), np.log(steps + 0.5)])


def _spectrum(films: Films) -> tuple[Values, Values]:
    """Logarithm of the mean power in bands of frequency (n, bands), and the bands' centres (bands,)."""
    side = films.shape[1]
    window = np.hanning(side)[:, None] * np.hanning(side)
    centred = films - films.mean(axis=(1, 2), keepdims=True)
    power = np.abs(np.fft.rfft2(centred * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    edges = np.geomspace(_LOWEST, _HIGHEST, _BANDS + 1)
    bands = [power[:, (frequency >= low) & (frequency < high)].mean(axis=1) for low, high in pairwise(edges)]
    # A blank film has no power anywhere; one unit keeps its logarithm finite.
    return np.log(np.stack(bands, axis=1) + 1), np.sqrt(edges[:-1] * edges[1:])
