"""How alike two heat maps are: rank correlation, overlap of what they show strongest, structural similarity.

In: two maps on the same grid. Out: one number each.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

TOP_SHARE = 0.2
"""Share of the cells that is compared as the strongest; chance alone gives maps so much in common."""

# Wang, Bovik, Sheikh & Simoncelli, Image Quality Assessment, IEEE TIP 2004, section III-B: standard deviation
# of the window, its reach in standard deviations (11 x 11 pixels) and the constants of a range of 1.
_SIGMA, _REACH = 1.5, 5 / 1.5
_C1, _C2 = 0.01**2, 0.03**2

Map = npt.NDArray[np.floating]


def rank_correlation(one: Map, other: Map) -> float:
    """Spearman's rho of two maps of one shape; 0 when either is constant and so says nothing.

    Raises:
        ValueError: the shapes differ.
    """
    from scipy.stats import rankdata

    _check(one, other)
    ranks = [rankdata(item) - (item.size + 1) / 2 for item in (one.ravel(), other.ravel())]
    scale = float(np.sqrt((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / scale if scale > 0 else 0.0


def top_overlap(one: Map, other: Map, share: float = TOP_SHARE) -> float:
    """Share of the strongest cells of one map that are among the strongest of the other.

    Args:
        one, other: maps of one shape; of equal cells the first in reading order counts as stronger.
        share: of the cells that count as strongest; at least one cell does.

    Raises:
        ValueError: the shapes differ.
    """
    _check(one, other)
    count = max(1, round(share * one.size))
    chosen = [set(np.argsort(-item.ravel(), kind="stable")[:count].tolist()) for item in (one, other)]
    return len(chosen[0] & chosen[1]) / count


def structural_similarity(one: Map, other: Map) -> float:
    """Mean SSIM of two maps, each first brought to the range 0 to 1; a constant map is all 0.

    Wang et al., IEEE TIP 2004, equation 13, with a Gaussian window; as Adebayo et al. (2018) compare maps.

    Raises:
        ValueError: the shapes differ.
    """
    from scipy.ndimage import gaussian_filter

    _check(one, other)
    x, y = _unit(one), _unit(other)

    def blur(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.asarray(gaussian_filter(values, _SIGMA, mode="mirror", truncate=_REACH))

    mean_x, mean_y = blur(x), blur(y)
    variances = blur(x * x) - mean_x**2 + blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    alike = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return float((alike / ((mean_x**2 + mean_y**2 + _C1) * (variances + _C2))).mean())


def _unit(item: Map) -> npt.NDArray[np.float64]:
    values = np.asarray(item, np.float64)
    reach = float(np.ptp(values))
    return (values - values.min()) / reach if reach > 0 else np.zeros_like(values)


def _check(one: Map, other: Map) -> None:
    if one.shape != other.shape:
        raise ValueError(f"maps of shapes {one.shape} and {other.shape}")
