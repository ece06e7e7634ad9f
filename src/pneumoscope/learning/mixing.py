"""Films mixed with one another, and their targets with them.

In: an augmented batch, its class probabilities and a seeded generator. Out: a batch of mixtures, so that the
network must spread its evidence and grows less sure between the classes.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from pneumoscope.learning.config import MixingConfig


def mix(films: Tensor, targets: Tensor, config: MixingConfig, generator: Generator) -> tuple[Tensor, Tensor]:
    """Blend a batch with itself in another order (mixup), or paste patches of one into the other (cutmix).

    Args:
        films: (B, 1, S, S) float32.
        targets: (B, K) class probabilities.
        config: how often each happens; a batch undergoes at most one of them.
        generator: source of all randomness.

    Returns:
        Films and targets of the same shapes; the given ones are left alone.

    Source: mixup, Zhang et al., ICLR 2018; cutmix, Yun et al., ICCV 2019.
    """
    chance, share = torch.rand(2, generator=generator).tolist()
    partners = torch.randperm(len(films), generator=generator)
    if chance < config.mixup_probability:
        share *= config.mixup_share
        return films.lerp(films[partners], share), targets.lerp(targets[partners], share)
    if chance < config.mixup_probability + config.cutmix_probability:
        return _cut(films, targets, partners, share, generator)
    return films, targets


def _cut(
    films: Tensor, targets: Tensor, partners: Tensor, share: float, generator: Generator
) -> tuple[Tensor, Tensor]:
    """A square of ``share`` of the area comes from the partner."""
    side = films.shape[-1]
    width = round(side * math.sqrt(share))
    top, left = torch.randint(side - width + 1, (2,), generator=generator).tolist()
    patch = (..., slice(top, top + width), slice(left, left + width))
    mixed = films.clone()
    mixed[patch] = films[partners][patch]
    return mixed, targets.lerp(targets[partners], width**2 / side**2)
