"""What every network is: an answer and the feature map that it was read from, behind one small interface.

Every network answers with its logits *and* its last feature map, because the heat map and the
out-of-distribution score are made from that map without a second pass.

In: a :class:`NetworkConfig` (name, classes, dropout). Out: a :class:`Network` that takes films
(N, 1, S, S) float32 in [0, 1] of any side S and normalises them itself.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from pneumoscope.core.config import Config

# Of the ImageNet training pictures in [0, 1], red, green, blue: what most published weights expect
# (He et al. 2016 and the model cards of the weights in learning/pretrained.py).
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class NetworkConfig(Config):
    """Which network, for how many classes.

    Attributes:
        name: one of ``networks.NETWORKS``, or ``hf:<name or local folder>`` for an image backbone that
            transformers can build.
        classes: number of logits K.
        dropout: probability with which the head drops an input while training.
        size: side S of the films that it will see; only backbones with position embeddings use it.
        dense_layers: widths of the head's hidden dense layers.
        output_stride: pixels of the film for one cell of the last feature map. 16 keeps twice as many cells
            along each side as the published 32.
        dilated: with a finer map, the convolutions behind the last stride keep the reach that their published
            weights have, by dilation; without, they see half as far, and heat maps smear less.
    """

    name: str = "mobilenet-v2"
    classes: int = Field(default=3, ge=2)
    dropout: float = Field(default=0.2, ge=0.0, lt=1.0)
    size: int = Field(default=224, ge=16, le=2048)
    dense_layers: tuple[int, ...] = ()
    output_stride: Literal[16, 32] = 32
    dilated: bool = True


class Network(nn.Module):
    """Base of all networks: ``forward(x) -> (logits, features)``.

    Subclasses set :attr:`head` and define :meth:`features`; a head that is a :class:`PooledHead` makes class
    activation maps possible.
    """

    head: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self._frozen: list[nn.Module] = []

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, K) and features (N, C, h, w) of films (N, 1, S, S) in [0, 1]."""
        features = self.features(images)
        return self.classify(features), features

    def features(self, images: Tensor) -> Tensor:
        """The last feature map (N, C, h, w) of films (N, 1, S, S) in [0, 1]."""
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """Logits (N, K) of a feature map (N, C, h, w)."""
        logits: Tensor = self.head(features)
        return logits

    def blocks(self) -> list[nn.Module]:
        """The parts from input to output, the head last; transfer stages and layer-wise rates count them."""
        raise NotImplementedError

    def head_weight(self) -> Tensor | None:
        """Weights (K, C) of the linear head on the pooled features, or None when there is no such head.

        The class activation map of class k is the feature map weighted by row k (Zhou et al., CVPR 2016).
        """
        if not isinstance(self.head, PooledHead) or len(self.head.hidden):
            return None
        return self.head.linear.weight.detach()

    def freeze(self, modules: list[nn.Module]) -> None:
        """Exclude exactly ``modules`` from training: no gradients, and always in evaluation mode.

        A frozen batch norm that kept updating its statistics would change the features under the head.
        """
        for parameter in self.parameters():
            parameter.requires_grad_(True)
        for module in modules:
            for parameter in module.parameters():
                parameter.requires_grad_(False)
        self._frozen = list(modules)
        self.train(self.training)

    def train(self, mode: bool = True) -> Network:
        """Set training mode, except in what is frozen."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self


class PooledHead(nn.Module):
    """Global average pooling, dropout, dense layers: features (N, C, h, w) to logits (N, K).

    Args:
        channels: C.
        config: classes, dropout, and the widths of hidden layers, each with ReLU and dropout; without them
            the head is one linear layer.
    """

    def __init__(self, channels: int, config: NetworkConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.dropout)
        self.hidden = nn.Sequential()
        for width in config.dense_layers:
            self.hidden.extend([nn.Linear(channels, width), nn.ReLU(), nn.Dropout(config.dropout)])
            channels = width
        self.linear = nn.Linear(channels, config.classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.linear(self.hidden(self.dropout(features.mean(dim=(2, 3)))))
        return logits


class ColourInput(nn.Module):
    """Repeats a film (N, 1, S, S) in [0, 1] to three channels, normalised as pretrained weights expect."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Films (N, 3, S, S)."""
        return (images - self.mean) / self.std
