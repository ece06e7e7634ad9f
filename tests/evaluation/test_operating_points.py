"""Operating points keep what they promise on validation data, in the order of their thresholds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit

from pneumoscope.core.errors import InputError
from pneumoscope.core.records import OperatingPoint
from pneumoscope.evaluation.intervals import wilson
from pneumoscope.evaluation.operating_points import (
    CostConfig,
    cheapest,
    choose_operating_points,
    describe_operating_points,
    expected_cost,
    threshold_table,
)


def _films(n: int, seed: int = 0, gap: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.7
    return expit(rng.normal(np.where(positive, gap, -gap), 1.5)), positive


def _points(probability: np.ndarray, positive: np.ndarray, costs: CostConfig | None = None) -> dict:
    return {point.name: point for point in choose_operating_points(probability, positive, costs)}


def test_names_order_and_what_validation_showed() -> None:
    probability, positive = _films(600)
    points = choose_operating_points(probability, positive)
    assert [point.name for point in points] == ["screening", "balanced", "rule-in", "cost"]
    for point in points:
        decided = probability >= point.threshold
        assert point.sensitivity == pytest.approx(decided[positive].mean())
        assert point.specificity == pytest.approx((~decided[~positive]).mean())
        assert point.n == 600
        assert point.threshold not in probability


def test_screening_has_the_best_specificity_that_keeps_the_sensitivity() -> None:
    probability, positive = _films(600)
    point = _points(probability, positive)["screening"]
    best = max(
        (probability[~positive] < t).mean()
        for t in np.append(probability, 0)
        if (probability[positive] >= t).mean() >= 0.98
    )
    assert point.sensitivity >= 0.98
    assert point.specificity == pytest.approx(best)


def test_rule_in_mirrors_screening() -> None:
    probability, positive = _films(600)
    rule_in = _points(probability, positive)["rule-in"]
    mirrored = _points(1 - probability, ~positive)["screening"]
    assert rule_in.specificity >= 0.98
    assert rule_in.threshold == pytest.approx(1 - mirrored.threshold)
    assert rule_in.sensitivity == pytest.approx(mirrored.specificity)
    assert rule_in.specificity == pytest.approx(mirrored.sensitivity)


def test_separable_films_put_every_threshold_in_the_middle_of_the_gap() -> None:
    probability = np.concatenate([expit(np.linspace(-9, -3, 30)), expit(np.linspace(5, 9, 40))])
    points = _points(probability, np.arange(70) >= 30)
    assert points["screening"].threshold == pytest.approx(expit(1.0))
    assert points["rule-in"].threshold == pytest.approx(expit(1.0))
    for point in points.values():
        assert (point.sensitivity, point.specificity) == (1.0, 1.0) or point.name in ("balanced", "cost")
        assert expit(-9) < point.threshold < expit(9)


def test_balanced_gives_away_less_than_a_standard_error_of_the_best() -> None:
    for seed in range(20):
        probability, positive = _films(200, seed)
        point = _points(probability, positive)["balanced"]
        thresholds = np.append(probability, 0)
        sensitivity = np.array([(probability[positive] >= t).mean() for t in thresholds])
        specificity = np.array([(probability[~positive] < t).mean() for t in thresholds])
        best = ((sensitivity + specificity) / 2).max()
        assert best - 0.03 < (point.sensitivity + point.specificity) / 2 <= best + 1e-12


def test_the_cost_point_is_cheaper_on_new_films_than_the_cheapest_of_validation() -> None:
    new, ill = _films(20_000, seed=999)
    costs = CostConfig()

    def cost(threshold: float) -> float:
        decided = new >= threshold
        return float(expected_cost(decided[ill].mean(), (~decided[~ill]).mean(), 0.7, costs))

    chosen, plain = [], []
    for seed in range(60):
        probability, positive = _films(200, seed)
        chosen.append(cost(_points(probability, positive, costs)["cost"].threshold))
        plain.append(cost(cheapest(threshold_table(positive, probability), 0.7, costs)["threshold"]))
    assert np.mean(chosen) < 0.97 * np.mean(plain)


def test_dearer_misses_lower_the_threshold() -> None:
    probability, positive = _films(600)
    thresholds = [
        _points(probability, positive, CostConfig(missed_pneumonia=ratio, prevalence=0.3))["cost"].threshold
        for ratio in (0.2, 1, 10, 100)
    ]
    assert thresholds == sorted(thresholds, reverse=True)
    assert thresholds[0] > 3 * thresholds[-1]


def test_rarer_pneumonia_raises_the_threshold() -> None:
    probability, positive = _films(600)
    rare, common = (
        _points(probability, positive, CostConfig(prevalence=p))["cost"].threshold for p in (0.02, 0.7)
    )
    assert rare > common


def test_a_single_value_still_gives_points() -> None:
    for point in choose_operating_points(np.full(4, 0.5), np.array([True, False, True, False])):
        assert point.threshold != 0.5
        assert point.sensitivity in (0.0, 1.0)


def test_the_names_are_in_order_where_both_demands_can_be_met() -> None:
    for seed in range(30):
        probability, positive = _films(150, seed, gap=4.0)
        points = _points(probability, positive)
        thresholds = [points[name].threshold for name in ("screening", "balanced", "rule-in")]
        assert thresholds == sorted(thresholds)
        assert points["screening"].sensitivity >= 0.98
        assert points["rule-in"].specificity >= 0.98


def test_what_an_answer_is_worth_at_a_prevalence() -> None:
    positive = np.arange(300) < 200
    point = OperatingPoint("balanced", 0.5, sensitivity=0.9, specificity=0.8, n=300)
    (stated,) = describe_operating_points([point], positive, 0.1)
    rows = {row["prevalence"]: row for row in stated["predictive_values"]}
    assert [(key, row["what"]) for key, row in rows.items()] == [
        (0.1, "stated"), (0.05, "example"), (0.2, "example"), (0.5, "example"),
    ]  # fmt: skip
    assert rows[0.1]["ppv"]["value"] == pytest.approx(0.09 / (0.09 + 0.18))
    assert rows[0.1]["npv"]["value"] == pytest.approx(0.72 / (0.72 + 0.01))
    assert rows[0.1]["ppv"]["low"] < rows[0.1]["ppv"]["value"] < rows[0.1]["ppv"]["high"]
    low, high = wilson(180, 200)
    assert stated["intervals"]["sensitivity"]["low"] == low
    assert stated["intervals"]["sensitivity"]["high"] == high
    (own,) = describe_operating_points([point], positive)
    assert own["predictive_values"][0]["prevalence"] == pytest.approx(2 / 3)
    assert own["predictive_values"][0]["what"] == "that of the images"
    (never,) = describe_operating_points([replace(point, sensitivity=0.0, specificity=1.0)], positive)
    assert never["predictive_values"][0]["ppv"] is None


def test_one_class_is_refused() -> None:
    with pytest.raises(InputError, match="both classes"):
        choose_operating_points(np.array([0.2, 0.3]), np.array([True, True]))
