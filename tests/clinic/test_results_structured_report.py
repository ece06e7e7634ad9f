"""The Structured Report: what it says of each kind of answer, read back by highdicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from highdicom.sr import Comprehensive3DSR, srread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage

from pneumoscope.core.findings import Finding
from pneumoscope_clinic.results.codes import (
    BACTERIAL_PNEUMONIA,
    ETIOLOGY,
    GATE,
    LUNG,
    PNEUMONIA,
    PRESENCES,
    PROBABILITY,
    THRESHOLD,
    VERDICTS,
)
from pneumoscope_clinic.results.dicom_identity import own_uid, source_reference
from pneumoscope_clinic.results.dicom_objects import structured_report
from pneumoscope_clinic.results.stored_result import StoredResult
from tests.clinic.film_results import (
    ABSTAINED,
    FILM_ID,
    NEGATIVE,
    REFUSED,
    film_result,
    findings,
    header,
    record,
    violations,
)


def _report(**changes: Any) -> tuple[StoredResult, Dataset]:
    result = film_result(header(), **changes)
    return result, structured_report(result, source_reference(result))


def _group(report: Dataset, tmp_path: Path) -> Any:
    """The only measurement group, after a way through a file."""
    file = tmp_path / "report.dcm"
    report.save_as(file, enforce_file_format=True)
    found = srread(file)
    assert isinstance(found, Comprehensive3DSR)
    (group,) = found.content.get_image_measurement_groups()
    return group


def _comments(report: Dataset) -> list[str]:
    return [
        item.TextValue
        for item in report.ContentSequence[-1].ContentSequence[0].ContentSequence
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeValue == codes.DCM.Comment.value
    ]


def test_a_positive_film(tmp_path: Path) -> None:
    _, report = _report(etiology="BACTERIAL", findings=record()["findings"][1:])
    group = _group(report, tmp_path)
    assert group.finding_type == PNEUMONIA
    assert [site.value for site in group.finding_sites] == [LUNG]
    numbers = {item.name.value: (item.value, item.unit.value) for item in group.get_measurements()}
    assert numbers == {PROBABILITY.value: (0.9, "1"), THRESHOLD.value: (0.6, "1")}
    evaluations = {item.name: item.value for item in group.get_qualitative_evaluations()}
    assert evaluations[PNEUMONIA] == PRESENCES["POSITIVE"]
    assert evaluations[GATE] == VERDICTS["ANSWER"]
    assert evaluations[ETIOLOGY] == BACTERIAL_PNEUMONIA
    assert "probability, 90.0 %, reaches the threshold, 60.0 %" in _comments(report)[0]
    assert "strongest in the right lower zone" in _comments(report)[1]
    assert "It knows nothing about pneumonia." in _comments(report)
    assert "not for primary diagnosis" in _comments(report)[-1]


@pytest.mark.parametrize(("changes", "said"), [(REFUSED, "Not answered"), (ABSTAINED, "No answer")])
def test_a_film_without_an_answer_has_no_number(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    _, report = _report(**changes)
    group = _group(report, tmp_path)
    assert group.get_measurements() == []
    evaluations = {item.name: item.value for item in group.get_qualitative_evaluations()}
    assert evaluations[PNEUMONIA] == PRESENCES["ABSTAIN"]
    assert ETIOLOGY not in evaluations
    assert _comments(report)[0].startswith(said)
    assert f"Reason: {changes['reasons'][0]}." in _comments(report)
    assert "0.4" not in str(report.ContentSequence)


def test_a_negative_film_names_no_etiology(tmp_path: Path) -> None:
    group = _group(_report(**NEGATIVE)[1], tmp_path)
    evaluations = {item.name: item.value for item in group.get_qualitative_evaluations()}
    assert evaluations[PNEUMONIA] == PRESENCES["NEGATIVE"]
    assert ETIOLOGY not in evaluations


def test_a_forced_film_says_so() -> None:
    gate = {"verdict": "REFUSE", "reasons": ["the image is noise"], "scores": {}}
    said = findings(Finding.refusal("noise"))
    comments = _comments(_report(forced=True, gate=gate, findings=said)[1])
    assert comments[0].startswith("The image was refused and answered by force.")
    assert "Reason: the image is noise." in comments


def test_algorithm_tracking_and_source(tmp_path: Path) -> None:
    result, report = _report()
    group = _group(report, tmp_path)
    algorithm = group.algorithm_id if hasattr(group, "algorithm_id") else None
    texts = str(report.ContentSequence)
    assert algorithm is not None or "Algorithm Name" in texts
    assert "bundle tiny@0123456789ab" in [
        item.TextValue
        for item in report.ContentSequence[-1].ContentSequence[0].ContentSequence
        if item.ValueType == "TEXT" and item.ConceptNameCodeSequence[0].CodeMeaning == "Algorithm Parameters"
    ]
    assert (group.tracking_identifier, group.tracking_uid) == (
        f"pneumonia {FILM_ID}",
        own_uid(FILM_ID, "pneumonia"),
    )
    (image,) = group.source_images
    assert image.referenced_sop_instance_uid == "1.2.3.4"
    assert image.referenced_sop_class_uid == header().SOPClassUID
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0]
    assert evidence.StudyInstanceUID == report.StudyInstanceUID == "1.2.3"
    assert evidence.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3.1"
    assert result.bundle_id in list(report.SoftwareVersions)


def test_the_report_is_preliminary_and_unverified() -> None:
    _, report = _report()
    assert report.SOPClassUID == Comprehensive3DSRStorage
    flags = (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag)
    assert flags == ("COMPLETE", "PRELIMINARY", "UNVERIFIED")


@pytest.mark.parametrize(
    "changes", [{}, NEGATIVE, ABSTAINED, REFUSED], ids=["yes", "no", "unsure", "refused"]
)
def test_it_obeys_the_standard(changes: dict[str, Any], tmp_path: Path) -> None:
    assert violations(_report(**changes)[1], tmp_path) == []
