"""Grayscale Softcopy Presentation State (PS3.3 A.33.1): heat map contours that a viewer lays over the source.

It repeats the source's own grey scale, which a presentation state replaces.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pneumoscope.imaging.dicom_grayscale import LookupTable
from pneumoscope.imaging.header import numbers
from pneumoscope.inference.heat_map_picture import NOTICE
from pneumoscope.inference.overlay import LEVELS
from pneumoscope_clinic.results.dicom_identity import Kind, finalize, instance_arguments
from pneumoscope_clinic.results.stored_result import StoredResult, on_grid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

KIND = Kind("gsps", 9903, "Pneumoscope heat map contour")

GRID = 128
"""Side of the grid that contours are traced on: finer than any heat map (12 cells a side), and a line stays
far below the 8,191 points that one element of explicit VR holds (PS3.5 7.1.2)."""

LINE_COLOUR = (85, 0, 90)
"""CIELab of the lines: yellow, which no grey image hides."""

Points = npt.NDArray[np.float64]


def contours(result: StoredResult, level: float) -> list[Points]:
    """Lines along which the heat map of the likelier class passes ``level``.

    Returns:
        (N, 2) column, row in pixels of the original image each, the outer corner of its first pixel is 0, 0
        (PS3.3 C.10.5.1.2); none for an image that was not explained.
    """
    from contourpy import contour_generator

    if result.heat_map is None:
        return []
    rows, columns = result.original_size
    heat = on_grid(result.heat_map, (GRID, GRID))
    x, y = ((np.arange(GRID) + 0.5) * side / GRID for side in (columns, rows))
    lines = contour_generator(x, y, heat).lines(level)
    return [np.asarray(line, np.float64) for line in lines if len(line) >= 3]


def presentation_state(result: StoredResult, source: Dataset) -> Dataset | None:
    """The presentation state as :class:`highdicom.pr.GrayscaleSoftcopyPresentationState`, ready to store.

    Args:
        result: of an image that came as DICOM.
        source: :func:`pneumoscope_clinic.results.dicom_identity.source_reference` of it.

    Returns:
        None where there is nothing to draw or no way to: nothing reaches the lowest level, the source is in
        colour, or its grey scale is a Modality LUT or a broken table.
    """
    from highdicom.color import CIELabColor
    from highdicom.pr import GraphicLayer, GrayscaleSoftcopyPresentationState

    lines = [line for level in LEVELS for line in contours(result, level)]
    grey_scale = None if result.header is None else _grey_scale(result.header)
    if not lines or grey_scale is None:
        return None
    layer = GraphicLayer(
        "PNEUMOSCOPE", order=1, description="Evidence for pneumonia", display_color=CIELabColor(*LINE_COLOUR)
    )
    grey = copy.copy(source)
    grey.SamplesPerPixel = 1
    state = GrayscaleSoftcopyPresentationState(
        referenced_images=[grey],
        content_label="PNEUMOSCOPE",
        content_description=f"Heat map contours; {NOTICE}",
        content_creator_name="Pneumoscope^",
        graphic_annotations=[_annotation(grey, layer, lines)],
        graphic_layers=[layer],
        **grey_scale,
        **instance_arguments(result, KIND),
    )
    state.Laterality = ""  # type 2C: of a paired body part, which the chest is not
    return finalize(state, result, source)


def _annotation(source: Dataset, layer: Any, lines: Sequence[Points]) -> Any:
    """The lines, and below them what they are."""
    from highdicom.pr import GraphicAnnotation, GraphicObject, TextObject

    levels = ", ".join(f"{level:g}" for level in LEVELS)
    caption = TextObject(
        f"Pneumoscope: evidence {levels} of 1; {NOTICE}",
        units="DISPLAY",
        bounding_box=(0.0, 0.95, 1.0, 1.0),
        text_justification="LEFT",
    )
    return GraphicAnnotation(
        referenced_images=[source],
        graphic_layer=layer,
        graphic_objects=[GraphicObject("POLYLINE", line, units="PIXEL") for line in lines],
        text_objects=[caption],
    )


def _grey_scale(header: Dataset) -> dict[str, Any] | None:
    """Arguments for the three stages of the source's grey scale; None where they cannot be carried over."""
    from highdicom import PresentationLUTTransformation

    if not _has_plain_grey_scale(header):
        return None
    try:
        voi = _voi(header)
    except ValueError:  # a table that is shorter than it says, or starts below 0
        return None
    shape = "INVERSE" if _is_inverse(header) else "IDENTITY"
    return {
        "modality_lut_transformation": _rescale(header),
        "voi_lut_transformations": voi,
        "presentation_lut_transformation": PresentationLUTTransformation(presentation_lut_shape=shape),
    }


def _has_plain_grey_scale(header: Dataset) -> bool:
    """Grey, and without a Modality LUT: few devices write one, and the tables of most break the standard."""
    interpretation = str(header.get("PhotometricInterpretation", "")).strip()
    return interpretation in ("MONOCHROME1", "MONOCHROME2") and not header.get("ModalityLUTSequence")


def _is_inverse(header: Dataset) -> bool:
    """Whether low values are bright: as the shape says, which is the last stage, else MONOCHROME1."""
    shape = str(header.get("PresentationLUTShape") or "").strip().upper()
    if shape in ("IDENTITY", "INVERSE"):
        return shape == "INVERSE"
    return str(header.PhotometricInterpretation).strip() == "MONOCHROME1"


def _rescale(header: Dataset) -> Any:
    """The source's slope and intercept; None where it has none (PS3.3 C.11.1)."""
    from highdicom import ModalityLUTTransformation

    slope, intercept = _first(header, "RescaleSlope"), _first(header, "RescaleIntercept")
    if not slope or intercept is None:
        return None
    return ModalityLUTTransformation(rescale_intercept=intercept, rescale_slope=slope, rescale_type="US")


def _voi(header: Dataset) -> Any:
    """The source's first table, else its first window, else None (PS3.3 C.11.2)."""
    from highdicom import VOILUT
    from highdicom.pr import SoftcopyVOILUTTransformation

    table = _voi_table(header)
    if table is not None:
        full_scale = np.rint(table.values * 65535 / (2**table.bits - 1)).astype(np.uint16)
        return [SoftcopyVOILUTTransformation(voi_luts=[VOILUT(table.first, full_scale)])]
    center, width = _first(header, "WindowCenter"), _first(header, "WindowWidth")
    if center is None or width is None or width < 1:
        return None
    function = str(header.get("VOILUTFunction") or "LINEAR").strip().upper()
    known = function if function in ("LINEAR", "LINEAR_EXACT", "SIGMOID") else "LINEAR"
    return [SoftcopyVOILUTTransformation(window_center=center, window_width=width, voi_lut_function=known)]


def _voi_table(header: Dataset) -> LookupTable | None:
    """The first table of the VOI LUT Sequence."""
    from pydicom.sequence import Sequence as Items

    sequence = header.get("VOILUTSequence")
    if not isinstance(sequence, Items) or not sequence:  # a header may call a number so
        return None
    if "LUTDescriptor" not in sequence[0] or "LUTData" not in sequence[0]:
        return None
    syntax = header.file_meta.TransferSyntaxUID if hasattr(header, "file_meta") else None
    return LookupTable.of(
        sequence[0].LUTDescriptor,
        sequence[0].LUTData,
        little_endian=syntax is None or bool(syntax.is_little_endian),
        signed=header.get("PixelRepresentation") == 1,
    )


def _first(header: Dataset, keyword: str) -> float | None:
    """The first value of a numeric element; None when there is none, or no number."""
    try:
        value = next(iter(numbers(header, keyword)), None)
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) else None
