"""Thumbnails for reports: an image, or an image beside its heat map, as JPEG; the worst mistakes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pneumoscope.core.records import Label
from pneumoscope.evaluation.predictions import PredictionTable
from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.overlay import overlay
from pneumoscope.inference.pipeline import examine

HEIGHT = 320
"""Rows of a thumbnail: two stand side by side in half of an A4 page at about 100 dots per inch."""

_QUALITY = 85


@dataclass(frozen=True, slots=True)
class Mistake:
    """An image that was answered wrongly.

    Attributes:
        path: as in the manifest.
        label: the reference.
        probability: calibrated, of pneumonia.
        missed: True for a missed pneumonia, False for a false alarm.
    """

    path: str
    label: Label
    probability: float
    missed: bool


def worst_mistakes(table: PredictionTable, threshold: float, count: int = 8) -> tuple[Mistake, ...]:
    """The wrong answers that were given with most confidence, missed pneumonias first.

    Half of ``count`` are missed pneumonias (lowest probability first) and half false alarms (highest first);
    where there are fewer of one kind, the other fills up.

    Args:
        table: predictions with their reference.
        threshold: a probability of pneumonia of at least this is an alarm.
        count: how many at most.
    """
    probability, positive = table.probability, table.positive
    alarm = probability >= threshold
    order = np.argsort(probability, kind="stable")
    missed = [row for row in order if positive[row] and not alarm[row]]
    false = [row for row in order[::-1] if not positive[row] and alarm[row]]
    half = count // 2
    chosen_missed = missed[: max(half, count - len(false))]
    chosen = [*chosen_missed, *false[: count - len(chosen_missed)]]
    return tuple(
        Mistake(table.paths[row], table.labels[row], float(probability[row]), bool(positive[row]))
        for row in chosen
    )


def film(file: Path, height: int = HEIGHT) -> bytes:
    """The image as a grey JPEG of ``height`` rows.

    Raises:
        UnreadableFileError: the image cannot be read.
    """
    radiograph = read_radiograph(file, min_size=height)
    return _jpeg(_scaled(_to_bytes(radiograph.pixels), height))


def film_beside_heat_map(file: Path, bundle: Bundle, height: int = HEIGHT) -> bytes:
    """The image and, beside it, the image under the heat map, as one JPEG of ``height`` rows.

    The heat map shows where the network found its answer; where the gate would refuse the image, it is asked
    all the same, since the run has scored the image.

    Raises:
        UnreadableFileError: the image cannot be read.
        BundleError: the bundle is damaged.
    """
    radiograph = read_radiograph(file, min_size=max(height, bundle.preprocessing.source_size))
    explanation = examine(file, bundle, force=True, radiograph=radiograph).explanation
    assert explanation is not None  # a forced examination always explains
    left = _scaled(_to_bytes(radiograph.pixels), height).convert("RGB")
    right = _scaled(overlay(radiograph.pixels, explanation.heat_map), height)
    pair = Image.new("RGB", (left.width + right.width + 6, height), "white")
    pair.paste(left, (0, 0))
    pair.paste(right, (left.width + 6, 0))
    return _jpeg(pair)


def _to_bytes(pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.rint(pixels * 255).astype(np.uint8)


def _scaled(pixels: npt.NDArray[np.uint8], height: int) -> Image.Image:
    image = Image.fromarray(pixels)
    width = max(1, round(image.width * height / image.height))
    return image.resize((width, height), Image.Resampling.LANCZOS)


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=_QUALITY)
    return stream.getvalue()
