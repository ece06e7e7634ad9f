"""Who may connect to the node: by address before a byte is read, by AE title with the association.

In: the peers of the configuration. Out: yes or no. An AE title is no proof of anything (PS3.15 recommends TLS
with certificates for that): it keeps out mistakes, the address keeps out strangers.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from pneumoscope.core.errors import ConfigError
from pneumoscope_clinic.settings import Peer


class AllowList:
    """Peers that may connect; without any, whoever runs on this machine.

    Args:
        peers: of the configuration.

    Raises:
        ConfigError: an address is neither an IP address nor a network.
    """

    def __init__(self, peers: Sequence[Peer]) -> None:
        self._peers = [(peer, _network(peer)) for peer in peers]

    @property
    def is_open(self) -> bool:
        """There are no peers: AE titles do not matter, and only this machine is let in."""
        return not self._peers

    def admits_address(self, address: str) -> bool:
        """Whether anybody at ``address`` may connect at all."""
        found = _address(address)
        if self.is_open:
            return found.is_loopback
        return any(network is None or found in network for _, network in self._peers)

    def admits(self, ae_title: str, address: str) -> bool:
        """Whether ``ae_title`` may open an association from ``address``."""
        return self.admits_address(address) if self.is_open else self.peer(ae_title, address) is not None

    def peer(self, ae_title: str, address: str) -> Peer | None:
        """The first peer that matches both, or None."""
        found = _address(address)
        for peer, network in self._peers:
            if peer.ae_title == ae_title.strip() and (network is None or found in network):
                return peer
        return None


def _address(text: str) -> IPv4Address | IPv6Address:
    """An address; IPv4 that came through an IPv6 socket (``::ffff:10.0.0.1``) is IPv4."""
    found = ip_address(text.partition("%")[0])
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _network(peer: Peer) -> IPv4Network | IPv6Network | None:
    if peer.address is None:
        return None
    try:
        return ip_network(peer.address, strict=False)
    except ValueError as error:
        raise ConfigError(
            f"'{peer.address}' is no IP address or network",
            where=f"dicom.peers, {peer.ae_title}",
            expected="10.0.0.5 or 10.0.0.0/24",
        ) from error
