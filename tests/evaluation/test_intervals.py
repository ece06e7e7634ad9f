"""Intervals: Wilson against SciPy, patient bootstrap with its nominal coverage, repeatable by seed."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from pneumoscope.evaluation.intervals import (
    bootstrap,
    bootstrap_estimate,
    predictive_value_estimates,
    proportion_estimate,
    wilson,
)
from pneumoscope.evaluation.metrics import mean_statistic, predictive_values, roc_auc_statistic


@pytest.mark.parametrize(("k", "n"), [(0, 5), (1, 10), (7, 10), (383, 390), (20, 20)])
def test_wilson_against_scipy(k: int, n: int) -> None:
    expected = binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_wilson_of_no_proportion_is_our_fault(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a proportion"):
        wilson(k, n)


def test_proportion_carries_its_count() -> None:
    estimate = proportion_estimate(9, 10)
    assert estimate is not None
    assert (estimate.value, estimate.n) == (0.9, 10)
    assert estimate.low == pytest.approx(0.5958, abs=1e-4)
    assert estimate.high == pytest.approx(0.9821, abs=1e-4)
    assert proportion_estimate(0, 0) is None


def test_the_mean_of_independent_films_has_the_textbook_interval() -> None:
    values = np.random.default_rng(0).normal(size=400)
    draws = bootstrap(
        {"mean": mean_statistic(values)},
        [str(i) for i in range(400)],
        resamples=2000,
        rng=np.random.default_rng(1),
    )["mean"]
    assert draws.std() == pytest.approx(values.std() / 20, rel=0.08)
    assert draws.mean() == pytest.approx(values.mean(), abs=0.01)


def test_films_of_one_patient_are_drawn_together() -> None:
    # Ten patients of forty equal images hold ten facts, not four hundred.
    per_patient = np.random.default_rng(0).normal(size=10)
    values = np.repeat(per_patient, 40)
    patients = [f"p{i // 40}" for i in range(400)]
    rng = np.random.default_rng(1)
    draws = bootstrap({"mean": mean_statistic(values)}, patients, resamples=2000, rng=rng)["mean"]
    assert draws.std() == pytest.approx(per_patient.std() / np.sqrt(10), rel=0.1)


def test_one_seed_gives_one_interval_and_all_statistics_see_the_same_draws() -> None:
    values = np.arange(30.0)
    statistics = {"a": mean_statistic(values), "b": mean_statistic(2 * values)}
    patients = [str(i // 2) for i in range(30)]
    first = bootstrap(statistics, patients, resamples=120, rng=np.random.default_rng(5))
    again = bootstrap(statistics, patients, resamples=120, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(first["a"], again["a"])
    np.testing.assert_allclose(first["b"], 2 * first["a"])
    assert first["a"].shape == (120,)


def test_coverage_of_the_auc_is_near_95_percent() -> None:
    rng = np.random.default_rng(0)
    truth, hits = 0.8555778, 0  # normal shift of 1.5: Phi(1.5 / sqrt 2)
    for _ in range(120):
        positive = np.repeat([True, False], 40)
        score = rng.normal(size=80) + 1.5 * positive
        draws = bootstrap(
            {"auc": roc_auc_statistic(positive, score)}, [str(i) for i in range(80)], resamples=200, rng=rng
        )["auc"]
        low, high = np.quantile(draws, [0.025, 0.975])
        hits += low <= truth <= high
    assert 106 <= hits <= 120


def test_percentiles_and_method() -> None:
    draws = np.linspace(0, 1, 1001)
    estimate = bootstrap_estimate(0.5, draws, n=80, smaller_class=10)
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx((0.025, 0.975))
    assert (estimate.n, estimate.method) == (80, "bootstrap over patients, percentile, 1001 resamples")


def test_a_perfect_score_gets_an_interval_of_some_width() -> None:
    estimate = bootstrap_estimate(1.0, np.ones(1000), n=20, smaller_class=8)
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx(wilson(8, 8))
    assert "every resample agrees" in estimate.method


def test_undefined_draws_are_left_out_and_counted_until_they_are_the_most() -> None:
    draws = np.where(np.arange(100) < 40, np.nan, np.linspace(0.2, 0.8, 100))
    estimate = bootstrap_estimate(0.5, draws, n=5, smaller_class=2)
    assert estimate is not None
    assert estimate.method.endswith("60 resamples")
    draws[:60] = np.nan
    assert bootstrap_estimate(0.5, draws, n=5, smaller_class=2) is None


def test_centring_removes_the_bias_that_noise_adds() -> None:
    draws = np.random.default_rng(0).normal(0.05, 0.01, size=4000)
    estimate = bootstrap_estimate(0.03, draws, n=100, smaller_class=50, centred=True)
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx((0.03 - 0.0196, 0.03 + 0.0196), abs=0.001)


def test_predictive_values_lie_in_their_intervals_and_narrow_with_n() -> None:
    few = predictive_value_estimates((18, 20), (8, 10), 0.2)
    many = predictive_value_estimates((1800, 2000), (800, 1000), 0.2)
    for name, value in zip(("ppv", "npv"), predictive_values(0.9, 0.8, 0.2), strict=True):
        assert few[name].value == pytest.approx(value)
        assert few[name].low < many[name].low < value < many[name].high < few[name].high
        assert few[name].n == 30
        assert "prevalence 0.2" in few[name].method


def test_predictive_values_against_the_delta_method() -> None:
    # Mercaldo, Lau & Zhou (Stat Med 26, 2007), logit interval, at a count where both are exact enough.
    (tp, ill), (tn, well), p = (900, 1000), (1600, 2000), 0.1
    se, sp = tp / ill, tn / well
    logit = np.log(se * p / ((1 - sp) * (1 - p)))
    error = np.sqrt((1 - se) / se / ill + sp / (1 - sp) / well)
    low, high = 1 / (1 + np.exp(-(logit + np.array([-1.96, 1.96]) * error)))
    ppv = predictive_value_estimates((tp, ill), (tn, well), p)["ppv"]
    assert (ppv.low, ppv.high) == pytest.approx((low, high), abs=0.001)


def test_predictive_values_without_any_error_keep_a_width() -> None:
    found = predictive_value_estimates((20, 20), (10, 10), 0.1)
    assert found["ppv"].value == found["npv"].value == 1
    assert 0 < found["ppv"].low < 0.5
    assert 0.9 < found["npv"].low < 1
    assert found["ppv"].high == found["npv"].high == 1


def test_predictive_value_that_nothing_defines_is_absent() -> None:
    assert set(predictive_value_estimates((0, 20), (10, 10), 0.1)) == {"npv"}
    assert set(predictive_value_estimates((20, 20), (0, 10), 0.1)) == {"ppv"}
