"""DICOM result objects: Structured Report, Secondary Capture, presentation state and Encapsulated PDF.

They go back into the study of an image that came as DICOM. The Structured Report is a Comprehensive 3D SR,
the class that the IHE profile AI Results asks for, after TID 1500 (PS3.16), with one measurement group (TID
1501). After a refusal or an abstention it has no probability: a bare number would be read as an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from pneumoscope import __version__
from pneumoscope.imaging.decoding import collected_warnings
from pneumoscope.inference.heat_map_picture import NOTICE, caption_of, draw_heat_map
from pneumoscope_clinic.results.dicom_identity import (
    MANUFACTURER,
    MODEL,
    Kind,
    finalize,
    image_reference,
    instance_arguments,
    own_uid,
    source_reference,
)
from pneumoscope_clinic.results.film_report import film_report_pdf
from pneumoscope_clinic.results.messages import explained
from pneumoscope_clinic.results.presentation_state import presentation_state
from pneumoscope_clinic.results.stored_result import StoredResult, on_grid

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_SR = Kind("sr", 9901, "Pneumoscope report")
_SC = Kind("sc", 9902, "Pneumoscope heat map")
_PDF = Kind("pdf", 9904, "Pneumoscope report as PDF")
FINDING = "pneumonia"
TITLE = "Pneumoscope: pneumonia on a chest radiograph"


def structured_report(result: StoredResult, source: Dataset) -> Dataset:
    """The report as a :class:`highdicom.sr.Comprehensive3DSR`, ready to store.

    Args:
        result: of an image that came as DICOM.
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
        **instance_arguments(result, _SR),
    )
    return finalize(report, result, source)


def _observer(result: StoredResult) -> Any:
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


def _group(result: StoredResult, source: Dataset) -> Any:
    """TID 1501: finding, algorithm, tracking, source image, evaluations, measurements and comments."""
    from highdicom import sr

    from pneumoscope_clinic.results.codes import COMMENT, LUNG, OPERATING_POINT, PNEUMONIA

    document = result.document
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
    if document["operating_point"] is not None:
        texts.insert(0, (OPERATING_POINT, document["operating_point"]))
    group[0].ContentSequence.extend(
        sr.TextContentItem(name, text, sr.RelationshipTypeValues.CONTAINS) for name, text in texts
    )
    return group


def _algorithm(result: StoredResult) -> Any:
    """TID 4019."""
    from highdicom.sr import AlgorithmIdentification

    return AlgorithmIdentification(
        name=MODEL,
        version=__version__,
        manufacturer=MANUFACTURER,
        parameters=[f"bundle {result.bundle_id}"],
    )


def _measurements(result: StoredResult) -> list[Any]:
    """Probability and threshold, TID 300; none for an image that was not answered."""
    from highdicom.sr import Measurement

    from pneumoscope_clinic.results.codes import PROBABILITY, THRESHOLD, UNITY

    if not result.answered:
        return []
    document = result.document
    return [
        Measurement(name=PROBABILITY, value=round(document["probability"], 6), unit=UNITY),
        Measurement(name=THRESHOLD, value=round(document["threshold"], 6), unit=UNITY),
    ]


def _evaluations(result: StoredResult) -> list[Any]:
    """Presence of pneumonia, the gate's verdict and, of a positive image, the etiology."""
    from highdicom.sr import QualitativeEvaluation

    from pneumoscope_clinic.results.codes import (
        ETIOLOGIES,
        ETIOLOGY,
        GATE,
        PNEUMONIA,
        PRESENCES,
        VERDICTS,
    )

    document = result.document
    found = [
        QualitativeEvaluation(GATE, VERDICTS[document["gate"]["verdict"]]),
        QualitativeEvaluation(PNEUMONIA, PRESENCES[document["decision"]]),
    ]
    if document["etiology"] is not None:
        found.append(QualitativeEvaluation(ETIOLOGY, ETIOLOGIES[document["etiology"]]))
    return found


def _comments(result: StoredResult) -> Sequence[str]:
    """In words: what was answered, why or why not, where the evidence lies, limits, and what this is not."""
    return [*explained(result.document), f"Research and decision support, not a medical device; {NOTICE}."]


def secondary_capture(result: StoredResult, source: Dataset) -> Dataset:
    """The picture as a :class:`highdicom.sc.SCImage`, uncompressed RGB, ready to store.

    Burned In Annotation is YES: the legend is ours and names nobody. Patient Orientation stays empty: it
    would have to hold for the legend, too.

    Args:
        result: of an image that came as DICOM and was explained.
        source: :func:`pneumoscope_clinic.results.dicom_identity.source_reference` of it.

    Raises:
        ValueError: the image was not explained.
    """
    from highdicom.sc import SCImage
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian

    if result.image is None or result.target is None or result.heat_map is None:
        raise ValueError("the image was not explained")
    maps = {result.target: on_grid(result.heat_map, result.original_size)}
    arguments = instance_arguments(result, _SC)
    capture = SCImage.from_ref_dataset(
        ref_dataset=source,
        pixel_array=draw_heat_map(result.image, maps, caption_of(result.document)),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
        **arguments,
    )
    capture.PatientOrientation = []
    capture.Laterality = ""  # type 2C: of a paired body part, which the chest is not
    capture.ConversionType = "WSD"  # workstation, PS3.3 C.8.6.1
    capture.BurnedInAnnotation = "YES"
    explanation = result.document["explanation"]
    capture.DerivationDescription = f"{explanation['method']} heat map for {explanation['target']}; {NOTICE}"
    capture.SourceImageSequence = [image_reference(source, codes.DCM.SourceImageForImageProcessingOperation)]
    return finalize(capture, result, source)


def encapsulated_pdf(result: StoredResult, source: Dataset, pdf: bytes) -> Dataset:
    """``pdf`` as a DICOM object, ready to store.

    Burned In Annotation (are identities on it? PS3.3 C.24.2) is NO only where the source says so of itself:
    the page's text names nobody, but the page shows the image.

    Args:
        result: of an image that came as DICOM.
        source: :func:`pneumoscope_clinic.results.dicom_identity.source_reference` of it.
        pdf: the file's content.
    """
    from highdicom import SOPClass
    from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

    arguments = instance_arguments(result, _PDF)
    document = SOPClass(
        study_instance_uid=source.StudyInstanceUID,
        sop_class_uid=EncapsulatedPDFStorage,
        modality="DOC",
        transfer_syntax_uid=ExplicitVRLittleEndian,
        specific_character_set=source.SpecificCharacterSet,
        **arguments,
    )
    document.copy_patient_and_study_information(source)
    document.ConversionType = "WSD"  # workstation, PS3.3 C.8.6.1
    document.AcquisitionDateTime = None
    burned_in = "" if result.header is None else str(result.header.get("BurnedInAnnotation", "")).strip()
    document.BurnedInAnnotation = "NO" if burned_in == "NO" else "YES"
    document.DocumentTitle = TITLE
    document.ConceptNameCodeSequence = []
    document.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document.SourceInstanceSequence = [image_reference(source)]
    document.EncapsulatedDocument = pdf + b"\0" * (len(pdf) % 2)
    document.EncapsulatedDocumentLength = len(pdf)
    return finalize(document, result, source)


def _capture(result: StoredResult, source: Dataset) -> Dataset | None:
    return None if result.heat_map is None else secondary_capture(result, source)


def _pdf(result: StoredResult, source: Dataset) -> Dataset:
    return encapsulated_pdf(result, source, film_report_pdf(result))


_MAKERS: dict[str, Callable[[StoredResult, Dataset], Dataset | None]] = {
    "sr": structured_report,
    "sc": _capture,
    "gsps": presentation_state,
    "pdf": _pdf,
}

KINDS = tuple(_MAKERS)
"""Structured Report, Secondary Capture, Grayscale Softcopy Presentation State, Encapsulated PDF."""


def dicom_objects(result: StoredResult, kinds: Collection[str] = ("sr", "sc")) -> list[Dataset]:
    """The objects of a result, in the order of :data:`KINDS`, each with ``file_meta`` and preamble.

    An image that was not explained (refused by the gate) has no heat map, so no capture and no presentation
    state; its Structured Report and PDF say why there is no answer. The same result gives the same objects,
    UIDs included, whenever it is asked for.

    Raises:
        InputError: the image did not come as DICOM.
        ValueError: there is no such kind.
    """
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise ValueError(f"no such kind of result: {sorted(unknown)}, expected some of {KINDS}")
    source = source_reference(result)
    with collected_warnings():  # of names that highdicom finds unlikely, and of other odd values
        made = [make(result, source) for kind, make in _MAKERS.items() if kind in kinds]
    return [dataset for dataset in made if dataset is not None]
