"""DICOM associations: application entity, SOP classes and transfer syntaxes, allow-list of peers, TLS.

An AE title proves nothing (PS3.15 recommends TLS with certificates for that): it keeps out mistakes, the
address keeps out strangers. The libraries are silenced: what they log and warn of quotes UIDs and names of
patients.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from pneumoscope import __version__
from pneumoscope.core.errors import ConfigError
from pneumoscope_clinic.logs import silence
from pneumoscope_clinic.results.dicom_identity import own_uid
from pneumoscope_clinic.settings import DicomSettings, Peer

if TYPE_CHECKING:
    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.association import Association


VERIFICATION = "1.2.840.10008.1.1"
"""SOP class of C-ECHO, PS3.6 table A-1."""


def application_entity(settings: DicomSettings) -> ApplicationEntity:
    """Our AE, without presentation contexts."""
    from pynetdicom import _config
    from pynetdicom.ae import ApplicationEntity

    _config.LOG_HANDLER_LEVEL = "none"
    silence()
    entity = ApplicationEntity(settings.ae_title)
    entity.implementation_class_uid = own_uid("implementation")
    entity.implementation_version_name = f"PNEUMOSCOPE_{__version__}"[:16]
    entity.maximum_pdu_size = settings.max_pdu_bytes
    entity.maximum_associations = settings.max_associations
    entity.connection_timeout = settings.timeout_seconds
    entity.acse_timeout = settings.timeout_seconds
    entity.dimse_timeout = settings.timeout_seconds
    entity.network_timeout = settings.timeout_seconds
    return entity


@contextmanager
def ending(association: Association) -> Iterator[Association]:
    """Release our association at the end of the block, and close its connection.

    The library leaves the connection open when the peer has closed it first.
    """
    connection = None if association.dul.socket is None else association.dul.socket.socket
    try:
        yield association
    finally:
        if association.is_established:
            association.release()
        if connection is not None:
            connection.close()


def film_classes(settings: DicomSettings) -> tuple[str, ...]:
    """SOP classes of images that are accepted (PS3.4 table B.5-1).

    Digital X-Ray *for processing* is none of them: it is raw detector data, which nobody reads and no bundle
    was trained on.
    """
    from pydicom import uid

    classes = (uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation)
    return (*classes, uid.SecondaryCaptureImageStorage) if settings.secondary_capture else classes


def film_transfer_syntaxes() -> tuple[str, ...]:
    """Transfer syntaxes of images, all that ``imaging`` decodes; the first that a sender offers is taken.

    Native ones come first, then lossless ones: nobody shall compress an image for us with loss.
    """
    from pydicom import uid

    return (
        uid.ExplicitVRLittleEndian,
        uid.ImplicitVRLittleEndian,
        uid.DeflatedExplicitVRLittleEndian,
        uid.ExplicitVRBigEndian,
        uid.JPEGLSLossless,
        uid.JPEG2000Lossless,
        uid.HTJ2KLossless,
        uid.HTJ2KLosslessRPCL,
        uid.JPEGLosslessSV1,
        uid.JPEGLossless,
        uid.RLELossless,
        uid.JPEG2000,
        uid.HTJ2K,
        uid.JPEGLSNearLossless,
        uid.JPEGExtended12Bit,
        uid.JPEGBaseline8Bit,
    )


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


def server_context(settings: DicomSettings) -> ssl.SSLContext | None:
    """The context of the node; None without ``tls_certificate``. With ``tls_ca`` a peer must show one, too.

    Raises:
        ConfigError: a file cannot be read, or is no certificate or key.
    """
    if settings.tls_certificate is None:
        if settings.tls_ca is not None or settings.tls_key is not None:
            raise ConfigError(
                "dicom.tls_certificate is missing", expected="a certificate beside tls_key and tls_ca"
            )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_own(context, settings)
    if settings.tls_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authorities(context, settings.tls_ca)
    return context


def client_context(settings: DicomSettings) -> ssl.SSLContext:
    """The context for connecting to others: their certificates are checked, ours is shown where there is one.

    ``tls_ca`` takes the place of this machine's certificate authorities.

    Raises:
        ConfigError: a file cannot be read, or is no certificate or key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.tls_ca is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        _load_authorities(context, settings.tls_ca)
    if settings.tls_certificate is not None:
        _load_own(context, settings)
    return context


def _load_own(context: ssl.SSLContext, settings: DicomSettings) -> None:
    assert settings.tls_certificate is not None
    certificate = settings.tls_certificate.expanduser()
    key = settings.tls_key.expanduser() if settings.tls_key else None
    try:
        # An empty password keeps OpenSSL from asking for one on the terminal.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(
            f"the TLS certificate or its key cannot be used ({_reason(error)})",
            where=certificate,
            expected="PEM: dicom.tls_certificate, and an unencrypted dicom.tls_key unless it is in there",
        ) from error


def _load_authorities(context: ssl.SSLContext, file: Path) -> None:
    try:
        context.load_verify_locations(cafile=file.expanduser())
    except OSError as error:
        raise ConfigError(
            f"the certificates of dicom.tls_ca cannot be used ({_reason(error)})",
            where=file,
            expected="a PEM file",
        ) from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or type(error).__name__
