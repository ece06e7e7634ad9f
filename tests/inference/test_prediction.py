"""Logits, calibrated probabilities and decisions, against numbers worked out by hand."""

import numpy as np
import pytest

from pneumoscope.core.errors import BundleError, ConfigError, PneumoscopeError
from pneumoscope.core.records import Decision, Etiology, Task
from pneumoscope.inference.prediction import BATCH, calibrated_probabilities, decide, run_network
from tests.tiny_bundle import CELLS, SIZE, write_tiny_bundle

PLAIN = {"method": "temperature", "temperature": 1.0}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def films(*means):
    return np.stack([np.full((1, SIZE, SIZE), mean, np.float32) for mean in means])


def test_run_network_gives_logits_and_features(bundle):
    logits, features = run_network(bundle, films(0.25, 0.75))
    np.testing.assert_allclose(logits, [[0, -3, -1], [0, 3, 1]], atol=1e-5)
    assert features.shape == (2, 2, CELLS, CELLS)
    np.testing.assert_allclose(features[1, 1], -0.75)


def test_a_large_batch_is_passed_in_parts(bundle):
    means = np.linspace(0, 1, 2 * BATCH + 3)
    logits, features = run_network(bundle, films(*means))
    np.testing.assert_allclose(logits[:, 1], 12 * (means - 0.5), atol=1e-5)
    assert len(features) == len(means)


def test_no_film_gives_empty_arrays(bundle):
    logits, features = run_network(bundle, np.empty((0, 1, SIZE, SIZE), np.float32))
    assert (logits.shape, features.shape) == ((0, 3), (0, 2, CELLS, CELLS))


def test_run_network_refuses_other_shapes_and_types(bundle):
    with pytest.raises(ValueError, match=f"expected .N, 1, {SIZE}, {SIZE}. float32"):
        run_network(bundle, np.zeros((1, 1, SIZE, SIZE + 1), np.float32))
    with pytest.raises(ValueError, match="float64"):
        run_network(bundle, np.zeros((1, 1, SIZE, SIZE)))


def test_a_logit_that_is_not_a_number_is_an_error(bundle):
    with pytest.raises(PneumoscopeError, match="not a finite number"):
        run_network(bundle, films(0.5, np.nan))


def test_probabilities_are_a_softmax_at_the_temperature():
    logits = np.log([[1.0, 2.0, 5.0]])
    np.testing.assert_allclose(calibrated_probabilities(logits, PLAIN), [[1 / 8, 2 / 8, 5 / 8]])
    warm = calibrated_probabilities(logits, {"method": "temperature", "temperature": 2.0})
    roots = np.sqrt([1.0, 2.0, 5.0])
    np.testing.assert_allclose(warm, [roots / roots.sum()])
    with pytest.raises(BundleError, match="isotonic"):
        calibrated_probabilities(logits, {"method": "isotonic"})


def test_probabilities_survive_huge_logits():
    np.testing.assert_allclose(calibrated_probabilities(np.array([[1e4, -1e4]]), PLAIN), [[1, 0]])


@pytest.mark.parametrize(
    ("odds", "decision", "etiology"),
    [
        ((0.31, 0.60, 0.09), Decision.NEGATIVE, None),
        ((0.29, 0.60, 0.11), Decision.POSITIVE, Etiology.BACTERIAL),
        ((0.20, 0.30, 0.50), Decision.POSITIVE, Etiology.VIRAL),
        ((0.20, 0.42, 0.38), Decision.POSITIVE, Etiology.UNCERTAIN),  # 0.525 and 0.475 differ by 0.05
    ],
)
def test_decisions(bundle, odds, decision, etiology):
    prediction = decide(bundle, np.log(odds))
    assert (prediction.decision, prediction.etiology) == (decision, etiology)
    assert prediction.probability == pytest.approx(1 - odds[0])
    assert prediction.probabilities == pytest.approx(dict(zip(Task.THREE_CLASS.classes, odds, strict=True)))
    assert prediction.bundle_id == bundle.id
    assert bool(prediction.reasons) is (etiology is Etiology.UNCERTAIN)


def test_the_threshold_itself_is_positive(tmp_path):
    points = [{"name": "half", "threshold": 0.5}]
    binary = write_tiny_bundle(
        tmp_path / "tiny", Task.BINARY, operating_points=points, default_operating_point="half"
    )
    prediction = decide(binary, np.zeros(2))
    assert (prediction.probability, prediction.decision) == (0.5, Decision.POSITIVE)
    assert prediction.etiology is None
    assert decide(binary, np.array([1e-6, 0])).decision is Decision.NEGATIVE


def test_another_operating_point_can_be_chosen(bundle):
    logits = np.log([0.35, 0.60, 0.05])
    assert decide(bundle, logits).decision is Decision.NEGATIVE
    prediction = decide(bundle, logits, "sensitive")
    assert (prediction.decision, prediction.operating_point.name) == (Decision.POSITIVE, "sensitive")
    with pytest.raises(ConfigError, match="lucky"):
        decide(bundle, logits, "lucky")


def test_a_bias_moves_probability_between_the_classes() -> None:
    calibration = {
        "method": "bias-corrected-temperature",
        "temperature": 2.0,
        "bias": [0.0, np.log(3), 0.0],
    }
    row = calibrated_probabilities(np.zeros((1, 3)), calibration)[0]
    assert row == pytest.approx([0.2, 0.6, 0.2])
