"""DICOM header facts of a radiograph, and the one table of modality, body part, view and age words.

Decoder and gate both judge a header by :func:`header_findings`. The patient's name and birth date are not
taken over; the age on the day of the image is, where the header does not state it.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from typing import TYPE_CHECKING

from pneumoscope.core.findings import Finding

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

# Modality, PS3.3 C.7.3.1.1.1. DR and XR are no defined terms but common in the field. What is in neither set
# (OT and SC of secondary captures, unknown words) leaves it open.
PROJECTION_MODALITIES = frozenset({"CR", "DX", "RG", "DR", "XR"})
OTHER_MODALITIES = frozenset(
    {
        "AR", "AU", "BDUS", "BI", "BMD", "CF", "CFM", "CT", "CTPROTOCOL", "DF", "DG", "DMS", "DOC", "DS",
        "ECG", "EEG", "EMG", "EOG", "EPS", "ES", "FID", "GM", "HC", "HD", "IO", "IVOCT", "IVUS", "KER", "KO",
        "LEN", "LS", "M3D", "MG", "MR", "NM", "OAM", "OCT", "OP", "OPM", "OPT", "OPTBSV", "OPTENF", "OPV",
        "OSS",
        "PLAN", "POS", "PR", "PT", "PX", "REG", "RESP", "RF", "RTDOSE", "RTIMAGE", "RTPLAN", "RTRECORD",
        "RTSTRUCT", "RWV", "SEG", "SM", "SMR", "SR", "SRF", "ST", "STAIN", "TEXTUREMAP", "TG", "US", "VA",
        "XA", "XAPROTOCOL", "XC",
    }
)  # fmt: skip

# Body Part Examined, PS3.16 annex L, and what devices write; accents are dropped before the comparison.
# A stem counts anywhere in the text, a word only on its own (with a plural S).
_SPINE_STEMS = (
    "SPINE", "SPINAL", "VERTEB", "WIRBEL", "COLUMNA", "RACHIS", "LUMB", "CERVIC", "ПОЗВОН", "椎", "脊",
)  # fmt: skip
_CHEST_STEMS = (
    "CHEST", "THORA", "TORAX", "TORAC", "LUNG", "PULM", "POUMON", "BRUST", "TRUNK", "TRONCO", "POLMON",
    "ГРУД", "ЛЕГК", "ТОРАКС", "胸", "肺", "흉부",
)  # fmt: skip
_CHEST_WORDS = frozenset({"CXR", "PECHO", "POITRINE", "PETTO", "PEITO", "BORST", "GOGUS", "AKCIGER"})
_RIB_WORDS = frozenset({"RIB", "RIPPE", "RIPPEN", "COSTILLA", "COSTA", "COSTOLA", "COTE"})
_OTHER_STEMS = (
    "ABDOM", "SKULL", "CRANI", "CRANEO", "SCHADEL", "SCHAEDEL", "PELVI", "BECKEN", "BASSIN", "BACINO",
    "SHOULDER", "SCHULTER", "HOMBRO", "EPAULE", "SPALLA", "KNEE", "RODILLA", "GENOU", "GINOCCHIO",
    "HAND", "FOOT", "FINGER", "WRIST", "ELBOW", "ANKLE", "EXTREMIT", "FEMUR", "TIBIA", "HUMERUS",
    "CLAVIC", "STERNUM", "BREAST", "MAMMA", "BRAIN", "MANDIB", "MAXILL", "SINUS", "FOREARM", "PATELLA",
    "CALCAN", "COCCYX", "SACRUM", "腹", "頭", "手", "膝", "骨盤", "骨盆", "足", "肩", "胸骨", "복부",
)  # fmt: skip
_OTHER_WORDS = frozenset(
    {
        "MANO", "MAO", "ARM", "LEG", "HIP", "HUFTE", "HUEFTE", "CADERA", "HANCHE", "ANCA",
        "FEET", "FUSS", "FUS", "PIE", "PIED", "PIEDE", "TOE", "THUMB", "HEAD", "KOPF", "CABEZA",
        "TETE", "NECK", "HALS", "KNIE", "FACE", "JAW", "ORBIT", "NOSE", "THIGH", "CALF", "BWS", "HWS", "LWS",
        "CSP", "TSP", "LSP", "KUB", "TEETH", "DENTAL", "EYE", "EAR", "COLON", "STOMACH",
    }
)  # fmt: skip

# View Position, PS3.3 C.8.1.3 and C.8.7.1, and what devices write.
_FRONTAL_VIEWS = frozenset({"AP", "PA"})
_LATERAL_VIEWS = frozenset({"LL", "RL", "LAT", "LATERAL"})
_DECUBITUS_OR_OBLIQUE = frozenset({"LLD", "RLD", "LLO", "RLO"})


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
    """``patient_age`` from Patient's Birth Date and the day of the image, as an age string (PS3.5 6.2)."""
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


def header_findings(facts: Mapping[str, str], patient_orientation: tuple[str, ...] = ()) -> list[Finding]:
    """What in the header speaks against a frontal chest radiograph.

    Args:
        facts: of :func:`source_facts`.
        patient_orientation: Patient Orientation, direction of rows then of columns (PS3.3 C.7.6.1.1.1).
    """
    return [*_modality(facts), *_body_part(facts), *_view(facts, patient_orientation)]


def _modality(facts: Mapping[str, str]) -> Iterator[Finding]:
    modality = facts.get("modality", "").upper()
    if not modality:
        yield Finding.warning("modality-missing")
    elif modality in OTHER_MODALITIES:
        yield Finding.refusal("modality-not-projection", modality=modality)
    elif modality not in PROJECTION_MODALITIES:
        yield Finding.warning("modality-unspecific", modality=modality)


def _body_part(facts: Mapping[str, str]) -> Iterator[Finding]:
    """A part that is clearly another is refused; one whose word is not known is warned of."""
    part = facts.get("body_part", "")
    letters = unicodedata.normalize("NFKD", part.upper())
    text = unicodedata.normalize("NFC", "".join(c for c in letters if not unicodedata.combining(c)))
    words = set(re.findall(r"[^\W\d_]+", text))
    words |= {word.removesuffix("S") for word in words}

    def has(stems: tuple[str, ...], whole: frozenset[str] = frozenset()) -> bool:
        return any(stem in text for stem in stems) or not words.isdisjoint(whole)

    if not part or (has(_CHEST_STEMS, _CHEST_WORDS) and not has((*_SPINE_STEMS, "胸骨", "BRUSTBEIN"))):
        return
    if has(_SPINE_STEMS + _OTHER_STEMS, _OTHER_WORDS):
        yield Finding.refusal("body-part-not-chest", body_part=part)
    elif has((), _RIB_WORDS):
        yield Finding.warning("body-part-ribs", body_part=part)
    else:
        yield Finding.warning("body-part-unknown", body_part=part)


def _view(facts: Mapping[str, str], patient_orientation: tuple[str, ...]) -> Iterator[Finding]:
    view = facts.get("view_position", "").upper()
    words = set(re.findall(r"[A-Z]+", view))
    if words & _FRONTAL_VIEWS:
        return
    if words & _LATERAL_VIEWS:
        yield Finding.refusal("view-lateral", view=view)
    elif words & _DECUBITUS_OR_OBLIQUE:
        yield Finding.warning("view-decubitus-or-oblique", view=view)
    elif not view and patient_orientation[:1] and patient_orientation[0][:1] in ("A", "P"):
        yield Finding.warning("orientation-lateral")


def to_age(text: str) -> float | None:
    """Age in years from ``7``, ``7.5``, or DICOM's age string (``018M``, ``007Y``; PS3.5 6.2); else None."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([DWMY]?)\s*", text, re.IGNORECASE)
    if not match:
        return None
    years = float(match[1]) / {"D": 365.25, "W": 52.18, "M": 12.0}.get(match[2].upper(), 1.0)
    return round(years, 2) if years <= _OLDEST else None


def to_view(text: str) -> str | None:
    """``PA``, ``AP`` or ``LATERAL``; None for anything else."""
    word = text.strip().upper()
    if word in _FRONTAL_VIEWS:
        return word
    return "LATERAL" if word in _LATERAL_VIEWS or word == "L" else None
