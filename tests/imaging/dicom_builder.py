"""DICOM radiographs of every flavour, written by the tests that read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset

from pneumoscope.core.records import Radiograph
from pneumoscope.imaging import dicom

NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
)
COMPRESSED = (uid.RLELossless, uid.JPEGLosslessSV1, uid.JPEGLSLossless, uid.JPEG2000Lossless)


def read_dicom(path: Path) -> Radiograph:
    """The radiograph in the file at ``path``."""
    return dicom.read_dicom(path.read_bytes(), path)


def ramp(bits: int, signed: bool = False, shape: tuple[int, int] = (20, 24)) -> npt.NDArray[Any]:
    """Stored values (rows, columns) from the smallest to the largest that ``bits`` can hold."""
    low = -(2 ** (bits - 1)) if signed else 0
    values = np.rint(np.linspace(low, low + 2**bits - 1, shape[0] * shape[1])).astype(np.int64)
    kind = ("i" if signed else "u") + ("1" if bits <= 8 else "2")
    return values.reshape(shape).astype(kind)


def radiograph(stored: npt.NDArray[Any], bits: int, **elements: Any) -> Dataset:
    """A computed radiograph in memory, explicit little endian; ``elements`` are set, or removed when None."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = uid.ComputedRadiographyImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset.SOPClassUID, dataset.SOPInstanceUID = uid.ComputedRadiographyImageStorage, "1.2.3.4"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = "1.2.3", "1.2.3.1"
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", "PA"
    dataset.PatientID, dataset.PatientAge, dataset.PatientSex = "child-7", "003Y", "F"
    dataset.SamplesPerPixel = 1 if stored.ndim == 2 else stored.shape[-1]
    dataset.PhotometricInterpretation = "MONOCHROME2"
    if stored.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.Rows, dataset.Columns = stored.shape[:2]
    dataset.BitsAllocated = 8 * stored.dtype.itemsize
    dataset.BitsStored, dataset.HighBit = bits, bits - 1
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    dataset.PixelData = pixel_bytes(stored, bits)
    dataset["PixelData"].VR = "OW" if stored.dtype.itemsize == 2 else "OB"
    for keyword, value in elements.items():
        if value is None:
            delattr(dataset, keyword)
        else:
            setattr(dataset, keyword, value)
    return dataset


def pixel_bytes(stored: npt.NDArray[Any], bits: int) -> bytes:
    """Little-endian pixel data of even length; the bits above ``bits`` are zero, as PS3.5 8.1.1 wants."""
    unsigned = stored.view(f"u{stored.dtype.itemsize}") & np.array(
        (1 << bits) - 1, f"u{stored.dtype.itemsize}"
    )
    content = unsigned.astype(unsigned.dtype.newbyteorder("<")).tobytes()
    return content + b"\x00" * (len(content) % 2)


def lut_item(first: int, values: npt.NDArray[Any], bits: int) -> Dataset:
    """An item of a Modality or VOI LUT Sequence; the data are 16-bit words."""
    item = Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values) % 65536, first, bits])
    item.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    item.LUTExplanation = "test"
    if "ModalityLUTType" not in item:
        item.ModalityLUTType = "US"
    return item


def write(dataset: Dataset, path: Path, syntax: uid.UID = uid.ExplicitVRLittleEndian) -> Path:
    """Write ``dataset`` to ``path`` in transfer syntax ``syntax``."""
    if syntax in NATIVE:
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == uid.ExplicitVRBigEndian and dataset.BitsAllocated == 16:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
        dataset.save_as(path, enforce_file_format=True)
    elif syntax == uid.RLELossless:
        dataset.compress(syntax, encoding_plugin="pydicom", generate_instance_uid=False)
        dataset.save_as(path, enforce_file_format=True)
    else:
        plain = path.with_suffix(".plain")
        dataset.save_as(plain, enforce_file_format=True)
        _transcode(plain, path, syntax)
    return path


def _transcode(source: Path, destination: Path, syntax: uid.UID) -> None:
    import gdcm

    reader = gdcm.ImageReader()
    reader.SetFileName(str(source))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(str(syntax))))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(destination))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
