"""Every kind of result, of headers as devices write them and of real files: valid, reproducible, readable."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    EnhancedXAImageStorage,
    SecondaryCaptureImageStorage,
)

from pneumoscope.core.errors import InputError, UnreadableFileError
from pneumoscope_clinic.results.dicom_objects import KINDS, dicom_objects
from pneumoscope_clinic.results.stored_result import StoredResult
from tests.clinic.film_results import EXAMINED, FILM_ID, film_result, header, refused, violations

FAST = ("sr", "sc", "gsps")  # setting a PDF takes seconds when the library is first used

HEADERS: dict[str, dict[str, Any]] = {
    "complete": {},
    "bare": dict.fromkeys(
        ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge", "StudyDate", "StudyTime",
         "AccessionNumber", "StudyID", "ReferringPhysicianName", "IssuerOfPatientID", "BodyPartExamined",
         "ViewPosition", "WindowCenter", "WindowWidth")
    ),
    "empty": dict.fromkeys(("PatientName", "PatientID", "StudyDate", "StudyTime", "AccessionNumber"), ""),
    "DX": {"SOPClassUID": DigitalXRayImageStorageForPresentation, "Modality": "DX"},
    "SC": {"SOPClassUID": SecondaryCaptureImageStorage, "Modality": "OT"},
    "enhanced": {"SOPClassUID": EnhancedXAImageStorage, "Modality": "XA", "NumberOfFrames": 1},
    "private class": {"SOPClassUID": "1.2.840.113619.4.999"},
    "retired forms": {"StudyDate": "2026.03.04", "StudyTime": "10:11:12", "PatientBirthDate": "2020.01.02"},
    "impossible dates": {"StudyDate": "20261399", "StudyTime": "997788", "PatientBirthDate": "00000000"},
    "long": {"AccessionNumber": "9" * 17, "PatientName": "N" * 80, "PatientID": "I" * 65},
    "controls": {"PatientName": "Doe\x00^Ja\nne", "PatientID": "a\tb", "StudyDescription": "x\r\ny"},
    "many values": {"PatientID": ["a", "b"], "AccessionNumber": ["1", "2"], "StudyTime": ["10", "11"]},
    "many parts": {"PatientName": "a^b^c^d^e^f^g=h=i=j", "ReferringPhysicianName": "=" * 5},
    "no uids": {"StudyInstanceUID": None, "SeriesInstanceUID": "", "SOPInstanceUID": "", "SOPClassUID": ""},
    "Chinese": {"SpecificCharacterSet": "GB18030", "PatientName": "Wang^XiaoDong=王^小东"},
    "Japanese": {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
    "time zone": {"TimezoneOffsetFromUTC": "-1100"},
    "sexes": {"PatientSex": "Female", "PatientAge": "4 years"},
}  # fmt: skip


@pytest.mark.parametrize("elements", HEADERS.values(), ids=HEADERS)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom, about the header that the test makes
def test_results_are_valid_whatever_the_header(elements: dict[str, Any], tmp_path: Path) -> None:
    objects = dicom_objects(film_result(header(**elements)), FAST)
    assert [one.Modality for one in objects] == ["SR", "OT", "PR"]
    for one in objects:
        assert violations(one, tmp_path) == []
        _read_back(tmp_path / "result.dcm")


def _read_back(file: Path) -> None:
    dataset = pydicom.dcmread(file)
    if dataset.Modality == "SR":
        assert len(highdicom.sr.srread(file).content.get_image_measurement_groups()) == 1
    elif dataset.Modality == "OT":
        assert dataset.pixel_array.shape == (dataset.Rows, dataset.Columns, 3)


def test_a_retry_sends_the_same_bytes() -> None:
    def sent() -> list[bytes]:
        streams = [io.BytesIO() for _ in FAST]
        for one, stream in zip(dicom_objects(film_result(header()), FAST), streams, strict=True):
            one.save_as(stream, enforce_file_format=True)
        return [stream.getvalue() for stream in streams]

    assert sent() == sent()


def test_each_object_has_its_own_series_and_the_study_of_its_source() -> None:
    objects = dicom_objects(film_result(header()), FAST)
    assert (
        len({one.SeriesInstanceUID for one in objects}) == len({one.SOPInstanceUID for one in objects}) == 3
    )
    assert {one.StudyInstanceUID for one in objects} == {"1.2.3"}
    assert {str(one.PatientName) for one in objects} == {"Doe^Jane"}
    for one in objects:
        assert one.file_meta.MediaStorageSOPInstanceUID == one.SOPInstanceUID
        assert one.preamble == b"\0" * 128
        assert not any(element.tag.is_private for element in one.iterall())


def test_a_refused_film_has_a_report_alone() -> None:
    assert [one.Modality for one in dicom_objects(refused(header()), FAST)] == ["SR"]


def test_the_pdf_is_in_the_study(tmp_path: Path) -> None:
    (document,) = dicom_objects(film_result(header()), ("pdf",))
    assert document.EncapsulatedDocument.startswith(b"%PDF")
    assert violations(document, tmp_path) == []


def test_what_cannot_be_made() -> None:
    with pytest.raises(InputError, match="no DICOM results"):
        dicom_objects(film_result())
    with pytest.raises(ValueError, match="no such kind of result: \\['hl7'\\]"):
        dicom_objects(film_result(header()), ("sr", "hl7"))
    assert dicom_objects(film_result(header()), ()) == []
    assert (*FAST, "pdf") == KINDS


@pytest.mark.films
@pytest.mark.parametrize("force", [False, True], ids=["as it is", "forced"])
def test_results_of_real_files_are_valid(force: bool, tmp_path: Path) -> None:
    """Every readable file of PNEUMOSCOPE_DATA/dicom, through the whole line with the shipped bundle."""
    from pneumoscope.inference.bundle import load_bundle

    if "PNEUMOSCOPE_DATA" not in os.environ:
        pytest.skip("set PNEUMOSCOPE_DATA to a folder with real images")
    bundle, seen = load_bundle(), 0
    for file in sorted((Path(os.environ["PNEUMOSCOPE_DATA"]) / "dicom").rglob("*.dcm")):
        try:
            result = _examined(file, bundle, force=force)
        except UnreadableFileError:
            continue
        objects = dicom_objects(result, FAST)
        assert ("OT" in [one.Modality for one in objects]) is not result.refused
        for one in objects:
            assert violations(one, tmp_path, result.header.SOPInstanceUID) == [], file.name
            _read_back(tmp_path / "result.dcm")
        seen += 1
    assert seen >= 10


def _examined(file: Path, bundle: Any, *, force: bool) -> StoredResult:
    from pneumoscope.imaging.radiograph import read_radiograph
    from pneumoscope.inference.examination import record
    from pneumoscope.inference.pipeline import examine

    film = read_radiograph(file)
    examination = examine(file, bundle, force=force, radiograph=film)
    explanation = examination.explanation
    maps = {} if explanation is None else explanation.heat_maps
    source: Dataset = pydicom.dcmread(file, force=True, stop_before_pixels=True)
    return StoredResult(
        film_id=FILM_ID,
        document=record(file, examination) | {"limitations": [], "versions": {}},
        bundle_card=examination.bundle_card,
        image=np.rint(255 * film.pixels).astype(np.uint8),
        original_size=film.original_size,
        heat_maps={name: np.rint(255 * one).astype(np.uint8) for name, one in maps.items()},
        examined_at=EXAMINED,
        header=source,
    )
