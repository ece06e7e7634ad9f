"""The one-page report inside the study: an Encapsulated PDF that viewers show beside the images.

In: a result, the clean reference to its source and the report as PDF. Out: an Encapsulated PDF Storage object
(PS3.3 A.45.1), written with pydicom: highdicom has no class for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pneumoscope_clinic.results.dicom_identity import Kind, image_reference, instance_arguments, seal
from pneumoscope_clinic.results.film_result import FilmResult

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

KIND = Kind("pdf", 9904, "Pneumoscope report as PDF")
TITLE = "Pneumoscope: pneumonia on a chest radiograph"


def encapsulated_pdf(result: FilmResult, source: Dataset, pdf: bytes) -> Dataset:
    """``pdf`` as a DICOM object, ready to store.

    Burned In Annotation (are identities on it? PS3.3 C.24.2) is NO only where the source says so of itself:
    the page's text names nobody, but the page shows the film.

    Args:
        result: of a film that came as DICOM.
        source: :func:`pneumoscope_clinic.results.dicom_identity.source_reference` of it.
        pdf: the file's content.
    """
    from highdicom import SOPClass
    from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian

    arguments = instance_arguments(result, KIND)
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
    return seal(document, result, source)
