"""The pointing game: does a heat map's strongest place lie in the lesion?

Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016, section 4.2: a map scores a hit
when its maximum lies in the object or at most 15 pixels beside it, on pictures of about 500 pixels; accuracy
is the share of hits of each class, averaged over the classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import DatasetError, UnreadableFileError
from pneumoscope.core.records import Label, Progress, Sample
from pneumoscope.data.dataset import Dataset
from pneumoscope.evaluation.intervals import proportion_estimate
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.pipeline import examine

TOLERANCE = 15 / 500
"""The original's 15 pixels as a share of a picture's longer side."""


@dataclass(frozen=True, slots=True)
class Pointing:
    """Where one heat map points.

    Attributes:
        hit: the maximum lies in the lesion.
        near: or at most :data:`TOLERANCE` of the longer side beside it.
        energy: share of the map's sum inside the lesion.
        area: share of the image's area, which is the energy of an even map and the hits of a random one.
    """

    hit: bool
    near: bool
    energy: float
    area: float


def point(heat_map: npt.NDArray[np.floating], lesion: npt.NDArray[np.bool_]) -> Pointing:
    """Play one image.

    Args:
        heat_map: (H, W), at least 0.
        lesion: (H, W), not empty.

    Returns:
        An empty map misses.

    Raises:
        ValueError: the sizes differ, or there is no lesion.
    """
    from scipy import ndimage

    if heat_map.shape != lesion.shape or not lesion.any():
        raise ValueError(f"heat map {heat_map.shape}, lesion {lesion.shape} of {int(lesion.sum())} pixels")
    total = float(heat_map.sum(dtype=np.float64))
    if total <= 0:
        return Pointing(False, False, 0.0, float(lesion.mean()))
    peak = np.unravel_index(int(heat_map.argmax()), heat_map.shape)
    distance = float(ndimage.distance_transform_edt(~lesion)[peak])
    return Pointing(
        hit=distance == 0,
        near=distance <= TOLERANCE * max(lesion.shape),
        energy=float(heat_map[lesion].sum(dtype=np.float64)) / total,
        area=float(lesion.mean()),
    )


def summarise(played: Sequence[tuple[Label, Pointing]]) -> dict[str, Any]:
    """Figures by class, and their means over the classes, JSON-able.

    Args:
        played: label and result of each image with a lesion.

    Returns:
        ``classes``: by label n, ``hit`` and ``near`` (estimates with Wilson intervals), energy, area;
        ``mean``: hit, near, energy and area, each class counted the same; ``tolerance``.
    """
    classes: dict[str, dict[str, Any]] = {}
    for label in sorted({label for label, _ in played}):
        own = [result for one, result in played if one is label]
        classes[str(label)] = {
            "n": len(own),
            "hit": _estimate([result.hit for result in own]),
            "near": _estimate([result.near for result in own]),
            "energy": float(np.mean([result.energy for result in own])),
            "area": float(np.mean([result.area for result in own])),
        }
    mean = {name: _mean([c[name]["value"] for c in classes.values()]) for name in ("hit", "near")}
    mean |= {name: _mean([c[name] for c in classes.values()]) for name in ("energy", "area")}
    return {"classes": classes, "mean": mean, "tolerance": TOLERANCE}


def mask_file(dataset: Dataset, sample: Sample, folder: Path | None = None) -> Path:
    """The lesion mask of an image: its relative path under ``folder``, as PNG.

    Args:
        dataset: of the image.
        sample: the image.
        folder: None is the folder beside the images that ends in ``-masks``, as phantoms have it.
    """
    folder = folder or dataset.root.with_name(f"{dataset.root.name}-masks")
    return (folder / sample.path).with_suffix(".png")


def play(
    bundle: Bundle,
    dataset: Dataset,
    samples: Sequence[Sample],
    folder: Path | None = None,
    progress: Progress | None = None,
) -> list[tuple[Sample, Pointing]]:
    """Play every image that has a lesion mask; the map is that of the image's own class, as in the original.

    Args:
        bundle: makes the maps; every image is answered, the gate is not asked.
        dataset: of the images.
        samples: images; those without a mask are passed over.
        folder: as :func:`mask_file` takes it.
        progress: called after each image.

    Raises:
        DatasetError: no image has a mask.
        UnreadableFileError: an image or a mask cannot be read.
    """
    masked = [sample for sample in samples if mask_file(dataset, sample, folder).is_file()]
    if not masked:
        where = folder or mask_file(dataset, samples[0]).parent if samples else dataset.directory
        raise DatasetError(
            "no image has a lesion mask",
            where=where,
            expected="a PNG for each image with a lesion, under the image's relative path",
            remedy="draw phantoms with 'pneumoscope data phantoms', or name the masks with --masks",
        )
    played = []
    for sample in masked:
        lesion = _read_mask(mask_file(dataset, sample, folder))
        explanation = examine(dataset.file(sample), bundle, force=True).explanation
        assert explanation is not None  # a forced examination always explains
        heat_map = explanation.heat_maps.get(str(sample.label), explanation.heat_map)
        played.append((sample, point(heat_map, lesion)))
        if progress:
            progress(len(played), len(masked))
    return played


def _read_mask(file: Path) -> npt.NDArray[np.bool_]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            return np.asarray(image.convert("L")) >= 128
    except (OSError, UnidentifiedImageError) as error:
        raise UnreadableFileError(f"the mask cannot be read: {error}", where=file) from error


def _estimate(hits: Sequence[bool]) -> dict[str, Any]:
    estimate = proportion_estimate(sum(hits), len(hits))
    assert estimate is not None  # a class has at least one image
    return asdict(estimate)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))
