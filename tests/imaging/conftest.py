"""Images that the imaging tests share."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def films():
    """The folder of real images that PNEUMOSCOPE_DATA names."""
    folder = os.environ.get("PNEUMOSCOPE_DATA")
    if not folder:
        pytest.skip("PNEUMOSCOPE_DATA names no folder of real images")
    return Path(folder)


@pytest.fixture(scope="session")
def chest():
    """A drawn chest (240, 200) float32 in [0, 1]: dark lungs and air, bright mediastinum and abdomen."""
    rows, columns = np.mgrid[0:240, 0:200] / np.array([240, 200]).reshape(2, 1, 1)
    pixels = np.full((240, 200), 0.6)
    pixels[rows < 0.18] = 0.1
    for center in (0.28, 0.72):
        pixels[((rows - 0.5) / 0.28) ** 2 + ((columns - center) / 0.16) ** 2 < 1] = 0.25
    pixels[rows > 0.8] = 0.8
    return pixels.astype(np.float32)
