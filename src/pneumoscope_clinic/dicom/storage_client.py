"""C-STORE SCU for results, and C-ECHO."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pneumoscope.core.errors import DeliveryError
from pneumoscope_clinic.dicom.association import VERIFICATION, application_entity, client_context, ending
from pneumoscope_clinic.results.dicom_objects import dicom_objects
from pneumoscope_clinic.results.fhir import StudyResults
from pneumoscope_clinic.settings import Destination, DicomSettings

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pynetdicom.association import Association

_ACCEPT = "have it accept this kind of object, or leave it out of the destination's objects"

_WARNINGS = range(0xB000, 0xC000)
"""Stored, with a remark (coerced elements, for instance), PS3.4 table B.2-1."""
_RESOURCES = range(0xA700, 0xA800)


class StorageClient:
    """Sends to a destination of kind ``dimse``.

    Args:
        destination: where to.
        settings: of our own application entity.
    """

    def __init__(self, destination: Destination, settings: DicomSettings) -> None:
        self._destination = destination
        self._settings = settings

    def deliver(self, study: StudyResults) -> int:
        """Send the DICOM objects of a study's images; how many there were.

        Raises:
            DeliveryError: one of them was not stored. Those that were stay; sent again they are the same.
            InputError: an image did not come as DICOM.
        """
        datasets = [made for film in study.films for made in dicom_objects(film, self._destination.objects)]
        if datasets:
            self.send(datasets)
        return len(datasets)

    def send(self, datasets: Sequence[Dataset]) -> None:
        """Store data sets in one association.

        Raises:
            DeliveryError: one of them was not stored.
        """
        classes: dict[str, str | None] = {
            dataset.SOPClassUID: dataset.file_meta.TransferSyntaxUID for dataset in datasets
        }
        with self._associated(classes) as association:
            for dataset in datasets:
                self._send_one(association, dataset)

    def check(self) -> None:
        """C-ECHO (PS3.4 annex A).

        Raises:
            DeliveryError: no association, or no success.
        """
        with self._associated({VERIFICATION: None}) as association:
            status = association.send_c_echo().get("Status")
            if status != 0x0000:
                raise self._down("the peer did not answer C-ECHO with success")

    def _send_one(self, association: Association, dataset: Dataset) -> None:
        kind = dataset.SOPClassUID.name
        try:
            status = association.send_c_store(dataset).get("Status")
        except ValueError as error:
            raise DeliveryError(
                f"the peer does not accept {kind}",
                where=self._destination.name,
                remedy=_ACCEPT,
            ) from error
        except RuntimeError as error:
            raise self._down("the association ended while results were sent") from error
        if status is None:
            raise self._down("the peer did not answer C-STORE in time, or ended the association")
        if status in _RESOURCES:
            raise self._down(f"the peer is out of resources (status {status:04X})")
        if status != 0x0000 and status not in _WARNINGS:
            raise DeliveryError(
                f"the peer refused {kind} with status {status:04X}",
                where=self._destination.name,
                remedy="its log says why (PS3.4 table B.2-1)",
            )

    @contextmanager
    def _associated(self, classes: Mapping[str, str | None]) -> Iterator[Association]:
        """An association that offers each class in its own transfer syntax and in native little endian."""
        from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

        entity, target = application_entity(self._settings), self._destination
        assert target.host is not None
        assert target.port is not None
        for sop_class, syntax in classes.items():
            native = [ExplicitVRLittleEndian, ImplicitVRLittleEndian]
            entity.add_requested_context(sop_class, native)
            if syntax is not None and syntax not in native:
                entity.add_requested_context(sop_class, syntax)
        tls = (client_context(self._settings), target.host) if target.tls else None
        try:
            association = entity.associate(
                target.host, target.port, ae_title=target.ae_title or "ANY-SCP", tls_args=tls
            )
        except OSError as error:  # the name cannot be resolved
            raise self._down("the host's name is not known") from error
        with ending(association):
            if not association.is_established:
                raise self._refusal(association)
            yield association

    def _refusal(self, association: Association) -> DeliveryError:
        from pydicom.uid import UID

        answer = association.acceptor.primitive
        if association.is_rejected and answer is not None:
            remedy = (
                f"allow our AE title {self._settings.ae_title} there, and check the destination's ae_title"
            )
            return self._down(f"the peer rejected the association: {answer.reason_str}", remedy)
        if association.rejected_contexts:
            kinds = ", ".join(
                dict.fromkeys(UID(cx.abstract_syntax or "").name for cx in association.rejected_contexts)
            )
            return DeliveryError(
                f"the peer does not accept {kinds}", where=self._destination.name, remedy=_ACCEPT
            )
        return self._down(
            "no association: the peer cannot be reached, or did not accept TLS, or took too long",
            "check host, port and tls of the destination, and that the peer runs",
        )

    def _down(self, problem: str, remedy: str | None = None) -> DeliveryError:
        return DeliveryError.down(problem, where=self._destination.name, remedy=remedy)
