"""The heat map over the film as a picture that every DICOM viewer shows.

In: a result and the clean reference to its source. Out: a Secondary Capture (PS3.3 A.8.1) in colour: film
with heat map, and below it the legend with the answer and *not for primary diagnosis*. The film's pixels are
those of the original grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pneumoscope.inference.heat_map_picture import NOTICE, draw_heat_map
from pneumoscope_clinic.results.dicom_identity import Kind, image_reference, instance_arguments, seal
from pneumoscope_clinic.results.examination import examination_of, radiograph_of
from pneumoscope_clinic.results.film_result import FilmResult

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

KIND = Kind("sc", 9902, "Pneumoscope heat map")


def secondary_capture(result: FilmResult, source: Dataset) -> Dataset:
    """The picture as a :class:`highdicom.sc.SCImage`, uncompressed RGB, ready to store.

    Burned In Annotation is YES: the legend is ours and names nobody. Patient Orientation stays empty: it
    would have to hold for the legend, too.

    Args:
        result: of a film that came as DICOM and was explained.
        source: :func:`pneumoscope_clinic.results.dicom_identity.source_reference` of it.

    Raises:
        ValueError: the film was not explained.
    """
    from highdicom.sc import SCImage
    from pydicom.sr.codedict import codes
    from pydicom.uid import ExplicitVRLittleEndian

    arguments = instance_arguments(result, KIND)
    capture = SCImage.from_ref_dataset(
        ref_dataset=source,
        pixel_array=draw_heat_map(radiograph_of(result), examination_of(result)),
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
    explanation = result.record["explanation"]
    capture.DerivationDescription = f"{explanation['method']} heat map for {explanation['target']}; {NOTICE}"
    capture.SourceImageSequence = [image_reference(source, codes.DCM.SourceImageForImageProcessingOperation)]
    return seal(capture, result, source)
