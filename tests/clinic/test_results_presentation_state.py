"""The contour of the heat map as a presentation state, and the grey scale that it takes from its source."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset

from pneumoscope.imaging.radiograph import read_radiograph
from pneumoscope.inference.overlay import LEVELS
from pneumoscope_clinic.results.dicom_identity import source_reference
from pneumoscope_clinic.results.presentation_state import contours, presentation_state
from pneumoscope_clinic.results.stored_result import on_grid
from tests.clinic.film_results import COLUMNS, ROWS, film_result, header, refused, violations
from tests.imaging.dicom_builder import lut_item, radiograph, ramp, write


def _state(**elements: Any) -> Dataset:
    result = film_result(header(**elements))
    state = presentation_state(result, source_reference(result))
    assert state is not None
    return state


def test_lines_follow_their_level() -> None:
    result = film_result()
    assert result.heat_map is not None
    heat = on_grid(result.heat_map, (ROWS, COLUMNS))
    for level in LEVELS:
        (line,) = contours(result, level)
        np.testing.assert_array_equal(line[0], line[-1])  # closed
        column, row = line.astype(int).T
        assert np.abs(heat[row, column] - level).max() < 0.12  # a pixel beside is this much off
        centre = line.mean(axis=0)
        assert centre == pytest.approx([0.25 * COLUMNS, 0.75 * ROWS], abs=2)


def test_it_draws_them_on_the_source(tmp_path: Path) -> None:
    _state().save_as(tmp_path / "state.dcm", enforce_file_format=True)
    state = dcmread(tmp_path / "state.dcm")
    (annotation,) = state.GraphicAnnotationSequence
    assert annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"
    assert [item.GraphicType for item in annotation.GraphicObjectSequence] == ["POLYLINE"] * len(LEVELS)
    (line,) = contours(film_result(), LEVELS[0])
    assert annotation.GraphicObjectSequence[0].GraphicData == pytest.approx(line.ravel().tolist(), abs=1e-4)
    assert "not for primary diagnosis" in annotation.TextObjectSequence[0].UnformattedTextValue
    assert state.DisplayedAreaSelectionSequence[0].DisplayedAreaBottomRightHandCorner == [COLUMNS, ROWS]
    assert state.PresentationCreationDate == state.SeriesDate


def test_window_and_rescale_are_the_sources_first() -> None:
    state = _state(
        WindowCenter=["40", "50"], WindowWidth=["80", "90"], RescaleSlope="2", RescaleIntercept="-5"
    )
    voi = state.SoftcopyVOILUTSequence[0]
    assert (voi.WindowCenter, voi.WindowWidth) == (40, 80)
    assert (state.RescaleSlope, state.RescaleIntercept) == (2, -5)


@pytest.mark.parametrize(
    ("elements", "shape"),
    [
        ({"PhotometricInterpretation": "MONOCHROME2"}, "IDENTITY"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "INVERSE"),
        ({"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "IDENTITY"}, "IDENTITY"),
        ({"PhotometricInterpretation": "MONOCHROME2", "PresentationLUTShape": "INVERSE"}, "INVERSE"),
    ],
)
def test_polarity_is_the_sources(elements: dict[str, Any], shape: str) -> None:
    assert _state(**elements).PresentationLUTShape == shape


def test_a_look_up_table_is_scaled_to_its_sixteen_bits(tmp_path: Path) -> None:
    item = lut_item(10, np.array([0, 1023, 4095]), 12)
    state = _state(WindowCenter=None, WindowWidth=None, VOILUTSequence=[item])
    table = state.SoftcopyVOILUTSequence[0].VOILUTSequence[0]
    assert list(table.LUTDescriptor) == [3, 10, 16]
    assert np.frombuffer(table.LUTData, "<u2").tolist() == [0, round(1023 * 65535 / 4095), 65535]
    assert violations(state, tmp_path) == []


@pytest.mark.parametrize(
    "elements",
    [
        {"WindowCenter": None, "WindowWidth": None},
        {"WindowWidth": "0"},
        {"WindowCenter": None},
        {"RescaleSlope": "0", "RescaleIntercept": "0"},
        {"RescaleIntercept": "3"},
        {"VOILUTFunction": "WHATEVER"},
    ],
    ids=str,
)
def test_an_odd_grey_scale_is_left_out_and_the_state_valid(elements: dict[str, Any], tmp_path: Path) -> None:
    assert violations(_state(**elements), tmp_path) == []


SHORT = lut_item(0, np.arange(256), 8)
SHORT.LUTDescriptor = [1024, 0, 8]


@pytest.mark.parametrize(
    "elements",
    [
        {"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3},
        {"ModalityLUTSequence": [lut_item(0, np.arange(256), 8)]},
        {"VOILUTSequence": [lut_item(-5, np.arange(256), 8)], "PixelRepresentation": 1},
        {"VOILUTSequence": [SHORT]},
    ],
    ids=["colour", "modality table", "table below 0", "short table"],
)
def test_some_sources_have_no_plain_grey_scale(elements: dict[str, Any]) -> None:
    result = film_result(header(**elements))
    assert presentation_state(result, source_reference(result)) is None


def test_a_table_that_is_none_is_left_out() -> None:
    source = header()
    source.add_new("VOILUTSequence", "US", 7)
    result = film_result(source)
    state = presentation_state(result, source_reference(result))
    assert state is not None
    assert "WindowCenter" in state.SoftcopyVOILUTSequence[0]


def test_nothing_to_draw() -> None:
    result = refused(header())
    assert contours(result, 0.5) == []
    assert presentation_state(result, source_reference(result)) is None


@pytest.mark.parametrize("interpretation", ["MONOCHROME1", "MONOCHROME2"])
def test_another_program_shows_the_film_as_we_do(interpretation: str, tmp_path: Path) -> None:
    """DCMTK renders the source through the presentation state: same polarity, same window."""
    program = shutil.which("dcmp2pgm")
    if program is None:
        pytest.skip("needs dcmp2pgm (Debian: dcmtk)")
    film = radiograph(
        ramp(12, shape=(ROWS, COLUMNS)), 12, PhotometricInterpretation=interpretation,
        PatientName="Doe^Jane", WindowCenter="1500", WindowWidth="2000",
    )  # fmt: skip
    source = write(film, tmp_path / "film.dcm")
    result = film_result(dcmread(source, stop_before_pixels=True))
    state = presentation_state(result, source_reference(result))
    assert state is not None
    state.save_as(tmp_path / "state.dcm", enforce_file_format=True)
    picture = tmp_path / "picture.pgm"
    command = [program, "-p", str(tmp_path / "state.dcm"), str(source), str(picture)]
    subprocess.run(command, check=True, capture_output=True)
    shown = np.asarray(Image.open(picture), float)
    ours = 255 * read_radiograph(source).pixels
    assert shown.shape == ours.shape
    assert np.abs(shown - ours).max() <= 2
