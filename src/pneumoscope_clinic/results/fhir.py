"""HL7 FHIR R4: the results of a study as a transaction Bundle.

One DiagnosticReport, an Observation for each image, and the algorithm as a Device. Every entry is conditional
(``ifNoneExist``, FHIR R4 section 3.1.0.8.1), so that a POST can be repeated.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pneumoscope import __version__
from pneumoscope.core.errors import NotFoundError
from pneumoscope.inference.heat_map_picture import NOTICE
from pneumoscope_clinic.results.codes import (
    CHEST_VIEWS,
    DECISIONS,
    ETIOLOGIES,
    ETIOLOGY,
    FHIR_SYSTEMS,
    GATE,
    INTERVAL,
    LUNG,
    PNEUMONIA,
    PRESENCES,
    PROBABILITY,
    THRESHOLD,
    VERDICTS,
)
from pneumoscope_clinic.results.dicom_identity import MANUFACTURER, MODEL, own_uid, source_reference
from pneumoscope_clinic.results.messages import answer_sentence, explained
from pneumoscope_clinic.results.stored_result import StoredResult, load_result
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.studies import shown
from pneumoscope_clinic.store.tables import Study

if TYPE_CHECKING:
    from pydicom.sr.coding import Code

Resource = dict[str, Any]

_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem"
_INTERPRETATIONS = {
    "POSITIVE": ("POS", "Positive"),
    "NEGATIVE": ("NEG", "Negative"),
    "ABSTAIN": ("IND", "Indeterminate"),
}  # v3-ObservationInterpretation
_OIDS = "urn:ietf:rfc:3986"  # system of identifiers that are URNs themselves, FHIR R4 section 2.24.0.13.1


@dataclass(frozen=True, slots=True)
class StudyResults:
    """The results of one study: its number with us, and its images, at least one."""

    study_id: str
    films: Sequence[StoredResult]


def study_bundle(store: Store, study: Study) -> Resource:
    """The results of a stored study that may be shown.

    Raises:
        NotFoundError: none of its images has one.
    """
    results = [
        load_result(store, film.id, identified=True) for film in study.films if shown(film) is not None
    ]
    if not results:
        raise NotFoundError("the study has no result")
    return fhir_bundle(StudyResults(study.id, results), identities=store.settings.fhir.identities)


def fhir_bundle(study: StudyResults, *, identities: bool) -> Resource:
    """The study's results as a transaction Bundle, ready to POST to a server's base address.

    Args:
        study: with at least one image.
        identities: whether patient and imaging study are named, by logical references: Patient ID and its
            issuer, Study Instance UID. Otherwise the patient is a pseudonym, one a study, and nothing from
            the source's header is in the Bundle.

    Raises:
        ValueError: the study has no image.
    """
    if not study.films:
        raise ValueError("a study without images has no result")
    context = _context(study, identities)
    bundles = dict.fromkeys(film.bundle_id for film in study.films)
    entries = [_entry(_device(bundle), own_uid("device", __version__, bundle)) for bundle in bundles]
    entries += [_entry(_observation(film, context), _film_uid(film)) for film in study.films]
    words = [word for film in study.films for word in (film.film_id, film.bundle_id)]
    entries.append(_entry(_report(study, context), own_uid("report", study.study_id, *words)))
    return {"resourceType": "Bundle", "type": "transaction", "entry": entries}


def _entry(resource: Resource, uid: str) -> Resource:
    """A resource with its identifier and the request that creates it once."""
    urn = f"urn:oid:{uid}"
    return {
        "fullUrl": _full_url(uid),
        "resource": {**resource, "identifier": [{"system": _OIDS, "value": urn}]},
        "request": {
            "method": "POST",
            "url": resource["resourceType"],
            "ifNoneExist": f"identifier={_OIDS}|{urn}",
        },
    }


def _full_url(uid: str) -> str:
    """Within the Bundle a resource is named by the UUID that its UID was made from (PS3.5 B.2)."""
    return f"urn:uuid:{uuid.UUID(int=int(uid.removeprefix('2.25.')))}"


def _film_uid(film: StoredResult) -> str:
    return own_uid("observation", film.film_id, film.bundle_id, str(film.document["operating_point"]))


def _device(bundle_id: str) -> Resource:
    return {
        "resourceType": "Device",
        "manufacturer": MANUFACTURER,
        "deviceName": [{"name": MODEL, "type": "model-name"}],
        "modelNumber": bundle_id,
        "version": [{"value": __version__}],
        "note": [{"text": f"Research and decision support, not a medical device; {NOTICE}."}],
    }


def _observation(film: StoredResult, context: Mapping[str, Any]) -> Resource:
    """Is there pneumonia on this image? A refused image has no value but the reason why it is missing."""
    document, examined = film.document, film.examined_at.isoformat(timespec="seconds")
    observation: Resource = {
        "resourceType": "Observation",
        "status": "preliminary",
        "category": [_concept_of(f"{_TERMINOLOGY}/observation-category", "imaging", "Imaging")],
        "code": _concept(PNEUMONIA),
        "subject": context["subject"],
        "effectiveDateTime": examined,
        "issued": examined,
        "bodySite": _concept(LUNG),
        "device": {"reference": _full_url(own_uid("device", __version__, film.bundle_id))},
        "derivedFrom": context["imaging"],
        "component": _components(film),
        "note": [{"text": text} for text in explained(document)],
    }
    if not context["imaging"]:
        del observation["derivedFrom"]
    if film.refused:
        absent = _concept_of(f"{_TERMINOLOGY}/data-absent-reason", "not-performed", "Not Performed")
        return {**observation, "dataAbsentReason": absent}
    code, display = _INTERPRETATIONS[document["decision"]]
    interpretation = _concept_of(f"{_TERMINOLOGY}/v3-ObservationInterpretation", code, display)
    interpretation["coding"].append(_coding(DECISIONS[document["decision"]]))
    return {
        **observation,
        "valueCodeableConcept": _concept(PRESENCES[document["decision"]]),
        "interpretation": [interpretation],
    }


def _components(film: StoredResult) -> list[Resource]:
    """Gate, etiology and, of an answered image, probability and threshold."""
    document = film.document
    found: list[Resource] = [
        {"code": _concept(GATE), "valueCodeableConcept": _concept(VERDICTS[document["gate"]["verdict"]])}
    ]
    if document["etiology"] is not None:
        value = _concept(ETIOLOGIES[document["etiology"]])
        found.append({"code": _concept(ETIOLOGY), "valueCodeableConcept": value})
    if film.answered:
        for name, key in ((PROBABILITY, "probability"), (THRESHOLD, "threshold")):
            found.append({"code": _concept(name), "valueQuantity": _share(document[key])})
        if document.get("probability_interval") is not None:
            low, high = (_share(end) for end in document["probability_interval"])
            found.append({"code": _concept(INTERVAL), "valueRange": {"low": low, "high": high}})
    return found


def _share(value: float) -> Resource:
    """A number from 0 to 1 as a quantity."""
    return {"value": round(value, 6), "unit": "1", "system": FHIR_SYSTEMS["UCUM"], "code": "1"}


def _report(study: StudyResults, context: Mapping[str, Any]) -> Resource:
    """One report about all images; preliminary, because a reader decides."""
    examined = max(film.examined_at for film in study.films).isoformat(timespec="seconds")
    report: Resource = {
        "resourceType": "DiagnosticReport",
        "status": "preliminary",
        "category": [_concept_of(f"{_TERMINOLOGY}/v2-0074", "RAD", "Radiology")],
        "code": _concept(CHEST_VIEWS),
        "subject": context["subject"],
        "effectiveDateTime": examined,
        "issued": examined,
        "result": [{"reference": _full_url(_film_uid(film))} for film in study.films],
        "conclusion": " ".join(
            [*(answer_sentence(film.document) for film in study.films), f"Computer-aided, {NOTICE}."]
        ),
    }
    if context["imaging"]:
        report["imagingStudy"] = context["imaging"]
    return report


def _context(study: StudyResults, identities: bool) -> dict[str, Any]:
    """Patient and imaging study as logical references: a pseudonym and none where they must not be named."""
    pseudonym = {"system": _OIDS, "value": f"urn:oid:{own_uid('patient', study.study_id)}"}
    unnamed = {"subject": {"type": "Patient", "identifier": pseudonym}, "imaging": []}
    dicom = next((film for film in study.films if film.header is not None), None)
    if not identities or dicom is None:
        return unnamed
    source = source_reference(dicom)
    uid = {"system": "urn:dicom:uid", "value": f"urn:oid:{source.StudyInstanceUID}"}
    found = {**unnamed, "imaging": [{"type": "ImagingStudy", "identifier": uid}]}
    if source.PatientID:
        identifier: Resource = {
            "type": _concept_of(f"{_TERMINOLOGY}/v2-0203", "MR", "Medical record number"),
            "value": str(source.PatientID),
        }
        if "IssuerOfPatientID" in source:
            identifier["assigner"] = {"display": str(source.IssuerOfPatientID)}
        found["subject"] = {"type": "Patient", "identifier": identifier}
    return found


def _concept(code: Code) -> Resource:
    return {"coding": [_coding(code)], "text": code.meaning}


def _coding(code: Code) -> Resource:
    return {"system": FHIR_SYSTEMS[code.scheme_designator], "code": code.value, "display": code.meaning}


def _concept_of(system: str, code: str, display: str) -> Resource:
    return {"coding": [{"system": system, "code": code, "display": display}]}
