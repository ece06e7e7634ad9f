"""The network that a run starts from, and where its weights came from.

In: the run's configuration. Out: a network with its initial weights, and their origin in words, which the run
and its bundle keep.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pneumoscope.core.errors import ConfigError, DownloadError
from pneumoscope.learning.config import TrainConfig
from pneumoscope.learning.networks import Network, NetworkConfig, create_network
from pneumoscope.learning.pretrained import PUBLISHED, load_pretrained


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
