"""Nearest neighbours: the training images that the network finds most alike, without a second pass.

A bundle may keep a short code of every training image: its pooled features, scaled to unit length and
projected on their leading components. What it tells of an image is the hash of its file, the class and the
similarity; where the data set is at hand, the hash leads to the picture.

(Caruana et al.,
Case-Based Explanation of Non-Case-Based Learning Methods, AMIA 1999: distance in what a network has learnt.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import NearestCase
from pneumoscope.inference.gate import unit_features

if TYPE_CHECKING:
    from pneumoscope.data.dataset import Dataset
    from pneumoscope.inference.bundle import Bundle

CASES = 5
"""Training images that are shown."""

MOST_DIMENSIONS = 32
MOST_FILMS = 5000
"""Images, and numbers an image, that a bundle keeps at most: 640 kB of codes."""

DIGITS = 16
"""Hexadecimal digits that name an image, as in ``training.films``."""


def fit_neighbours(
    features: npt.NDArray[Any], films: Sequence[str], targets: Sequence[int]
) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    """The part of a bundle that finds nearest cases.

    Args:
        features: (N, C), feature maps of training images averaged over rows and columns; N at least 2.
        films: N SHA-256 hashes, or at least their first 16 digits.
        targets: N class indices.

    Returns:
        document: what ``bundle.json`` says under ``neighbours``: images (their first 16 digits, in the order
            of the arrays), dimensions.
        arrays: neighbour_mean (C,), neighbour_components (d, C), neighbour_codes (N, d), neighbour_targets
            (N,). Of more than :data:`MOST_FILMS` images those with the lowest hashes are kept, which is as
            good as by chance.
    """
    from sklearn.decomposition import PCA

    # An image that is there twice, as duplicates are, is kept once.
    first = {films[row]: row for row in reversed(range(len(films)))}
    kept = [first[film] for film in sorted(first)][:MOST_FILMS]
    unit = unit_features(features[kept])
    dimensions = min(MOST_DIMENSIONS, len(kept) - 1, unit.shape[1])
    pca = PCA(dimensions, svd_solver="full").fit(unit)
    components = pca.components_.astype(np.float32)
    mean = pca.mean_.astype(np.float32)
    document = {"dimensions": dimensions, "films": [films[row][:DIGITS] for row in kept]}
    arrays = {
        "neighbour_mean": mean,
        "neighbour_components": components,
        "neighbour_codes": ((unit - mean) @ components.T).astype(np.float32),
        "neighbour_targets": np.array([targets[row] for row in kept], np.float32),
    }
    return document, arrays


def nearest_cases(
    bundle: Bundle, pooled_features: npt.NDArray[Any], count: int = CASES
) -> tuple[NearestCase, ...] | None:
    """The training images whose codes lie nearest to an image's, the nearest first.

    Args:
        bundle: whose training images.
        pooled_features: (C,), the feature map averaged over rows and columns.
        count: how many.

    Returns:
        At most ``count`` cases; None where the bundle keeps no codes. Similarity is the cosine between the
        codes, which are centred on the mean training image: two images drawn by chance have one of about 0.
    """
    document = bundle.document.get("neighbours")
    if document is None:
        return None
    arrays = bundle.arrays
    centred = unit_features(pooled_features[None])[0] - arrays["neighbour_mean"]
    code = arrays["neighbour_components"] @ centred
    codes = arrays["neighbour_codes"]
    lengths = np.linalg.norm(codes, axis=1) * np.linalg.norm(code)
    similarity = codes @ code / np.maximum(lengths, np.finfo(np.float32).tiny)
    classes, targets = bundle.task.classes, arrays["neighbour_targets"].astype(int)
    return tuple(
        NearestCase(document["films"][row], classes[targets[row]], float(similarity[row]))
        for row in np.argsort(-similarity, kind="stable")[:count]
    )


def locate_cases(cases: Sequence[NearestCase], dataset: Dataset) -> tuple[NearestCase, ...]:
    """The cases with the paths of the images of ``dataset`` that have their hashes; others have none."""
    paths = {sample.sha256[:DIGITS]: str(dataset.file(sample)) for sample in dataset.samples}
    return tuple(replace(case, path=paths.get(case.film)) for case in cases)
