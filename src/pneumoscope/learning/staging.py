"""What is trained, and how fast: frozen blocks, layer-wise learning rates, optimiser, schedule.

A network's ``blocks()`` run from the input to the head.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from pneumoscope.core.errors import ConfigError
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.networks import Network, PooledHead


def trainable_blocks(config: TrainConfig, epoch: int) -> int | None:
    """Blocks before the head that ``config.stage`` trains in ``epoch``; None: all."""
    if config.stage == "full":
        return None
    if config.stage == "frozen":
        return 0
    if config.stage == "fine-tune-last":
        return config.last_blocks
    begun = [step for step in config.unfreeze if step.epoch <= epoch]
    blocks = max(begun, key=lambda step: step.epoch).blocks
    return None if blocks < 0 else blocks


def set_trainable(network: Network, blocks: int | None) -> None:
    """Train the head and the last ``blocks`` blocks before it; freeze the rest.

    Frozen blocks get no gradients and stay in evaluation mode, so that their batch norms keep the statistics
    that they have.

    Args:
        network: changed in place.
        blocks: blocks before the head; 0 trains the head alone, None trains everything.

    Raises:
        ConfigError: the network does not have that many blocks.
    """
    body = network.blocks()[:-1]
    if blocks is not None and not 0 <= blocks <= len(body):
        raise ConfigError(
            f"cannot train the last {blocks} blocks", expected=f"0 to {len(body)} blocks before the head"
        )
    network.freeze([] if blocks is None else body[: len(body) - blocks])


def parameter_groups(
    network: Network, learning_rate: float, weight_decay: float, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, from the input to the head: of each block the weights, and the rest.

    The head learns at ``learning_rate``, each block before it at ``layer_decay`` times the rate of the next
    (Clark et al., ELECTRA, ICLR 2020). Norms and biases get no weight decay (He et al., CVPR 2019, section
    3.1). Frozen parameters are among them.

    Returns:
        One dict per block and kind, with ``params``, ``lr``, ``initial_lr``, ``weight_decay`` and ``name``.
    """
    blocks = network.blocks()
    owner = {id(parameter): index for index, block in enumerate(blocks) for parameter in block.parameters()}
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for parameter in network.parameters():
        index = owner.get(id(parameter), 0)
        # Weights of convolutions and dense layers have at least two axes; norms, biases and scales have one.
        decays = parameter.dim() > 1
        rate = learning_rate * layer_decay ** (len(blocks) - 1 - index)
        group = groups.setdefault(
            (index, decays),
            {
                "params": [],
                "lr": rate,
                "initial_lr": rate,
                "weight_decay": weight_decay if decays else 0.0,
                "name": f"block-{index}-{'weights' if decays else 'norms-and-biases'}",
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def make_optimiser(network: Network, config: TrainConfig) -> Optimizer:
    """The optimiser of ``config`` over all parameters."""
    groups = parameter_groups(network, config.learning_rate, config.weight_decay, config.layer_decay)
    if config.optimiser == "sgd":
        return SGD(groups, lr=config.learning_rate, momentum=0.9, nesterov=True)
    kind: type[Optimizer] = {"adamw": AdamW, "adam": Adam, "rmsprop": RMSprop}[config.optimiser]
    return kind(groups, lr=config.learning_rate)  # type: ignore[call-arg]


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


def set_learning_rate(optimiser: Optimizer, factor: float) -> None:
    """Set the rate of each group to ``factor`` times its initial one."""
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor


def compute_features(network: Network, batches: Iterable[Tensor]) -> Tensor:
    """Features of images, computed once in evaluation mode so that a head can be trained on them alone.

    Args:
        network: left in the mode that it had.
        batches: images (B, 1, S, S) float32 in [0, 1].

    Returns:
        (N, C, 1, 1) float32, the pooled map, when the head pools anyway (``classify`` gives the same logits);
        otherwise the map (N, C, h, w).
    """
    training = network.training
    network.eval()
    pooled = isinstance(network.head, PooledHead)
    collected: list[Tensor] = []
    with torch.inference_mode():
        for batch in batches:
            features = network.features(batch)
            collected.append(features.mean(dim=(2, 3), keepdim=True) if pooled else features.contiguous())
    network.train(training)
    # Outside inference mode: a tensor made inside cannot take part in training.
    return torch.cat(collected)
