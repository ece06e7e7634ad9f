"""De-identification: an image without what could name the patient, as it is stored and exported.

DICOM goes through the Basic Application Level Confidentiality Profile (PS3.15 annex E, by dicom-anonymizer),
items of sequences included, and loses what no standard knows: private and unknown elements, what lies before
and after the data set, and comments inside of compressed pixels. Other images are for ``strip_metadata``.
Text that is burned into the pixels stays here; exports mask it.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.imaging.decoding import collected_warnings
from pneumoscope.imaging.dicom import parse_dataset
from pneumoscope_clinic.image_errors import image_error
from pneumoscope_clinic.worker.strip_metadata import clean_jpeg_segments, clean_raster

if TYPE_CHECKING:
    from pydicom.dataset import Dataset
    from pydicom.tag import BaseTag

_LONGEST_VALUE = 16_384
"""Bytes of a header's element that is kept for results; longer ones are tables and curves, not identities."""
_BINARY_VRS = frozenset({"OB", "OW", "OD", "OF", "OL", "OV", "UN"})
_FIRST_PIXEL_GROUP = 0x6000
"""Overlays, and after them pixels (PS3.6)."""
_NO_TEXT_VRS = _BINARY_VRS | {"AT", "CS", "FD", "FL", "SL", "SQ", "SS", "SV", "UL", "US", "UV"}
"""What says how pixels are to be read is of these, or is a number as text."""
_TEXT_VRS = frozenset({"PN", "LO", "SH", "ST", "LT", "UC", "UT", "UI", "DA", "DT"})
_SHORTEST_NAME = 3
_FIRST_DATA_GROUP = 0x0008
"""Before it: commands and meta information (PS3.7 E, PS3.10 7.1), which have no place in a data set."""
_PICTURE_GROUPS = frozenset({0x0028, 0x2050, 0x7FE0})
"""How pixels are to be read, and pixels: what was read in spite of a wrong VR must stay readable."""
_TRAILING_PADDING = 0xFFFC
"""Group of what may follow the last element (PS3.10 7.2); it may hold anything."""


_DEVICE_TAGS = ("00080070", "00081090")
"""Manufacturer and model: they name no patient, and monitoring compares devices."""
_OLDEST_AGE = 90.0


def coarse_age(years: float) -> float:
    """An age as it is stored: all above 89 are 90 (HIPAA, 45 CFR 164.514(b)(2)(i)(C))."""
    return min(float(years), _OLDEST_AGE)


def deidentified(image: bytes | Dataset, kind: str) -> bytes:
    """An image file without what could name the patient.

    Args:
        image: content of the file, or a DICOM file parsed, which is changed.
        kind: as ``imaging.radiograph.image_format`` tells it.

    Raises:
        UnreadableFileError: it is so damaged that nobody can say what is in it, though its pixels were read.
    """
    try:
        if not isinstance(image, bytes):
            return _dicom(image)
        return _dicom(parse_dataset(image)) if kind == "DICOM" else clean_raster(image, kind)
    except MemoryError:
        raise
    except Exception as error:  # of many kinds, as the damage; its text may quote the image
        raise image_error(UnreadableFileError, "not-deidentifiable", error=type(error).__name__) from error


def deidentified_dataset(dataset: Dataset) -> None:
    """Apply the Basic profile to ``dataset`` in place, to items of its remaining sequences, too."""
    from dicomanonymizer import simpledicomanonymizer as profile

    _drop_unknown(dataset)
    profile.anonymize_dataset(dataset, base_rules_gen=profile.initialize_actions_2024b)
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                deidentified_dataset(item)
    profile.dictionary.clear()  # it remembers every UID that it replaced


def identity_header(dataset: Dataset) -> dict[str, Any]:
    """The header in the DICOM JSON model (PS3.18 F) without pixels, private elements and long values.

    An element that cannot be written, since its value contradicts its VR, is left out.
    """
    header: dict[str, Any] = {}
    with collected_warnings():
        for tag in sorted(dataset.keys()):
            if tag.is_private or tag.group >= _FIRST_PIXEL_GROUP:
                continue
            # pydicom raises many kinds of errors for many kinds of damage; one damaged element is no loss.
            with contextlib.suppress(Exception):
                element = dataset[tag]
                if element.VR not in _BINARY_VRS and len(str(element.value)) <= _LONGEST_VALUE:
                    header[f"{tag:08X}"] = element.to_json_dict(None, 0)
    return header


def identifying_texts(header: dict[str, Any]) -> set[str]:
    """Texts of a header (DICOM JSON model) that may name the patient: names, numbers, UIDs, dates."""
    found: set[str] = set()
    for tag, element in header.items():
        if tag in _DEVICE_TAGS:
            continue
        for value in element.get("Value", ()):
            if element["vr"] == "SQ":
                found |= identifying_texts(value)
            elif element["vr"] == "PN":
                for group in value.values():
                    found |= {group, *group.replace("^", " ").split()}
            elif element["vr"] in _TEXT_VRS:
                found.add(str(value))
    return {text for text in found if len(text) >= _SHORTEST_NAME}


def scrubbed(text: str, names: set[str]) -> str:
    """``text`` with every one of ``names`` replaced by an ellipsis, the longest first."""
    for name in sorted(names, key=len, reverse=True):
        text = text.replace(name, "…")
    return text


def _drop_unknown(dataset: Dataset) -> None:
    """Remove elements that no standard knows, or that are not what they say they are; in sequences, too.

    The profile's actions depend on the value representation that the file claims.
    """
    for tag in list(dataset.keys()):
        # pydicom raises many kinds of errors for many kinds of damage; what the picture needs was read
        # before.
        try:
            known = _is_known(dataset, tag)
        except Exception:
            known = False
        if not known:
            del dataset[tag]
        elif dataset[tag].VR == "SQ":
            for item in dataset[tag].value:
                _drop_unknown(item)


def _is_known(dataset: Dataset, tag: BaseTag) -> bool:
    from pydicom.datadict import dictionary_has_tag, dictionary_VR

    if tag.group < _FIRST_DATA_GROUP or tag.group == _TRAILING_PADDING or not dictionary_has_tag(tag):
        return False
    element = dataset[tag]
    expected = dictionary_VR(tag).split(" or ")
    if tag.group in _PICTURE_GROUPS:
        values = element.value if element.VM > 1 else [element.value]
        if expected == ["CS"]:  # a number may become a word when it is written as one
            return all(isinstance(value, str) for value in values)
        return element.VR in _NO_TEXT_VRS or all(map(_is_number, values))
    return element.VR in expected


def _is_number(value: Any) -> bool:
    try:
        float(value or 0)
    except (TypeError, ValueError):
        return False
    return True


def _dicom(dataset: Dataset) -> bytes:
    with collected_warnings():
        _renew_meta(dataset)
        deidentified_dataset(dataset)
        if "SOPInstanceUID" in dataset:
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.preamble = b"\0" * 128
        _clean_frame(dataset)
        out = io.BytesIO()
        dataset.save_as(out, enforce_file_format=False)
    return out.getvalue()


def _renew_meta(dataset: Dataset) -> None:
    """Meta information with nothing but the transfer syntax and the class in it (PS3.10 7.1)."""
    from pydicom.dataset import FileMetaDataset

    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0  # counted when it is written
    meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    if isinstance(dataset.get("SOPClassUID"), str):
        meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta = meta


def _clean_frame(dataset: Dataset) -> None:
    """Keep the one compressed frame, a JPEG without comments and application segments; nothing beside it."""
    from pydicom.encaps import encapsulate, get_frame
    from pydicom.uid import JPEGTransferSyntaxes

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        dataset.PixelData = encapsulate(
            [clean_jpeg_segments(frame) if syntax in JPEGTransferSyntaxes else frame]
        )
