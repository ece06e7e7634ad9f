"""Classification metrics as pure functions of arrays, and their weighted twins for the bootstrap.

A metric takes reference and prediction over images and returns a float, or None where it is undefined on
these images (no image with pneumonia, none called positive, ...); intervals are added in
:mod:`pneumoscope.evaluation.evaluate`. A ``*_statistic`` takes the same and returns a function of weights
(B, N), one row a resample and each entry how often that image is in it, to (B,) values, NaN where undefined.
With one row of ones it equals its namesake. Scores are sorted once and not once per resample, which makes the
bootstrap of 5,000 images take a second instead of a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

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
    """The four cells of a yes-or-no decision about pneumonia; images."""

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
        """Harmonic mean of precision and sensitivity; None without an image with pneumonia."""
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
    from sklearn.metrics import roc_auc_score  # here: its import takes as long as a server's start

    return float(roc_auc_score(positive, score)) if _both(positive) else None


def average_precision(positive: Bools, score: Floats) -> float | None:
    """Area under the precision-recall steps, without interpolation; None without both classes."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(positive, score)) if _both(positive) else None


def brier(positive: Bools, probability: Floats) -> float | None:
    """Mean squared error of the probability (Brier, 1950), in [0, 1]; None without images."""
    return float(np.mean((probability - positive) ** 2)) if positive.size else None


def log_loss(positive: Bools, probability: Floats) -> float | None:
    """Mean negative log-likelihood in nats; probabilities are held off 0 and 1 by one float64 epsilon."""
    return float(np.mean(film_log_losses(positive, probability))) if positive.size else None


def film_log_losses(positive: Bools, probability: Floats) -> Floats:
    """(N,) negative log-likelihood of each image, in nats; their mean is :func:`log_loss`."""
    epsilon = np.finfo(np.float64).eps
    held = np.clip(probability, epsilon, 1 - epsilon)
    return -np.log(np.where(positive, held, 1 - held))


def equal_mass_bins(probability: Floats, bins: int = ECE_BINS) -> Ints:
    """(N,) bin of each image, 0 to ``bins`` - 1, each with about the same count; equal values share a bin.

    Equal mass rather than equal width: a good classifier puts nearly all images into the outermost of the
    equal-width bins (Nixon et al., CVPR Workshops 2019, arXiv:1904.01685, adaptive calibration error).
    """
    if not probability.size:
        return np.zeros(0, dtype=np.int64)
    edges = np.unique(np.quantile(probability, np.linspace(0, 1, bins + 1)[1:-1]))
    return np.searchsorted(edges, probability, side="left").astype(np.int64)


def expected_calibration_error(positive: Bools, probability: Floats, bins: int = ECE_BINS) -> float | None:
    """Mean over images of |observed frequency - mean probability| of the image's bin (Guo et al., 2017).

    Binary, on the probability of pneumonia, with equal-mass bins; None without images.
    """
    if not positive.size:
        return None
    index = equal_mass_bins(probability, bins)
    gaps = np.bincount(index, weights=positive - probability)
    return float(np.abs(gaps).sum() / positive.size)


def class_confusion(targets: Ints, predicted: Ints, classes: int) -> Ints:
    """(K, K) counts, rows the reference and columns the prediction; targets of -1 are not counted."""
    from sklearn.metrics import confusion_matrix

    known = targets >= 0
    if not known.any():
        return np.zeros((classes, classes), dtype=np.int64)
    return np.asarray(confusion_matrix(targets[known], predicted[known], labels=range(classes)), np.int64)


def class_proportions(confusion: Ints, classes: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Three-class accuracy, and precision and recall per class, as (successes, trials).

    Accuracy and precision have no trials where a class has no reference image: with pneumonia of unknown
    cause left out, a network that calls everything normal would be always right.
    """
    hits, called, present = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    every = bool(present.all())
    found = {"three_class_accuracy": (int(hits.sum()), int(confusion.sum())) if every else (0, 0)}
    for k, name in enumerate(classes):
        found[f"precision_{name}"] = (int(hits[k]), int(called[k])) if every else (0, 0)
        found[f"recall_{name}"] = (int(hits[k]), int(present[k]))
    return found


def macro_f1(confusion: Ints) -> float | None:
    """Mean over classes of F1; None when a class has no reference image."""
    called, present = confusion.sum(axis=0), confusion.sum(axis=1)
    if not present.all():
        return None
    return float(np.mean(2 * np.diag(confusion) / (called + present)))


def macro_auc(targets: Ints, probabilities: Floats) -> float | None:
    """Mean over classes of the AUC of that class against the rest; None when a class has no reference image.

    Args:
        targets: (N,) class index; images with -1 are left out, as their class is not known.
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
    """AUC of :func:`etiology_score` among images with pneumonia of known cause; None without both causes."""
    known = targets > 0
    return roc_auc(targets[known] == 1, etiology_score(probabilities[known]))


def _both(positive: Bools) -> bool:
    return bool(positive.any() and not positive.all())


Statistic = Callable[[Floats], Floats]
"""(B, N) weights -> (B,) values, NaN where undefined."""


def roc_auc_statistic(positive: Bools, score: Floats) -> Statistic:
    """Area under the ROC curve: share of (positive, negative) pairs in the right order, ties half."""
    order, starts = _descending(score)
    sorted_positive = positive[order].astype(np.float64)

    def area(weights: Floats) -> Floats:
        hits, misses = _by_score(weights[:, order], sorted_positive, starts)
        above = np.cumsum(hits, axis=1) - hits / 2
        pairs = hits.sum(axis=1) * misses.sum(axis=1)
        return _divide((misses * above).sum(axis=1), pairs)

    return area


def folded_auc_statistic(positive: Bools, score: Floats, fold: npt.NDArray[np.int64]) -> Statistic:
    """Area over the pairs of images of one fold (N,), where each fold's scores come from its own fit."""
    groups = [np.flatnonzero(fold == number) for number in np.unique(fold)]
    areas = [roc_auc_statistic(positive[rows], score[rows]) for rows in groups]

    def area(weights: Floats) -> Floats:
        right, pairs = np.zeros(len(weights)), np.zeros(len(weights))
        for rows, own_area in zip(groups, areas, strict=True):
            own = weights[:, rows]
            count = own[:, positive[rows]].sum(axis=1) * own[:, ~positive[rows]].sum(axis=1)
            right += np.nan_to_num(own_area(own)) * count
            pairs += count
        return _divide(right, pairs)

    return area


def average_precision_statistic(positive: Bools, score: Floats) -> Statistic:
    """Sum over distinct scores of (gain in recall) x precision."""
    order, starts = _descending(score)
    sorted_positive = positive[order].astype(np.float64)

    def area(weights: Floats) -> Floats:
        hits, misses = _by_score(weights[:, order], sorted_positive, starts)
        found = np.cumsum(hits, axis=1)
        called = found + np.cumsum(misses, axis=1)
        precision = np.divide(found, called, out=np.zeros_like(found), where=called > 0)
        return _divide((hits * precision).sum(axis=1), found[:, -1])

    return area


def mean_statistic(values: Floats) -> Statistic:
    """Mean over images of ``values`` (N,): Brier score, log loss."""
    return lambda weights: _divide(weights @ values, weights.sum(axis=1))


def share_statistic(hits: Bools, weight: Floats) -> Statistic:
    """Share of the images' ``weight`` (N,) that lies on ``hits`` (N,)."""
    return lambda weights: _divide(weights @ (weight * hits), weights @ weight)


def aurc_statistic(confidence: Floats, wrong: Bools) -> Statistic:
    """Area under the risk-coverage curve: the mean, over images, of the error among images as sure as it.

    Geifman, Uziel & El-Yaniv, ICLR 2019, section 2. Equally sure images are answered together.
    """
    order = np.argsort(-confidence, kind="stable")
    last = np.flatnonzero(np.diff(confidence[order], append=np.inf) != 0)
    sorted_wrong = wrong[order].astype(np.float64)

    def area(weights: Floats) -> Floats:
        drawn = weights[:, order]
        answered = np.cumsum(drawn, axis=1)[:, last]
        errors = np.cumsum(drawn * sorted_wrong, axis=1)[:, last]
        risk = np.divide(errors, answered, out=np.zeros_like(errors), where=answered > 0)
        steps = np.diff(answered, axis=1, prepend=0)
        return _divide((risk * steps).sum(axis=1), answered[:, -1])

    return area


def balanced_accuracy_statistic(positive: Bools, decided: Bools) -> Statistic:
    """Mean of sensitivity and specificity."""

    def mean_recall(weights: Floats) -> Floats:
        tp, fp, fn, tn = _cells(weights, positive, decided)
        return (_divide(tp, tp + fn) + _divide(tn, tn + fp)) / 2

    return mean_recall


def f1_statistic(positive: Bools, decided: Bools) -> Statistic:
    """Harmonic mean of precision and sensitivity."""

    def harmonic_mean(weights: Floats) -> Floats:
        tp, fp, fn, _ = _cells(weights, positive, decided)
        return np.where(tp + fn > 0, _divide(2 * tp, 2 * tp + fp + fn), np.nan)

    return harmonic_mean


def ece_statistic(positive: Bools, probability: Floats, bins: int = ECE_BINS) -> Statistic:
    """Expected calibration error in the equal-mass bins of the whole sample."""
    index = equal_mass_bins(probability, bins)
    members = np.zeros((len(probability), int(index.max(initial=0)) + 1))
    members[np.arange(len(index)), index] = positive - probability

    return lambda weights: _divide(np.abs(weights @ members).sum(axis=1), weights.sum(axis=1))


def macro_f1_statistic(targets: Ints, predicted: Ints, classes: int) -> Statistic:
    """Mean over classes of F1; images with target -1 do not count."""
    known = (targets >= 0).astype(np.float64)
    present = np.stack([targets == k for k in range(classes)], axis=1).astype(np.float64)
    called = np.stack([predicted == k for k in range(classes)], axis=1) * known[:, None]

    def mean_f1(weights: Floats) -> Floats:
        there, said = weights @ present, weights @ called
        both = weights @ (present * called)
        scores = np.where(there > 0, _divide(2 * both, there + said), np.nan)
        return np.asarray(scores.mean(axis=1))

    return mean_f1


def macro_auc_statistic(targets: Ints, probabilities: Floats) -> Statistic:
    """Mean over classes of the one-vs-rest AUC; images with target -1 do not count."""
    known = targets >= 0
    areas = [
        roc_auc_statistic(targets[known] == k, probabilities[known, k]) for k in range(probabilities.shape[1])
    ]
    return lambda weights: np.mean([area(weights[:, known]) for area in areas], axis=0)


def etiology_auc_statistic(targets: Ints, probabilities: Floats) -> Statistic:
    """Bacterial-vs-viral AUC among images with pneumonia of known cause."""
    known = targets > 0
    area = roc_auc_statistic(targets[known] == 1, etiology_score(probabilities[known]))
    return lambda weights: area(weights[:, known])


def _descending(score: Floats) -> tuple[Ints, Ints]:
    """Order of images by falling score, and where each distinct score starts in it."""
    order = np.argsort(-score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=np.inf) != 0)
    return order, starts


def _by_score(weights: Floats, positive: Floats, starts: Ints) -> tuple[Floats, Floats]:
    """Weight of positive and of negative images at each distinct score, each (B, G)."""
    hits = np.add.reduceat(weights * positive, starts, axis=1)
    return hits, np.add.reduceat(weights, starts, axis=1) - hits


def _cells(weights: Floats, positive: Bools, decided: Bools) -> tuple[Floats, ...]:
    """Weighted tp, fp, fn, tn, each (B,)."""
    masks = (positive & decided, ~positive & decided, positive & ~decided, ~positive & ~decided)
    return tuple((weights @ np.stack(masks, axis=1).astype(np.float64)).T)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    quotient = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
