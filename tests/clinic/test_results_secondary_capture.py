"""The heat map as a Secondary Capture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom import dcmread

from pneumoscope.inference.heat_map_picture import caption_of, draw_heat_map
from pneumoscope.inference.overlay import overlay
from pneumoscope_clinic.results.dicom_identity import source_reference
from pneumoscope_clinic.results.dicom_objects import secondary_capture
from pneumoscope_clinic.results.stored_result import on_grid
from tests.clinic.film_results import COLUMNS, ROWS, film_result, header, refused, violations


def test_the_film_is_on_its_original_grid_and_the_legend_below(tmp_path: Path) -> None:
    result = film_result(header())
    secondary_capture(result, source_reference(result)).save_as(tmp_path / "sc.dcm", enforce_file_format=True)
    capture = dcmread(tmp_path / "sc.dcm")
    assert result.heat_map is not None
    assert result.image is not None
    heat = on_grid(result.heat_map, (ROWS, COLUMNS))
    film = overlay(result.image, heat)
    assert capture.Columns == COLUMNS
    assert capture.Rows > ROWS
    np.testing.assert_array_equal(capture.pixel_array[:ROWS], film)
    drawn = draw_heat_map(result.image, {"bacterial": heat}, caption_of(result.document))
    np.testing.assert_array_equal(capture.pixel_array, drawn)
    assert capture.pixel_array[ROWS:].max() > 200  # letters


def test_the_heat_map_lies_where_the_evidence_is() -> None:
    """The phantom's evidence is round 3/4 of the height and 1/4 of the width; the image itself is grey."""
    result = film_result(header())
    picture = secondary_capture(result, source_reference(result)).pixel_array[:ROWS].astype(int)
    colourful = np.ptp(picture, axis=2)
    row, column = np.unravel_index(colourful.argmax(), colourful.shape)
    assert abs(row - 0.75 * ROWS) < 12
    assert abs(column - 0.25 * COLUMNS) < 12
    assert colourful[: ROWS // 3, COLUMNS // 2 :].max() <= 2


def test_what_it_says_of_itself() -> None:
    result = film_result(header())
    capture = secondary_capture(result, source_reference(result))
    assert capture.BurnedInAnnotation == "YES"
    assert list(capture.ImageType)[:2] == ["DERIVED", "SECONDARY"]
    assert capture.DerivationDescription == "occlusion heat map for bacterial; not for primary diagnosis"
    (reference,) = capture.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == "1.2.3.4"
    assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    assert (capture.StudyInstanceUID, str(capture.PatientName)) == ("1.2.3", "Doe^Jane")
    assert (capture.DateOfSecondaryCapture, capture.SeriesNumber) == (capture.SeriesDate, 9902)


def test_it_obeys_the_standard(tmp_path: Path) -> None:
    result = film_result(header())
    assert violations(secondary_capture(result, source_reference(result)), tmp_path) == []


def test_a_film_without_a_heat_map_has_no_capture() -> None:
    result = refused(header())
    with pytest.raises(ValueError, match="not explained"):
        secondary_capture(result, source_reference(result))
