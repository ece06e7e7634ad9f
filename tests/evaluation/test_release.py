"""The verdict of a release check, with exact numbers on made-up predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Label, Verdict
from pneumoscope.evaluation.comparison import auc_covariance, delong_test
from pneumoscope.evaluation.intervals import wilson
from pneumoscope.evaluation.release import (
    Pair,
    ReleaseConfig,
    ViewKind,
    ViewName,
    Vote,
    conclude,
    judge,
    pair,
    share_changed,
    stress_views,
    worst_of,
)
from pneumoscope.evaluation.stress import StressTable
from pneumoscope.imaging.stress import STRESSES
from tests.evaluation.films import binary_table, draw_table, sample

CONFIG = ReleaseConfig()
SHIFTED = ViewName("external-x", "External: x", ViewKind.EXTERNAL)
FOLD = ViewName("fold", "Ordinary fold", ViewKind.FOLD)
ILL = np.arange(40) >= 20
RIGHT = np.linspace(0.01, 0.99, 40)
"""20 normal images below 20 with pneumonia, each of a patient of its own: AUC 1."""

BAD = RIGHT.copy()
BAD[30:] = np.linspace(0.001, 0.009, 10)
"""Half of the images with pneumonia are below all normal ones: AUC 0.5."""


def answers(candidate: np.ndarray, plain: np.ndarray) -> Pair:
    return Pair(ILL, tuple(f"patient-{n}" for n in range(40)), candidate, plain)


def test_worse_beyond_the_interval_is_not_released() -> None:
    view = judge(SHIFTED, answers(BAD, RIGHT), CONFIG)
    assert (view.films, view.patients, view.ill) == (40, 40, 20)
    assert view.candidate["roc_auc"].value == 0.5
    assert view.plain["roc_auc"].value == 1.0
    assert view.difference is not None
    assert view.difference.value == -0.5
    assert view.difference.low < -0.5 < view.difference.high < 0
    assert view.vote is Vote.WORSE
    assert view.too_few, "a wide interval says so, and still refuses"
    assert view.candidate["accuracy"].value == 30 / 40
    # 98 % of 20 images are all of them: the lowest one with pneumonia lies below every normal image.
    assert view.candidate["specificity"].value == 0.0
    assert view.plain["specificity"].value == 1.0
    found = conclude([view])
    assert not found.released
    assert found.worse == ("external-x",)
    assert found.to_dict()["verdict"] == "not released"


@pytest.mark.parametrize("kind", [ViewKind.FOLD, ViewKind.CLUSTER, ViewKind.CONTRARY])
def test_a_view_that_pays_for_shortcuts_has_no_vote(kind) -> None:
    fold = judge(replace(FOLD, kind=kind), answers(BAD, RIGHT), CONFIG)
    assert fold.difference is not None
    assert fold.difference.high < 0
    assert fold.vote is Vote.NONE
    good = judge(SHIFTED, answers(RIGHT, BAD), CONFIG)
    assert good.vote is Vote.NOT_WORSE
    found = conclude([fold, good])
    assert found.released
    assert (found.worse, found.voted) == ((), 1)
    assert not conclude([fold]).released, "a check in which nothing has voted releases nothing"


def test_one_worse_view_outweighs_all_others() -> None:
    better = judge(SHIFTED, answers(RIGHT, BAD), CONFIG)
    worse = judge(ViewName("framing", "Framing", ViewKind.FRAMING), answers(BAD, RIGHT), CONFIG)
    assert conclude([better, better, worse]).worse == ("framing",)


def test_a_difference_within_the_interval_is_not_worse() -> None:
    one = RIGHT.copy()
    one[20] = 0.005  # one image of 20 with pneumonia below all 20 normal ones
    view = judge(SHIFTED, answers(one, RIGHT), CONFIG)
    assert view.difference is not None
    assert view.difference.value == pytest.approx(-20 / 400)
    assert view.difference.low < -0.05
    assert view.difference.high == 0.0, "in a third of the draws the image is missing"
    assert view.vote is Vote.NOT_WORSE


def test_equal_answers_keep_an_open_interval() -> None:
    view = judge(SHIFTED, answers(BAD, BAD), CONFIG)
    end = wilson(0, 20)[1]
    assert view.difference is not None
    assert (view.difference.value, view.difference.low, view.difference.high) == (0.0, -end, end)
    assert view.vote is Vote.NOT_WORSE
    assert view.too_few
    assert not judge(SHIFTED, answers(BAD, BAD), ReleaseConfig(wide=0.5)).too_few


def test_the_interval_agrees_with_delong() -> None:
    first, second = draw_table(600, skill=1.0), draw_table(600, skill=1.2)
    found = judge(SHIFTED, pair(first, second), CONFIG).difference
    areas = auc_covariance(
        first.positive, np.stack([first.probability, second.probability]), first.patient_ids
    )
    test = delong_test(*areas)
    assert found is not None
    assert found.value == pytest.approx(test.difference)
    assert (found.low, found.high) == pytest.approx((test.low, test.high), abs=0.004)


def test_too_few_patients_are_not_measured() -> None:
    lonely = Pair(np.array([True, False, False]), ("a", "b", "c"), RIGHT[:3], RIGHT[:3])
    view = judge(SHIFTED, lonely, CONFIG)
    assert view.vote is Vote.NOT_MEASURED
    assert (view.difference, view.candidate) == (None, {})
    found = conclude([view])
    assert (found.released, found.not_measured) == (False, ("external-x",))


def test_answers_are_paired_by_image_whatever_the_order() -> None:
    first = binary_table([0.1, 0.4, 0.8], [False, True, True])
    found = pair(first, first.select(np.array([2, 0, 1])))
    assert np.array_equal(found.candidate, found.plain)
    with pytest.raises(InputError, match="other images"):
        pair(first, first.select(np.array([0, 1])))
    other = replace(first, labels=(Label.PNEUMONIA, *first.labels[1:]))
    with pytest.raises(InputError, match="other images"):
        pair(first, other)


def made_up_stress(columns: dict[str, np.ndarray]) -> StressTable:
    samples = tuple(sample(n, Label.PNEUMONIA if ILL[n] else Label.NORMAL, f"p{n}") for n in range(40))
    names = ("unchanged", *(stress.name for stress in STRESSES))
    values = np.stack([columns.get(name, RIGHT) for name in names], axis=1)
    verdicts = ((Verdict.ANSWER,) * len(names),) * 40
    return StressTable(samples, names, ("fold",) * 40, np.full(40, 0.5), values, verdicts)


def test_the_worst_change_of_the_image_votes_and_the_probe_does_not() -> None:
    candidate = made_up_stress({"noise": BAD, "black-box": BAD, "blur": 1 - BAD})
    plain = made_up_stress({"blur": 1 - BAD})
    views = stress_views(candidate, plain, CONFIG)
    assert {view.name.key for view in views} == {f"stress-{s.name}" for s in STRESSES} - {"stress-black-box"}
    worst = worst_of(views)
    assert (worst.name.key, worst.vote) == ("stress-noise", Vote.WORSE)
    with pytest.raises(InputError, match="other images"):
        stress_views(candidate, replace(plain, samples=plain.samples[::-1]), CONFIG)


def test_shares_of_changed_decisions_are_paired() -> None:
    changed = np.arange(40) < 10
    patients = [f"p{n}" for n in range(40)]
    found = share_changed(changed, ~changed, patients, CONFIG)
    assert (found["candidate"].value, found["plain"].value, found["difference"].value) == (0.25, 0.75, -0.5)
    same = share_changed(changed, changed, patients, CONFIG)["difference"]
    assert (same.value, same.high) == (0.0, wilson(0, 40)[1])


def test_a_change_that_is_worse_for_sure_counts_before_one_that_is_only_lower() -> None:
    view = judge(SHIFTED, answers(RIGHT, RIGHT), CONFIG)
    assert view.difference is not None
    sure = replace(view, difference=replace(view.difference, value=-0.010, low=-0.015, high=-0.005))
    unsure = replace(view, difference=replace(view.difference, value=-0.011, low=-0.05, high=0.03))
    assert worst_of([unsure, sure]) is sure
