"""Paired tests against their definitions and hand-computed cases."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from pneumoscope.core.errors import InputError
from pneumoscope.evaluation.comparison import (
    Contestant,
    auc_covariance,
    compare_pairs,
    delong_test,
    holm,
    mcnemar_test,
    ranking,
)


def films(n: int = 120, rungs: int = 3, seed: int = 0):
    """Reference and correlated scores with ties (rounded to one digit)."""
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.6
    common = rng.normal(size=n) + 1.2 * positive
    scores = np.stack([common + rng.normal(scale=0.3 + k, size=n) for k in range(rungs)])
    return positive, np.round(scores, 1)


def kernel(scores, positive):
    """psi(X, Y) of every pair of a case and a control, straight from DeLong et al., equation 1."""
    cases, controls = scores[positive][:, None], scores[~positive][None, :]
    return (cases > controls) + 0.5 * (cases == controls)


def test_areas_are_those_of_scikit_learn():
    positive, scores = films()
    areas, _ = auc_covariance(positive, scores)
    np.testing.assert_allclose(areas, [roc_auc_score(positive, row) for row in scores], rtol=1e-12)


def test_the_covariance_is_delongs_by_definition():
    positive, scores = films()
    _, covariance = auc_covariance(positive, scores)
    psi = np.stack([kernel(row, positive) for row in scores])
    cases, controls = psi.mean(axis=2), psi.mean(axis=1)
    expected = np.cov(cases) / cases.shape[1] + np.cov(controls) / controls.shape[1]
    np.testing.assert_allclose(covariance, expected, rtol=1e-10)


def test_a_case_computed_by_hand():
    """Cases 3 and 1, controls 2 and 0: components (1, 1/2) and (1/2, 1), each of variance 1/8."""
    areas, covariance = auc_covariance(np.array([True, True, False, False]), np.array([[3.0, 1.0, 2.0, 0.0]]))
    assert areas[0] == 0.75
    assert covariance[0, 0] == pytest.approx(1 / 8 / 2 + 1 / 8 / 2)


def test_the_test_is_the_ratio_of_difference_and_error():
    positive, scores = films()
    areas, covariance = auc_covariance(positive, scores[:2])
    test = delong_test(areas, covariance)
    error = np.sqrt(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    assert test.difference == areas[0] - areas[1]
    assert test.p == pytest.approx(2 * (1 - norm.cdf(abs(test.difference) / error)))
    assert (test.high - test.low) / 2 == pytest.approx(1.959963984540054 * error)


def test_equal_scores_are_not_told_apart():
    positive, scores = films(rungs=1)
    test = delong_test(*auc_covariance(positive, np.repeat(scores, 2, axis=0)))
    assert (test.difference, test.p) == (0, 1)


def test_films_that_are_there_twice_add_nothing_when_they_share_a_patient():
    positive, scores = films()
    twice = np.repeat(np.arange(len(positive)), 2)
    patients = [f"patient-{number}" for number in twice]
    _, single = auc_covariance(positive, scores)
    _, clustered = auc_covariance(positive[twice], scores[:, twice], patients)
    _, naive = auc_covariance(positive[twice], scores[:, twice])
    np.testing.assert_allclose(clustered, single, rtol=1e-10)
    assert (np.diag(naive) < 0.55 * np.diag(single)).all()


def test_patients_with_both_kinds_of_film_follow_obuchowski():
    """Sums of components by patient, their variances and their covariance (1997, section 2)."""
    positive, scores = films(n=60, rungs=1, seed=3)
    patients = np.arange(60) // 3
    psi = kernel(scores[0], positive)
    area, m, n = psi.mean(), *psi.shape
    x = np.array([(psi.mean(axis=1) - area)[patients[positive] == p].sum() for p in range(20)])
    y = np.array([(psi.mean(axis=0) - area)[patients[~positive] == p].sum() for p in range(20)])
    with_cases, with_controls = len(set(patients[positive])), len(set(patients[~positive]))
    s10 = with_cases / ((with_cases - 1) * m) * (x**2).sum()
    s01 = with_controls / ((with_controls - 1) * n) * (y**2).sum()
    s11 = 20 / 19 * (x * y).sum()
    _, covariance = auc_covariance(positive, scores, patients.astype(str))
    assert covariance[0, 0] == pytest.approx(s10 / m + s01 / n + 2 * s11 / (m * n))


def test_one_patient_with_pneumonia_is_too_few():
    with pytest.raises(InputError, match="1 patients with pneumonia"):
        auc_covariance(
            np.array([True, True, False, False]), np.zeros((1, 4)), ["same", "same", "other", "another"]
        )


def test_mcnemar_tosses_a_coin_for_the_films_that_one_alone_got_right():
    """10 against 2: 2 (1 + 12 + 66) / 2^12."""
    first = np.repeat([True, False, True, False], [10, 2, 80, 8])
    second = np.repeat([False, True, True, False], [10, 2, 80, 8])
    test = mcnemar_test(first, second)
    assert test.difference == pytest.approx(0.08)
    assert test.p == pytest.approx(158 / 4096)
    # Bonett & Price: (11 - 3) / 102 +- z sqrt((14 / 102 - (8 / 102)^2) / 102)
    assert (test.low + test.high) / 2 == pytest.approx(8 / 102)
    assert (test.high - test.low) / 2 == pytest.approx(
        1.95996398 * np.sqrt((14 / 102 - (8 / 102) ** 2) / 102)
    )


def test_mcnemar_without_a_film_that_parts_them():
    same = np.array([True, False, True])
    assert mcnemar_test(same, same).p == 1


def test_holm_by_hand():
    """0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not fall below the one before."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm([0.6, 0.9]), [1.0, 1.0])


def test_pairs_carry_both_tests_corrected_over_all_pairs():
    positive, scores = films(n=300)
    contestants = [Contestant(name, row, row > 0.6) for name, row in zip("abc", scores, strict=True)]
    pairs = compare_pairs(positive, contestants)
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    np.testing.assert_allclose([pair.auc.p_corrected for pair in pairs], holm([pair.auc.p for pair in pairs]))
    np.testing.assert_allclose(
        [pair.accuracy.p_corrected for pair in pairs], holm([pair.accuracy.p for pair in pairs])
    )
    right = [(one.decided == positive).mean() for one in contestants]
    assert pairs[1].accuracy.difference == pytest.approx(right[0] - right[2])
    assert pairs[1].auc.p_corrected < 0.05, "noise of 0.3 and of 2.3 on 300 images"


def test_planned_comparisons_are_corrected_among_themselves():
    positive, scores = films(n=300)
    contestants = [Contestant(name, row, row > 0.6) for name, row in zip("abc", scores, strict=True)]
    (planned,) = compare_pairs(positive, contestants, couples=[("c", "a")])
    every = compare_pairs(positive, contestants)[1]
    assert (planned.first, planned.second) == ("c", "a")
    assert planned.auc.difference == pytest.approx(-every.auc.difference)
    assert planned.auc.p_corrected == planned.auc.p == pytest.approx(every.auc.p)


def test_one_contestant_has_no_pairs():
    positive, scores = films(rungs=1)
    assert compare_pairs(positive, [Contestant("alone", scores[0], scores[0] > 0)]) == ()


def test_no_difference_is_found_as_often_as_promised():
    """Of 400 pairs of equally good scores about 1 in 20 gives p < 0.05, within three standard errors."""
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        positive = np.arange(80) % 2 == 0
        scores = rng.normal(size=(2, 80)) + positive
        hits += delong_test(*auc_covariance(positive, scores)).p < 0.05
    assert 0.017 < hits / 400 < 0.083


def test_a_place_holds_the_best_and_all_that_are_tied_with_it():
    different = np.zeros((4, 4), dtype=bool)
    for i, j in ((0, 3), (1, 3), (1, 2)):
        different[i, j] = different[j, i] = True
    assert ranking([0.9, 0.95, 0.8, 0.7], different) == [[1, 0], [2, 3]]


def test_a_worse_figure_can_be_tied_while_a_better_one_is_not():
    """A wide interval ties; places go by the test, the order within them by the figure."""
    different = np.array([[False, True, False], [True, False, False], [False, False, False]])
    assert ranking([0.95, 0.9, 0.85], different) == [[0, 2], [1]]
