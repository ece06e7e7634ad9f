"""Sensitivity and specificity over every threshold that matters.

In: reference and calibrated probability of films. Out: a table with one row for each way in which a threshold
can divide these films; operating points and costs are read off it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit

from pneumoscope.core.errors import InputError

_CLIP = 1e-12  # keeps the logits of probabilities 0 and 1 finite

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ThresholdTable:
    """What each threshold does to the films; a film is positive when its probability >= threshold.

    Attributes:
        thresholds: (M,) rising, each strictly between two neighbouring probabilities, or beyond all.
        sensitivity, specificity: (M,) in [0, 1].
        positives, negatives: films behind them.
    """

    thresholds: Floats
    sensitivity: Floats
    specificity: Floats
    positives: int
    negatives: int

    @property
    def logits(self) -> Floats:
        """(M,) log-odds of the thresholds, finite."""
        return np.asarray(logit(np.clip(self.thresholds, _CLIP, 1 - _CLIP)))


def threshold_table(positive: npt.NDArray[np.bool_], probability: Floats) -> ThresholdTable:
    """The table of films with reference ``positive`` (N,) and ``probability`` (N,) in [0, 1].

    Raises:
        InputError: the films are all with or all without pneumonia.
    """
    ill, well = np.sort(probability[positive]), np.sort(probability[~positive])
    if not len(ill) or not len(well):
        raise InputError(
            f"thresholds need both classes; {len(ill)} films with pneumonia, {len(well)} without",
            remedy="choose films that hold both",
        )
    thresholds = _between(np.unique(probability))
    return ThresholdTable(
        thresholds=thresholds,
        sensitivity=1 - np.searchsorted(ill, thresholds) / len(ill),
        specificity=np.searchsorted(well, thresholds) / len(well),
        positives=len(ill),
        negatives=len(well),
    )


def _between(observed: Floats) -> Floats:
    """Midpoints, in log-odds, of neighbours among rising ``observed``; halfway to 0 and to 1 beyond the ends.

    None equals an observed probability, so that no decision hangs on the last bit; two neighbours that
    float64 cannot part have no threshold between them.
    """
    below, above = observed[:-1], observed[1:]
    odds = logit(np.clip(observed, _CLIP, 1 - _CLIP))
    middle = expit((odds[:-1] + odds[1:]) / 2)
    middle = np.where((middle > below) & (middle < above), middle, (below + above) / 2)
    candidates = np.concatenate([[observed[0] / 2], middle, [(1 + observed[-1]) / 2]])
    return candidates[~np.isin(candidates, observed)]
