"""The two training loops that bench_training compares, each run in a process of its own.

Both give images/s and the share of the step spent waiting for data, of the last epoch.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from benchmarks.material import SIZE, VALIDATION
from benchmarks.measuring import answered
from pneumoscope.core.records import Task
from pneumoscope.data.cache import build_cache
from pneumoscope.data.dataset import Dataset
from pneumoscope.learning.batches import BatchOrder, FilmBatches, Films, InOrder, Loader
from pneumoscope.learning.config import AugmentationConfig, TrainConfig
from pneumoscope.learning.loop import EpochReport, TrainingData, fit, keep_large_buffers
from pneumoscope.learning.networks import NetworkConfig, create_network

__all__ = ["train_as_pneumoscope", "train_plainly"]

BATCH = 32
EPOCHS = 2


def train_plainly(dataset: str, network: str, workers: int = 0, size: int = SIZE) -> dict[str, float]:
    """Images/s and waiting share of the plain loop's last epoch."""
    torch.manual_seed(0)
    data = Dataset.open(Path(dataset))
    pairs = zip(data.samples, _targets(data).tolist(), strict=True)
    films = [(data.file(sample), target) for sample, target in pairs][:-VALIDATION]
    loader = DataLoader(_PlainFilms(films, size), BATCH, shuffle=True, num_workers=workers)
    model = create_network(NetworkConfig(name=network, classes=3, size=size)).train()
    config = TrainConfig()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
    )
    for _ in range(EPOCHS):
        start = asked = time.perf_counter()
        waited = 0.0
        for batch, targets in loader:
            waited += time.perf_counter() - asked
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(model(batch)[0], targets).backward()
            optimiser.step()
            asked = time.perf_counter()
        taken = asked - start
    return {"images_per_second": len(films) / taken, "waiting_share": waited / taken}


class _PlainFilms(TorchDataset[tuple[Tensor, int]]):
    """(1, S, S) float32 images, decoded from their files whenever they are asked for."""

    def __init__(self, films: list[tuple[Path, int]], size: int) -> None:
        self.films = films
        self.size = size

    def __len__(self) -> int:
        return len(self.films)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        file, target = self.films[index]
        with Image.open(file) as picture:
            film = picture.convert("L").resize((self.size, self.size), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.asarray(film, dtype=np.float32) / 255).unsqueeze(0), target


class _Reports:
    """Keeps what the training loop reports of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[EpochReport] = []

    def stage(self, message: str) -> None:
        """Nobody watches."""

    def step(self, done: int, total: int, images_per_second: float) -> None:
        """Nobody watches."""

    def epoch(self, report: EpochReport, epochs: int) -> None:
        """Keep it."""
        self.epochs.append(report)


def train_as_pneumoscope(dataset: str, network: str, augment: bool, size: int = SIZE) -> dict[str, float]:
    """Images/s and waiting share of the last epoch of the loop behind ``pneumoscope train``."""
    keep_large_buffers()
    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    config = TrainConfig(
        network=network,
        init="random",
        size=size,
        epochs=EPOCHS,
        batch_size=BATCH,
        precision="32",
        augmentation=AugmentationConfig(enabled=augment),
    )
    model = create_network(NetworkConfig(name=network, classes=3, size=size))
    reports = _Reports()
    with tempfile.TemporaryDirectory() as folder:
        fit(model, config, _data(Path(dataset), config), Path(folder), reports)
    last = reports.epochs[-1]
    return {"images_per_second": last.images_per_second, "waiting_share": last.waiting_share}


def _data(dataset: Path, config: TrainConfig) -> TrainingData:
    """Training and validation batches from the cache, as learning/training makes them."""
    data = Dataset.open(dataset)
    cache = build_cache(data, config.preprocessing)
    rows, targets = cache.rows(data.samples), _targets(data)
    training = Films(cache.pixels, rows[:-VALIDATION], targets[:-VALIDATION])
    validation = Films(cache.pixels, rows[-VALIDATION:], targets[-VALIDATION:])
    unchanged = AugmentationConfig(enabled=False)
    order = BatchOrder(training.targets, config.batch_size, config.seed)
    return TrainingData(
        Loader(FilmBatches(training, config.augmentation), order),
        Loader(FilmBatches(validation, unchanged), InOrder(VALIDATION)),
    )


def _targets(data: Dataset) -> npt.NDArray[np.int64]:
    """(N,) class index of each image."""
    return np.array([Task.THREE_CLASS.target(sample.label) for sample in data.samples], dtype=np.int64)


if __name__ == "__main__":
    answered({"plain": train_plainly, "pneumoscope": train_as_pneumoscope})
