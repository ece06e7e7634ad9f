"""What a hyper-parameter search optimises: one figure of a network on validation films, by patient.

In: raw answers on the validation films, their classes and patients. Out: the log loss of the calibrated
answers, or the AUC of pneumonia. Test films are never looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pneumoscope.evaluation.calibration import fit_calibration
from pneumoscope.evaluation.metrics import roc_auc
from pneumoscope.inference.prediction import calibrated_probabilities

Floats = npt.NDArray[np.floating]
Classes = npt.NDArray[np.integer]

SMALLEST = 1e-7
"""Probabilities below are taken for this: float32 cannot tell 1 - p from 1 beyond it (numpy.finfo.eps)."""


def film_weights(targets: Classes, patients: Sequence[str]) -> npt.NDArray[np.float64]:
    """(N,) weights by which every class counts the same, and every patient the same within a class.

    They sum to 1. A patient with films of two classes counts once in each.
    """
    keys = list(zip(patients, np.asarray(targets).tolist(), strict=True))
    films = Counter(keys)
    people = np.bincount([target for _, target in films])
    classes = int((people > 0).sum())
    return np.array([1 / (films[key] * people[key[1]] * classes) for key in keys])


def balanced_log_loss(logits: Floats, targets: Classes, patients: Sequence[str]) -> float:
    """Cross-entropy of the calibrated answers in nats, every class and every patient counted the same.

    The answers are calibrated first, as a bundle's are: the raw loss would reward configurations (label
    smoothing, averaging) for confidence that calibration gives all of them.

    Args:
        logits: (N, K).
        targets: (N,) class index; each class has a film.
        patients: N patient keys.
    """
    weights = film_weights(targets, patients)
    probabilities = calibrated_probabilities(logits, fit_calibration(logits, targets, weights))
    own = probabilities[np.arange(len(targets)), targets]
    return float(-(weights * np.log(np.maximum(own, SMALLEST))).sum())


def patient_auc(logits: Floats, targets: Classes, patients: Sequence[str]) -> float:
    """Area under the ROC curve of pneumonia; a patient's score is the mean over the films of one label.

    Args:
        logits: (N, K); class 0 is normal.
        targets: (N,) class index; normal films and others are both there.
        patients: N patient keys.
    """
    plain = {"method": "temperature", "temperature": 1.0}
    score = 1 - calibrated_probabilities(logits, plain)[:, 0]
    keys = list(zip(patients, (np.asarray(targets) > 0).tolist(), strict=True))
    groups, index = np.unique([f"{ill:d}{patient}" for patient, ill in keys], return_inverse=True)
    means = np.bincount(index, score) / np.bincount(index)
    found = roc_auc(np.array([group.startswith("1") for group in groups]), means)
    assert found is not None  # a training set holds every class
    return found
