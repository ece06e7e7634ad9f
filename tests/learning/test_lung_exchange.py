"""Lungs move into other bodies, hidden lungs leave nothing of themselves, and masks are found once."""

import numpy as np
import pytest
import torch

from pneumoscope.core.records import Label, Preprocessing
from pneumoscope.data.cache import CacheWriter, PixelCache
from pneumoscope.data.decoding import decode_films
from pneumoscope.data.phantom_drawing import draw_phantom
from pneumoscope.imaging.lungs import segment_lungs
from pneumoscope.learning import batches
from pneumoscope.learning.augmentation import augment, exchange_bodies, hide_lungs
from pneumoscope.learning.batches import lungs_of_cache
from pneumoscope.learning.config import AugmentationConfig

SIDE = 64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def lungs(count):
    """Two upright rectangles, 3/16 of the image each."""
    masks = torch.zeros(count, 1, SIDE, SIDE)
    masks[:, :, 16:48, 8:24] = masks[:, :, 16:48, 40:56] = 1
    return masks


def films(count):
    """Image i is grey (i + 1) / 10 in its lungs and (i + 1) / 10 + 0.05 outside."""
    grey = (torch.arange(count).float() + 1).view(-1, 1, 1, 1) / 10
    return (grey + 0.05 * (1 - lungs(count))).clone()


def test_lungs_keep_their_film_and_bodies_come_from_others():
    before = films(6)
    batch = before.clone()
    exchange_bodies(batch, lungs(6), 1.0, seeded(1))
    centre, corner = batch[:, 0, 32, 16], batch[:, 0, 0, 0]
    assert torch.allclose(centre, before[:, 0, 32, 16])
    assert not torch.allclose(corner, before[:, 0, 0, 0])
    bodies = {round(float(value), 4) for value in before[:, 0, 0, 0]}
    assert {round(float(value), 4) for value in corner} <= bodies


def test_the_other_bodys_lungs_are_filled_with_its_own_tissue():
    batch = films(6)
    before = batch.clone()
    mine = lungs(6)
    mine[:, :, :, 32:] = 0  # what moves is the right lung only
    mine[:, :, 2:14, :] = 1
    others = lungs(6)
    exchange_bodies(batch, torch.where(torch.arange(6).view(-1, 1, 1, 1) == 0, mine, others), 1.0, seeded(4))
    body = float(batch[0, 0, 63, 63])
    assert body != float(before[0, 0, 63, 63])
    assert float(batch[0, 0, 32, 48]) == pytest.approx(body, abs=2e-3)  # the other's left lung is gone


@pytest.mark.parametrize("change", [exchange_bodies, hide_lungs])
def test_nothing_changes_at_probability_zero_or_without_lungs(change):
    batch = films(4)
    change(batch, lungs(4), 0.0, seeded())
    change(batch, torch.zeros(4, 1, SIDE, SIDE), 1.0, seeded())
    assert torch.equal(batch, films(4))


def test_hidden_lungs_leave_nothing_of_themselves():
    batch, other = films(8), films(8)
    other[lungs(8) > 0] = batch[lungs(8) > 0].view(8, -1).flip(1).flatten()
    other[:, :, 16:32, 8:24] += 0.1  # another image with the same mean
    other[:, :, 32:48, 8:24] -= 0.1
    hidden = hide_lungs(batch, lungs(8), 0.7, seeded(4))
    again = hide_lungs(other, lungs(8), 0.7, seeded(4))
    assert torch.equal(hidden, again)
    assert 0 < hidden.sum() < 8
    inside = (lungs(8) > 0) & hidden.view(-1, 1, 1, 1)
    assert torch.allclose(batch[inside], other[inside], atol=1e-6)
    assert torch.equal(batch[~hidden], films(8)[~hidden])


def test_augmentation_says_which_films_have_no_class_any_more():
    pixels = (255 * films(8)[:, 0]).to(torch.uint8)
    masks = lungs(8)[:, 0].to(torch.uint8)
    config = AugmentationConfig(hidden_lungs_probability=0.5, body_probability=0.5)
    assert config.needs_lungs
    batch, hidden = augment(pixels, config, seeded(), masks)
    assert batch.shape == (8, 1, SIDE, SIDE)
    assert 0 < hidden.sum() < 8
    assert not augment(pixels, AugmentationConfig(), seeded())[1].any()


def test_the_lungs_of_a_cache_are_found_once(tmp_path, monkeypatch):
    from PIL import Image

    rng = np.random.default_rng(0)
    files = []
    for number in range(3):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray((255 * draw_phantom(Label.NORMAL, rng, 64).pixels).astype(np.uint8)).save(files[-1])
    preprocessing = Preprocessing(size=48)
    with CacheWriter(tmp_path / "cache", preprocessing) as writer:
        for film in decode_films(files, preprocessing, workers=1):
            writer.add(film)
    cache = PixelCache(tmp_path / "cache", preprocessing)
    calls = []
    found = lungs_of_cache(cache, progress=lambda *call: calls.append(call))
    assert found.shape == (3, 48, 48)
    assert calls == [(3, 3)]
    assert np.array_equal(found, segment_lungs(cache.pixels / np.float32(255)).any(axis=1))
    monkeypatch.setattr(batches, "segment_lungs", None)
    assert np.array_equal(lungs_of_cache(cache), found)
