"""The pointing game on maps and lesions drawn by hand."""

import numpy as np
import pytest
from PIL import Image

from pneumoscope.core.errors import DatasetError, UnreadableFileError
from pneumoscope.core.records import Label
from pneumoscope.data.importers import import_dataset
from pneumoscope.evaluation.intervals import wilson
from pneumoscope.evaluation.pointing import Pointing, mask_file, play, point, summarise
from tests.films import write_film
from tests.tiny_bundle import write_tiny_bundle


def lesion():
    """40 of 10,000 pixels."""
    mask = np.zeros((100, 100), bool)
    mask[30:34, 50:60] = True
    return mask


@pytest.mark.parametrize(
    ("row", "column", "hit", "near"),
    [
        (30, 50, True, True),
        (33, 59, True, True),
        (36, 55, False, True),
        (37, 55, False, False),
        (0, 0, False, False),
    ],
)
def test_a_hit_is_a_maximum_in_the_lesion_or_3_percent_of_the_side_beside_it(row, column, hit, near):
    heat = np.zeros((100, 100), np.float32)
    heat[row, column] = 0.7
    found = point(heat, lesion())
    assert (found.hit, found.near) == (hit, near)
    assert found.energy == (1.0 if hit else 0.0)
    assert found.area == pytest.approx(0.004)


def test_the_energy_is_the_share_of_the_maps_sum():
    heat = np.full((100, 100), 0.1, np.float32)
    heat[30:34, 50:60] = 0.9
    assert point(heat, lesion()).energy == pytest.approx(40 * 0.9 / (40 * 0.9 + 9960 * 0.1), rel=1e-5)


def test_an_empty_map_misses():
    assert point(np.zeros((100, 100), np.float32), lesion()) == Pointing(False, False, 0.0, 0.004)


def test_what_cannot_be_played_is_refused():
    with pytest.raises(ValueError, match=r"heat map \(5, 5\)"):
        point(np.ones((5, 5)), lesion())
    with pytest.raises(ValueError, match="0 pixels"):
        point(np.ones((100, 100)), np.zeros((100, 100), bool))


def test_each_class_counts_the_same():
    good, close, bad = (
        Pointing(True, True, 0.5, 0.1),
        Pointing(False, True, 0.2, 0.1),
        Pointing(False, False, 0, 0.2),
    )
    found = summarise(
        [(Label.VIRAL, good), (Label.BACTERIAL, bad), (Label.VIRAL, close), (Label.VIRAL, good)]
    )
    assert list(found["classes"]) == ["bacterial", "viral"]
    viral = found["classes"]["viral"]
    assert viral["n"] == viral["hit"]["n"] == 3
    assert (viral["hit"]["low"], viral["hit"]["high"]) == wilson(2, 3)
    assert viral["energy"] == pytest.approx(0.4)
    expected = {"hit": 1 / 3, "near": 0.5, "energy": 0.2, "area": 0.15}
    assert found["mean"] == pytest.approx(expected)


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """Three bright-left images of two kinds; the tiny network's evidence is brightness."""
    folder = tmp_path_factory.mktemp("films")
    films, masks = folder / "films", folder / "films-masks"
    for name, side in (("BACTERIA/a", 0), ("BACTERIA/b", 0), ("VIRUS/c", 80), ("NORMAL/d", 0)):
        pixels = np.asarray(Image.open(write_film(films / f"{name}.png", 0.7))).copy()
        pixels[40:80, :80] = 255
        Image.fromarray(pixels).save(films / f"{name}.png")
        if "NORMAL" not in name:
            mask = np.zeros(pixels.shape, np.uint8)
            mask[40:80, side : side + 80] = 255
            (masks / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask).save(masks / f"{name}.png")
    bundle = write_tiny_bundle(folder / "tiny")
    return bundle, import_dataset(films, folder / "dataset")


def test_films_with_masks_are_played(played):
    bundle, dataset = played
    ticks = []
    found = play(bundle, dataset, dataset.samples, progress=lambda *tick: ticks.append(tick))
    assert {sample.path: result.hit for sample, result in found} == {
        "BACTERIA/a.png": True, "BACTERIA/b.png": True, "VIRUS/c.png": False
    }  # fmt: skip
    assert ticks == [(1, 3), (2, 3), (3, 3)]


def test_masks_that_are_missing_or_damaged_are_named(played, tmp_path):
    bundle, dataset = played
    with pytest.raises(DatasetError, match="no image has a lesion mask"):
        play(bundle, dataset, dataset.samples, tmp_path)
    file = mask_file(dataset, dataset.samples[0], tmp_path)
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no picture")
    with pytest.raises(UnreadableFileError, match="the mask cannot be read"):
        play(bundle, dataset, dataset.samples, tmp_path)
