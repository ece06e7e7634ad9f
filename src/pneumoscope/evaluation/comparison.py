"""Paired comparison of classifiers on the same images: DeLong for the AUC, McNemar for accuracy, after Holm.

Every pair gets differences with intervals and p values; a ranking says who is tied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import sqrt

import numpy as np
import numpy.typing as npt
import scipy

from pneumoscope.core.errors import InputError
from pneumoscope.evaluation.intervals import LEVEL

SIGNIFICANCE = 0.05
"""A corrected p value below this tells two classifiers apart; what a 95 % interval leaves out."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A classifier's answers: probability of pneumonia and decision, each (N,), about the same images."""

    name: str
    score: Floats
    decided: Bools


@dataclass(frozen=True, slots=True)
class PairedTest:
    """First minus second with its 95 % interval, the p value of no difference, and that after correction."""

    difference: float
    low: float
    high: float
    p: float
    p_corrected: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Two classifiers on the same images: their difference in AUC (DeLong) and in accuracy (McNemar)."""

    first: str
    second: str
    auc: PairedTest
    accuracy: PairedTest


def auc_covariance(
    positive: Bools, scores: Floats, patients: Sequence[str] | None = None
) -> tuple[Floats, Floats]:
    """AUCs of several scores on the same images, and their covariance.

    DeLong, DeLong & Clarke-Pearson (Biometrics 44, 1988), computed from midranks as Sun & Xu do (IEEE Signal
    Processing Letters 21, 2014, algorithm 2). As images of one patient resemble each other,
    with ``patients`` the structural components are summed by patient (Obuchowski, Biometrics 53, 1997,
    section 2), which for one image a patient is the same.

    Args:
        positive: (N,) reference.
        scores: (R, N) float64, higher for pneumonia.
        patients: N keys; None takes every image for a patient of its own.

    Returns:
        (R,) AUCs and (R, R) covariance, float64.

    Raises:
        InputError: fewer than two patients with, or without, pneumonia.
    """
    scores = np.asarray(scores, dtype=np.float64)
    cases, controls = int(positive.sum()), int((~positive).sum())
    keys = np.arange(len(positive)) if patients is None else np.asarray(patients, dtype=str)
    names, cluster = np.unique(keys, return_inverse=True)
    of_cases, of_controls = (len(np.unique(cluster[rows])) for rows in (positive, ~positive))
    if min(of_cases, of_controls) < 2:
        raise InputError(
            f"{of_cases} patients with pneumonia and {of_controls} without",
            expected="at least two of each: one patient has no spread to compare AUCs by",
            remedy="compare on more images",
        )
    rank = scipy.stats.rankdata
    overall = rank(scores, axis=1)
    components = np.empty_like(scores)
    components[:, positive] = (overall[:, positive] - rank(scores[:, positive], axis=1)) / controls
    components[:, ~positive] = 1 - (overall[:, ~positive] - rank(scores[:, ~positive], axis=1)) / cases
    areas = components[:, positive].mean(axis=1)
    deviations = components - areas[:, None]
    above = _by_cluster(deviations * positive, cluster) / cases
    below = _by_cluster(deviations * ~positive, cluster) / controls
    both = above @ below.T * _unbiased(len(names))
    covariance = (
        above @ above.T * _unbiased(of_cases) + below @ below.T * _unbiased(of_controls) + both + both.T
    )
    return areas, covariance


def delong_test(areas: Floats, covariance: Floats) -> PairedTest:
    """Whether two correlated AUCs differ (DeLong et al., 1988), uncorrected.

    Args:
        areas, covariance: of the two, (2,) and (2, 2), from :func:`auc_covariance`.
    """
    difference = float(areas[0] - areas[1])
    # Rounding can leave the variance of two equal scores a little below zero.
    error = sqrt(max(0.0, float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])))
    certain = 1.0 if difference == 0 else 0.0
    p = 2 * float(scipy.stats.norm.sf(abs(difference) / error)) if error else certain
    half = _quantile() * error
    return PairedTest(difference, difference - half, difference + half, p, p)


def mcnemar_test(first_right: Bools, second_right: Bools) -> PairedTest:
    """Whether two accuracies on the same images differ, uncorrected.

    The exact test asks whether the images that only one of them got right are shared out like coin tosses
    (McNemar, Psychometrika 12, 1947); images of one patient count as independent. The interval of the
    difference is Bonett & Price's adjusted Wald interval (Statistical Methods in Medical Research 21, 2012).

    Args:
        first_right, second_right: (N,) whether each classifier was right about the image, N > 0.
    """
    n = len(first_right)
    only_first = int((first_right & ~second_right).sum())
    only_second = int((~first_right & second_right).sum())
    discordant = only_first + only_second
    p = float(scipy.stats.binomtest(only_first, discordant).pvalue) if discordant else 1.0
    share, other = (only_first + 1) / (n + 2), (only_second + 1) / (n + 2)
    half = _quantile() * sqrt((share + other - (share - other) ** 2) / (n + 2))
    return PairedTest((only_first - only_second) / n, share - other - half, share - other + half, p, p)


def holm(p_values: npt.ArrayLike) -> Floats:
    """(M,) p values corrected for their number (Holm, Scandinavian Journal of Statistics 6, 1979).

    The k-th smallest of M is multiplied by M - k + 1, and never falls below a smaller one's. Rejecting below
    0.05 keeps the probability of any false rejection below 0.05, however the tests depend on each other.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    steps = values[order] * (len(values) - np.arange(len(values)))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected


def compare_pairs(
    positive: Bools,
    contestants: Sequence[Contestant],
    patients: Sequence[str] | None = None,
    couples: Sequence[tuple[str, str]] | None = None,
) -> tuple[Pair, ...]:
    """Pairs of ``contestants`` with both tests; p values are corrected over all that are asked for here.

    Args:
        positive: (N,) reference.
        contestants: classifiers whose answers are about these images, in this order.
        patients: N keys, see :func:`auc_covariance`.
        couples: names (first, second) of the pairs; None means every pair. Few comparisons that were planned
            beforehand are corrected among themselves, and so lose less power.

    Raises:
        InputError: fewer than two patients with, or without, pneumonia.
    """
    row = {one.name: number for number, one in enumerate(contestants)}
    couples = list(combinations(row, 2)) if couples is None else couples
    if not couples:
        return ()
    areas, covariance = auc_covariance(positive, np.stack([one.score for one in contestants]), patients)
    right = [one.decided == positive for one in contestants]
    rows = [[row[first], row[second]] for first, second in couples]
    by_auc = _corrected([delong_test(areas[both], covariance[np.ix_(both, both)]) for both in rows])
    by_accuracy = _corrected([mcnemar_test(right[i], right[j]) for i, j in rows])
    return tuple(
        Pair(first, second, auc, accuracy)
        for (first, second), auc, accuracy in zip(couples, by_auc, by_accuracy, strict=True)
    )


def ranking(values: Sequence[float], different: Bools) -> list[list[int]]:
    """Places of a ranking with ties, best first; each is a list of indices by falling value.

    The first place holds the best and all that cannot be told apart from it; the next place begins with the
    best of the rest. Within a place not every two need be tied with each other, only each with its best.

    Args:
        values: R figures, the higher the better.
        different: (R, R) whether two are told apart.
    """
    left = sorted(range(len(values)), key=lambda index: -values[index])
    places = []
    while left:
        best = left[0]
        place = [index for index in left if index == best or not different[best, index]]
        places.append(place)
        left = [index for index in left if index not in place]
    return places


def _corrected(tests: Sequence[PairedTest]) -> list[PairedTest]:
    corrected = holm([test.p for test in tests]).tolist()
    return [
        PairedTest(test.difference, test.low, test.high, test.p, p)
        for test, p in zip(tests, corrected, strict=True)
    ]


def _by_cluster(values: Floats, cluster: npt.NDArray[np.integer]) -> Floats:
    """Sums (R, G) of (R, N) values over the images of each cluster."""
    return np.stack([np.bincount(cluster, row) for row in values])


def _unbiased(clusters: int) -> float:
    return clusters / (clusters - 1)


def _quantile() -> float:
    """Of the normal distribution, for a two-sided interval."""
    return float(scipy.stats.norm.ppf((1 + LEVEL) / 2))
