"""Whose results they are: patient and study as the source has them, and UIDs that a retry repeats."""

from __future__ import annotations

import dataclasses
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation

from pneumoscope.core.errors import InputError
from pneumoscope_clinic.results.dicom_identity import (
    Kind,
    created_at,
    finalize,
    image_reference,
    instance_arguments,
    own_uid,
    source_reference,
)
from tests.clinic.film_results import FILM_ID, film_result, header

KIND = Kind("sr", 9901, "Report")
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


def _source(**elements: Any) -> Dataset:
    return source_reference(film_result(header(**elements)))


def test_patient_and_study_are_the_sources_own() -> None:
    source = _source(StudyDescription="Thorax", PatientAge="004Y")
    assert str(source.PatientName) == "Doe^Jane"
    assert (source.PatientID, source.IssuerOfPatientID, source.PatientSex) == ("child-7", "CLINIC", "F")
    assert (source.PatientBirthDate, source.PatientAge) == ("20200102", "004Y")
    assert (source.StudyDate, source.StudyTime, source.StudyID) == ("20260304", "101112", "7")
    assert (source.AccessionNumber, source.StudyDescription) == ("A-1", "Thorax")
    assert str(source.ReferringPhysicianName) == "House^Greg"
    assert [source[keyword].value for keyword in UIDS] == ["1.2.3", "1.2.3.1", "1.2.3.4"]
    assert (source.Rows, source.Columns) == (120, 100)


@pytest.mark.parametrize(
    ("keyword", "value", "kept"),
    [
        ("PatientBirthDate", "2020.01.02", "20200102"),
        ("PatientBirthDate", "20200231", ""),
        ("PatientBirthDate", "unknown", ""),
        ("StudyTime", "10:11:12", "101112"),
        ("StudyTime", "101112.123456", "101112.123456"),
        ("StudyTime", "10", "10"),
        ("StudyTime", "261112", ""),
        ("StudyTime", "1", ""),
        ("PatientSex", "f", "F"),
        ("PatientSex", "female", ""),
        ("PatientID", "x" * 64, "x" * 64),
        ("PatientID", "x" * 65, ""),
        ("PatientID", ["a", "b"], ""),
        ("PatientID", "a\nb", ""),
        ("AccessionNumber", "y" * 17, ""),
        ("PatientName", "A^B^C^D^E", "A^B^C^D^E"),
        ("PatientName", "A^B^C^D^E^F", ""),
        ("PatientName", "Z" * 65, ""),
        ("PatientName", "Wang^XiaoDong=王^小东", "Wang^XiaoDong=王^小东"),
        ("StudyDate", None, ""),
        ("PatientName", None, ""),
        ("PatientID", None, ""),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # pydicom, about the header that the test makes
def test_a_value_is_kept_or_left_empty_and_never_shortened(keyword: str, value: Any, kept: str) -> None:
    assert str(_source(**{keyword: value})[keyword].value) == kept


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_optional_elements_are_left_out_when_they_are_wrong() -> None:
    damaged = header(IssuerOfPatientID="", PatientAge="four", TimezoneOffsetFromUTC="CET")
    damaged.add_new("PatientSize", "LO", "tall")
    source = source_reference(film_result(damaged))
    for keyword in ("IssuerOfPatientID", "PatientAge", "PatientSize", "TimezoneOffsetFromUTC"):
        assert keyword not in source


def test_elements_of_another_representation_do_no_harm() -> None:
    """A sequence in place of a name, a number in place of an identifier, undefined bytes as date."""
    damaged = header()
    damaged.add_new("PatientName", "SQ", Sequence([Dataset()]))
    damaged.add_new("PatientID", "US", 7)
    damaged.add_new("StudyDate", "UN", b"20260304")
    source = source_reference(film_result(damaged))
    assert (str(source.PatientName), source.PatientID, source.StudyDate) == ("", "7", "20260304")


@pytest.mark.parametrize(
    "character_set", ["ISO_IR 100", "ISO_IR 192", "GB18030", ["", "ISO 2022 IR 87"], "KLINGON"]
)
def test_text_of_any_character_set_becomes_unicode(character_set: Any) -> None:
    name = {"GB18030": "王^小东", "ISO_IR 100": "Müller^Jörg", "ISO_IR 192": "Ōe^Kenzaburō"}
    text = name.get(str(character_set), "山田^太郎" if isinstance(character_set, list) else "Doe^Jane")
    if character_set == "KLINGON":
        stream = _written(header(PatientName="Doe^Jane"))
        stream = stream.replace(b"ISO_IR 6\x20", b"KLINGON ")
        source = source_reference(film_result(dcmread(io.BytesIO(stream))))
    else:
        stream = _written(header(SpecificCharacterSet=character_set, PatientName=text))
        source = source_reference(film_result(dcmread(io.BytesIO(stream))))
    assert str(source.PatientName) == text
    assert source.SpecificCharacterSet == "ISO_IR 192"


def _written(dataset: Dataset) -> bytes:
    if "SpecificCharacterSet" not in dataset:
        dataset.SpecificCharacterSet = "ISO_IR 6"
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def test_a_header_that_was_stored_as_json_serves_as_well() -> None:
    stored = json.dumps(header(PatientName="Müller^Jörg", SpecificCharacterSet="ISO_IR 100").to_json_dict())
    source = source_reference(film_result(Dataset.from_json(json.loads(stored))))
    assert (str(source.PatientName), source.StudyInstanceUID) == ("Müller^Jörg", "1.2.3")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_uids_lead_back_to_the_study_or_depend_on_the_film() -> None:
    assert _source(StudyInstanceUID="999.01.2").StudyInstanceUID == "999.01.2"
    for missing in (None, "", "study one", "1." * 40 + "1"):
        source = _source(StudyInstanceUID=missing)
        assert source.StudyInstanceUID == own_uid(FILM_ID, "StudyInstanceUID")


def test_a_film_that_is_no_dicom_object_has_no_identity() -> None:
    with pytest.raises(InputError, match="no DICOM results"):
        source_reference(film_result())


def test_our_uids_are_valid_and_depend_on_their_words_alone() -> None:
    assert own_uid("a", "b") == own_uid("a", "b")
    assert len({own_uid("a", "b"), own_uid("ab"), own_uid("a", "c"), own_uid("b", "a")}) == 4
    assert UID(own_uid("a")).is_valid
    assert own_uid("a").startswith("2.25.")


def test_another_film_bundle_or_operating_point_is_another_object() -> None:
    results = [
        film_result(header()),
        film_result(header(), bundle="tiny@ffffffffffff"),
        film_result(header(), operating_point="screening"),
        dataclasses.replace(film_result(header()), film_id="f" * 32),
    ]
    for key in ("sop_instance_uid", "series_instance_uid"):
        assert len({instance_arguments(result, KIND)[key] for result in results}) == len(results)
    assert instance_arguments(results[0], KIND) == instance_arguments(film_result(header()), KIND)


@pytest.mark.parametrize(("offset", "clock"), [("+0100", "06:06"), ("-0330", "01:36"), ("+0000", "05:06")])
def test_times_are_in_the_time_zone_of_the_source(offset: str, clock: str) -> None:
    result = film_result(header(TimezoneOffsetFromUTC=offset))
    moment = created_at(result, source_reference(result))
    assert f"{moment:%H:%M}" == clock
    assert moment == datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)


def test_references_name_the_sources_own_class() -> None:
    """highdicom is told one class for all; :func:`finalize` writes the true one, a private one too."""
    from pydicom.dataset import FileMetaDataset

    for sop_class in (DigitalXRayImageStorageForPresentation, "1.2.840.113619.4.999"):
        result = film_result(header(SOPClassUID=sop_class))
        source = source_reference(result)
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.SourceImageSequence = [image_reference(source)]
        sealed = finalize(dataset, result, source)
        assert sealed.SourceImageSequence[0].ReferencedSOPClassUID == sop_class
        assert sealed.SourceImageSequence[0].ReferencedSOPInstanceUID == "1.2.3.4"
        assert sealed.preamble == b"\0" * 128
