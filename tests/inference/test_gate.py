"""The gate: distances against their closed form, thresholds against their promise, verdicts in words."""

import numpy as np
import pytest

from pneumoscope.core.records import Verdict
from pneumoscope.inference.gate import REFUSAL_MARGIN, feature_distances, fit_gate, judge
from tests.tiny_bundle import write_tiny_bundle

CHANNELS = 6
FILM = np.zeros((1, 64, 64), np.float32)


def draw(n, seed, spread=(5.0, 3.0, 0.1, 0.1, 0.1, 0.1)):
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(CHANNELS, CHANNELS)))[0]
    return rng.normal(size=(n, CHANNELS)) * spread @ rotation + 40.0


def unit(features):
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def test_distance_is_mahalanobis_under_probabilistic_pca():
    features = draw(500, 1)
    document, arrays = fit_gate(features, draw(200, 2))
    assert document["components"] == 2  # 5 and 3 hold more than 99 % of the variance
    w, variances = arrays["gate_components"], arrays["gate_variances"]
    noise = float(arrays["gate_residual_variance"])
    covariance = w.T @ np.diag(variances - noise) @ w + noise * np.eye(CHANNELS)
    new = draw(20, 3)
    centred = unit(new) - unit(features).mean(axis=0)
    squared = np.einsum("ni,ij,nj->n", centred, np.linalg.inv(covariance), centred)
    np.testing.assert_allclose(feature_distances(arrays, new), np.sqrt(squared / CHANNELS), rtol=1e-3)


def test_the_length_of_the_features_does_not_matter():
    _, arrays = fit_gate(draw(500, 1), draw(200, 2))
    new = draw(20, 3)
    np.testing.assert_allclose(feature_distances(arrays, 7 * new), feature_distances(arrays, new))
    assert np.isfinite(feature_distances(arrays, np.zeros((1, CHANNELS)))).all()


def test_usual_films_lie_near_one():
    _, arrays = fit_gate(draw(500, 1), draw(200, 2))
    assert np.square(feature_distances(arrays, draw(2000, 3))).mean() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_of_new_films_at_most_the_stated_share_is_beyond_the_threshold(rate):
    beyond = []
    for seed in range(20):
        document, arrays = fit_gate(draw(300, 3 * seed), draw(300, 3 * seed + 1), rate)
        distances = feature_distances(arrays, draw(1000, 3 * seed + 2))
        beyond.append((distances > document["warn_distance"]).mean())
    # The promise holds for the mean over draws; its standard error here is below a fifth of the rate.
    assert np.mean(beyond) == pytest.approx(rate, rel=0.4)
    assert document["refuse_distance"] == pytest.approx(REFUSAL_MARGIN * document["warn_distance"])


def test_a_small_validation_set_gives_its_largest_distance():
    validation = draw(30, 2)
    document, arrays = fit_gate(draw(500, 1), validation)
    assert document["warn_distance"] == feature_distances(arrays, validation).max()
    assert document["n"] == 30


def test_fits_fewer_films_than_channels_and_constant_channels():
    features = np.zeros((10, 40))
    features[:, :3] = np.random.default_rng(0).normal(size=(10, 3))
    document, arrays = fit_gate(features, features)
    assert np.isfinite(feature_distances(arrays, features)).all()
    assert 0 < document["warn_distance"] < document["refuse_distance"]


def test_refuses_too_few_films_and_impossible_rates():
    with pytest.raises(ValueError, match="2 training and 5 validation"):
        fit_gate(draw(2, 1), draw(5, 2))
    with pytest.raises(ValueError, match="false refusal rate 0"):
        fit_gate(draw(5, 1), draw(5, 2), 0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    gate = {"warn_distance": 1.0, "refuse_distance": 2.0, "false_refusal_rate": 0.01, "n": 10}
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny", gate=gate)


def at_distance(distance):
    """Pooled features (2,) of the tiny bundle, whose covariance is 0.02 in every direction."""
    angle = 2 * np.arcsin(distance * np.sqrt(0.02 * 2) / 2) - np.pi / 4
    return 3 * np.array([np.cos(angle), np.sin(angle)])


@pytest.mark.parametrize(
    ("distance", "verdict"), [(0.5, Verdict.ANSWER), (1.5, Verdict.WARN), (2.5, Verdict.REFUSE)]
)
def test_judges_by_distance(bundle, distance, verdict):
    answer = judge(bundle, (), FILM, at_distance(distance))
    assert answer.verdict is verdict
    assert answer.scores["feature_distance"] == pytest.approx(distance, rel=1e-5)
    assert len(answer.reasons) == (verdict is not Verdict.ANSWER)


def test_refuses_features_that_are_not_numbers(bundle):
    assert judge(bundle, (), FILM, np.array([np.nan, 0])).verdict is Verdict.REFUSE


def test_the_strictest_finding_decides_and_comes_first(bundle):
    findings = ((Verdict.WARN, "odd"), (Verdict.REFUSE, "wrong"))
    answer = judge(bundle, findings, FILM, at_distance(0))
    assert (answer.verdict, answer.reasons) == (Verdict.REFUSE, ("wrong", "odd"))
    assert judge(bundle, findings[:1], FILM, at_distance(0)).verdict is Verdict.WARN
