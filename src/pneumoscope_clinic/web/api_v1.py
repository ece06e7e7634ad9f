"""REST, version 1: what was examined, what readers found, which bundle answers; ``api_films`` is the rest.

In: bearer tokens with scopes. Out: JSON and problems.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from sqlalchemy.orm import Session

from pneumoscope.core.files import sha256_bytes
from pneumoscope_clinic.store.bundles import activations, active_bundle
from pneumoscope_clinic.store.studies import (
    FeedbackEntry,
    StudyFilter,
    film_of,
    list_studies,
    put_feedback,
    study_of,
)
from pneumoscope_clinic.web import api_films
from pneumoscope_clinic.web.access import store_of
from pneumoscope_clinic.web.api_parameters import SENT, Diagnostician, Id, Key, Reader, problems
from pneumoscope_clinic.web.idempotency import Repeatable, once
from pneumoscope_clinic.web.schemas import (
    BundleOut,
    FeedbackIn,
    FeedbackOut,
    StudiesOut,
    StudyOut,
    bundle_out,
    feedback_out,
    study_out,
)


def _utc(time: datetime) -> datetime:
    """A time without a zone is UTC."""
    try:
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("should lie in the years 1 to 9999") from error


def _dated(text: object) -> object:
    """Pydantic takes a number for seconds since 1970; here a time begins with a date."""
    if not isinstance(text, str) or not re.match(r"\d{4}-\d\d-\d\d", text):
        raise ValueError("should be a date or time such as 2026-05-31T14:00:00Z")
    return text


Moment = Annotated[
    datetime,
    BeforeValidator(_dated),
    AfterValidator(_utc),
    WithJsonSchema({"anyOf": [{"type": "string", "format": name} for name in ("date-time", "date")]}),
]

router = APIRouter(prefix="/v1", generate_unique_id_function=lambda route: route.name)
router.include_router(api_films.router)


@router.get(
    "/studies",
    tags=["studies"],
    response_model=StudiesOut,
    responses=problems(422),
    summary="A list of studies",
)
def studies(
    request: Request,
    viewer: Reader,
    since: Annotated[Moment | None, Query(description="received then or later; without a zone: UTC")] = None,
    until: Annotated[Moment | None, Query(description="received before")] = None,
    decision: Annotated[
        Literal["POSITIVE", "NEGATIVE", "ABSTAIN"] | None, Query(description="of one of its films")
    ] = None,
    state: Annotated[
        Literal["waiting", "done", "failed"] | None, Query(description="of one of its films")
    ] = None,
    feedback: Annotated[bool | None, Query(description="whether a reader gave a diagnosis")] = None,
    after: Annotated[str | None, Query(max_length=200, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> StudiesOut:
    """Studies that the caller may see, the newest first; those that arrive meanwhile are not mixed in."""
    store = store_of(request)
    chosen = StudyFilter(since, until, decision, None, state, feedback)
    found = list_studies(store, viewer, chosen, after, limit)
    return StudiesOut(studies=[study_out(store, study) for study in found.studies], next=found.next)


@router.get(
    "/studies/{study_id}",
    tags=["studies"],
    response_model=StudyOut,
    responses=problems(404, 422),
    summary="A study with its films",
)
def study(request: Request, viewer: Reader, study_id: Id) -> StudyOut:
    """A study, its films and their results."""
    store = store_of(request)
    return study_out(store, study_of(store, viewer, study_id))


@router.get(
    "/studies/{study_id}/fhir",
    tags=["studies"],
    responses={
        200: {"content": {"application/fhir+json": {"schema": {"type": "object"}}}},
        **problems(404, 422),
    },
    response_class=Response,
    summary="The study's results as a FHIR R4 Bundle",
)
def study_fhir(request: Request, viewer: Reader, study_id: Id) -> Response:
    """DiagnosticReport, Observations and Device, as they are sent to a FHIR server."""
    from pneumoscope_clinic.results.fhir import study_bundle

    store = store_of(request)
    bundle = study_bundle(store, study_of(store, viewer, study_id))
    return JSONResponse(bundle, media_type="application/fhir+json")


@router.post(
    "/films/{film_id}/feedback",
    tags=["feedback"],
    response_model=FeedbackOut,
    status_code=201,
    responses={**SENT, **problems(404)},
    summary="Give a final diagnosis",
)
def give_feedback(
    request: Request, viewer: Diagnostician, film_id: Id, entry: FeedbackIn, key: Key = None
) -> FeedbackOut:
    """Keep a reader's final diagnosis; the last one of a film counts."""
    store = store_of(request)
    given = FeedbackEntry(entry.diagnosis, entry.comment, entry.consent)
    fingerprint = sha256_bytes(f"{film_id} {entry.model_dump_json()}".encode())

    def keep(session: Session) -> str:
        return str(put_feedback(store, session, viewer, film_id, given).id)

    kept = once(store, Repeatable(viewer.user_id, key, fingerprint), keep)
    rows = film_of(store, viewer, film_id).feedback
    return next(feedback_out(store, row) for row in rows if str(row.id) == kept)


@router.get(
    "/bundles",
    tags=["bundles"],
    response_model=list[BundleOut],
    responses=problems(),
    summary="The bundle in force, and those before it",
)
def bundles(request: Request, viewer: Reader) -> list[BundleOut]:
    """The first answers now; the others, the newest first, answered until the next was activated."""
    store = store_of(request)
    active_bundle(store)
    return [bundle_out(row) for row in activations(store)]
