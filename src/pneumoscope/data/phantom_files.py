"""Phantoms as files: JPEG, PNG and DICOM, each saying in its own metadata that it is synthetic.

In: a film's pixels in [0, 1] and who it claims to show. Out: one file, written atomically.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from pneumoscope.core.files import atomic_path
from pneumoscope.core.records import FloatArray

WATERMARK = "SYNTHETIC PHANTOM, drawn by pneumoscope; not a patient, no medical content"

_FILM_HEIGHT_MM = 300.0
"""Height of film that a phantom stands for (a 24 x 30 cm cassette, a usual size for small children)."""


@dataclass(frozen=True)
class FilmIdentity:
    """What a film's metadata claims; a phantom's age and sex are drawn at random and mean nothing."""

    patient_id: str
    film_id: str
    age_years: int
    sex: str
    view: str = "AP"


def write_jpeg(file: Path, pixels: FloatArray, quality: int) -> None:
    """Write 8-bit grey JPEG with the watermark as comment and EXIF image description (tag 0x010E)."""
    exif = Image.Exif()
    exif[0x010E] = WATERMARK
    with atomic_path(file) as temporary:
        Image.fromarray(_to_uint8(pixels)).save(
            temporary, format="JPEG", quality=quality, comment=WATERMARK.encode(), exif=exif
        )


def write_png(file: Path, pixels: FloatArray) -> None:
    """Write 8-bit grey PNG with the watermark as text."""
    _save_png(file, _to_uint8(pixels))


def write_mask(file: Path, mask: npt.NDArray[np.bool_]) -> None:
    """Write a mask as PNG: 255 in the lesion, 0 elsewhere."""
    _save_png(file, mask.astype(np.uint8) * 255)


def _save_png(file: Path, pixels: npt.NDArray[np.uint8]) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", WATERMARK)
    with atomic_path(file) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG", pnginfo=text)


def write_dicom(file: Path, pixels: FloatArray, identity: FilmIdentity, *, inverted: bool = False) -> None:
    """Write a digital radiograph (DX for presentation, PS3.3 A.26), 12 bits, uncompressed.

    Args:
        file: path ending in ``.dcm``.
        pixels: (H, W) in [0, 1], bright = dense.
        identity: patient and film.
        inverted: store as MONOCHROME1, with the values turned round, so that a correct reader shows the same.
    """
    stored = np.round(pixels * 4095).astype(np.uint16)
    dataset = _dicom_header(identity)
    dataset.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    dataset.PresentationLUTShape = "INVERSE" if inverted else "IDENTITY"
    dataset.Rows, dataset.Columns = stored.shape
    spacing = _FILM_HEIGHT_MM / stored.shape[0]
    dataset.ImagerPixelSpacing = [f"{spacing:.6g}", f"{spacing:.6g}"]
    dataset.PixelData = (4095 - stored if inverted else stored).astype("<u2").tobytes()
    with atomic_path(file) as temporary:
        dataset.save_as(temporary, enforce_file_format=True)


def _dicom_header(identity: FilmIdentity) -> FileDataset:
    uid = {kind: generate_uid(entropy_srcs=[WATERMARK, identity.film_id, kind]) for kind in ("1", "2", "3")}
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = uid["1"]
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 192",
        "ImageType": ["DERIVED", "PRIMARY"],
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": uid["1"],
        "SeriesInstanceUID": uid["2"],
        "StudyInstanceUID": uid["3"],
        "Modality": "DX",
        "PresentationIntentType": "FOR PRESENTATION",
        "Manufacturer": "pneumoscope phantom",
        "StudyDescription": "SYNTHETIC PHANTOM",
        "ImageComments": WATERMARK,
        "PatientName": "PHANTOM^SYNTHETIC",
        "PatientID": identity.patient_id,
        "PatientSex": identity.sex,
        "PatientAge": f"{identity.age_years:03d}Y",
        "BodyPartExamined": "CHEST",
        "ViewPosition": identity.view,
        "BurnedInAnnotation": "YES",
        "InstanceNumber": 1,
        "SamplesPerPixel": 1,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "PixelIntensityRelationship": "LOG",
        "PixelIntensityRelationshipSign": 1,
        "RescaleIntercept": 0,
        "RescaleSlope": 1,
        "RescaleType": "US",
        "WindowCenter": 2048,
        "WindowWidth": 4096,
        "LossyImageCompression": "00",
    }
    empty = (
        "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientBirthDate", "StudyID",
        "SeriesNumber", "PatientOrientation",
    )  # fmt: skip
    for name, value in (values | dict.fromkeys(empty)).items():
        setattr(dataset, name, value)
    return dataset


def _to_uint8(pixels: FloatArray) -> npt.NDArray[np.uint8]:
    return np.round(pixels * 255).astype(np.uint8)
