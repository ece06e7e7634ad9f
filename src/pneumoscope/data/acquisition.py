"""Cluster radiographs by how they were acquired and processed, and score how well that tells the classes.

Features describe exposure, frame and texture of grey levels as the file has them, not what is in the picture;
facts of the file (size, bytes, header) take no part. Where class and acquisition go together, a network can
learn the acquisition (a shortcut); leaving whole clusters out of its training shows how much it did.

Features are centred on their median, scaled by their quartiles and cut at three deviations, so that a few odd
images do not make a cluster. Each group of features weighs the same, whatever its number (multiple factor
analysis: Escofier & Pages, Computational Statistics & Data Analysis 18, 1994); k-means runs on the leading
principal components. The number of clusters is the one with the largest mean silhouette (Rousseeuw, J.
Comput. Appl. Math. 20, 1987).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.records import Label, Preprocessing, Progress, Sample
from pneumoscope.data.cache import PixelCache, build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.shortcuts import (
    CENTRE,
    METHOD,
    Question,
    ask,
    grey_histograms,
    grey_percentile,
    predict_jointly,
    score_jointly,
    score_property,
)

ACQUISITION = Preprocessing(size=224, fit="squash", exposure="none")
"""What the features are measured on: the grey levels of the file, all images at one size."""

Films = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]

_BLOCK = 64  # images at a time: their spectra are 26 MB
_NEARLY = 2  # grey levels from black or white that still count as black or white
_BORDER, _CORNER = 14 / 224, 24 / 224  # width of a border strip and side of a corner, as shares of the side
_BANDS = 8  # of the spectrum
_LOWEST, _HIGHEST = 0.02, 0.5  # cycles a pixel: below lies the anatomy, above is nothing (Nyquist)
_FILM_PERCENTILES, _CENTRE_PERCENTILES = (1, 5, 25, 50, 75, 95, 99), (5, 25, 50, 75, 95)


@dataclass(frozen=True, slots=True)
class Feature:
    """One measure: its key, its name for readers, and its group (``exposure``, ``frame`` or ``texture``)."""

    name: str
    title: str
    group: str


FEATURES = (
    *(Feature(f"film_p{p}", f"grey level, {p} % of the image", "exposure") for p in _FILM_PERCENTILES),
    *(Feature(f"centre_p{p}", f"grey level, {p} % of the chest", "exposure") for p in _CENTRE_PERCENTILES),
    Feature("entropy", "entropy of the grey levels", "exposure"),
    Feature("black_share", "share of black", "frame"),
    Feature("white_share", "share of white", "frame"),
    *(
        Feature(f"border_{side}", f"brightness of the {side} border", "frame")
        for side in ("top", "bottom", "left", "right")
    ),
    *(
        Feature(f"corner_{row}_{side}", f"brightness of the {row} {side} corner", "frame")
        for row in ("top", "bottom")
        for side in ("left", "right")
    ),
    *(
        Feature(f"spectrum_{band}", f"detail, band {band} of {_BANDS - 1}", "texture")
        for band in range(1, _BANDS)
    ),
    Feature("spectrum_slope", "slope of the spectrum", "texture"),
    Feature("grain", "grain (median step in the Laplacian)", "texture"),
    Feature("sharpness", "sharpness (mean step between neighbours)", "texture"),
)
"""Every feature, in the order of the columns."""


@dataclass(frozen=True)
class AcquisitionFeatures:
    """The features of N images: values (N, F) float64, columns as in :data:`FEATURES`."""

    values: Values

    def group(self, name: str) -> Values:
        """The columns of one group."""
        return self.values[:, [feature.group == name for feature in FEATURES]]


def measure_acquisition(
    samples: Sequence[Sample], cache: PixelCache, *, progress: Progress | None = None
) -> AcquisitionFeatures:
    """The features of ``samples``, in their order.

    Args:
        samples: images.
        cache: of :data:`ACQUISITION`.
        progress: called with the number of images done.
    """
    rows = cache.rows(samples)
    values = np.empty((len(rows), len(FEATURES)))
    for start in range(0, len(rows), _BLOCK):
        films = cache.pixels[rows[start : start + _BLOCK]]
        values[start : start + len(films)] = np.concatenate(
            [_exposure(films), _frame(films), _texture(films)], axis=1
        )
        if progress:
            progress(start + len(films), len(rows))
    return AcquisitionFeatures(values)


def _exposure(films: Films) -> Values:
    low, high = (round(films.shape[1] * edge) for edge in CENTRE)
    whole, centre = grey_histograms(films), grey_histograms(films[:, low:high, low:high])
    levels = [grey_percentile(whole, p / 100) for p in _FILM_PERCENTILES]
    levels += [grey_percentile(centre, p / 100) for p in _CENTRE_PERCENTILES]
    bits = -(whole * np.log2(np.where(whole > 0, whole, 1))).sum(axis=1)
    return np.stack([*levels, bits], axis=1)


def _frame(films: Films) -> Values:
    side = films.shape[1]
    border, corner = round(side * _BORDER), round(side * _CORNER)
    strips = [films[:, :border], films[:, -border:], films[:, :, :border], films[:, :, -border:]]
    ends = (slice(None, corner), slice(-corner, None))
    corners = [films[:, row, column] for row in ends for column in ends]
    black, white = films <= _NEARLY, films >= 255 - _NEARLY
    return np.stack(
        [part.reshape(len(films), -1).mean(axis=1) for part in (black, white, *strips, *corners)], axis=1
    )


def _texture(films: Films) -> Values:
    bands, centres = _spectrum(films)
    relative = bands - bands[:, :1]
    offsets = np.log(centres) - np.log(centres).mean()
    slope = relative @ offsets / (offsets**2).sum()
    pixels = films.astype(np.float32)
    inner = pixels[:, 1:-1, 1:-1]
    around = pixels[:, :-2, 1:-1] + pixels[:, 2:, 1:-1] + pixels[:, 1:-1, :-2] + pixels[:, 1:-1, 2:]
    grain = np.median(np.abs(4 * inner - around), axis=(1, 2))
    steps = np.abs(np.diff(pixels, axis=2)).mean(axis=(1, 2))
    # Steps are ratios of contrast: on a logarithmic scale, where half a grey level keeps a flat image finite.
    return np.column_stack([relative[:, 1:], slope, np.log(grain + 0.5), np.log(steps + 0.5)])


def _spectrum(films: Films) -> tuple[Values, Values]:
    """Logarithm of the mean power in bands of frequency (n, bands), and the bands' centres (bands,)."""
    side = films.shape[1]
    window = np.hanning(side)[:, None] * np.hanning(side)
    centred = films - films.mean(axis=(1, 2), keepdims=True)
    power = np.abs(np.fft.rfft2(centred * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    edges = np.geomspace(_LOWEST, _HIGHEST, _BANDS + 1)
    bands = [power[:, (frequency >= low) & (frequency < high)].mean(axis=1) for low, high in pairwise(edges)]
    # A blank image has no power anywhere; one unit keeps its logarithm finite.
    return np.log(np.stack(bands, axis=1) + 1), np.sqrt(edges[:-1] * edges[1:])


SCHEMA_VERSION = 1
GROUPS = ("exposure", "frame", "texture")
SOURCES = {
    "all": "all acquisition features",
    "exposure": "exposure alone",
    "frame": "frame alone",
    "texture": "texture alone",
    "cluster": "the cluster alone",
}
"""What the class is guessed from -> how people read it."""

_MOST_CLUSTERS = 8
_DEVIATIONS = 3.0
_NORMAL_QUARTILES = 1.349  # distance between the quartiles of a normal distribution in standard deviations
_KEPT_VARIANCE = 0.9
_STARTS = 10
_SILHOUETTE_FILMS = 6000  # the silhouette compares every pair; more images than this are sampled
_TELLING = 5


@dataclass(frozen=True)
class Clusters:
    """A cluster for each of N images.

    Attributes:
        members: (N,) number of the cluster, the largest cluster first.
        count: of clusters.
        silhouettes: mean silhouette by number of clusters that was tried.
        features: (N, F) that were clustered.
    """

    members: npt.NDArray[np.int64]
    count: int
    features: AcquisitionFeatures
    silhouettes: Mapping[int, float] = field(default_factory=dict)


def cluster_dataset(
    dataset: Dataset, count: int | None = None, *, seed: int = 0, progress: Progress | None = None
) -> tuple[Clusters, PixelCache]:
    """The clusters of all images of ``dataset``, and the cache that they were measured on.

    Args:
        dataset: whose images.
        count: of clusters; None takes the one of 2 to 8 with the largest silhouette.
        seed: of k-means.
        progress: called with the number of images done, by each step in turn.

    Raises:
        DatasetError: fewer different images than clusters.
    """
    cache = build_cache(dataset, ACQUISITION, progress=progress)
    features = measure_acquisition(dataset.samples, cache, progress=progress)
    return find_clusters(features, count, seed), cache


def find_clusters(features: AcquisitionFeatures, count: int | None = None, seed: int = 0) -> Clusters:
    """Group images by their features; arguments as in :func:`cluster_dataset`."""
    points = _points(features)
    different = len(np.unique(points, axis=0))
    if different <= (count or 2):
        raise DatasetError(
            f"{different} different images cannot make {count or 2} clusters",
            expected="more images than clusters",
            remedy="import more images",
        )
    if count is not None:
        return Clusters(_cluster(points, count, seed), count, features)
    tried = {k: _cluster(points, k, seed) for k in range(2, min(_MOST_CLUSTERS, different - 1) + 1)}
    silhouettes = {k: _silhouette(points, members, seed) for k, members in tried.items()}
    best = max(silhouettes, key=lambda k: silhouettes[k])
    return Clusters(tried[best], best, features, silhouettes)


def describe_clusters(dataset: Dataset, clusters: Clusters, *, seed: int = 0) -> dict[str, Any]:
    """What each cluster is, and how well acquisition alone tells pneumonia from normal.

    Returns:
        ``clusters`` (images, patients, classes, and ``telling``: the features that set it apart, each with
        its median here and elsewhere), ``silhouettes``, ``auc`` (by all features, by each group, by the
        cluster alone; empty where the images have one class), ``mixed_patients`` (in several clusters).
    """
    samples = dataset.samples
    patients = np.array([sample.patient_id for sample in samples])
    by_patient: dict[str, set[int]] = {}
    for patient, member in zip(patients.tolist(), clusters.members.tolist(), strict=True):
        by_patient.setdefault(patient, set()).add(member)
    return {
        "schema_version": SCHEMA_VERSION,
        "dataset": dataset.name,
        "dataset_hash": dataset.hash,
        "films": len(samples),
        "patients": len(by_patient),
        "seed": seed,
        "count": clusters.count,
        "silhouettes": {str(k): value for k, value in clusters.silhouettes.items()},
        "mixed_patients": sum(len(own) > 1 for own in by_patient.values()),
        "clusters": [_describe(samples, clusters, number) for number in range(clusters.count)],
        "auc": _class_auc(samples, clusters, seed),
        "auc_method": METHOD,
    }


def contrary_images(
    samples: Sequence[Sample], features: Values, *, seed: int = 0
) -> npt.NDArray[np.bool_] | None:
    """Images whose features speak for the other class, (N,) bool; None where the images cannot tell.

    Gradient boosting on the features, cross-validated by patient, gives each image a probability of pneumonia
    from how it was taken or framed. An image is contrary when that lies on the other side of the share of
    pneumonia among all images than its label does.

    Args:
        samples: N images.
        features: (N, F) of acquisition, or of the lungs' size and place.
        seed: of the folds.
    """
    positive = np.array([sample.label is not Label.NORMAL for sample in samples])
    question = _class_question(samples, positive, seed)
    if question is None:
        return None
    speaks = predict_jointly(features, question) >= positive.mean()
    return np.asarray(speaks != positive)


def _points(features: AcquisitionFeatures) -> Values:
    """The images in the space that is clustered, (N, d)."""
    blocks = []
    for name in GROUPS:
        block = _standardised(features.group(name))
        block = block - block.mean(axis=0)
        leading = np.linalg.norm(block, 2)
        blocks.append(block / leading if leading > 0 else block)
    joined = np.concatenate(blocks, axis=1)
    rotated, lengths, _ = np.linalg.svd(joined, full_matrices=False)
    explained = np.cumsum(lengths**2)
    kept = int((explained < _KEPT_VARIANCE * explained[-1]).sum()) + 1
    return np.asarray(rotated[:, :kept] * lengths[:kept])


def _standardised(values: Values) -> Values:
    """Robust deviations, cut; a feature whose quartiles agree is scaled by its standard deviation."""
    low, median, high = np.percentile(values, (25, 50, 75), axis=0)
    spread = np.where(high > low, (high - low) / _NORMAL_QUARTILES, values.std(axis=0))
    return np.clip((values - median) / np.where(spread > 0, spread, 1), -_DEVIATIONS, _DEVIATIONS)


def _cluster(points: Values, count: int, seed: int) -> npt.NDArray[np.int64]:
    from sklearn.cluster import KMeans

    found = KMeans(count, n_init=_STARTS, random_state=seed).fit_predict(points)
    by_size = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    return np.argsort(by_size)[found].astype(np.int64)


def _silhouette(points: Values, members: npt.NDArray[np.int64], seed: int) -> float:
    from sklearn.metrics import silhouette_score

    some = _SILHOUETTE_FILMS if len(points) > _SILHOUETTE_FILMS else None
    return float(silhouette_score(points, members, sample_size=some, random_state=seed))


def _describe(samples: Sequence[Sample], clusters: Clusters, number: int) -> dict[str, Any]:
    inside = clusters.members == number
    own = [sample for sample, is_own in zip(samples, inside, strict=True) if is_own]
    labels = Counter(sample.label for sample in own)
    values = clusters.features.values
    here, elsewhere = (np.median(values[rows], axis=0) for rows in (inside, ~inside))
    deviations = _standardised(values)
    distance = np.median(deviations[inside], axis=0) - np.median(deviations[~inside], axis=0)
    telling = np.argsort(-np.abs(distance), kind="stable")[:_TELLING]
    return {
        "cluster": number,
        "films": len(own),
        "patients": len({sample.patient_id for sample in own}),
        "classes": {label.value: labels[label] for label in Label if labels[label]},
        "telling": [
            {
                "name": FEATURES[index].name,
                "title": FEATURES[index].title,
                "here": float(here[index]),
                "elsewhere": float(elsewhere[index]),
            }
            for index in telling
        ],
    }


def _class_auc(samples: Sequence[Sample], clusters: Clusters, seed: int) -> dict[str, dict[str, Any]]:
    positive = np.array([sample.label is not Label.NORMAL for sample in samples])
    question = _class_question(samples, positive, seed)
    if question is None:
        return {}
    scores = {"all": score_jointly(clusters.features.values, question)}
    scores |= {name: score_jointly(clusters.features.group(name), question) for name in GROUPS}
    scores["cluster"] = score_property(clusters.members.astype(np.float64), question)
    return {name: asdict(score) for name, score in scores.items()}


def _class_question(samples: Sequence[Sample], positive: npt.NDArray[np.bool_], seed: int) -> Question | None:
    """Pneumonia or not, of all images; None when a class has fewer than two patients."""
    groups = np.unique([sample.group_id for sample in samples], return_inverse=True)[1].astype(np.int64)
    return ask(positive, np.ones(len(samples), dtype=bool), groups, seed)
