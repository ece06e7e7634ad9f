"""The training loop: epochs of steps, validation, checkpoints, early stopping.

It stands on Lightning Fabric, so that devices, precision and strategy are configuration. A run that was
killed goes on from its last finished epoch and ends with the weights that it would have had, bit for bit:
order, augmentation and dropout of a step follow from (seed, epoch, step), everything else is in the
checkpoint.
"""

from __future__ import annotations

import csv
import ctypes
import io
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from lightning.fabric.loggers import TensorBoardLogger
from lightning.fabric.strategies import DDPStrategy
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.core.files import atomic_path, write_text
from pneumoscope.learning.batches import Loader
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.networks import Network
from pneumoscope.learning.staging import (
    learning_rate_factor,
    make_optimiser,
    set_learning_rate,
    set_trainable,
    trainable_blocks,
)

CHECKPOINT_FORMAT = 2
"""Of ``last.ckpt``. Lightning's trainer wrote the one before; such a run cannot go on."""

# Parameter numbers of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_INT = 2**31 - 1


@dataclass(frozen=True)
class EpochReport:
    """One row of ``history.csv``. ``waiting_share`` is the share of the step time spent making batches."""

    epoch: int
    stage: str
    train_loss: float
    validation_loss: float
    validation_auc: float
    validation_accuracy: float
    learning_rate: float
    images_per_second: float
    waiting_share: float


class TrainingListener(Protocol):
    """Progress callback of a run; the command line draws it."""

    def stage(self, message: str) -> None:
        """Called when a new stage of the run begins."""

    def step(self, done: int, total: int, images_per_second: float) -> None:
        """Called after each step: steps done and in all, over all epochs."""

    def epoch(self, report: EpochReport, epochs: int) -> None:
        """Called after each epoch."""


@dataclass(frozen=True)
class TrainingData:
    """Batches of images, or of features with stage ``frozen``; weights (K,) of the classes in the loss."""

    training: Loader
    validation: Loader
    class_weights: Tensor | None = None


def fit(
    network: Network,
    config: TrainConfig,
    data: TrainingData,
    directory: Path,
    listener: TrainingListener | None = None,
) -> None:
    """Train ``network`` and leave the weights of its best epoch in it (the last: ``checkpoint = "last"``).

    Args:
        network: changed in place; it ends on the CPU and in evaluation mode.
        config: steers the loop.
        data: training and validation batches.
        directory: for ``history.csv``, ``tensorboard/`` and ``checkpoints/``; when it holds
            ``checkpoints/last.ckpt``, training goes on from there.
        listener: called after steps and epochs; what it raises ends the training and comes out of here. With
            several devices each has a process of its own, and the listener hears nothing.

    Raises:
        ConfigError: a stage is to train more blocks than the network has.
        UnreadableFileError: the checkpoint was written by another version.
    """
    for epoch in range(config.epochs):
        set_trainable(network, trainable_blocks(config, epoch))
    fabric = Fabric(
        accelerator=config.accelerator,
        devices=config.devices,
        strategy=_strategy(config),
        precision=_precision(config),
        loggers=TensorBoardLogger(directory, name="tensorboard", version=""),
    )
    heard = listener if config.devices == 1 else None
    train = partial(_train, config=config, data=data, directory=directory, listener=heard)
    with _algorithms(config.deterministic):
        try:
            fabric.launch(train, network)
        finally:
            fabric.logger.finalize("done")
    kept = directory / "checkpoints" / f"{config.checkpoint}.ckpt"
    state = torch.load(kept, map_location="cpu", weights_only=True)["state_dict"]
    network.cpu().load_state_dict(state)
    network.eval()


def _train(
    fabric: Fabric,
    network: Network,
    config: TrainConfig,
    data: TrainingData,
    directory: Path,
    listener: TrainingListener | None,
) -> None:
    """The loop, in each process that trains."""
    run = _Run(fabric, network, config, data, directory)
    run.resume()
    while run.epoch < config.epochs and run.waiting < config.patience:
        set_trainable(network, trainable_blocks(config, run.epoch))
        train_loss, images_per_second, waiting_share = run.train(listener)
        figures = validation_figures(fabric, run.judged, data.validation)
        done = (run.epoch + 1) * run.steps
        report = EpochReport(
            epoch=run.epoch,
            stage=config.stage,
            train_loss=train_loss,
            validation_loss=figures["loss"],
            validation_auc=figures["auc"],
            validation_accuracy=figures["accuracy"],
            learning_rate=config.learning_rate * learning_rate_factor(done, run.total, config),
            images_per_second=images_per_second,
            waiting_share=waiting_share,
        )
        run.record(report)
        if listener:
            listener.epoch(report, config.epochs)
        run.finish_epoch(report.validation_loss)


class Classifier(nn.Module):
    """Logits (B, K) of images (B, 1, S, S), or of features where the head alone is trained."""

    def __init__(self, network: Network, *, on_features: bool) -> None:
        super().__init__()
        self.network = network
        self.on_features = on_features

    def forward(self, batch: Tensor) -> Tensor:
        """See the class."""
        logits: Tensor = self.network.classify(batch) if self.on_features else self.network(batch)[0]
        return logits


class _Run:
    """What one process trains, and how far it is.

    Attributes:
        epoch: the epoch that comes next.
        best: lowest validation loss so far.
        waiting: epochs since then.
        steps, total: optimiser steps an epoch and in all.
        judged: what is validated and kept: the average of the weights, or the weights.
    """

    def __init__(
        self, fabric: Fabric, network: Network, config: TrainConfig, data: TrainingData, directory: Path
    ) -> None:
        self.fabric, self.config, self.data, self.directory = fabric, config, data, directory
        self.epoch, self.best, self.waiting = 0, math.inf, 0
        self.rows: list[dict[str, Any]] = []
        self.steps = len(data.training) // fabric.world_size
        self.total = max(1, self.steps * config.epochs)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing from torch's stubs
        # Several devices agree on the parameters here, and those frozen for a while must be among them.
        set_trainable(network, 0 if config.stage == "frozen" else None)
        classifier = Classifier(network, on_features=config.stage == "frozen")
        self.model, self.optimiser = fabric.setup(classifier, make_optimiser(network, config))
        weights = data.class_weights
        self.class_weights = None if weights is None else fabric.to_device(weights)
        self.judged: Classifier = classifier
        self.average: AveragedModel | None = None
        if config.ema_decay:
            update = rising_average(config.ema_decay)
            self.average = AveragedModel(classifier, multi_avg_fn=update, use_buffers=True)
            self.judged = cast(Classifier, self.average.module)

    def train(self, listener: TrainingListener | None) -> tuple[float, float, float]:
        """Train for an epoch; mean loss, images a second, share of the time spent making batches."""
        fabric, ranks, rank = self.fabric, self.fabric.world_size, self.fabric.global_rank
        loss_sum, images, waited = torch.zeros((), device=fabric.device), 0, 0.0
        self.model.train()
        began = asked = time.perf_counter()
        for number, batch in enumerate(islice(self.data.training.epoch(self.epoch, rank, ranks), self.steps)):
            inputs, targets = fabric.to_device(batch)
            waited += time.perf_counter() - asked
            step = self.epoch * self.steps + number
            set_learning_rate(self.optimiser, learning_rate_factor(step, self.total, self.config))
            _seed_dropout(self.config.seed, self.epoch, number * ranks + rank)
            loss_sum += self.step(inputs, targets) * len(targets)
            images += len(targets)
            asked = time.perf_counter()
            if listener:
                listener.step(step + 1, self.total, images / (asked - began))
        seconds = max(asked - began, 1e-9)
        mean_loss = cast(Tensor, fabric.all_reduce(loss_sum / max(1, images)))
        return float(mean_loss), ranks * images / seconds, waited / seconds

    def step(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """One optimiser step on weighted cross-entropy with label smoothing; the loss."""
        smoothing = self.config.label_smoothing
        loss = F.cross_entropy(
            self.model(inputs), targets, weight=self.class_weights, label_smoothing=smoothing
        )
        self.optimiser.zero_grad()
        self.fabric.backward(loss)
        if self.config.gradient_clip:
            limit = self.config.gradient_clip
            self.fabric.clip_gradients(self.model, self.optimiser, max_norm=limit, error_if_nonfinite=False)
        self.optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.model.module)
        return loss.detach()

    def record(self, report: EpochReport) -> None:
        """Add an epoch to ``history.csv`` and to TensorBoard's log."""
        if not self.fabric.is_global_zero:
            return
        row = asdict(report)
        self.rows.append(row)
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(EpochReport)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.directory / "history.csv", text.getvalue())
        figures = {name: value for name, value in row.items() if isinstance(value, float)}
        self.fabric.log_dict(figures, step=(self.epoch + 1) * self.steps)

    def finish_epoch(self, validation_loss: float) -> None:
        """Count the epoch, and write ``best.ckpt`` where it is the best one, and ``last.ckpt``."""
        better = validation_loss < self.best or self.epoch == 0
        if better:
            self.best, self.waiting = validation_loss, 0
        else:
            self.waiting += 1
        if not math.isfinite(validation_loss):
            self.waiting = self.config.patience  # it has diverged
        kept = {"epoch": self.epoch, "state_dict": self.judged.network.state_dict()}
        self.epoch += 1
        if better:
            self._save("best.ckpt", kept)
        state = {
            "format": CHECKPOINT_FORMAT,
            "model": self.model.module.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "averaged": 0 if self.average is None else int(self.average.n_averaged),
            "best": self.best,
            "waiting": self.waiting,
        }
        self._save("last.ckpt", {**kept, **state})

    def resume(self) -> None:
        """Go on from ``last.ckpt``, where there is one.

        Raises:
            UnreadableFileError: another version wrote it.
        """
        file = self.directory / "checkpoints" / "last.ckpt"
        if not file.exists():
            return
        state = torch.load(file, map_location=self.fabric.device, weights_only=True)
        if state.get("format") != CHECKPOINT_FORMAT:
            raise UnreadableFileError(
                "this checkpoint was written by another version",
                where=file,
                expected=f"format {CHECKPOINT_FORMAT}",
                remedy="train anew in another folder",
            )
        self.judged.network.load_state_dict(state["state_dict"])
        self.model.module.network.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.average is not None:
            self.average.n_averaged.fill_(state["averaged"])
        self.epoch, self.best, self.waiting = state["epoch"] + 1, state["best"], state["waiting"]
        with open(self.directory / "history.csv", newline="", encoding="utf-8") as stream:
            self.rows = [row for row in csv.DictReader(stream) if int(row["epoch"]) < self.epoch]

    def _save(self, name: str, content: dict[str, Any]) -> None:
        """Write a checkpoint that is never half there."""
        if self.fabric.is_global_zero:
            with atomic_path(self.directory / "checkpoints" / name) as temporary:
                torch.save(content, temporary)


def validation_figures(fabric: Fabric, classifier: Classifier, loader: Loader) -> dict[str, float]:
    """Class-balanced log loss, accuracy and AUC of pneumonia over all of ``loader``, by the first process.

    Keys are ``loss``, ``accuracy`` and ``auc``, which is NaN where all images are of one kind and where the
    network has diverged.
    """
    found: dict[str, float] = {}
    if fabric.is_global_zero:
        classifier.eval()
        scored: list[tuple[Tensor, Tensor]] = []
        with torch.inference_mode(), fabric.autocast():
            for inputs, targets in loader.epoch():
                scored.append((classifier(fabric.to_device(inputs)).float().cpu(), targets))
        logits, targets = (torch.cat(part) for part in zip(*scored, strict=True))
        found = figures_of(logits, targets)
    return dict(fabric.broadcast(found))


def figures_of(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """The figures of :func:`validation_figures` for logits (N, K) and class indices (N,)."""
    per_image = F.cross_entropy(logits, targets, reduction="none")
    present = [targets == number for number in range(logits.shape[1]) if (targets == number).any()]
    probability = 1 - logits.softmax(dim=1)[:, 0]
    ill = targets > 0
    has_auc = bool(ill.any() and not ill.all() and probability.isfinite().all())
    return {
        "loss": float(torch.stack([per_image[chosen].mean() for chosen in present]).mean()),
        "accuracy": float(((probability >= 0.5) == ill).float().mean()),
        "auc": float(roc_auc_score(ill, probability)) if has_auc else math.nan,
    }


def _seed_dropout(seed: int, epoch: int, batch: int) -> None:
    """Let dropout follow from the batch, so that a resumed run drops what it would have dropped."""
    torch.manual_seed(int(np.random.default_rng((seed, epoch, batch)).integers(2**62)))


def rising_average(decay: float) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    """Exponential moving average whose decay rises with the step n as (1 + n) / (10 + n), up to ``decay``.

    A fixed decay would keep the starting weights in the average of a short run (TensorFlow's
    ExponentialMovingAverage rises in the same way).
    """

    @torch.no_grad()
    def update(average: Sequence[Tensor], current: Sequence[Tensor], count: Tensor | int) -> None:
        steps = int(count)
        weight = 1 - min(decay, (1 + steps) / (10 + steps))
        for mean, value in zip(average, current, strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, weight)
            else:
                mean.copy_(value)

    return update


def _strategy(config: TrainConfig) -> Any:
    """Several devices: a process each, started for the loop alone, gradients averaged (DDP)."""
    if config.strategy != "auto" or config.devices == 1:
        return config.strategy
    return DDPStrategy(start_method="spawn", find_unused_parameters=config.stage != "full")


def _precision(config: TrainConfig) -> Any:
    """bfloat16 where it pays on a CPU (ResNets, see docs/benchmarks.md) and on every GPU; else float32."""
    if config.precision != "auto":
        return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[config.precision]
    gpu = config.accelerator != "cpu" and torch.cuda.is_available()
    return "bf16-mixed" if gpu or config.network.startswith("resnet") else "32-true"


@contextmanager
def _algorithms(deterministic: bool) -> Iterator[None]:
    """Deterministic algorithms, or not, for the time of a training."""
    before = torch.are_deterministic_algorithms_enabled()
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS wants it for that
    torch.use_deterministic_algorithms(deterministic)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def keep_large_buffers() -> bool:
    """Raise glibc's mmap and trim thresholds to 2 GiB for this process; False where there is no glibc.

    Every step allocates and frees the same activations. By default each is a fresh memory map, and half of a
    CPU training step goes into page faults (docs/benchmarks.md).
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(M_MMAP_THRESHOLD, LARGEST_INT) and libc.mallopt(M_TRIM_THRESHOLD, LARGEST_INT))
