"""Weights to start from: published ones, local ones, and those of our own runs; never a pickle.

In: a network and where its weights are (a safetensors file, a Hugging Face folder, or a model on the hub).
Out: the network with those weights, and a report of what was loaded, missing and left over. A source that
fits only a small part of the network is refused: training would silently start from noise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor
from transformers import AutoModel
from transformers.utils import logging

from pneumoscope.core.errors import InputError, UnreadableFileError
from pneumoscope.core.files import sha256_file, write_bytes
from pneumoscope.learning.backbones import Backbone, fetch_published
from pneumoscope.learning.network import Network

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


def save_weights(network: Network, file: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write the network's weights to ``file`` (safetensors), such that :func:`load_pretrained` reads them."""
    state = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    write_bytes(file, save(state, metadata={"format": "pt", **(metadata or {})}))


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
