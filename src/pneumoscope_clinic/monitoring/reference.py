"""What a bundle itself says of usual films: the reference that needs no film of this installation.

A bundle keeps the bound of its gate's feature distance and of its picture distance, each an order statistic
of its validation films, and what those films showed at each operating point. It keeps no distribution of
exposure, size, device or probability: for these the reference is the *baseline*, the first films here under
this bundle (``windows``). Which one a figure was compared with stands beside it.

In: ``bundle.json``. Out: :class:`BundleReference`, exact tests against it, and :func:`expectation`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from scipy.stats import betabinom

from pneumoscope.core.errors import BundleError
from pneumoscope.evaluation.metrics import predictive_values
from pneumoscope_clinic.monitoring.records import Validation


@dataclass(frozen=True, slots=True)
class Bound:
    """A value that ``beyond`` of ``n`` validation films exceed; quantity names what it bounds."""

    quantity: str
    value: float
    beyond: int
    n: int

    def p_value(self, exceeding: int, films: int) -> float:
        """Chance that so many of ``films``, or more, exceed the bound though they are usual films.

        The chance of one new film to exceed the r-th smallest of n exchangeable values is Beta(n + 1 - r, r)
        distributed (David & Nagaraja, Order Statistics, 3rd ed., 2.1), so the count is beta-binomial: exact
        for any distribution without ties.
        """
        return float(betabinom.sf(exceeding - 1, films, self.beyond + 1, self.n - self.beyond))


@dataclass(frozen=True, slots=True)
class BundleReference:
    """The bounds of a bundle's gate."""

    bounds: tuple[Bound, ...]


def bundle_document(location: str) -> Mapping[str, Any] | None:
    """``bundle.json`` of the bundle at ``location`` (a directory or a shipped name); None if it is gone."""
    from pneumoscope.inference.bundle import load_bundle

    try:
        return load_bundle(location).document
    except BundleError:
        return None


def bundle_reference(document: Mapping[str, Any] | None) -> BundleReference:
    """The reference that ``bundle.json`` holds; without bounds where there is no document."""
    if document is None:
        return BundleReference(())
    gate = document["gate"]
    n, rate = int(gate["n"]), float(gate["false_refusal_rate"])
    # The rank of ``inference.gaussian.upper_bound``.
    beyond = n - min(ceil((n + 1) * (1 - rate)), n)
    bounds = [Bound("feature_distance", float(gate["warn_distance"]), beyond, n)]
    if "appearance" in gate:
        bounds.append(Bound("picture_distance", float(gate["appearance"]["warn_distance"]), beyond, n))
    return BundleReference(tuple(bounds))


def expectation(
    document: Mapping[str, Any] | None, operating_point: str | None, positive_rate: float | None
) -> Validation | None:
    """What the validation films make one expect here, at an operating point (None: the bundle's default).

    Args:
        document: ``bundle.json``.
        operating_point: its name.
        positive_rate: share called positive here, of the answered films.
    """
    if document is None:
        return None
    name = operating_point or document["default_operating_point"]
    points: dict[str, Any] = {point["name"]: point for point in document["operating_points"]}
    point = points.get(name, {})
    sensitivity, specificity = point.get("sensitivity"), point.get("specificity")
    ill = document["validation"].get("sensitivity", {}).get("n")
    if sensitivity is None or specificity is None or not ill or not point.get("n"):
        return None
    prevalence = ill / point["n"]
    expected = prevalence * sensitivity + (1 - prevalence) * (1 - specificity)
    implied = ppv = npv = None
    if positive_rate is not None and sensitivity + specificity > 1:
        raw = (positive_rate + specificity - 1) / (sensitivity + specificity - 1)
        implied = min(max(raw, 0.0), 1.0)
        ppv, npv = predictive_values(sensitivity, specificity, implied)
    return Validation(point["n"], prevalence, expected, implied, ppv, npv)
