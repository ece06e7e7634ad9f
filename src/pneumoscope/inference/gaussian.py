"""Mahalanobis distance under probabilistic PCA, for out-of-distribution detection.

The leading components have their own variances, the rest share one (Tipping & Bishop, Probabilistic Principal
Component Analysis, J. R. Stat. Soc. B 61, 1999, section 3.2; Lee et al., A Simple Unified Framework for
Detecting Out-of-Distribution Samples, NeurIPS 2018)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Gaussian(NamedTuple):
    """Mean (C,), components (d, C), their variances (d,), and the variance () of every other direction."""

    mean: npt.NDArray[Any]
    components: npt.NDArray[Any]
    variances: npt.NDArray[Any]
    residual_variance: npt.NDArray[Any]


def fit_gaussian(
    vectors: npt.NDArray[Any], *, kept_variance: float = 1.0, most_components: int | None = None
) -> Gaussian:
    """Fit to vectors (N, C), N at least 3.

    Args:
        vectors: of usual images.
        kept_variance: share of the variance in the components that keep their own.
        most_components: at most so many of them.
    """
    from sklearn.decomposition import PCA

    pca = PCA().fit(vectors)
    variances = np.maximum(pca.explained_variance_, np.finfo(np.float32).eps)
    shares = np.cumsum(variances) / variances.sum()
    kept = min(int(np.searchsorted(shares, kept_variance)) + 1, len(variances) - 1)
    kept = min(kept, most_components or kept)
    return Gaussian(
        pca.mean_.astype(np.float32),
        pca.components_[:kept].astype(np.float32),
        variances[:kept].astype(np.float32),
        variances[kept:].mean().astype(np.float32),
    )


def distances(gaussian: Gaussian, vectors: npt.NDArray[Any]) -> Floats:
    """Mahalanobis distance of each row of ``vectors`` (N, C), divided by the root of C: near 1 is usual."""
    centred = np.asarray(vectors, np.float64) - gaussian.mean
    components = np.asarray(gaussian.components, np.float64)
    scores = centred @ components.T
    residual = np.square(centred - scores @ components).sum(axis=1)
    squared = (scores**2 / gaussian.variances).sum(axis=1) + residual / gaussian.residual_variance
    return np.asarray(np.sqrt(squared / centred.shape[1]))


def to_arrays(gaussian: Gaussian, part: str) -> dict[str, npt.NDArray[np.float32]]:
    """The arrays of a bundle, named ``<part>_mean`` and so on."""
    return {f"{part}_{name}": value for name, value in gaussian._asdict().items()}


def from_arrays(arrays: Mapping[str, npt.NDArray[Any]], part: str) -> Gaussian:
    """The Gaussian that :func:`to_arrays` wrote."""
    return Gaussian(*(arrays[f"{part}_{name}"] for name in Gaussian._fields))


def upper_bound(values: npt.NDArray[Any], rate: float) -> float:
    """The smallest validation value that a new image exceeds with a probability of at most ``rate``.

    The quantile with the finite-sample correction of split conformal prediction (Angelopoulos & Bates,
    arXiv:2107.07511, section 1.1). With fewer than ``1 / rate`` images it is the largest value, which
    promises less.
    """
    rank = int(np.ceil((len(values) + 1) * (1 - rate)))
    return float(np.sort(values)[min(rank, len(values)) - 1])
