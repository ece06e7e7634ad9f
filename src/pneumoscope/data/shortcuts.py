"""Shortcut properties: what is measured of an image without its lungs, and how well it predicts the label.

``file`` properties come from the manifest (size, aspect, bytes, age, ...); ``picture`` properties describe
exposure, frame and sharpness of the cached pixels. A property is scored by the share of positives in its
quantile bins, so that it need not rise or fall with the label; several together by gradient boosting. Areas
under the ROC curve are cross-validated with patients kept together; intervals come from a patient bootstrap.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import StratifiedGroupKFold

from pneumoscope.core.records import Progress, Sample
from pneumoscope.data.cache import PixelCache

Values = npt.NDArray[np.float64]

_BLOCK = 256
CENTRE = (30 / 224, 190 / 224)
"""Rows and columns 30 to 190 of 224: the thorax without collimation, markers and burned-in text."""
_CORNER = 0.1
_NEARLY = 2


@dataclass(frozen=True)
class Property:
    """One measure of every image.

    Attributes:
        name: key in the JSON; title: for readers; unit: of the values, or empty.
        kind: ``file`` or ``picture``.
        values: (N,) float64, not-a-number where the manifest does not say.
        logarithmic: better shown on a logarithmic axis.
        names: of the values 0, 1, ... when they stand for categories.
    """

    name: str
    title: str
    unit: str
    kind: str
    values: Values
    logarithmic: bool = False
    names: tuple[str, ...] = ()


def measure_properties(
    samples: Sequence[Sample], cache: PixelCache, *, progress: Progress | None = None
) -> tuple[Property, ...]:
    """All properties of ``samples`` that any image has, in their order; constant ones are kept."""
    both = (*file_properties(samples), *picture_properties(samples, cache, progress=progress))
    return tuple(item for item in both if np.isfinite(item.values).any())


def file_properties(samples: Sequence[Sample]) -> tuple[Property, ...]:
    """What the manifest says of each file and person."""
    width = _numbers(samples, lambda s: s.width)
    height = _numbers(samples, lambda s: s.height)
    file_bytes = _numbers(samples, lambda s: s.file_bytes)
    size = [Property("file_bytes", "File size", "bytes", "file", file_bytes, logarithmic=True)]
    if np.ptp(width * height) != 0:
        density = file_bytes / (width * height)
        size.append(
            Property("bytes_per_pixel", "File size per pixel", "bytes", "file", density, logarithmic=True)
        )
    return (
        Property("width", "Width", "pixels", "file", width),
        Property("height", "Height", "pixels", "file", height),
        Property("aspect", "Width over height", "", "file", width / height),
        *size,
        Property("age", "Age", "years", "file", _numbers(samples, lambda s: s.age_years)),
        _categories("sex", "Sex", samples, lambda s: s.sex),
        _categories("view", "View", samples, lambda s: s.view),
        _categories("site", "Site", samples, lambda s: s.site),
    )


def picture_properties(
    samples: Sequence[Sample], cache: PixelCache, *, progress: Progress | None = None
) -> tuple[Property, ...]:
    """Exposure, frame and sharpness of each image, from the cached pixels (grey levels 0 to 255)."""
    rows = cache.rows(samples)
    measured = np.empty((len(rows), 7))
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        measured[start : start + len(block)] = _measure(cache.pixels[block])
        if progress:
            progress(start + len(block), len(rows))
    level, level_range, centre_range, black, white, corners, sharpness = measured.T
    return (
        Property("mean_level", "Mean brightness", "grey levels", "picture", level),
        Property("contrast", "Contrast (standard deviation)", "grey levels", "picture", level_range),
        Property(
            "centre_range",
            "Grey range of the chest (5th to 95th percentile)",
            "grey levels",
            "picture",
            centre_range,
        ),
        Property("black_share", "Share of black pixels", "", "picture", black),
        Property("white_share", "Share of white pixels", "", "picture", white),
        Property("corner_level", "Brightness of the corners", "grey levels", "picture", corners),
        Property(
            "sharpness", "Sharpness (mean step between neighbours)", "grey levels", "picture", sharpness
        ),
    )


def _measure(pixels: npt.NDArray[np.uint8]) -> Values:
    """(n, 7) measures of (n, S, S) images."""
    n, side = len(pixels), pixels.shape[1]
    low, high = (round(side * edge) for edge in CENTRE)
    corner = max(1, round(side * _CORNER))
    whole, centre = grey_histograms(pixels), grey_histograms(pixels[:, low:high, low:high])
    levels = np.arange(256)
    mean = whole @ levels
    spread = np.sqrt(np.maximum(whole @ levels**2 - mean**2, 0))
    ends = (slice(None, corner), slice(-corner, None))
    corners = np.mean([pixels[:, r, c].reshape(n, -1).mean(axis=1) for r in ends for c in ends], axis=0)
    steps = np.abs(np.diff(pixels.astype(np.int16), axis=2)).reshape(n, -1).mean(axis=1)
    return np.stack(
        [
            mean,
            spread,
            grey_percentile(centre, 0.95) - grey_percentile(centre, 0.05),
            whole[:, : _NEARLY + 1].sum(axis=1),
            whole[:, 255 - _NEARLY :].sum(axis=1),
            corners,
            steps,
        ],
        axis=1,
    )


def grey_histograms(pixels: npt.NDArray[np.uint8]) -> Values:
    """(n, 256) share of each grey level."""
    n = len(pixels)
    index = pixels.reshape(n, -1) + 256 * np.arange(n, dtype=np.int32)[:, None]
    counts = np.bincount(index.ravel(), minlength=256 * n).reshape(n, 256)
    return counts / counts.sum(axis=1, keepdims=True)


def grey_percentile(histograms: Values, share: float) -> Values:
    """The lowest grey level up to which at least ``share`` of the pixels lie, (n,)."""
    return (np.cumsum(histograms, axis=1) >= share - 1e-12).argmax(axis=1).astype(np.float64)


def _numbers(samples: Sequence[Sample], read: Callable[[Sample], float | None]) -> Values:
    return np.array([np.nan if read(s) is None else read(s) for s in samples], dtype=np.float64)


def _categories(
    name: str, title: str, samples: Sequence[Sample], read: Callable[[Sample], str | None]
) -> Property:
    names = sorted({value for s in samples if (value := read(s)) is not None})
    codes = _numbers(samples, lambda s: None if read(s) is None else names.index(str(read(s))))
    return Property(name, title, "", "file", codes, names=tuple(names))


METHOD = "5-fold cross-validation by patient; 95 % interval from 500 bootstrap samples of patients"
_FOLDS = 5
_RESAMPLES = 500
_BINS = 20
# Added to each bin as if seen before, in images: keeps the rate of an almost empty bin near the prevalence.
_PRIOR_FILMS = 2.0

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Question:
    """A choice between two classes, with its folds.

    Attributes:
        films: indices of the images that take part.
        target: bool, one an image of ``films``.
        folds: (training, held out) positions in ``films``.
        resamples: (500, images) how often each image is in each bootstrap sample of patients.
    """

    films: Indices
    target: npt.NDArray[np.bool_]
    folds: tuple[tuple[Indices, Indices], ...]
    resamples: npt.NDArray[np.int32]
    seed: int


@dataclass(frozen=True)
class ShortcutScore:
    """Area under the ROC curve with its 95 % interval and the number of images."""

    value: float
    low: float
    high: float
    n: int


def ask(
    positive: npt.NDArray[np.bool_], takes_part: npt.NDArray[np.bool_], groups: Indices, seed: int
) -> Question | None:
    """Prepare a question; None when a class has fewer than two patients.

    Args:
        positive, takes_part: (N,) of all images.
        groups: (N,) patient number.
        seed: of folds and bootstrap.
    """
    films = np.flatnonzero(takes_part)
    target, own = positive[films], groups[films]
    fewest = min(len(np.unique(own[target])), len(np.unique(own[~target])))
    if fewest < 2:
        return None
    splitter = StratifiedGroupKFold(min(_FOLDS, fewest), shuffle=True, random_state=seed)
    folds = tuple(splitter.split(films, target, own))
    if any(len(np.unique(target[part])) < 2 for fold in folds for part in fold):
        return None
    return Question(films, target, folds, _resample_patients(own, seed), seed)


def _resample_patients(groups: Indices, seed: int) -> npt.NDArray[np.int32]:
    patients, member = np.unique(groups, return_inverse=True)
    share = np.full(len(patients), 1 / len(patients))
    drawn = np.random.default_rng(seed).multinomial(len(patients), share, size=_RESAMPLES)
    return drawn.astype(np.int32)[:, member]


def score_property(values: Values, question: Question) -> ShortcutScore:
    """How well one property (N,) answers ``question``; a missing value is a bin of its own."""
    own = values[question.films]
    scores = np.empty(len(own))
    for train, held_out in question.folds:
        scores[held_out] = _bin_rates(own[train], question.target[train], own[held_out])
    return _score(scores, question)


def score_jointly(values: Values, question: Question) -> ShortcutScore:
    """How well several properties (N, P) together answer ``question``."""
    return _score(predict_jointly(values, question), question)


def predict_jointly(values: Values, question: Question) -> Values:
    """Probability of the target of every image of ``question``, from properties (N, P), out of fold."""
    own = values[question.films]
    scores = np.empty(len(own))
    for train, held_out in question.folds:
        model = HistGradientBoostingClassifier(
            max_iter=60,
            max_leaf_nodes=15,
            learning_rate=0.15,
            early_stopping=False,
            random_state=question.seed,
        )
        model.fit(own[train], question.target[train])
        scores[held_out] = model.predict_proba(own[held_out])[:, 1]
    return scores


def _bin_rates(train: Values, target: npt.NDArray[np.bool_], held_out: Values) -> Values:
    """Share of positives among the training images of each held-out image's bin."""
    known = train[np.isfinite(train)]
    unique = np.unique(known)
    edges = unique[1:] if len(unique) <= _BINS else np.unique(np.quantile(known, np.arange(1, _BINS) / _BINS))
    bins = [
        np.where(np.isfinite(v), np.searchsorted(edges, v, side="right") + 1, 0) for v in (train, held_out)
    ]
    count = np.bincount(bins[0], minlength=len(edges) + 2)
    positive = np.bincount(bins[0], weights=target, minlength=len(edges) + 2)
    return ((positive + _PRIOR_FILMS * target.mean()) / (count + _PRIOR_FILMS))[bins[1]]


def _score(scores: Values, question: Question) -> ShortcutScore:
    resampled = _weighted_auc(scores, question.target, question.resamples)
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    value = _weighted_auc(scores, question.target, np.ones((1, len(scores)), dtype=np.int32))[0]
    return ShortcutScore(float(value), float(low), float(high), len(scores))


def _weighted_auc(scores: Values, target: npt.NDArray[np.bool_], weights: npt.NDArray[np.int32]) -> Values:
    """Area under the ROC curve for each row of weights (B, N); ties count one half."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(scores[order]) > 0]))
    ordered = weights[:, order]
    positive = np.add.reduceat(ordered * target[order], starts, axis=1)
    negative = np.add.reduceat(ordered * ~target[order], starts, axis=1)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1, dtype=np.int64) * negative.sum(axis=1, dtype=np.int64)
    won = (positive * (below + 0.5 * negative)).sum(axis=1)
    return np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0)
