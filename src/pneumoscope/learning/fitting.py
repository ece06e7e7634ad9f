"""Runs the training loop: Lightning's trainer with checkpoints, early stopping, averaging and a history.

In: a module, two loaders, a run folder. Out: the folder's ``checkpoints/``, ``tensorboard/`` and
``history.csv``, and the module with the best weights. A killed run goes on from its last finished epoch.
"""

from __future__ import annotations

import csv
import io
import logging
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor
from torch.utils.data import DataLoader

from pneumoscope.core.files import atomic_path, write_text
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.module import FilmClassifier


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
    """What wants to hear of the progress of a run; the command line draws it."""

    def stage(self, message: str) -> None:
        """Told when a new stage of the run begins."""

    def step(self, done: int, total: int, images_per_second: float) -> None:
        """Told after each step: steps done and in all, over all epochs."""

    def epoch(self, report: EpochReport, epochs: int) -> None:
        """Told after each epoch."""


class _Monitor(Callback):
    """Measures speed, tells the listener, keeps the history."""

    def __init__(self, file: Path, stage: str, listener: TrainingListener | None) -> None:
        self.file = file
        self.stage_name = stage
        self.listener = listener
        self.rows: list[dict[str, Any]] = []
        self.films = 0
        self.waited = 0.0
        self.epoch_start = self.batch_end = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.file.exists():
            with open(self.file, newline="", encoding="utf-8") as stream:
                rows = list(csv.DictReader(stream))
            self.rows = [row for row in rows if int(row["epoch"]) < trainer.current_epoch]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.films = 0
        self.waited = 0.0
        self.epoch_start = self.batch_end = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.waited += time.perf_counter() - self.batch_end

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.films += len(batch[1])
        self.batch_end = time.perf_counter()
        if self.listener:
            total = int(trainer.num_training_batches) * int(trainer.max_epochs or 1)
            done = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1
            self.listener.step(done, total, self.films / (self.batch_end - self.epoch_start))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        training_time = max(self.batch_end - self.epoch_start, 1e-9)
        report = EpochReport(
            epoch=trainer.current_epoch,
            stage=self.stage_name,
            train_loss=metrics["train_loss"],
            validation_loss=metrics["validation_loss"],
            validation_auc=metrics["validation_auc"],
            validation_accuracy=metrics["validation_accuracy"],
            learning_rate=trainer.optimizers[0].param_groups[-1]["lr"],
            images_per_second=self.films / training_time,
            waiting_share=self.waited / training_time,
        )
        self.rows.append(asdict(report))
        text = io.StringIO()
        writer = csv.DictWriter(text, [field.name for field in fields(EpochReport)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.file, text.getvalue())
        if self.listener:
            self.listener.epoch(report, int(trainer.max_epochs or 1))


class _Patience(EarlyStopping):
    """Early stopping that also remembers, in a run that goes on, that its patience had run out."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.should_stop = self.wait_count >= self.patience


class _WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are never half-written; Lightning's are, where /tmp is another file system."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        with atomic_path(Path(path)) as temporary:
            torch.save(checkpoint, temporary)


def fit(
    module: FilmClassifier,
    loaders: tuple[DataLoader, DataLoader],
    directory: Path,
    listener: TrainingListener | None = None,
) -> None:
    """Train ``module`` and leave the weights of its best epoch in it (the last: ``checkpoint = "last"``).

    Args:
        module: what is trained; its config steers the loop.
        loaders: training and validation batches.
        directory: run folder; when it holds ``checkpoints/last.ckpt``, training goes on from there.
        listener: told of steps and epochs; what it raises ends the training and comes out of here.

    Raises:
        KeyboardInterrupt: the user stopped it; it goes on from its last finished epoch when called again.
    """
    config = module.config
    checkpoints = directory / "checkpoints"
    callbacks: list[Callback] = [
        _Monitor(directory / "history.csv", config.stage, listener),
        _Patience("validation_loss", patience=config.patience),
        ModelCheckpoint(checkpoints, "best", monitor="validation_loss", enable_version_counter=False),
        # Not the other's save_last, which is written only when the best is.
        ModelCheckpoint(checkpoints, "last", enable_version_counter=False),
    ]
    if config.ema_decay:
        callbacks.append(WeightAveraging(multi_avg_fn=_rising_average(config.ema_decay)))
    last = checkpoints / "last.ckpt"
    with _quiet_lightning():
        trainer = Trainer(
            max_epochs=config.epochs,
            callbacks=callbacks,
            logger=TensorBoardLogger(directory, name="tensorboard", version=""),
            default_root_dir=directory,
            accelerator="auto",
            devices=1,
            precision=_precision(config),
            gradient_clip_val=config.gradient_clip,
            deterministic=config.deterministic,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            plugins=[_WholeCheckpoints()],
            log_every_n_steps=10,
        )
        with _interruptible():
            trainer.fit(module, *loaders, ckpt_path=last if last.exists() else None, weights_only=True)
    kept = checkpoints / f"{config.checkpoint}.ckpt"
    state = torch.load(kept, map_location="cpu", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    module.eval()


@contextmanager
def _interruptible() -> Iterator[None]:
    """Hand an interruption on to the caller: Lightning ignores further ones and ends the process itself."""
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if not isinstance(end.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, handler)
        raise KeyboardInterrupt from end


def _precision(config: TrainConfig) -> Any:
    """bfloat16 where it pays on a CPU (ResNets, see docs/benchmarks.md) and on every GPU; else float32."""
    if config.precision != "auto":
        return {"32": "32-true", "bf16": "bf16-mixed"}[config.precision]
    pays = torch.cuda.is_available() or config.network.startswith("resnet")
    return "bf16-mixed" if pays else "32-true"


def _rising_average(decay: float) -> Any:
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


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Keep Lightning's hints off the terminal; what they advise against here is on purpose."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # Batches come from a memory map; worker processes would only take a core from the network.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # A resumed run finds its own checkpoints.
            warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
            warnings.filterwarnings("ignore", message=".*The number of training batches.*")
            # Frozen blocks stay in evaluation mode.
            warnings.filterwarnings("ignore", message=".*in eval mode at the start of training.*")
            # Lightning asks for a class that torch 2.12 has deprecated.
            warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
