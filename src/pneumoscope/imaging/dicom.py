"""DICOM radiographs, with or without preamble, read in the order of the standard.

    decode -> modality LUT or rescale -> VOI LUT or window -> MONOCHROME1 inversion -> [0, 1]

Decoders: Pillow for baseline JPEG and JPEG 2000 (it refuses damaged data), GDCM for lossless JPEG, JPEG-LS
and 12-bit JPEG, OpenJPEG for high-throughput JPEG 2000, pydicom itself for RLE and native data.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from copy import copy
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pneumoscope.core.errors import UnreadableFileError
from pneumoscope.core.findings import Finding
from pneumoscope.core.records import FloatArray, Radiograph, freeze
from pneumoscope.imaging.decoding import (
    MAX_FILE_BYTES,
    check_file_bytes,
    check_image_size,
    collected_warnings,
    colour_findings,
    library_findings,
    luminance,
)
from pneumoscope.imaging.dicom_codestream import FrameHeader, read_j2k_header, read_jpeg_header
from pneumoscope.imaging.dicom_grayscale import palette_to_rgb, to_display
from pneumoscope.imaging.header import header_findings, pixel_spacing_mm, source_facts

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_PREFIX_OFFSET = 128  # PS3.10 section 7.1: preamble of 128 bytes, then DICM
_META_START = _PREFIX_OFFSET + 4
_MAX_BITS = 16  # PS3.3 C.8.11.3.1: projection radiographs store 6 to 16 bits


def read_dicom(content: bytes, where: Path | None = None) -> Radiograph:
    """Read a DICOM radiograph at full size from the content of its file, which is parsed once.

    Returns:
        Pixels (H, W) float32 in [0, 1], bright = dense; spacing in mm where known. ``source`` has format,
        transfer_syntax, modality, body_part, view_position, photometric_interpretation, bits_stored,
        patient_id, patient_age, patient_sex, patient_orientation, sop_class_uid, the study, series and
        instance UIDs, as far as the header names them.

    Raises:
        UnreadableFileError: not DICOM, no picture, several frames, absurd size, or damaged pixel data.
    """
    return _read(lambda: parse_dataset(content, where), where)


def read_dataset(dataset: Dataset) -> Radiograph:
    """As :func:`read_dicom`, from a data set in memory; it is not changed."""

    def parse() -> Dataset:
        own = copy(dataset)
        check_dataset(own)
        return own

    return _read(parse, None)


def _read(parse: Callable[[], Dataset], where: Path | None) -> Radiograph:
    try:
        with collected_warnings() as library:
            dataset = parse()
            stored = stored_values(dataset)
            pixels, notes = _to_pixels(stored, dataset)
            facts = source_facts(dataset)
            spacing = pixel_spacing_mm(dataset)
            orientation = tuple(str(part) for part in dataset.get("PatientOrientation") or ())
    except (UnreadableFileError, MemoryError):
        raise
    # A damaged file can fail anywhere in pydicom and its decoders, with any exception.
    except Exception as error:
        raise UnreadableFileError.of("dicom-undecodable", where, reason=_first_line(error)) from error
    if orientation:
        facts["patient_orientation"] = "\\".join(orientation)
    findings = header_findings(facts, orientation) + notes + library_findings("pydicom", library)
    return Radiograph(
        pixels=freeze(pixels),
        original_size=(pixels.shape[0], pixels.shape[1]),
        pixel_spacing_mm=spacing,
        source=MappingProxyType(facts),
        findings=tuple(findings),
    )


def _to_pixels(stored: npt.NDArray[Any], dataset: Dataset) -> tuple[FloatArray, list[Finding]]:
    interpretation = str(dataset.PhotometricInterpretation)
    if interpretation in ("MONOCHROME1", "MONOCHROME2"):
        return to_display(stored, dataset)
    if interpretation == "PALETTE COLOR":
        colors = palette_to_rgb(stored, dataset).astype(np.float32)
    elif stored.ndim == 3 and stored.shape[-1] == 3:
        # pydicom has turned YBR into RGB; colour has no modality or VOI stage (PS3.3 C.7.6.3.1.2).
        colors = stored.astype(np.float32) / np.float32(2 ** int(dataset.BitsStored) - 1)
    else:
        raise ValueError(f"Photometric Interpretation '{interpretation}' is not supported")
    return luminance(colors), colour_findings(colors)


def _first_line(error: Exception) -> str:
    """The essence of a library's message: pydicom lists its plug-ins' complaints on lines of their own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return lines[-1] if lines[0].endswith(":") else lines[0]


def has_dicom_prefix(head: bytes) -> bool:
    """True when ``head`` (the first 132 bytes) is that of a DICOM file with its preamble."""
    return head[_PREFIX_OFFSET:_META_START] == b"DICM"


def looks_like_bare_dataset(head: bytes) -> bool:
    """True when ``head`` starts with an element of group 0002 or 0008, as DICOM without a preamble does.

    Both the explicit (two letters of VR) and the implicit (four bytes of length) form are known.
    """
    if len(head) < 8 or head[:2] not in (b"\x02\x00", b"\x08\x00") or head[3] != 0:
        return False
    explicit = head[4:6].isalpha() and head[4:6].isupper()
    implicit = int.from_bytes(head[4:8], "little") <= 64  # UI values have at most 64 bytes, PS3.5 6.2
    return explicit or implicit


def parse_dataset(content: bytes, where: Path | None = None) -> Dataset:
    """The data set in a file's content, checked to hold one frame of a believable size; pixels not decoded.

    Raises:
        UnreadableFileError: no DICOM, no picture in it, several frames, or absurd dimensions.
    """
    import pydicom

    check_file_bytes(len(content), where)
    bare = not has_dicom_prefix(content[:_META_START])
    if not bare:
        _check_inflated_size(content, where)
    # From memory: a file would be asked for as many bytes as an element claims, and room for them be made.
    dataset = pydicom.dcmread(io.BytesIO(content), force=bare)
    check_dataset(dataset, where)
    return dataset


def check_dataset(dataset: Dataset, where: Path | None = None) -> None:
    """Name the transfer syntax where it is missing, and refuse what holds no single believable frame.

    Raises:
        UnreadableFileError: as :func:`parse_dataset`.
    """
    _ensure_transfer_syntax(dataset)
    _check_picture(dataset, where)


def stored_values(dataset: Dataset) -> npt.NDArray[Any]:
    """The stored values of the only frame: (H, W) for grey and palette, (H, W, 3) RGB for colour; integers.

    Raises:
        ValueError: the frame breaks the rules of its compression or does not match the header.
        RuntimeError, NotImplementedError: no decoder could read it (as pydicom reports it).
    """
    from pydicom.pixels.utils import pixel_array
    from pydicom.uid import JPEGExtended12Bit

    syntax = dataset.file_meta.TransferSyntaxUID
    header = _frame_header(dataset)
    if header is not None:
        _check_agreement(header, dataset)
    if syntax == JPEGExtended12Bit and header is not None and header.precision > 8:
        return _decode_twelve_bit_jpeg(dataset)
    if syntax in _high_throughput():
        return _decode_high_throughput_j2k(dataset)
    array: npt.NDArray[Any] = pixel_array(dataset, index=0, decoding_plugin=_plugin(dataset, header))
    return array


def _check_inflated_size(content: bytes, where: Path | None) -> None:
    """A deflated data set must not inflate beyond what an image can hold (PS3.5 A.5).

    It starts where dcmread will start to inflate, whatever the group length says.
    """
    from pydicom.filereader import _read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), 0
    stream = io.BytesIO(content)
    stream.seek(_META_START)
    if _read_file_meta_info(stream).get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return
    while piece := inflater.unconsumed_tail or stream.read(1 << 20):
        inflated += len(inflater.decompress(piece, 1 << 24))
        if inflated > MAX_FILE_BYTES:
            raise UnreadableFileError.of("dicom-bomb", where, limit=MAX_FILE_BYTES)


def _ensure_transfer_syntax(dataset: Dataset) -> None:
    """Name the native syntax that pydicom found where there is no meta information."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if not hasattr(dataset, "file_meta"):
        dataset.file_meta = FileMetaDataset()
    if "TransferSyntaxUID" in dataset.file_meta:
        return
    implicit, little_endian = dataset.original_encoding
    if implicit:
        syntax = ImplicitVRLittleEndian
    else:
        syntax = ExplicitVRBigEndian if little_endian is False else ExplicitVRLittleEndian
    dataset.file_meta.TransferSyntaxUID = syntax


def _check_picture(dataset: Dataset, where: Path | None) -> None:
    if "PixelData" not in dataset:
        kind = dataset.get("SOPClassUID")
        name = kind.name if kind else "unknown kind of object"
        raise UnreadableFileError.of("dicom-without-image", where, kind=name)
    check_image_size(int(dataset.get("Rows") or 0), int(dataset.get("Columns") or 0), where)
    frames = int(dataset.get("NumberOfFrames") or 1)
    # PS3.3 A.2 and A.26: the CR and DX information objects are single-frame.
    if frames != 1:
        raise UnreadableFileError.of("dicom-frames", where, frames=frames)
    if int(dataset.get("BitsStored") or 0) not in range(1, _MAX_BITS + 1):
        bits = str(dataset.get("BitsStored"))
        raise UnreadableFileError.of("dicom-bits", where, bits=bits, limit=_MAX_BITS)


def _frame_header(dataset: Dataset) -> FrameHeader | None:
    """The header of the compressed frame; None for native data, RLE, and what pydicom alone must refuse."""
    from pydicom import uid

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in (*uid.JPEGTransferSyntaxes, *uid.JPEGLSTransferSyntaxes):
        return read_jpeg_header(_frame(dataset))
    if syntax in uid.JPEG2000TransferSyntaxes:
        return read_j2k_header(_frame(dataset))
    return None


def _frame(dataset: Dataset) -> bytes:
    from pydicom.encaps import get_frame

    return get_frame(dataset.PixelData, 0, number_of_frames=1)


def _check_agreement(header: FrameHeader, dataset: Dataset) -> None:
    """Refuse a frame whose own size differs from the data set's (PS3.5 8.2.1)."""
    declared = (int(dataset.Rows), int(dataset.Columns), int(dataset.SamplesPerPixel))
    if (header.rows, header.columns, header.samples) != declared:
        raise ValueError(
            f"the compressed frame has {header.rows} x {header.columns} pixels of {header.samples} samples, "
            f"the DICOM header says {declared[0]} x {declared[1]} of {declared[2]}"
        )
    if header.precision > int(dataset.BitsAllocated):
        raise ValueError(
            f"the compressed frame has {header.precision} bits per sample, the DICOM header allocates "
            f"{dataset.BitsAllocated}"
        )


def _plugin(dataset: Dataset, header: FrameHeader | None) -> str:
    """The decoder that pydicom shall use; empty for its own choice."""
    from pydicom import uid

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax in (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit):
        return "pillow"
    # Pillow reads one sample of up to 16 bits exactly, several samples of 8 bits only.
    if header is not None and syntax in (uid.JPEG2000, uid.JPEG2000Lossless):
        return "pillow" if header.samples == 1 or header.precision <= 8 else ""
    return ""


def _high_throughput() -> tuple[str, ...]:
    from pydicom import uid

    return (uid.HTJ2K, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL)


def _decode_high_throughput_j2k(dataset: Dataset) -> npt.NDArray[Any]:
    """A high-throughput JPEG 2000 frame of one sample through OpenJPEG's own binding."""
    import openjpeg

    if int(dataset.SamplesPerPixel) != 1:
        raise NotImplementedError("high-throughput JPEG 2000 with several samples is not supported")
    values: npt.NDArray[Any] = openjpeg.decode(_frame(dataset))
    return values


def _decode_twelve_bit_jpeg(dataset: Dataset) -> npt.NDArray[np.uint16]:
    """A 12-bit lossy JPEG frame through GDCM's codec (pydicom's plug-ins read 8 bits of this process).

    Checked against another decoder (imagecodecs, libjpeg-turbo): the same value in every pixel.
    """
    import gdcm

    if int(dataset.SamplesPerPixel) != 1 or int(dataset.PixelRepresentation) != 0:
        raise NotImplementedError("12-bit JPEG with signed or several samples is not supported")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(_frame(dataset))
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    encoded = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    encoded.SetValue(fragments.__ref__())
    decoded = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    grey = gdcm.PhotometricInterpretation.GetPIType("MONOCHROME2")
    codec = gdcm.JPEGCodec()
    codec.SetNumberOfDimensions(2)
    codec.SetDimensions((columns, rows, 1))
    codec.SetPixelFormat(gdcm.PixelFormat(1, 16, 12, 11, 0))
    codec.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(grey))
    if not codec.Decode(encoded, decoded):
        raise RuntimeError("GDCM could not decode the 12-bit JPEG frame")
    values = decoded.GetByteValue().GetBuffer().encode("utf-8", "surrogateescape")
    return np.frombuffer(values, dtype="<u2", count=rows * columns).reshape(rows, columns)
