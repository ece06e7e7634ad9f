"""Masks on the images' own grids and the regions round them, on rectangles; lungs of real images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from pneumoscope.core.records import Preprocessing
from pneumoscope.data.cache import build_cache
from pneumoscope.data.importers import import_dataset
from pneumoscope.evaluation.shortcut_probes import (
    LungMasks,
    chest_region,
    find_lungs,
    resize_mask,
    shape_properties,
    wide_region,
)
from tests.evaluation.films import sample
from tests.learning.phantoms import phantom_dataset

SIDE = 100


def rectangles() -> np.ndarray:
    """Two lungs: rows 20 to 70, columns 20 to 40 and 60 to 80."""
    lungs = np.zeros((2, SIDE, SIDE), dtype=bool)
    lungs[0, 20:70, 20:40] = lungs[1, 20:70, 60:80] = True
    return lungs


def masks_of(*lungs: np.ndarray) -> LungMasks:
    return LungMasks(SIDE, {sample(n).sha256: np.packbits(one) for n, one in enumerate(lungs)})


def test_masks_come_back_as_they_were() -> None:
    masks = masks_of(rectangles())
    film = sample(0).sha256
    assert np.array_equal(masks.each(film), rectangles())
    assert np.array_equal(masks.lung(film, 1, (SIDE, SIDE)), rectangles()[1])
    wider = masks.lung(film, 0, (50, 200))
    assert wider.shape == (50, 200)
    assert wider[10:35, 40:80].all()
    assert wider.sum() == 25 * 40


def test_both_lungs_must_be_there_and_large_enough() -> None:
    one_lung, small = rectangles(), rectangles()
    one_lung[1] = False
    small[:, 28:] = False  # 2 x 8 x 20 of 10,000 pixels
    masks = masks_of(rectangles(), one_lung, small)
    assert [masks.found(sample(n).sha256) for n in range(3)] == [True, False, False]


def test_the_regions_are_hulls_and_a_rim() -> None:
    lungs = rectangles()
    lungs[0, 40:50, 30:40] = False  # a bay, which the hull closes
    wide, chest = wide_region(lungs), chest_region(lungs)
    assert wide[20:70, 20:40].all()
    assert wide[20:70, 17:43].all()
    assert not wide[:, :17].any()
    assert not wide[:, 43:57].any()
    assert chest[17:73, 20:80].all()
    assert chest.sum() < 56 * 66 + 1
    assert not wide_region(np.zeros_like(lungs)).any()
    line = np.zeros_like(lungs)
    line[0, 50, 10:20] = True
    assert wide_region(line)[50, 7:23].all()  # no area, so its own hull


def test_a_resized_mask_keeps_its_area() -> None:
    mask = rectangles()[0]
    assert resize_mask(mask, mask.shape) is mask
    assert resize_mask(mask, (300, 50)).mean() == pytest.approx(mask.mean())


def test_shapes_are_shares_of_the_film() -> None:
    empty = np.zeros((2, SIDE, SIDE), dtype=bool)
    found = {
        p.name: p.values for p in shape_properties([sample(0), sample(1)], masks_of(rectangles(), empty))
    }
    assert {name: values[0] for name, values in found.items() if name.startswith("right")} == pytest.approx(
        {"right_area": 0.1, "right_top": 0.2, "right_bottom": 0.7, "right_inner": 0.4, "right_outer": 0.2,
         "right_fill": 1.0}
    )  # fmt: skip
    assert (found["left_inner"][0], found["left_outer"][0]) == (0.6, 0.8)
    assert all(np.isnan(values[1]) for values in found.values())


def test_lungs_of_phantoms_are_found(tmp_path: Path) -> None:
    dataset = phantom_dataset(tmp_path, count=6, size=96)
    cache = build_cache(dataset, Preprocessing())
    calls: list[tuple[int, int]] = []
    masks = find_lungs(dataset.samples, cache, progress=lambda done, total: calls.append((done, total)))
    assert masks.side == 224
    assert calls == [(6, 6)]
    assert all(masks.found(film.sha256) for film in dataset.samples)


@pytest.mark.films
@pytest.mark.skipif("PNEUMOSCOPE_DATA" not in os.environ, reason="PNEUMOSCOPE_DATA names no real images")
def test_lungs_of_real_films_are_found_at_any_size(tmp_path: Path) -> None:
    films = Path(os.environ["PNEUMOSCOPE_DATA"]) / "kermany_original" / "val"
    dataset = import_dataset(films, tmp_path / "dataset")
    masks = find_lungs(dataset.samples, build_cache(dataset, Preprocessing()))
    assert sum(masks.found(film.sha256) for film in dataset.samples) >= 15
    film = dataset.samples[0]
    assert film.height is not None
    assert film.width is not None
    both = [masks.lung(film.sha256, side, (film.height, film.width)) for side in (0, 1)]
    assert 0.05 < (both[0] | both[1]).mean() < 0.5
