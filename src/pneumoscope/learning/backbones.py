"""Published image backbones, built by transformers and given the interface of :class:`Network`.

The known architectures are built from the configuration values written here, so no network is needed; any
other backbone comes from a local folder or the Hugging Face hub as ``hf:<name or folder>``. The last feature
map feeds a pooled linear head, so that class activation maps exist.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from huggingface_hub import snapshot_download
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, MobileNetV2Config, PreTrainedConfig, PreTrainedModel
from transformers.models.convnext.modeling_convnext import ConvNextModel
from transformers.models.mobilenet_v2.modeling_mobilenet_v2 import MobileNetV2ConvLayer

from pneumoscope.core.errors import ConfigError, DownloadError
from pneumoscope.core.files import read_json
from pneumoscope.learning.networks import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ColourInput,
    Network,
    NetworkConfig,
    PooledHead,
    stride_error,
)

# torch's own default; transformers carries TensorFlow's 0.997 and 0.99 over, which in torch's convention
# makes the running statistics those of the last batch alone.
BATCH_NORM_MOMENTUM = 0.1

HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Architecture:
    """A known backbone: transformers' model type, its configuration, and the input that it was trained on."""

    model_type: str
    settings: MappingProxyType[str, Any]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD


def _architecture(model_type: str, settings: dict[str, Any], **statistics: tuple[float, ...]) -> Architecture:
    return Architecture(model_type, MappingProxyType(settings), **statistics)


# Settings are those of the config.json beside the published weights (learning/pretrained.py names them).
ARCHITECTURES: MappingProxyType[str, Architecture] = MappingProxyType(
    {
        # Sandler et al., CVPR 2018; input in [-1, 1].
        "mobilenet-v2": _architecture("mobilenet_v2", {"depth_multiplier": 1.0}, mean=HALF, std=HALF),
        # He et al., CVPR 2016.
        "resnet-18": _architecture(
            "resnet",
            {"layer_type": "basic", "depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512]},
        ),
        "resnet-50": _architecture("resnet", {"layer_type": "bottleneck", "depths": [3, 4, 6, 3]}),
        # Tan and Le, ICML 2019.
        "efficientnet-b0": _architecture(
            "efficientnet",
            {
                "width_coefficient": 1.0,
                "depth_coefficient": 1.0,
                "hidden_dim": 1280,
                "image_size": 224,
                "dropout_rate": 0.2,
                "depthwise_padding": [],
            },
        ),
        # Liu et al., CVPR 2022.
        "convnext-tiny": _architecture(
            "convnext", {"depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768], "drop_path_rate": 0.1}
        ),
    }
)


class Backbone(Network):
    """A transformers image model without its classifier, and a pooled linear head.

    Args:
        model: a model whose ``last_hidden_state`` is a map (N, C, h, w) or tokens (N, T, C).
        config: classes and dropout of the head.
        source: normalisation of the three input channels.
        channels: C of the feature map.
    """

    def __init__(
        self, model: PreTrainedModel, config: NetworkConfig, source: Architecture, channels: int
    ) -> None:
        super().__init__()
        self.input = ColourInput(source.mean, source.std)
        self.backbone = model
        self.head = PooledHead(channels, config)
        self._arguments = _forward_arguments(model)

    def features(self, images: Tensor) -> Tensor:
        """The last map (N, C, h, w); tokens of a transformer are laid out on their grid."""
        state: Tensor = self.backbone(self.input(images), **self._arguments).last_hidden_state
        if state.dim() == 3:
            return _grid(state)
        if isinstance(self.backbone, ConvNextModel):
            # The norm that ConvNeXt applies to the pooled features, here at each place of the map, so that
            # the head stays linear in the pooled map.
            state = self.backbone.layernorm(state.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return state

    def blocks(self) -> list[nn.Module]:
        """Stem, each repeated unit, the last convolution or norm, and the head."""
        blocks: list[nn.Module] = []
        for part in _parts(self.backbone):
            if blocks and _only_norm(part):
                blocks[-1] = nn.ModuleList([blocks[-1], part])
            else:
                blocks.append(part)
        return [*blocks, self.head]


def create_backbone(config: NetworkConfig) -> Backbone:
    """The backbone that ``config.name`` names, with random weights.

    Raises:
        ConfigError: the model is not an image backbone that gives features, or its stride cannot be chosen.
        DownloadError: ``hf:NAME`` is no local folder and its configuration cannot be downloaded.
    """
    if config.name.startswith("hf:"):
        settings, source = _published(config.name.removeprefix("hf:"))
    else:
        source = ARCHITECTURES[config.name]
        settings = AutoConfig.for_model(source.model_type, **source.settings)
    if hasattr(settings, "output_stride"):
        # Chen et al., DeepLab, TPAMI 2018, section 3.1: the same weights, at every second place.
        settings.output_stride = config.output_stride
    elif config.output_stride != 32:
        raise stride_error(config)
    model = _build(settings, config.name)
    if not config.dilated:
        _undilate(model)
    return Backbone(model, config, source, _channels(model, config))


def fetch_published(source: str, patterns: list[str]) -> Path:
    """Folder with the files of a model on the Hugging Face hub, downloaded once and kept in its cache.

    Args:
        source: ``owner/name`` or ``owner/name@revision`` (a commit pins the download for good).
        patterns: file names to fetch, as globs.

    Raises:
        DownloadError: there is no such model or revision, or neither the hub nor its cache has it.
    """
    name, _, revision = source.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise DownloadError(
            f"cannot be downloaded from the Hugging Face hub ({str(error).splitlines()[0]})",
            where=source,
            remedy="check the name and the connection, or give a local safetensors file or folder "
            "(--init FILE, --network hf:FOLDER)",
        ) from error


def _published(name: str) -> tuple[PreTrainedConfig, Architecture]:
    """Configuration and input statistics of a local folder or of a model on the hub."""
    local = Path(name)
    folder = local if local.is_dir() else fetch_published(name, ["config.json", "preprocessor_config.json"])
    try:
        settings = AutoConfig.from_pretrained(folder)  # nosec B615  # a local folder, see fetch_published
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"no usable model configuration: {str(error).splitlines()[0]}",
            where=name,
            expected="a folder with a config.json of transformers",
        ) from error
    statistics_file = folder / "preprocessor_config.json"
    statistics = read_json(statistics_file) if statistics_file.is_file() else {}
    known = next((a for a in ARCHITECTURES.values() if a.model_type == settings.model_type), Architecture)
    mean = tuple(statistics.get("image_mean") or known.mean)
    std = tuple(statistics.get("image_std") or known.std)
    if statistics.get("include_top"):
        # EfficientNet's image processor divides by image_std twice, as its weights expect.
        std = tuple(value**2 for value in std)
    return settings, _architecture(settings.model_type, {}, mean=mean, std=std)


def _build(settings: PreTrainedConfig, name: str) -> PreTrainedModel:
    try:
        model = AutoModel.from_config(settings)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"transformers cannot build '{name}': {str(error).splitlines()[0]}",
            expected="an image backbone such as a ResNet, ConvNeXt, Swin or ViT",
        ) from error
    if model.main_input_name != "pixel_values":
        raise ConfigError(f"'{name}' is not an image model", expected="a model whose input is pixel_values")
    return _adapt(model)


def _adapt(model: PreTrainedModel) -> PreTrainedModel:
    """Make a fresh model fit to be trained: initialisation, batch norms, padding, no unused pooler."""
    batch_norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in batch_norms:
        norm.momentum = BATCH_NORM_MOMENTUM
        norm.reset_parameters()
    for module in model.modules() if batch_norms else ():
        if isinstance(module, nn.Conv2d):
            # He et al., ICCV 2015, counting the outputs of one group (Tan and Le's EfficientNet does).
            fan_out = module.out_channels * math.prod(module.kernel_size) / module.groups
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    pooler = getattr(model, "pooler", None)
    if isinstance(pooler, nn.Module) and list(pooler.parameters()):
        model.register_module("pooler", None)
    _pad_in_convolutions(model)
    return model


def _pad_in_convolutions(model: PreTrainedModel) -> None:
    """Let MobileNetV2's convolutions of stride 1 pad by themselves: the same numbers, without the copies.

    transformers pads as TensorFlow does by copying each layer's input, even where no pixel is added. The
    padding depends on the input's size for stride 2 only, where it stays as it is.
    """
    if not isinstance(model.config, MobileNetV2Config) or not model.config.tf_padding:
        return
    own_padding = copy.deepcopy(model.config)
    own_padding.tf_padding = False
    for layer in model.modules():
        if isinstance(layer, MobileNetV2ConvLayer) and layer.convolution.stride == (1, 1):
            layer.config = own_padding
            convolution = layer.convolution
            convolution.padding = tuple(
                step * (side - 1) // 2
                for step, side in zip(convolution.dilation, convolution.kernel_size, strict=True)
            )


def _undilate(model: PreTrainedModel) -> None:
    """Bring the taps of dilated convolutions together; what they give keeps its size."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.dilation != (1, 1):
            module.padding = tuple((side - 1) // 2 for side in module.kernel_size)
            module.dilation = (1, 1)


def _channels(model: PreTrainedModel, config: NetworkConfig) -> int:
    """Channels of the last feature map, found by sending one empty image through the model."""
    training = model.training
    model.eval()
    with torch.no_grad():
        state = model(
            torch.zeros(1, 3, config.size, config.size), **_forward_arguments(model)
        ).last_hidden_state
    model.train(training)
    return state.shape[2] if state.dim() == 3 else state.shape[1]


def _forward_arguments(model: PreTrainedModel) -> dict[str, bool]:
    """What the model's forward needs so that it takes images of any size."""
    accepted = inspect.signature(model.forward).parameters
    return {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in accepted else {}


def _grid(tokens: Tensor) -> Tensor:
    """Tokens (N, p + g * g, C) of a square image as a map (N, C, g, g), without p leading class tokens."""
    count = tokens.shape[1]
    side = math.isqrt(count)
    return tokens[:, count - side * side :].transpose(1, 2).unflatten(2, (side, side))


def _parts(module: nn.Module) -> Iterator[nn.Module]:
    """The repeated units of a model in the order of the data, containers and encoders taken apart."""
    containers = (nn.ModuleList, nn.Sequential)
    for child in module.children():
        inner = list(child.children())
        repeats = any(isinstance(part, nn.ModuleList) for part in inner)
        wraps_one = len(inner) == 1 and isinstance(inner[0], containers)
        if isinstance(child, containers) or repeats or wraps_one:
            yield from _parts(child)
        elif any(True for _ in child.parameters()):
            yield child


def _only_norm(module: nn.Module) -> bool:
    return isinstance(module, (nn.BatchNorm2d, nn.LayerNorm))
