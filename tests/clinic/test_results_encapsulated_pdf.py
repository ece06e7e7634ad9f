"""The one-page report inside the study."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import EncapsulatedPDFStorage

from pneumoscope_clinic.results.dicom_identity import source_reference
from pneumoscope_clinic.results.dicom_objects import encapsulated_pdf
from tests.clinic.film_results import film_result, header, violations


@pytest.mark.parametrize("pdf", [b"%PDF-1.7 even", b"%PDF-1.7 odd"])
def test_the_file_comes_out_as_it_went_in(pdf: bytes, tmp_path: Path) -> None:
    result = film_result(header())
    document = encapsulated_pdf(result, source_reference(result), pdf)
    stream = io.BytesIO()
    document.save_as(stream, enforce_file_format=True)
    again = dcmread(io.BytesIO(stream.getvalue()))
    assert again.SOPClassUID == EncapsulatedPDFStorage
    assert again.EncapsulatedDocument[: again.EncapsulatedDocumentLength] == pdf
    assert again.MIMETypeOfEncapsulatedDocument == "application/pdf"
    assert again.SourceInstanceSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"
    assert (str(again.PatientName), again.StudyInstanceUID) == ("Doe^Jane", "1.2.3")
    assert violations(document, tmp_path) == []


@pytest.mark.parametrize(("says", "expected"), [("NO", "NO"), ("YES", "YES"), (None, "YES")])
def test_it_may_name_somebody_unless_the_source_says_no(says: str | None, expected: str) -> None:
    result = film_result(header(BurnedInAnnotation=says))
    assert encapsulated_pdf(result, source_reference(result), b"%PDF").BurnedInAnnotation == expected
