"""Deletion and insertion curves of a network that counts bright pixels."""

from __future__ import annotations

import numpy as np
import pytest

from pneumoscope.evaluation.shortcut_maps import STEPS, area, deletion, insertion, shuffled_map

SIDE = 16


def bright(films: np.ndarray) -> np.ndarray:
    """Share of a film's 64 bright pixels that are there."""
    return (films > 0.9).sum(axis=(1, 2, 3)) / 64


@pytest.fixture
def film() -> np.ndarray:
    """Black, with a bright quarter: 64 of 256 pixels, that is four of 16 steps."""
    film = np.zeros((1, SIDE, SIDE), np.float32)
    film[0, :8, :8] = 1
    return film


def test_a_perfect_map_deletes_first_what_counts(film) -> None:
    best, worst = deletion(film, [film[0], -film[0]], bright)
    assert best.tolist() == [1, 0.75, 0.5, 0.25] + [0] * (STEPS - 3)
    assert worst.tolist() == [1] * (STEPS - 3) + [0.75, 0.5, 0.25, 0]
    assert area(np.stack([best, worst])).tolist() == pytest.approx([2 / 16, 14 / 16])


def test_insertion_starts_from_a_blurred_film(film) -> None:
    seen = []

    def score(films: np.ndarray) -> np.ndarray:
        seen.append(films)
        return bright(films)

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
