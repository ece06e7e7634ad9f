"""The gate of a site: fitted to its images, and judged on patients that did not fit it.

Rules about the source (header, blank pictures, noise) and the shape of the lungs stay as they are everywhere;
distances of features and the appearance of the picture are fitted anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import GroupKFold

from pneumoscope.core.findings import Finding, Severity
from pneumoscope.core.records import LungField, Verdict
from pneumoscope.inference.appearance import Appearance, fit_appearance
from pneumoscope.inference.gate import fit_gate, judge_measured

PARTS = 3
"""One of so many parts of the patients sets the bounds; the others fit what is measured."""

LEAST_APPEARANCE = 8
"""Images without which nothing is said about how an image looks; as in training."""

MIDDLE = (2.5, 97.5)
"""Percentiles of the patients' ages that a site's bundle is for: one child among adults is no population."""

AGE_FINDINGS = frozenset({"age-adult", "age-unusual"})

Ints = npt.NDArray[np.int64]
Gate = tuple[dict[str, Any], dict[str, npt.NDArray[np.float32]]]


@dataclass(frozen=True)
class GateImages:
    """What a gate sees of N images of a site.

    Attributes:
        features: (N, C), pooled.
        appearance: of the N pictures.
        patients: N keys.
        findings: N of the sources alone.
        lungs: N lung fields; None where the bundle does not look at them.
        lung_gate: the bundle's ``gate.lungs`` under that key, and its arrays; empty where it has none. It
            stays: a site's few images set too wide a bound, and two lungs look alike everywhere.
    """

    features: npt.NDArray[np.float32]
    appearance: Appearance
    patients: tuple[str, ...]
    findings: tuple[tuple[Finding, ...], ...]
    lungs: tuple[LungField | None, ...]
    lung_gate: Gate

    def looks(self, rows: Ints) -> Appearance:
        """The appearance of the images ``rows``."""
        return Appearance(*(values[rows] for values in self.appearance))


def usable(findings: Sequence[Finding]) -> bool:
    """Whether a source may help to fit a gate: nothing but the patient's age speaks against answering."""
    return not any(one.severity is Severity.REFUSAL and one.code not in AGE_FINDINGS for one in findings)


def fit_site_gate(images: GateImages, rows: Ints, *, rate: float, pictures: bool, seed: int) -> Gate:
    """The ``gate`` part of a bundle and its arrays, from the images ``rows``.

    Args:
        images: of the site.
        rows: of at least three patients.
        rate: share of usual images that may lie beyond the bound of warning.
        pictures: whether the gate looks at pictures, too.
        seed: of the parts.
    """
    keys = np.array(images.patients)[rows]
    splitter = GroupKFold(min(PARTS, len(np.unique(keys))), shuffle=True, random_state=seed)
    fitted, bounding = next(splitter.split(keys, groups=keys))
    fitted, bounding = rows[fitted], rows[bounding]
    gate, arrays = fit_gate(images.features[fitted], images.features[bounding], rate)
    if pictures and len(fitted) >= LEAST_APPEARANCE:
        bounds, thumbnails = fit_appearance(images.looks(fitted), images.looks(bounding), rate)
        gate["appearance"] = bounds
        arrays |= thumbnails
    kept, own = images.lung_gate
    return gate | kept, arrays | own


def site_verdicts(
    images: GateImages, fold: Ints, *, rate: float, pictures: bool, seed: int
) -> tuple[Verdict, ...]:
    """The verdict on each of N images by a gate that other folds' patients fitted; ages say nothing here.

    Args:
        images: of the site.
        fold: (N,) the fold that holds each image out.
        rate, pictures, seed: as :func:`fit_site_gate` takes them.
    """
    found: list[Verdict] = [Verdict.ANSWER] * len(fold)
    for number in np.unique(fold):
        others = np.flatnonzero(fold != number)
        gate, arrays = fit_site_gate(images, others, rate=rate, pictures=pictures, seed=seed)
        for row in np.flatnonzero(fold == number):
            findings = [one for one in images.findings[row] if one.code not in AGE_FINDINGS]
            seen = images.looks(np.array([row]))
            features, lungs = images.features[row], images.lungs[row]
            found[row] = judge_measured(gate, arrays, findings, features, seen, lungs).verdict
    return tuple(found)


def site_ages(ages: Sequence[float | None]) -> list[int] | None:
    """Lowest and highest age in years of the middle 95 %; None where half of them or more are unknown."""
    known = [age for age in ages if age is not None]
    if len(known) <= len(ages) / 2:
        return None
    low, high = np.percentile(known, MIDDLE)
    return [floor(low), ceil(high)]
