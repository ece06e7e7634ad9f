"""What is trained, and how fast: frozen blocks, layer-wise learning rates, features computed once.

In: a :class:`~pneumoscope.learning.network.Network`, whose ``blocks()`` run from the input to the head.
Out: parameter groups for an optimiser, a network with frozen blocks, or its features.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pneumoscope.core.errors import ConfigError
from pneumoscope.core.records import Progress
from pneumoscope.learning.network import Network, PooledHead


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
    network: Network,
    learning_rate: float,
    weight_decay: float,
    layer_decay: float = 1.0,
    trainable_blocks: int | None = None,
) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, from the input to the head.

    The head learns at ``learning_rate``, each block before it at ``layer_decay`` times the rate of the next
    (Clark et al., ELECTRA, ICLR 2020). Norms and biases get no weight decay (He et al., CVPR 2019, section
    3.1).

    Args:
        network: whose parameters are grouped, also those that are frozen at present.
        learning_rate: of the head.
        weight_decay: of weights.
        layer_decay: in (0, 1]; 1 gives every block the same rate.
        trainable_blocks: blocks before the head to include; None includes all.

    Returns:
        One dict per block and kind, with ``params``, ``lr``, ``weight_decay`` and ``name``.
    """
    blocks = network.blocks()
    first = 0 if trainable_blocks is None else len(blocks) - 1 - trainable_blocks
    position = _positions(network, blocks)
    groups: dict[tuple[int, bool], dict[str, Any]] = {}
    for name, parameter in network.named_parameters():
        index = position.get(name, 0)
        if index < first:
            continue
        # Weights of convolutions and dense layers have at least two axes; norms, biases and scales have one.
        decays = parameter.dim() > 1
        group = groups.setdefault(
            (index, decays),
            {
                "params": [],
                "lr": learning_rate * layer_decay ** (len(blocks) - 1 - index),
                "weight_decay": weight_decay if decays else 0.0,
                "name": f"block-{index}-{'weights' if decays else 'norms-and-biases'}",
            },
        )
        group["params"].append(parameter)
    return [groups[key] for key in sorted(groups)]


def compute_features(
    network: Network, batches: Iterable[Tensor], *, progress: Progress | None = None, total: int = 0
) -> Tensor:
    """Features of films, computed once in evaluation mode so that a head can be trained on them alone.

    Args:
        network: left in the mode that it had.
        batches: films (B, 1, S, S) float32 in [0, 1].
        progress: called with the films done and ``total``.
        total: films in all batches.

    Returns:
        (N, C, 1, 1) float32, the pooled map, when the head pools anyway (``classify`` gives the same logits);
        otherwise the map (N, C, h, w).
    """
    training = network.training
    network.eval()
    pooled = isinstance(network.head, PooledHead)
    collected: list[Tensor] = []
    done = 0
    with torch.inference_mode():
        for batch in batches:
            features = network.features(batch)
            collected.append(features.mean(dim=(2, 3), keepdim=True) if pooled else features.contiguous())
            done += len(batch)
            if progress:
                progress(done, total)
    network.train(training)
    # Outside inference mode: a tensor made inside cannot take part in training.
    return torch.cat(collected)


def _positions(network: Network, blocks: list[nn.Module]) -> dict[str, int]:
    """Index of the block that each parameter belongs to, by the parameter's name."""
    owner = {id(parameter): index for index, block in enumerate(blocks) for parameter in block.parameters()}
    return {
        name: owner[id(parameter)] for name, parameter in network.named_parameters() if id(parameter) in owner
    }
