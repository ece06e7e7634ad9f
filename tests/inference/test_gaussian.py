"""Distances are Mahalanobis distances; bounds keep their promise."""

import numpy as np
import pytest

from pneumoscope.inference.gaussian import distances, fit_gaussian, from_arrays, to_arrays, upper_bound


def draw(n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 5)) * (5.0, 3.0, 0.1, 0.1, 0.1) + 2.0


def test_distance_is_mahalanobis_under_the_fitted_covariance():
    gaussian = fit_gaussian(draw(400), kept_variance=0.99)
    w, noise = gaussian.components, float(gaussian.residual_variance)
    assert len(w) == 2
    covariance = w.T @ np.diag(gaussian.variances - noise) @ w + noise * np.eye(5)
    centred = draw(20, 1) - gaussian.mean
    squared = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)
    np.testing.assert_allclose(distances(gaussian, draw(20, 1)), np.sqrt(squared / 5), rtol=1e-3)


def test_components_are_limited_and_arrays_come_back():
    gaussian = fit_gaussian(draw(400), most_components=1)
    assert gaussian.components.shape == (1, 5)
    arrays = to_arrays(gaussian, "part")
    assert set(arrays) == {"part_mean", "part_components", "part_variances", "part_residual_variance"}
    for before, after in zip(gaussian, from_arrays(arrays, "part"), strict=True):
        assert np.array_equal(before, after)


@pytest.mark.parametrize(
    ("n", "rate", "rank"), [(99, 0.01, 99), (199, 0.01, 198), (9, 0.1, 9), (30, 0.01, 30)]
)
def test_the_bound_is_the_corrected_quantile(n, rate, rank):
    values = np.random.default_rng(0).permutation(n) + 1.0
    assert upper_bound(values, rate) == rank
