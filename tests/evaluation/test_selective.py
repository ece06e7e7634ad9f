"""What abstention buys, on tables small enough to count by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pneumoscope.evaluation.metrics import aurc_statistic, share_statistic
from pneumoscope.evaluation.predictions import concatenate, read_predictions, write_predictions
from pneumoscope.evaluation.selective import SELECTIVE_TITLES, risk_coverage, selective_report
from pneumoscope.inference.selection import Bounds

from .films import binary_table, draw_table

BOUNDS = Bounds(threshold=0.5, error_rate=0.025, pneumonia_from=0.3, normal_to=0.7)


def _with(table, bounds: Bounds = BOUNDS):
    return replace(table, bounds=np.tile(np.array(bounds, dtype=float), (len(table), 1)))


def _table():
    #              miss  doubt  found false  clear  clear  doubt
    probability = [0.10, 0.60, 0.90, 0.95, 0.20, 0.05, 0.40]
    return binary_table(probability, [True, True, True, False, False, False, False], list("aabcdde"))


def test_counts_and_shares_by_hand() -> None:
    report = selective_report(_with(_table()))
    assert report["counts"] == {"positive": 2, "negative": 3, "abstained": 2}
    assert (report["error_rate"], report["etiology_error_rate"], report["own_points"]) == (0.025, None, True)
    values = {name: (found["value"], found["n"]) for name, found in report["estimates"].items()}
    assert values["answered"] == (pytest.approx(5 / 7), 7)
    assert values["answered_normal"] == (3 / 4, 4)
    assert values["answered_pneumonia"] == (pytest.approx(2 / 3), 3)
    assert values["error_all"] == (pytest.approx(2 / 7), 7)
    assert values["error_answered"] == (2 / 5, 5)
    assert values["missed_answered"] == (1 / 2, 2)
    assert values["false_alarms_answered"] == (pytest.approx(1 / 3), 3)
    # Patient a has two images with pneumonia, one of which lacks it: half a vote of two.
    assert values["held_pneumonia"] == (3 / 4, 2)
    assert values["held_normal"] == (pytest.approx(2 / 3), 3)
    assert list(values) == [name for name in SELECTIVE_TITLES if name in values]


def test_another_operating_point() -> None:
    report = selective_report(_with(_table()), 0.15)
    assert report["counts"] == {"positive": 5, "negative": 2, "abstained": 0}
    assert report["own_points"] is False


def test_bundles_that_never_abstain_have_no_report() -> None:
    assert selective_report(_table()) is None
    assert selective_report(_with(_table(), Bounds(threshold=0.5))) is None


def test_etiologies_of_films_that_are_rightly_positive() -> None:
    bounds = BOUNDS._replace(etiology_error_rate=0.15, bacterial_from=0.3, viral_to=0.6)
    table = _with(draw_table(300), bounds)
    report = selective_report(table)["estimates"]
    share = table.probabilities[:, 1] / table.probabilities[:, 1:].sum(axis=1)
    asked = (table.probability > bounds.normal_to) & table.positive
    named = (share > 0.6) | (share < 0.3)
    right = (share >= 0.5) == (table.targets == 1)
    assert report["etiology_answered"]["value"] == pytest.approx(named[asked].mean())
    assert report["etiology_answered"]["n"] == asked.sum()
    assert report["etiology_accuracy_answered"]["value"] == pytest.approx(right[asked & named].mean())
    assert report["etiology_accuracy_all"]["value"] == pytest.approx(right[asked].mean())
    assert report["held_viral"]["low"] < report["held_viral"]["value"] < report["held_viral"]["high"]


def test_the_risk_coverage_curve_by_hand() -> None:
    confidence, wrong = np.array([3.0, 2.0, 2.0, 1.0]), np.array([False, True, False, True])
    curve = risk_coverage(confidence, wrong)
    assert curve == {"coverage": [0.25, 0.75, 1.0], "risk": [0.0, pytest.approx(1 / 3), 0.5]}
    area = aurc_statistic(confidence, wrong)
    assert area(np.ones((1, 4)))[0] == pytest.approx((0 + 2 / 3 + 0.5) / 4)
    # Drawn twice is the same as being there twice.
    twice = aurc_statistic(np.append(confidence, 3.0), np.append(wrong, False))(np.ones((1, 5)))
    assert area(np.array([[2.0, 1, 1, 1]])) == pytest.approx(twice)


def test_a_share_of_weight() -> None:
    statistic = share_statistic(np.array([True, False, True]), np.array([0.5, 0.5, 0.0]))
    assert statistic(np.array([[1.0, 1, 1], [3, 1, 9]])).tolist() == [0.5, 0.75]


def test_bounds_survive_the_csv_and_pooling(tmp_path: Path) -> None:
    table = _with(
        draw_table(90), BOUNDS._replace(etiology_error_rate=0.1, bacterial_from=1 / 3, viral_to=0.7)
    )
    parts = [table.select(np.arange(90) < 30), replace(table.select(np.arange(90) >= 30), bounds=None)]
    pooled = concatenate(parts)
    write_predictions(tmp_path / "p.csv", pooled)
    again = read_predictions(tmp_path / "p.csv")
    np.testing.assert_array_equal(again.bounds, pooled.bounds)
    assert np.isnan(again.bounds[30:]).all()
    report = selective_report(again)
    assert report == selective_report(pooled)
    assert report["error_rate"] is None  # not that of all images
    assert "held_normal" not in report["estimates"]


def test_a_binary_table_has_no_etiology() -> None:
    estimates = selective_report(_with(_table()))["estimates"]
    assert not [name for name in estimates if "etiology" in name or "viral" in name]
