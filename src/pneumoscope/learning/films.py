"""Batches of films for training, straight from the memory-mapped uint8 cache.

In: the cache, the rows and targets of the films, a seed. Out: data loaders without worker processes: a batch
is one fancy index into the memory map and a few batched operations, so that there is nothing to wait for.
Order and augmentation of an epoch follow from (seed, epoch) alone, so that a resumed run sees what it would
have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from pneumoscope.learning.augmentation import augment, to_unit
from pneumoscope.learning.config import AugmentationConfig, MixingConfig
from pneumoscope.learning.mixing import mix

IntArray = npt.NDArray[np.int64]
BatchKey = tuple[list[int], int]


@dataclass(frozen=True)
class Films:
    """Films of a cache.

    Attributes:
        pixels: (M, S, S) uint8 memory map.
        rows: (N,) into it.
        targets: (N,) class indices.
        lungs: (M, S, S) uint8 memory map, 1 in the lungs; only where augmentation needs it.
    """

    pixels: npt.NDArray[np.uint8]
    rows: IntArray
    targets: IntArray
    lungs: npt.NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.rows)


class BatchOrder(Sampler[BatchKey]):
    """Yields (positions of a batch, seed of its augmentation), shuffled anew in each epoch.

    Args:
        targets: (N,) class index of each film.
        batch_size: films a batch; a last batch of one film is dropped (batch norm needs two).
        seed: with the epoch, the source of order and augmentation.
        balanced: draw every class equally often, with replacement.
    """

    def __init__(self, targets: IntArray, batch_size: int, seed: int, *, balanced: bool = False) -> None:
        self.targets = targets
        self.batch_size = batch_size
        self.seed = seed
        self.balanced = balanced
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        count, rest = divmod(len(self.targets), self.batch_size)
        return count + (rest > 1)

    def __iter__(self) -> Iterator[BatchKey]:
        rng = np.random.default_rng((self.seed, self.epoch))
        if self.balanced:
            weight = 1.0 / np.bincount(self.targets)[self.targets]
            order = rng.choice(len(self.targets), len(self.targets), p=weight / weight.sum())
        else:
            order = rng.permutation(len(self.targets))
        for number in range(len(self)):
            start = number * self.batch_size
            yield order[start : start + self.batch_size].tolist(), int(rng.integers(2**62))


class InOrder(Sampler[BatchKey]):
    """Yields every film once, in order, for validation."""

    def __init__(self, count: int, batch_size: int = 64) -> None:
        self.count = count
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def __iter__(self) -> Iterator[BatchKey]:
        for start in range(0, self.count, self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.count))), 0


class FilmBatches(Dataset[tuple[Tensor, Tensor]]):
    """Augmented batches by key: (B, 1, S, S) float32 in [0, 1] and (B,) targets.

    Args:
        films: what the batches are made of.
        augmentation: how the films are changed.
        soft_targets: (N, K) class probabilities; with them the targets of a batch are (B, K), and films
            whose lungs are hidden belong to all classes alike.
        mixing: how films are mixed with one another; for soft targets only.
    """

    def __init__(
        self,
        films: Films,
        augmentation: AugmentationConfig,
        soft_targets: Tensor | None = None,
        mixing: MixingConfig | None = None,
    ) -> None:
        self.films = films
        self.augmentation = augmentation
        self.soft_targets = soft_targets
        self.mixing = mixing or MixingConfig()

    def __getitem__(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        positions, seed = key
        rows = self.films.rows[positions]
        pixels = torch.from_numpy(self.films.pixels[rows])
        lungs = None if self.films.lungs is None else torch.from_numpy(self.films.lungs[rows])
        generator = torch.Generator().manual_seed(seed)
        films, hidden = augment(pixels, self.augmentation, generator, lungs)
        if self.soft_targets is None:
            return films, torch.from_numpy(self.films.targets[positions])
        targets = self.soft_targets[positions]
        targets[hidden] = 1 / targets.shape[1]
        return mix(films, targets, self.mixing, generator)


class FeatureBatches(Dataset[tuple[Tensor, Tensor]]):
    """Batches of features that were computed once; the network's body is not run again."""

    def __init__(self, features: Tensor, targets: IntArray) -> None:
        self.features = features
        self.targets = torch.from_numpy(targets)

    def __getitem__(self, key: BatchKey) -> tuple[Tensor, Tensor]:
        positions, _ = key
        return self.features[positions].float(), self.targets[positions]


def film_loader(batches: Dataset[tuple[Tensor, Tensor]], order: Sampler[BatchKey]) -> DataLoader:
    """A loader in this process whose samples are whole batches."""
    return DataLoader(batches, sampler=order, batch_size=None, num_workers=0)


def plain_batches(films: Films, batch_size: int) -> Iterator[Tensor]:
    """(B, 1, S, S) float32 batches of all films in order, without augmentation."""
    for start in range(0, len(films), batch_size):
        yield to_unit(torch.from_numpy(films.pixels[films.rows[start : start + batch_size]]))
