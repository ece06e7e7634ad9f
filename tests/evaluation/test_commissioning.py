"""A site's figures come from images that did not fit them, and the verdict follows the intervals."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Verdict
from pneumoscope.evaluation.commissioning import (
    CommissionConfig,
    LocalFilms,
    commission,
    compare,
    fit_local,
    missing_films,
)
from pneumoscope.evaluation.intervals import wilson
from tests.tiny_bundle import document

CONFIG = CommissionConfig(prevalence=0.2, resamples=200)
DOCUMENT = {**document(), "id": "tiny@000000000000"}


def films(count, separation=6.0, shift=0.0, seed=0, refused=0):
    """Half of the images are ill; log-odds of the right answer are ``separation`` apart."""
    rng = np.random.default_rng(seed)
    positive = np.arange(count) % 2 == 0
    x = separation * (positive - 0.5) + rng.normal(size=count) + shift
    verdicts = [Verdict.REFUSE] * refused + [Verdict.ANSWER] * (count - refused)
    return LocalFilms(
        1 / (1 + np.exp(-x)), positive, tuple(f"p{n // 2}-{n % 2}" for n in range(count)), tuple(verdicts)
    )


def test_a_shifted_site_is_brought_back_and_moved_to_its_prevalence():
    local = films(
        2000, separation=2.0, shift=3.0
    )  # log-odds are x - 3 here, with slope 2: an exact logistic model
    line = fit_local(local, 0.5)
    assert line["slope"] == pytest.approx(2, abs=0.25)
    assert line["offset"] == pytest.approx(-6, abs=0.8)
    rare = fit_local(local, 0.2)
    assert rare["slope"] == line["slope"]
    assert rare["offset"] - line["offset"] == pytest.approx(np.log(0.25))


def test_a_handful_of_films_keeps_the_slope_near_one():
    assert 0.5 < fit_local(films(8), 0.5)["slope"] < 2.5


def test_a_good_network_goes():
    result = commission(films(400), DOCUMENT, CONFIG)
    assert (result["verdict"], result["reasons"]) == ("GO", [])
    assert result["figures"]["roc_auc"]["value"] == pytest.approx(
        roc_auc_score(films(400).positive, films(400).probability)
    )
    assert result["figures"]["sensitivity"]["n"] == 200
    # Of those examined here 20 % are ill: so much is the mean probability, weighted to that.
    assert result["figures"]["mean_probability"] == pytest.approx(0.2, abs=0.02)


def test_a_useless_network_does_not_and_says_why():
    result = commission(films(400, separation=0.2), DOCUMENT, CONFIG)
    assert result["verdict"] == "NO-GO"
    assert any(reason.startswith("AUC") and "misses" in reason for reason in result["reasons"])


def test_few_films_are_a_reason_for_caution():
    result = commission(films(24), DOCUMENT, CONFIG)
    assert result["verdict"] == "CAUTION"
    rarer = [check for check in result["checks"] if (check["value"], check["limit"]) == (12, 30)]
    assert [check["verdict"] for check in rarer] == ["CAUTION"]
    assert result["missing"]["with pneumonia"] > 0


def test_refused_films_count_and_are_not_measured():
    result = commission(films(100, refused=40), DOCUMENT, CONFIG)
    assert result["refused"]["value"] == 0.4
    assert result["figures"]["sensitivity"]["n"] == 30
    assert result["verdict"] == "NO-GO"


def test_figures_are_not_of_the_films_that_fitted_them():
    flattering, honest = [], []
    for seed in range(8):  # a network that knows nothing: sensitivity and specificity add up to 1
        result = commission(films(60, separation=0.0, seed=seed), DOCUMENT, CONFIG)
        points = {point["name"]: point for point in result["changed"]["operating_points"]}
        flattering.append(points["balanced"]["sensitivity"] + points["balanced"]["specificity"])
        honest.append(result["figures"]["sensitivity"]["value"] + result["figures"]["specificity"]["value"])
    assert np.mean(flattering) > 1.05
    assert np.mean(honest) < np.mean(flattering)


def test_two_lines_become_one():
    first = {"slope": 2.0, "offset": 1.0}
    before = {**DOCUMENT, "calibration": {**DOCUMENT["calibration"], "local": first}}
    local = films(200)
    again = commission(local, before, CONFIG)
    line, together = again["local"], again["changed"]["calibration"]["local"]
    assert together["slope"] == pytest.approx(line["slope"] * 2)
    assert together["offset"] == pytest.approx(line["slope"] * 1 + line["offset"])
    assert together["prevalence"] == 0.2


def test_missing_films_make_the_interval_narrow_enough():
    more = missing_films(0.9, 30, 0.1)
    n = 30 + more
    low, high = wilson(round(0.9 * n), n)
    assert high - low <= 0.1
    low, high = wilson(round(0.9 * (n - 1)), n - 1)
    assert high - low > 0.1
    assert missing_films(0.9, 5000, 0.1) == 0


def test_comparison_is_a_z_test_of_two_areas():
    half = 1.959964 * 0.01
    local = {"value": 0.90, "low": 0.90 - half, "high": 0.90 + half}
    card = {"roc_auc": {"value": 0.93, "low": 0.93 - half, "high": 0.93 + half}}
    found = compare(local, card)
    assert found["difference"] == pytest.approx(-0.03)
    assert found["p_value"] == pytest.approx(0.0339, abs=2e-4)  # z = 0.03 / (0.01 * sqrt 2) = 2.1213
    assert compare(local, {}) is None


def test_one_class_alone_is_refused():
    one = films(20)
    with pytest.raises(InputError, match="0 patients without pneumonia"):
        commission(
            LocalFilms(one.probability, np.ones(20, bool), one.patients, one.verdicts), DOCUMENT, CONFIG
        )
