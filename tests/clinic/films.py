"""Images for the tests of the clinic: DICOM with a patient in its header, pictures with texts in theirs."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

NAME = "Canary^Coalmine"


def pixels(mean: float = 0.5) -> np.ndarray:
    """(120, 160) uint8, smooth, of about that mean; the tiny bundle's gate lets it through."""
    row, column = np.mgrid[-1:1:120j, -1:1:160j]
    lungs = np.exp(-(((np.abs(column) - 0.4) / 0.2) ** 2) - (row / 0.6) ** 2)
    return np.rint(255 * np.clip(mean + 0.3 * (lungs.mean() - lungs), 0, 1)).astype(np.uint8)


def dicom_film(mean: float = 0.5, **elements: object) -> bytes:
    """A Computed Radiography image as a DICOM file; ``elements`` are set by keyword."""
    picture = pixels(mean)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.PatientName = NAME
    dataset.PatientID = "CANARY-0815"
    dataset.PatientBirthDate = "20211224"
    dataset.PatientSex = "F"
    dataset.PatientAge = "003Y"
    dataset.AccessionNumber = "CANARYACC"
    dataset.StudyDate, dataset.StudyTime = "20261120", "101112"
    dataset.ReferringPhysicianName = "Canary^Doctor"
    dataset.InstitutionName = "Canary Hospital"
    dataset.Modality = "CR"
    dataset.BodyPartExamined = "CHEST"
    dataset.ViewPosition = "AP"
    dataset.Manufacturer = "Phantom Works"
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.Rows, dataset.Columns = picture.shape
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.WindowCenter, dataset.WindowWidth = 128, 256
    dataset.PixelData = picture.tobytes()
    inner = Dataset()
    inner.RequestedProcedureDescription = "Canary procedure"
    inner.PatientID = "CANARY-INNER"
    dataset.RequestAttributesSequence = Sequence([inner])
    dataset.add_new(0x00091001, "LO", "CANARY PRIVATE")
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    out = io.BytesIO()
    dataset.save_as(out, enforce_file_format=True)
    return out.getvalue()


def jpeg_film(mean: float = 0.5, orientation: int | None = None) -> bytes:
    """A JPEG with EXIF, XMP-like comment and bytes after its end."""
    image = Image.fromarray(pixels(mean))
    exif = image.getexif()
    exif[0x010E] = "Canary description"
    if orientation is not None:
        exif[0x0112] = orientation
    out = io.BytesIO()
    image.save(out, "JPEG", quality=95, exif=exif, comment=b"Canary comment")
    return out.getvalue() + b"Canary trailer"


def png_film(mean: float = 0.5) -> bytes:
    """A PNG with a text chunk."""
    texts = PngInfo()
    texts.add_text("Author", "Canary author")
    out = io.BytesIO()
    Image.fromarray(pixels(mean)).save(out, "PNG", pnginfo=texts)
    return out.getvalue()
