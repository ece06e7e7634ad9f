"""How alike two maps are, against other libraries and cases counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torchmetrics.functional.image import structural_similarity_index_measure

from pneumoscope.evaluation.shortcut_maps import rank_correlation, structural_similarity, top_overlap


@pytest.fixture
def maps() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(4)
    one = rng.random((24, 24), dtype=np.float32).round(1)  # with ties
    return one, (0.6 * one + 0.4 * rng.random((24, 24), dtype=np.float32)).astype(np.float32)


def test_rank_correlation_is_that_of_scipy(maps) -> None:
    one, other = maps
    assert rank_correlation(one, other) == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic)
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


def test_structural_similarity_is_that_of_torchmetrics(maps) -> None:
    units = [(item - item.min()) / np.ptp(item) for item in maps]
    _, full = structural_similarity_index_measure(
        *(torch.from_numpy(unit)[None, None] for unit in units), data_range=1.0, return_full_image=True
    )
    assert structural_similarity(*maps) == pytest.approx(float(full.mean()), abs=1e-5)
    assert structural_similarity(maps[0], 5 * maps[0] - 2) == pytest.approx(1)
    assert structural_similarity(np.ones((12, 12)), np.zeros((12, 12))) == pytest.approx(
        1
    )  # both say nothing


@pytest.mark.parametrize("compare", [rank_correlation, top_overlap, structural_similarity])
def test_maps_of_other_shapes_are_refused(compare) -> None:
    with pytest.raises(ValueError, match="shapes"):
        compare(np.zeros((2, 3)), np.zeros((3, 2)))
