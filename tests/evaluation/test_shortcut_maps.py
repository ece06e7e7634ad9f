"""Heat maps of the tiny bundle, which reads brightness, on films whose bright places are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pneumoscope.core.records import Label, Preprocessing
from pneumoscope.data.cache import build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.importers import import_dataset
from pneumoscope.evaluation.shortcut_maps import LEVELS, STEPS, MapJob, areas, inspect_maps
from pneumoscope.evaluation.shortcut_probes import LungMasks, find_films, positive_films
from pneumoscope.evaluation.stress import Examiner, StressPlan, plan_stress
from pneumoscope.inference.bundle import Bundle
from pneumoscope.learning.opened_network import open_network
from tests.learning.phantoms import phantom_dataset
from tests.tiny_bundle import SIZE, write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two films with pneumonia: a grey one, brighter to the left of the picture, and a black one."""
    folder = tmp_path_factory.mktemp("films")
    film = np.full((SIZE, SIZE), 51, np.uint8)
    film[:, : SIZE // 2] = 204
    for name, pixels in (("person1_bacteria_1", film), ("person2_bacteria_2", 0 * film)):
        file = folder / "films" / "PNEUMONIA" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return import_dataset(folder / "films", folder / "dataset")


@pytest.fixture(scope="module")
def job(bundle: Bundle, dataset: Dataset) -> MapJob:
    """The right lung is the left half of the picture; the left lung was not found."""
    lungs = np.zeros((2, SIZE, SIZE), dtype=bool)
    lungs[0, :, : SIZE // 2] = True
    masks = LungMasks(SIZE, {sample.sha256: np.packbits(lungs) for sample in dataset.samples})
    plan = StressPlan((Examiner("tiny", bundle, dataset.samples),), "all", 0)
    return MapJob(plan, dataset, masks, open_network, seed=0)


def test_the_evidence_lies_where_the_film_is_bright(job: MapJob) -> None:
    seen: list[tuple[int, int]] = []
    bright, black = inspect_maps(job, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    assert bright.lungs == 0.5
    # Evidence is the grey level: 0.8 beside 0.2, but for the blur where the halves meet.
    assert bright.energy == pytest.approx(0.8, abs=0.02)
    assert bright.wide_energy > bright.energy
    assert np.isnan(black.energy)


def test_methods_agree_on_a_linear_network(job: MapJob) -> None:
    bright, black = inspect_maps(job)
    assert set(bright.agreement) == {
        "class-activation and occlusion",
        "class-activation and integrated gradients",
        "occlusion and integrated gradients",
    }
    for correlation, overlap in bright.agreement.values():
        assert correlation > 0.7
        assert overlap > 0.3
    assert all(correlation == 0 for correlation, _ in black.agreement.values())


def test_only_the_head_can_be_random_here_and_curves_follow_the_map(job: MapJob) -> None:
    bright = inspect_maps(job)[0]
    assert set(bright.randomised) == set(LEVELS)
    # The network has no weights before its head: all levels are the head's.
    assert bright.randomised["all"] == pytest.approx(bright.randomised["head"], abs=1e-6)
    assert all(curve.shape == (STEPS + 1,) for curve in bright.curves.values())
    assert bright.curves["insertion"][-1] == pytest.approx(bright.curves["deletion"][0])
    own, random = (areas([bright], name)[0] for name in ("deletion", "random deletion"))
    assert own < random


def test_without_gradients_less_is_found_and_nothing_fails(job: MapJob) -> None:
    closed = MapJob(job.plan, job.dataset, job.masks, None, 0)
    bright = inspect_maps(closed)[0]
    assert set(bright.agreement) == {"class-activation and occlusion"}
    assert set(bright.randomised) == {"head"}
    assert bright.energy == inspect_maps(job)[0].energy


def test_a_network_without_a_linear_head_is_judged_by_its_occlusion_maps(job: MapJob, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "dense", explanation={"method": "occlusion"})
    headless = {name: array for name, array in bundle.arrays.items() if name != "head_weight"}
    bundle.__dict__["arrays"] = headless  # as a network with hidden layers in its head has them
    plan = StressPlan((Examiner("dense", bundle, job.dataset.samples[:1]),), "all", 0)
    (found,) = inspect_maps(MapJob(plan, job.dataset, job.masks, open_network, 0))
    assert set(found.agreement) == {"occlusion and integrated gradients"}
    assert found.randomised == {}
    assert found.energy > 0.5


def test_occlusion_maps_that_are_shown_are_randomised(job: MapJob, tmp_path: Path) -> None:
    bundle = write_tiny_bundle(tmp_path / "occlusion", explanation={"method": "occlusion"})
    plan = StressPlan((Examiner("tiny", bundle, job.dataset.samples[:1]),), "all", 0)
    (found,) = inspect_maps(MapJob(plan, job.dataset, job.masks, open_network, 0))
    assert found.method == "occlusion"
    assert "class-activation and occlusion" in found.agreement
    assert set(found.randomised) == set(LEVELS)
    # A linear network's map is the film's, times a weight: shuffled weights turn it over or scale it.
    assert found.randomised["head"][0] == pytest.approx(1, abs=0.02)


def test_films_are_drawn_and_those_without_lungs_are_told(bundle: Bundle, tmp_path: Path) -> None:
    dataset = phantom_dataset(tmp_path, count=12, size=96)
    plan = plan_stress(bundle.directory, dataset, "all")
    blank = dataset.samples[0]
    Image.new("L", (96, 96)).save(dataset.file(blank))
    dataset = import_dataset(dataset.root, tmp_path / "again")
    plan = plan_stress(bundle.directory, dataset, "all")
    found = find_films(plan, dataset, 0, 0)
    assert [sample.path for sample in found.without] == [blank.path]
    assert len(found.plan.samples) == 11
    assert len(build_cache(dataset, Preprocessing())) == 12
    some = find_films(plan, dataset, 6, 0)
    assert len(some.plan.samples) + len(some.without) == 6
    positive = positive_films(found.plan, 4, 0)
    assert len(positive.samples) == 4
    assert all(sample.label is not Label.NORMAL for sample in positive.samples)
