"""A stored study as a FHIR Bundle.

In: a study of the store. Out: the Bundle of ``fhir``, for a client that asks for it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pneumoscope.core.errors import NotFoundError
from pneumoscope_clinic.results.fhir import StudyResults, fhir_bundle
from pneumoscope_clinic.results.film_result import FilmResult
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.studies import shown
from pneumoscope_clinic.store.tables import Film, Study
from pneumoscope_clinic.worker.film_results import identity_of


def study_bundle(store: Store, study: Study) -> dict[str, Any]:
    """The results of a study that may be shown.

    Raises:
        NotFoundError: none of its films has one.
    """
    films = [_result(store, film) for film in study.films if shown(film) is not None]
    if not films:
        raise NotFoundError("the study has no result")
    return fhir_bundle(StudyResults(study.id, films), identities=store.settings.fhir.identities)


def _result(store: Store, film: Film) -> FilmResult:
    """A film's result without pixels, which FHIR resources do not hold."""
    result = shown(film)
    assert result is not None
    header = None
    if film.identity is not None:
        header = identity_of(store, film.id, film.identity)
    return FilmResult(
        film_id=film.id,
        record=result.record,
        picture=np.zeros((1, 1), np.uint8),
        original_size=(film.facts["rows"], film.facts["columns"]),
        heat_maps={},
        examined_at=result.created_at,
        header=header,
    )
