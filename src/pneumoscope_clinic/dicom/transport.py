"""Server side of DICOM associations: allow-list, TLS, limits on size and time.

pynetdicom believes the length that a peer announces and waits for it without end, and does the TLS handshake
in the thread that accepts; here neither can stop the node or fill its memory.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pynetdicom.transport import RequestHandler, ThreadedAssociationServer

from pneumoscope_clinic.dicom.association import AllowList

if TYPE_CHECKING:
    from pynetdicom.ae import ApplicationEntity
    from pynetdicom.association import Association

_log = logging.getLogger(__name__)

_PDU_ALLOWANCE = 1 << 20
"""Bytes that a PDU may have beyond what we announced: for association requests, and careless peers."""

_QUEUED = 2
"""Messages that may wait unanswered; without negotiation a peer sends one at a time (PS3.7 D.3.3.3)."""

_READ = 1 << 18


@dataclass(frozen=True, slots=True)
class ReceiveLimits:
    """What one peer may send.

    Attributes:
        pdu_bytes: largest PDU that we announce.
        message_bytes: largest message, that is command and object.
        silence_s: longest wait for the next bytes.
        message_s: longest time for a whole message.
    """

    pdu_bytes: int
    message_bytes: int
    silence_s: float
    message_s: float


class NodeServer(ThreadedAssociationServer):
    """Accepts connections.

    Args:
        entity: with the presentation contexts that it supports.
        address: host and port, 0 for any that is free.
        handlers: of events.
        allow_list: who may connect.
        tls: None without.
        limits: of every association.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self,
        entity: ApplicationEntity,
        address: tuple[str, int],
        handlers: list[Any],
        *,
        allow_list: AllowList,
        tls: ssl.SSLContext | None,
        limits: ReceiveLimits,
    ) -> None:
        self.allow_list = allow_list
        self.tls = tls
        self.limits = limits
        self.admission = threading.Lock()
        self.starting: set[Any] = set()
        contexts = entity.supported_contexts
        super().__init__(
            entity, address, entity.ae_title, contexts, evt_handlers=handlers, request_handler=Connection
        )
        entity._servers.append(self)  # where shutdown() looks for it

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Turn strangers away, and whoever comes when too many are open."""
        if not self.allow_list.admits_address(client_address[0]):
            _log.warning("a connection from %s was refused: not a peer", client_address[0])
            return False
        with self.admission:
            admitted = len(self.starting) + len(self.active_associations) < 2 * self.ae.maximum_associations
            if admitted:
                self.starting.add(request)
        if not admitted:
            _log.warning("a connection from %s was refused: too many are open", client_address[0])
        return admitted

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that does not become an association."""
        self.starting.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log the kind of error alone; the library would print a traceback."""
        _log.warning("a connection could not be served")


class Connection(RequestHandler):
    """One accepted connection, in a thread of its own."""

    server: NodeServer

    def handle(self) -> None:
        """Shake hands for TLS, and start the association."""
        server, accepted = self.server, self.request
        accepted.settimeout(server.limits.silence_s)
        accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if server.tls is not None:
            try:
                self.request = server.tls.wrap_socket(accepted, server_side=True)
            except OSError as error:  # ssl.SSLError among them
                _log.warning("no TLS with %s: %s", self.client_address[0], type(error).__name__)
                server.shutdown_request(accepted)
                return
        with server.admission:  # counted as starting or as started, never twice and never not
            server.starting.discard(accepted)
            super().handle()

    def _create_association(self) -> Association:
        association = super()._create_association()
        wire = association.dul.socket
        assert wire is not None
        setattr(wire, "recv", Receiver(association, self.request, self.server.limits))  # noqa: B010
        return association


class Receiver:
    """Reads from a peer's socket within limits; takes the place of ``AssociationSocket.recv``.

    An ``OSError`` ends the association, as a broken connection does.

    Args:
        association: whose messages are received.
        connection: to the peer.
        limits: of the peer.
    """

    def __init__(self, association: Association, connection: socket.socket, limits: ReceiveLimits) -> None:
        self._association = association
        self._connection = connection
        self._limits = limits
        self.next_message()

    def next_message(self) -> None:
        """The message that was being received is complete."""
        self._bytes = 0
        self._until: float | None = None

    def close(self) -> None:
        """Close the connection: the library leaves it open when the peer was faster."""
        self._connection.close()

    def __call__(self, count: int) -> bytearray:
        """``count`` bytes; fewer when the peer has closed the connection."""
        limits = self._limits
        self._bytes += count
        if count > limits.pdu_bytes + _PDU_ALLOWANCE or self._bytes > limits.message_bytes:
            _log.warning("a peer sent more than is allowed; the association is ended")
            raise OSError("more than is allowed")
        if self._association.dimse.msg_queue.qsize() > _QUEUED:
            raise OSError("a peer does not wait for answers")
        if self._until is None:
            self._until = time.monotonic() + limits.message_s
        found = bytearray()
        while len(found) < count:
            if time.monotonic() > self._until:
                raise TimeoutError("a message took too long")
            piece = self._connection.recv(min(_READ, count - len(found)))
            if not piece:
                break
            found += piece
        return found
