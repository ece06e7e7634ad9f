"""A bundle with a head of a site: the same answers everywhere, written, checked, explained and taken back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pneumoscope.core.errors import BundleError, ConfigError, LeakageError
from pneumoscope.core.files import read_json
from pneumoscope.core.records import Decision, Etiology, Task
from pneumoscope.evaluation.adaptation import HEAD, Adaptation, Fit
from pneumoscope.evaluation.commissioning import (
    CommissionConfig,
    commission,
    commissioned_arrays,
    commissioned_document,
    plain,
    rolled_back_arrays,
    rolled_back_document,
)
from pneumoscope.evaluation.scoring import check_leakage, film_key, patient_key
from pneumoscope.evaluation.site_gate import site_ages
from pneumoscope.imaging.session import run_session
from pneumoscope.inference.bundle import MODEL, Bundle, load_bundle, write_bundle
from pneumoscope.inference.explanation import class_activation
from pneumoscope.inference.pipeline import examine
from pneumoscope.inference.prediction import calibrated_probabilities, pneumonia_log_odds, run_network
from pneumoscope.learning.quantisation import quantise
from pneumoscope.workflows.adaptation import NO_CAUSE, head_arrays
from pneumoscope.workflows.commissioning import commission as run_commission
from pneumoscope.workflows.commissioning import rollback
from tests.evaluation.test_commissioning import films
from tests.learning.phantoms import phantom_dataset
from tests.tiny_bundle import SIZE, write_tiny_bundle

CONFIG = CommissionConfig(prevalence=0.3, resamples=100)
WEIGHT, OFFSET = np.array([3.0, -5.0]), 0.25


def batch(count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((count, 1, SIZE, SIZE)).astype(np.float32)


def adapted(first: Bundle, directory: Path) -> Bundle:
    """``first`` with a head of its site's own, as ``commission --adapt`` writes it."""
    local = films(100)
    answers = replace(plain(local, 0), head=True)
    result = commission(local, first.document, CONFIG, answers)
    fit = Fit(0.0, OFFSET, WEIGHT)
    arrays = head_arrays(
        Adaptation(f"{HEAD} 1", fit, local.probability, answers.scores, {}), len(first.task.classes)
    )
    keys = {"adaptation": {"method": "linear-head", "films": ["a" * 16], "patients": [patient_key("p1")]}}
    if first.task is Task.THREE_CLASS:
        keys["etiology"] = NO_CAUSE
    result["changed"] |= keys
    result["adaptation"] = {"candidate": f"{HEAD} 1"}
    document = commissioned_document(first.document, result, {"name": "s", "hash": "0" * 64}, tuple(arrays))
    new = commissioned_arrays(first.arrays, arrays, first.document.get("version", 1))
    return write_bundle(directory, first.directory / MODEL, document, new)


@pytest.mark.parametrize("task", list(Task))
def test_the_head_answers_and_its_log_odds_are_those_of_the_fit(task: Task, tmp_path: Path) -> None:
    bundle = load_bundle(adapted(write_tiny_bundle(tmp_path / "tiny", task), tmp_path / "new").directory)
    logits, features = run_network(bundle, batch())
    pooled = features.mean(axis=(2, 3), dtype=np.float64)
    assert pneumonia_log_odds(logits.astype(np.float64)) == pytest.approx(pooled @ WEIGHT + OFFSET, abs=1e-6)
    probability = calibrated_probabilities(logits, {**bundle.document["calibration"], "local": None})
    assert probability[:, 1:].sum(axis=1) == pytest.approx(
        1 / (1 + np.exp(-(pooled @ WEIGHT + OFFSET))), abs=1e-6
    )
    map_ = class_activation(features[0], bundle.arrays["head_weight"], 1)
    bias = bundle.arrays["head_bias"]
    assert map_.mean() + bias[1] - bias[0] == pytest.approx(logits[0, 1] - logits[0, 0], abs=1e-5)


def test_a_bundle_without_a_head_answers_bit_for_bit_as_its_network(tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "tiny")
    for ours, theirs in zip(run_network(bundle, batch()), run_session(bundle.session, batch()), strict=True):
        assert np.array_equal(ours, theirs)


def test_the_etiology_is_uncertain_on_every_image(tmp_path: Path) -> None:
    bundle = adapted(write_tiny_bundle(tmp_path / "tiny"), tmp_path / "new")
    picture = np.tile(np.linspace(0, 255, SIZE, dtype=np.uint8), (SIZE, 1))
    calibration = {"method": "temperature", "temperature": 0.1}
    document = {**bundle.document, "calibration": calibration, "selection": {}}
    prediction = examine(picture, Bundle(bundle.directory, document), force=True).prediction
    assert prediction is not None
    assert prediction.decision is Decision.POSITIVE  # log-odds 3 x 0.5 + 5 x 0.5 + 0.25
    assert prediction.etiology is Etiology.UNCERTAIN
    assert prediction.findings[-1].code == "both-causes-fit"
    for name in ("bacterial", "viral"):
        assert prediction.probabilities[name] == pytest.approx(prediction.probability / 2)


def test_a_rollback_restores_document_and_arrays_exactly(tmp_path: Path) -> None:
    first = write_tiny_bundle(tmp_path / "tiny")
    second = adapted(first, tmp_path / "v2")
    third = adapted(second, tmp_path / "v3")
    assert third.id == f"{first.id}+3"
    for later, earlier in ((third, second), (second, first)):
        document = rolled_back_document(later.document)
        arrays = rolled_back_arrays(later.arrays, later.document)
        back = write_bundle(tmp_path / "back", first.directory / MODEL, document, arrays)
        assert back.id == earlier.id
        assert {k: v for k, v in back.document.items() if k != "created"} == {
            k: v for k, v in earlier.document.items() if k != "created"
        }
        assert set(back.arrays) == set(earlier.arrays)
        for name, values in earlier.arrays.items():
            assert np.array_equal(back.arrays[name], values)
    assert rollback(second.directory)[1].id == first.id


def test_a_damaged_head_is_refused(tmp_path: Path) -> None:
    bundle = adapted(write_tiny_bundle(tmp_path / "tiny"), tmp_path / "new")
    lacking = {name: values for name, values in bundle.arrays.items() if name != "head_bias"}
    with pytest.raises(BundleError, match="head_bias"):
        write_bundle(tmp_path / "other", bundle.directory / MODEL, bundle.document, lacking)
    for wrong in ({"method": "magic"}, {**bundle.document["adaptation"], "films": "all"}):
        document = {**bundle.document, "adaptation": wrong}
        with pytest.raises(BundleError, match="adaptation"):
            write_bundle(tmp_path / "other", bundle.directory / MODEL, document, bundle.arrays)


def test_images_that_fitted_the_head_are_training_data(tmp_path: Path) -> None:
    site = phantom_dataset(tmp_path / "site", count=8)
    bundle = adapted(write_tiny_bundle(tmp_path / "tiny"), tmp_path / "new")
    keys = {**bundle.document["adaptation"], "films": [film_key(site.samples[0].sha256)]}
    leaks = check_leakage({**bundle.document, "adaptation": keys}, site.samples)
    assert (site.samples[0].path, "film") in leaks


def test_an_adapted_bundle_is_not_quantised(tmp_path: Path) -> None:
    bundle = adapted(write_tiny_bundle(tmp_path / "tiny"), tmp_path / "new")
    with pytest.raises(BundleError, match="belongs to a site"):
        quantise(bundle, None, tmp_path / "int8")  # type: ignore[arg-type]


def test_commission_adapts_and_writes_what_it_chose(tmp_path: Path) -> None:
    site = phantom_dataset(tmp_path / "site", count=60)
    bundle = write_tiny_bundle(tmp_path / "tiny", population={"age_years": [1, 5]})
    aged = replace(site, samples=tuple(replace(sample, age_years=40.0) for sample in site.samples))
    out = tmp_path / "out"
    more = [site.file(sample) for sample in site.samples[:5]]
    result = run_commission(
        bundle, aged, output=out, unlabelled=more, prevalence=0.3, adapt=True, resamples=100
    )
    found = read_json(out / "commissioning.json")["adaptation"]
    assert found["curve"][0]["images"] == 0
    assert found["unlabelled"] == 5
    assert 'id="adaptation"' in (out / "commissioning.html").read_text()
    assert "| labelled images |" in (out / "commissioning.md").read_text()
    new = load_bundle(result.bundle)
    assert new.document["history"][-1]["adaptation"] == found["candidate"]
    assert found["candidate"] != "unchanged"  # the tiny network's answers are badly calibrated here
    assert new.usual_ages == (40, 40)
    assert new.document["etiology"] == NO_CAUSE
    assert new.document["gate"]["n"] < 60
    assert new.document["validation"]["roc_auc"] == result.document["figures"]["roc_auc"]
    assert rollback(result.bundle)[1].document["gate"] == bundle.document["gate"]


def test_unlabelled_images_without_an_adaptation_and_leaked_ones_are_refused(tmp_path: Path) -> None:
    site = phantom_dataset(tmp_path / "site", count=40)
    file = site.file(site.samples[0])
    bundle = write_tiny_bundle(tmp_path / "tiny")
    with pytest.raises(ConfigError, match="--adapt"):
        run_commission(bundle, site, unlabelled=[file], prevalence=0.3)
    held = replace(site, samples=site.samples[1:])
    known = {**bundle.document["training"], "films": [film_key(site.samples[0].sha256)]}
    leaking = write_tiny_bundle(tmp_path / "other", training=known)
    with pytest.raises(LeakageError):
        run_commission(leaking, held, output=tmp_path / "o", unlabelled=[file], prevalence=0.3, adapt=True)


def test_ages_are_those_of_the_middle_of_the_site() -> None:
    assert site_ages([20.5, 30, 40, 50.2, None]) == [21, 50]
    assert site_ages([20.0, None, None]) is None
    assert site_ages([]) is None
