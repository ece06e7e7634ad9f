"""The results of a study as FHIR: valid, created once, and silent about the patient unless told otherwise."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from pneumoscope_clinic.results.fhir import StudyResults, fhir_bundle
from tests.clinic.film_results import ABSTAINED, NEGATIVE, REFUSED, film_result, header

STUDY = "f" * 32


def _study(*changes: dict[str, Any], source: bool = True) -> StudyResults:
    films = []
    for number, one in enumerate(changes or ({},)):
        film = film_result(header() if source else None, **one)
        films.append(replace(film, film_id=f"{number:032x}"))
    return StudyResults(STUDY, films)


def _resources(bundle: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in bundle["entry"] if entry["resource"]["resourceType"] == kind]


def _values(observation: dict[str, Any]) -> dict[str, Any]:
    """Value of each component by its code."""
    found = {}
    for part in observation["component"]:
        quantity = part.get("valueQuantity")
        value = part["valueCodeableConcept"]["coding"][0]["code"] if quantity is None else quantity["value"]
        found[part["code"]["coding"][0]["code"]] = value
    return found


@pytest.mark.parametrize("identities", [False, True])
@pytest.mark.parametrize("source", [False, True])
def test_it_is_valid_fhir(identities: bool, source: bool) -> None:
    from fhir.resources.R4B.bundle import Bundle

    bundle = fhir_bundle(_study({}, NEGATIVE, ABSTAINED, REFUSED, source=source), identities=identities)
    Bundle.model_validate_json(json.dumps(bundle))


def test_the_validator_would_find_an_error() -> None:
    from fhir.resources.R4B.bundle import Bundle
    from pydantic import ValidationError

    bundle = fhir_bundle(_study(), identities=False)
    _resources(bundle, "Observation")[0]["valueString"] = "a second value"
    with pytest.raises((ValidationError, ValueError)):
        Bundle.model_validate_json(json.dumps(bundle))


def test_a_positive_film() -> None:
    (observation,) = _resources(fhir_bundle(_study(), identities=False), "Observation")
    assert observation["code"]["coding"][0] == {
        "system": "http://snomed.info/sct",
        "code": "233604007",
        "display": "Pneumonia",
    }
    assert observation["valueCodeableConcept"]["coding"][0]["code"] == "52101004"
    assert observation["interpretation"][0]["coding"][0]["code"] == "POS"
    assert _values(observation) == {
        "gate": "suitable",
        "134198009": "373068000",
        "122157": 0.9,
        "122411": 0.6,
    }
    assert observation["effectiveDateTime"] == "2026-03-04T05:06:07+00:00"
    assert observation["status"] == "preliminary"


def test_a_film_without_an_answer_has_no_number() -> None:
    bundle = fhir_bundle(_study(ABSTAINED, REFUSED), identities=False)
    abstained, refused = _resources(bundle, "Observation")
    assert _values(abstained) == {"gate": "suitable"}
    assert abstained["valueCodeableConcept"]["coding"][0]["code"] == "373068000"
    assert abstained["interpretation"][0]["coding"][0]["code"] == "IND"
    assert _values(refused) == {"gate": "refused"}
    assert "valueCodeableConcept" not in refused
    assert "interpretation" not in refused
    assert refused["dataAbsentReason"]["coding"][0]["code"] == "not-performed"
    assert "Reason: the image is noise." in [note["text"] for note in refused["note"]]


def test_the_report_refers_to_what_is_in_the_bundle() -> None:
    bundle = fhir_bundle(_study({}, NEGATIVE), identities=True)
    urls = {entry["fullUrl"]: entry["resource"] for entry in bundle["entry"]}
    (report,) = _resources(bundle, "DiagnosticReport")
    results = [urls[one["reference"]] for one in report["result"]]
    assert [one["resourceType"] for one in results] == ["Observation", "Observation"]
    assert {urls[one["device"]["reference"]]["modelNumber"] for one in results} == {"tiny@0123456789ab"}
    assert len(_resources(bundle, "Device")) == 1
    assert "not for primary diagnosis" in report["conclusion"]
    assert report["code"]["coding"][0]["system"] == "http://loinc.org"


def test_a_repeated_post_creates_nothing_twice() -> None:
    bundle = fhir_bundle(_study({}, NEGATIVE), identities=False)
    assert bundle == fhir_bundle(_study({}, NEGATIVE), identities=False)
    conditions = [entry["request"]["ifNoneExist"] for entry in bundle["entry"]]
    assert len(set(conditions)) == len(conditions) == 4
    for entry in bundle["entry"]:
        (identifier,) = entry["resource"]["identifier"]
        assert entry["request"]["ifNoneExist"] == f"identifier={identifier['system']}|{identifier['value']}"
        assert re.fullmatch(r"urn:oid:2\.25\.\d+", identifier["value"])
        assert entry["request"]["url"] == entry["resource"]["resourceType"]
        assert re.fullmatch(r"urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", entry["fullUrl"])


def test_another_bundle_is_another_report() -> None:
    first, second = (fhir_bundle(_study({"bundle": name}), identities=False) for name in ("a@1", "b@2"))
    urls = [{entry["fullUrl"] for entry in bundle["entry"]} for bundle in (first, second)]
    assert urls[0].isdisjoint(urls[1])


def test_patient_and_study_are_named_only_when_allowed() -> None:
    named, unnamed = (json.dumps(fhir_bundle(_study(), identities=allowed)) for allowed in (True, False))
    for secret in ('"child-7"', "CLINIC", "urn:oid:1.2.3"):
        assert secret in named
        assert secret not in unnamed
    for never in ("Doe", "20200102", "A-1", "House", "jane-doe.dcm"):
        assert never not in named
        assert never not in unnamed
    (report,) = _resources(json.loads(named), "DiagnosticReport")
    assert report["subject"]["identifier"]["value"] == "child-7"
    assert report["imagingStudy"][0]["identifier"] == {"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}


def test_a_pseudonym_is_the_studys_own() -> None:
    (report,) = _resources(fhir_bundle(_study(), identities=False), "DiagnosticReport")
    other = fhir_bundle(StudyResults("e" * 32, _study().films), identities=False)
    assert report["subject"] != _resources(other, "DiagnosticReport")[0]["subject"]
    assert "imagingStudy" not in report
    (without_id,) = _resources(
        fhir_bundle(StudyResults(STUDY, [film_result(header(PatientID=None))]), identities=True),
        "DiagnosticReport",
    )
    assert without_id["subject"] == report["subject"]
    assert "imagingStudy" in without_id


def test_a_study_without_films_has_no_result() -> None:
    with pytest.raises(ValueError, match="without images"):
        fhir_bundle(StudyResults(STUDY, []), identities=False)
