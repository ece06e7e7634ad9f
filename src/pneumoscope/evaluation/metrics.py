"""The figures that describe a classifier of chest radiographs, as pure functions of arrays.

In: reference and prediction as arrays over films. Out: a float, or None where the figure is undefined on
these films (no film with pneumonia, nothing decided positive, ...): an undefined figure is said to be
undefined, never replaced by a number. Intervals are added in :mod:`pneumoscope.evaluation.evaluate`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TITLES = {
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "precision": "Precision",
    "sensitivity": "Sensitivity (recall)",
    "specificity": "Specificity",
    "f1": "F1",
    "false_negative_rate": "False-negative rate",
    "ppv": "PPV at the stated prevalence",
    "npv": "NPV at the stated prevalence",
    "brier": "Brier score",
    "log_loss": "Log loss",
    "ece": "Expected calibration error",
    "three_class_accuracy": "Three-class accuracy",
    "macro_f1": "Macro F1",
    "macro_auc": "Macro one-vs-rest AUC",
    "precision_normal": "Precision, normal",
    "recall_normal": "Recall, normal",
    "precision_bacterial": "Precision, bacterial",
    "recall_bacterial": "Recall, bacterial",
    "precision_viral": "Precision, viral",
    "recall_viral": "Recall, viral",
    "bacterial_vs_viral_auc": "Bacterial-vs-viral AUC",
}
"""Metric name -> how people read it, in reading order."""

ECE_BINS = 15
"""Bins of the calibration error: M = 15 in Guo et al., ICML 2017 (arXiv:1706.04599), section 2."""


@dataclass(frozen=True, slots=True)
class Counts:
    """The four cells of a yes-or-no decision about pneumonia; films."""

    tp: int
    fp: int
    fn: int
    tn: int

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of sensitivity and specificity; None without both classes."""
        if not (self.tp + self.fn and self.tn + self.fp):
            return None
        return (self.tp / (self.tp + self.fn) + self.tn / (self.tn + self.fp)) / 2

    @property
    def f1(self) -> float | None:
        """Harmonic mean of precision and sensitivity; None without a film with pneumonia."""
        return None if not self.tp + self.fn else 2 * self.tp / (2 * self.tp + self.fp + self.fn)


def decision_counts(positive: Bools, decided: Bools) -> Counts:
    """Counts of reference ``positive`` (N,) against decision ``decided`` (N,)."""
    return Counts(
        tp=int((positive & decided).sum()),
        fp=int((~positive & decided).sum()),
        fn=int((positive & ~decided).sum()),
        tn=int((~positive & ~decided).sum()),
    )


def proportions(counts: Counts) -> dict[str, tuple[int, int]]:
    """The figures that are plain proportions, by name, as (successes, trials); no trials: undefined."""
    c = counts
    return {
        "accuracy": (c.tp + c.tn, c.tp + c.fp + c.fn + c.tn),
        "precision": (c.tp, c.tp + c.fp),
        "sensitivity": (c.tp, c.tp + c.fn),
        "specificity": (c.tn, c.tn + c.fp),
        "false_negative_rate": (c.fn, c.tp + c.fn),
    }


def predictive_values(
    sensitivity: float, specificity: float, prevalence: float
) -> tuple[float | None, float | None]:
    """PPV and NPV at a stated prevalence, by Bayes' theorem; None where nothing is decided that way.

    Args:
        sensitivity, specificity, prevalence: in [0, 1].
    """
    true_positive = sensitivity * prevalence
    true_negative = specificity * (1 - prevalence)
    called = true_positive + (1 - specificity) * (1 - prevalence)
    cleared = true_negative + (1 - sensitivity) * prevalence
    return (true_positive / called if called else None, true_negative / cleared if cleared else None)


def roc_auc(positive: Bools, score: Floats) -> float | None:
    """Area under the ROC curve, ties counted half; None without both classes."""
    return float(sk.roc_auc_score(positive, score)) if _both(positive) else None


def average_precision(positive: Bools, score: Floats) -> float | None:
    """Area under the precision-recall steps, without interpolation; None without both classes."""
    return float(sk.average_precision_score(positive, score)) if _both(positive) else None


def brier(positive: Bools, probability: Floats) -> float | None:
    """Mean squared error of the probability (Brier, 1950), in [0, 1]; None without films."""
    return float(np.mean((probability - positive) ** 2)) if positive.size else None


def log_loss(positive: Bools, probability: Floats) -> float | None:
    """Mean negative log-likelihood in nats; probabilities are held off 0 and 1 by one float64 epsilon."""
    return float(np.mean(film_log_losses(positive, probability))) if positive.size else None


def film_log_losses(positive: Bools, probability: Floats) -> Floats:
    """(N,) negative log-likelihood of each film, in nats; their mean is :func:`log_loss`."""
    epsilon = np.finfo(np.float64).eps
    held = np.clip(probability, epsilon, 1 - epsilon)
    return -np.log(np.where(positive, held, 1 - held))


def equal_mass_bins(probability: Floats, bins: int = ECE_BINS) -> Ints:
    """(N,) bin of each film, 0 to ``bins`` - 1, each with about the same count; equal values share a bin.

    Equal mass rather than equal width: a good classifier puts nearly all films into the outermost of the
    equal-width bins (Nixon et al., CVPR Workshops 2019, arXiv:1904.01685, adaptive calibration error).
    """
    if not probability.size:
        return np.zeros(0, dtype=np.int64)
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, probability, side="left").astype(np.int64)


def expected_calibration_error(positive: Bools, probability: Floats, bins: int = ECE_BINS) -> float | None:
    """Mean over films of |observed frequency - mean probability| of the film's bin (Guo et al., 2017).

    Binary, on the probability of pneumonia, with equal-mass bins; None without films.
    """
    if not positive.size:
        return None
    index = equal_mass_bins(probability, bins)
    gaps = np.bincount(index, weights=positive - probability)
    return float(np.abs(gaps).sum() / positive.size)


def class_confusion(targets: Ints, predicted: Ints, classes: int) -> Ints:
    """(K, K) counts, rows the reference and columns the prediction; targets of -1 are not counted."""
    known = targets >= 0
    if not known.any():
        return np.zeros((classes, classes), dtype=np.int64)
    return np.asarray(sk.confusion_matrix(targets[known], predicted[known], labels=range(classes)), np.int64)


def class_proportions(confusion: Ints, classes: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Three-class accuracy, and precision and recall per class, as (successes, trials).

    Accuracy and precision have no trials where a class has no reference film: with pneumonia of unknown cause
    left out, a network that calls everything normal would be always right.
    """
    hits, called, present = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    every = bool(present.all())
    found = {"three_class_accuracy": (int(hits.sum()), int(confusion.sum())) if every else (0, 0)}
    for k, name in enumerate(classes):
        found[f"precision_{name}"] = (int(hits[k]), int(called[k])) if every else (0, 0)
        found[f"recall_{name}"] = (int(hits[k]), int(present[k]))
    return found


def macro_f1(confusion: Ints) -> float | None:
    """Mean over classes of F1; None when a class has no reference film."""
    called, present = confusion.sum(axis=0), confusion.sum(axis=1)
    if not present.all():
        return None
    return float(np.mean(2 * np.diag(confusion) / (called + present)))


def macro_auc(targets: Ints, probabilities: Floats) -> float | None:
    """Mean over classes of the AUC of that class against the rest; None when a class has no reference film.

    Args:
        targets: (N,) class index; films with -1 are left out, as their class is not known.
        probabilities: (N, K).
    """
    known = targets >= 0
    areas = [roc_auc(targets[known] == k, probabilities[known, k]) for k in range(probabilities.shape[1])]
    defined = [area for area in areas if area is not None]
    return float(np.mean(defined)) if len(defined) == len(areas) else None


def etiology_score(probabilities: Floats) -> Floats:
    """(N,) p(bacterial) / (p(bacterial) + p(viral)) of (N, 3) probabilities; 0.5 where both are 0."""
    pneumonia = probabilities[:, 1] + probabilities[:, 2]
    score = np.full(len(pneumonia), 0.5)
    np.divide(probabilities[:, 1], pneumonia, out=score, where=pneumonia > 0)
    return score


def etiology_auc(targets: Ints, probabilities: Floats) -> float | None:
    """AUC of :func:`etiology_score` among films with pneumonia of known cause; None without both causes."""
    known = targets > 0
    return roc_auc(targets[known] == 1, etiology_score(probabilities[known]))


def _both(positive: Bools) -> bool:
    return bool(positive.any() and not positive.all())
