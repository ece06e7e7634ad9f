"""A film without the patient's name: what is stored and exported unless configured otherwise.

In: the bytes of a film. Out: bytes that show the same pixels. DICOM goes through the Basic Application Level
Confidentiality Profile (PS3.15 annex E, by dicom-anonymizer), items of sequences included; JPEG and PNG lose
every segment or chunk that is not needed to decode them (ITU-T T.81 annex B, PNG 3rd ed. 11); other rasters
are written anew as PNG. Text that is burned into the pixels stays here; exports mask it.
"""

from __future__ import annotations

import contextlib
import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pneumoscope.imaging.library_warnings import collected_warnings

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["deidentified", "deidentified_dataset", "identifying_texts", "identity_header", "scrubbed"]

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_JPEG_KEPT = frozenset({0xE0, 0xEE})  # JFIF and Adobe: they say how the colours are to be read
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"gAMA", b"sRGB", b"cHRM", b"sBIT"})
_LONGEST_VALUE = 16_384
"""Bytes of a header's element that is kept for results; longer ones are tables and curves, not identities."""
_BINARY_VRS = frozenset({"OB", "OW", "OD", "OF", "OL", "OV", "UN"})
_FIRST_PIXEL_GROUP = 0x6000
"""Overlays, and after them pixels (PS3.6)."""
_TEXT_VRS = frozenset({"PN", "LO", "SH", "ST", "LT", "UC", "UT", "UI", "DA", "DT"})
_SHORTEST_NAME = 3
_ORIENTATION = 0x0112


def deidentified(path: Path, kind: str) -> bytes:
    """The film at ``path`` without what could name the patient.

    Args:
        path: of the film.
        kind: as ``imaging.radiograph.film_format`` tells it.
    """
    if kind == "DICOM":
        return _dicom(path)
    content = path.read_bytes()
    if kind == "JPEG" and not _is_turned(content):
        return _jpeg(content)
    if kind == "PNG":
        return _png(content)
    return _rewritten(content)


def deidentified_dataset(dataset: Dataset) -> None:
    """Apply the Basic profile to ``dataset`` in place, to items of its remaining sequences, too."""
    from dicomanonymizer import simpledicomanonymizer as profile

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
    for element in header.values():
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


def _dicom(path: Path) -> bytes:
    import pydicom

    with collected_warnings():
        dataset = pydicom.dcmread(path, force=True)
        deidentified_dataset(dataset)
        out = io.BytesIO()
        implicit, little = dataset.original_encoding
        if getattr(dataset, "file_meta", None) is not None and "TransferSyntaxUID" in dataset.file_meta:
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.get("SOPInstanceUID", "")
            dataset.save_as(out, enforce_file_format=False)
        else:
            dataset.save_as(out, implicit_vr=implicit, little_endian=little)
    return out.getvalue()


def _is_turned(content: bytes) -> bool:
    """Whether EXIF says that the picture must be turned to be upright; without EXIF nobody would know."""
    from PIL import Image

    with collected_warnings(), Image.open(io.BytesIO(content)) as picture:
        return picture.getexif().get(_ORIENTATION, 1) != 1


def _jpeg(content: bytes) -> bytes:
    """Without application and comment segments, up to the end of the image; trailing bytes are dropped."""
    kept, position = [content[:2]], 2
    while position + 4 <= len(content):
        marker, length = content[position + 1], struct.unpack(">H", content[position + 2 : position + 4])[0]
        if content[position] != 0xFF or marker == _SOI or length < 2:
            break
        end = position + 2 + length
        if marker == _SOS:
            stop = content.rfind(b"\xff" + bytes([_EOI]))
            return b"".join(kept) + content[position : stop + 2 if stop > position else len(content)]
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not is_metadata or marker in _JPEG_KEPT:
            kept.append(content[position:end])
        position = end
    return _rewritten(content)


def _png(content: bytes) -> bytes:
    kept, position = [_PNG_SIGNATURE], len(_PNG_SIGNATURE)
    while position + 12 <= len(content):
        length = struct.unpack(">I", content[position : position + 4])[0]
        name, end = content[position + 4 : position + 8], position + 12 + length
        if name in _PNG_KEPT:
            kept.append(content[position:end])
        position = end
        if name == b"IEND":
            break
    return b"".join(kept)


def _rewritten(content: bytes) -> bytes:
    """The picture as PNG, upright, its pixel values as they were."""
    from PIL import Image, ImageOps

    out = io.BytesIO()
    with collected_warnings(), Image.open(io.BytesIO(content)) as picture:
        upright = ImageOps.exif_transpose(picture)
        upright.info.clear()
        upright.save(out, "PNG", compress_level=1)
    return out.getvalue()
