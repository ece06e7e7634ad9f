"""The DICOM objects that go back into the study, for any film of any device.

In: a result and which kinds of object are wanted. Out: data sets that can be sent or saved as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from pneumoscope.imaging.library_warnings import collected_warnings
from pneumoscope_clinic.results.dicom_identity import source_reference
from pneumoscope_clinic.results.encapsulated_pdf import encapsulated_pdf
from pneumoscope_clinic.results.film_report import film_report_pdf
from pneumoscope_clinic.results.film_result import FilmResult
from pneumoscope_clinic.results.presentation_state import presentation_state
from pneumoscope_clinic.results.secondary_capture import secondary_capture
from pneumoscope_clinic.results.structured_report import structured_report

if TYPE_CHECKING:
    from pydicom.dataset import Dataset


def _capture(result: FilmResult, source: Dataset) -> Dataset | None:
    return None if result.heat_map is None else secondary_capture(result, source)


def _pdf(result: FilmResult, source: Dataset) -> Dataset:
    return encapsulated_pdf(result, source, film_report_pdf(result))


_MAKERS: dict[str, Callable[[FilmResult, Dataset], Dataset | None]] = {
    "sr": structured_report,
    "sc": _capture,
    "gsps": presentation_state,
    "pdf": _pdf,
}

KINDS = tuple(_MAKERS)
"""Structured Report, Secondary Capture, Grayscale Softcopy Presentation State, Encapsulated PDF."""


def dicom_objects(result: FilmResult, kinds: Collection[str] = ("sr", "sc")) -> list[Dataset]:
    """The objects of a result, in the order of :data:`KINDS`, each with ``file_meta`` and preamble.

    A film that was not explained (refused by the gate) has no heat map, so no capture and no presentation
    state; its Structured Report and PDF say why there is no answer. The same result gives the same objects,
    UIDs included, whenever it is asked for.

    Raises:
        InputError: the film did not come as DICOM.
        ValueError: there is no such kind.
    """
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise ValueError(f"no such kind of result: {sorted(unknown)}, expected some of {KINDS}")
    source = source_reference(result)
    with collected_warnings():  # of names that highdicom finds unlikely, and of other odd values
        made = [make(result, source) for kind, make in _MAKERS.items() if kind in kinds]
    return [dataset for dataset in made if dataset is not None]
