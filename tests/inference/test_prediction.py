"""Logits, calibrated probabilities and decisions, against numbers worked out by hand."""

import numpy as np
import pytest

from pneumoscope.core.errors import BundleError, ConfigError, PneumoscopeError
from pneumoscope.core.records import AnswerSet, Decision, Etiology, Task
from pneumoscope.inference.prediction import (
    BATCH,
    calibrated_log_odds,
    calibrated_probabilities,
    decide,
    run_network,
)
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
    with pytest.raises(BundleError, match="oracle"):
        calibrated_probabilities(logits, {"method": "oracle"})


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
    assert [finding.code for finding in prediction.findings] == (
        ["causes-equally-likely"] if etiology is Etiology.UNCERTAIN else []
    )


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


def test_a_curve_of_log_odds_by_hand() -> None:
    x = np.array([-2.0, 0.0, 3.0])
    assert calibrated_log_odds(x, {"slope": 2.0, "offset": 1.0}) == pytest.approx([-3, 1, 7])
    same = calibrated_log_odds(x, {"a": 1.0, "b": 1.0, "c": 0.0})
    assert same == pytest.approx(x)
    beta = calibrated_log_odds(np.array([0.0]), {"a": 2.0, "b": 0.5, "c": 1.0})
    assert beta == pytest.approx([1 + 1.5 * np.log(0.5)])
    line = calibrated_log_odds(np.array([-5.0, -1.0, 0.0, 1.0, 3.0]), {"x": [-1.0, 1.0], "y": [-4.0, 2.0]})
    assert line == pytest.approx([-8, -4, -1, 2, 4])


@pytest.mark.parametrize("method", ["platt", "beta", "isotonic"])
def test_curves_calibrate_pneumonia_and_its_cause_by_themselves(method):
    curves = {
        "platt": {"slope": 1.0, "offset": np.log(2)},
        "beta": {"a": 1.0, "b": 1.0, "c": np.log(2)},
        "isotonic": {"x": [0.0], "y": [np.log(2)]},
    }
    calibration = {"method": method, "pneumonia": curves[method], "etiology": curves[method]}
    row = calibrated_probabilities(np.log([[0.5, 0.25, 0.25]]), calibration)[0]
    assert row == pytest.approx([1 / 3, 4 / 9, 2 / 9])  # odds of pneumonia 1 -> 2, of bacterial 1 -> 2
    binary = calibrated_probabilities(np.log([[0.5, 0.5]]), calibration)[0]
    assert binary == pytest.approx([1 / 3, 2 / 3])
    huge = calibrated_probabilities(np.array([[1e4, -1e4, 0.0]]), calibration)
    np.testing.assert_allclose(huge, [[1, 0, 0]], atol=1e-12)


SETS = {
    "selection": {"error_rate": 0.025, "pneumonia_from": 0.5, "normal_to": 0.8},
    "etiology": {"error_rate": 0.15, "bacterial_from": 0.4, "viral_to": 0.7},
}


@pytest.fixture(scope="module")
def careful(tmp_path_factory):
    points = [
        {"name": "balanced", "threshold": 0.7},
        {"name": "screening", "threshold": 0.2},
        {"name": "rule-in", "threshold": 0.9},
    ]
    folder = tmp_path_factory.mktemp("careful")
    return write_tiny_bundle(folder / "tiny", operating_points=points, **SETS)


@pytest.mark.parametrize(
    ("odds", "point", "decision", "answers", "codes"),
    [
        ((0.9, 0.05, 0.05), None, Decision.NEGATIVE, ("normal",), []),
        (
            (0.4, 0.3, 0.3),
            None,
            Decision.ABSTAIN,
            ("normal", "pneumonia"),
            ["both-answers-fit"],
        ),
        ((0.1, 0.5, 0.4), None, Decision.POSITIVE, ("pneumonia",), ["both-causes-fit"]),
        (
            (0.7, 0.2, 0.1),
            "screening",
            Decision.POSITIVE,
            ("normal",),
            ["low-threshold-only", "both-causes-fit"],
        ),
        ((0.15, 0.5, 0.35), "rule-in", Decision.ABSTAIN, ("pneumonia",), ["normal-excluded"]),
    ],
)
def test_a_film_that_fits_both_answers_is_abstained(careful, odds, point, decision, answers, codes):
    prediction = decide(careful, np.log(odds), point)
    assert prediction.decision is decision
    assert prediction.answer_set == AnswerSet(answers, 0.025)
    assert [finding.code for finding in prediction.findings] == codes
    assert prediction.probability == pytest.approx(1 - odds[0])
    assert (prediction.etiology is None) is (decision is not Decision.POSITIVE)


@pytest.mark.parametrize(
    ("bacterial", "etiology", "causes"),
    [
        (0.8, Etiology.BACTERIAL, ("bacterial",)),
        (0.3, Etiology.VIRAL, ("viral",)),
        (0.6, Etiology.UNCERTAIN, ("viral", "bacterial")),
    ],
)
def test_the_etiology_is_named_where_its_set_holds_one(careful, bacterial, etiology, causes):
    prediction = decide(careful, np.log([0.05, 0.95 * bacterial, 0.95 * (1 - bacterial)]))
    assert (prediction.etiology, prediction.etiology_set) == (etiology, AnswerSet(causes, 0.15))


def test_an_older_bundle_answers_every_film(bundle):
    prediction = decide(bundle, np.log([0.35, 0.60, 0.05]))
    assert (prediction.decision, prediction.answer_set) == (Decision.NEGATIVE, None)


def test_without_bounds_the_likelier_etiology_is_named(tmp_path):
    named = write_tiny_bundle(tmp_path / "tiny", etiology={"error_rate": 0.15, "absent": "too few"})
    prediction = decide(named, np.log([0.1, 0.46, 0.44]))
    assert (prediction.etiology, prediction.etiology_set, prediction.findings) == (
        Etiology.BACTERIAL,
        None,
        (),
    )
