"""The interval of a calibrated probability: it covers the truth, it narrows, it holds the probability."""

import numpy as np
import pytest

from pneumoscope.evaluation.calibration import calibration_interval, fit_calibration
from pneumoscope.inference.prediction import calibrated_probabilities, probability_interval


def drawn(rng, patients, films=2):
    """Logits whose true log-odds of pneumonia are 0.5 x + 1, with all images of a patient alike."""
    x = np.repeat(rng.normal(0, 4, patients), films)
    ill = np.repeat(rng.random(patients), films) < truth(x)
    names = [f"p{number // films}" for number in range(len(x))]
    return np.column_stack([np.zeros_like(x), x]), ill, names


def truth(x):
    return 1 / (1 + np.exp(-(0.5 * x + 1)))


def calibrated(logits, ill, names, resamples=100):
    calibration = fit_calibration(logits, ill.astype(int), method="platt")
    probability = calibrated_probabilities(logits, calibration)[:, 1]
    band = calibration_interval(probability, ill, names, resamples=resamples)
    return {**calibration, "interval": band}


def test_it_covers_the_true_probability_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    points = np.array([-6.0, -2.0, 2.0, 6.0])
    held = []
    for _ in range(40):
        calibration = calibrated(*drawn(rng, 150))
        logits = np.column_stack([np.zeros(4), points])
        for x, p in zip(points, calibrated_probabilities(logits, calibration)[:, 1], strict=True):
            low, high = probability_interval(float(p), calibration)
            held.append(low <= truth(x) <= high)
    assert 0.86 <= np.mean(held) <= 0.99


def test_more_patients_narrow_it_and_more_films_of_the_same_do_not():
    def width(patients, films):
        low, high = probability_interval(
            0.8, calibrated(*drawn(np.random.default_rng(1), patients, films), resamples=200)
        )
        return high - low

    few, many, repeated = width(150, 1), width(1500, 1), width(150, 10)
    assert many < 0.5 * few
    assert repeated > 0.7 * few


@pytest.mark.parametrize("probability", [0.0, 1e-9, 0.3, 0.999, 1.0])
def test_it_holds_the_probability(probability):
    low, high = probability_interval(probability, calibrated(*drawn(np.random.default_rng(2), 100)))
    assert 0 <= low <= probability <= high <= 1
    assert low < high


def test_too_few_films_to_say():
    _, ill, names = drawn(np.random.default_rng(3), 20)
    ill[:] = False
    ill[0] = True
    names = [names[0], *["another"] * (len(names) - 1)]
    assert calibration_interval(np.full(len(ill), 0.5), ill, names, resamples=50) is None
    assert probability_interval(0.5, {"method": "platt", "interval": None}) is None
    assert probability_interval(0.5, {"method": "platt"}) is None
