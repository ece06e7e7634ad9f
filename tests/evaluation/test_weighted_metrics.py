"""With one row of ones a statistic is its namesake; with counts it is the namesake on repeated images."""

from __future__ import annotations

import numpy as np
import pytest

from pneumoscope.evaluation import metrics

N = 240
RNG = np.random.default_rng(3)
TARGETS = RNG.integers(-1, 3, size=N)
PROBABILITIES = np.round(RNG.dirichlet([1, 1, 1], size=N), 2)  # many ties
POSITIVE = TARGETS != 0
SCORE = np.round(1 - PROBABILITIES[:, 0] + 0.2 * POSITIVE, 2) / 1.3
DECIDED = SCORE > 0.5
PREDICTED = PROBABILITIES.argmax(axis=1)
WEIGHTS = RNG.multinomial(N, np.full(N, 1 / N), size=7).astype(float)


def _f1(rows: np.ndarray) -> float | None:
    return metrics.decision_counts(POSITIVE[rows], DECIDED[rows]).f1


def _balanced(rows: np.ndarray) -> float | None:
    return metrics.decision_counts(POSITIVE[rows], DECIDED[rows]).balanced_accuracy


PAIRS = {
    "roc_auc": (
        metrics.roc_auc_statistic(POSITIVE, SCORE),
        lambda r: metrics.roc_auc(POSITIVE[r], SCORE[r]),
    ),
    "average_precision": (
        metrics.average_precision_statistic(POSITIVE, SCORE),
        lambda r: metrics.average_precision(POSITIVE[r], SCORE[r]),
    ),
    "brier": (
        metrics.mean_statistic((SCORE - POSITIVE) ** 2),
        lambda r: metrics.brier(POSITIVE[r], SCORE[r]),
    ),
    "f1": (metrics.f1_statistic(POSITIVE, DECIDED), _f1),
    "balanced_accuracy": (metrics.balanced_accuracy_statistic(POSITIVE, DECIDED), _balanced),
    "macro_f1": (
        metrics.macro_f1_statistic(TARGETS, PREDICTED, 3),
        lambda r: metrics.macro_f1(metrics.class_confusion(TARGETS[r], PREDICTED[r], 3)),
    ),
    "macro_auc": (
        metrics.macro_auc_statistic(TARGETS, PROBABILITIES),
        lambda r: metrics.macro_auc(TARGETS[r], PROBABILITIES[r]),
    ),
    "etiology_auc": (
        metrics.etiology_auc_statistic(TARGETS, PROBABILITIES),
        lambda r: metrics.etiology_auc(TARGETS[r], PROBABILITIES[r]),
    ),
}


@pytest.mark.parametrize("name", list(PAIRS))
def test_weights_mean_repeated_films(name: str) -> None:
    statistic, plain = PAIRS[name]
    expected = [plain(np.repeat(np.arange(N), row.astype(int))) for row in WEIGHTS]
    np.testing.assert_allclose(statistic(WEIGHTS), expected, rtol=1e-12)
    assert statistic(np.ones((1, N)))[0] == pytest.approx(plain(np.arange(N)), rel=1e-12)


def test_calibration_error_keeps_the_bins_of_the_whole_sample() -> None:
    statistic = metrics.ece_statistic(POSITIVE, SCORE)
    assert statistic(np.ones((1, N)))[0] == pytest.approx(metrics.expected_calibration_error(POSITIVE, SCORE))
    assert np.isfinite(statistic(WEIGHTS)).all()


@pytest.mark.parametrize(
    "name", ["roc_auc", "average_precision", "f1", "balanced_accuracy", "macro_f1", "macro_auc"]
)
def test_a_draw_without_ill_films_is_undefined(name: str) -> None:
    statistic, _ = PAIRS[name]
    values = statistic(np.stack([np.where(POSITIVE, 0.0, 1.0), np.ones(N)]))
    assert np.isnan(values[0])
    assert np.isfinite(values[1])


def test_no_film_of_known_cause_is_undefined() -> None:
    unknown = np.full(N, -1)
    assert np.isnan(metrics.etiology_auc_statistic(unknown, PROBABILITIES)(WEIGHTS)).all()
    assert np.isnan(metrics.macro_auc_statistic(unknown, PROBABILITIES)(WEIGHTS)).all()
    assert np.isnan(metrics.macro_f1_statistic(unknown, PREDICTED, 3)(WEIGHTS)).all()
