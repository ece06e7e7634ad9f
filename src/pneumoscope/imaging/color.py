"""Colour pictures as films: their brightness, and whether they carry colour at all.

In: RGB in [0, 1]. Out: grey values in [0, 1]; many films are stored as RGB with three equal channels.
"""

from __future__ import annotations

import numpy as np

from pneumoscope.core.findings import Finding
from pneumoscope.core.records import FloatArray

# ITU-R BT.601-7 section 2.5.1: luminance of R, G and B.
_WEIGHTS = np.array([0.299, 0.587, 0.114], dtype=np.float32)
# JPEG rounds chroma: grey films saved as RGB come back with channels a few of 255 levels apart.
_CHANNEL_DIFFERENCE = 24 / 255
# Burned-in coloured letters cover less than this share of a film.
_COLORED_SHARE = 0.01


def luminance(colors: FloatArray) -> FloatArray:
    """RGB (H, W, 3) in [0, 1] to grey (H, W) float32 in [0, 1]."""
    grey: FloatArray = np.clip(colors @ _WEIGHTS, 0, 1)
    return grey


def colour_findings(colors: FloatArray) -> list[Finding]:
    """A refusal when more than one pixel in a hundred of an RGB image (H, W, 3) in [0, 1] is not grey."""
    spread = np.ptp(colors[::4, ::4], axis=-1)
    is_colored = (spread > _CHANNEL_DIFFERENCE).mean() > _COLORED_SHARE
    return [Finding.refusal("colour")] if is_colored else []
