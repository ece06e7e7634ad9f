"""Every network by its name.

In: a :class:`NetworkConfig`. Out: the :class:`Network` that it names: ours, a published backbone, or any
image backbone that transformers can build.
"""

from __future__ import annotations

from pneumoscope.core.errors import ConfigError
from pneumoscope.learning.backbones import ARCHITECTURES, create_backbone, stride_error
from pneumoscope.learning.network import Network, NetworkConfig
from pneumoscope.learning.plain_networks import PLAIN_NETWORKS

NETWORKS = (*PLAIN_NETWORKS, *ARCHITECTURES)
"""Names that :func:`create_network` knows, besides ``hf:<name or local folder>``."""


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
    if config.name in ARCHITECTURES or config.name.startswith("hf:"):
        return create_backbone(config)
    raise ConfigError(
        f"no network is called '{config.name}'",
        expected=f"one of {', '.join(NETWORKS)} or hf:<name or folder>",
    )
