"""The Lightning module: loss, optimiser, schedule and validation figures of one network.

In: a :class:`~pneumoscope.learning.network.Network` and its configuration. Out: logged losses and the
validation figures that early stopping and the learning curves use.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import LambdaLR

from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.network import Network
from pneumoscope.learning.staging import parameter_groups, set_trainable


@dataclass(frozen=True)
class StepPlan:
    """How long the run is: optimiser steps an epoch, and epochs."""

    steps_per_epoch: int
    epochs: int

    @property
    def total(self) -> int:
        """Optimiser steps of the whole run."""
        return max(1, self.steps_per_epoch * self.epochs)


def learning_rate_factor(step: int, total: int, config: TrainConfig) -> float:
    """Learning rate at ``step`` as a share of the configured one.

    ``cosine`` rises over the warm-up and falls to zero along a half cosine (Loshchilov and Hutter 2017);
    ``one-cycle`` rises over 30 % of the steps (Smith 2018); ``constant`` stays after the warm-up.
    """
    rise = 0.3 if config.schedule == "one-cycle" else config.warmup
    rising = max(1, round(rise * total))
    if step < rising:
        return (step + 1) / rising
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - rising) / max(1, total - rising))))


class FilmClassifier(lightning.LightningModule):
    """Trains a network on (films, targets), or its head alone on (features, targets) with stage ``frozen``.

    Args:
        network: what is trained.
        config: the run's configuration.
        class_weights: (K,) weights of the loss, or None.
        plan: length of the run.

    Raises:
        ConfigError: a stage is to train more blocks than the network has.
    """

    def __init__(
        self, network: Network, config: TrainConfig, class_weights: Tensor | None, plan: StepPlan
    ) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.plan = plan
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", class_weights)
        self._scored: list[tuple[Tensor, Tensor]] = []
        if config.stage != "frozen":
            for epoch in reversed(range(plan.epochs)):
                set_trainable(network, self.trainable_blocks(epoch))

    def forward(self, batch: Tensor) -> Tensor:
        """Logits (B, K) of films (B, 1, S, S), or of features when only the head is trained."""
        if self.config.stage == "frozen":
            return self.network.classify(batch)
        logits, _ = self.network(batch)
        return logits

    def on_train_epoch_start(self) -> None:
        """Freeze and unfreeze what the stage says for this epoch."""
        if self.config.stage != "frozen":
            set_trainable(self.network, self.trainable_blocks(self.current_epoch))

    def on_train_batch_start(self, _: tuple[Tensor, Tensor], number: int) -> None:
        """Draw dropout from (seed, epoch, batch), so that a resumed run drops what it would have dropped."""
        rng = np.random.default_rng((self.config.seed, self.current_epoch, number))
        torch.manual_seed(int(rng.integers(2**62)))

    def trainable_blocks(self, epoch: int) -> int | None:
        """Blocks before the head that are trained in ``epoch``; None: all."""
        if self.config.stage == "full":
            return None
        if self.config.stage == "fine-tune-last":
            return self.config.last_blocks
        blocks = max(
            (step for step in self.config.unfreeze if step.epoch <= epoch), key=lambda s: s.epoch
        ).blocks
        return None if blocks < 0 else blocks

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Weighted cross-entropy with label smoothing."""
        films, targets = batch
        loss = F.cross_entropy(
            self(films), targets, weight=self.class_weights, label_smoothing=self.config.label_smoothing
        )
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(targets))
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Collect logits; the figures are computed over the whole validation part."""
        films, targets = batch
        self._scored.append((self(films).float().cpu(), targets.cpu()))

    def on_validation_epoch_end(self) -> None:
        """Log class-balanced log loss, accuracy and the AUC of pneumonia."""
        logits = torch.cat([scored for scored, _ in self._scored])
        targets = torch.cat([wanted for _, wanted in self._scored])
        self._scored.clear()
        per_film = F.cross_entropy(logits, targets, reduction="none")
        present = [targets == number for number in range(logits.shape[1]) if (targets == number).any()]
        loss = torch.stack([per_film[chosen].mean() for chosen in present]).mean()
        probability = 1 - logits.softmax(dim=1)[:, 0]
        ill = targets > 0
        both = bool(ill.any() and not ill.all())
        self.log_dict(
            {
                "validation_loss": loss,
                "validation_accuracy": ((probability >= 0.5) == ill).float().mean(),
                "validation_auc": float(roc_auc_score(ill, probability)) if both else math.nan,
            }
        )

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        """Optimiser over the network's parameter groups, and a schedule that steps with it."""
        optimiser = _optimiser(self.config, self._parameter_groups())
        schedule = LambdaLR(optimiser, lambda step: learning_rate_factor(step, self.plan.total, self.config))
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        if self.config.stage == "frozen":
            set_trainable(self.network, 0)
        return parameter_groups(
            self.network, self.config.learning_rate, self.config.weight_decay, self.config.layer_decay
        )


def _optimiser(config: TrainConfig, groups: list[dict[str, Any]]) -> Optimizer:
    if config.optimiser == "sgd":
        return SGD(groups, lr=config.learning_rate, momentum=0.9, nesterov=True)
    kind: type[Optimizer] = {"adamw": AdamW, "adam": Adam, "rmsprop": RMSprop}[config.optimiser]
    return kind(groups, lr=config.learning_rate)  # type: ignore[call-arg]
