"""Little images for tests of the line: smooth, 120 x 160, with a chosen mean."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_film(file: Path, mean: float) -> Path:
    """Write a smooth grey picture of about that mean; the gate finds nothing wrong with it."""
    row, column = np.mgrid[-1:1:120j, -1:1:160j]
    lungs = np.exp(-(((np.abs(column) - 0.4) / 0.2) ** 2) - (row / 0.6) ** 2)
    pixels = np.clip(mean + 0.3 * (lungs.mean() - lungs), 0, 1)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.rint(255 * pixels).astype(np.uint8)).save(file)
    return file
