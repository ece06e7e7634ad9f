"""Batches of training images, straight from the memory-mapped uint8 cache.

A batch is one fancy index into the memory map and a few batched operations in this process, so that there is
nothing to wait for. Order and augmentation of an epoch follow from (seed, epoch) alone, so that a resumed run
sees what it would have seen.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pneumoscope.imaging.preprocessing import middle
from pneumoscope.learning.augmentation import augment, mix, to_unit
from pneumoscope.learning.config import AugmentationConfig, MixingConfig

IntArray = npt.NDArray[np.int64]
Pixels = npt.NDArray[np.uint8]
BatchKey = tuple[list[int], int]
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Films:
    """Images of a cache.

    Attributes:
        pixels: (M, C, C) uint8 memory map, the model input in its middle.
        rows: (N,) into it.
        targets: (N,) class indices.
        size: side S of the model input; None is C.
        lungs: (N, F) shapes of the lungs, for the gate; None where nobody looked for them.
    """

    pixels: Pixels
    rows: IntArray
    targets: IntArray
    size: int | None = None
    lungs: npt.NDArray[np.float64] | None = None

    def reordered(self, order: IntArray) -> Films:
        """The same images in another order."""
        lungs = None if self.lungs is None else self.lungs[order]
        return Films(self.pixels, self.rows[order], self.targets[order], self.size, lungs)

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as a file name: another process maps the cache itself instead of being sent a copy."""
        return _map_again, (_file_of(self.pixels), self.rows, self.targets, self.size)


def _file_of(pixels: Pixels | None) -> Any:
    if isinstance(pixels, np.memmap) and isinstance(pixels.base, mmap.mmap):
        return pixels.filename, pixels.offset, pixels.shape
    return pixels


def _map_again(pixels: Any, rows: IntArray, targets: IntArray, size: int | None) -> Films:
    def mapped(stored: Any) -> Any:
        if not isinstance(stored, tuple):
            return stored
        file, offset, shape = stored
        return np.memmap(file, np.uint8, "r", offset, shape)

    return Films(mapped(pixels), rows, targets, size)


class Order(Protocol):
    """Which images make up the batches of an epoch."""

    def __len__(self) -> int:
        """Batches an epoch."""

    def epoch(self, number: int) -> Iterator[BatchKey]:
        """(positions of a batch, seed of its augmentation), batch by batch."""


class BatchOrder:
    """Order of training: shuffled anew in each epoch.

    Args:
        targets: (N,) class index of each image.
        batch_size: images a batch; a last batch of one image is dropped (batch norm needs two).
        seed: with the epoch, the source of order and augmentation.
        balanced: draw every class equally often, with replacement.
    """

    def __init__(self, targets: IntArray, batch_size: int, seed: int, *, balanced: bool = False) -> None:
        self.targets = targets
        self.batch_size = batch_size
        self.seed = seed
        self.balanced = balanced

    def __len__(self) -> int:
        count, rest = divmod(len(self.targets), self.batch_size)
        return count + (rest > 1)

    def epoch(self, number: int) -> Iterator[BatchKey]:
        """See :class:`Order`."""
        rng = np.random.default_rng((self.seed, number))
        if self.balanced:
            weight = 1.0 / np.bincount(self.targets)[self.targets]
            order = rng.choice(len(self.targets), len(self.targets), p=weight / weight.sum())
        else:
            order = rng.permutation(len(self.targets))
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size].tolist(), int(rng.integers(2**62))


class InOrder:
    """Order of validation: every image once, the same in each epoch."""

    def __init__(self, count: int, batch_size: int = 64) -> None:
        self.count = count
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-self.count // self.batch_size)

    def epoch(self, number: int) -> Iterator[BatchKey]:
        """See :class:`Order`."""
        for start in range(0, self.count, self.batch_size):
            yield list(range(start, min(start + self.batch_size, self.count))), 0


class FilmBatches:
    """Augmented batches by key: (B, 1, S, S) float32 in [0, 1] and (B,) targets.

    Args:
        films: what the batches are made of.
        augmentation: how the images are changed.
        soft_targets: (N, K) class probabilities; with them the targets of a batch are (B, K).
        mixing: how images are mixed with one another; for soft targets only.
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

    def __getitem__(self, key: BatchKey) -> Batch:
        positions, seed = key
        rows = self.films.rows[positions]
        pixels = torch.from_numpy(self.films.pixels[rows])
        generator = torch.Generator().manual_seed(seed)
        films = augment(pixels, self.augmentation, generator, self.films.size)
        if self.soft_targets is None:
            return films, torch.from_numpy(self.films.targets[positions])
        return mix(films, self.soft_targets[positions], self.mixing, generator)


class FeatureBatches:
    """Batches of features that were computed once; the network's body is not run again."""

    def __init__(self, features: Tensor, targets: IntArray) -> None:
        self.features = features
        self.targets = torch.from_numpy(targets)

    def __getitem__(self, key: BatchKey) -> Batch:
        positions, _ = key
        return self.features[positions].float(), self.targets[positions]


@dataclass(frozen=True)
class Loader:
    """The batches of an epoch, made one by one in this process."""

    batches: FilmBatches | FeatureBatches
    order: Order

    def __len__(self) -> int:
        return len(self.order)

    def epoch(self, number: int = 0, rank: int = 0, ranks: int = 1) -> Iterator[Batch]:
        """Batches of epoch ``number``; of every ``ranks`` batches the one that ``rank`` is to train on."""
        for key in islice(self.order.epoch(number), rank, None, ranks):
            yield self.batches[key]


def plain_batches(films: Films, batch_size: int) -> Iterator[Tensor]:
    """(B, 1, S, S) float32 batches of all images in order, without augmentation."""
    for start in range(0, len(films), batch_size):
        pixels = films.pixels[films.rows[start : start + batch_size]]
        yield to_unit(torch.from_numpy(pixels if films.size is None else middle(pixels, films.size)))
