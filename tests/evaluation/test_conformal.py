"""Bounds of conformal sets: by hand, and whether they keep what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from pneumoscope.evaluation.selective import fit_etiology, fit_selection, lowest_held


def test_one_film_a_patient_is_split_conformal_by_hand() -> None:
    # 9 patients at 20 %: floor(0.2 x 10) = 2, so the bound is the second smallest value.
    values = np.array([0.9, 0.1, 0.8, 0.3, 0.7, 0.6, 0.5, 0.4, 0.2])
    assert lowest_held(values, np.arange(9), 0.2) == 0.2
    assert lowest_held(values, np.arange(9), 0.19) == 0.1
    assert lowest_held(values, np.arange(9), 0.3) == 0.3


def test_the_films_of_a_patient_share_one_vote() -> None:
    # Three patients at 50 %: images may weigh 0.5 x 4 - 1 = 1 below the bound; the first patient's weigh 1/2.
    values = np.array([0.1, 0.2, 0.3, 0.4])
    assert lowest_held(values, np.array(["a", "a", "b", "c"]), 0.5) == 0.3
    assert lowest_held(values, np.array(["a", "b", "b", "c"]), 0.5) == 0.2
    assert lowest_held(values, np.array(["a", "b", "c", "d"]), 0.5) == 0.2


def test_equal_values_stand_or_fall_together() -> None:
    assert lowest_held(np.array([0.1, 0.1, 0.5, 0.6]), np.arange(4), 0.4) == 0.1


@pytest.mark.parametrize("films", [1, 3])
def test_new_patients_of_each_class_lose_the_truth_as_rarely_as_promised(films: int) -> None:
    """Over 300 draws of 60 patients a class, whose images resemble each other."""
    rng = np.random.default_rng(0)
    lost = {"normal": [], "pneumonia": []}

    def draw(patients: int, gap: float) -> np.ndarray:
        return expit(gap + rng.normal(size=(patients, 1)) + 0.7 * rng.normal(size=(patients, films)))

    for _ in range(300):
        well, ill = draw(60, -1.5), draw(60, 1.0)
        values = np.append(well.ravel(), ill.ravel())
        positive = np.arange(len(values)) >= well.size
        names = [f"p{n // films}" for n in range(len(values))]
        found = fit_selection(values, positive, names, 0.1, 0.5)
        lost["normal"].append((draw(200, -1.5)[:, 0] > found["normal_to"]).mean())
        lost["pneumonia"].append((draw(200, 1.0)[:, 0] < found["pneumonia_from"]).mean())
    for shares in lost.values():
        assert 0.07 < np.mean(shares) < 0.105


def _perfect(patients: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    value = np.append(np.linspace(0.01, 0.1, patients), np.linspace(0.9, 0.99, patients))
    return value, np.arange(2 * patients) >= patients, [f"p{n}" for n in range(2 * patients)]


def test_too_few_patients_have_no_set_and_the_bundle_says_why() -> None:
    value, positive, names = _perfect(38)
    found = fit_selection(value, positive, names, 0.025, 0.5)
    assert found["absent"] == (
        "an error rate of 2.5 % needs 39 validation patients of each class; there are 38 normal and "
        "38 pneumonia"
    )
    assert found["patients"] == {"normal": 38, "pneumonia": 38}
    assert "pneumonia_from" not in found
    assert "absent" not in fit_selection(*_perfect(39), 0.025, 0.5)


def test_an_error_rate_of_zero_switches_it_off() -> None:
    assert "switched off" in fit_selection(*_perfect(100), 0, 0.5)["absent"]


def test_bounds_are_rounded_outwards() -> None:
    _, positive, names = _perfect(40)
    found = fit_selection(np.append(np.full(40, 1 / 3), np.full(40, 2 / 3)), positive, names, 0.1, 0.5)
    assert (found["normal_to"], found["pneumonia_from"]) == (0.333334, 0.666666)


@pytest.mark.parametrize(
    ("threshold", "bounds"), [(0.05, (0.05, 0.1)), (0.95, (0.9, 0.95)), (0.5, (0.9, 0.1))]
)
def test_the_doubtful_range_reaches_the_default_operating_point(
    threshold: float, bounds: tuple[float, float]
) -> None:
    found = fit_selection(*_perfect(40), 0.025, threshold)
    assert (found["pneumonia_from"], found["normal_to"]) == pytest.approx(bounds)


def test_the_etiology_has_bounds_of_its_own() -> None:
    share, bacterial, names = _perfect(10)
    found = fit_etiology(share, bacterial, names, 0.1)
    assert (found["bacterial_from"], found["viral_to"]) == (0.9, 0.1)
    assert found["patients"] == {"viral": 10, "bacterial": 10}
