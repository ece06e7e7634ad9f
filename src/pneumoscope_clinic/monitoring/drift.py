"""Drift of one set of images against a reference: what is compared, and by which tests.

:data:`QUANTITIES` are exposure, size, device, distances of the gate, and results. Distributions are compared
by the two-sample Kolmogorov-Smirnov test (conservative with ties), shares by Fisher's exact test, mixes by
the chi-square test with rare categories pooled, bounds of the gate by an exact beta-binomial test. Holm's
correction (Scand J Stat 6, 1979) holds the chance of any false finding in one look at ``level``.

A bundle keeps the bounds of its gate's feature distance and picture distance, each an order statistic of its
validation images. It keeps no distribution of exposure, size, device or probability: for these the reference
is the *baseline*, the first images here under this bundle. Each row says which one it was compared with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from math import ceil, isfinite, sqrt
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy

from pneumoscope.core.records import Decision, Verdict
from pneumoscope.evaluation.comparison import holm
from pneumoscope_clinic.monitoring.records import DriftRow

MIN_FILMS = 20
"""Fewer values of a quantity are not compared; the tests find nothing in so few at the levels used."""

_MIN_EXPECTED = 5.0  # images of a cell in the chi-square test (Cochran, Biometrics 10, 1954)
_PSI_BINS = 10
_POOLED = "\0others"

Floats = npt.NDArray[np.float64]

NUMBER, SHARE, MIX = "number", "share", "mix"

Numbers = dict[str, Any]
"""By quantity: sorted values (number), [successes, images] (share), or images by category (mix)."""

_DIGITS = 5  # significant; finer than any difference that matters, and half as long in the database
_SELECTION = "selection"


@dataclass(frozen=True, slots=True)
class FilmRow:
    """What monitoring reads of one examined image; ``patient`` is a keyed hash, else the study's id."""

    at: datetime
    patient: str
    verdict: str
    decision: str
    abstained_by: str | None
    probability: float | None
    drift: Mapping[str, Any]
    facts: Mapping[str, Any]
    age_years: float | None


@dataclass(frozen=True, slots=True)
class Quantity:
    """One thing that is watched; ``read`` gives its value for an image, None where the image has none."""

    name: str
    title: str
    group: str
    kind: str
    read: Callable[[FilmRow], Any]


def _drift(key: str) -> Callable[[FilmRow], Any]:
    return lambda film: film.drift.get(key)


def _pixels(film: FilmRow) -> float | None:
    rows, columns = film.drift.get("rows"), film.drift.get("columns")
    return sqrt(rows * columns) if rows and columns else None


def _aspect(film: FilmRow) -> float | None:
    rows, columns = film.drift.get("rows"), film.drift.get("columns")
    return columns / rows if rows and columns else None


def _device(film: FilmRow) -> str:
    parts = (film.facts.get(key) for key in ("manufacturer", "device", "modality", "format"))
    return " ".join(str(part) for part in parts if part) or "unknown"


def _refused(film: FilmRow) -> bool:
    return film.verdict == Verdict.REFUSE


def _unless_refused(read: Callable[[FilmRow], Any]) -> Callable[[FilmRow], Any]:
    return lambda film: None if _refused(film) else read(film)


QUANTITIES = (
    Quantity("mean", "Mean grey level", "input", NUMBER, _drift("mean")),
    Quantity("contrast", "Contrast", "input", NUMBER, _drift("contrast")),
    Quantity("exposure_low", "Dark end of the exposure", "input", NUMBER, _drift("exposure_low")),
    Quantity("exposure_high", "Bright end of the exposure", "input", NUMBER, _drift("exposure_high")),
    Quantity("size", "Image size in pixels", "input", NUMBER, _pixels),
    Quantity("aspect", "Width over height", "input", NUMBER, _aspect),
    Quantity("age", "Age of the patients", "input", NUMBER, lambda film: film.age_years),
    Quantity("device", "Devices", "input", MIX, _device),
    Quantity("feature_distance", "Feature distance", "input", NUMBER, _drift("feature_distance")),
    Quantity("picture_distance", "Picture distance", "input", NUMBER, _drift("picture_distance")),
    Quantity("warned", "Share answered with a warning", "input", SHARE, lambda f: f.verdict == Verdict.WARN),
    Quantity("refused", "Share refused by the gate", "input", SHARE, _refused),
    Quantity("probability", "Probabilities", "output", NUMBER, _unless_refused(lambda f: f.probability)),
    Quantity(
        "positive",
        "Share positive",
        "output",
        SHARE,
        _unless_refused(lambda f: f.decision == Decision.POSITIVE),
    ),
    Quantity(
        "abstained",
        "Share abstained",
        "output",
        SHARE,
        _unless_refused(lambda f: f.abstained_by == _SELECTION),
    ),
)


def numbers_of(films: Sequence[FilmRow]) -> Numbers:
    """The numbers of ``films``; each quantity is sorted by itself."""
    found: Numbers = {}
    for quantity in QUANTITIES:
        values = [value for value in map(quantity.read, films) if value is not None]
        if quantity.kind == NUMBER:
            found[quantity.name] = sorted(_rounded(value) for value in values if isfinite(value))
        elif quantity.kind == SHARE:
            found[quantity.name] = [sum(values), len(values)]
        else:
            found[quantity.name] = dict(sorted(Counter(values).items()))
    return found


def pooled(parts: Sequence[Numbers]) -> Numbers:
    """The numbers of several sets of images together."""
    found: Numbers = {}
    for quantity in QUANTITIES:
        values = [part[quantity.name] for part in parts if quantity.name in part]
        if quantity.kind == NUMBER:
            found[quantity.name] = sorted(value for part in values for value in part)
        elif quantity.kind == SHARE:
            found[quantity.name] = [sum(column) for column in zip(*values, strict=True)] or [0, 0]
        else:
            counts: Counter[str] = Counter()
            for part in values:
                counts.update(part)
            found[quantity.name] = dict(sorted(counts.items()))
    return found


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


@dataclass(frozen=True, slots=True)
class Bound:
    """A value that ``beyond`` of ``n`` validation images exceed; quantity names what it bounds."""

    quantity: str
    value: float
    beyond: int
    n: int

    def p_value(self, exceeding: int, films: int) -> float:
        """Chance that so many of ``films``, or more, exceed the bound though they are usual images.

        The chance of one new image to exceed the r-th smallest of n exchangeable values is Beta(n + 1 - r, r)
        distributed (David & Nagaraja, Order Statistics, 3rd ed., 2.1), so the count is beta-binomial: exact
        for any distribution without ties.
        """
        return float(scipy.stats.betabinom.sf(exceeding - 1, films, self.beyond + 1, self.n - self.beyond))


@dataclass(frozen=True, slots=True)
class BundleReference:
    """The bounds of a bundle's gate."""

    bounds: tuple[Bound, ...]


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


def compare(
    present: Numbers, baseline: Numbers | None, bundle: BundleReference, level: float
) -> tuple[DriftRow, ...]:
    """Every quantity of ``present`` against its references.

    Args:
        present: images of now.
        baseline: the first images under this bundle; None while there are too few of them.
        bundle: bounds of the gate.
        level: chance of any row with ``drifted`` when nothing has changed.
    """
    rows = list(_against_bundle(present, bundle))
    if baseline is not None:
        rows += _against_baseline(present, baseline)
    adjusted = holm([row.p for row in rows]).tolist()
    return tuple(
        replace(row, adjusted=value, drifted=value <= level)
        for row, value in zip(rows, adjusted, strict=True)
    )


def population_stability(reference: Sequence[float], present: Sequence[float]) -> float:
    """Population stability index over the reference's tenths; counts are raised by a half against empty bins.

    Usual reading (Siddiqi, Credit Risk Scorecards, 2006): below 0.1 no change, above 0.25 a marked one. It
    grows with fewer images though nothing has changed, so nothing is decided by it.
    """
    edges = np.unique(np.quantile(reference, np.linspace(0, 1, _PSI_BINS + 1)[1:-1]))
    shares = []
    for values in (reference, present):
        counts = np.bincount(np.searchsorted(edges, values, side="right"), minlength=len(edges) + 1) + 0.5
        shares.append(counts / counts.sum())
    expected, found = shares
    return float(((found - expected) * np.log(found / expected)).sum())


def _against_bundle(present: Numbers, bundle: BundleReference) -> Iterator[DriftRow]:
    quantities = {quantity.name: quantity for quantity in QUANTITIES}
    for bound in bundle.bounds:
        values = np.array(present.get(bound.quantity, ()), np.float64)
        if len(values) >= MIN_FILMS:
            yield _beyond(quantities[bound.quantity], bound, values)


def _beyond(quantity: Quantity, bound: Bound, values: Floats) -> DriftRow:
    exceeding = int((values > bound.value).sum())
    return DriftRow(
        quantity=f"beyond_{quantity.name}",
        title=f"{quantity.title} beyond the gate's bound",
        group=quantity.group,
        kind=SHARE,
        reference="bundle",
        reference_value=bound.beyond / bound.n,
        present_value=exceeding / len(values),
        test="beta-binomial",
        p=bound.p_value(exceeding, len(values)),
        adjusted=1.0,
        psi=None,
        drifted=False,
        n=len(values),
        reference_n=bound.n,
    )


def _against_baseline(present: Numbers, baseline: Numbers) -> Iterator[DriftRow]:
    tests: Mapping[str, Callable[[Any, Any], _Outcome]] = {NUMBER: _distribution, SHARE: _share, MIX: _mix}
    for quantity in QUANTITIES:
        now, before = present.get(quantity.name), baseline.get(quantity.name)
        if now and before and min(_films(quantity, now), _films(quantity, before)) >= MIN_FILMS:
            test, p, values, psi = tests[quantity.kind](before, now)
            yield DriftRow(
                quantity=quantity.name,
                title=quantity.title,
                group=quantity.group,
                kind=quantity.kind,
                reference="baseline",
                reference_value=values[0],
                present_value=values[1],
                test=test,
                p=p,
                adjusted=1.0,
                psi=psi,
                drifted=False,
                n=_films(quantity, now),
                reference_n=_films(quantity, before),
            )


_Outcome = tuple[str, float, tuple[float | None, float | None], float | None]


def _films(quantity: Quantity, values: Any) -> int:
    if quantity.kind == SHARE:
        return int(values[1])
    return sum(values.values()) if quantity.kind == MIX else len(values)


def _distribution(before: list[float], now: list[float]) -> _Outcome:
    p = float(scipy.stats.ks_2samp(before, now, method="asymp").pvalue)
    means = (float(np.mean(before)), float(np.mean(now)))
    return "two-sample KS", p, means, population_stability(before, now)


def _share(before: list[int], now: list[int]) -> _Outcome:
    table = [[before[0], before[1] - before[0]], [now[0], now[1] - now[0]]]
    p = float(scipy.stats.fisher_exact(table)[1])
    return "Fisher exact", p, (before[0] / before[1], now[0] / now[1]), None


def _mix(before: dict[str, int], now: dict[str, int]) -> _Outcome:
    table = _pooled_table(before, now)
    if table.shape[1] < 2:
        return "chi-square", 1.0, (None, None), None
    if table.shape[1] == 2:
        return "Fisher exact", float(scipy.stats.fisher_exact(table)[1]), (None, None), _psi_of(table)
    p = float(scipy.stats.chi2_contingency(table, correction=False)[1])
    return "chi-square", p, (None, None), _psi_of(table)


def _pooled_table(before: dict[str, int], now: dict[str, int]) -> npt.NDArray[np.int64]:
    """(2, categories) counts; categories that are too rare for the test are one."""
    total = sum(before.values()) + sum(now.values())
    least = min(sum(before.values()), sum(now.values())) / total
    merged: dict[str, list[int]] = {}
    for name in sorted(set(before) | set(now)):
        pair = (before.get(name, 0), now.get(name, 0))
        cell = merged.setdefault(name if sum(pair) * least >= _MIN_EXPECTED else _POOLED, [0, 0])
        cell[0], cell[1] = cell[0] + pair[0], cell[1] + pair[1]
    return np.array(list(merged.values()), np.int64).T


def _psi_of(table: npt.NDArray[np.int64]) -> float:
    shares = (table + 0.5) / (table + 0.5).sum(axis=1, keepdims=True)
    return float(((shares[1] - shares[0]) * np.log(shares[1] / shares[0])).sum())
