"""Should we answer at all? The gate refuses what is no frontal chest radiograph and warns of what is unusual.

In: a decoded film (what its file says), the network's input (what it looks like) and the network's pooled
features. Out: a :class:`GateVerdict` with reasons in plain sentences. Three kinds of evidence: rules about
the source, which need no training; the appearance of the input; and a feature distance. The bounds of the
last two come from validation films.

The distance is that of the features' direction (``gaussian``): how strongly features answer differs from film
to film; which of them answer tells a chest from a hand (unit length after Sehwag et al., SSD, ICLR 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.records import FloatArray, GateVerdict, Verdict
from pneumoscope.inference.appearance import inspect_appearance
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.gaussian import distances, fit_gaussian, from_arrays, to_arrays, upper_bound
from pneumoscope.inference.source_rules import Finding

KEPT_VARIANCE = 0.99
"""Share of the features' variance in the components that keep their own variance. A well-trained network puts
95 % of it into what tells its classes apart; what tells a chest from a hand comes after."""

REFUSAL_MARGIN = 1.25
"""The refusal threshold as a multiple of the warning threshold. Films of another hospital, other devices and
other ages are unusual too, and deserve an answer with a warning. Measured with a MobileNetV2 fitted to the
Guangzhou films: 120 of 132 adult NIH films lie under 1.25, and 34 of 36 pictures of something else beyond."""


def fit_gate(
    training_features: npt.NDArray[Any],
    validation_features: npt.NDArray[Any],
    false_refusal_rate: float = 0.01,
) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    """The gate's part of a bundle: what ``bundle.json`` says under ``gate``, and its arrays.

    Of new films from the same source at most ``false_refusal_rate`` lie beyond the warning threshold
    (:func:`upper_bound`). The refusal threshold is :data:`REFUSAL_MARGIN` times as far, so fewer still are
    refused.

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
    if not 0 < false_refusal_rate < 1:
        raise ValueError(f"false refusal rate {false_refusal_rate}, expected between 0 and 1")
    if len(training_features) < 3 or len(validation_features) < 1:
        raise ValueError(f"{len(training_features)} training and {len(validation_features)} validation films")
    gaussian = fit_gaussian(unit_features(training_features), kept_variance=KEPT_VARIANCE)
    arrays = to_arrays(gaussian, "gate")
    values = feature_distances(arrays, validation_features)
    usual = upper_bound(values, false_refusal_rate)
    document = {
        "method": "probabilistic PCA",
        "components": len(gaussian.variances),
        "warn_distance": usual,
        "refuse_distance": REFUSAL_MARGIN * usual,
        "false_refusal_rate": false_refusal_rate,
        "n": len(values),
    }
    return document, arrays


def feature_distances(
    arrays: Mapping[str, npt.NDArray[Any]], features: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Distance of each row of ``features`` (N, C) by a bundle's arrays ``gate_*``: near 1 is usual."""
    return distances(from_arrays(arrays, "gate"), unit_features(features))


def unit_features(features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(N, C) rows scaled to length 1; a row of zeros stays one."""
    values = np.asarray(features, np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit: npt.NDArray[np.float64] = np.divide(values, lengths, out=np.zeros_like(values), where=lengths > 0)
    return unit


def judge(
    bundle: Bundle, findings: Iterable[Finding], film: FloatArray, pooled_features: npt.NDArray[Any]
) -> GateVerdict:
    """Join what the source showed with what the film looks like and how far its features lie from usual ones.

    Args:
        bundle: whose gate.
        findings: of :func:`inspect_source`.
        film: (1, S, S) in [0, 1], the model input.
        pooled_features: (C,), the feature map averaged over rows and columns.

    Returns:
        The strictest verdict, the reasons with the strictest first, and the scores ``feature_distance``,
        ``warn_distance`` and ``refuse_distance``; ``picture_distance`` where the bundle looks at pictures.
    """
    gate = bundle.document["gate"]
    distance = float(feature_distances(bundle.arrays, pooled_features[None])[0])
    warn, refuse = (float(gate[key]) for key in ("warn_distance", "refuse_distance"))
    scores = {"feature_distance": distance, "warn_distance": warn, "refuse_distance": refuse}
    every = list(findings)
    if "appearance" in gate:
        seen, scores["picture_distance"] = inspect_appearance(gate["appearance"], bundle.arrays, film)
        every.extend(seen)
    if not distance <= refuse:  # a distance that is not a number is refused too
        every.append(
            (Verdict.REFUSE, "the picture is unlike the chest radiographs that the network learnt from")
        )
    elif distance > warn:
        every.append((Verdict.WARN, "the film is unusual among those that the network learnt from"))
    every.sort(key=lambda finding: finding[0] is not Verdict.REFUSE)
    return GateVerdict(
        verdict=every[0][0] if every else Verdict.ANSWER,
        reasons=tuple(reason for _, reason in every),
        scores=MappingProxyType(scores),
    )
