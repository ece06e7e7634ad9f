"""The application entity: who we are on a DICOM network, and which kinds of object and encoding we know.

In: settings. Out: a pynetdicom AE with our title, timeouts and limits, its libraries silent: what they log
and warn of quotes UIDs and names of patients.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pneumoscope import __version__
from pneumoscope_clinic.logs import silence
from pneumoscope_clinic.results.dicom_identity import own_uid
from pneumoscope_clinic.settings import DicomSettings

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
    """SOP classes of films that are accepted (PS3.4 table B.5-1).

    Digital X-Ray *for processing* is none of them: it is raw detector data, which nobody reads and no bundle
    was trained on.
    """
    from pydicom import uid

    classes = (uid.ComputedRadiographyImageStorage, uid.DigitalXRayImageStorageForPresentation)
    return (*classes, uid.SecondaryCaptureImageStorage) if settings.secondary_capture else classes


def film_transfer_syntaxes() -> tuple[str, ...]:
    """Transfer syntaxes of films, all that ``imaging`` decodes; the first that a sender offers is taken.

    Native ones come first, then lossless ones: nobody shall compress a film for us with loss.
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
