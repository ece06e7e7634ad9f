"""95 % intervals: Wilson for a proportion, a bootstrap over patients for a score.

Patients are drawn rather than images because images of one patient resemble each other: intervals over images
would be too narrow. Every :class:`Estimate` names its method.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf, sqrt

import numpy as np
import numpy.typing as npt
import scipy

from pneumoscope.core.records import Estimate
from pneumoscope.evaluation.metrics import Statistic, predictive_values

LEVEL = 0.95
RESAMPLES = 1000
"""Enough for percentiles of a 95 % interval: Efron & Tibshirani, An Introduction to the Bootstrap, 13.3."""

_CHUNK = 50  # resamples at a time: (50, 5000) float64 weights are 2 MB, which stay in the processor's cache
SHARE_DEFINED = 0.5  # fewer resamples than this in which the figure exists: the sample is too small to say

Floats = npt.NDArray[np.float64]


def wilson(successes: int, trials: int, level: float = LEVEL) -> tuple[float, float]:
    """Score interval of a binomial proportion (Wilson, JASA 22, 1927).

    Raises:
        ValueError: no trials, or more successes than trials.
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} of {trials} is not a proportion")
    z = float(scipy.stats.norm.ppf((1 + level) / 2))
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == trials else (centre + half) / scale
    return low, high


def proportion_estimate(successes: int, trials: int) -> Estimate | None:
    """A proportion of images with its Wilson interval; None without trials."""
    if trials == 0:
        return None
    low, high = wilson(successes, trials)
    return Estimate(successes / trials, low, high, trials, "Wilson score interval over films")


def predictive_value_estimates(
    sensitivity: tuple[int, int], specificity: tuple[int, int], prevalence: float
) -> dict[str, Estimate]:
    """``ppv`` and ``npv`` at a stated prevalence, where defined.

    By Bayes' theorem PPV = 1 / (1 + odds(no pneumonia) x (1 - specificity) / sensitivity), so the interval is
    that of a ratio of two independent proportions: Wilson limits combined by MOVER-R (Donner & Zou,
    Stat Methods Med Res 21, 2012). NPV likewise.

    Args:
        sensitivity, specificity: (successes, trials) in images, trials > 0.
        prevalence: of pneumonia where the test would be used, in [0, 1].
    """
    (tp, ill), (tn, well) = sensitivity, specificity
    ppv, npv = predictive_values(tp / ill, tn / well, prevalence)
    method = f"Bayes at prevalence {prevalence:.4g}; Wilson limits combined by MOVER-R"
    found = {}
    for name, value, top, bottom, own in (
        ("ppv", ppv, (well - tn, well), (tp, ill), prevalence),
        ("npv", npv, (ill - tp, ill), (tn, well), 1 - prevalence),
    ):
        if value is not None:
            low, high = _ratio_interval(top, bottom)
            found[name] = Estimate(value, _share(own, high), _share(own, low), ill + well, method)
    return found


def _share(own: float, ratio: float) -> float:
    """own / (own + (1 - own) * ratio), which is 0 or 1 at the ends."""
    if own in (0.0, 1.0):
        return own
    return own / (own + (1 - own) * ratio)


def _ratio_interval(top: tuple[int, int], bottom: tuple[int, int]) -> tuple[float, float]:
    """MOVER-R limits of (top[0] / top[1]) / (bottom[0] / bottom[1])."""
    a, b = top[0] / top[1], bottom[0] / bottom[1]
    (low_a, high_a), (low_b, high_b) = wilson(*top), wilson(*bottom)
    product = a * b
    numerator = low_a * (2 * a - low_a)
    root = sqrt(max(0.0, product**2 - numerator * high_b * (2 * b - high_b)))
    low = numerator / (product + root) if numerator else 0.0
    denominator = low_b * (2 * b - low_b)
    root = sqrt(max(0.0, product**2 - high_a * (2 * a - high_a) * denominator))
    return low, (product + root) / denominator if denominator else inf


def bootstrap(
    statistics: Mapping[str, Statistic],
    patients: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    rng: np.random.Generator,
) -> dict[str, Floats]:
    """Values of every statistic in ``resamples`` draws of whole patients with replacement.

    Args:
        statistics: by name; all see the same draws.
        patients: N patient keys, one an image, N > 0.

    Returns:
        (resamples,) float64 by name; NaN where a statistic is undefined in a draw.
    """
    names, cluster = np.unique(np.asarray(patients, dtype=str), return_inverse=True)
    values: dict[str, list[Floats]] = {name: [] for name in statistics}
    for start in range(0, resamples, _CHUNK):
        rows = min(_CHUNK, resamples - start)
        draws = rng.integers(len(names), size=(rows, len(names))) + np.arange(rows)[:, None] * len(names)
        times = np.bincount(draws.ravel(), minlength=rows * len(names)).reshape(rows, len(names))
        weights = times[:, cluster].astype(np.float64)
        for name, statistic in statistics.items():
            values[name].append(statistic(weights))
    return {name: np.concatenate(parts) for name, parts in values.items()}


def bootstrap_estimate(
    value: float, draws: Floats, *, n: int, smaller_class: int, centred: bool = False
) -> Estimate | None:
    """A score with the percentile interval of its bootstrap ``draws``; None when most draws are undefined.

    Where every draw is the same perfect 0 or 1, resampling has nothing to say about the error, and an
    interval of no width would be a lie. The interval is then Wilson's for as many trials as the smaller class
    has patients: an AUC is the share of right pairs, and so many pairs are independent.

    Args:
        value: the score on the images themselves.
        draws: (B,) float64, its bootstrap values; NaN where undefined.
        n: images behind the value.
        smaller_class: patients in the smaller of the classes that the score tells apart.
        centred: shift the draws by the bootstrap's estimate of bias and cut them at 0; for a mean of absolute
            deviations (calibration error), which grows with every layer of sampling noise.
    """
    defined = draws[np.isfinite(draws)]
    if len(defined) < max(1, SHARE_DEFINED * len(draws)):
        return None
    if value in (0.0, 1.0) and np.ptp(defined) == 0 and smaller_class > 0:
        low, high = wilson(round(value * smaller_class), smaller_class)
        return Estimate(
            value, low, high, n, f"Wilson over {smaller_class} patients, as every resample agrees"
        )
    if centred:
        defined = np.maximum(defined - (defined.mean() - value), 0.0)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    method = (
        f"bootstrap over patients, {'bias-centred ' if centred else ''}percentile, {len(defined)} resamples"
    )
    return Estimate(value, low, high, n, method)
