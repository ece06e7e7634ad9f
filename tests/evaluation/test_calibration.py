"""Calibration finds the temperature and bias that were put in and never becomes overconfident."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from pneumoscope.core.errors import InputError
from pneumoscope.evaluation.calibration import (
    BIAS_BOUND,
    FITS,
    TEMPERATURE_BOUNDS,
    fit_calibration,
    fit_lines,
    reliability,
)
from pneumoscope.inference.prediction import (
    calibrated_log_odds,
    calibrated_probabilities,
    pneumonia_log_odds,
)

from .films import softmax


def _drawn(n: int, scale: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``scale`` times too sharp, and targets drawn from the right probabilities."""
    rng = np.random.default_rng(seed)
    right = rng.normal(scale=2, size=(n, 3))
    targets = (softmax(right).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return scale * right, targets


def _temperature(logits: np.ndarray, targets: np.ndarray) -> float:
    return float(fit_calibration(logits, targets)["temperature"])


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(scale: float) -> None:
    found = fit_calibration(*_drawn(20_000, scale))
    assert found["temperature"] == pytest.approx(scale, rel=0.03)
    assert found["bias"] == pytest.approx([0, 0, 0], abs=0.06)


def test_the_bias_that_was_put_in_is_found() -> None:
    logits, targets = _drawn(20_000, 2.0)
    found = fit_calibration(logits + 2 * np.array([0.0, 1.0, -0.5]), targets)
    assert found["temperature"] == pytest.approx(2, rel=0.03)
    assert found["bias"] == pytest.approx([0, -1, 0.5], abs=0.06)


def test_scaling_the_logits_scales_the_temperature() -> None:
    logits, targets = _drawn(500, 1.0)
    assert _temperature(4 * logits, targets) == pytest.approx(4 * _temperature(logits, targets), rel=1e-2)


def test_separable_films_get_a_finite_temperature_that_leaves_room_for_error() -> None:
    targets = np.arange(60) % 3
    logits = 10 * np.eye(3)[targets]
    temperature = _temperature(logits, targets)
    assert TEMPERATURE_BOUNDS[0] < temperature < TEMPERATURE_BOUNDS[1]
    # Platt's target of 20 images a class: (20 + 1) / (20 + 2).
    assert softmax(logits / temperature).max(axis=1) == pytest.approx(21 / 22, abs=1e-3)


def test_useless_logits_are_flattened_within_bounds() -> None:
    rng = np.random.default_rng(0)
    temperature = _temperature(100 * rng.normal(size=(300, 2)), rng.integers(2, size=300))
    assert TEMPERATURE_BOUNDS[1] * 0.99 < temperature <= TEMPERATURE_BOUNDS[1] * (1 + 1e-9)


def test_films_of_unknown_class_do_not_count() -> None:
    logits, targets = _drawn(400, 2.0)
    more = np.concatenate([logits, np.full((50, 3), [9.0, 0, 0])])
    assert fit_calibration(more, np.append(targets, np.full(50, -1))) == fit_calibration(logits, targets)


def test_a_film_of_weight_two_counts_as_two() -> None:
    logits, targets = _drawn(400, 2.0)
    targets = np.append(targets, -1)
    logits = np.concatenate([logits, np.zeros((1, 3))])
    weights = np.append(np.where(targets[:-1] == 1, 2.0, 1.0), 1.0)
    weighted = fit_calibration(logits, targets, weights)
    assert fit_calibration(logits, targets, 3 * weights)["temperature"] == pytest.approx(
        weighted["temperature"], rel=1e-3
    )
    # The images of class 1 count twice, so its odds double.
    shift = np.array(weighted["bias"]) - fit_calibration(logits, targets)["bias"]
    assert shift[1] - shift[2] == pytest.approx(np.log(2), abs=0.05)


@pytest.mark.parametrize("targets", [[], [0, 0, 0], [-1, -1, 1], [0, 1, 1]])
def test_a_class_without_films_cannot_be_calibrated(targets: list[int]) -> None:
    with pytest.raises(InputError, match="cannot calibrate"):
        fit_calibration(np.zeros((len(targets), 3)), np.array(targets, dtype=np.int64))


def test_reliability_by_hand() -> None:
    positive = np.array([False, False, True, False])
    low, high = reliability(positive, np.array([0.1, 0.1, 0.8, 0.9]), bins=2)
    assert (low.probability, low.frequency, low.n) == (pytest.approx(0.1), 0.0, 2)
    assert (high.probability, high.frequency, high.n) == (pytest.approx(0.85), 0.5, 2)
    assert high.low < 0.5 < high.high


def test_reliability_counts_every_film() -> None:
    rng = np.random.default_rng(0)
    bins = reliability(rng.random(333) < 0.4, rng.random(333))
    assert sum(one.n for one in bins) == 333
    assert [one.probability for one in bins] == sorted(one.probability for one in bins)


def _binary(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose log-odds x mean 0.5 x - 1, and targets drawn from that."""
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=4, size=n)
    return np.column_stack([np.zeros(n), x]), (rng.random(n) < expit(0.5 * x - 1)).astype(np.int64)


def test_platt_is_logistic_regression_on_smoothed_targets() -> None:
    logits, targets = _binary(300)
    curve = fit_calibration(logits, targets, method="platt")["pneumonia"]
    counts = np.bincount(targets)
    own = (counts[targets] + 1) / (counts[targets] + 2)
    regression = LogisticRegression(C=1e9, tol=1e-10).fit(
        np.concatenate([logits[:, 1:]] * 2), np.concatenate([targets, 1 - targets]), np.append(own, 1 - own)
    )
    assert curve["slope"] == pytest.approx(float(regression.coef_[0, 0]), rel=1e-3)
    assert curve["offset"] == pytest.approx(float(regression.intercept_[0]), rel=1e-2)


def test_for_two_classes_platt_is_bias_corrected_temperature() -> None:
    logits, targets = _binary(300)
    probabilities = [
        calibrated_probabilities(logits, fit_calibration(logits, targets, method=method))
        for method in ("platt", "bias-corrected-temperature")
    ]
    np.testing.assert_allclose(*probabilities, atol=2e-3)


def test_the_beta_curve_that_was_put_in_is_found() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(scale=2, size=40_000)
    ill = calibrated_log_odds(x, {"a": 2.0, "b": 0.5, "c": 1.0})
    targets = (rng.random(len(x)) < expit(ill)).astype(np.int64)
    curve = fit_calibration(np.column_stack([np.zeros_like(x), x]), targets, method="beta")["pneumonia"]
    assert (curve["a"], curve["b"], curve["c"]) == pytest.approx((2.0, 0.5, 1.0), rel=0.08)


def test_isotonic_runs_through_the_pieces_of_the_isotonic_regression() -> None:
    logits, targets = _binary(400)
    curve = fit_calibration(logits, targets, method="isotonic")["pneumonia"]
    counts = np.bincount(targets)
    smooth = np.where(targets == 1, (counts[1] + 1) / (counts[1] + 2), 1 / (counts[0] + 2))
    fitted = IsotonicRegression().fit_transform(logits[:, 1], smooth).round(9)
    np.testing.assert_allclose(expit(curve["y"]), np.unique(fitted))
    for centre, level in zip(curve["x"], np.unique(fitted), strict=True):
        assert centre == pytest.approx(logits[fitted == level, 1].mean())


@pytest.mark.parametrize("method", ["platt", "beta", "isotonic"])
def test_a_curve_keeps_the_order_of_films_and_makes_no_ties(method: str) -> None:
    logits, targets = _drawn(300, 2.0)
    found = calibrated_probabilities(logits, fit_calibration(logits, targets, method=method))
    assert found.sum(axis=1) == pytest.approx(1)
    order = np.argsort(pneumonia_log_odds(logits))
    assert (np.diff(found[order, 0]) < 0).all()
    share = np.argsort(logits[:, 1] - logits[:, 2])
    assert (np.diff((found[:, 1] / found[:, 2])[share]) > 0).all()


@pytest.mark.parametrize("method", list(FITS))
def test_every_method_says_more_truly_what_it_means(method: str) -> None:
    logits, targets = _drawn(4_000, 3.0)
    found = calibrated_probabilities(
        logits[2_000:], fit_calibration(logits[:2_000], targets[:2_000], method=method)
    )
    own = np.arange(2_000), targets[2_000:]
    assert -np.log(found[own]).mean() < -np.log(softmax(logits[2_000:])[own]).mean() - 0.2


@pytest.mark.parametrize("slope", [-1.0, 0.0, 0.5, 3.0, 40.0])
def test_lines_of_many_weightings_are_those_of_a_general_optimiser(slope: float) -> None:
    rng = np.random.default_rng(7)
    x = rng.normal(1, 2, 120)
    positive = rng.random(120) < expit(slope * x)
    weights = rng.integers(0, 3, (3, 120)).astype(float)
    n = np.where(positive, positive.sum(), (~positive).sum())
    target = np.where(positive, (n + 1) / (n + 2), 1 / (n + 2))
    limits = [tuple(1 / bound for bound in reversed(TEMPERATURE_BOUNDS)), (-BIAS_BOUND, BIAS_BOUND)]
    for row, line in zip(weights, fit_lines(x, positive, weights), strict=True):

        def loss(line: np.ndarray, row: np.ndarray = row) -> float:
            z = line[0] * x + line[1]
            return float((row * (np.logaddexp(0, z) - target * z)).sum() / row.sum())

        found = minimize(loss, [1, 0], method="L-BFGS-B", bounds=limits, options={"ftol": 1e-12})
        assert loss(line) <= found.fun + 1e-7
        assert line == pytest.approx(found.x, abs=0.02)


def test_a_weighting_without_a_class_has_no_line() -> None:
    positive = np.array([True, True, False, False])
    lines = fit_lines(np.arange(4.0), positive, np.array([[1.0, 1, 1, 0], [1, 1, 0, 0]]))
    assert np.isfinite(lines[0]).all()
    assert np.isnan(lines[1]).all()
