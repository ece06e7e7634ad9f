"""Should we answer at all? The gate refuses what is no frontal chest radiograph and warns of what is unusual.

In: a decoded film (what its file says, what its pixels look like) and the network's pooled features. Out: a
:class:`GateVerdict` with reasons in plain sentences. Two kinds of evidence: rules about the source, which
need no training, and a feature distance whose thresholds come from validation films.

The distance is the Mahalanobis distance under probabilistic PCA of the training films' features, scaled to
unit length: the leading components have their own variances, the rest share one (Tipping & Bishop,
Probabilistic Principal Component Analysis, J. R. Stat. Soc. B 61, 1999, section 3.2; Lee et al., A Simple
Unified Framework for Detecting Out-of-Distribution Samples, NeurIPS 2018; unit length after Sehwag et al.,
SSD, ICLR 2021). How strongly features answer differs from film to film; which of them answer tells a chest
from a hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import GateVerdict, Verdict
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.source_rules import Finding, inspect_source

__all__ = ["Finding", "fit_gate", "inspect_source", "judge"]

KEPT_VARIANCE = 0.99
"""Share of the features' variance in the components that keep their own variance. A well-trained network puts
95 % of it into what tells its classes apart; what tells a chest from a hand comes after."""

REFUSAL_MARGIN = 1.25
"""The refusal threshold as a multiple of the warning threshold. Films of another hospital, other devices and
other ages are unusual too, and deserve an answer with a warning. Measured with a MobileNetV2 fitted to the
Guangzhou films: 120 of 132 adult NIH films lie under 1.25, and 34 of 36 pictures of something else beyond."""

Gaussian = Mapping[str, npt.NDArray[Any]]


def fit_gate(
    training_features: npt.NDArray[Any],
    validation_features: npt.NDArray[Any],
    false_refusal_rate: float = 0.01,
) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    """The gate's part of a bundle: what ``bundle.json`` says under ``gate``, and its arrays.

    The warning threshold is the upper quantile of the validation films' distances with the finite-sample
    correction of split conformal prediction (Angelopoulos & Bates, 2021, section 1.1): of new films from the
    same source at most ``false_refusal_rate`` lie beyond it. The refusal threshold is
    :data:`REFUSAL_MARGIN` times as far, so fewer still are refused. With fewer validation films than
    ``1 / false_refusal_rate`` the quantile is their largest distance, which promises less.

    Args:
        training_features: (N, C), feature maps averaged over rows and columns; N at least 3.
        validation_features: (M, C), M at least 1.
        false_refusal_rate: in (0, 1).

    Returns:
        document: method, components, warn_distance, refuse_distance, false_refusal_rate, n.
        arrays: gate_mean (C,), gate_components (d, C), gate_variances (d,), gate_residual_variance ().

    Raises:
        ValueError: a shape or the rate is out of range.
    """
    from sklearn.decomposition import PCA

    if not 0 < false_refusal_rate < 1:
        raise ValueError(f"false refusal rate {false_refusal_rate}, expected between 0 and 1")
    if len(training_features) < 3 or len(validation_features) < 1:
        raise ValueError(f"{len(training_features)} training and {len(validation_features)} validation films")
    pca = PCA().fit(_unit(training_features))
    variances = np.maximum(pca.explained_variance_, np.finfo(np.float32).eps)
    shares = np.cumsum(variances) / variances.sum()
    kept = min(int(np.searchsorted(shares, KEPT_VARIANCE)) + 1, len(variances) - 1)
    arrays = {
        "gate_mean": pca.mean_.astype(np.float32),
        "gate_components": pca.components_[:kept].astype(np.float32),
        "gate_variances": variances[:kept].astype(np.float32),
        "gate_residual_variance": variances[kept:].mean().astype(np.float32),
    }
    distances = feature_distances(arrays, validation_features)
    usual = _upper_quantile(distances, false_refusal_rate)
    document = {
        "method": "probabilistic PCA",
        "components": kept,
        "warn_distance": usual,
        "refuse_distance": REFUSAL_MARGIN * usual,
        "false_refusal_rate": false_refusal_rate,
        "n": len(distances),
    }
    return document, arrays


def feature_distances(gaussian: Gaussian, features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Mahalanobis distance of each row of ``features`` (N, C), divided by the root of C: near 1 is usual."""
    centred = _unit(features) - gaussian["gate_mean"]
    components = np.asarray(gaussian["gate_components"], np.float64)
    scores = centred @ components.T
    residual = np.square(centred - scores @ components).sum(axis=1)
    squared = (scores**2 / gaussian["gate_variances"]).sum(axis=1) + residual / gaussian[
        "gate_residual_variance"
    ]
    return np.asarray(np.sqrt(squared / centred.shape[1]))


def _unit(features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(N, C) rows scaled to length 1; a row of zeros stays one."""
    values = np.asarray(features, np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)
    return unit


def judge(bundle: Bundle, findings: Iterable[Finding], pooled_features: npt.NDArray[Any]) -> GateVerdict:
    """Join what the source showed with how far the film's features lie from the training films'.

    Args:
        bundle: whose gate.
        findings: of :func:`inspect_source`.
        pooled_features: (C,), the feature map averaged over rows and columns.

    Returns:
        The strictest verdict, the reasons with the strictest first, and the scores ``feature_distance``,
        ``warn_distance`` and ``refuse_distance``.
    """
    distance = float(feature_distances(bundle.arrays, pooled_features[None])[0])
    warn, refuse = (float(bundle.document["gate"][key]) for key in ("warn_distance", "refuse_distance"))
    every = list(findings)
    if not distance <= refuse:  # a distance that is not a number is refused too
        every.append(
            (Verdict.REFUSE, "the picture is unlike the chest radiographs that the network learnt from")
        )
    elif distance > warn:
        every.append((Verdict.WARN, "the film is unusual among those that the network learnt from"))
    every.sort(key=lambda finding: finding[0] is not Verdict.REFUSE)
    scores = {"feature_distance": distance, "warn_distance": warn, "refuse_distance": refuse}
    return GateVerdict(
        verdict=every[0][0] if every else Verdict.ANSWER,
        reasons=tuple(reason for _, reason in every),
        scores=MappingProxyType(scores),
    )


def _upper_quantile(distances: npt.NDArray[np.float64], rate: float) -> float:
    """The smallest validation distance that a new film exceeds with probability at most ``rate``."""
    rank = int(np.ceil((len(distances) + 1) * (1 - rate)))
    return float(np.sort(distances)[min(rank, len(distances)) - 1])
