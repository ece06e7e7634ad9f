"""Expected cost and the cheapest threshold, against values by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.special import expit

from pneumoscope.core.records import OperatingPoint
from pneumoscope.evaluation.operating_points import (
    CostConfig,
    cheapest,
    cost_report,
    expected_cost,
    threshold_table,
)


def _table():
    rng = np.random.default_rng(0)
    positive = np.arange(400) % 2 == 0
    return threshold_table(positive, expit(rng.normal(np.where(positive, 1.5, -1.5), 1.5)))


def test_expected_cost_by_hand() -> None:
    # Of 1,000 children 200 are ill: 20 missed at 10 each, 80 of 800 alarmed at 1 each.
    assert expected_cost(0.9, 0.9, 0.2, CostConfig()) == pytest.approx(20 * 10 + 80 * 1)
    assert expected_cost(1.0, 0.0, 0.2, CostConfig()) == pytest.approx(800)
    assert expected_cost(0.0, 1.0, 0.2, CostConfig()) == pytest.approx(2000)


def test_cheapest_is_the_least_over_all_thresholds() -> None:
    table, costs = _table(), CostConfig(missed_pneumonia=3)
    best = cheapest(table, 0.3, costs)
    everywhere = expected_cost(table.sensitivity, table.specificity, 0.3, costs)
    assert best["cost_per_1000"] == pytest.approx(everywhere.min())
    assert best["cost_per_1000"] == pytest.approx(
        expected_cost(best["sensitivity"], best["specificity"], 0.3, costs)
    )


def test_report_moves_with_ratio_and_prevalence() -> None:
    point = OperatingPoint("balanced", 0.5, 0.8, 0.7, 400)
    report = cost_report(_table(), point, CostConfig(missed_pneumonia=7), prevalence=0.5)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["prevalence"] == 0.5
    assert report["at_operating_point"]["cost_per_1000"] == pytest.approx(500 * 0.2 * 7 + 500 * 0.3)
    ratios = [row["ratio"] for row in report["by_ratio"]]
    assert 7 in ratios
    assert ratios == sorted(ratios)
    thresholds = [row["cheapest"]["threshold"] for row in report["by_ratio"]]
    assert thresholds == sorted(thresholds, reverse=True)
    rising = [row["treat_none"] for row in report["by_prevalence"]]
    assert rising == sorted(rising)
    for row in (*report["by_ratio"], *report["by_prevalence"], report):
        alternatives = (row["at_operating_point"]["cost_per_1000"], row["treat_all"], row["treat_none"])
        assert row["cheapest"]["cost_per_1000"] <= min(alternatives) or row is not report
    assert len(report["curve"]["threshold"]) == len(report["curve"]["cost_per_1000"]) == 200


def test_stated_prevalence_wins_over_that_of_the_films() -> None:
    point = OperatingPoint("balanced", 0.5, 0.8, 0.7, 400)
    assert cost_report(_table(), point, CostConfig(prevalence=0.07), prevalence=0.5)["prevalence"] == 0.07


@pytest.mark.parametrize("values", [{"missed_pneumonia": 0}, {"false_alarm": -1}, {"prevalence": 1.0}])
def test_impossible_costs_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        CostConfig(**values)
