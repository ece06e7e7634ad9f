"""Lung segmentation: a small network of our own that outlines each lung on a frontal chest radiograph.

It costs a second network pass of some milliseconds, so that only what needs the lungs asks for it: the audit
of shortcuts, the zones of an explanation, augmentation. Answering does not.

docs/lungs.md says what the
network learnt from and how well it agrees with outlines drawn by hand.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import BundleError
from pneumoscope.core.files import read_json, sha256_file
from pneumoscope.core.records import FloatArray, Preprocessing, Radiograph
from pneumoscope.imaging.preprocessing import to_model_input
from pneumoscope.inference.session import open_session, run_session

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

LUNG_SIZE = 96
"""Side of the segmenter's input in pixels: a rib is three pixels wide, a lung border is good to one."""

_DIRECTORY = Path(__file__).resolve().parent.parent / "bundles" / "lungs"
_PREPROCESSING = Preprocessing(LUNG_SIZE, "squash", "percentile")
_BATCH = 16


def segment_lungs(films: npt.NDArray[np.floating]) -> npt.NDArray[np.bool_]:
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
        inputs: FloatArray = np.stack([_input(film) for film in some])
        logits, _ = run_session(_session(), inputs)
        for number, film in enumerate(logits, start):
            for side, lung in enumerate(film):
                masks[number, side] = _largest_part(_on_film(lung, films.shape[1:]) > 0)
    return masks


def segmenter_id() -> str:
    """Twelve hexadecimal digits that name the segmenter; keys what is kept of its masks."""
    return str(_document()["sha256"])[:12]


def _input(film: npt.NDArray[np.floating]) -> FloatArray:
    radiograph = Radiograph(np.asarray(film, np.float32), (film.shape[0], film.shape[1]))
    return to_model_input(radiograph, _PREPROCESSING).array


def _on_film(lung: FloatArray, shape: tuple[int, ...]) -> FloatArray:
    """Log-odds (S, S) on the image's grid, bilinear."""
    from PIL import Image

    rows, columns = shape
    return np.asarray(Image.fromarray(lung).resize((columns, rows), Image.Resampling.BILINEAR))


def _largest_part(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
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
def _session() -> InferenceSession:
    """The segmenter, opened at first use and kept for the life of the process."""
    file = _DIRECTORY / "model.onnx"
    if not file.is_file() or sha256_file(file) != _document()["sha256"]:
        raise BundleError(
            "missing, or not the file that lungs.json names", where=file, remedy="install pneumoscope again"
        )
    return open_session(file)
