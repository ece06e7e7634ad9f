"""Heat maps of the tiny bundle, which reads brightness, on images whose bright places are known; the curves
of a network that counts bright pixels; how alike two maps are, in cases counted by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.stats import rankdata

from pneumoscope.core.records import Label, Preprocessing
from pneumoscope.data.cache import build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.data.importers import import_dataset
from pneumoscope.evaluation.shortcut_maps import (
    STEPS,
    area,
    areas,
    deletion,
    insertion,
    inspect_maps,
    rank_correlation,
    shuffled_map,
    top_overlap,
)
from pneumoscope.evaluation.shortcut_probes import LungMasks, find_films, positive_films
from pneumoscope.evaluation.stress import Examiner, StressPlan, plan_stress
from pneumoscope.inference.bundle import Bundle
from tests.learning.phantoms import phantom_dataset
from tests.tiny_bundle import SIZE, write_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two images with pneumonia: a grey one, brighter to the left of the picture, and a black one."""
    folder = tmp_path_factory.mktemp("films")
    film = np.full((SIZE, SIZE), 51, np.uint8)
    film[:, : SIZE // 2] = 204
    for name, pixels in (("person1_bacteria_1", film), ("person2_bacteria_2", 0 * film)):
        file = folder / "films" / "PNEUMONIA" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    return import_dataset(folder / "films", folder / "dataset")


@pytest.fixture(scope="module")
def masks(dataset: Dataset) -> LungMasks:
    """The right lung is the left half of the picture; the left lung was not found."""
    lungs = np.zeros((2, SIZE, SIZE), dtype=bool)
    lungs[0, :, : SIZE // 2] = True
    return LungMasks(SIZE, {sample.sha256: np.packbits(lungs) for sample in dataset.samples})


def plan_of(bundle: Bundle, dataset: Dataset, films: int = 2) -> StressPlan:
    return StressPlan((Examiner("tiny", bundle, dataset.samples[:films]),), "all", 0)


def test_evidence_lies_where_the_image_is_bright_and_curves_follow_the_map(bundle, dataset, masks) -> None:
    seen: list[tuple[int, int]] = []
    bright, black = inspect_maps(
        plan_of(bundle, dataset), dataset, masks, 0, lambda done, total: seen.append((done, total))
    )
    assert seen == [(1, 2), (2, 2)]
    assert bright.lungs == 0.5
    # Evidence is the grey level: 0.8 beside 0.2, but for the blur where the halves meet.
    assert bright.energy == pytest.approx(0.8, abs=0.02)
    assert bright.wide_energy > bright.energy
    assert np.isnan(black.energy)
    assert all(curve.shape == (STEPS + 1,) for curve in bright.curves.values())
    assert bright.curves["insertion"][-1] == pytest.approx(bright.curves["deletion"][0])
    own, random = (areas([bright], name)[0] for name in ("deletion", "random deletion"))
    assert own < random
    # The network is linear: class activation and occlusion say the same.
    assert bright.agreement is not None
    assert bright.agreement[0] > 0.7
    assert bright.agreement[1] > 0.3
    assert black.agreement is not None
    assert black.agreement[0] == 0


def test_a_network_without_a_linear_head_is_judged_by_its_occlusion_maps(dataset, masks, tmp_path) -> None:
    bundle = write_tiny_bundle(tmp_path / "dense", explanation={"method": "occlusion"})
    headless = {name: array for name, array in bundle.arrays.items() if name != "head_weight"}
    bundle.__dict__["arrays"] = headless  # as a network with hidden layers in its head has them
    (found,) = inspect_maps(plan_of(bundle, dataset, 1), dataset, masks, 0)
    assert found.method == "occlusion"
    assert found.agreement is None
    assert found.energy > 0.5


def test_shown_occlusion_maps_are_compared_with_class_activation(dataset, masks, tmp_path) -> None:
    bundle = write_tiny_bundle(tmp_path / "occlusion", explanation={"method": "occlusion"})
    (found,) = inspect_maps(plan_of(bundle, dataset, 1), dataset, masks, 0)
    assert found.method == "occlusion"
    assert found.agreement is not None


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


def count_bright(films: np.ndarray) -> np.ndarray:
    """Share of an image's 64 bright pixels that are there."""
    return (films > 0.9).sum(axis=(1, 2, 3)) / 64


@pytest.fixture
def film() -> np.ndarray:
    """Black, with a bright quarter: 64 of 256 pixels, that is four of 16 steps."""
    film = np.zeros((1, 16, 16), np.float32)
    film[0, :8, :8] = 1
    return film


def test_a_perfect_map_deletes_first_what_counts(film) -> None:
    best, worst = deletion(film, [film[0], -film[0]], count_bright)
    assert best.tolist() == [1, 0.75, 0.5, 0.25] + [0] * (STEPS - 3)
    assert worst.tolist() == [1] * (STEPS - 3) + [0.75, 0.5, 0.25, 0]
    assert area(np.stack([best, worst])).tolist() == pytest.approx([2 / 16, 14 / 16])


def test_insertion_starts_from_a_blurred_film(film) -> None:
    seen = []

    def score(films: np.ndarray) -> np.ndarray:
        seen.append(films)
        return count_bright(films)

    curve = insertion(film, [film[0]], score)[0]
    start, end = seen[0][0], seen[0][-1]
    assert np.array_equal(end, film)
    assert 0.2 < start[0, 8, 3] < 0.4  # just beside the bright quarter
    assert start.mean() == pytest.approx(film.mean(), abs=0.01)
    assert curve[4:].tolist() == [1] * (STEPS - 3)
    assert curve[0] < curve[2] < 1


def test_the_random_order_has_the_maps_own_cells() -> None:
    cells = np.arange(25, dtype=np.float32).reshape(5, 5)
    shuffled = shuffled_map(cells, np.random.default_rng(0))
    assert shuffled.shape == (5, 5)
    assert not np.array_equal(shuffled, cells)
    assert sorted(shuffled.ravel()) == list(range(25))


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    one = rng.random((24, 24), dtype=np.float32).round(1)  # with ties
    return one, (0.6 * one + 0.4 * rng.random((24, 24), dtype=np.float32)).astype(np.float32)


def test_rank_correlation_is_of_ranks_and_ties_share_theirs(maps) -> None:
    one, other = maps
    ranks = [rankdata(item.ravel()) for item in maps]
    assert rank_correlation(one, other) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert rank_correlation(one, np.exp(3 * one)) == pytest.approx(1)
    assert rank_correlation(one, -one) == pytest.approx(-1)


def test_a_constant_map_is_like_nothing(maps) -> None:
    assert rank_correlation(maps[0], np.full_like(maps[0], 2)) == 0


def test_the_overlap_counts_the_strongest_cells() -> None:
    one = np.arange(10, dtype=float)  # strongest: 9, 8
    assert top_overlap(one, one) == 1
    assert top_overlap(one, -one) == 0
    assert top_overlap(one, np.array([0, 0, 0, 0, 0, 0, 5, 0, 4, 0])) == 0.5
    assert top_overlap(one, -one, share=0.6) == pytest.approx(2 / 6)
    assert top_overlap(np.zeros(10), np.zeros(10)) == 1  # ties are broken alike
    assert top_overlap(one[:3], one[:3], share=0.01) == 1  # at least one cell
