"""What goes from a fitted network into its bundle."""

import numpy as np
import pytest
import torch

from pneumoscope.core.records import Label, Task
from pneumoscope.inference.bundle import load_bundle
from pneumoscope.learning import packaging
from pneumoscope.learning.films import Films
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


def test_the_document(packaged):
    bundle, table, evaluation, directory = packaged
    document = load_bundle(directory).document
    assert document == bundle.document
    assert document["id"].startswith("little@")
    assert (document["task"], document["classes"]) == ("binary", ["normal", "pneumonia"])
    assert bundle.default_operating_point.name == "screening"
    assert document["etiology"] == {"margin": 0.0}
    assert document["gate"]["n"] == len(table) == 20
    assert document["validation"] == evaluation["estimates"]
    assert document["training"]["config"]["network"] == "cnn-small"
    assert table.task is Task.BINARY


def test_predictions_are_calibrated_on_the_films_that_they_are_of(packaged):
    _, table, _, _ = packaged
    assert table.probabilities.sum(axis=1) == pytest.approx(1)
    # Calibrated probabilities have the mean of the truth; these networks know nothing, so all are near it.
    assert table.probability.mean() == pytest.approx(table.positive.mean(), abs=0.15)


def test_the_etiology_margin_is_the_smallest_that_is_right_often_enough():
    targets = np.array([0] + [1] * 10 + [2] * 10)
    bacterial = np.array([0.5] + [0.9] * 8 + [0.44] * 2 + [0.1] * 8 + [0.56] * 2)
    probabilities = np.stack([np.full(21, 0.2), 0.8 * bacterial, 0.8 * (1 - bacterial)], axis=1)
    # Sixteen of twenty are right; the four wrong ones have a difference of 0.12.
    assert packaging._etiology_margin(Task.THREE_CLASS, probabilities, targets) == 0.15
    assert packaging._etiology_margin(Task.BINARY, probabilities, targets) == 0.0
    surely_right = np.where(targets == 1, 0.95, 0.05)
    probabilities = np.stack([np.full(21, 0.2), 0.8 * surely_right, 0.8 * (1 - surely_right)], axis=1)
    assert packaging._etiology_margin(Task.THREE_CLASS, probabilities, targets) == 0.0
    assert packaging._etiology_margin(Task.THREE_CLASS, probabilities[:, [0, 2, 1]], targets) == 0.95
