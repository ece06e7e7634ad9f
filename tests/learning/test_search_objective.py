"""The figures of a search, against hand-computed cases and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from pneumoscope.evaluation.calibration import fit_calibration
from pneumoscope.inference.prediction import calibrated_probabilities
from pneumoscope.learning.search import balanced_log_loss, film_weights, patient_auc

RNG = np.random.default_rng(3)
TARGETS = RNG.integers(0, 3, 120)
LOGITS = RNG.normal(size=(120, 3)) + 1.5 * np.eye(3)[TARGETS]
PATIENTS = [f"p{number // 2}" for number in range(120)]


def test_classes_count_the_same_and_patients_within_a_class():
    # Class 0: patient a with two images, b with one. Class 1: c. Class 2: a once more, d.
    weights = film_weights(np.array([0, 0, 0, 1, 2, 2]), ["a", "a", "b", "c", "a", "d"])
    assert weights == pytest.approx([1 / 12, 1 / 12, 1 / 6, 1 / 3, 1 / 6, 1 / 6])


def test_the_loss_is_that_of_the_calibrated_answers():
    weights = film_weights(TARGETS, PATIENTS)
    probabilities = calibrated_probabilities(LOGITS, fit_calibration(LOGITS, TARGETS, weights))
    expected = log_loss(TARGETS, probabilities, sample_weight=weights)
    assert balanced_log_loss(LOGITS, TARGETS, PATIENTS) == pytest.approx(expected, rel=1e-6)


def test_confidence_that_calibration_gives_is_no_merit():
    plain = balanced_log_loss(LOGITS, TARGETS, PATIENTS)
    assert balanced_log_loss(3 * LOGITS + [0.5, -1, 0], TARGETS, PATIENTS) == pytest.approx(plain, abs=1e-5)
    assert balanced_log_loss(np.zeros((120, 3)), TARGETS, PATIENTS) == pytest.approx(np.log(3), abs=1e-3)


def test_a_second_film_of_a_patient_changes_nothing_when_it_says_the_same():
    twice = np.repeat(LOGITS, 2, axis=0), np.repeat(TARGETS, 2), [f"{i // 2}" for i in range(240)]
    once = LOGITS, TARGETS, [f"{i}" for i in range(120)]
    # Calibration sees twice the images, so its targets are a little harder.
    assert balanced_log_loss(*twice) == pytest.approx(balanced_log_loss(*once), abs=5e-3)


def test_the_auc_is_that_of_patients():
    # Scores: patient n 0.4 and 0.8 (mean 0.6), patient m 0.3; patient i 0.5: above m, below n.
    score = np.array([0.4, 0.8, 0.3, 0.5])
    logits = np.log(np.stack([1 - score, score], axis=1))
    assert patient_auc(logits, np.array([0, 0, 0, 1]), ["n", "n", "m", "i"]) == 0.5
    # By image, i would be above 0.4 and 0.3 and below 0.8.
    assert patient_auc(logits, np.array([0, 0, 0, 1]), ["n", "o", "m", "i"]) == pytest.approx(2 / 3)


def test_a_patient_who_was_ill_once_counts_in_both_classes():
    score = np.array([0.1, 0.9])
    logits = np.log(np.stack([1 - score, score], axis=1))
    assert patient_auc(logits, np.array([0, 1]), ["a", "a"]) == 1.0
