"""Resampling and exposure of pixel arrays, shared by the network's input and the lung segmenter's."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from pneumoscope.core.errors import ConfigError
from pneumoscope.core.records import FloatArray, Preprocessing

Box = tuple[float, float, float, float]

# An image whose percentiles lie closer than one level of 8 bits is blank; stretching would show noise only.
_BLANK = 1 / 255


def resize(array: npt.NDArray[np.floating], size: tuple[int, int], box: Box | None = None) -> FloatArray:
    """(h, w) float32 to ``size`` (rows, columns), bilinear; Pillow widens the filter when it shrinks.

    Of Pillow's filters this one brings images of original size closest to the publisher's 224-px twins (mean
    absolute difference 0.0086, bicubic 0.0098, Lanczos 0.0106), and it never overshoots [0, 1].

    Args:
        array: the pixels.
        size: of the result.
        box: (top, left, bottom, right) of the part to take, in pixels and fractions of them; None: all.
    """
    if array.shape == size and box is None:
        return np.asarray(array, np.float32)
    picture = Image.fromarray(np.ascontiguousarray(array, dtype=np.float32))
    part = None if box is None else (box[1], box[0], box[3], box[2])
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR, box=part))


def expose(film: FloatArray, preprocessing: Preprocessing, reference: FloatArray | None = None) -> FloatArray:
    """Map the percentiles of ``reference`` (None: of the image itself) to 0 and 1; a blank image stays.

    Raises:
        ConfigError: an unknown exposure, or impossible percentiles.
    """
    if preprocessing.exposure == "none":
        return film
    low, high = preprocessing.percentiles
    if preprocessing.exposure != "percentile" or not 0 <= low < high <= 100:
        raise ConfigError(
            f"impossible exposure '{preprocessing.exposure}' with percentiles {low:g} and {high:g}",
            expected="none, or percentile with 0 <= low < high <= 100",
        )
    dark, bright = np.percentile(film if reference is None else reference, (low, high))
    if bright - dark < _BLANK:
        return film
    exposed: FloatArray = np.clip((film - np.float32(dark)) / np.float32(bright - dark), 0, 1)
    return exposed
