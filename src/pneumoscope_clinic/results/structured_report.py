"""The answer as a DICOM Structured Report, for systems that read more than pictures.

In: a result and the clean reference to its source. Out: a Comprehensive 3D SR (the class that the IHE profile
AI Results asks for) after TID 1500 Measurement Report, PS3.16: one measurement group (TID 1501) about
pneumonia with the decision, the probability, the threshold and the algorithm. A film that the gate refused or
that abstains has a report that says so, without a probability: a bare number would be read as an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pneumoscope import __version__
from pneumoscope.inference.heat_map_picture import NOTICE
from pneumoscope_clinic.results.dicom_identity import (
    MANUFACTURER,
    MODEL,
    Kind,
    instance_arguments,
    own_uid,
    seal,
)
from pneumoscope_clinic.results.film_result import FilmResult

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

KIND = Kind("sr", 9901, "Pneumoscope report")
FINDING = "pneumonia"


def structured_report(result: FilmResult, source: Dataset) -> Dataset:
    """The report as a :class:`highdicom.sr.Comprehensive3DSR`, ready to store.

    Args:
        result: of a film that came as DICOM.
        source: :func:`pneumoscope_clinic.results.dicom_identity.source_reference` of it.
    """
    from highdicom import sr
    from highdicom.coding_schemes import CodingSchemeIdentificationItem
    from pydicom.sr.codedict import codes

    from pneumoscope_clinic.results.codes import CHEST_VIEWS, OWN_SCHEME, OWN_SCHEME_NAME

    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=_observer(result)),
        procedure_reported=CHEST_VIEWS,
        imaging_measurements=[_group(result, source)],
        title=codes.DCM.ImagingMeasurementReport,
    )
    scheme = CodingSchemeIdentificationItem(
        designator=OWN_SCHEME,
        name=OWN_SCHEME_NAME,
        version=__version__,
        responsible_organization=MANUFACTURER,
    )
    report = sr.Comprehensive3DSR(
        evidence=[source],
        content=content,
        is_complete=True,
        is_final=False,  # a reader decides
        is_verified=False,
        coding_schemes=[scheme],
        **instance_arguments(result, KIND),
    )
    return seal(report, result, source)


def _observer(result: FilmResult) -> Any:
    """TID 1002 and 1004: a device, named by the bundle."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    return sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
            uid=own_uid("algorithm", result.bundle_id),
            name=result.bundle_id,
            manufacturer_name=MANUFACTURER,
            model_name=MODEL,
            serial_number=result.bundle_id,
        ),
    )


def _group(result: FilmResult, source: Dataset) -> Any:
    """TID 1501: finding, algorithm, tracking, source image, evaluations, measurements and comments."""
    from highdicom import sr

    from pneumoscope_clinic.results.codes import COMMENT, LUNG, OPERATING_POINT, PNEUMONIA

    record = result.record
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            uid=own_uid(result.film_id, FINDING), identifier=f"{FINDING} {result.film_id}"
        ),
        finding_type=PNEUMONIA,
        algorithm_id=_algorithm(result),
        finding_sites=[sr.FindingSite(LUNG)],
        measurements=_measurements(result),
        qualitative_evaluations=_evaluations(result),
        source_images=[sr.SourceImageForMeasurementGroup.from_source_image(source)],
    )
    texts = [(COMMENT, sentence) for sentence in _comments(result)]
    if record["operating_point"] is not None:
        texts.insert(0, (OPERATING_POINT, record["operating_point"]))
    group[0].ContentSequence.extend(
        sr.TextContentItem(name, text, sr.RelationshipTypeValues.CONTAINS) for name, text in texts
    )
    return group


def _algorithm(result: FilmResult) -> Any:
    """TID 4019."""
    from highdicom.sr import AlgorithmIdentification

    return AlgorithmIdentification(
        name=MODEL,
        version=__version__,
        manufacturer=MANUFACTURER,
        parameters=[f"bundle {result.bundle_id}"],
    )


def _measurements(result: FilmResult) -> list[Any]:
    """Probability and threshold, TID 300; none for a film that was not answered."""
    from highdicom.sr import Measurement

    from pneumoscope_clinic.results.codes import PROBABILITY, THRESHOLD, UNITY

    if not result.answered:
        return []
    record = result.record
    return [
        Measurement(name=PROBABILITY, value=round(record["probability"], 6), unit=UNITY),
        Measurement(name=THRESHOLD, value=round(record["threshold"], 6), unit=UNITY),
    ]


def _evaluations(result: FilmResult) -> list[Any]:
    """Presence of pneumonia, the gate's verdict and, of a positive film, the etiology."""
    from highdicom.sr import QualitativeEvaluation

    from pneumoscope_clinic.results.codes import (
        ETIOLOGIES,
        ETIOLOGY,
        GATE,
        PNEUMONIA,
        PRESENCES,
        VERDICTS,
    )

    record = result.record
    found = [
        QualitativeEvaluation(GATE, VERDICTS[record["gate"]["verdict"]]),
        QualitativeEvaluation(PNEUMONIA, PRESENCES[record["decision"]]),
    ]
    if record["etiology"] is not None:
        found.append(QualitativeEvaluation(ETIOLOGY, ETIOLOGIES[record["etiology"]]))
    return found


def _comments(result: FilmResult) -> Sequence[str]:
    """In words: what was answered, why or why not, where the evidence lies, limits, and what this is not."""
    from pneumoscope_clinic.results.wording import explained

    return [*explained(result.record), f"Research and decision support, not a medical device; {NOTICE}."]
