"""Initial weights: published ones, local ones, those of our own runs, or random; never a pickle.

A source that fits only a small part of the network is refused: training would silently start from noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel
from transformers.utils import logging

from pneumoscope.core.errors import ConfigError, DownloadError, InputError, UnreadableFileError
from pneumoscope.core.files import sha256_file
from pneumoscope.learning.backbones import Backbone, fetch_published
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.networks import Network, NetworkConfig, create_network

PUBLISHED: Mapping[str, str] = MappingProxyType(
    {
        "mobilenet-v2": "google/mobilenet_v2_1.0_224",
        "resnet-18": "microsoft/resnet-18",
        "resnet-50": "microsoft/resnet-50",
        "efficientnet-b0": "google/efficientnet-b0",
        "convnext-tiny": "facebook/convnext-tiny-224",
        "vgg16": "timm/vgg16.tv_in1k",
    }
)
"""ImageNet weights on the Hugging Face hub, by network; append ``@<revision>`` to pin one."""

# A source must fill this share of the parameters before the head, or it is the wrong source.
SMALLEST_SHARE = 0.9

# What timm, and torchvision, call the parts of VGG-16: (theirs, ours).
VGG_NAMES = (
    ("features.", "convolutions."),
    ("pre_logits.fc1.", "head.2."),
    ("pre_logits.fc2.", "head.5."),
    ("head.fc.", "head.8."),
    ("classifier.0.", "head.2."),
    ("classifier.3.", "head.5."),
    ("classifier.6.", "head.8."),
)

WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True)
class PretrainedReport:
    """What became of the weights of a source.

    Attributes:
        source: file, folder or hub name, with the revision that was resolved.
        sha256: of the weights file; None for weights in several files.
        loaded: names in the network that were filled.
        missing: names in the network that kept their random values.
        unexpected: names in the source that the network has no use for, or whose shape differs.
        share: filled share of the parameters before the head, 0 to 1.
    """

    source: str
    sha256: str | None
    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    share: float


def build_network(config: TrainConfig, tell: Callable[[str], None]) -> tuple[Network, str]:
    """The network of ``config`` with its initial weights, and where they came from.

    Args:
        config: ``network``, its size, head and stride, ``init`` and ``task`` are used.
        tell: told when published weights were wished for and cannot be had.

    Raises:
        ConfigError: published weights were asked for and the network has none.
        DownloadError: they were asked for, or the stage needs them, and they cannot be downloaded.
        UnreadableFileError, InputError: the local weights are damaged or another network's.
    """
    classes = len(config.task.classes)
    network = create_network(
        NetworkConfig(
            name=config.network,
            classes=classes,
            dropout=config.dropout,
            size=config.size,
            dense_layers=config.dense_layers,
            output_stride=config.output_stride,
            dilated=config.dilated,
        )
    )
    source = _source(config)
    if source is None:
        return network, "random"
    try:
        report = load_pretrained(network, source)
    except DownloadError:
        if config.init != "auto" or config.stage != "full":
            raise
        tell(
            f"WARNING: {source} cannot be downloaded here: training from scratch, which needs more epochs "
            "and gives a weaker network; give a local file or folder with --init"
        )
        return network, f"random ({source} could not be downloaded)"
    name = Path(source).name if Path(source).exists() else report.source
    return network, f"{name} (sha256 {report.sha256})" if report.sha256 else name


def _source(config: TrainConfig) -> str | None:
    """The file, folder or hub name to start from; None for random weights."""
    if config.init not in ("auto", "hub", "random"):
        return config.init
    if config.init == "random":
        return None
    published = PUBLISHED.get(config.network)
    if config.network.startswith("hf:"):
        published = config.network.removeprefix("hf:")
    if published is None and (config.init == "hub" or config.stage != "full"):
        raise ConfigError(
            f"there are no published weights for '{config.network}'",
            expected=f"one of {', '.join(PUBLISHED)}",
            remedy="give a local safetensors file with --init, or train from scratch with --init random",
        )
    return published


def load_pretrained(network: Network, source: str | Path) -> PretrainedReport:
    """Fill ``network`` with the weights of ``source``.

    Args:
        network: changed in place, and only when the weights fit.
        source: a ``.safetensors`` file (of ours, of timm, torchvision or transformers), a folder with
            ``config.json`` and safetensors weights, or ``owner/name[@revision]`` on the Hugging Face hub.

    Raises:
        UnreadableFileError: the file is missing, damaged or not safetensors.
        DownloadError: the hub cannot be reached or has no such weights.
        InputError: the weights are those of another network.
    """
    path = Path(source)
    if path.is_file():
        return _fill(network, _from_file(network, path), str(source), path)
    if path.is_dir():
        return _load_folder(network, path, str(source))
    if not _is_hub_name(str(source)):
        raise UnreadableFileError(
            "no such weights", where=source, expected="a safetensors file, a folder, or owner/name on the hub"
        )
    folder = fetch_published(str(source), ["*.json", "*.safetensors"])
    # The hub's cache names a snapshot by its commit: the report pins what "main" was on the day.
    return _load_folder(network, folder, f"{str(source).partition('@')[0]}@{folder.name}")


def _load_folder(network: Network, folder: Path, origin: str) -> PretrainedReport:
    file = folder / WEIGHTS_FILE
    single = file if file.is_file() else None
    if isinstance(network, Backbone) and (folder / "config.json").is_file():
        return _fill(network, _from_transformers(folder), origin, single)
    if single is None:
        raise UnreadableFileError("no weights in this folder", where=folder, expected=WEIGHTS_FILE)
    return _fill(network, _from_file(network, single), origin, single)


def _from_transformers(folder: Path) -> dict[str, Tensor]:
    """A folder's weights under our names; transformers knows sharded files and older versions' names."""
    with _quiet_transformers():
        try:
            model, info = AutoModel.from_pretrained(  # nosec B615  # a local folder
                folder, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        except (OSError, ValueError, SafetensorError) as error:
            raise UnreadableFileError(
                f"no usable weights: {str(error).splitlines()[0]}",
                where=folder,
                expected="config.json and model.safetensors of one model",
                remedy="pickled weights (.bin, .pth) are not read: convert them to safetensors",
            ) from error
    random = set(info["missing_keys"])
    return {f"backbone.{name}": value for name, value in model.state_dict().items() if name not in random}


def _from_file(network: Network, file: Path) -> dict[str, Tensor]:
    """A safetensors file's weights under the network's names, whoever wrote it."""
    try:
        weights = load_file(file)
    except SafetensorError as error:
        raise UnreadableFileError(
            f"not a readable safetensors file: {error}",
            where=file,
            remedy="pickled weights (.bin, .pth, .ckpt) are not read: convert them to safetensors",
        ) from error
    known = network.state_dict().keys()
    readings = (lambda name: name, _in_backbone, _in_prefixed_backbone, _of_vgg)
    candidates = [{reading(name): value for name, value in weights.items()} for reading in readings]
    return max(candidates, key=lambda candidate: len(known & candidate.keys()))


def _in_backbone(name: str) -> str:
    return f"backbone.{name}"


def _in_prefixed_backbone(name: str) -> str:
    return f"backbone.{name.partition('.')[2]}"


def _of_vgg(name: str) -> str:
    for theirs, ours in VGG_NAMES:
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def _fill(
    network: Network, weights: Mapping[str, Tensor], origin: str, file: Path | None
) -> PretrainedReport:
    """Copy what fits; refuse when it is little."""
    state = network.state_dict()
    loaded = {
        name: value.reshape(state[name].shape)
        for name, value in weights.items()
        if name in state and _fits(value, state[name])
    }
    body = [
        (name, parameter.numel())
        for name, parameter in network.named_parameters()
        if not name.startswith("head.")
    ]
    share = sum(count for name, count in body if name in loaded) / sum(count for _, count in body)
    if share < SMALLEST_SHARE:
        raise InputError(
            f"these weights fill {share:.0%} of the network",
            where=origin,
            expected=f"at least {SMALLEST_SHARE:.0%}: the weights of the same architecture",
            remedy="choose the network that the weights belong to",
        )
    network.load_state_dict(loaded, strict=False)
    return PretrainedReport(
        source=origin,
        sha256=sha256_file(file) if file else None,
        loaded=tuple(sorted(loaded)),
        missing=tuple(
            sorted(n for n in state.keys() - loaded.keys() if not n.endswith("num_batches_tracked"))
        ),
        unexpected=tuple(sorted(weights.keys() - loaded.keys())),
        share=share,
    )


def _fits(value: Tensor, target: Tensor) -> bool:
    """Same shape; or a dense layer written as the convolution that covers its whole input, as timm does."""
    as_convolution = value.dim() == 4 and target.dim() == 2
    return value.shape == target.shape or (as_convolution and value.flatten(1).shape == target.shape)


def _is_hub_name(source: str) -> bool:
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and not source.endswith("/")


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bar and loading report off the terminal; our report says the same."""
    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()
