"""Networks: the interface that all share, and those of our own definition, from a dense baseline to VGG-16.

Every network answers with its logits *and* its last feature map, because the heat map and the
out-of-distribution score are made from that map without a second pass. It takes images (N, 1, S, S) float32
in [0, 1] and normalises them itself. Published backbones are in :mod:`pneumoscope.learning.backbones`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from pneumoscope.core.config import Config
from pneumoscope.core.errors import ConfigError

# Of the ImageNet training pictures in [0, 1], red, green, blue: what most published weights expect
# (He et al. 2016 and the model cards of the weights in learning/pretrained.py).
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# Mean and standard deviation of a radiograph whose 0.5th and 99.5th percentiles were mapped to 0 and 1
# (a round figure for the Guangzhou training images); networks without pretrained weights use it.
RADIOGRAPH_MEAN, RADIOGRAPH_STD = 0.5, 0.25

# The mlp sees the image averaged to this side: 64 * 64 = 4096 inputs, no more than VGG's dense layers.
MLP_SIDE = 64


class NetworkConfig(Config):
    """Which network, for how many classes.

    Attributes:
        name: one of :func:`network_names`, or ``hf:<name or local folder>`` for an image backbone that
            transformers can build.
        classes: number of logits K.
        dropout: probability with which the head drops an input while training.
        size: side S of the images that it will see; only backbones with position embeddings use it.
        dense_layers: widths of the head's hidden dense layers.
        output_stride: pixels of the image for one cell of the last feature map. 16 keeps twice as many cells
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
        """Logits (N, K) and features (N, C, h, w) of images (N, 1, S, S) in [0, 1]."""
        features = self.features(images)
        return self.classify(features), features

    def features(self, images: Tensor) -> Tensor:
        """The last feature map (N, C, h, w) of images (N, 1, S, S) in [0, 1]."""
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
    """Repeats an image (N, 1, S, S) in [0, 1] to three channels, normalised as pretrained weights expect."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, 3, S, S)."""
        return (images - self.mean) / self.std


class Mlp(Network):
    """Dense baseline: the image averaged to 64 x 64, two hidden layers; features are (N, 128, 1, 1)."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.hidden = nn.ModuleList([nn.Linear(MLP_SIDE**2, 256), nn.Linear(256, 128)])
        self.head = PooledHead(128, config)

    def features(self, images: Tensor) -> Tensor:
        """Activations of the last hidden layer, (N, 128, 1, 1)."""
        values = functional.adaptive_avg_pool2d(_normalised(images), MLP_SIDE).flatten(1)
        for layer in self.hidden:
            values = functional.relu(layer(values))
        return values[:, :, None, None]

    def blocks(self) -> list[nn.Module]:
        """Two hidden layers and the head."""
        return [*self.hidden, self.head]

    def head_weight(self) -> None:
        """None: features without a place on the image give no map."""
        return


class SmallCnn(Network):
    """One convolution and two dense layers: the smallest network that sees texture.

    ``dense_layers`` replaces the hidden one (128).
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.convolution = nn.Sequential(_convolution(1, 32, stride=2), nn.MaxPool2d(2))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(14), nn.Flatten())
        width = 32 * 14 * 14
        for hidden in config.dense_layers or (128,):
            self.head.extend([nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(config.dropout)])
            width = hidden
        self.head.append(nn.Linear(width, config.classes))

    def features(self, images: Tensor) -> Tensor:
        """The convolution's map (N, 32, S / 4, S / 4)."""
        maps: Tensor = self.convolution(_normalised(images))
        return maps

    def blocks(self) -> list[nn.Module]:
        """The convolution, and both dense layers as the head."""
        return [self.convolution, self.head]


class PlainCnn(Network):
    """3 x 3 convolutions with batch norm in groups parted by 2 x 2 max pooling, then a pooled head.

    Args:
        groups: (layers, channels) of each group; weight layers are their sum and the head.
    """

    def __init__(self, config: NetworkConfig, groups: tuple[tuple[int, int], ...]) -> None:
        super().__init__()
        self.groups = nn.ModuleList()
        channels = 1
        for layers, width in groups:
            group = nn.Sequential()
            for _ in range(layers):
                group.append(_convolution(channels, width))
                channels = width
            self.groups.append(group)
        self.head = PooledHead(channels, config)

    def features(self, images: Tensor) -> Tensor:
        """The last group's map (N, C, S / 2^(groups - 1), same)."""
        maps = _normalised(images)
        for index, group in enumerate(self.groups):
            maps = group(functional.max_pool2d(maps, 2) if index else maps)
        return maps

    def blocks(self) -> list[nn.Module]:
        """Each convolution with its batch norm, and the head."""
        return [layer for group in self.groups for layer in group.children()] + [self.head]


class Vgg16(Network):
    """VGG-16, configuration D: 13 convolutions, three dense layers (Simonyan and Zisserman, ICLR 2015).

    No batch norm, as published, so that published ImageNet weights fit; the image is repeated to three
    channels for the same reason. With ``dense_layers`` a pooled head of those widths replaces the three dense
    layers, which hold 120 of its 138 million weights.
    """

    # Convolutions per group and their channels: table 1, column D.
    GROUPS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        if config.size < 32:
            raise ConfigError(
                "vgg16 halves an image five times", where=f"size {config.size}", expected="at least 32 pixels"
            )
        self.input = ColourInput(IMAGENET_MEAN, IMAGENET_STD)
        self.convolutions = nn.Sequential()
        channels = 3
        for layers, width in self.GROUPS:
            for _ in range(layers):
                convolution = nn.Conv2d(channels, width, 3, padding=1)
                self.convolutions.extend([convolution, nn.ReLU(inplace=True)])
                channels = width
            self.convolutions.append(nn.MaxPool2d(2))
        self.head = PooledHead(channels, config) if config.dense_layers else self._published_head(config)
        for layer in (*self.convolutions, *list(self.head.modules())[:-1]):
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                # Without batch norm the signal must keep its size by itself (He et al., ICCV 2015).
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.get_parameter("bias"))

    @staticmethod
    def _published_head(config: NetworkConfig) -> nn.Module:
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(7),
            nn.Flatten(),
            nn.Linear(512 * 7 * 7, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, 4096),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(4096, config.classes),
        )

    def features(self, images: Tensor) -> Tensor:
        """The map after the last pooling, (N, 512, S / 32, S / 32)."""
        maps: Tensor = self.convolutions(self.input(images))
        return maps

    def blocks(self) -> list[nn.Module]:
        """Thirteen convolutions, and the three dense layers as the head."""
        return [layer for layer in self.convolutions if isinstance(layer, nn.Conv2d)] + [self.head]


def _convolution(channels: int, width: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution, batch norm and ReLU, with He initialisation (He et al., ICCV 2015)."""
    convolution = nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False)
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True))


def _normalised(images: Tensor) -> Tensor:
    return (images - RADIOGRAPH_MEAN) / RADIOGRAPH_STD


PLAIN_NETWORKS: Mapping[str, Callable[[NetworkConfig], Network]] = MappingProxyType(
    {
        "mlp": Mlp,
        "cnn-small": SmallCnn,
        "cnn-9": lambda config: PlainCnn(config, ((2, 32), (2, 64), (2, 128), (2, 256))),
        "cnn-14": lambda config: PlainCnn(config, ((2, 32), (2, 64), (3, 128), (3, 256), (3, 256))),
        "vgg16": Vgg16,
    }
)
"""Networks of our own by name. The counts in the names are weight layers, the head among them."""


def network_names() -> tuple[str, ...]:
    """Names that :func:`create_network` knows, besides ``hf:<name or local folder>``."""
    from pneumoscope.learning.backbones import ARCHITECTURES

    return *PLAIN_NETWORKS, *ARCHITECTURES


def create_network(config: NetworkConfig) -> Network:
    """The network that ``config`` names, with random weights from torch's generator.

    Raises:
        ConfigError: there is no network of that name, or it cannot have that size or output stride.
        DownloadError: ``hf:NAME`` is no local folder and its configuration cannot be downloaded.
    """
    if config.name in PLAIN_NETWORKS:
        if config.output_stride != 32:
            raise stride_error(config)
        return PLAIN_NETWORKS[config.name](config)
    # Here, for transformers takes seconds to import and our own networks do without it.
    from pneumoscope.learning.backbones import create_backbone

    if config.name in network_names() or config.name.startswith("hf:"):
        return create_backbone(config)
    raise ConfigError(
        f"no network is called '{config.name}'",
        expected=f"one of {', '.join(network_names())} or hf:<name or folder>",
    )


def stride_error(config: NetworkConfig) -> ConfigError:
    """The refusal of a stride that the network cannot have."""
    return ConfigError(
        f"'{config.name}' has no output stride of {config.output_stride}",
        expected="mobilenet-v2, or the default stride",
        remedy="leave output_stride out",
    )
