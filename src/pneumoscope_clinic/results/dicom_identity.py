"""Patient and study module of DICOM results, and UIDs that stay the same when a result is made again.

Names, dates and texts that break their value representation are left out (empty where the standard wants the
element) rather than shortened or guessed: a shortened identifier is another patient's.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from pneumoscope import __version__
from pneumoscope.core.errors import InputError
from pneumoscope.imaging.decoding import collected_warnings
from pneumoscope_clinic.results.stored_result import StoredResult

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.sr.coding import Code
    from pydicom.uid import UID

MANUFACTURER = MODEL = "pneumoscope"

# A name space of our own for name-based UUIDs (RFC 9562 section 5.5), made once with uuid4.
_NAME_SPACE = uuid.UUID("6f0d9a52-5a0e-4c1b-9f0d-3e1f6c8f2b74")

# Patient (PS3.3 C.7.1.1), General Study (C.7.2.1) and Patient Study (C.7.2.2); the first group is of type 2
# and there in every result, though empty; of the others, what identifies or is asked for.
_TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID",
)  # fmt: skip
_OPTIONAL = (
    "IssuerOfPatientID", "PatientBirthTime", "OtherPatientNames", "EthnicGroup",
    "StudyDescription", "PatientAge", "PatientSize", "PatientWeight", "AdmissionID",
)  # fmt: skip
_SEXES = ("M", "F", "O")  # PS3.3 C.7.1.1
_OFFSET = re.compile(r"([+-])(\d{2})(\d{2})")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of result object.

    Attributes:
        name: in our UIDs; never change it, or a retry makes a second object.
        series_number: high, so that viewers list results after the images.
        description: of the series.
    """

    name: str
    series_number: int
    description: str


def own_uid(*words: str) -> UID:
    """A UID (2.25 and a name-based UUID, PS3.5 B.2) that depends on ``words`` alone."""
    from pydicom.uid import UID

    return UID(f"2.25.{uuid.uuid5(_NAME_SPACE, chr(31).join(words)).int}")


def source_reference(result: StoredResult) -> Dataset:
    """The source as far as a result needs it: patient, study, and what identifies the image.

    The text is Unicode (Specific Character Set ISO_IR 192). A UID that the header lacks, or that is none, is
    one of ours that depends on the image alone. Class and modality are computed radiography whatever the
    source is, because highdicom knows the modules of current standard classes only; :func:`finalize` puts the
    true one where the result refers to it.

    Raises:
        InputError: the image came without a DICOM header (JPEG, PNG): no study awaits its results.
    """
    from pydicom.dataset import Dataset
    from pydicom.uid import ComputedRadiographyImageStorage

    header = result.header
    if header is None:
        raise InputError("an image that is no DICOM object has no DICOM results", where=result.film_id)
    source = Dataset()
    source.SpecificCharacterSet = "ISO_IR 192"
    with collected_warnings():  # of odd values, which are checked one by one below
        for keyword in _TYPE_2:
            setattr(source, keyword, _valid(header, keyword) or "")
        for keyword in _OPTIONAL:
            value = _valid(header, keyword)
            if value:
                setattr(source, keyword, value)
        for level in ("Study", "Series", "SOP"):
            keyword = f"{level}InstanceUID"
            setattr(source, keyword, _uid(header, keyword) or own_uid(result.film_id, keyword))
        source.SOPClassUID = ComputedRadiographyImageStorage
        source.TimezoneOffsetFromUTC = _valid(header, "TimezoneOffsetFromUTC") or None
    if not _OFFSET.fullmatch(str(source.TimezoneOffsetFromUTC or "")):
        del source.TimezoneOffsetFromUTC
    source.Modality = "CR"
    source.Rows, source.Columns = result.original_size
    return source


def _raw(header: Dataset, keyword: str) -> Any:
    """The value of an element; None when it is absent or its bytes are no value of its representation."""
    try:
        return header.get(keyword)
    except (ValueError, TypeError, NotImplementedError, OverflowError):
        return None


def _uid(header: Dataset | None, keyword: str) -> str | None:
    """A UID as it is, even one with leading zeros: it is what leads back to the study."""
    if header is None:
        return None
    text = str(_raw(header, keyword) or "").strip(" \0")
    return text if len(text) <= 64 and re.fullmatch(r"\d+(\.\d+)+", text) else None


def _valid(header: Dataset, keyword: str) -> str | None:
    """The value of a single-valued text element when it obeys its value representation; else None."""
    from pydicom import config
    from pydicom.datadict import dictionary_VR
    from pydicom.valuerep import PersonName, validate_value

    value = _raw(header, keyword)
    if not isinstance(value, str | PersonName | int | float):
        return None
    representation = dictionary_VR(keyword)
    text = _retired_forms(representation, str(value).strip(" \0"))
    if keyword == "PatientSex":
        text = text.upper()
        return text if text in _SEXES else None
    try:
        validate_value(representation, text, config.RAISE)
    except ValueError:
        return None
    return text if _sound(representation, text) else None


def _retired_forms(representation: str, text: str) -> str:
    """ACR-NEMA dates and times, ``1999.12.31`` and ``23:59:59``, as they are written today (PS3.5 6.2)."""
    if representation == "DA":
        return text.replace(".", "")
    return text.replace(":", "") if representation == "TM" else text


def _sound(representation: str, text: str) -> bool:
    """What the library's patterns let through: days that no month has, controls, names of too many parts."""
    if representation == "DA" and text:
        return _parses(text, "%Y%m%d")
    if representation == "TM" and text:
        whole = text.partition(".")[0]
        return len(whole) in (2, 4, 6) and _parses(whole, "%H%M%S"[: len(whole)])
    if representation == "PN" and any(group.count("^") > 4 for group in text.split("=")):
        return False
    return not any(ord(character) < 32 or 127 <= ord(character) < 160 for character in text)


def _parses(text: str, pattern: str) -> bool:
    try:
        datetime.strptime(text, pattern)
    except ValueError:
        return False
    return True


def image_reference(source: Dataset, purpose: Code | None = None) -> Dataset:
    """An item of Source Image or Source Instance Sequence: which image, and what it was taken for."""
    from highdicom.sr import CodedConcept
    from pydicom.dataset import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    if purpose is not None:
        item.PurposeOfReferenceCodeSequence = [CodedConcept.from_code(purpose)]
    return item


def created_at(result: StoredResult, source: Dataset) -> datetime:
    """When the image was examined, in the time zone of the source, or in this computer's."""
    offset = _OFFSET.fullmatch(source.get("TimezoneOffsetFromUTC", ""))
    if offset is None:
        return result.examined_at.astimezone()
    sign, hours, minutes = offset.groups()
    east = timedelta(hours=int(hours), minutes=int(minutes)) * (1 if sign == "+" else -1)
    return result.examined_at.astimezone(timezone(east))


def instance_arguments(result: StoredResult, kind: Kind) -> dict[str, Any]:
    """Arguments of every highdicom object: its UIDs, series and equipment.

    UIDs depend on image, bundle, operating point and kind: the same result sent twice is the same object.
    """
    words = (result.film_id, result.bundle_id, str(result.document["operating_point"]), kind.name)
    return {
        "series_instance_uid": own_uid(*words, "series"),
        "series_number": kind.series_number,
        "series_description": kind.description,
        "sop_instance_uid": own_uid(*words, "instance"),
        "instance_number": 1,
        "manufacturer": MANUFACTURER,
        "manufacturer_model_name": MODEL,
        "software_versions": [__version__, result.bundle_id[:64]],
        "device_serial_number": result.bundle_id[:64],
    }


def finalize(dataset: Dataset, result: StoredResult, source: Dataset) -> Dataset:
    """Make a result reproducible and complete: times of the examination, time zone, our implementation."""
    created = created_at(result, source)
    dataset.SeriesDate, dataset.SeriesTime = f"{created:%Y%m%d}", f"{created:%H%M%S.%f}"
    for act in ("InstanceCreation", "Content", "OfSecondaryCapture", "PresentationCreation"):
        date, time = (f"{part}{act}" if act.startswith("Of") else f"{act}{part}" for part in ("Date", "Time"))
        if date in dataset:
            setattr(dataset, date, dataset.SeriesDate)
            setattr(dataset, time, dataset.SeriesTime)
    dataset.SpecificCharacterSet = source.SpecificCharacterSet
    if "TimezoneOffsetFromUTC" in source:
        dataset.TimezoneOffsetFromUTC = source.TimezoneOffsetFromUTC
    for item in dataset.get("ContributingEquipmentSequence", []):
        item.ContributionDateTime = f"{created:%Y%m%d%H%M%S.%f}"
    _refer_to_class(dataset, _uid(result.header, "SOPClassUID") or source.SOPClassUID)
    dataset.file_meta.ImplementationClassUID = own_uid("implementation")
    dataset.file_meta.ImplementationVersionName = f"PNEUMO_{__version__}"[:16]
    dataset.preamble = b"\0" * 128
    return dataset


def _refer_to_class(dataset: Dataset, sop_class: str) -> None:
    """Write the source's SOP class into every reference of a result, which refers to nothing else."""
    for element in dataset.iterall():
        if element.keyword == "ReferencedSOPClassUID":
            element.value = sop_class
