"""Figures of a stress test on made-up answers whose results can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from pneumoscope.core.records import Label, Verdict
from pneumoscope.evaluation.intervals import wilson
from pneumoscope.evaluation.stress import (
    StressConfig,
    StressTable,
    failures,
    film_rows,
    score_stress,
    stress_rows,
)
from pneumoscope.imaging.stress import STRESSES
from tests.evaluation.films import sample

CHOSEN = (STRESSES[0], STRESSES[1], STRESSES[-2], STRESSES[-1])  # two everyday ones, a harsher one, the probe


@pytest.fixture(scope="module")
def table() -> StressTable:
    """100 images, half ill; fold 0 decides at 0.5, fold 1 at 0.3. Unchanged, all but one are right."""
    ill = np.arange(100) % 2 == 1
    samples = tuple(sample(n, Label.VIRAL if ill[n] else Label.NORMAL) for n in range(100))
    thresholds = np.where(np.arange(100) < 60, 0.5, 0.3)
    unchanged = np.where(ill, 0.9, 0.1) + np.arange(100) / 10_000
    unchanged[1] = 0.45  # missed at 0.5
    worse = unchanged.copy()
    worse[3], worse[99] = 0.4, 0.4  # below fold 0's threshold; still above fold 1's
    worse[[5, 7]] = 0.2
    mirrored = 1 - unchanged
    columns = np.stack([unchanged, unchanged, worse, unchanged, mirrored], axis=1)
    verdicts = [[Verdict.ANSWER] * 5 for _ in range(100)]
    verdicts[0][2], verdicts[1][2] = Verdict.REFUSE, Verdict.WARN
    return StressTable(
        samples,
        ("unchanged", *(stress.name for stress in CHOSEN)),
        ("fold-0",) * 60 + ("fold-1",) * 40,
        thresholds,
        columns,
        tuple(map(tuple, verdicts)),
    )


@pytest.fixture(scope="module")
def document(table: StressTable) -> dict:
    return score_stress(table, StressConfig(resamples=200), CHOSEN)


def test_each_film_is_decided_at_its_own_folds_threshold(document: dict) -> None:
    unchanged, same, worse, *_ = document["stresses"]
    assert document["thresholds"] == {"fold-0": 0.5, "fold-1": 0.3}
    assert unchanged["estimates"]["accuracy"]["value"] == 0.99
    assert worse["estimates"]["accuracy"]["value"] == 0.96  # 3, 5 and 7 are lost; 99 is not
    assert worse["estimates"]["sensitivity"]["value"] == pytest.approx(46 / 50)
    assert worse["estimates"]["specificity"]["value"] == 1
    assert worse["estimates"]["flipped"]["value"] == 0.03
    assert same["estimates"]["flipped"]["value"] == 0
    assert "accuracy_change" not in unchanged["estimates"]


def test_the_change_is_paired_and_in_points(document: dict) -> None:
    change = document["stresses"][2]["estimates"]["accuracy_change"]
    assert change["value"] == pytest.approx(-3)
    assert -7 <= change["low"] <= -3 <= change["high"] <= 0
    assert "paired bootstrap" in change["method"]


def test_a_change_that_nothing_shows_still_has_an_interval(document: dict) -> None:
    change = document["stresses"][1]["estimates"]["accuracy_change"]
    assert change["value"] == 0
    assert (change["low"], change["high"]) == (-100 * wilson(0, 100)[1], 100 * wilson(0, 100)[1])


def test_gate_and_shift_are_counted(document: dict) -> None:
    worse = document["stresses"][2]
    assert worse["estimates"]["refused"]["value"] == 0.01
    assert worse["estimates"]["warned"]["value"] == 0.01
    moved = [0.9003 - 0.4, 0.9099 - 0.4, 0.9005 - 0.2, 0.9007 - 0.2]
    assert worse["mean_shift"] == pytest.approx(sum(moved) / 100)


def test_verdicts_follow_the_limits(table: StressTable, document: dict) -> None:
    assert [row["verdict"] for row in document["stresses"]] == [None, "pass", "fail", None, "fail"]
    assert failures(document) == ["Exposure -30 %", "Black box over the lungs"]
    assert document["stresses"][-1]["estimates"]["roc_auc"]["value"] < 0.01  # as telling as one near 1
    loose = score_stress(table, StressConfig(resamples=100, limit=3.0, probe_limit=1.0), CHOSEN)
    assert failures(loose) == []


def test_rows_of_the_tables(table: StressTable, document: dict) -> None:
    rows = stress_rows(document)
    assert rows[2]["accuracy_change"] == pytest.approx(-3)
    assert rows[2]["accuracy_change_low"] == document["stresses"][2]["estimates"]["accuracy_change"]["low"]
    assert rows[0]["accuracy_change"] is None
    film = film_rows(table)[1]
    assert (film["examiner"], film["threshold"], film["p_unchanged"]) == ("fold-0", 0.5, 0.45)
    assert film[f"gate_{CHOSEN[1].name}"] == "ANSWER WITH WARNING"


def test_films_of_one_class_have_no_auc(table: StressTable) -> None:
    ill = [index for index, one in enumerate(table.samples) if one.label is not Label.NORMAL]
    some = StressTable(
        tuple(table.samples[i] for i in ill),
        table.names,
        tuple(table.examiners[i] for i in ill),
        table.thresholds[ill],
        table.probabilities[ill],
        tuple(table.verdicts[i] for i in ill),
    )
    row = score_stress(some, StressConfig(resamples=100), CHOSEN)["stresses"][-1]
    assert "roc_auc" not in row["estimates"]
    assert "specificity" not in row["estimates"]
    assert row["verdict"] is None
