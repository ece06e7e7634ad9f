"""Images whose every identifying attribute holds a canary, and the search for them in what is left."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom import uid
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.tag import Tag

from pneumoscope.imaging.decoding import collected_warnings
from pneumoscope_clinic.store.blobs import KINDS
from pneumoscope_clinic.store.database import Store
from tests.clinic.films import pixels
from tests.imaging.dicom_builder import radiograph

WORD, UID_ROOT, DATES = "QANARY", "1.2.840.99999.4711", ("19330717", "20190213", "171319")
SAID = "Qanary in the reference"
"""What a user says of an image: it is shown to them, and nowhere else."""

_SOUGHT = [WORD, UID_ROOT, *DATES]
_PATTERN = re.compile(
    b"|".join(
        re.escape(word.encode(code)) for word in _SOUGHT for code in ("ascii", "utf-16-le", "utf-16-be")
    ),
    re.I,
)


def found_in(content: bytes | str) -> list[bytes]:
    """Canaries in bytes or text, with what stands round them."""
    if isinstance(content, str):
        content = content.encode()
    return [content[max(0, hit.start() - 30) : hit.end() + 30] for hit in _PATTERN.finditer(content)]


def _rules() -> Iterator[tuple[Tag, str]]:
    """Attributes of table E.1-1 of PS3.15 with their value representations, without those of the picture."""
    from dicomanonymizer.simpledicomanonymizer import initialize_actions_2024b

    for rule in initialize_actions_2024b():
        tag = Tag(rule[:2])
        if len(rule) == 2 and tag.group not in (0x0000, 0x0002, 0x0028, 0x7FE0) and dictionary_has_tag(tag):
            yield tag, dictionary_VR(tag).split(" or ")[0]


def _value(vr: str, number: int) -> Any:
    texts = {
        "PN": f"{WORD}{number}^{WORD.title()}",
        "UI": f"{UID_ROOT}.{number}",
        "DA": DATES[number % 2],
        "DT": DATES[0] + "130713",
        "TM": DATES[2],
        "AS": "033Y",
        "IS": "4711",
        "DS": "47.11",
        "UR": f"http://{WORD}.example",
    }
    if vr in texts:
        return texts[vr]
    if vr in ("OB", "UN", "OW"):
        return f"{WORD}{number:05d}!".encode()
    if vr in ("US", "UL", "SS", "SL", "FL", "FD"):
        return 1
    return f"{WORD}{number}"


def dicom(mean: float = 0.5, *, bad: bool = False, uids: bool = True, **elements: Any) -> Dataset:
    """An image with every attribute of the Basic profile set; ``bad``: to what its representation forbids."""
    made = radiograph(pixels(mean), 8)
    with collected_warnings():
        for number, (tag, vr) in enumerate(_rules()):
            if vr == "SQ":
                item = Dataset()
                item.PatientName, item.PatientID = f"{WORD}^{number}", f"{WORD}{number}"
                inner = Dataset()
                inner.ReferencedSOPInstanceUID, inner.StudyDescription = f"{UID_ROOT}.7.{number}", f"{WORD}"
                item.ReferencedImageSequence = Sequence([inner])
                made.add_new(tag, "SQ", [item])
            elif vr not in ("AT", "OF", "OD", "OL", "OV"):
                made.add_new(
                    tag,
                    vr,
                    f"{WORD} {number} " + "x" * 70
                    if bad and vr in ("LO", "SH", "AE", "PN")
                    else _value(vr, number),
                )
        made.add_new(0x00091001, "LO", f"{WORD} private")
        made.add_new(0x00080099, "LO", f"{WORD} unknown")
        made.add_new(0x60000010, "US", 120)
        made.add_new(0x60003000, "OW", f"{WORD} overlay".encode() + b" ")
        made.add_new(0x50003000, "OW", f"{WORD} curve ".encode())
        made.add_new(0xFFFCFFFC, "OB", f"{WORD} padding ".encode())
        made.StudyInstanceUID = f"{UID_ROOT}.1"
        made.SOPInstanceUID = f"{UID_ROOT}.2.{round(1000 * mean)}"
        made.Modality, made.BodyPartExamined = "CR", "CHEST"
        if bad:
            made.add_new(0x00080050, "SH", f"{WORD.lower()}\\{WORD}")
            made.add_new(0x00281050, "DS", "1")
            made["WindowCenter"]._value = f"{WORD}"
            made.WindowWidth = "4"
        for keyword, value in elements.items():
            setattr(made, keyword, value)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID
    made.file_meta.SourceApplicationEntityTitle = WORD
    made.preamble = (WORD.encode() * 30)[:128]
    return made


def dicom_bytes(dataset: Dataset) -> bytes:
    out = io.BytesIO()
    with collected_warnings():
        dataset.save_as(out, enforce_file_format=True)
    return out.getvalue() + f"{WORD} after the end".encode()


def compressed_dicom() -> bytes:
    """A JPEG with a comment inside of a DICOM file."""
    made = dicom(0.7)
    out = io.BytesIO()
    Image.fromarray(pixels(0.7)).save(out, "JPEG", quality=95, comment=f"{WORD} comment".encode())
    made.file_meta.TransferSyntaxUID = uid.JPEGBaseline8Bit
    made.PixelData = encapsulate([out.getvalue()])
    made["PixelData"].VR = "OB"
    return dicom_bytes(made)


def rasters() -> Iterator[tuple[str, bytes]]:
    """JPEG, PNG, TIFF and BMP with texts wherever such a file may have one."""
    picture = Image.fromarray(pixels(0.7))
    texts = {
        0x010E: "description",
        0x010F: "maker",
        0x013B: "artist",
        0x8298: "copyright",
        0x0132: "date",
        0x9C9B: "title",
    }
    exif = picture.getexif()
    for tag, text in texts.items():
        exif[tag] = f"{WORD} {text}" if tag != 0x9C9B else f"{WORD}".encode("utf-16-le")
    exif.get_ifd(0x8769)[0x9286] = f"{WORD} user comment".encode()
    xmp = f"<x:xmpmeta xmlns:x='adobe:ns:meta/'><a>{WORD}</a></x:xmpmeta>".encode()
    jpeg = io.BytesIO()
    picture.save(
        jpeg,
        "JPEG",
        exif=exif,
        comment=f"{WORD}".encode(),
        xmp=xmp,
        icc_profile=f"{WORD}".encode(),
        progressive=True,
    )
    content = jpeg.getvalue()
    for marker in (0xE0, 0xED, 0xEE, 0xE7):
        body = f"{WORD} in a segment".encode()
        content = content[:2] + bytes((0xFF, marker, 0, len(body) + 2)) + body + content[2:]
    at = content.rindex(b"\xff\xda")  # between two scans
    content = content[:at] + b"\xff\xfe\x00\x08" + WORD.encode() + content[at:]
    yield "JPEG", content + f"{WORD} trailer\xff\xd9".encode("latin-1")
    exif[0x0112] = 6
    turned = io.BytesIO()
    picture.save(turned, "JPEG", exif=exif)
    yield "turned JPEG", turned.getvalue()
    chunks = PngInfo()
    chunks.add_text("Patient", f"{WORD}")
    chunks.add_text("Packed", f"{WORD}" * 9, zip=True)
    chunks.add_itxt("XML:com.adobe.xmp", f"{WORD}")
    chunks.add(b"tIME", b"\x07\xe3\x02\x0d\x0d\x07\x0d")
    chunks.add(b"prVt", f"{WORD} private".encode())
    png = io.BytesIO()
    picture.save(png, "PNG", pnginfo=chunks, exif=exif, icc_profile=f"{WORD}".encode())
    yield "PNG", png.getvalue() + f"{WORD}".encode()
    tiff = io.BytesIO()
    picture.save(
        tiff, "TIFF", tiffinfo={270: f"{WORD}", 315: f"{WORD}", 316: f"{WORD}", 65000: f"{WORD}"}, exif=exif
    )
    yield "TIFF", tiff.getvalue() + f"{WORD}".encode()
    float_tiff = io.BytesIO()
    Image.fromarray(pixels(0.7).astype(np.float32) / 255).save(float_tiff, "TIFF", tiffinfo={270: f"{WORD}"})
    yield "TIFF of real numbers", float_tiff.getvalue()
    bmp = io.BytesIO()
    picture.save(bmp, "BMP")
    yield "BMP", bmp.getvalue() + f"{WORD}".encode()


def broken_films() -> Iterator[tuple[str, bytes]]:
    """Images that fail in every way that we know, at every stage."""
    whole = dicom_bytes(dicom())
    yield "cut header", whole[:700]
    yield "cut pixels", whole[:-8000]
    yield "garbage", WORD.encode() * 100
    yield "no picture", dicom_bytes(_without(dicom(), "PixelData"))
    yield "several frames", dicom_bytes(dicom(NumberOfFrames=3))
    yield "no such interpretation", dicom_bytes(dicom(PhotometricInterpretation=WORD))
    yield "giant", dicom_bytes(dicom(Rows=60000, Columns=60000))
    yield "rows that are text", whole.replace(b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x10\x00CS\x02\x00")
    yield "no such syntax", whole.replace(b"1.2.840.10008.1.2.1\x00", b"1.2.840.99999.4711.9"[:20])
    yield "a frame that is none", compressed_dicom().replace(b"\xff\xd8\xff", b"\xff\xd7\xff")
    yield (
        "a text as a number",
        dicom_bytes(dicom()).replace(b"US\x02\x00\x08\x00", b"DS\x06\x00" + WORD.encode()),
    )
    for kind, content in rasters():
        yield f"half a {kind}", content[: len(content) // 2]


def _without(dataset: Dataset, keyword: str) -> Dataset:
    delattr(dataset, keyword)
    return dataset


def leaks_at_rest(store: Store) -> list[tuple[str, bytes]]:
    """Canaries in any file of the data directory as it lies on disk, and in blobs once opened."""
    leaks = []
    for file in sorted(path for path in Path(store.settings.directory).rglob("*") if path.is_file()):
        leaks += [(file.name, hit) for hit in [*found_in(file.name), *found_in(file.read_bytes())]]
    for kind in KINDS:
        for name, _ in list(store.blobs.names(kind)):
            content = store.blobs.get(kind, name)
            assert content is not None
            leaks += [(kind, hit) for hit in found_in(content)]
    return leaks
