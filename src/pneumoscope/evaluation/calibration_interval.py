"""How well validation films pin down what a calibrated probability means: its 95 % interval.

In: calibrated probabilities, reference and patients of validation films. Out: a band of log-odds, as a bundle
keeps it, from which :func:`pneumoscope.inference.prediction.probability_interval` reads the interval of any
film. It says how uncertain the calibration is, of films like these; not what another hospital does to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope.evaluation.calibration import fit_line
from pneumoscope.evaluation.intervals import LEVEL, RESAMPLES, SHARE_DEFINED, bootstrap
from pneumoscope.inference.prediction import log_odds

_GRID = np.linspace(-14.0, 14.0, 29)
"""Log-odds; :func:`log_odds` does not go beyond."""

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


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
    45, 1958), against Platt's smoothed targets as :func:`fit_line` has them; how far these lines lie from
    that of all films, in percentiles over the draws, is the band (Efron & Tibshirani, An Introduction to the
    Bootstrap, 1993, 13.3; centred, since smoothing draws every line towards a probability of one half). One
    line serves every method of calibration, since all of them are judged by what they say.

    Args:
        probability: (N,) calibrated, of pneumonia.
        positive: (N,) reference.
        patients: N patient keys; whole patients are drawn.
        resamples: draws.
        seed: of the draws.

    Returns:
        ``log_odds`` (rising), ``low`` and ``high`` at each, ``level``, ``n`` films, ``patients`` and
        ``method``; None where most draws miss a class, as the films are too few to say.
    """
    x = log_odds(probability)

    def lines(weights: Floats) -> Floats:
        return np.array([_line(x, positive, row) for row in weights])

    rng = np.random.default_rng(seed)
    draws = bootstrap({"line": lines}, patients, resamples=resamples, rng=rng)["line"]
    defined = draws[np.isfinite(draws[:, 0])]
    if len(defined) < SHARE_DEFINED * resamples:
        return None
    slope, offset = _line(x, positive, np.ones(len(x)))
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


def _line(x: Floats, positive: Bools, weights: Floats) -> tuple[float, float]:
    """Slope and offset; NaN for a draw without one of the classes."""
    if not (weights[positive].any() and weights[~positive].any()):
        return np.nan, np.nan
    found = fit_line(x, positive, weights)
    return found["slope"], found["offset"]
