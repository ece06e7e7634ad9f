"""Order and augmentation follow from (seed, epoch); batches hold the images that they say."""

import pickle

import numpy as np
import pytest
import torch

from pneumoscope.learning.batches import (
    BatchOrder,
    FeatureBatches,
    FilmBatches,
    Films,
    InOrder,
    Loader,
    plain_batches,
)
from pneumoscope.learning.config import AugmentationConfig

PLAIN = AugmentationConfig(enabled=False)


@pytest.fixture
def films():
    """Five images in a cache of seven; image i is grey level 10 * (its row)."""
    pixels = np.repeat(np.arange(7, dtype=np.uint8) * 10, 16).reshape(7, 4, 4)
    return Films(pixels, np.array([6, 0, 3, 2, 5]), np.array([2, 0, 1, 0, 2]))


def positions(order, epoch=0):
    return [place for batch, _ in order.epoch(epoch) for place in batch]


def test_an_epoch_holds_every_film_once():
    order = BatchOrder(np.zeros(10, np.int64), 4, seed=3)
    assert [len(batch) for batch, _ in order.epoch(0)] == [4, 4, 2]
    assert sorted(positions(order)) == list(range(10))


@pytest.mark.parametrize(("count", "batches"), [(8, 2), (9, 2), (10, 3), (1, 0)])
def test_a_last_batch_of_one_film_is_dropped(count, batches):
    order = BatchOrder(np.zeros(count, np.int64), 4, seed=0)
    assert len(order) == len(list(order.epoch(0))) == batches


def test_order_and_augmentation_follow_from_seed_and_epoch():
    def drawn(seed, epoch):
        return list(BatchOrder(np.zeros(40, np.int64), 8, seed).epoch(epoch))

    assert drawn(1, 2) == drawn(1, 2)
    others = [drawn(1, 3), drawn(2, 2), drawn(2, 1)]
    for other in others:
        assert [batch for batch, _ in other] != [batch for batch, _ in drawn(1, 2)]
        assert not {seed for _, seed in other} & {seed for _, seed in drawn(1, 2)}


def test_a_balanced_order_draws_every_class_equally_often():
    targets = np.array([0] * 900 + [1] * 90 + [2] * 10)
    order = BatchOrder(targets, 50, seed=0, balanced=True)
    drawn = np.concatenate([targets[positions(order, epoch)] for epoch in range(10)])
    # 10,000 draws with probability 1/3: standard deviation 0.005.
    assert np.bincount(drawn) / len(drawn) == pytest.approx([1 / 3] * 3, abs=0.02)


def test_validation_goes_through_all_films_in_order():
    order = InOrder(130, batch_size=64)
    assert len(order) == len(list(order.epoch(0))) == 3
    assert positions(order) == list(range(130))


def test_batches_are_the_films_of_their_rows(films):
    batch, targets = FilmBatches(films, PLAIN)[[0, 2], 99]
    assert batch.shape == (2, 1, 4, 4)
    assert batch.dtype == torch.float32
    assert batch[:, 0, 0, 0].tolist() == pytest.approx([60 / 255, 30 / 255])
    assert targets.tolist() == [2, 1]


def test_the_seed_of_a_batch_decides_its_augmentation(films):
    batches = FilmBatches(films, AugmentationConfig())
    first, again, other = (batches[[0, 1], seed][0] for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert films.pixels[6].tolist() == [[60] * 4] * 4, "the cache is as it was"


def test_a_loader_gives_the_batches_of_an_epoch(films):
    loader = Loader(FilmBatches(films, PLAIN), InOrder(5, batch_size=2))
    assert len(loader) == 3
    assert [targets.tolist() for _, targets in loader.epoch()] == [[2, 0], [1, 0], [2]]


def test_processes_share_the_batches_of_an_epoch(films):
    loader = Loader(FilmBatches(films, PLAIN), InOrder(5, batch_size=2))
    shares = [[targets.tolist() for _, targets in loader.epoch(0, rank, 2)] for rank in (0, 1)]
    assert shares == [[[2, 0], [2]], [[1, 0]]]


def test_another_process_maps_the_cache_itself(tmp_path):
    np.arange(100, 132, dtype=np.uint8).tofile(tmp_path / "pixels.u8")
    pixels = np.memmap(tmp_path / "pixels.u8", np.uint8, "r", shape=(2, 4, 4))
    rows = np.array([1, 0])
    for films in (Films(pixels, rows, rows, 2), Films(pixels[1:], rows, rows)):
        again = pickle.loads(pickle.dumps(films))
        assert np.array_equal(again.pixels, films.pixels)
        assert again.size == films.size
    assert isinstance(pickle.loads(pickle.dumps(Films(pixels, rows, rows))).pixels, np.memmap)


def test_plain_batches_hold_all_films(films):
    batches = list(plain_batches(films, 2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    assert torch.cat(batches)[:, 0, 0, 0].mul(255).round().tolist() == [60, 0, 30, 20, 50]


def test_features_come_with_their_targets():
    features = torch.arange(6.0).view(3, 2, 1, 1).double()
    batch, targets = FeatureBatches(features, np.array([4, 5, 6]))[[2, 0], 0]
    assert batch.dtype == torch.float32
    assert batch.flatten().tolist() == [4, 5, 0, 1]
    assert targets.tolist() == [6, 4]
