"""Which calibration: decided on validation films that the candidate was not fitted to.

In: logits, reference and patients of validation films. Out: the chosen calibration, fitted to all of them,
with the score of every candidate. The more flexible a calibration, the better it fits the films that it is
fitted to, so the fit says nothing; films of other patients do. Where they cannot tell, the simplest is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from pneumoscope.evaluation.calibration import FITS, fit_calibration
from pneumoscope.inference.prediction import calibrated_probabilities

FALLBACK = "bias-corrected-temperature"
"""Without enough patients to compare: the simplest that undoes what class weights do to a network."""

_FOLDS = 5

Floats = npt.NDArray[np.float64]
Parts = list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]


def choose_calibration(
    logits: npt.NDArray[np.floating[Any]],
    targets: npt.NDArray[np.int64],
    patients: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """Compare every calibration by cross-validation over patients, and fit the chosen one to all films.

    The score is the log loss over the classes, a proper score. Chosen is the simplest candidate whose loss is
    at most one standard error above the lowest; the standard error is that of the difference between the two
    on the same patients (the one-standard-error rule of Breiman et al., Classification and Regression Trees,
    1984, 3.4.3).

    Args:
        logits: (N, K), finite.
        targets: (N,) class index; rows with -1 are left out.
        patients: N patient keys; films of one patient are never on both sides.
        seed: of the parts.

    Returns:
        The ``calibration`` part of a bundle, with ``candidates``: method, log_loss, brier (of the probability
        of pneumonia), above_best and standard_error of each; none when the films are too few for parts that
        all hold every class.

    Raises:
        InputError: a class without films.
    """
    known = targets >= 0
    values, index = np.asarray(logits, dtype=np.float64)[known], targets[known]
    keys = np.asarray(patients, dtype=str)[known]
    parts = _parts(index, keys, values.shape[1], seed)
    if not parts:
        return {**fit_calibration(values, index, method=FALLBACK), "candidates": []}
    probabilities = {method: _out_of_part(values, index, parts, method) for method in FITS}
    losses = {method: _log_losses(found, index) for method, found in probabilities.items()}
    best = min(losses, key=lambda method: float(losses[method].mean()))
    candidates: list[dict[str, Any]] = []
    for method, loss in losses.items():
        difference = loss - losses[best]
        candidates.append(
            {
                "method": method,
                "log_loss": float(loss.mean()),
                "brier": float(np.mean((1 - probabilities[method][:, 0] - (index > 0)) ** 2)),
                "above_best": float(difference.mean()),
                "standard_error": _standard_error(difference, keys),
            }
        )
    chosen = next(one for one in candidates if one["above_best"] <= one["standard_error"])
    return {**fit_calibration(values, index, method=chosen["method"]), "candidates": candidates}


def _parts(index: npt.NDArray[np.int64], keys: npt.NDArray[Any], classes: int, seed: int) -> Parts:
    """(fitted, judged) rows; none when a class would be missing from films to fit."""
    smallest = min((len(np.unique(keys[index == k])) for k in range(classes)), default=0)
    if smallest < 2:
        return []
    splitter = StratifiedGroupKFold(min(_FOLDS, smallest), shuffle=True, random_state=seed)
    parts = list(splitter.split(np.zeros(len(index)), index, keys))
    whole = all(len(np.unique(index[fitted])) == classes for fitted, _ in parts)
    return parts if whole else []


def _out_of_part(values: Floats, index: npt.NDArray[np.int64], parts: Parts, method: str) -> Floats:
    """(N, K) probabilities of each film by the calibration of the parts that it is not in."""
    found = np.empty_like(values)
    for fitted, judged in parts:
        calibration = fit_calibration(values[fitted], index[fitted], method=method)
        found[judged] = calibrated_probabilities(values[judged], calibration)
    return found


def _log_losses(probabilities: Floats, index: npt.NDArray[np.int64]) -> Floats:
    own = probabilities[np.arange(len(index)), index]
    return -np.log(np.maximum(own, np.finfo(np.float64).eps))


def _standard_error(difference: Floats, keys: npt.NDArray[Any]) -> float:
    """Of the mean of ``difference``, whose films of one patient belong together (Liang & Zeger, 1986)."""
    residuals = np.bincount(np.unique(keys, return_inverse=True)[1], difference - difference.mean())
    return float(np.sqrt((residuals**2).sum()) / len(difference))
