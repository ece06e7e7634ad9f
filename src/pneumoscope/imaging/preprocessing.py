"""Preprocessing of a radiograph to the model input, and the geometry that undoes it.

crop to the lung field (fit ``lungs``) -> resize (antialiased) -> letterbox padding -> exposure
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import ConfigError
from pneumoscope.core.records import (
    FloatArray,
    Geometry,
    LungField,
    ModelInput,
    Preprocessing,
    Radiograph,
    freeze,
)
from pneumoscope.imaging.lungs import find_lung_field, segmenter_id
from pneumoscope.imaging.resampling import Box, expose, resize

# Part of the fingerprint: raise it whenever the same settings give other pixels than before.
_REVISION = 2


def to_model_input(radiograph: Radiograph, preprocessing: Preprocessing) -> ModelInput:
    """Crop, resize, pad and normalise an image for the network.

    Returns:
        Array (1, S, S) float32 in [0, 1] and its geometry. Padding is 0 and takes no part in the exposure;
        a blank image keeps its value.

    Raises:
        ConfigError: the preprocessing names an unknown fit or exposure, or impossible percentiles.
    """
    if preprocessing.fit == "lungs":
        lungs = find_lung_field(radiograph.pixels, preprocessing.segmenter)
        array = _crop(radiograph.pixels, lungs.box, preprocessing, margin=0)
        side = preprocessing.size
        geometry = Geometry(radiograph.original_size, side, (0, 0, side, side), lungs.box)
        return ModelInput(freeze(array[None]), geometry, lungs)
    geometry = _geometry(radiograph.original_size, preprocessing)
    top, left, height, width = geometry.content
    array = np.zeros((1, preprocessing.size, preprocessing.size), dtype=np.float32)
    film = resize(radiograph.pixels, (height, width))
    array[0, top : top + height, left : left + width] = expose(film, preprocessing)
    return ModelInput(freeze(array), geometry)


def to_training_input(
    radiograph: Radiograph, preprocessing: Preprocessing
) -> tuple[FloatArray, LungField | None]:
    """What training keeps of an image: the model input with the margin that augmentation moves the crop in.

    Returns:
        (C, C) float32 in [0, 1], C = ``preprocessing.context``, whose middle (S, S) is the model input, and
        the lung field; black beyond the image. Without a crop C is S, and there is no lung field.
    """
    if preprocessing.fit != "lungs":
        return to_model_input(radiograph, preprocessing).array[0], None
    lungs = find_lung_field(radiograph.pixels, preprocessing.segmenter)
    return _crop(radiograph.pixels, lungs.box, preprocessing, margin=preprocessing.margin), lungs


def to_original(geometry: Geometry, map: npt.NDArray[np.floating]) -> FloatArray:
    """A map on the model's grid, laid back onto the image.

    Args:
        geometry: of the model input.
        map: (S, S), one value a model pixel.

    Returns:
        (H, W) float32 on the original pixel grid, bilinear; the padding is cut off, and what lies outside the
        crop is 0. A constant map stays constant inside, and values stay between the map's extremes.

    Raises:
        ValueError: the map has another size.
    """
    side = geometry.input_size
    if map.shape != (side, side):
        raise ValueError(f"the map has shape {map.shape}, expected {(side, side)}")
    top, left, height, width = geometry.content
    content = np.asarray(map[top : top + height, left : left + width], dtype=np.float32)
    first_row, first_column, last_row, last_column = geometry.crop
    original = np.zeros(geometry.original_size, np.float32)
    size = last_row - first_row, last_column - first_column
    original[first_row:last_row, first_column:last_column] = resize(content, size)
    return original


def fingerprint(preprocessing: Preprocessing) -> str:
    """12 hexadecimal digits that name the preprocessing and this implementation of it; keys caches."""
    text = json.dumps({"revision": _REVISION, **described(preprocessing)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def described(preprocessing: Preprocessing) -> dict[str, Any]:
    """The preprocessing as JSON values; the segmenter of fit ``lungs`` by name, never by its place."""
    values = asdict(preprocessing)
    segmenter = values.pop("segmenter")
    return values | ({"segmenter": segmenter_id(segmenter)} if preprocessing.fit == "lungs" else {})


def middle(films: npt.NDArray[np.uint8], size: int) -> npt.NDArray[np.uint8]:
    """The model inputs (N, S, S) inside training inputs (N, C, C)."""
    first = (films.shape[-1] - size) // 2
    return films[:, first : first + size, first : first + size]


def _geometry(original_size: tuple[int, int], preprocessing: Preprocessing) -> Geometry:
    side = preprocessing.size
    if preprocessing.fit == "squash":
        return Geometry(original_size, side, (0, 0, side, side))
    if preprocessing.fit != "letterbox":
        raise ConfigError(f"unknown fit '{preprocessing.fit}'", expected="squash, letterbox or lungs")
    rows, columns = original_size
    longest = max(rows, columns)
    height = max(1, round(rows * side / longest))
    width = max(1, round(columns * side / longest))
    return Geometry(original_size, side, ((side - height) // 2, (side - width) // 2, height, width))


def _crop(pixels: FloatArray, box: Box, preprocessing: Preprocessing, margin: int) -> FloatArray:
    """The box as (S, S), with ``margin`` pixels of that scale round it; exposed by the box alone."""
    side = preprocessing.size
    rows, columns = (_span(box[axis], box[axis + 2], pixels.shape[axis], side, margin) for axis in (0, 1))
    part = (rows.start, columns.start, rows.end, columns.end)
    film = resize(pixels, (rows.last - rows.first, columns.last - columns.first), part)
    middle = film[-rows.first : side - rows.first, -columns.first : side - columns.first]
    array = np.zeros((side + 2 * margin,) * 2, np.float32)
    array[margin + rows.first : margin + rows.last, margin + columns.first : margin + columns.last] = expose(
        film, preprocessing, middle
    )
    return array


class _Span(NamedTuple):
    """One axis of a crop: model pixels ``first`` to ``last`` lie on the image, from ``start`` to ``end``."""

    first: int
    last: int
    start: float
    end: float


def _span(low: float, high: float, length: int, side: int, margin: int) -> _Span:
    """The whole model pixels from -``margin`` to ``side`` + ``margin`` that lie on the image.

    Args:
        low, high: edges of the box as shares of the axis, whose model pixels are 0 and ``side``.
        length: of the axis in image pixels.
    """
    start, step = low * length, (high - low) * length / side
    slack = 1e-6  # an edge of the box that lies on the image's edge is a whole pixel despite rounding
    first = max(-margin, math.ceil(-start / step - slack))
    last = min(side + margin, math.floor((length - start) / step + slack))
    return _Span(first, last, max(0.0, start + first * step), min(float(length), start + last * step))
