"""Conformal sets: the answers that cannot be excluded at a stated error rate, fitted on validation films.

In: probabilities, reference and patients of validation films. Out: from which probability on a film's set
holds pneumonia, and up to which it holds normal; the same for bacterial and viral.

Split conformal prediction, for each class by itself (Vovk, Machine Learning 92, 2013, label-conditional;
Sadinle, Lei & Wasserman, JASA 114, 2019; Angelopoulos & Bates, arXiv:2107.07511, section 4.3). Films of one
patient resemble each other, so that patients and not films are taken to be exchangeable, and each patient
counts once, whatever the number of films (hierarchical conformal prediction: Lee, Barber & Willett,
arXiv:2306.06342, section 2). What is guaranteed: take a new patient with pneumonia, drawn as the validation
patients were, and one of their films at random; its set lacks pneumonia with a probability of at most the
error rate. The same for patients without. On average over draws of the validation patients, that is; for
other hospitals nothing is guaranteed, and the films also chose the epoch, which costs a little.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from pneumoscope.core.config import Config

METHOD = "label-conditional split conformal, one vote a patient"

_DIGITS = 10**6  # bounds are rounded outwards to so many parts: sets become larger, never smaller

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class SelectionConfig(Config):
    """At which error rates films are abstained, and etiologies uncertain; 0: never.

    The defaults come from five folds of Guangzhou films, out of fold: at 0.025 about 97 % of the films are
    answered, half as often wrongly; at 0.15 79 % of the etiologies are named, 83 % instead of 78 % rightly.
    """

    error_rate: float = Field(default=0.025, ge=0, lt=0.5)
    etiology_error_rate: float = Field(default=0.15, ge=0, lt=0.5)


def fit_selection(
    probability: Floats, positive: Bools, patients: Sequence[str], error_rate: float, threshold: float
) -> dict[str, Any]:
    """The ``selection`` part of a bundle.

    Where the default operating point would lie outside of the doubtful range, the range is made to reach it:
    sets only become larger, and no film is called one thing by its set and another by the threshold.

    Args:
        probability: (N,) calibrated probability of pneumonia of validation films.
        positive: (N,) reference.
        patients: N patient keys.
        error_rate: share of new patients of either class whose set may lack the truth.
        threshold: the default operating point.

    Returns:
        ``method``, ``error_rate``, ``patients`` of each class, and ``pneumonia_from`` and ``normal_to``; or
        ``absent``, why there are none.
    """
    found = _fit(probability, positive, patients, error_rate, ("normal", "pneumonia"))
    if "absent" in found:
        return found
    low, high = sorted((found["pneumonia_from"], found["normal_to"]))
    if threshold < low:
        found["pneumonia_from"] = _down(threshold)
    elif threshold > high:
        found["normal_to"] = _up(threshold)
    return found


def fit_etiology(
    share: Floats, bacterial: Bools, patients: Sequence[str], error_rate: float
) -> dict[str, Any]:
    """The ``etiology`` part of a bundle, as :func:`fit_selection`: ``bacterial_from`` and ``viral_to``.

    Args:
        share: (N,) of bacterial in the probability of pneumonia, of films with pneumonia of known cause.
        bacterial: (N,) reference.
        patients, error_rate: as there.
    """
    return _fit(share, bacterial, patients, error_rate, ("viral", "bacterial"))


def _fit(
    value: Floats, upper: Bools, patients: Sequence[str], error_rate: float, names: tuple[str, str]
) -> dict[str, Any]:
    keys = np.asarray(patients, dtype=str)
    counts = {name: len(np.unique(keys[rows])) for name, rows in zip(names, (~upper, upper), strict=True)}
    found: dict[str, Any] = {"method": METHOD, "error_rate": error_rate, "patients": counts}
    if error_rate == 0:
        return {**found, "absent": "switched off: the error rate is 0"}
    needed = ceil(round(1 / error_rate, 9)) - 1
    short = [f"{count} {name}" for name, count in counts.items() if count < needed]
    if short:
        return {
            **found,
            "absent": f"an error rate of {100 * error_rate:g} % needs {needed} validation patients of each "
            f"class; there are {' and '.join(short)}",
        }
    from_here = lowest_held(value[upper], keys[upper], error_rate)
    to_here = -lowest_held(-value[~upper], keys[~upper], error_rate)
    return {
        **found,
        f"{names[1]}_from": _down(from_here),
        f"{names[0]}_to": _up(to_here),
    }


def _down(value: float) -> float:
    return floor(value * _DIGITS) / _DIGITS


def _up(value: float) -> float:
    return ceil(value * _DIGITS) / _DIGITS


def lowest_held(value: Floats, patients: npt.NDArray[Any], error_rate: float) -> float:
    """The lowest value that a class still holds: below it lies a new film with at most the error rate.

    Each of K patients has the weight 1 / (K + 1), shared by their films, and the new one the rest; the bound
    is the highest value below which all films together weigh at most ``error_rate`` - 1 / (K + 1).

    Args:
        value: (N,) of films of the class, high where they fit it.
        patients: (N,) keys.
        error_rate: at least 1 / (K + 1).
    """
    _, patient, films = np.unique(patients, return_inverse=True, return_counts=True)
    candidates, rank = np.unique(value, return_inverse=True)
    weights = np.bincount(rank, 1 / films[patient])
    below = np.cumsum(weights) - weights
    allowed = error_rate * (len(films) + 1) - 1
    return float(candidates[below <= allowed + 1e-9].max())
