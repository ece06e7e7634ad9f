"""REST, version 1: examine, batches, studies, films, feedback, reports, bundles.

In: bearer tokens with scopes, films as multipart. Out: JSON, problems, pictures and PDF. A film is durable
before the answer says that it was taken; with an Idempotency-Key a repeated request makes nothing new.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Header, Path, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from pneumoscope.clinic.examining.intake import Sender, recalled, receive, remember
from pneumoscope.clinic.store.accounts import Viewer
from pneumoscope.clinic.store.bundles import activations
from pneumoscope.clinic.store.database import Store
from pneumoscope.clinic.store.studies import (
    LONGEST_REFERENCE,
    FeedbackEntry,
    StudyFilter,
    add_feedback,
    batch_of,
    create_batch,
    film_of,
    list_studies,
    shown,
    study_of,
)
from pneumoscope.clinic.store.tables import Batch, Film
from pneumoscope.clinic.web import pictures
from pneumoscope.clinic.web.access import api_viewer, store_of
from pneumoscope.clinic.web.schemas import (
    BatchOut,
    BundleOut,
    FeedbackIn,
    FeedbackOut,
    FilmOut,
    Problem,
    StudiesOut,
    StudyOut,
    bundle_out,
    feedback_out,
    film_out,
    study_out,
)
from pneumoscope.core.errors import ConfigError, NotFoundError
from pneumoscope.core.files import sha256_bytes

__all__ = ["router"]

MOST_FILMS = 200
"""Films in one batch request."""

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "content": {"application/problem+json": {}}, "description": words}
    for status, words in (
        (400, "not a request of HTTP"), (401, "no valid token"), (403, "scope or role is missing"),
        (404, "not there, or not yours"), (408, "the body took too long"), (409, "the key was used before"),
        (413, "too large"), (422, "not as described"), (500, "our fault"),
    )
}  # fmt: skip

router = APIRouter(prefix="/v1", tags=["v1"], responses=_PROBLEMS)

Examiner = Annotated[Viewer, Depends(api_viewer("examine"))]
Reader = Annotated[Viewer, Depends(api_viewer("read"))]
Diagnostician = Annotated[Viewer, Depends(api_viewer("feedback"))]
Id = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]
Key = Annotated[str | None, Header(alias="Idempotency-Key", min_length=1, max_length=100, pattern="^[!-~]+$")]
Reference = Annotated[str | None, Form(max_length=LONGEST_REFERENCE)]
Age = Annotated[float | None, Form(ge=0, le=130, allow_inf_nan=False)]
_PICTURE: dict[int | str, dict[str, Any]] = {200: {"content": {"image/png": {}, "image/jpeg": {}}}}


@router.post(
    "/examine",
    response_model=FilmOut,
    responses={202: {"model": FilmOut, "description": "taken; ask for the film later"}},
    summary="Examine one film",
)
async def examine_film(
    request: Request,
    viewer: Examiner,
    film: Annotated[UploadFile, File(description="JPEG, PNG, TIFF, BMP or DICOM")],
    age_years: Age = None,
    reference: Reference = None,
    operating_point: Annotated[str | None, Form(max_length=64)] = None,
    wait: Annotated[bool, Query(description="false: answer at once with 202")] = True,
    key: Key = None,
) -> Response:
    """The answer about a film (200), or where to find it later (202)."""
    store = store_of(request)
    options = _options(store, age_years, operating_point)
    sender = Sender(viewer.actor, viewer.user_id, "api")
    content = await film.read()
    received = await run_in_threadpool(
        receive, store, content, sender, reference=reference, options=options, idempotency_key=key
    )
    settled = wait and await request.app.state.waiting.settled(
        received.film_id, "examine", store.settings.server.request_seconds
    )
    body = await run_in_threadpool(lambda: film_out(store, film_of(store, viewer, received.film_id)))
    headers = {"Location": f"/v1/films/{received.film_id}"}
    return JSONResponse(body.model_dump(mode="json"), 200 if settled else 202, headers)


@router.post("/batches", response_model=BatchOut, status_code=202, summary="Examine several films")
async def examine_batch(
    request: Request,
    viewer: Examiner,
    films: Annotated[list[UploadFile], File(description="films", max_length=MOST_FILMS)],
    age_years: Age = None,
    key: Key = None,
) -> Response:
    """A batch whose films are examined one after the other; ask for it until ``open`` is 0."""
    store = store_of(request)
    options = _options(store, age_years, None)
    contents = [await part.read() for part in films]
    if not all(contents):
        raise ConfigError("one of the files is empty", remedy="leave it out")

    def take() -> BatchOut:
        digest = sha256_bytes("".join(sha256_bytes(content) for content in contents).encode())
        batch_id = _batch(store, viewer, key, digest)
        sender = Sender(viewer.actor, viewer.user_id, "api")
        for number, content in enumerate(contents):
            each = None if key is None else f"{key}/{number}"
            receive(store, content, sender, batch_id=batch_id, options=options, idempotency_key=each)
        return _batch_out(store, viewer, batch_id)

    body = await run_in_threadpool(take)
    return JSONResponse(body.model_dump(mode="json"), 202, {"Location": f"/v1/batches/{body.id}"})


@router.get("/batches/{batch_id}", response_model=BatchOut)
def batch(request: Request, viewer: Reader, batch_id: Id) -> BatchOut:
    """A batch and its films."""
    return _batch_out(store_of(request), viewer, batch_id)


@router.get("/studies", response_model=StudiesOut)
def studies(
    request: Request,
    viewer: Reader,
    since: datetime | None = None,
    until: datetime | None = None,
    decision: Annotated[str | None, Query(pattern="^(POSITIVE|NEGATIVE|ABSTAIN)$")] = None,
    state: Annotated[str | None, Query(pattern="^(waiting|done|failed)$")] = None,
    feedback: bool | None = None,
    after: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> StudiesOut:
    """Studies that the caller may see, the newest first."""
    store = store_of(request)
    chosen = StudyFilter(_aware(since), _aware(until), decision, None, state, feedback)
    found = list_studies(store, viewer, chosen, after, limit)
    return StudiesOut(studies=[study_out(store, study) for study in found.studies], next=found.next)


@router.get("/studies/{study_id}", response_model=StudyOut)
def study(request: Request, viewer: Reader, study_id: Id) -> StudyOut:
    """A study with its films."""
    store = store_of(request)
    return study_out(store, study_of(store, viewer, study_id))


@router.get("/studies/{study_id}/fhir", summary="The study's results as a FHIR R4 Bundle")
def study_fhir(request: Request, viewer: Reader, study_id: Id) -> Response:
    """DiagnosticReport, Observations and Device, as they are sent to a FHIR server."""
    from pneumoscope.clinic.examining.study_fhir import study_bundle

    store = store_of(request)
    bundle = study_bundle(store, study_of(store, viewer, study_id))
    return JSONResponse(bundle, media_type="application/fhir+json")


@router.get("/films/{film_id}", response_model=FilmOut)
def film(request: Request, viewer: Reader, film_id: Id) -> FilmOut:
    """A film, its state and its result."""
    store = store_of(request)
    return film_out(store, film_of(store, viewer, film_id))


@router.get("/films/{film_id}/picture.jpg", responses=_PICTURE, response_class=Response)
def film_picture(request: Request, viewer: Reader, film_id: Id) -> Response:
    """The film as grey JPEG on its original grid."""
    store = store_of(request)
    film_of(store, viewer, film_id)
    return Response(pictures.picture(store, film_id), media_type="image/jpeg")


@router.get("/films/{film_id}/heat-maps/{name}.png", responses=_PICTURE, response_class=Response)
def film_heat_map(
    request: Request, viewer: Reader, film_id: Id, name: Annotated[str, Path(pattern="^[a-z-]{1,32}$")]
) -> Response:
    """The evidence for a class as grey PNG, 255 the strongest; stretch it over the film."""
    store = store_of(request)
    content = None
    if shown(film_of(store, viewer, film_id)) is not None:
        content = pictures.heat_map_png(store, film_id, name)
    if content is None:
        raise NotFoundError("the film has no such heat map")
    return Response(content, media_type="image/png")


@router.get(
    "/films/{film_id}/report.pdf",
    responses={200: {"content": {"application/pdf": {}}}},
    response_class=Response,
)
def film_report(request: Request, viewer: Reader, film_id: Id) -> Response:
    """The one-page report."""
    from pneumoscope.clinic.results.film_report import film_report_pdf

    store = store_of(request)
    if shown(film_of(store, viewer, film_id)) is None:
        raise NotFoundError("the film has no result")
    return Response(film_report_pdf(pictures.film_result(store, film_id)), media_type="application/pdf")


@router.post("/films/{film_id}/feedback", response_model=FeedbackOut, status_code=201)
def give_feedback(
    request: Request, viewer: Diagnostician, film_id: Id, entry: FeedbackIn, key: Key = None
) -> FeedbackOut:
    """Keep a reader's final diagnosis."""
    store = store_of(request)
    fingerprint = sha256_bytes(f"{film_id} {entry.model_dump_json()}".encode())
    with store.read() as session:
        again = recalled(session, viewer.user_id, key, fingerprint)
    if again is not None:
        earlier = film_of(store, viewer, film_id).feedback
        return next(feedback_out(store, row) for row in earlier if str(row.id) == again)
    row = add_feedback(store, viewer, film_id, FeedbackEntry(entry.diagnosis, entry.comment, entry.consent))
    if key is not None:
        with store.write() as session:
            remember(session, viewer.user_id, key, fingerprint, str(row.id))
    return feedback_out(store, row)


@router.get("/bundles", response_model=list[BundleOut])
def bundles(request: Request, viewer: Reader) -> list[BundleOut]:
    """The bundle in force, first, and those before it."""
    return [bundle_out(row) for row in activations(store_of(request))]


def _options(store: Store, age_years: float | None, operating_point: str | None) -> dict[str, Any]:
    """Options of an examination; a wrong operating point is the request's fault, not the film's."""
    if operating_point is not None:
        from pneumoscope.clinic.store.bundles import active_bundle
        from pneumoscope.inference.bundle import load_bundle

        load_bundle(active_bundle(store).location).operating_point(operating_point)
    given = {"age_years": age_years, "operating_point": operating_point}
    return {name: value for name, value in given.items() if value is not None}


def _batch(store: Store, viewer: Viewer, key: str | None, fingerprint: str) -> str:
    """A new batch, or the one that the same request made before."""
    if key is None:
        return create_batch(store, viewer).id
    with store.write() as session:
        known = recalled(session, viewer.user_id, key, fingerprint)
        if known is not None:
            return known
        made = Batch(owner_id=viewer.user_id)
        session.add(made)
        session.flush()
        remember(session, viewer.user_id, key, fingerprint, made.id)
        return made.id


def _batch_out(store: Store, viewer: Viewer, batch_id: str) -> BatchOut:
    found, films = batch_of(store, viewer, batch_id)
    shown_films = [_with_feedback(store, viewer, film) for film in films]
    waiting = sum(film.state in ("waiting", "running") for film in shown_films)
    return BatchOut(id=found.id, created_at=found.created_at, open=waiting, films=shown_films)


def _with_feedback(store: Store, viewer: Viewer, film: Film) -> FilmOut:
    return film_out(store, film_of(store, viewer, film.id))


def _aware(time: datetime | None) -> datetime | None:
    """A time without a zone is UTC."""
    from datetime import UTC

    return time.replace(tzinfo=UTC) if time is not None and time.tzinfo is None else time
