"""DICOM storage node (C-STORE and C-ECHO SCP): an image is on disk before it is acknowledged.

A received object is neither parsed nor changed: it is stored as sent, behind the file meta information that
the association implies (PS3.10 7.1), and its examination is queued.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy.exc import SQLAlchemyError

from pneumoscope.core.errors import ConfigError, InputError
from pneumoscope_clinic.dicom.association import (
    VERIFICATION,
    AllowList,
    application_entity,
    film_classes,
    film_transfer_syntaxes,
    server_context,
)
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.worker.intake import Sender, receive

if TYPE_CHECKING:
    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.dimse_primitives import C_STORE
    from pynetdicom.events import Event

    from pneumoscope_clinic.dicom.transport import NodeServer, Receiver

_log = logging.getLogger(__name__)

SUCCESS, OUT_OF_RESOURCES, NOT_ITS_CLASS, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
"""Statuses of C-STORE, PS3.4 table B.2-1."""

_MEBIBYTE = 1 << 20


class Node:
    """Listens for associations; a context manager.

    Args:
        store: takes the images; its settings say how and for whom to listen.

    Raises:
        ConfigError: a certificate or an address of a peer cannot be used, or the port is taken.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._settings = store.settings.dicom
        self._allow_list = AllowList(self._settings.peers)
        self._server = self._make_server()
        self._thread = threading.Thread(target=self._server.serve_forever, name="dicom-node", daemon=True)

    def __enter__(self) -> Node:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        for association in self._server.active_associations:
            association.abort()

    @property
    def address(self) -> tuple[str, int]:
        """Where the node listens."""
        host, port = self._server.server_address[:2]
        return host, port

    def _make_server(self) -> NodeServer:
        from pneumoscope_clinic.dicom.transport import NodeServer, ReceiveLimits

        settings = self._settings
        limits = ReceiveLimits(
            pdu_bytes=settings.max_pdu_bytes,
            message_bytes=int(self._store.settings.server.max_upload_mb * _MEBIBYTE),
            silence_s=settings.timeout_seconds,
            message_s=settings.receive_seconds,
        )
        tls = server_context(settings)
        try:
            return NodeServer(
                self._entity(),
                (settings.host, settings.port),
                self._handlers(),
                allow_list=self._allow_list,
                tls=tls,
                limits=limits,
            )
        except OSError as error:
            raise ConfigError(
                f"the DICOM node cannot listen ({error.strerror or type(error).__name__})",
                where=f"{settings.host}:{settings.port}",
                remedy="choose another dicom.host or dicom.port, or stop what listens there",
            ) from error

    def _entity(self) -> ApplicationEntity:
        entity = application_entity(self._settings)
        # Whoever lists peers runs a real network, where a wrong title is a wrong configuration.
        entity.require_called_aet = not self._allow_list.is_open
        entity.add_supported_context(VERIFICATION)
        for sop_class in film_classes(self._settings):
            entity.add_supported_context(sop_class, list(film_transfer_syntaxes()))
        return entity

    def _handlers(self) -> list[Any]:
        from pynetdicom import evt

        return [
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_ESTABLISHED, self._message_complete),
            (evt.EVT_DIMSE_RECV, self._message_complete),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_C_STORE, self._store_film),
        ]

    def _requested(self, event: Event) -> None:
        """Reject an association of a title that is not allowed from its address."""
        requestor = event.assoc.requestor
        title = requestor.primitive.calling_ae_title if requestor.primitive else ""
        if not self._allow_list.admits(title, requestor.address):
            _log.warning(
                "an association from %s was rejected: its AE title is no peer there", requestor.address
            )
            # Rejected permanent, by the service user: calling AE title not recognized (PS3.8 table 9-21).
            event.assoc.acse.send_reject(0x01, 0x01, 0x03)
            event.assoc.kill()

    def _message_complete(self, event: Event) -> None:
        _receiver(event).next_message()

    def _closed(self, event: Event) -> None:
        _receiver(event).close()

    def _store_film(self, event: Event) -> int:
        """Handler of C-STORE: success means that the image survives whatever happens next."""
        request = cast("C_STORE", event.request)
        if request.AffectedSOPClassUID != event.context.abstract_syntax:
            return NOT_ITS_CLASS
        sender = Sender(f"dicom:{event.assoc.requestor.ae_title.strip()}", None, "dimse")
        try:
            received = receive(
                self._store,
                event.encoded_dataset(),
                sender,
                instance_uid=str(request.AffectedSOPInstanceUID),
            )
        except InputError as error:
            _log.warning("an image was refused: %s", error.problem)
            return CANNOT_UNDERSTAND
        except (OSError, SQLAlchemyError) as error:
            _log.error("an image could not be stored: %s", type(error).__name__)
            return OUT_OF_RESOURCES
        _log.info("image %s received%s", received.film_id, " again" if received.again else "")
        return SUCCESS


def _receiver(event: Event) -> Receiver:
    """What reads from the peer of an event's association, see ``transport.Connection``."""
    return cast("Receiver", event.assoc.dul.socket.recv)  # type: ignore[union-attr]
