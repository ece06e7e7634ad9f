"""DICOM radiographs, with or without preamble, read in the order of the standard.

decode -> modality LUT or rescale -> VOI LUT or window -> MONOCHROME1 inversion -> [0, 1]
"""

from __future__ import annotations

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
from pneumoscope.imaging.color import colour_findings, luminance
from pneumoscope.imaging.dicom_decoding import check_dataset, parse_dataset, stored_values
from pneumoscope.imaging.dicom_grayscale import palette_to_rgb, to_display
from pneumoscope.imaging.header import header_findings, pixel_spacing_mm, source_facts
from pneumoscope.imaging.library_warnings import collected_warnings, library_findings

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


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
