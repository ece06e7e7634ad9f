"""Image quality checks of the model input: orientation, composition, symmetry, sharpness and exposure.

A thumbnail is compared with those of the training images, as it is, turned and inverted: when another way of
holding the radiograph is much more usual, it is held wrongly. Four plain statistics tell one-sided, blurred
and badly exposed radiographs. All of it takes less than a millisecond and needs no second network pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pneumoscope.core.findings import Finding
from pneumoscope.core.records import FloatArray
from pneumoscope.inference.gaussian import (
    Gaussian,
    distances,
    fit_gaussian,
    from_arrays,
    to_arrays,
    upper_bound,
)

ARRAYS = "appearance"
"""First part of the names of the bundle's arrays."""

SIDE = 32
"""Of the thumbnail: ribs vanish, lungs, heart and shoulders stay."""

COMPONENTS = 20
"""Few: with 60, Guangzhou images and their negatives come nearer to one another."""

REFUSAL_MARGIN = 1.5
"""The refusal bound as a multiple of the warning bound (docs/gate.md: what lies beyond it)."""

TURN_MARGIN = 0.1
"""By how much another way of holding an image must be nearer. Of 1,049 Guangzhou images none reaches -0.1 as
it should be held; of 750 turned or inverted ones the least clear reach 0.13."""

BURNT_OUT, BLACKED_OUT = 0.4, 0.75
"""Shares of white and of black from which no image can be read; of Guangzhou images at most 0.03 and 0.28."""

SHIFTS = (-4, -2, 0, 2, 4)
"""Of the axis of symmetry in cells of the thumbnail: images lie a few centimetres off the middle."""

_WHITE, _BLACK = 0.995, 0.005
_HELD = ("turned", "upside-down", "turned", "looks-negative")
"""Findings of the other ways of holding a radiograph, in the order of :func:`_held_otherwise`."""

Floats = npt.NDArray[np.float64]


class Appearance(NamedTuple):
    """What is known of N images.

    Attributes:
        thumbnails: (N, SIDE, SIDE), each of mean 0 and standard deviation 1; a blank image is all 0.
        symmetry: (N,) correlation with the mirror image, at the best axis.
        sharpness: (N,) log of the Laplacian's standard deviation over the image's own.
        white, black: (N,) shares of pixels at the ends of the scale.
    """

    thumbnails: Floats
    symmetry: Floats
    sharpness: Floats
    white: Floats
    black: Floats


def measure(films: FloatArray) -> Appearance:
    """Measure model inputs (N, 1, S, S) in [0, 1]."""
    return join(_measure_one(film) for film in films[:, 0])


def join(parts: Iterator[Appearance]) -> Appearance:
    """Appearances of several batches as one."""
    return Appearance(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def fit_appearance(
    training: Appearance, validation: Appearance, rate: float
) -> tuple[dict[str, float], dict[str, npt.NDArray[np.float32]]]:
    """The part ``gate.appearance`` of a bundle, and its arrays.

    Args:
        training: of at least 8 images, shown upright.
        validation: of at least 1.
        rate: share of usual images that may lie beyond the bound of the thumbnail's distance; beyond those
            of the statistics, all together.

    Returns:
        Bounds: of warning and refusal for the distance, ``turn`` and one or two for each. An image is
        refused for its symmetry at a quarter of the rate of the warning, for its sharpness twice as far from
        the median.
    """
    gaussian = fit_gaussian(
        _flat(training.thumbnails), most_components=min(COMPONENTS, len(training.symmetry) // 4)
    )
    own = distances(gaussian, _flat(validation.thumbnails))
    others = np.min([distances(gaussian, _flat(t)) for t in _held_otherwise(validation.thumbnails)], axis=0)
    every = join(iter((training, validation)))  # statistics know nothing of the training
    share = rate / 5  # five tails
    least_sharpness = -upper_bound(-every.sharpness, share)
    usual = upper_bound(own, rate)
    bounds = {
        "warn_distance": usual,
        "refuse_distance": REFUSAL_MARGIN * usual,
        "turn": max(TURN_MARGIN, float((own - others).max())),
        "warn_symmetry": -upper_bound(-every.symmetry, share),
        "refuse_symmetry": -upper_bound(-every.symmetry, share / 4),
        "warn_sharpness": least_sharpness,
        "refuse_sharpness": float(2 * least_sharpness - np.median(every.sharpness)),
        "warn_grain": upper_bound(every.sharpness, share),
        "warn_white": upper_bound(every.white, share),
        "warn_black": upper_bound(every.black, share),
    }
    return bounds, to_arrays(gaussian, ARRAYS)


def inspect_appearance(
    bounds: Mapping[str, float], arrays: Mapping[str, npt.NDArray[Any]], film: FloatArray
) -> tuple[tuple[Finding, ...], float]:
    """What an image's picture says against answering.

    Args:
        bounds: ``gate.appearance`` of the bundle.
        arrays: of the bundle.
        film: (1, S, S) in [0, 1], the model input.

    Returns:
        Findings, and the distance of the image's thumbnail.
    """
    return inspect_measured(bounds, arrays, measure(film[None]))


def inspect_measured(
    bounds: Mapping[str, float], arrays: Mapping[str, npt.NDArray[Any]], seen: Appearance
) -> tuple[tuple[Finding, ...], float]:
    """As :func:`inspect_appearance`, of the appearance of one image."""
    gaussian = from_arrays(arrays, ARRAYS)
    own = float(distances(gaussian, _flat(seen.thumbnails))[0])
    return (*_held(bounds, gaussian, seen, own), *_quality(bounds, seen)), own


def _held(bounds: Mapping[str, float], gaussian: Gaussian, seen: Appearance, own: float) -> Iterator[Finding]:
    """Whether the image is upright, a positive, and a whole frontal chest."""
    otherwise = [float(distances(gaussian, _flat(t))[0]) for t in _held_otherwise(seen.thumbnails)]
    best = int(np.argmin(otherwise))
    if own - otherwise[best] > bounds["turn"] and otherwise[best] <= bounds["refuse_distance"]:
        yield Finding.refusal(_HELD[best])
    elif own > bounds["refuse_distance"]:
        yield Finding.refusal("not-composed")
    elif own > bounds["warn_distance"]:
        yield Finding.warning("composed-unusually")


def _quality(bounds: Mapping[str, float], seen: Appearance) -> Iterator[Finding]:
    """Whether both sides are there, and whether the image is sharp and well exposed."""
    symmetry, sharpness = float(seen.symmetry[0]), float(seen.sharpness[0])
    white, black = float(seen.white[0]), float(seen.black[0])
    if symmetry < bounds["refuse_symmetry"]:
        yield Finding.refusal("sides-differ")
    elif symmetry < bounds["warn_symmetry"]:
        yield Finding.warning("sides-differ-somewhat")
    if sharpness < bounds["refuse_sharpness"]:
        yield Finding.refusal("too-blurred")
    elif sharpness < bounds["warn_sharpness"]:
        yield Finding.warning("blurred")
    elif sharpness > bounds["warn_grain"]:
        yield Finding.warning("grainy")
    if white > BURNT_OUT:
        yield Finding.refusal("overexposed", share=white)
    elif black > BLACKED_OUT:
        yield Finding.refusal("underexposed", share=black)
    elif white > bounds["warn_white"]:
        yield Finding.warning("bright", share=white)
    elif black > bounds["warn_black"]:
        yield Finding.warning("dark", share=black)


def _measure_one(film: FloatArray) -> Appearance:
    from PIL import Image

    small = Image.fromarray(np.ascontiguousarray(film)).resize((SIDE, SIDE), Image.Resampling.BOX)
    thumbnail = np.asarray(small, np.float64)
    thumbnail = thumbnail - thumbnail.mean()
    if thumbnail.std() > np.finfo(np.float32).eps:
        thumbnail /= thumbnail.std()
    centre = film[1:-1, 1:-1]
    laplacian = 4 * centre - film[:-2, 1:-1] - film[2:, 1:-1] - film[1:-1, :-2] - film[1:-1, 2:]
    tiny = np.finfo(np.float32).eps
    values = (
        max(_symmetry(thumbnail, shift) for shift in SHIFTS),
        float(np.log((laplacian.std() + tiny) / (film.std() + tiny))),
        float((film >= _WHITE).mean()),
        float((film <= _BLACK).mean()),
    )
    return Appearance(thumbnail[None], *(np.array([value]) for value in values))


def _symmetry(thumbnail: Floats, shift: int) -> float:
    """Correlation of a thumbnail with its mirror image about an axis ``shift`` / 2 cells off the middle."""
    part = thumbnail[:, max(0, shift) : SIDE + min(0, shift)]
    centred = part - part.mean()
    power = float((centred**2).sum())
    return float((centred * centred[:, ::-1]).sum()) / power if power > 0 else 0.0


def _held_otherwise(thumbnails: Floats) -> Iterator[Floats]:
    """The thumbnails (N, SIDE, SIDE) turned and inverted."""
    for quarters in (1, 2, 3):
        yield np.rot90(thumbnails, quarters, axes=(1, 2))
    yield -thumbnails


def _flat(thumbnails: Floats) -> Floats:
    return thumbnails.reshape(len(thumbnails), -1)
