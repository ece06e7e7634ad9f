"""Selective prediction with conformal sets: POSITIVE, NEGATIVE or ABSTAIN.

A conformal set holds every answer that fits the image at a stated error rate, by bounds that a bundle took
from its validation images. An image whose set does not single one out gets no answer, unless the operating
point is stricter than the set.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import nan
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pneumoscope.core.findings import Finding
from pneumoscope.core.records import AnswerSet, Decision, OperatingPoint

ABSTAINED = -1
"""Of :func:`decide_films`, beside 1 for positive and 0 for negative."""

_EVEN = 0.5  # share of bacterial from which on it is the likelier one

Bools = npt.NDArray[np.bool_]
Decisions = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Bounds(NamedTuple):
    """Where conformal sets begin and end; each entry one number, or (N,) float64. NaN: there are none.

    Attributes:
        threshold: the bundle's default operating point, which lies between the bounds.
        error_rate: share of new patients of either class whose set may leave out the truth.
        pneumonia_from: the set holds pneumonia from this probability of pneumonia on.
        normal_to: it holds normal up to this one.
        etiology_error_rate, bacterial_from, viral_to: the same for the share of bacterial in the probability
            of pneumonia.
    """

    threshold: Any = nan
    error_rate: Any = nan
    pneumonia_from: Any = nan
    normal_to: Any = nan
    etiology_error_rate: Any = nan
    bacterial_from: Any = nan
    viral_to: Any = nan


def bounds_of(document: Mapping[str, Any]) -> Bounds:
    """The bounds in a bundle's document; NaN where it has none."""
    selection, etiology = document.get("selection", {}), document["etiology"]
    default = document["default_operating_point"]
    found = {p["name"]: {"threshold": p["threshold"]} for p in document["operating_points"]}[default]
    if "pneumonia_from" in selection:
        found |= {key: selection[key] for key in ("error_rate", "pneumonia_from", "normal_to")}
    if "bacterial_from" in etiology:
        found |= {key: etiology[key] for key in ("bacterial_from", "viral_to")}
        found["etiology_error_rate"] = etiology["error_rate"]
    return Bounds(**found)


def decide_films(probability: Floats, threshold: Any, bounds: Bounds) -> Decisions:
    """Decisions (N,): 1 positive, 0 negative, :data:`ABSTAINED`; by the threshold alone without bounds.

    Negative is an image below the threshold whose set holds normal alone. Positive is one from the threshold
    on whose set holds pneumonia alone; and, where the threshold lies below every doubtful image, any from
    the threshold on, as such an operating point calls more images than the error rate asks for. As the
    probability rises, images are negative, then abstained, then positive, and never the other way round.

    Args:
        probability: (N,) calibrated probability of pneumonia.
        threshold: of the operating point; one number, or (N,).
        bounds: of the images' bundle, or of each image.
    """
    above = np.asarray(probability >= threshold)
    strict = above & (threshold < np.minimum(bounds.pneumonia_from, bounds.normal_to))
    return np.where(strict, 1, _single(probability, above, bounds.pneumonia_from, bounds.normal_to))


def decide_etiologies(share: Floats, bounds: Bounds) -> Decisions:
    """Etiologies (N,): 1 bacterial, 0 viral, :data:`ABSTAINED`; the likelier one without bounds.

    Args:
        share: (N,) of bacterial in the probability of pneumonia.
        bounds: of the images' bundle, or of each image.
    """
    return _single(share, np.asarray(share >= _EVEN), bounds.bacterial_from, bounds.viral_to)


def _single(value: Floats, above: Bools, upper_from: Any, lower_to: Any) -> Decisions:
    """The answer that the set holds alone, where it is the one that ``above`` says."""
    upper, lower = np.asarray(value >= upper_from), np.asarray(value <= lower_to)
    answered = np.where(above, upper & ~lower, lower & ~upper) | np.isnan(upper_from)
    return np.where(answered, above, ABSTAINED)


def answer_set(value: float, names: tuple[str, str], lower_to: float, upper_from: float) -> tuple[str, ...]:
    """The answers that an image's set holds, of ``names`` (lower, upper)."""
    return tuple(
        name for name, fits in zip(names, (value <= lower_to, value >= upper_from), strict=True) if fits
    )


def explain_decision(decision: Decision, found: AnswerSet, point: OperatingPoint) -> tuple[Finding, ...]:
    """Why no answer is given, or that an answer is positive by its threshold alone; nothing otherwise."""
    named: dict[str, str | float] = {"operating_point": point.name, "error_rate": found.error_rate}
    rate = {"error_rate": found.error_rate}
    if decision is Decision.NEGATIVE:
        return ()
    if decision is Decision.POSITIVE:
        return () if found.answers == ("pneumonia",) else (Finding.note("low-threshold-only", **named),)
    if found.answers == ("pneumonia",):
        return (Finding.note("normal-excluded", **named),)
    return (Finding.note("both-answers-fit" if found.answers else "no-answer-fits", **rate),)


def explain_etiology(found: AnswerSet) -> Finding:
    """Why the etiology is uncertain."""
    codes = {
        (): "no-cause-fits",
        ("bacterial",): "only-bacterial-fits",
        ("viral",): "only-viral-fits",
    }
    return Finding.note(codes.get(found.answers, "both-causes-fit"), error_rate=found.error_rate)
