"""Has something changed? Tests of the present films against a reference, corrected for their number.

In: numbers of both (``quantities``). Out: one :class:`DriftRow` a quantity. Distributions are compared by the
two-sample Kolmogorov-Smirnov test (conservative where values repeat), shares by Fisher's exact test, mixes by
the chi-square test with rare categories pooled, the gate's bounds by the exact test of ``reference``. Holm's
correction (Scand J Stat 6, 1979) holds the chance of any false finding in one look at ``level``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2_contingency, fisher_exact, ks_2samp

from pneumoscope.evaluation.comparison import holm
from pneumoscope_clinic.monitoring.quantities import MIX, NUMBER, QUANTITIES, SHARE, Numbers, Quantity
from pneumoscope_clinic.monitoring.records import DriftRow
from pneumoscope_clinic.monitoring.reference import Bound, BundleReference

MIN_FILMS = 20
"""Fewer values of a quantity are not compared; the tests find nothing in so few at the levels used."""

_MIN_EXPECTED = 5.0  # films of a cell in the chi-square test (Cochran, Biometrics 10, 1954)
_PSI_BINS = 10
_POOLED = "\0others"

Floats = npt.NDArray[np.float64]


def compare(
    present: Numbers, baseline: Numbers | None, bundle: BundleReference, level: float
) -> tuple[DriftRow, ...]:
    """Every quantity of ``present`` against its references.

    Args:
        present: films of now.
        baseline: the first films under this bundle; None while there are too few of them.
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
    grows with fewer films though nothing has changed, so nothing is decided by it.
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
    p = float(ks_2samp(before, now, method="asymp").pvalue)
    means = (float(np.mean(before)), float(np.mean(now)))
    return "two-sample KS", p, means, population_stability(before, now)


def _share(before: list[int], now: list[int]) -> _Outcome:
    table = [[before[0], before[1] - before[0]], [now[0], now[1] - now[0]]]
    return "Fisher exact", float(fisher_exact(table)[1]), (before[0] / before[1], now[0] / now[1]), None


def _mix(before: dict[str, int], now: dict[str, int]) -> _Outcome:
    table = _pooled_table(before, now)
    if table.shape[1] < 2:
        return "chi-square", 1.0, (None, None), None
    if table.shape[1] == 2:
        return "Fisher exact", float(fisher_exact(table)[1]), (None, None), _psi_of(table)
    return "chi-square", float(chi2_contingency(table, correction=False)[1]), (None, None), _psi_of(table)


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
