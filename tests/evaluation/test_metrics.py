"""Metrics against values by hand and scikit-learn; images of unknown cause count where they may."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sk

from pneumoscope.evaluation import metrics

# Ten images: hand-made so that every figure can be checked on paper.
POSITIVE = np.array([1, 1, 1, 1, 1, 1, 0, 0, 0, 0], dtype=bool)
SCORE = np.array([0.9, 0.8, 0.7, 0.6, 0.4, 0.2, 0.7, 0.3, 0.2, 0.1])
DECIDED = SCORE >= 0.5  # 4 of 6 ill found, 1 of 4 healthy alarmed
EVERYONE, NOBODY = np.ones(4, dtype=bool), np.zeros(4, dtype=bool)


def test_counts_and_proportions_by_hand() -> None:
    counts = metrics.decision_counts(POSITIVE, DECIDED)
    assert counts == metrics.Counts(tp=4, fp=1, fn=2, tn=3)
    assert metrics.proportions(counts) == {
        "accuracy": (7, 10),
        "precision": (4, 5),
        "sensitivity": (4, 6),
        "specificity": (3, 4),
        "false_negative_rate": (2, 6),
    }
    assert counts.balanced_accuracy == pytest.approx((4 / 6 + 3 / 4) / 2)
    assert counts.f1 == pytest.approx(8 / 11)


def test_auc_by_hand() -> None:
    # Pairs: 24. Wrong: (0.6, 0.4, 0.2) below 0.7, 0.2 below 0.3; ties: 0.7 = 0.7, 0.2 = 0.2.
    assert metrics.roc_auc(POSITIVE, SCORE) == pytest.approx((24 - 4 - 1) / 24)


def test_against_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(300) < 0.7
    score = np.round(np.clip(rng.normal(0.4 + 0.3 * positive, 0.2), 0.01, 0.99), 2)
    decided = score > 0.5
    counts = metrics.decision_counts(positive, decided)
    shares = {name: k / n for name, (k, n) in metrics.proportions(counts).items()}
    assert shares["accuracy"] == pytest.approx(sk.accuracy_score(positive, decided))
    assert shares["precision"] == pytest.approx(sk.precision_score(positive, decided))
    assert shares["sensitivity"] == pytest.approx(sk.recall_score(positive, decided))
    assert shares["specificity"] == pytest.approx(sk.recall_score(positive, decided, pos_label=False))
    assert shares["false_negative_rate"] == pytest.approx(1 - shares["sensitivity"])
    assert counts.f1 == pytest.approx(sk.f1_score(positive, decided))
    assert counts.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(positive, decided))
    assert metrics.average_precision(positive, score) == pytest.approx(
        sk.average_precision_score(positive, score)
    )
    assert metrics.brier(positive, score) == pytest.approx(sk.brier_score_loss(positive, score))
    assert metrics.log_loss(positive, score) == pytest.approx(sk.log_loss(positive, score))


def test_log_loss_of_certainty_is_finite() -> None:
    right, wrong = np.array([True]), np.array([False])
    assert metrics.log_loss(right, np.array([1.0])) == pytest.approx(0, abs=1e-12)
    assert metrics.log_loss(wrong, np.array([1.0])) == pytest.approx(-np.log(np.finfo(float).eps))


def test_three_classes_against_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    targets = rng.integers(3, size=200)
    probabilities = rng.dirichlet(np.ones(3) + 3 * np.eye(3)[0], size=200)
    probabilities = np.where(
        rng.random(200)[:, None] < 0.5, probabilities, np.eye(3)[targets] * 0.8 + 0.2 / 3
    )
    predicted = probabilities.argmax(axis=1)
    confusion = metrics.class_confusion(targets, predicted, 3)
    shares = metrics.class_proportions(confusion, ("normal", "bacterial", "viral"))
    assert confusion.sum() == 200
    assert shares["three_class_accuracy"] == ((predicted == targets).sum(), 200)
    for k, name in enumerate(("normal", "bacterial", "viral")):
        hits, called = shares[f"precision_{name}"]
        assert hits / called == pytest.approx(sk.precision_score(targets, predicted, average=None)[k])
        hits, there = shares[f"recall_{name}"]
        assert hits / there == pytest.approx(sk.recall_score(targets, predicted, average=None)[k])
    assert metrics.macro_f1(confusion) == pytest.approx(sk.f1_score(targets, predicted, average="macro"))
    assert metrics.macro_auc(targets, probabilities) == pytest.approx(
        sk.roc_auc_score(targets, probabilities, multi_class="ovr", average="macro")
    )


def test_films_of_unknown_cause_do_not_count_among_classes() -> None:
    targets, predicted = np.array([0, 1, 2, -1]), np.array([0, 1, 1, 1])
    assert metrics.class_confusion(targets, predicted, 3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0]]
    assert metrics.class_confusion(np.array([-1]), np.array([1]), 3).sum() == 0


def test_normal_films_alone_say_nothing_about_three_classes() -> None:
    shares = metrics.class_proportions(np.array([[37, 54, 9], [0, 0, 0], [0, 0, 0]]), ("a", "b", "c"))
    assert shares["recall_a"] == (37, 100)
    assert {shares[name] for name in ("three_class_accuracy", "precision_a", "recall_b")} == {(0, 0)}


def test_etiology_auc_looks_at_known_pneumonia_only() -> None:
    probabilities = np.array(
        [[0.9, 0.1, 0.0], [0.2, 0.6, 0.2], [0.1, 0.5, 0.4], [0.3, 0.2, 0.5], [0.9, 0.01, 0.09]]
    )
    targets = np.array([0, 1, 2, 2, 1])  # scores of the ill: 0.75, 0.556, 0.286, 0.1
    assert metrics.etiology_score(probabilities)[1:] == pytest.approx([0.75, 5 / 9, 2 / 7, 0.1])
    assert metrics.etiology_auc(targets, probabilities) == pytest.approx(2 / 4)
    assert metrics.etiology_auc(np.array([0, 1, 1, 1, -1]), probabilities) is None
    assert metrics.etiology_score(np.array([[1.0, 0.0, 0.0]])).tolist() == [0.5]


def test_predictive_values_by_bayes() -> None:
    # Of 1,000 children at 10 %: 90 true alarms, 180 false ones; 720 rightly cleared, 10 wrongly.
    ppv, npv = metrics.predictive_values(0.9, 0.8, 0.1)
    assert ppv == pytest.approx(90 / 270)
    assert npv == pytest.approx(720 / 730)
    assert metrics.predictive_values(0.0, 1.0, 0.1) == (None, pytest.approx(0.9))
    assert metrics.predictive_values(1.0, 0.0, 0.1) == (pytest.approx(0.1), None)


def test_calibration_error_by_hand() -> None:
    probability = np.array([0.1, 0.1, 0.9, 0.9])
    positive = np.array([False, False, True, False])
    # Two bins of two: |0 - 0.1| and |0.5 - 0.9|.
    assert metrics.expected_calibration_error(positive, probability, bins=2) == pytest.approx(0.25)
    assert metrics.expected_calibration_error(NOBODY, np.zeros(4)) == 0


def test_bins_have_equal_mass_and_keep_equal_values_together() -> None:
    rng = np.random.default_rng(0)
    counts = np.bincount(metrics.equal_mass_bins(rng.random(1500)))
    assert len(counts) == metrics.ECE_BINS
    assert counts.min() >= 99
    assert counts.max() <= 101
    tied = np.repeat([0.1, 0.2], [50, 10])
    assert len(np.unique(metrics.equal_mass_bins(tied)[:50])) == 1
    assert metrics.equal_mass_bins(np.array([])).tolist() == []


def test_calibrated_probabilities_have_little_error_and_skewed_ones_much() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(20_000)
    positive = rng.random(20_000) < probability
    assert metrics.expected_calibration_error(positive, probability) < 0.015
    assert metrics.expected_calibration_error(positive, probability**2) > 0.1


@pytest.mark.parametrize("positive", [EVERYONE, NOBODY])
def test_one_class_leaves_figures_undefined(positive: np.ndarray) -> None:
    score = np.array([0.1, 0.4, 0.6, 0.9])
    assert metrics.roc_auc(positive, score) is None
    assert metrics.average_precision(positive, score) is None
    counts = metrics.decision_counts(positive, score > 0.5)
    assert counts.balanced_accuracy is None
    assert (counts.f1 is None) == (not positive.any())
    undefined = "sensitivity" if not positive.any() else "specificity"
    assert metrics.proportions(counts)[undefined] == (0, 0)
    targets = np.where(positive, 1, 0)
    assert metrics.macro_auc(targets, np.full((4, 3), 1 / 3)) is None
    assert metrics.macro_f1(metrics.class_confusion(targets, targets, 3)) is None


def test_no_films_leave_figures_undefined() -> None:
    none, nothing = np.array([], dtype=bool), np.array([])
    assert metrics.brier(none, nothing) is None
    assert metrics.log_loss(none, nothing) is None
    assert metrics.expected_calibration_error(none, nothing) is None
    assert metrics.roc_auc(none, nothing) is None
    assert metrics.decision_counts(none, none) == metrics.Counts(0, 0, 0, 0)
