"""Probability calibration: five methods, the choice between them, reliability bins, and a 95 % band.

All of it is fitted on validation images. The method is chosen by cross-validation over patients, as a more
flexible one always fits its own images better; where the images cannot tell, the simplest is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, log_softmax
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import StratifiedGroupKFold

from pneumoscope.core.errors import InputError
from pneumoscope.evaluation.intervals import LEVEL, RESAMPLES, SHARE_DEFINED, bootstrap, wilson
from pneumoscope.evaluation.metrics import ECE_BINS, equal_mass_bins
from pneumoscope.inference.prediction import (
    calibrated_log_odds,
    calibrated_probabilities,
    log_odds,
    pneumonia_log_odds,
)

TEMPERATURE_BOUNDS = (0.05, 20.0)
"""Outside of this a network is broken, not miscalibrated; Guo et al. (2017) report 0.95 to 4.2, table S.2."""

BIAS_BOUND = 10.0
"""Log-odds: a prevalence of one in 20,000 turned round; beyond it these are other images."""

_SLOPES = (1 / TEMPERATURE_BOUNDS[1], 1 / TEMPERATURE_BOUNDS[0])
_NEWTON_STEPS, _CONVERGED, _NEAR = 100, 1e-6, 0.05
_LINE_BOUNDS = np.array([_SLOPES, (-BIAS_BOUND, BIAS_BOUND)]).T  # low and high of (slope, offset)
_RIDGE = 1e-12  # keeps the curvature of images that are all alike invertible

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer[Any]]
Fit = Callable[[Floats, Any, Floats], dict[str, Any]]
"""Scores, reference and weights of images -> numbers of a calibration, or of one of its curves."""


def fit_calibration(
    logits: npt.NDArray[np.floating],
    targets: Ints,
    weights: npt.NDArray[np.floating] | None = None,
    method: str = "bias-corrected-temperature",
) -> dict[str, Any]:
    """The calibration of one kind that fits best.

    ``temperature`` divides the logits by one number (Guo et al., ICML 2017), which cannot move probability
    from one class to another; ``bias-corrected-temperature`` adds one bias a class (Alexandari, Kundaje &
    Shrikumar, ICML 2020, section 2.3). The other three calibrate the log-odds of pneumonia and, for three
    classes, those of bacterial against viral among images with pneumonia, each by itself: ``platt`` by a line
    (Platt, 1999), ``beta`` by the curve of Kull, Silva Filho & Flach (AISTATS 2017), ``isotonic`` by an
    isotonic regression whose flat pieces are shrunk to their centres and joined (centred isotonic regression,
    Oron & Flournoy, Stat Biopharm Res 9, 2017), so that no two images become ties.

    The likelihood is taken against Platt's smoothed targets, (n_k + 1) / (n_k + 2) for an image's own class k
    (Platt, 1999; Lin, Lin & Weng, Machine Learning 68, 2007): with hard targets the best T of separable
    images is 0, which would claim certainty that a finite validation set cannot show.

    Args:
        logits: (N, K), finite.
        targets: (N,) class index; rows with -1 are left out.
        weights: (N,) how much each image counts; None: all the same.
        method: one of :data:`FITS`.

    Returns:
        The ``calibration`` part of a bundle, for
        :func:`pneumoscope.inference.prediction.calibrated_probabilities`.

    Raises:
        InputError: fewer than two images of known class, or a class without images.
    """
    targets = np.asarray(targets)
    known = targets >= 0
    values, index = np.asarray(logits, dtype=np.float64)[known], targets[known]
    counted = np.ones(len(index)) if weights is None else np.asarray(weights, dtype=np.float64)[known]
    present, classes = np.unique(index), values.shape[1]
    if len(present) < classes:
        raise InputError(
            f"cannot calibrate on {len(index)} images of {len(present)} of {classes} classes",
            expected="validation images of every class",
            remedy="choose a split whose validation part holds every class",
        )
    return {"method": method, **FITS[method](values, index, counted)}


def _fit_temperature(values: Floats, index: Ints, weights: Floats) -> dict[str, Any]:
    desired = _smoothed(index, values.shape[1])

    def loss(parameters: Floats) -> float:
        return _loss(values / np.exp(parameters[0]), desired, weights)

    found = minimize(loss, np.zeros(1), method="L-BFGS-B", bounds=[tuple(np.log(TEMPERATURE_BOUNDS))])
    return {"temperature": float(np.exp(found.x[0]))}


def _fit_bias_corrected(values: Floats, index: Ints, weights: Floats) -> dict[str, Any]:
    classes = values.shape[1]
    desired = _smoothed(index, classes)

    def loss(parameters: Floats) -> float:
        scaled = values / np.exp(parameters[0]) + np.append(0.0, parameters[1:])
        return _loss(scaled, desired, weights)

    bounds = [tuple(np.log(TEMPERATURE_BOUNDS))] + [(-BIAS_BOUND, BIAS_BOUND)] * (classes - 1)
    found = minimize(loss, np.zeros(classes), method="L-BFGS-B", bounds=bounds)
    return {"temperature": float(np.exp(found.x[0])), "bias": [0.0, *map(float, found.x[1:])]}


def _loss(values: Floats, desired: Floats, weights: Floats) -> float:
    return -float(np.average((desired * log_softmax(values, axis=1)).sum(axis=1), weights=weights))


def _smoothed(targets: Ints, classes: int) -> Floats:
    """(N, K) Platt's targets: (n_k + 1) / (n_k + 2) for the own class k, the rest shared by the others."""
    counts = np.bincount(targets, minlength=classes)
    own = (counts[targets] + 1) / (counts[targets] + 2)
    desired = np.repeat(((1 - own) / (classes - 1))[:, None], classes, axis=1)
    desired[np.arange(len(targets)), targets] = own
    return desired


def _platt(x: Floats, positive: Bools, weights: Floats) -> dict[str, float]:
    slope, offset = fit_lines(x, positive, weights[None])[0].tolist()
    return {"slope": slope, "offset": offset}


def fit_lines(x: Floats, positive: Bools, weights: Floats) -> Floats:
    """Platt's line of the highest likelihood against his smoothed targets, for each of B weightings.

    Newton's method on all rows at once, projected onto the bounds of slope and offset (Bertsekas, SIAM
    Journal on Control and Optimization 20, 1982), with shorter steps where the loss would rise.

    Args:
        x: (N,) log-odds.
        positive: (N,) reference.
        weights: (B, N) how much each image counts.

    Returns:
        (B, 2) slope (positive) and offset; NaN in rows where one of the classes has no weight.
    """
    target = _smoothed(positive.astype(np.int64), 2)[:, 1]
    defined = weights[:, positive].any(axis=1) & weights[:, ~positive].any(axis=1)
    w = weights[defined] / weights[defined].sum(axis=1, keepdims=True)

    def losses(lines: Floats) -> Floats:
        z = lines[:, :1] * x + lines[:, 1:]
        return np.asarray((w * (np.logaddexp(0, z) - target * z)).sum(axis=1))

    lines, size = np.tile([1.0, 0.0], (len(w), 1)), np.ones((len(w), 1))
    loss = losses(lines)
    for _ in range(_NEWTON_STEPS):
        tried = np.clip(lines - size * _newton_step(x, target, w, lines), *_LINE_BOUNDS)
        found = losses(tried)
        better = found <= loss
        moved = np.abs(tried - lines).max(initial=0)
        size = np.where(better[:, None], np.minimum(1, 2 * size), size / 4)
        lines, loss = np.where(better[:, None], tried, lines), np.where(better, found, loss)
        if moved < _CONVERGED:
            break
    every = np.full((len(weights), 2), np.nan)
    every[defined] = lines
    return every


def _newton_step(x: Floats, target: Floats, weights: Floats, lines: Floats) -> Floats:
    """(B, 2) steps; near a bound that a step would cross, slope and offset are stepped independently."""
    p = expit(lines[:, :1] * x + lines[:, 1:])
    residual, curvature = weights * (p - target), weights * p * (1 - p)
    gradient = np.column_stack([residual @ x, residual.sum(axis=1)])
    low, high = _LINE_BOUNDS
    near = (lines < low + _NEAR) & (gradient > 0) | (lines > high - _NEAR) & (gradient < 0)
    a, c = curvature @ x**2 + _RIDGE, curvature.sum(axis=1) + _RIDGE
    b = np.where(near.any(axis=1), 0, curvature @ x)
    by_slope, by_offset = gradient.T
    determinant = a * c - b * b
    return (
        np.column_stack([c * by_slope - b * by_offset, a * by_offset - b * by_slope]) / determinant[:, None]
    )


def _by_question(curve: Fit) -> Fit:
    """The fit that draws one ``curve`` for *is there pneumonia?* and one for *is it bacterial?*"""

    def fit(values: Floats, index: Ints, weights: Floats) -> dict[str, Any]:
        found = {"pneumonia": curve(pneumonia_log_odds(values), index > 0, weights)}
        if values.shape[1] > 2:
            ill = index > 0
            cause = values[ill, 1] - values[ill, 2]
            found["etiology"] = curve(cause, index[ill] == 1, weights[ill])
        return found

    return fit


def _beta(x: Floats, positive: Bools, weights: Floats) -> dict[str, Any]:
    a, b, c = _minimise_curve(
        lambda p: calibrated_log_odds(x, dict(zip("abc", p, strict=True))),
        positive,
        weights,
        [_SLOPES, _SLOPES, (-BIAS_BOUND, BIAS_BOUND)],
        [1.0, 1.0, 0.0],
    )
    return {"a": a, "b": b, "c": c}


def _minimise_curve(
    curve: Callable[[Floats], Floats],
    positive: Bools,
    weights: Floats,
    bounds: Sequence[tuple[float, float]],
    start: Sequence[float],
) -> list[float]:
    """Parameters of the curve with the highest likelihood against Platt's targets."""
    desired = _smoothed(positive.astype(np.int64), 2)

    def loss(parameters: Floats) -> float:
        ill = curve(parameters)
        return _loss(np.column_stack([np.zeros_like(ill), ill]), desired, weights)

    found = minimize(loss, start, method="L-BFGS-B", bounds=bounds)
    return [float(value) for value in found.x]


def _isotonic(x: Floats, positive: Bools, weights: Floats) -> dict[str, Any]:
    """Centres of the flat pieces: weighted mean of the log-odds, and log-odds of the fitted frequency."""
    desired = _smoothed(positive.astype(np.int64), 2)[:, 1]
    fitted = IsotonicRegression().fit_transform(x, desired, sample_weight=weights)
    levels, piece = np.unique(fitted.round(9), return_inverse=True)  # one piece is flat to the last bits
    centres = np.bincount(piece, weights * x) / np.bincount(piece, weights)
    return {"x": centres.tolist(), "y": np.log(levels / (1 - levels)).tolist()}


FITS: Mapping[str, Fit] = {
    "temperature": _fit_temperature,
    "platt": _by_question(_platt),
    "bias-corrected-temperature": _fit_bias_corrected,
    "beta": _by_question(_beta),
    "isotonic": _by_question(_isotonic),
}
"""Method -> how it is fitted, from the simplest to the most flexible. Platt's line comes before the biases,
as it never changes the order of images."""


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Images of similar probability: mean probability, observed frequency with its Wilson interval, count."""

    probability: float
    frequency: float
    low: float
    high: float
    n: int


def reliability(
    positive: Bools, probability: npt.NDArray[np.float64], bins: int = ECE_BINS
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


FALLBACK = "bias-corrected-temperature"
"""Without enough patients to compare: the simplest that undoes what class weights do to a network."""

_FOLDS = 5

Parts = list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]


def choose_calibration(
    logits: npt.NDArray[np.floating[Any]],
    targets: npt.NDArray[np.int64],
    patients: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """Compare every calibration by cross-validation over patients, and fit the chosen one to all images.

    The score is the log loss over the classes, a proper score. Chosen is the simplest candidate whose loss is
    at most one standard error above the lowest; the standard error is that of the difference between the two
    on the same patients (the one-standard-error rule of Breiman et al., Classification and Regression Trees,
    1984, 3.4.3).

    Args:
        logits: (N, K), finite.
        targets: (N,) class index; rows with -1 are left out.
        patients: N patient keys; images of one patient are never on both sides.
        seed: of the parts.

    Returns:
        The ``calibration`` part of a bundle, with ``candidates``: method, log_loss, brier (of the probability
        of pneumonia), above_best and standard_error of each; none when the images are too few for parts that
        all hold every class.

    Raises:
        InputError: a class without images.
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
    """(fitted, judged) rows; none when a class would be missing from images to fit."""
    smallest = min((len(np.unique(keys[index == k])) for k in range(classes)), default=0)
    if smallest < 2:
        return []
    splitter = StratifiedGroupKFold(min(_FOLDS, smallest), shuffle=True, random_state=seed)
    parts = list(splitter.split(np.zeros(len(index)), index, keys))
    whole = all(len(np.unique(index[fitted])) == classes for fitted, _ in parts)
    return parts if whole else []


def _out_of_part(values: Floats, index: npt.NDArray[np.int64], parts: Parts, method: str) -> Floats:
    """(N, K) probabilities of each image by the calibration of the parts that it is not in."""
    found = np.empty_like(values)
    for fitted, judged in parts:
        calibration = fit_calibration(values[fitted], index[fitted], method=method)
        found[judged] = calibrated_probabilities(values[judged], calibration)
    return found


def _log_losses(probabilities: Floats, index: npt.NDArray[np.int64]) -> Floats:
    own = probabilities[np.arange(len(index)), index]
    return -np.log(np.maximum(own, np.finfo(np.float64).eps))


def _standard_error(difference: Floats, keys: npt.NDArray[Any]) -> float:
    """Of the mean of ``difference``, whose images of one patient belong together (Liang & Zeger, 1986)."""
    residuals = np.bincount(np.unique(keys, return_inverse=True)[1], difference - difference.mean())
    return float(np.sqrt((residuals**2).sum()) / len(difference))


_GRID = np.linspace(-14.0, 14.0, 29)
"""Log-odds; :func:`log_odds` does not go beyond."""


def calibration_interval(
    probability: Floats,
    positive: Bools,
    patients: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any] | None:
    """The band in which the calibration curve lies, by drawing patients anew.

    In each draw the outcome is regressed on the calibrated log-odds (logistic recalibration: Cox, Biometrika
    45, 1958), against Platt's smoothed targets as :func:`fit_lines` has them; how far these lines lie from
    that of all images, in percentiles over the draws, is the band (Efron & Tibshirani, An Introduction to the
    Bootstrap, 1993, 13.3; centred, since smoothing draws every line towards a probability of one half). One
    line serves every method of calibration, since all of them are judged by what they say.

    Args:
        probability: (N,) calibrated, of pneumonia.
        positive: (N,) reference.
        patients: N patient keys; whole patients are drawn.
        resamples: draws.
        seed: of the draws.

    Returns:
        ``log_odds`` (rising), ``low`` and ``high`` at each, ``level``, ``n`` images, ``patients`` and
        ``method``; None where most draws miss a class, as the images are too few to say.
    """
    x = log_odds(probability)

    rng = np.random.default_rng(seed)
    lines = {"line": lambda weights: fit_lines(x, positive, weights)}
    draws = bootstrap(lines, patients, resamples=resamples, rng=rng)["line"]
    defined = draws[np.isfinite(draws[:, 0])]
    if len(defined) < SHARE_DEFINED * resamples:
        return None
    slope, offset = fit_lines(x, positive, np.ones((1, len(x))))[0]
    curves = _GRID + (defined[:, :1] - slope) * _GRID + (defined[:, 1:] - offset)
    low, high = np.quantile(curves, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0).round(4)
    return {
        "log_odds": _GRID.tolist(),
        "low": np.minimum(low, _GRID).tolist(),  # it holds what it is about
        "high": np.maximum(high, _GRID).tolist(),
        "level": LEVEL,
        "n": len(x),
        "patients": len(set(patients)),
        "method": (
            f"logistic recalibration, bootstrap over patients, centred percentile, {len(defined)} resamples"
        ),
    }
