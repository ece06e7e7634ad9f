"""Images of two made-up devices: the features measure what they say, the clusters are the devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from pneumoscope.core.errors import DatasetError
from pneumoscope.core.records import Label
from pneumoscope.data.acquisition import (
    ACQUISITION,
    FEATURES,
    AcquisitionFeatures,
    Clusters,
    cluster_dataset,
    contrary_images,
    describe_clusters,
    find_clusters,
    measure_acquisition,
)
from pneumoscope.data.cache import build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.importers import import_dataset
from tests.data.films import sample

COLUMN = {feature.name: index for index, feature in enumerate(FEATURES)}


def device(kind: str, seed: int) -> np.ndarray:
    """(224, 224) uint8: ``sharp`` is dark-edged and grainy, ``flat`` is bright-edged and smooth."""
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[-1:1:224j, -1:1:224j]
    body = np.exp(-(((row**2 + column**2) / 0.8) ** 2)) + 0.1 * ndimage.gaussian_filter(
        rng.normal(size=(224, 224)), 20
    )
    film = 230 * body + rng.normal(0, 8, body.shape) if kind == "sharp" else 90 + 80 * body
    return np.clip(film, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """40 images; the sharp device took 16 of 20 normal images and 4 of 20 others."""
    folder = tmp_path_factory.mktemp("devices")
    for number in range(40):
        normal = number < 20
        kind = "sharp" if (number % 5 > 0) == normal else "flat"
        name = f"NORMAL/IM-{number:04d}-{kind}.png" if normal else f"PNEUMONIA/person{number}-{kind}.png"
        file = folder / "films" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(device(kind, number)).save(file)
    return import_dataset(folder / "films", folder / "dataset")


@pytest.fixture(scope="module")
def clusters(dataset: Dataset) -> Clusters:
    return cluster_dataset(dataset)[0]


def test_features_of_a_film_that_can_be_counted(tmp_path: Path) -> None:
    film = np.full((224, 224), 100, np.uint8)
    film[:14] = 50  # the upper border
    film[-24:, -24:] = 255  # the lower right corner
    (tmp_path / "films" / "NORMAL").mkdir(parents=True)
    Image.fromarray(film).save(tmp_path / "films" / "NORMAL" / "a.png")
    one = import_dataset(tmp_path / "films", tmp_path / "dataset")
    (values,) = measure_acquisition(one.samples, build_cache(one, ACQUISITION)).values
    found = {name: values[index] for name, index in COLUMN.items()}
    assert found["film_p1"] == 50
    assert found["film_p50"] == found["centre_p5"] == found["centre_p95"] == 100
    assert found["film_p99"] == 255
    assert found["white_share"] == pytest.approx(24**2 / 224**2)
    assert found["black_share"] == 0
    assert found["border_top"] == 50
    assert found["border_left"] == pytest.approx(100 - 50 * 14 / 224)
    assert found["corner_bottom_right"] == 255
    assert found["corner_top_left"] == pytest.approx(100 - 50 * 14 / 24)
    shares = np.array([14 * 224, 24**2, 224**2 - 14 * 224 - 24**2]) / 224**2
    assert found["entropy"] == pytest.approx(-(shares * np.log2(shares)).sum())
    assert found["grain"] == pytest.approx(np.log(0.5))
    steps = 24 * 155 / (224 * 223)
    assert found["sharpness"] == pytest.approx(np.log(steps + 0.5))


def test_texture_tells_a_blurred_film_from_a_grainy_one(dataset: Dataset) -> None:
    values = measure_acquisition(dataset.samples, build_cache(dataset, ACQUISITION)).values
    sharp = np.array(["sharp" in sample.path for sample in dataset.samples])
    for name in ("grain", "sharpness", "spectrum_slope", "spectrum_7"):
        column = values[:, COLUMN[name]]
        assert column[sharp].min() > column[~sharp].max(), name


def test_the_clusters_are_the_devices(dataset: Dataset, clusters: Clusters) -> None:
    sharp = np.array(["sharp" in sample.path for sample in dataset.samples])
    assert clusters.count == 2
    assert max(clusters.silhouettes, key=clusters.silhouettes.__getitem__) == 2
    assert (clusters.members == clusters.members[sharp][0]).tolist() == sharp.tolist()


def test_the_largest_cluster_is_the_first_and_every_run_finds_the_same(clusters: Clusters) -> None:
    again = find_clusters(clusters.features, 3, seed=5)
    sizes = np.bincount(again.members)
    assert len(sizes) == 3
    assert sizes.tolist() == sorted(sizes, reverse=True)
    assert again.silhouettes == {}
    assert find_clusters(clusters.features, 3, seed=5).members.tolist() == again.members.tolist()


def test_the_description_counts_and_says_what_gives_the_class_away(
    dataset: Dataset, clusters: Clusters
) -> None:
    found = describe_clusters(dataset, clusters)
    assert found["films"] == 40
    assert [item["films"] for item in found["clusters"]] == [20, 20]
    sharp = clusters.members[["sharp" in sample.path for sample in dataset.samples].index(True)]
    assert found["clusters"][sharp]["classes"] == {"normal": 16, "pneumonia-unspecified": 4}
    assert found["mixed_patients"] == 0
    telling = {one["name"]: one for one in found["clusters"][sharp]["telling"]}
    assert telling.keys() <= COLUMN.keys()
    for name, one in telling.items():
        values = clusters.features.values[:, COLUMN[name]]
        assert one["here"] == np.median(values[clusters.members == sharp])
        assert one["elsewhere"] == np.median(values[clusters.members != sharp])
    assert found["auc"]["cluster"]["value"] == pytest.approx(0.8, abs=0.12)
    assert set(found["auc"]) == {"all", "exposure", "frame", "texture", "cluster"}


def test_too_few_films() -> None:
    same = np.zeros((5, len(FEATURES)))
    with pytest.raises(DatasetError, match="1 different images cannot make 3 clusters"):
        find_clusters(AcquisitionFeatures(same), 3)


def test_contrary_images_are_those_that_the_other_class_device_took() -> None:
    """400 images, one a patient, a quarter normal; the device tells the class of nine in ten of each."""
    samples = [sample(f"{n}.png", f"p{n}", Label.NORMAL if n % 4 == 0 else Label.VIRAL) for n in range(400)]
    odd = np.arange(400) // 4 % 10 == 0
    ill = np.arange(400) % 4 != 0
    values = np.zeros((400, len(FEATURES)))
    values[:, 5] = ill ^ odd
    contrary = contrary_images(samples, values)
    assert contrary is not None
    assert contrary.tolist() == odd.tolist()
    of_one_class = [one for one in samples if one.label is not Label.NORMAL]
    assert contrary_images(of_one_class, values[ill]) is None
