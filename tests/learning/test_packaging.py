"""What goes from a fitted network into its bundle."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pneumoscope.core.records import Label, Task
from pneumoscope.evaluation.calibration import FITS
from pneumoscope.evaluation.decisions import Choices
from pneumoscope.evaluation.operating_points import CostConfig
from pneumoscope.evaluation.scoring import film_key
from pneumoscope.evaluation.selective import SelectionConfig
from pneumoscope.inference.bundle import load_bundle
from pneumoscope.learning import packaging
from pneumoscope.learning.batches import Films
from pneumoscope.learning.networks import NetworkConfig, create_network
from pneumoscope.learning.packaging import Provenance, package, scan

from ..data.films import sample
from .phantoms import small_run

LABELS = (Label.NORMAL, Label.BACTERIAL, Label.PNEUMONIA, Label.NORMAL)


@pytest.fixture(scope="module")
def films():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 32, 32)).astype(np.uint8)
    return Films(pixels, np.arange(40)[::-1].copy(), np.arange(40) % 2)


@pytest.fixture(scope="module")
def packaged(films, tmp_path_factory):
    """A binary network without a linear head on pooled features."""
    torch.manual_seed(0)
    config = small_run(network="cnn-small", task="binary", name="little", default_operating_point="screening")
    network = create_network(NetworkConfig(name="cnn-small", classes=2)).eval()
    samples = [sample(f"{n}.png", f"p{n // 2}", LABELS[n % 4]) for n in range(40)]
    provenance = Provenance(samples[:20], samples[20:], {"dataset_name": "made", "dataset_hash": "ab" * 32,
        "split": {"method": "fractions", "seed": 1}, "counts": {}}, "random")  # fmt: skip
    halves = [
        Films(films.pixels, films.rows[part], films.targets[part]) for part in (slice(20), slice(20, 40))
    ]
    directory = tmp_path_factory.mktemp("bundle") / "little"
    return *package(
        network, config, tuple(scan(network, half) for half in halves), provenance, directory
    ), directory


def test_a_scan_gives_logits_and_pooled_features_in_the_order_of_the_films(films):
    network = create_network(NetworkConfig(name="cnn-9")).train()
    found = scan(network, films, batch_size=7)
    assert not network.training
    with torch.inference_mode():
        batch = torch.from_numpy(films.pixels[films.rows])[:, None].float() / 255
        logits, features = network(batch)
    np.testing.assert_allclose(found.logits, logits.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.features, features.mean(dim=(2, 3)).numpy(), atol=1e-5)
    assert found.feature_shape == (256, 4, 4)


def test_a_network_without_a_pooled_head_is_explained_by_occlusion(packaged):
    bundle = packaged[0]
    assert bundle.document["explanation"] == {"method": "occlusion"}
    assert "head_weight" not in bundle.arrays


def test_nearest_films_are_kept_where_the_scan_names_its_films(films, monkeypatch):
    monkeypatch.setattr(packaging, "GATE_TRAINING_FILMS", 12)
    network = create_network(NetworkConfig(name="cnn-9", classes=2)).eval()
    found = scan(network, films)
    samples = [replace(sample(f"{n}.png", f"p{n}", LABELS[n % 2]), sha256=f"{n:02x}" * 32) for n in range(40)]
    choices = Choices(CostConfig(), "balanced", 0.05)
    named = replace(found, films=samples)
    without, answers = (
        packaging.fit_answers(Task.BINARY, choices, (one, found), samples, "ab") for one in (found, named)
    )
    assert "neighbours" not in without.document
    kept = answers.document["neighbours"]
    assert kept["films"] == [film_key(one.sha256) for one in samples]
    assert answers.arrays["neighbour_targets"].tolist() == [n % 2 for n in range(40)]
    assert answers.document["gate"] == without.document["gate"]
    assert answers.document["gate"]["components"] < 12  # of the first images alone


def test_the_document(packaged):
    bundle, table, evaluation, directory = packaged
    document = load_bundle(directory).document
    assert document == bundle.document
    assert document["id"].startswith("little@")
    assert (document["task"], document["classes"]) == ("binary", ["normal", "pneumonia"])
    assert bundle.default_operating_point.name == "screening"
    assert document["etiology"] == {}
    assert document["selection"]["absent"].startswith("an error rate of 2.5 % needs 39 validation patients")
    assert {row["what"] for row in document["operating_points"][0]["predictive_values"]} >= {"example"}
    assert document["gate"]["n"] == len(table) == 20
    assert document["validation"] == evaluation["estimates"]
    assert document["training"]["config"]["network"] == "cnn-small"
    assert table.task is Task.BINARY


def test_predictions_are_calibrated_on_the_films_that_they_are_of(packaged):
    _, table, _, _ = packaged
    assert table.probabilities.sum(axis=1) == pytest.approx(1)
    # Calibrated probabilities have the mean of the truth; these networks know nothing, so all are near it.
    assert table.probability.mean() == pytest.approx(table.positive.mean(), abs=0.15)


def test_validation_patients_bound_answers_and_etiologies():
    rng = np.random.default_rng(0)
    targets = np.arange(240) % 3
    logits = (rng.normal(size=(240, 3)) + 2.5 * np.eye(3)[targets]).astype(np.float32)
    found = packaging.Scan(logits, rng.normal(size=(240, 4)).astype(np.float32), (4, 1, 1))
    labels = (Label.NORMAL, Label.BACTERIAL, Label.VIRAL)
    samples = [sample(f"{n}.png", f"p{n}", labels[targets[n]]) for n in range(240)]
    choices = Choices(CostConfig(), "balanced", 0.05, SelectionConfig(error_rate=0.05))
    answers = packaging.fit_answers(Task.THREE_CLASS, choices, (found, found), samples, "ab")
    selection, etiology = answers.document["selection"], answers.document["etiology"]
    assert selection["patients"] == {"normal": 80, "pneumonia": 160}
    assert etiology["patients"] == {"viral": 80, "bacterial": 80}
    assert (
        0 < etiology["viral_to"] < 0.5 < etiology["bacterial_from"] < 1
    )  # told apart so well that none fits
    assert {one["method"] for one in answers.document["calibration"]["candidates"]} == set(FITS)
    assert answers.evaluation["selection"]["error_rate"] == 0.05
    assert answers.table.bounds is not None
