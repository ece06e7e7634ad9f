"""Tests against a reference: exact figures, false alarms by simulation, real changes found."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from scipy.stats import fisher_exact, ks_2samp

from pneumoscope_clinic.monitoring.dashboard import bundle_document, expectation
from pneumoscope_clinic.monitoring.drift import (
    QUANTITIES,
    Bound,
    BundleReference,
    FilmRow,
    bundle_reference,
    compare,
    numbers_of,
    pooled,
    population_stability,
)
from pneumoscope_clinic.monitoring.sequential import schedule

NONE = BundleReference(())
AT = datetime(2026, 1, 1, tzinfo=UTC)


def film(rng: np.random.Generator, **changes: Any) -> FilmRow:
    """An image of an imaginary hospital; ``changes``: gamma, device, prevalence, refused."""
    ill = rng.random() < changes.get("prevalence", 0.25)
    probability = float(rng.beta(8, 1) if ill else rng.beta(1, 8))
    refused = rng.random() < changes.get("refused", 0.01)
    unsure = 0.3 < probability < 0.5
    size = rng.choice([1000.0, 2000.0, 2500.0])
    device = changes.get("device") or rng.choice(["A", "B", "C"], p=[0.6, 0.35, 0.05])
    return FilmRow(
        at=AT,
        patient=str(rng.random()),
        verdict="REFUSE" if refused else "ANSWER",
        decision="ABSTAIN" if refused or unsure else "POSITIVE" if probability > 0.5 else "NEGATIVE",
        abstained_by="gate" if refused else "selection" if unsure else None,
        probability=None if refused else probability,
        drift={
            "mean": float(np.clip(rng.normal(0.5, 0.06), 0, 1)) ** changes.get("gamma", 1.0),
            "contrast": float(rng.normal(0.2, 0.03)),
            "exposure_low": float(rng.beta(1, 20)),
            "exposure_high": float(rng.beta(20, 1)),
            "rows": size,
            "columns": size,
            "feature_distance": float(rng.gamma(50, 0.02)),
            "picture_distance": float(rng.gamma(50, 0.02)),
        },
        facts={"manufacturer": str(device), "format": "DICOM"},
        age_years=float(rng.integers(1, 6)),
    )


def films(rng: np.random.Generator, count: int, **changes: Any) -> list[FilmRow]:
    return [film(rng, **changes) for _ in range(count)]


def test_p_values_are_corrected_for_the_number_of_tests() -> None:
    """Fisher's p values of three shares, multiplied by 3, 2 and 1 in rising order."""
    before = {"refused": [2, 200], "positive": [50, 200], "abstained": [10, 200]}
    now = {"refused": [9, 100], "positive": [35, 100], "abstained": [6, 100]}
    rows = compare(now, before, NONE, 0.01)
    ordered = sorted(rows, key=lambda row: row.p)
    assert ordered[0].adjusted == pytest.approx(3 * ordered[0].p)
    assert ordered[1].adjusted == pytest.approx(2 * ordered[1].p)
    assert ordered[2].adjusted == pytest.approx(ordered[2].p)


def test_a_distribution_is_compared_by_the_two_sample_test_of_scipy() -> None:
    rng = np.random.default_rng(1)
    before, now = numbers_of(films(rng, 120)), numbers_of(films(rng, 60))
    row = next(row for row in compare(now, before, NONE, 0.01) if row.quantity == "contrast")
    assert row.p == pytest.approx(ks_2samp(before["contrast"], now["contrast"], method="asymp").pvalue)
    assert row.present_value == pytest.approx(np.mean(now["contrast"]))
    assert (row.n, row.reference_n, row.reference, row.group) == (60, 120, "baseline", "input")


def test_a_share_is_compared_by_fishers_exact_test() -> None:
    now, before = {"refused": [9, 100]}, {"refused": [2, 200]}
    (row,) = compare(now, before, NONE, 0.01)
    assert row.p == pytest.approx(fisher_exact([[2, 198], [9, 91]])[1])
    assert (row.reference_value, row.present_value) == (0.01, 0.09)
    assert row.drifted


def test_devices_are_compared_as_a_mix_with_rare_ones_pooled() -> None:
    same = {"device": {"A": 150, "B": 100, "rare": 1, "other": 2}}
    (row,) = compare(same, same, NONE, 0.01)
    assert row.p == pytest.approx(1.0)
    assert row.psi == pytest.approx(0.0)
    (row,) = compare({"device": {"A": 60, "new": 40}}, {"device": {"A": 150, "B": 50}}, NONE, 0.01)
    assert row.drifted
    (row,) = compare({"device": {"A": 60}}, {"device": {"A": 150}}, NONE, 0.01)
    assert row.p == 1.0


def test_too_few_values_are_not_compared() -> None:
    few = {"contrast": [0.1] * 19, "refused": [0, 19], "age": []}
    assert compare(few, few, NONE, 0.01) == ()


def test_the_bound_of_the_gate_is_exact_for_usual_films() -> None:
    """The p value of a beta-binomial count is uniform under the null: its level is never exceeded."""
    rng = np.random.default_rng(2)
    small = 0
    for _ in range(2000):
        validation = np.sort(rng.random(521))
        bound = Bound("feature_distance", float(validation[-5]), 4, 521)
        small += bound.p_value(int((rng.random(200) > bound.value).sum()), 200) <= 0.05
    assert small / 2000 < 0.055
    assert Bound("x", 0.0, 4, 521).p_value(0, 200) == 1.0
    assert Bound("x", 0.0, 4, 521).p_value(20, 200) < 1e-6


def test_the_reference_of_the_shipped_bundle_is_the_rank_of_its_gate() -> None:
    document = bundle_document("reference")
    assert document is not None
    reference = bundle_reference(document)
    assert [bound.quantity for bound in reference.bounds] == ["feature_distance", "picture_distance"]
    # upper_bound takes rank ceil(522 * 0.99) = 517 of 521 values: 4 lie beyond.
    assert {(bound.beyond, bound.n) for bound in reference.bounds} == {(4, 521)}
    assert reference.bounds[0].value == document["gate"]["warn_distance"]
    assert bundle_document("/nowhere") is None
    assert bundle_reference(None).bounds == ()


def test_films_unlike_the_validation_films_are_found_without_a_baseline() -> None:
    rng = np.random.default_rng(3)
    reference = BundleReference((Bound("feature_distance", 1.4, 4, 521),))
    (row,) = compare(numbers_of(films(rng, 200)), None, reference, 0.01)
    assert (row.quantity, row.reference, row.drifted) == ("beyond_feature_distance", "bundle", False)
    strange = {"feature_distance": [1.5] * 15 + [1.0] * 185}
    (row,) = compare(strange, None, reference, 0.01)
    assert row.drifted
    assert (row.present_value, row.reference_value) == (0.075, 4 / 521)


def test_false_alarms_of_all_tests_of_a_look_together_stay_within_the_level() -> None:
    rng = np.random.default_rng(4)
    level, looks = 0.1, 150
    reference = BundleReference((Bound("feature_distance", 1.36, 4, 521),))
    alarms = 0
    pool = films(rng, 4000)
    for _ in range(looks):
        drawn = [pool[number] for number in rng.choice(len(pool), 300, replace=False)]
        rows = compare(numbers_of(drawn[200:]), numbers_of(drawn[:200]), reference, level)
        assert len(rows) == len(QUANTITIES) + len(reference.bounds)
        alarms += any(row.drifted for row in rows)
    # 150 looks at a true rate of 0.1: more than 24 alarms have a chance below 0.01.
    assert alarms <= 24


def test_false_alarms_of_all_looks_at_a_window_stay_within_the_rate() -> None:
    """60 windows of unchanged images, each with a baseline of its own and all its looks."""
    rng = np.random.default_rng(7)
    rate, window, windows = 0.2, 80, 60
    looks = schedule(window, rate)
    assert sum(level for _, level in looks) == pytest.approx(rate)
    pool = films(rng, 4000)
    alarms = 0
    for _ in range(windows):
        drawn = [pool[number] for number in rng.choice(len(pool), 3 * window, replace=False)]
        baseline = numbers_of(drawn[window:])
        found = (compare(numbers_of(drawn[:count]), baseline, NONE, level) for count, level in looks)
        alarms += any(row.drifted for rows in found for row in rows)
    # 60 windows at a true rate of 0.2: more than 20 alarms have a chance below 0.01.
    assert alarms <= 20


@pytest.mark.parametrize(
    ("change", "quantity"),
    [
        ({"gamma": 1.5}, "mean"),
        ({"device": "D"}, "device"),
        ({"prevalence": 0.6}, "positive"),
        ({"prevalence": 0.6}, "probability"),
        ({"refused": 0.2}, "refused"),
    ],
)
def test_real_changes_are_found_within_one_window(change: dict[str, Any], quantity: str) -> None:
    rng = np.random.default_rng(5)
    found = 0
    usual, changed = films(rng, 1000), films(rng, 600, **change)
    for _ in range(10):
        baseline = [usual[number] for number in rng.choice(len(usual), 400, replace=False)]
        present = [changed[number] for number in rng.choice(len(changed), 200, replace=False)]
        rows = compare(numbers_of(present), numbers_of(baseline), NONE, 0.005)
        found += any(row.drifted and row.quantity == quantity for row in rows)
    assert found >= 9


def test_numbers_hold_no_film() -> None:
    rng = np.random.default_rng(6)
    numbers = numbers_of(films(rng, 50))
    for name in ("contrast", "probability", "age"):
        assert numbers[name] == sorted(numbers[name])
    both = pooled([numbers, numbers])
    assert both["positive"] == [2 * numbers["positive"][0], 2 * numbers["positive"][1]]
    assert both["device"] == {name: 2 * count for name, count in numbers["device"].items()}
    assert len(both["mean"]) == 100


def test_population_stability_is_zero_for_equal_samples_and_large_for_a_shift() -> None:
    rng = np.random.default_rng(7)
    values = rng.normal(size=2000)
    assert population_stability(values, values) == pytest.approx(0)
    assert population_stability(values, rng.normal(size=2000)) < 0.03
    assert population_stability(values, values + 1) > 0.25
    assert population_stability([1.0] * 50, [1.0] * 50) == pytest.approx(0)


def test_the_expectation_is_that_of_rogan_and_gladen() -> None:
    document = {
        "default_operating_point": "balanced",
        "operating_points": [{"name": "balanced", "sensitivity": 0.9, "specificity": 0.8, "n": 200}],
        "validation": {"sensitivity": {"n": 150}},
    }
    found = expectation(document, None, 0.2 + 0.7 * 0.3)
    assert found is not None
    assert found.prevalence == 0.75
    assert found.positive_rate == pytest.approx(0.75 * 0.9 + 0.25 * 0.2)
    assert found.implied_prevalence == pytest.approx(0.3)
    assert found.ppv == pytest.approx(0.27 / (0.27 + 0.14))
    assert expectation(document, "unknown", 0.5) is None
    assert expectation(None, None, 0.5) is None
    assert expectation(document, None, None).implied_prevalence is None  # type: ignore[union-attr]
