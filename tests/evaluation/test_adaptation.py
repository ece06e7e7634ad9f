"""An adaptation recovers what is there to find, and takes nothing that is not."""

import numpy as np
import pytest
from scipy.special import expit
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pneumoscope.core.errors import InputError
from pneumoscope.core.records import Verdict
from pneumoscope.evaluation.adaptation import (
    COMPONENTS,
    HEAD,
    RECALIBRATION,
    UNCHANGED,
    Nested,
    SiteImages,
    adapt,
    bundle_prior,
    choose,
    cross_fit,
    estimate_prevalence,
    fit_candidates,
    fit_heads,
    learning_curve,
)
from pneumoscope.evaluation.commissioning import (
    CommissionConfig,
    LocalFilms,
    commission,
    patient_folds,
    plain,
)
from pneumoscope.inference.prediction import log_odds
from tests.tiny_bundle import document

CONFIG = CommissionConfig(prevalence=0.3, resamples=200)


def site(count=160, answer=3.0, feature=0.0, shift=0.0, channels=60, prior=0.5, seed=0):
    """Two images a patient; today's log-odds are ``answer`` apart, the first feature is ``feature``."""
    rng = np.random.default_rng(seed)
    positive = np.arange(count) // 2 % 3 == 0
    x = answer * (positive - 0.5) + rng.normal(size=count) + shift
    features = rng.normal(size=(count, channels)) + 5
    features[:, 0] += feature * positive
    films = LocalFilms(
        expit(x), positive, tuple(f"p{n // 2}" for n in range(count)), (Verdict.ANSWER,) * count
    )
    return SiteImages(films, features, prior)


def test_expectation_maximisation_finds_the_share_of_pneumonia():
    rng = np.random.default_rng(0)
    for share, prior in ((0.1, 0.7), (0.4, 0.5), (0.8, 0.2)):
        ill = rng.random(20_000) < share
        # Scores of the two classes are normal and 2 apart: 2 x is their exact log likelihood ratio.
        x = 2 * (rng.normal(size=len(ill)) + np.where(ill, 1.0, -1.0))
        probability = expit(x + np.log(prior / (1 - prior)))
        found = estimate_prevalence(probability, prior)
        assert found == pytest.approx(share, abs=0.01)
        again = expit(log_odds(probability) + np.log(found / (1 - found)) - np.log(prior / (1 - prior)))
        assert again.mean() == pytest.approx(found, abs=1e-6)  # a step of the iteration stays where it is


def test_a_share_at_the_edge_is_never_0_or_1():
    assert estimate_prevalence(np.full(50, 0.01), 0.5) == 0.01
    assert estimate_prevalence(np.full(50, 0.99), 0.5) == 0.99


def test_a_head_is_the_pipeline_that_it_was_folded_from():
    images = site(feature=2.0, channels=90)
    x, y = images.features, images.films.positive
    for ridge, head in fit_heads(x, y).items():
        pipeline = make_pipeline(
            StandardScaler(),
            PCA(COMPONENTS, svd_solver="full"),
            LogisticRegression(C=1 / (ridge * x.shape[1]), solver="newton-cholesky", tol=1e-10),
        ).fit(x, y)
        new = site(seed=1, channels=90).features
        assert new @ head.weight + head.offset == pytest.approx(pipeline.decision_function(new), abs=1e-6)


def test_a_feature_that_does_not_vary_has_no_weight():
    images = site(feature=2.0)
    images.features[:, 5] = 1.0
    for head in fit_heads(images.features, images.films.positive).values():
        assert head.weight[5] == 0


def test_a_head_is_taken_where_the_features_know_more():
    found = adapt(site(answer=0.3, feature=4.0), resamples=200)
    assert found.head
    assert found.candidate.startswith(HEAD)
    before, after = (found.document["estimates"][when]["roc_auc"]["value"] for when in ("before", "after"))
    assert after > before + 0.2
    head = found.document["steps"][1]
    assert head["taken"]
    assert head["log_loss"]["low"] > 0


def test_a_line_is_taken_where_the_answers_are_shifted_and_the_order_stays():
    found = adapt(site(answer=4.0, shift=4.0), resamples=200)
    assert found.candidate == RECALIBRATION
    assert not found.head
    assert found.document["steps"][0]["roc_auc"] == {
        **found.document["steps"][0]["roc_auc"], "value": 0.0, "low": 0.0, "high": 0.0,
    }  # fmt: skip


def test_nothing_is_taken_on_noise():
    """Labels have nothing to do with features or answers, which are calibrated: a third is ill."""
    for seed in range(3):
        rng = np.random.default_rng(100 + seed)
        images = site(seed=seed)
        known = expit(rng.normal(scale=0.05, size=160) + np.log(0.5))
        films = LocalFilms(known, images.films.positive, images.films.patients, images.films.verdicts)
        found = adapt(SiteImages(films, images.features, 1 / 3), resamples=200, seed=seed)
        assert not found.head
        for step in found.document["steps"]:  # what is taken was better in its whole interval
            assert step["taken"] == (step["log_loss"]["low"] > 0 and step["roc_auc"]["value"] >= 0)
        before, after = (
            found.document["estimates"][when]["log_loss"]["value"] for when in ("before", "after")
        )
        assert after <= before


def test_no_patient_is_on_both_sides():
    images = site()
    keys = np.array(images.films.patients)
    for fold in Nested(images, 0).folds:
        assert not set(keys[fold.rows]) & set(keys[fold.held])
        for rows, held in patient_folds(images.films.take(fold.rows), 0):
            inner = keys[fold.rows]
            assert not set(inner[rows]) & set(inner[held])


def test_held_out_labels_change_nothing_that_is_said_of_their_images():
    images = site(feature=2.0)
    nested = Nested(images, 0)
    fold = nested.folds[0]
    positive = images.films.positive.copy()
    positive[fold.held] = ~positive[fold.held]
    other = SiteImages(
        LocalFilms(images.films.probability, positive, images.films.patients, images.films.verdicts),
        images.features,
        images.prior,
    )
    fits = fit_candidates(other.take(fold.rows))
    for name, answers in fold.outer.items():
        assert np.array_equal(fits[name].probability(other.take(fold.held)), answers)


def test_the_simplest_of_equals_is_chosen():
    images = site()
    found = cross_fit(images, 0)
    same = dict.fromkeys(found, found[UNCHANGED])
    assert choose(same, images.films.positive, heads=True) == UNCHANGED


def test_the_learning_curve_scores_images_that_were_not_drawn():
    curve = learning_curve(site(count=240, answer=1.0, feature=3.0), resamples=200)
    assert [row["images"] for row in curve] == [0, 25, 50, 100, 240]
    assert curve[0]["roc_auc"]["value"] == curve[0]["unchanged"]
    assert curve[1]["roc_auc"]["n"] <= 240 - 25
    assert curve[3]["roc_auc"]["value"] > curve[0]["roc_auc"]["value"]
    for row in curve:
        assert row["roc_auc"]["low"] <= row["roc_auc"]["value"] <= row["roc_auc"]["high"]


def test_too_few_patients_of_a_class_are_refused():
    with pytest.raises(InputError, match="4 patients with pneumonia are too few"):
        adapt(site(count=24))


def test_figures_of_a_head_are_of_images_that_did_not_fit_it():
    images = site(answer=0.3, feature=4.0)
    found = adapt(images, resamples=200)
    rows = np.arange(len(images.features))
    before = {**document(), "id": "tiny@000000000000"}
    result = commission(images.films, before, CONFIG, found.placed(images.films, rows))
    area = found.document["estimates"]["after"]["roc_auc"]["value"]
    assert result["figures"]["roc_auc"]["value"] == pytest.approx(area)
    assert result["figures"]["sensitivity"]["value"] > 0.8
    calibration = result["changed"]["calibration"]
    assert calibration["temperature"] == 1.0
    assert calibration["local"]["prevalence"] == 0.3


def test_unchanged_means_that_no_threshold_moves():
    images = site()
    before = {**document(), "id": "tiny@000000000000"}
    result = commission(images.films, before, CONFIG, plain(images.films, 0, "none"))
    assert result["changed"] == {key: before[key] for key in ("calibration", "operating_points")}
    decided = images.films.probability >= 0.7
    assert result["figures"]["sensitivity"]["value"] == decided[images.films.positive].mean()


def test_the_prior_of_a_bundle_is_that_of_its_site_or_of_its_validation():
    point = {"intervals": {"sensitivity": {"n": 30}, "specificity": {"n": 10}}}
    assert bundle_prior({"calibration": {}, "operating_points": [point]}) == 0.75
    local = {"local": {"prevalence": 0.2}}
    assert bundle_prior({"calibration": local, "operating_points": [point]}) == 0.2
    assert bundle_prior({"calibration": {}, "operating_points": [{}]}) is None
    assert "prior-shift" not in fit_candidates(site(prior=None))


def test_a_shift_of_the_prior_moves_every_log_odds_alike():
    images = site(answer=3.0, prior=0.5)
    shifted = fit_candidates(images)["prior-shift"]
    moved = log_odds(shifted.probability(images)) - log_odds(images.films.probability)
    assert moved == pytest.approx(moved[0], abs=1e-6)
    assert moved[0] < 0  # a third is ill, not a half
