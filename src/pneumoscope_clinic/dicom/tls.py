"""TLS of DICOM associations, both ways.

In: certificate files of the configuration. Out: contexts of the ``ssl`` module: TLS 1.2 or newer with its
default ciphers (PS3.15 B.12, BCP 195).
"""

from __future__ import annotations

import ssl
from pathlib import Path

from pneumoscope.core.errors import ConfigError
from pneumoscope_clinic.settings import DicomSettings


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
