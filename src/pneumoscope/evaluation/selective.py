"""Selective prediction: conformal abstention bounds, and what abstention gains, with intervals.

The bounds are label-conditional split conformal sets (Vovk, Machine Learning 92, 2013; Sadinle, Lei &
Wasserman, JASA 114, 2019; Angelopoulos & Bates, arXiv:2107.07511, section 4.3). Images of one patient
resemble each other, so patients and not images are taken to be exchangeable, and each patient counts once,
whatever the number of images (hierarchical conformal prediction: Lee, Barber & Willett, arXiv:2306.06342,
section 2). The guarantee: for a new patient with pneumonia, drawn as the validation patients were, and one
of their images at random, the set lacks pneumonia with a probability of at most the error rate; the same for
patients without. It holds on average over draws of the validation patients. Nothing is guaranteed for other
hospitals, and the validation images also chose the epoch, which costs a little.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from math import ceil, floor
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.special import logit

from pneumoscope.core.config import Config
from pneumoscope.core.records import Estimate, Task
from pneumoscope.evaluation.intervals import RESAMPLES, bootstrap, bootstrap_estimate, proportion_estimate
from pneumoscope.evaluation.metrics import Statistic, aurc_statistic, etiology_score, share_statistic
from pneumoscope.evaluation.predictions import PredictionTable
from pneumoscope.inference.selection import ABSTAINED, Bounds, decide_etiologies, decide_films

METHOD = "label-conditional split conformal, one vote a patient"

_DIGITS = 10**6  # bounds are rounded outwards to so many parts: sets become larger, never smaller

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


class SelectionConfig(Config):
    """At which error rates images are abstained, and etiologies uncertain; 0: never.

    The defaults come from five folds of Guangzhou images, out of fold: at 0.025 about 97 % of the images are
    answered, half as often wrongly; at 0.15 79 % of the etiologies are named, 83 % instead of 78 % rightly.
    """

    error_rate: float = Field(default=0.025, ge=0, lt=0.5)
    etiology_error_rate: float = Field(default=0.15, ge=0, lt=0.5)


def fit_selection(
    probability: Floats, positive: Bools, patients: Sequence[str], error_rate: float, threshold: float
) -> dict[str, Any]:
    """The ``selection`` part of a bundle.

    Where the default operating point would lie outside of the doubtful range, the range is made to reach it:
    sets only become larger, and no image is called one thing by its set and another by the threshold.

    Args:
        probability: (N,) calibrated probability of pneumonia of validation images.
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
        share: (N,) of bacterial in the probability of pneumonia, of images with pneumonia of known cause.
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
    """The lowest value that a class still holds: below it lies a new image with at most the error rate.

    Each of K patients has the weight 1 / (K + 1), shared by their images, and the new one the rest; the bound
    is the highest value below which all images together weigh at most ``error_rate`` - 1 / (K + 1).

    Args:
        value: (N,) of images of the class, high where they fit it.
        patients: (N,) keys.
        error_rate: at least 1 / (K + 1).
    """
    _, patient, films = np.unique(patients, return_inverse=True, return_counts=True)
    candidates, rank = np.unique(value, return_inverse=True)
    weights = np.bincount(rank, 1 / films[patient])
    below = np.cumsum(weights) - weights
    allowed = error_rate * (len(films) + 1) - 1
    return float(candidates[below <= allowed + 1e-9].max())


SELECTIVE_TITLES = {
    "answered": "Images answered",
    "answered_normal": "Answered, of the normal images",
    "answered_pneumonia": "Answered, of the images with pneumonia",
    "error_all": "Wrong, if every image were answered",
    "error_answered": "Wrong, among the answered images",
    "false_alarms_answered": "False alarms, among the answered normal images",
    "missed_answered": "Missed, among the answered images with pneumonia",
    "held_normal": "Sets that hold the truth, normal patients",
    "held_pneumonia": "Sets that hold the truth, patients with pneumonia",
    "aurc": "Area under the risk-coverage curve",
    "etiology_answered": "Etiology named, of the images rightly called positive",
    "etiology_accuracy_all": "Etiology right, if it were always named",
    "etiology_accuracy_answered": "Etiology right, where it is named",
    "held_bacterial": "Sets that hold the truth, bacterial patients",
    "held_viral": "Sets that hold the truth, viral patients",
}
"""Figure -> how people read it, in reading order."""

_CURVE_POINTS = 200
_CLIP = 1e-12  # keeps the logits of probabilities 0 and 1 finite


def selective_report(
    table: PredictionTable, threshold: float | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Any] | None:
    """The ``selection`` of a scoring, as plain values; None when no bundle behind the images can abstain.

    Args:
        table: at least one image.
        threshold: of the operating point; None: of each image's own bundle, its default one.
        resamples, seed: of the bootstrap over patients.

    Returns:
        ``error_rate`` and ``etiology_error_rate`` (None where bundles differ or have none); ``own_points``,
        whether each image was held against its own bundle's default operating point; ``counts`` of positive,
        negative and abstained images; ``estimates`` by name (:data:`SELECTIVE_TITLES`; undefined ones are
        absent); ``curve`` with ``coverage`` and ``risk``.
    """
    if table.bounds is None:
        return None
    bounds = Bounds(*table.bounds.T)
    if np.isnan(bounds.pneumonia_from).all() and np.isnan(bounds.bacterial_from).all():
        return None
    thresholds = bounds.threshold if threshold is None else np.full(len(table), threshold)
    decided = decide_films(table.probability, thresholds, bounds)
    wrong = (table.probability >= thresholds) != table.positive
    confidence = _confidence(table.probability, thresholds)
    estimates = _answered(table.positive, decided, wrong)
    scores = _held(table, bounds)
    scores["aurc"] = aurc_statistic(confidence, wrong)
    if table.task is Task.THREE_CLASS:
        estimates |= _etiologies(table, decided, bounds)
    estimates |= _bootstrapped(table, scores, resamples, seed)
    return {
        "error_rate": _common(bounds.error_rate),
        "etiology_error_rate": _common(bounds.etiology_error_rate),
        "own_points": threshold is None,
        "counts": {
            "positive": int((decided == 1).sum()),
            "negative": int((decided == 0).sum()),
            "abstained": int((decided == ABSTAINED).sum()),
        },
        "estimates": {name: asdict(estimates[name]) for name in SELECTIVE_TITLES if name in estimates},
        "curve": risk_coverage(confidence, wrong),
    }


def _common(values: Floats) -> float | None:
    there = np.unique(values)
    return float(there[0]) if len(there) == 1 and not np.isnan(there[0]) else None


def _confidence(probability: Floats, thresholds: Floats) -> Floats:
    """How far each image lies from its threshold, in log-odds."""
    odds, middle = (logit(np.clip(values, _CLIP, 1 - _CLIP)) for values in (probability, thresholds))
    return np.abs(odds - middle)


def _answered(positive: Bools, decided: npt.NDArray[np.int64], wrong: Bools) -> dict[str, Estimate]:
    answered = decided != ABSTAINED
    return _proportions(
        {
            "answered": (answered, np.ones_like(answered)),
            "answered_normal": (answered, ~positive),
            "answered_pneumonia": (answered, positive),
            "error_all": (wrong, np.ones_like(answered)),
            "error_answered": (decided != positive, answered),
            "false_alarms_answered": (decided == 1, answered & ~positive),
            "missed_answered": (decided == 0, answered & positive),
        }
    )


def _etiologies(
    table: PredictionTable, decided: npt.NDArray[np.int64], bounds: Bounds
) -> dict[str, Estimate]:
    """Of images that are rightly called positive and whose cause is known."""
    share, bacterial = etiology_score(table.probabilities), table.targets == 1
    named = decide_etiologies(share, bounds)
    asked = (decided == 1) & (table.targets > 0)
    return _proportions(
        {
            "etiology_answered": (named != ABSTAINED, asked),
            "etiology_accuracy_all": ((share >= 0.5) == bacterial, asked),
            "etiology_accuracy_answered": (named == bacterial, asked & (named != ABSTAINED)),
        }
    )


def _proportions(shares: Mapping[str, tuple[Bools, Bools]]) -> dict[str, Estimate]:
    """Name -> share of the images of the second mask that are in the first."""
    found = {
        name: proportion_estimate(int((hits & among).sum()), int(among.sum()))
        for name, (hits, among) in shares.items()
    }
    return {name: estimate for name, estimate in found.items() if estimate is not None}


def _held(table: PredictionTable, bounds: Bounds) -> dict[str, Statistic]:
    """Share of patients whose sets hold the truth, an image of each drawn at random: what is guaranteed."""
    ill, targets = table.probability, table.targets
    found = {
        "held_normal": (ill <= bounds.normal_to, bounds.normal_to, ~table.positive),
        "held_pneumonia": (ill >= bounds.pneumonia_from, bounds.pneumonia_from, table.positive),
    }
    if table.task is Task.THREE_CLASS:
        share = etiology_score(table.probabilities)
        found["held_bacterial"] = share >= bounds.bacterial_from, bounds.bacterial_from, targets == 1
        found["held_viral"] = share <= bounds.viral_to, bounds.viral_to, targets == 2
    patients = np.unique(table.patient_ids, return_inverse=True)[1]
    return {
        name: share_statistic(held, _one_vote_each(among, patients))
        for name, (held, limit, among) in found.items()
        if among.any() and not np.isnan(limit[among]).any()
    }


def _one_vote_each(among: Bools, patients: npt.NDArray[np.int64]) -> Floats:
    """Weights (N,) of the images ``among``, those of one patient together 1; 0 elsewhere."""
    films = np.bincount(patients, among)[patients]
    return np.divide(among, films, out=np.zeros(len(films)), where=among)


def risk_coverage(confidence: Floats, wrong: Bools) -> dict[str, list[float]]:
    """Error (``risk``) among the surest images against their share (``coverage``), at most 200 points."""
    order = np.argsort(-confidence, kind="stable")
    last = np.flatnonzero(np.diff(confidence[order], append=np.inf) != 0)
    rows = last[np.unique(np.linspace(0, len(last) - 1, min(len(last), _CURVE_POINTS)).round().astype(int))]
    errors = np.cumsum(wrong[order])
    return {
        "coverage": ((rows + 1) / len(order)).tolist(),
        "risk": (errors[rows] / (rows + 1)).tolist(),
    }


def _bootstrapped(
    table: PredictionTable, scores: Mapping[str, Statistic], resamples: int, seed: int
) -> dict[str, Estimate]:
    once = np.ones((1, len(table)))
    rng = np.random.default_rng(seed)
    draws = bootstrap(scores, table.patient_ids, resamples=resamples, rng=rng)
    patients = np.asarray(table.patient_ids)
    films = {
        "held_normal": ~table.positive,
        "held_pneumonia": table.positive,
        "held_bacterial": table.targets == 1,
        "held_viral": table.targets == 2,
        "aurc": np.ones(len(table), dtype=bool),
    }
    found: dict[str, Estimate] = {}
    for name, statistic in scores.items():
        count = len(np.unique(patients[films[name]]))
        n = count if name.startswith("held") else len(table)
        value = float(statistic(once)[0])
        estimate = bootstrap_estimate(value, draws[name], n=n, smaller_class=count)
        if estimate is not None:
            found[name] = estimate
    return found
