"""Probabilities that mean what they say: calibration, and the bins that show whether it worked.

In: logits and reference of validation films. Out: a temperature with a bias for each class; or the bins of a
reliability diagram.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax

from pneumoscope.core.errors import InputError
from pneumoscope.evaluation.intervals import wilson
from pneumoscope.evaluation.metrics import ECE_BINS, equal_mass_bins

__all__ = ["TEMPERATURE_BOUNDS", "ReliabilityBin", "fit_calibration", "reliability"]

TEMPERATURE_BOUNDS = (0.05, 20.0)
"""Outside of this a network is broken, not miscalibrated; Guo et al. (2017) report 0.95 to 4.2, table S.2."""

BIAS_BOUND = 10.0
"""Log-odds: a prevalence of one in 20,000 turned round; beyond it the films are not those of training."""


def fit_calibration(
    logits: npt.NDArray[np.floating],
    targets: npt.NDArray[np.integer],
    weights: npt.NDArray[np.floating] | None = None,
) -> dict[str, Any]:
    """The T and b that make softmax(logits / T + b) fit best: bias-corrected temperature scaling.

    Temperature alone (Guo et al., ICML 2017) cannot move probability from one class to another; one bias a
    class can (Alexandari, Kundaje & Shrikumar, ICML 2020, section 2.3). The likelihood is taken against
    Platt's smoothed targets, (n_k + 1) / (n_k + 2) for a film's own class k (Platt, 1999; Lin, Lin & Weng,
    Machine Learning 68, 2007): with hard targets the best T of separable films is 0, which would claim
    certainty that a finite validation set cannot show.

    Args:
        logits: (N, K), finite.
        targets: (N,) class index; rows with -1 are left out.
        weights: (N,) how much each film counts; None: all the same.

    Returns:
        The ``calibration`` part of a bundle: method, temperature, and bias (K numbers, that of the first
        class zero).

    Raises:
        InputError: fewer than two films of known class, or a class without films.
    """
    targets = np.asarray(targets)
    known = targets >= 0
    values, index = np.asarray(logits, dtype=np.float64)[known], targets[known]
    counted = None if weights is None else np.asarray(weights, dtype=np.float64)[known]
    present, classes = np.unique(index), values.shape[1]
    if len(present) < classes:
        raise InputError(
            f"cannot calibrate on {len(index)} films of {len(present)} of {classes} classes",
            expected="validation films of every class",
            remedy="choose a split whose validation part holds every class",
        )
    desired = _smoothed(index, classes)

    def loss(parameters: npt.NDArray[np.float64]) -> float:
        scaled = values / np.exp(parameters[0]) + np.append(0.0, parameters[1:])
        return -float(np.average((desired * log_softmax(scaled, axis=1)).sum(axis=1), weights=counted))

    bounds = [tuple(np.log(TEMPERATURE_BOUNDS))] + [(-BIAS_BOUND, BIAS_BOUND)] * (classes - 1)
    found = minimize(loss, np.zeros(classes), method="L-BFGS-B", bounds=bounds)
    return {
        "method": "bias-corrected-temperature",
        "temperature": float(np.exp(found.x[0])),
        "bias": [0.0, *map(float, found.x[1:])],
    }


def _smoothed(targets: npt.NDArray[np.integer], classes: int) -> npt.NDArray[np.float64]:
    """(N, K) Platt's targets: (n_k + 1) / (n_k + 2) for the own class k, the rest shared by the others."""
    counts = np.bincount(targets, minlength=classes)
    own = (counts[targets] + 1) / (counts[targets] + 2)
    desired = np.repeat(((1 - own) / (classes - 1))[:, None], classes, axis=1)
    desired[np.arange(len(targets)), targets] = own
    return desired


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Films of similar probability: mean probability, observed frequency with its Wilson interval, count."""

    probability: float
    frequency: float
    low: float
    high: float
    n: int


def reliability(
    positive: npt.NDArray[np.bool_], probability: npt.NDArray[np.float64], bins: int = ECE_BINS
) -> tuple[ReliabilityBin, ...]:
    """The bins of a reliability diagram, the equal-mass bins of the calibration error, from low to high.

    Args:
        positive: (N,) reference.
        probability: (N,) in [0, 1].
    """
    index = equal_mass_bins(probability, bins)
    found = []
    for k in np.unique(index):
        here = index == k
        n, hits = int(here.sum()), int(positive[here].sum())
        low, high = wilson(hits, n)
        found.append(ReliabilityBin(float(probability[here].mean()), hits / n, low, high, n))
    return tuple(found)
