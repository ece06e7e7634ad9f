"""The segmenter's network learns from phantoms; outlines become masks; Dice is what it is said to be."""

import numpy as np
import pytest
import torch
from scripts.train_lungs import (
    LungNetwork,
    OutlinedFilms,
    dice,
    draw_outlines,
    outlined_phantoms,
    train_lungs,
)

from pneumoscope.core.records import Radiograph


@pytest.mark.parametrize(
    ("found", "wanted", "overlap"),
    [([1, 1, 0, 0], [1, 0, 0, 0], 2 / 3), ([0, 0, 0, 0], [0, 0, 0, 0], 1), ([1, 0, 0, 0], [0, 1, 0, 0], 0)],
)
def test_dice(found, wanted, overlap):
    assert dice(np.array([found], bool), np.array([wanted], bool)) == pytest.approx(overlap)


def test_an_outline_fills_its_polygon():
    film = Radiograph(np.tile(np.linspace(0, 1, 40, dtype=np.float32), (30, 1)), (30, 40))
    left_half = [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]
    corner = [[0.75, 0.75], [1, 0.75], [1, 1], [0.75, 1]]
    drawn = draw_outlines([film], [{"right": left_half, "left": corner}], size=16)
    assert drawn.pixels.shape == (1, 16, 16)
    assert drawn.lungs.shape == (1, 2, 16, 16)
    assert drawn.lungs[0, 0, :, :8].min() == 1
    assert drawn.lungs[0, 0, :, 9:].max() == 0
    assert drawn.lungs[0, 1].sum() == pytest.approx(16, abs=2.5)
    assert drawn.pixels[0, 0, 0] == 0
    assert drawn.pixels[0, 0, -1] == 255


def test_a_short_training_finds_lungs_in_phantoms_that_it_has_not_seen():
    phantoms, others = outlined_phantoms(24, seed=1, size=32), outlined_phantoms(8, seed=2, size=32)
    steps = []
    network = train_lungs(
        phantoms, phantoms.part(np.arange(4)), 60, progress=lambda *step: steps.append(step)
    )
    with torch.inference_mode():
        log_odds, features = network(torch.from_numpy(others.pixels).float().unsqueeze(1) / 255)
    assert log_odds.shape == (8, 2, 32, 32)
    assert features.shape == (8, 64, 4, 4)
    assert dice(log_odds.numpy() > 0, others.lungs > 0.5).mean() > 0.7
    assert steps[-1] == (60, 60)


def test_training_repeats_and_takes_no_films_at_all():
    phantoms = outlined_phantoms(6, size=16)
    nothing = OutlinedFilms(phantoms.pixels[:0], phantoms.lungs[:0])
    first, second = (train_lungs(phantoms, nothing, 2, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_blocks_hold_all_weights():
    network = LungNetwork()
    inside = sum(p.numel() for block in network.blocks() for p in block.parameters())
    assert inside == sum(p.numel() for p in network.parameters()) < 250_000
