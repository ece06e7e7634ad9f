"""The other end of an association: images to send, and a peer that sends them by pynetdicom."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset
from pydicom.filereader import dcmread
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association

from pneumoscope_clinic.dicom.association import ending
from pneumoscope_clinic.dicom.node import Node
from pneumoscope_clinic.store.database import Store
from tests.clinic.stores import make_store
from tests.imaging.dicom_builder import radiograph, ramp, write

CR, DX, SC = (
    uid.ComputedRadiographyImageStorage,
    uid.DigitalXRayImageStorageForPresentation,
    uid.SecondaryCaptureImageStorage,
)
CANARIES = ("CANARY^NAME", "CANARY-4711", "1.2.826.0.1.99999")
"""Name, number and UIDs of the patient of :func:`film`; they must not turn up in a log."""


def film(number: int = 1, level: float | None = None, **elements: Any) -> Dataset:
    """A computed radiograph of 96 x 80 pixels; ``number`` is in its UIDs, ``level`` is its grey (0 to 1)."""
    stored = ramp(12, shape=(96, 80))
    if level is not None:
        stored = np.full((96, 80), round(level * 4095), np.uint16)
        stored[::7] //= 2
    root = f"1.2.826.0.1.99999.{number}"
    values = {
        "PatientName": "CANARY^NAME",
        "PatientID": "CANARY-4711",
        "PatientBirthDate": "20210203",
        "StudyInstanceUID": "1.2.826.0.1.99999.7",
        "SeriesInstanceUID": "1.2.826.0.1.99999.7.1",
        "SOPInstanceUID": root,
        "StudyDate": "20240229",
        "StudyTime": "101112",
        "StudyID": "S1",
        "AccessionNumber": "A1",
        "SeriesNumber": 1,
        "InstanceNumber": number,
        **elements,
    }
    made = radiograph(stored, 12, **values)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    return made


def film_file(
    folder: Path, number: int = 1, syntax: uid.UID = uid.ExplicitVRLittleEndian, **elements: Any
) -> Path:
    """The same as a file, ``<number>.dcm``."""
    return write(film(number, **elements), folder / f"{number}.dcm", syntax)


def parsed(content: bytes) -> FileDataset:
    return dcmread(io.BytesIO(content))


@contextmanager
def running_node(tmp_path: Path, **settings: Any) -> Iterator[tuple[Store, int]]:
    """A store and the port of a node that takes images for it; ``settings`` as ``make_store``."""
    store = make_store(tmp_path, **{"dicom__port": 0, **settings})
    try:
        with Node(store) as node:
            yield store, node.address[1]
    finally:
        store.close()


@contextmanager
def association(
    port: int,
    *classes: str,
    syntaxes: Any = None,
    title: str = "MODALITY",
    called: str = "PNEUMOSCOPE",
    **arguments: Any,
) -> Iterator[Association]:
    """An association with a node, established or not."""
    entity = ApplicationEntity(title)
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = entity.connection_timeout = 60
    for sop_class in classes:
        entity.add_requested_context(sop_class, syntaxes)
    with ending(entity.associate("127.0.0.1", port, ae_title=called, **arguments)) as opened:
        yield opened
