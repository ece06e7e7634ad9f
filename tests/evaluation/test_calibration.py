from __future__ import annotations

import numpy as np
import pytest

from pneumoscope.core.errors import InputError
from pneumoscope.evaluation.calibration import TEMPERATURE_BOUNDS, fit_calibration, reliability

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
    # Platt's target of 20 films a class: (20 + 1) / (20 + 2).
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
    # The films of class 1 count twice, so its odds double.
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
