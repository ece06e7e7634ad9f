"""Storage commitment, push model (PS3.4 annex J): which films are really here.

In: a request (N-ACTION) with references to instances. Out: a report (N-EVENT-REPORT): committed are films
that are stored, whatever the sender was told before. A peer with a configured port gets the report on a new
association, any other on the association of its request. One thread sends all reports, one after the other;
those that a peer does not take wait for their next attempt beside it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import and_, select

from pneumoscope_clinic.dicom.entity import STORAGE_COMMITMENT, application_entity, ending, film_classes
from pneumoscope_clinic.dicom.tls import client_context
from pneumoscope_clinic.settings import DicomSettings, Peer
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Film, Job

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pynetdicom.association import Association
    from pynetdicom.events import Event

_log = logging.getLogger(__name__)

PROCESSING_FAILURE, NO_SUCH_ACTION, INVALID_ARGUMENT, RESOURCE_LIMITATION = 0x0110, 0x0123, 0x0115, 0x0213
"""Statuses of N-ACTION, PS3.7 10.1.4.1.10."""

_NO_SUCH_INSTANCE, _CLASS_NOT_SUPPORTED = 0x0112, 0x0122  # Failure Reason, PS3.3 C.14.1.1
_ALL_COMMITTED, _FAILURES_EXIST = 1, 2  # event types, PS3.4 J.3.3.1.1
_THE_INSTANCE = "1.2.840.10008.1.20.1.1"  # well-known SOP instance of storage commitment, PS3.6 table A-1
_REQUEST_COMMITMENT = 1  # action type, PS3.4 J.3.2.1.1
_MOST_BYTES = 1 << 20
"""Of a request, which is read in the node itself; about 8,000 references."""
_BLOCK = 500
_LINGER_S = 0.5
"""A peer that wants a report on a new association releases this one at once."""
_PAUSES_S = (5.0, 30.0, 120.0, 600.0)
"""After each attempt but the last; who has heard nothing by then asks again."""
_MOST_REPORTS = 64
"""That wait at a time; of the largest requests they are some 250 MB."""

Reference = tuple[str, str]
"""SOP class and SOP instance."""


@dataclass(frozen=True, slots=True)
class Request:
    """What a peer asks for: its transaction, and references in the order that it gave them."""

    transaction_uid: str
    references: tuple[Reference, ...]


class _NotThereError(Exception):
    """No association with a peer came about."""


@dataclass(eq=False)
class _Errand:
    """A report that is to be sent: on ``association``, or anew to a peer with a port at ``address``."""

    request: Request
    association: Association
    address: str
    peer: Peer | None
    due: float = 0.0
    attempts: int = 0

    @property
    def anew(self) -> tuple[str, Peer] | None:
        """Whom it goes to on a new association."""
        return None if self.peer is None or self.peer.port is None else (self.address, self.peer)


class Commitments:
    """Answers requests; one for each node.

    Args:
        store: knows which films are there.
        settings: of the node.
    """

    def __init__(self, store: Store, settings: DicomSettings) -> None:
        self._store = store
        self._settings = settings
        self._asked: dict[Association, _Errand] = {}
        self._errands: list[_Errand] = []
        self._stopped = False
        self._changed = threading.Condition()  # guards the three above
        self._thread = threading.Thread(target=self._send_reports, name="commitment", daemon=True)

    def start(self) -> None:
        """Send reports from now on."""
        self._thread.start()

    def close(self) -> None:
        """Try no more."""
        with self._changed:
            self._stopped = True
            self._changed.notify()

    def take(self, event: Event, peer: Peer | None) -> tuple[int, None]:
        """Handler of N-ACTION: the status; the report follows when the answer has been sent."""
        if event.action_type != _REQUEST_COMMITMENT:
            return NO_SUCH_ACTION, None
        information = getattr(event.request, "ActionInformation", None)
        if information is None:
            return INVALID_ARGUMENT, None
        if information.getbuffer().nbytes > _MOST_BYTES:
            return RESOURCE_LIMITATION, None
        try:
            request = _request(event.action_information)
        except Exception as error:  # a stranger's data set; what the library raises for it is not documented
            _log.warning("a storage commitment request could not be read: %s", type(error).__name__)
            return INVALID_ARGUMENT, None
        if request is None:
            return INVALID_ARGUMENT, None
        with self._changed:
            if len(self._asked) + len(self._errands) >= _MOST_REPORTS:
                _log.warning("a storage commitment request was refused: %d reports wait", _MOST_REPORTS)
                return RESOURCE_LIMITATION, None
            self._asked[event.assoc] = _Errand(request, event.assoc, event.assoc.requestor.address, peer)
        return 0x0000, None

    def answered(self, association: Association) -> None:
        """The answer to the last request has been sent: its report is due."""
        with self._changed:
            errand = self._asked.pop(association, None)
            if errand is not None:
                errand.due = time.monotonic() + (0.0 if errand.anew else _LINGER_S)
                self._errands.append(errand)
                self._changed.notify()

    def forget(self, association: Association) -> None:
        """The association is over; a request that could not be answered is not reported on."""
        with self._changed:
            self._asked.pop(association, None)

    def _send_reports(self) -> None:
        while (errand := self._next()) is not None:
            together = [errand]
            try:
                done = self._report(errand)
            except _NotThereError:  # one attempt for all that is due to that peer now
                done, together = False, self._due_to(errand)
            except Exception as error:  # the database's, for instance; no report may end those after it
                _log.warning("a storage commitment report failed: %s", type(error).__name__)
                done = False
            if done:
                self._remove(errand)
            else:
                for each in together:
                    self._put_off(each)

    def _next(self) -> _Errand | None:
        """The next report, when it is due; None at the end."""
        with self._changed:
            while not self._stopped:
                errand = min(self._errands, key=lambda found: found.due, default=None)
                left = None if errand is None else errand.due - time.monotonic()
                if errand is not None and left is not None and left <= 0:
                    return errand
                self._changed.wait(left)
        return None

    def _due_to(self, errand: _Errand) -> list[_Errand]:
        """All that is due now to the peer of ``errand``."""
        with self._changed:
            present = time.monotonic()
            return [found for found in self._errands if found.anew == errand.anew and found.due <= present]

    def _remove(self, errand: _Errand) -> None:
        with self._changed:
            self._errands.remove(errand)

    def _put_off(self, errand: _Errand) -> None:
        """Try a report again later, or give it up."""
        errand.attempts += 1
        here_and_over = errand.anew is None and not errand.association.is_established
        if here_and_over or errand.attempts > len(_PAUSES_S):
            self._remove(errand)
            count = len(errand.request.references)
            _log.error("storage commitment of %d films: the report could not be sent", count)
        else:
            errand.due = time.monotonic() + _PAUSES_S[errand.attempts - 1]

    def _report(self, errand: _Errand) -> bool:
        """Send what is true now; whether the peer has it.

        Raises:
            _NotThereError: no association with the peer comes about.
        """
        request = errand.request
        stored = stored_instances(self._store, [uid for _, uid in request.references])
        event_type, content = report(request, stored, film_classes(self._settings))
        if errand.anew is None:
            association = errand.association
            sent = association.is_established and _send(association, event_type, content)
        else:
            sent = self._connect_and_send(*errand.anew, event_type, content)
        if sent:
            committed = len(content.get("ReferencedSOPSequence", []))
            _log.info("storage commitment of %d of %d films reported", committed, len(request.references))
        return sent

    def _connect_and_send(self, address: str, peer: Peer, event_type: int, content: Dataset) -> bool:
        from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
        from pynetdicom.presentation import build_role

        assert peer.port is not None
        entity = application_entity(self._settings)
        entity.add_requested_context(STORAGE_COMMITMENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        tls = None
        if self._settings.tls_certificate is not None:
            tls = (client_context(self._settings), address)
        association = entity.associate(
            address,
            peer.port,
            ae_title=peer.ae_title,
            ext_neg=[build_role(STORAGE_COMMITMENT, scp_role=True)],
            tls_args=tls,
        )
        with ending(association):
            if not association.is_established:
                raise _NotThereError
            return _send(association, event_type, content)


def stored_instances(store: Store, uids: Sequence[str]) -> set[str]:
    """Which SOP instances are here: films that wait or are examined, whose pixels have not been deleted."""
    named = {store.sealer.pseudonym(uid, "instance"): uid for uid in uids}
    keys, found = list(named), set()
    given_up = and_(Job.kind == "examine", Job.state == "failed")  # such a film is not kept
    with store.read() as session:
        for start in range(0, len(keys), _BLOCK):
            block = keys[start : start + _BLOCK]
            found |= set(
                session.scalars(
                    select(Film.instance_key).where(
                        Film.instance_key.in_(block), Film.pixels_gone.is_(False), ~Film.jobs.any(given_up)
                    )
                )
            )
    return {named[key] for key in found if key is not None}


def report(request: Request, stored: set[str], classes: Sequence[str]) -> tuple[int, Dataset]:
    """Event type and content of a report (PS3.4 table J.3-2).

    Args:
        request: what was asked.
        stored: SOP instances that are here.
        classes: SOP classes that are accepted.
    """
    from pydicom.dataset import Dataset

    content, good, bad = Dataset(), [], []
    for sop_class, uid in request.references:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, uid
        if sop_class in classes and uid in stored:
            good.append(item)
        else:
            item.FailureReason = _NO_SUCH_INSTANCE if sop_class in classes else _CLASS_NOT_SUPPORTED
            bad.append(item)
    content.TransactionUID = request.transaction_uid
    if good:
        content.ReferencedSOPSequence = good
    if bad:
        content.FailedSOPSequence = bad
    return (_FAILURES_EXIST if bad else _ALL_COMMITTED), content


def _request(information: Dataset) -> Request | None:
    """The request, or None when it breaks PS3.4 table J.3-1."""
    transaction = str(information.get("TransactionUID") or "")
    items = information.get("ReferencedSOPSequence") or []
    references = tuple(
        (str(item.get("ReferencedSOPClassUID") or ""), str(item.get("ReferencedSOPInstanceUID") or ""))
        for item in items
    )
    if not transaction or not references or any(not all(reference) for reference in references):
        return None
    return Request(transaction, references)


def _send(association: Association, event_type: int, content: Dataset) -> bool:
    try:
        status, _ = association.send_n_event_report(content, event_type, STORAGE_COMMITMENT, _THE_INSTANCE)
    except (RuntimeError, ValueError):  # released meanwhile, or no context was accepted
        return False
    return status.get("Status") == 0x0000
