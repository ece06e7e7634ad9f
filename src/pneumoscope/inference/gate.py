"""The gate: out-of-distribution detection that refuses what is no frontal chest radiograph.

Three kinds of evidence: rules about the source, which need no training (:func:`inspect_source`); the
appearance of the model input; and a distance of the network's pooled features. The bounds of the last two
come from validation images.

The distance is that of the features' direction (``gaussian``): how strongly features answer differs from
image to image; which of them answer tells a chest from a hand (unit length after Sehwag et al., SSD,
ICLR 2021).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.findings import Finding, Severity, unique
from pneumoscope.core.records import FloatArray, GateVerdict, Geometry, LungField, Radiograph, Verdict
from pneumoscope.imaging.header import to_age
from pneumoscope.imaging.lungs import lung_shape
from pneumoscope.inference.appearance import Appearance, inspect_measured, measure
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.gaussian import distances, fit_gaussian, from_arrays, to_arrays, upper_bound

KEPT_VARIANCE = 0.99
"""Share of the features' variance in the components that keep their own variance. A well-trained network puts
95 % of it into what tells its classes apart; what tells a chest from a hand comes after."""

REFUSAL_MARGIN = 1.25
"""The refusal threshold as a multiple of the warning threshold. Images of another hospital, other devices and
other ages are unusual too, and deserve an answer with a warning. Measured with a MobileNetV2 fitted to the
Guangzhou images: 120 of 132 adult NIH images lie under 1.25, and 34 of 36 other pictures beyond."""


JOINT_MARGIN = 0.95
"""The mean of both distances' ratios to their warning bounds from which an image is refused."""


def fit_gate(
    training_features: npt.NDArray[Any],
    validation_features: npt.NDArray[Any],
    false_refusal_rate: float = 0.01,
) -> tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]:
    """The gate's part of a bundle: what ``bundle.json`` says under ``gate``, and its arrays.

    Of new images from the same source at most ``false_refusal_rate`` lie beyond the warning threshold
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
        raise ValueError(
            f"{len(training_features)} training and {len(validation_features)} validation images"
        )
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


def fit_lung_shapes(
    training: npt.NDArray[np.float64], validation: npt.NDArray[np.float64], rate: float
) -> tuple[dict[str, float], dict[str, npt.NDArray[np.float32]]]:
    """The part ``gate.lungs`` of a bundle, and its arrays.

    Args:
        training: (N, F) of :func:`~pneumoscope.imaging.lungs.lung_shape`, N at least 3.
        validation: (M, F), M at least 1.
        rate: share of usual images that may lie beyond the bound of the warning.
    """
    gaussian = fit_gaussian(training)
    usual = upper_bound(distances(gaussian, validation), rate)
    bounds = {"warn_distance": usual, "refuse_distance": REFUSAL_MARGIN * usual}
    return bounds, to_arrays(gaussian, "lungs")


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


_VERDICTS = {
    Severity.NOTE: Verdict.ANSWER,
    Severity.WARNING: Verdict.WARN,
    Severity.REFUSAL: Verdict.REFUSE,
}

ADULT = 18.0
"""Years from which a patient is an adult (UN Convention on the Rights of the Child, article 1)."""

# The pixel rules are coarse on purpose: measured over the images and the other pictures of the project's
# development data, each leaves a wide gap on both sides.
MIN_CONTRAST = 0.05
"""Least difference between the 1st and the 99th percentile; a black or white frame has none."""
MIN_NEIGHBOUR_CORRELATION = 0.6
"""Least correlation of neighbouring cells of a 64 x 64 reduction: anatomy is smooth, noise is not."""
MIN_GREY_LEVELS = 16
"""Fewer levels than this are a drawing, a mask or a chart."""


@dataclass(frozen=True, slots=True)
class Patient:
    """What is known of the patient beside the image.

    Attributes:
        age_years: as the user says; None: as the file says, if it does.
        usual_ages: lowest and highest age in the training data in years, or None.
    """

    age_years: float | None = None
    usual_ages: tuple[float, float] | None = None


def inspect_source(
    radiograph: Radiograph,
    input_size: int,
    patient: Patient | None = None,
    geometry: Geometry | None = None,
) -> tuple[Finding, ...]:
    """Everything that speaks against answering, from the source alone: header, patient's age and pixels.

    Args:
        radiograph: with the findings of its header and decoder.
        input_size: side of the network's input in pixels.
        patient: whom it shows, and whom the network knows.
        geometry: of the network's input, where that is a part of the image.
    """
    shortest = min(radiograph.original_size)
    if geometry is not None:
        top, left, bottom, right = geometry.crop
        shortest = min(bottom - top, right - left)
    return (
        *(finding for finding in radiograph.findings if finding.severity is not Severity.NOTE),
        *_age_findings(radiograph, patient or Patient()),
        *_pixel_findings(radiograph.pixels, shortest, input_size),
    )


def _age_findings(radiograph: Radiograph, patient: Patient) -> Iterator[Finding]:
    if patient.usual_ages is None:
        return
    age = patient.age_years
    if age is None:
        age = to_age(radiograph.source.get("patient_age", ""))
    low, high = patient.usual_ages
    if age is None or low <= age <= high:
        return
    if age >= ADULT > high:
        yield Finding.refusal("age-adult", age=age, low=low, high=high)
    else:
        yield Finding.warning("age-unusual", age=age, low=low, high=high)


def _pixel_findings(pixels: FloatArray, shortest: int, input_size: int) -> Iterator[Finding]:
    levels = _histogram(pixels)
    if _contrast(levels) < MIN_CONTRAST:
        yield Finding.refusal("blank")
        return
    if shortest < input_size / 4:
        yield Finding.refusal("too-small", pixels=shortest)
    elif shortest < input_size / 2:
        yield Finding.warning("small", pixels=shortest)
    if neighbour_correlation(pixels) < MIN_NEIGHBOUR_CORRELATION:
        yield Finding.refusal("noise")
    if np.count_nonzero(levels) < MIN_GREY_LEVELS:
        yield Finding.refusal("few-grey-levels")


def _histogram(pixels: FloatArray) -> npt.NDArray[np.int64]:
    """Pixels at each of 256 grey levels; Pillow counts bytes several times faster than NumPy sorts floats."""
    from PIL import Image

    levels = np.rint(pixels * np.float32(255)).astype(np.uint8)
    return np.array(Image.fromarray(levels).histogram())


def _contrast(levels: npt.NDArray[np.int64]) -> float:
    """Difference of the 1st and 99th percentile in [0, 1], to the nearest grey level."""
    below = np.cumsum(levels)
    low, high = np.searchsorted(below, (0.01 * below[-1], 0.99 * below[-1]))
    return float(high - low) / 255


def neighbour_correlation(pixels: FloatArray) -> float:
    """Pearson correlation of horizontally neighbouring cells after reduction to 64 x 64 by area means."""
    from PIL import Image

    cells = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BOX), np.float64)
    if cells.std() == 0:
        return 0.0
    return float(np.corrcoef(cells[:, :-1].ravel(), cells[:, 1:].ravel())[0, 1])


def judge(
    bundle: Bundle,
    findings: Iterable[Finding],
    film: FloatArray,
    pooled_features: npt.NDArray[Any],
    lungs: LungField | None = None,
) -> GateVerdict:
    """Join the findings of the source with those of appearance and feature distance.

    Args:
        bundle: whose gate.
        findings: of :func:`inspect_source`.
        film: (1, S, S) in [0, 1], the model input.
        pooled_features: (C,), the feature map averaged over rows and columns.
        lungs: the lung field, where the bundle looks at that.

    Returns:
        The strictest verdict, the findings with the strictest first, and the scores ``feature_distance``,
        ``warn_distance`` and ``refuse_distance``; ``picture_distance`` where the bundle looks at pictures,
        and ``lung_distance`` where it looks at lungs.
    """
    seen = measure(film[None]) if "appearance" in bundle.document["gate"] else None
    return judge_measured(bundle.document["gate"], bundle.arrays, findings, pooled_features, seen, lungs)


def judge_measured(
    gate: Mapping[str, Any],
    arrays: Mapping[str, npt.NDArray[Any]],
    findings: Iterable[Finding],
    pooled_features: npt.NDArray[Any],
    seen: Appearance | None,
    lungs: LungField | None,
) -> GateVerdict:
    """As :func:`judge`, by the ``gate`` and the arrays of a bundle, of the appearance of one image."""
    distance = float(feature_distances(arrays, pooled_features[None])[0])
    warn, refuse = (float(gate[key]) for key in ("warn_distance", "refuse_distance"))
    scores = {"feature_distance": distance, "warn_distance": warn, "refuse_distance": refuse}
    every = list(findings)
    if "appearance" in gate and seen is not None:
        looks, scores["picture_distance"] = inspect_measured(gate["appearance"], arrays, seen)
        every.extend(looks)
    if not distance <= refuse:  # a distance that is not a number is refused too
        every.append(Finding.refusal("out-of-distribution"))
    elif distance > warn:
        every.append(Finding.warning("unusual-features"))
    if lungs is not None and "lungs" in gate:
        said, scores["lung_distance"] = _inspect_lungs(gate["lungs"], arrays, lungs, distance / warn)
        every.extend(said)
    found = unique(every)
    return GateVerdict(
        verdict=_VERDICTS[found[0].severity] if found else Verdict.ANSWER,
        findings=found,
        scores=MappingProxyType(scores),
    )


def _inspect_lungs(
    bounds: Mapping[str, float],
    arrays: Mapping[str, npt.NDArray[Any]],
    lungs: LungField,
    feature_ratio: float,
) -> tuple[list[Finding], float]:
    """What the lungs' shape says against answering, and its distance.

    Args:
        bounds: ``gate.lungs`` of the bundle.
        arrays: of the bundle.
        lungs: of the image.
        feature_ratio: of the features' distance to its own warning bound: two kinds of evidence, each just
            short of a refusal, refuse together.
    """
    distance = float(distances(from_arrays(arrays, "lungs"), lung_shape(lungs)[None])[0])
    ratio = distance / bounds["warn_distance"]
    joint = (ratio + feature_ratio) / 2
    if lungs.state == "not-found" or not distance <= bounds["refuse_distance"] or joint > JOINT_MARGIN:
        return [Finding.refusal("no-frontal-lungs")], distance
    return [Finding.warning("unusual-lungs")] if ratio > 1 else [], distance
