"""What a DICOM header says about the film: source facts, pixel spacing, and what speaks against it.

In: a data set. Out: strings for ``Radiograph.source``, a spacing in mm, and warnings. The patient's name and
birth date are not taken over; the age on the day of the film is, where the header does not state it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_FACTS = {
    "modality": "Modality",
    "body_part": "BodyPartExamined",
    "view_position": "ViewPosition",
    "laterality": "ImageLaterality",
    "photometric_interpretation": "PhotometricInterpretation",
    "bits_stored": "BitsStored",
    "bits_allocated": "BitsAllocated",
    "patient_id": "PatientID",
    "patient_age": "PatientAge",
    "patient_sex": "PatientSex",
    "manufacturer": "Manufacturer",
    "device": "ManufacturerModelName",
    "sop_class_uid": "SOPClassUID",
    "study_instance_uid": "StudyInstanceUID",
    "series_instance_uid": "SeriesInstanceUID",
    "sop_instance_uid": "SOPInstanceUID",
}
_OLDEST = 120
"""Years; who seems older has no birth date but a placeholder."""
# PS3.3 C.7.3.1.1.1: computed, digital and film radiography; OT and the retired SC for secondary captures.
_PROJECTION_MODALITIES = frozenset({"CR", "DX", "RG", "OT", "SC"})
# PS3.16 annex L: CHEST; THORAX and LUNG occur in practice, with words round them.
_CHEST_WORDS = ("CHEST", "THORAX", "LUNG")
# PS3.3 C.8.1.3 and C.8.7.1: position of the patient relative to the detector.
_NOT_FRONTAL = {
    "LL": "a left lateral", "RL": "a right lateral", "LAT": "a lateral", "LATERAL": "a lateral",
    "LLD": "a left lateral decubitus", "RLD": "a right lateral decubitus",
    "LLO": "a left oblique", "RLO": "a right oblique",
}  # fmt: skip


def source_facts(dataset: Dataset) -> dict[str, str]:
    """Facts by name; an absent or empty element has no entry. ``patient_age`` is DICOM's age string."""
    facts = {"format": "DICOM", "transfer_syntax": dataset.file_meta.TransferSyntaxUID.name}
    for name, keyword in _FACTS.items():
        value = str(dataset.get(keyword) or "").strip()
        if value:
            facts[name] = value
    if "patient_age" not in facts:
        facts |= _age_by_dates(dataset)
    return facts


def _age_by_dates(dataset: Dataset) -> dict[str, str]:
    """``patient_age`` from Patient's Birth Date and the day of the film, as an age string (PS3.5 6.2)."""
    born = _day(dataset, "PatientBirthDate")
    days = (_day(dataset, name) for name in ("AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate"))
    taken = next((day for day in days if day is not None), None)
    if born is None or taken is None or taken < born:
        return {}
    years = taken.year - born.year - ((taken.month, taken.day) < (born.month, born.day))
    if years >= 2:
        return {"patient_age": f"{years:03d}Y"} if years <= _OLDEST else {}
    return {"patient_age": f"{(taken - born).days:03d}D"}


def _day(dataset: Dataset, keyword: str) -> date | None:
    """A date of the header (DA, PS3.5 6.2); None where it is absent or no date."""
    try:
        return datetime.strptime(str(dataset.get(keyword) or "").strip(), "%Y%m%d").date()
    except ValueError:
        return None


def pixel_spacing_mm(dataset: Dataset) -> tuple[float, float] | None:
    """Row and column spacing in mm: Pixel Spacing, else that of the detector, else of the film scanner.

    Pixel Spacing is calibrated or, like Imager Pixel Spacing, in the plane of the detector (PS3.3 10.7.1.3).
    """
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        try:
            row, column = numbers(dataset, keyword)
        except ValueError:  # not two numbers: as good as absent, the picture does not depend on it
            continue
        if all(math.isfinite(side) and side > 0 for side in (row, column)):
            return row, column
    return None


def numbers(dataset: Dataset, keyword: str) -> tuple[float, ...]:
    """The values of a numeric element; none when it is absent or empty.

    Raises:
        ValueError: a value is no number (a decimal comma, for example), or not finite.
    """
    try:
        value = dataset.get(keyword)
        values = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else [value]
        found = tuple(float(part) for part in values if part not in (None, "", b""))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{keyword} is not a number") from error
    if not all(map(math.isfinite, found)):
        raise ValueError(f"{keyword} is not a finite number")
    return found


def is_chest(facts: Mapping[str, str]) -> bool | None:
    """Whether the header names the chest as the body part; None when it names none."""
    part = facts.get("body_part", "").upper()
    return any(word in part for word in _CHEST_WORDS) if part else None


def header_warnings(facts: Mapping[str, str], patient_orientation: tuple[str, ...] = ()) -> list[str]:
    """What in the header speaks against a frontal chest radiograph.

    Args:
        facts: of :func:`source_facts`.
        patient_orientation: Patient Orientation, direction of rows then of columns (PS3.3 C.7.6.1.1.1).
    """
    notes = []
    modality = facts.get("modality", "").upper()
    if modality not in _PROJECTION_MODALITIES:
        notes.append(f"the modality is {modality or 'not given'}, not that of a radiograph (CR, DX, RG)")
    if is_chest(facts) is False:
        notes.append(f"the body part is {facts['body_part']}, not the chest")
    view = facts.get("view_position", "").upper()
    if view in _NOT_FRONTAL:
        notes.append(f"the film is {_NOT_FRONTAL[view]} view, not a frontal one (AP or PA)")
    elif not view and patient_orientation[:1] and patient_orientation[0][:1] in ("A", "P"):
        notes.append("the patient orientation is that of a lateral view, not a frontal one (AP or PA)")
    return notes
