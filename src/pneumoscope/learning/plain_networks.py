"""Networks of our own definition, from a dense baseline to VGG-16; they learn from nothing.

In: a :class:`~pneumoscope.learning.network.NetworkConfig`. Out: a network; :data:`PLAIN_NETWORKS` by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from torch import Tensor, nn
from torch.nn import functional

from pneumoscope.core.errors import ConfigError
from pneumoscope.learning.network import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ColourInput,
    Network,
    NetworkConfig,
    PooledHead,
)

# Mean and standard deviation of a radiograph whose 0.5th and 99.5th percentiles were mapped to 0 and 1
# (a round figure for the Guangzhou training films); networks without pretrained weights use it.
RADIOGRAPH_MEAN, RADIOGRAPH_STD = 0.5, 0.25

# The mlp sees the film averaged to this side: 64 * 64 = 4096 inputs, no more than VGG's dense layers.
MLP_SIDE = 64


class Mlp(Network):
    """Dense baseline: the film averaged to 64 x 64, two hidden layers; features are (N, 128, 1, 1)."""

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
        """None: features without a place on the film give no map."""
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

    No batch norm, as published, so that published ImageNet weights fit; the film is repeated to three
    channels for the same reason. With ``dense_layers`` a pooled head of those widths replaces the three dense
    layers, which hold 120 of its 138 million weights.
    """

    # Convolutions per group and their channels: table 1, column D.
    GROUPS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        if config.size < 32:
            raise ConfigError(
                "vgg16 halves the film five times", where=f"size {config.size}", expected="at least 32 pixels"
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
