"""From model inputs to logits, from logits to calibrated probabilities, from probabilities to a decision.

POSITIVE, NEGATIVE, or ABSTAIN where the image fits both answers or neither. An image that the gate refuses
has no prediction at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import BundleError, PneumoscopeError
from pneumoscope.core.findings import Finding
from pneumoscope.core.records import AnswerSet, Decision, Etiology, FloatArray, Prediction, Task
from pneumoscope.imaging.session import run_session
from pneumoscope.inference.bundle import Bundle
from pneumoscope.inference.schema import CALIBRATIONS
from pneumoscope.inference.selection import (
    ABSTAINED,
    Bounds,
    answer_set,
    bounds_of,
    decide_etiologies,
    decide_films,
    explain_decision,
    explain_etiology,
)

BATCH = 8
"""Images in one pass. More outgrow the processor's caches: MobileNetV2 at 160 pixels takes 6 % less time a
image in eights than one by one, and a third more in batches of 32 (ONNX Runtime, one thread, AMD EPYC)."""

_DECISIONS = {1: Decision.POSITIVE, 0: Decision.NEGATIVE, ABSTAINED: Decision.ABSTAIN}
_ETIOLOGIES = {1: Etiology.BACTERIAL, 0: Etiology.VIRAL, ABSTAINED: Etiology.UNCERTAIN}


def run_network(bundle: Bundle, batch: npt.NDArray[np.float32]) -> tuple[FloatArray, FloatArray]:
    """Run the network, at most :data:`BATCH` images in a pass.

    Args:
        bundle: whose network.
        batch: (N, 1, S, S) float32 in [0, 1], S = ``bundle.preprocessing.size``.

    Returns:
        logits (N, K) in the order of ``bundle.task.classes``, by the head of a site where the bundle was
        adapted to one, and features (N, C, h, w); both float32.

    Raises:
        ValueError: the batch has another shape or type.
        PneumoscopeError: the network failed or gave a logit that is not a finite number.
    """
    size = bundle.preprocessing.size
    if batch.shape[1:] != (1, size, size) or batch.dtype != np.float32:
        raise ValueError(f"batch {batch.shape} {batch.dtype}, expected (N, 1, {size}, {size}) float32")
    if len(batch) == 0:
        shape = bundle.document["network"]["feature_shape"]
        return np.empty((0, len(bundle.task.classes)), np.float32), np.empty((0, *shape), np.float32)
    passes = [run_session(bundle.session, batch[i : i + BATCH]) for i in range(0, len(batch), BATCH)]
    logits, features = (np.concatenate([one[output] for one in passes]) for output in (0, 1))
    if "adaptation" in bundle.document:
        logits = head_logits(bundle.arrays, features.mean(axis=(2, 3), dtype=np.float64))
    if not np.isfinite(logits).all():
        raise PneumoscopeError("the network gave a logit that is not a finite number", where=bundle.id)
    return logits, features


def head_logits(
    arrays: Mapping[str, npt.NDArray[Any]], pooled_features: npt.NDArray[np.float64]
) -> FloatArray:
    """Logits (N, K) float32 of a site's own head on the network's pooled features.

    Args:
        arrays: ``head_weight`` (K, C) and ``head_bias`` (K,).
        pooled_features: (N, C), feature maps averaged over rows and columns.
    """
    weight, bias = (arrays[name].astype(np.float64) for name in ("head_weight", "head_bias"))
    return np.asarray(pooled_features @ weight.T + bias, np.float32)


def calibrated_probabilities(
    logits: npt.NDArray[Any], calibration: Mapping[str, Any]
) -> npt.NDArray[np.float64]:
    """Logits to probabilities by the calibration of a bundle, and by that of a site where it has one.

    A site's part, ``local``, is a line through the log-odds of pneumonia (``slope``, ``offset``; logistic
    recalibration, Steyerberg et al., Statistics in Medicine 23, 2004); the etiology's share stays.

    Args:
        logits: (N, K).
        calibration: as :func:`general_probabilities` takes it, and ``local`` or not.

    Returns:
        (N, K) float64; each row sums to 1.

    Raises:
        BundleError: another method.
    """
    general, local = general_probabilities(logits, calibration), calibration.get("local")
    if local is None:
        return general
    ill = general[:, 1:].sum(axis=1)
    here = _sigmoid(local["slope"] * log_odds(ill) + local["offset"])
    shares = general[:, 1:] / np.maximum(ill, np.finfo(float).tiny)[:, None]
    return np.column_stack([1 - here, here[:, None] * shares])


def log_odds(probability: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """ln(p / (1 - p)) of probabilities, which are kept from 0 and 1 by a millionth."""
    kept = np.clip(probability, 1e-6, 1 - 1e-6)
    return np.asarray(np.log(kept) - np.log1p(-kept))


def general_probabilities(
    logits: npt.NDArray[Any], calibration: Mapping[str, Any]
) -> npt.NDArray[np.float64]:
    """Logits to probabilities by the calibration of a bundle, whatever its site.

    ``temperature`` and ``bias-corrected-temperature`` are softmax(logits / temperature + bias), without and
    with a bias for each class (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, section 4.2;
    Alexandari, Kundaje & Shrikumar, Maximum Likelihood with Bias-Corrected Calibration, ICML 2020, section
    2.3). ``platt``, ``beta`` and ``isotonic`` answer two questions one after the other, each by a rising
    curve of log-odds (:func:`calibrated_log_odds`): is there pneumonia, and if so, is it bacterial.

    Args:
        logits: (N, K).
        calibration: ``method``, and ``temperature`` > 0 and ``bias`` (K numbers), or a curve each under
            ``pneumonia`` and, for three classes, ``etiology``.

    Returns:
        (N, K) float64; each row sums to 1.

    Raises:
        BundleError: another method.
    """
    method, values = calibration.get("method"), np.asarray(logits, np.float64)
    if method not in CALIBRATIONS:
        raise BundleError(f"calibration method {method!r}", expected=" or ".join(CALIBRATIONS))
    if "temperature" in calibration:
        scaled = values / calibration["temperature"] + calibration.get("bias", 0.0)
        powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))
    ill = calibrated_log_odds(pneumonia_log_odds(values), calibration["pneumonia"])
    shares = np.ones((1, len(values)))
    if values.shape[1] > 2:
        cause = calibrated_log_odds(values[:, 1] - values[:, 2], calibration["etiology"])
        shares = np.stack([_sigmoid(cause), _sigmoid(-cause)])
    return np.column_stack([_sigmoid(-ill), *(_sigmoid(ill) * shares)])


def pneumonia_log_odds(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(N,) log-odds of pneumonia, of whatever cause, in the softmax of (N, K) logits."""
    pneumonia = logits[:, 1:]
    highest = pneumonia.max(axis=1)
    spread = np.exp(pneumonia - highest[:, None]).sum(axis=1)
    return np.asarray(highest + np.log(spread) - logits[:, 0])


def calibrated_log_odds(x: npt.NDArray[np.float64], curve: Mapping[str, Any]) -> npt.NDArray[np.float64]:
    """Log-odds (N,) through a rising curve: the order of images stays as it was.

    Args:
        x: log-odds as the network has them.
        curve: one of Platt's line, ``slope`` x + ``offset`` (Platt 1999); the beta curve, ``a`` ln s - ``b``
            ln(1 - s) + ``c`` of the probability s (Kull, Silva Filho & Flach, AISTATS 2017, section 3); or
            points ``x`` and ``y`` joined by straight lines, with slope 1 beyond the ends (an isotonic
            regression whose flat pieces are points).
    """
    if "slope" in curve:
        return np.asarray(curve["slope"] * x + curve["offset"])
    if "a" in curve:
        return np.asarray(curve["a"] * -np.logaddexp(0, -x) + curve["b"] * np.logaddexp(0, x) + curve["c"])
    inside = np.clip(x, curve["x"][0], curve["x"][-1])
    return np.asarray(np.interp(inside, curve["x"], curve["y"]) + (x - inside))


def _sigmoid(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(np.exp(-np.logaddexp(0, -x)))


def probability_interval(probability: float, calibration: Mapping[str, Any]) -> tuple[float, float] | None:
    """The 95 % interval of a calibrated probability of pneumonia, from the band of the bundle's calibration.

    Args:
        probability: of :func:`calibrated_probabilities`, in [0, 1].
        calibration: ``interval`` holds ``log_odds``, and ``low`` and ``high`` at each.

    Returns:
        The lower and the upper end in [0, 1], which enclose it; None where the bundle has no band.
    """
    band = calibration.get("interval")
    if band is None:
        return None
    x = log_odds(np.array([probability]))
    low, high = (float(_sigmoid(np.interp(x, band["log_odds"], band[end]))[0]) for end in ("low", "high"))
    return min(low, probability), max(high, probability)


def decide(bundle: Bundle, logits: npt.NDArray[Any], operating_point: str | None = None) -> Prediction:
    """The answer about one image at an operating point.

    The calibrated probability of pneumonia is held against the threshold and against the bounds of the
    bundle's conformal sets (:func:`pneumoscope.inference.selection.decide_films`); a bundle without them says
    POSITIVE from the threshold on and NEGATIVE below. A three-class bundle names the etiology of a positive
    image; it is UNCERTAIN when its set does not single one out, or, in an older bundle, when P(bacterial |
    pneumonia) and P(viral | pneumonia) differ by less than ``etiology.margin``.

    Args:
        bundle: whose calibration and operating points.
        logits: (K,) of one image.
        operating_point: name of one of the bundle's; None is its default.

    Raises:
        ConfigError: the bundle has no such operating point.
    """
    point = bundle.operating_point(operating_point)
    row = calibrated_probabilities(np.asarray(logits)[None], bundle.document["calibration"])[0]
    probabilities = {name: float(p) for name, p in zip(bundle.task.classes, row, strict=True)}
    probability = float(row[1:].sum())  # exact where 1 - p_normal would cancel
    bounds = bounds_of(bundle.document)
    decision = _DECISIONS[int(decide_films(np.array([probability]), point.threshold, bounds)[0])]
    findings: tuple[Finding, ...] = ()
    answers = etiology = causes = None
    if not np.isnan(bounds.error_rate):
        fits = answer_set(probability, ("normal", "pneumonia"), bounds.normal_to, bounds.pneumonia_from)
        answers = AnswerSet(fits, bounds.error_rate)
        findings = explain_decision(decision, answers, point)
    if decision is Decision.POSITIVE and bundle.task is Task.THREE_CLASS:
        margin = float(bundle.document["etiology"].get("margin", 0.0))
        etiology, causes, more = _etiology(float(row[1] / probability), bounds, margin)
        findings += more
    return Prediction(
        logits=tuple(float(value) for value in logits),
        probabilities=MappingProxyType(probabilities),
        probability=probability,
        operating_point=point,
        decision=decision,
        etiology=etiology,
        findings=findings,
        bundle_id=bundle.id,
        answer_set=answers,
        etiology_set=causes,
        interval=probability_interval(probability, bundle.document["calibration"]),
    )


def _etiology(
    bacterial: float, bounds: Bounds, margin: float
) -> tuple[Etiology, AnswerSet | None, tuple[Finding, ...]]:
    """Etiology from P(bacterial | pneumonia), the set behind it, and why it is uncertain."""
    if abs(2 * bacterial - 1) < margin:
        equal = Finding.note("causes-equally-likely", bacterial=bacterial, viral=1 - bacterial)
        return Etiology.UNCERTAIN, None, (equal,)
    etiology = _ETIOLOGIES[int(decide_etiologies(np.array([bacterial]), bounds)[0])]
    if np.isnan(bounds.etiology_error_rate):
        return etiology, None, ()
    fits = answer_set(bacterial, ("viral", "bacterial"), bounds.viral_to, bounds.bacterial_from)
    causes = AnswerSet(fits, bounds.etiology_error_rate)
    return etiology, causes, (explain_etiology(causes),) if etiology is Etiology.UNCERTAIN else ()
