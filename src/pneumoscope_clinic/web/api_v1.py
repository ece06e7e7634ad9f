"""REST interface, version 1: images in, results, pictures and reports out; studies, feedback, bundles.

An image is durable before the response says that it was taken; with an Idempotency-Key a repeated request
makes nothing new. Results of silent mode are withheld (``store.studies.shown``).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Path, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema
from sqlalchemy.orm import Session

from pneumoscope.core.errors import ConfigError, NotFoundError
from pneumoscope.core.files import sha256_bytes
from pneumoscope_clinic.rest_models import (
    BatchOut,
    BundleOut,
    FeedbackIn,
    FeedbackOut,
    FilmOut,
    ResultOut,
    StudiesOut,
    StudyOut,
)
from pneumoscope_clinic.store.bundles import activations, active_bundle, open_active
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.idempotency import Repeatable, once
from pneumoscope_clinic.store.studies import (
    LONGEST_REFERENCE,
    FeedbackEntry,
    StudyFilter,
    batch_of,
    comment_of,
    film_of,
    list_studies,
    put_feedback,
    reference_of,
    shown,
    state_of,
    study_of,
)
from pneumoscope_clinic.store.tables import Activation, Batch, Feedback, Film, Study
from pneumoscope_clinic.store.viewers import Viewer
from pneumoscope_clinic.web import pictures
from pneumoscope_clinic.web.access import store_of
from pneumoscope_clinic.web.openapi import (
    SENT,
    TAKEN,
    Age,
    Diagnostician,
    Examiner,
    Id,
    Key,
    Photograph,
    Reader,
    fields,
    of_type,
    problems,
)
from pneumoscope_clinic.worker.intake import Sender, receive

MOST_FILMS = 200
"""Images in one batch request."""

LONGEST_WAIT_S = 60.0
"""A GET waits for an image no longer: proxies close connections that are silent for about as long."""

Reference = Annotated[
    str | None, Form(max_length=LONGEST_REFERENCE, description="what you call the study; kept encrypted")
]
_FORMATS = "JPEG, PNG, TIFF, BMP or DICOM"


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


@router.post(
    "/examine",
    tags=["films"],
    response_model=FilmOut,
    response_description="examined, or failed: see `state`",
    responses={202: {"model": FilmOut, "description": "taken, not examined yet", "headers": TAKEN}, **SENT},
    summary="Examine one image",
)
async def examine_film(
    request: Request,
    viewer: Examiner,
    _: Annotated[None, fields("film", "age_years", "photograph", "reference", "operating_point")],
    film: Annotated[UploadFile, File(description=_FORMATS, json_schema_extra={"minLength": 1})],
    age_years: Age = None,
    photograph: Photograph = False,
    reference: Reference = None,
    operating_point: Annotated[
        str | None, Form(max_length=64, description="of the bundle, such as `balanced` or `screening`")
    ] = None,
    wait: Annotated[bool, Query(description="false: answer at once with 202")] = True,
    key: Key = None,
) -> Response:
    """The answer about an image (200), or where to find it later (202)."""
    store = store_of(request)
    content = await film.read()

    def take() -> str:
        options = _options(store, age_years, photograph, operating_point)
        sender = Sender(viewer.actor, viewer.user_id, "api")
        taken = receive(store, content, sender, reference=reference, options=options, idempotency_key=key)
        return taken.film_id

    film_id = await run_in_threadpool(take)
    settled = wait and await request.app.state.waiting.settled(
        film_id, "examine", store.settings.server.request_seconds
    )
    body = await run_in_threadpool(lambda: _film_out(store, film_of(store, viewer, film_id)))
    headers = {"Location": f"/v1/films/{film_id}"}
    if settled:
        return JSONResponse(body.model_dump(mode="json"), 200, headers)
    return JSONResponse(body.model_dump(mode="json"), 202, {**headers, "Retry-After": "1"})


@router.get(
    "/films/{film_id}",
    tags=["films"],
    response_model=FilmOut,
    responses=problems(404, 422),
    summary="An image, its state and its result",
)
async def film(
    request: Request,
    viewer: Reader,
    film_id: Id,
    wait: Annotated[
        float,
        Query(ge=0, le=LONGEST_WAIT_S, description="seconds to wait for an image that is not examined yet"),
    ] = 0,
) -> FilmOut:
    """What is known about an image now, or after ``wait`` seconds at most."""
    store = store_of(request)

    def look() -> FilmOut:
        return _film_out(store, film_of(store, viewer, film_id))

    found = await run_in_threadpool(look)
    if wait and found.state in ("waiting", "running"):
        await request.app.state.waiting.settled(film_id, "examine", wait)
        found = await run_in_threadpool(look)
    return found


@router.get(
    "/films/{film_id}/picture.jpg",
    tags=["films"],
    responses={**of_type("image/jpeg"), **problems(404, 422)},
    response_class=Response,
    summary="The image as grey JPEG",
)
async def film_picture(request: Request, viewer: Reader, film_id: Id) -> Response:
    """The image for the eye, on its original grid, bright where it is dense."""
    store = store_of(request)
    await run_in_threadpool(film_of, store, viewer, film_id)
    await pictures.drawn(request, film_id)
    return Response(await run_in_threadpool(pictures.picture, store, film_id), media_type="image/jpeg")


@router.get(
    "/films/{film_id}/heat-maps/{name}.png",
    tags=["films"],
    responses={**of_type("image/png"), **problems(404, 422)},
    response_class=Response,
    summary="A heat map as grey PNG",
)
def film_heat_map(
    request: Request,
    viewer: Reader,
    film_id: Id,
    name: Annotated[str, Path(pattern="^[a-z-]{1,32}$", description="one of the image's `heat_maps`")],
) -> Response:
    """The evidence for a class, 255 the strongest; stretch it over the image."""
    store = store_of(request)
    content = None
    if shown(film_of(store, viewer, film_id)) is not None:
        content = pictures.heat_map_png(store, film_id, name)
    if content is None:
        raise NotFoundError("the image has no such heat map")
    return Response(content, media_type="image/png")


@router.get(
    "/films/{film_id}/report.pdf",
    tags=["films"],
    responses={**of_type("application/pdf"), **problems(404, 422)},
    response_class=Response,
    summary="The one-page report as PDF",
)
async def film_report(request: Request, viewer: Reader, film_id: Id) -> Response:
    """Image, heat map, answer and limits on one page; it names no patient."""
    from pneumoscope_clinic.results.film_report import film_report_pdf

    store = store_of(request)
    if shown(await run_in_threadpool(film_of, store, viewer, film_id)) is None:
        raise NotFoundError("the image has no result")
    await pictures.drawn(request, film_id)
    content = await run_in_threadpool(lambda: film_report_pdf(pictures.illustrated_result(store, film_id)))
    return Response(content, media_type="application/pdf")


@router.post(
    "/batches",
    tags=["films"],
    response_model=BatchOut,
    status_code=202,
    response_description="taken; ask for the batch until `open` is 0",
    responses={202: {"headers": TAKEN}, **SENT},
    summary="Examine several images",
)
async def examine_batch(
    request: Request,
    viewer: Examiner,
    _: Annotated[None, fields("age_years", "photograph", many="films")],
    films: Annotated[
        list[UploadFile], File(description=f"each {_FORMATS}", min_length=1, max_length=MOST_FILMS)
    ],
    age_years: Age = None,
    photograph: Photograph = False,
    key: Key = None,
) -> Response:
    """Images that are examined one after the other, each a study of its own unless DICOM says otherwise."""
    store = store_of(request)
    contents = [await part.read() for part in films]
    if not all(contents):
        raise ConfigError("one of the files is empty", remedy="leave it out")

    def take() -> BatchOut:
        digest = sha256_bytes("".join(sha256_bytes(content) for content in contents).encode())
        batch_id = once(store, Repeatable(viewer.user_id, key, digest), _new_batch(viewer))
        sender, options = (
            Sender(viewer.actor, viewer.user_id, "api"),
            _options(store, age_years, photograph, None),
        )
        for number, content in enumerate(contents):
            each = None if key is None else f"{key}/{number}"
            receive(store, content, sender, batch_id=batch_id, options=options, idempotency_key=each)
        return _batch_out(store, viewer, batch_id)

    body = await run_in_threadpool(take)
    headers = {"Location": f"/v1/batches/{body.id}", "Retry-After": "1"}
    return JSONResponse(body.model_dump(mode="json"), 202, headers)


@router.get(
    "/batches/{batch_id}",
    tags=["films"],
    response_model=BatchOut,
    responses=problems(404, 422),
    summary="A batch and its images",
)
def batch(request: Request, viewer: Reader, batch_id: Id) -> BatchOut:
    """How far a batch is."""
    return _batch_out(store_of(request), viewer, batch_id)


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
        Literal["POSITIVE", "NEGATIVE", "ABSTAIN"] | None, Query(description="of one of its images")
    ] = None,
    state: Annotated[
        Literal["waiting", "done", "failed"] | None, Query(description="of one of its images")
    ] = None,
    feedback: Annotated[bool | None, Query(description="whether a reader gave a diagnosis")] = None,
    after: Annotated[str | None, Query(max_length=200, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> StudiesOut:
    """Studies that the caller may see, the newest first; those that arrive meanwhile are not mixed in."""
    store = store_of(request)
    chosen = StudyFilter(since, until, decision, None, state, feedback)
    found = list_studies(store, viewer, chosen, after, limit)
    return StudiesOut(studies=[_study_out(store, study) for study in found.studies], next=found.next)


@router.get(
    "/studies/{study_id}",
    tags=["studies"],
    response_model=StudyOut,
    responses=problems(404, 422),
    summary="A study with its images",
)
def study(request: Request, viewer: Reader, study_id: Id) -> StudyOut:
    """A study, its images and their results."""
    store = store_of(request)
    return _study_out(store, study_of(store, viewer, study_id))


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
    """Keep a reader's final diagnosis; the last one of an image counts."""
    store = store_of(request)
    given = FeedbackEntry(entry.diagnosis, entry.comment, entry.consent)
    fingerprint = sha256_bytes(f"{film_id} {entry.model_dump_json()}".encode())

    def keep(session: Session) -> str:
        return str(put_feedback(store, session, viewer, film_id, given).id)

    kept = once(store, Repeatable(viewer.user_id, key, fingerprint), keep)
    rows = film_of(store, viewer, film_id).feedback
    return next(_feedback_out(store, row) for row in rows if str(row.id) == kept)


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
    return [_bundle_out(row) for row in activations(store)]


def _options(
    store: Store, age_years: float | None, photograph: bool, operating_point: str | None
) -> dict[str, Any]:
    """Options of an examination; a wrong operating point is the request's fault, not the image's."""
    if operating_point is not None:
        points = open_active(store).operating_points
        if operating_point not in points:
            raise ConfigError("no such operating point", expected="one of " + ", ".join(points))
    given = {"age_years": age_years, "photograph": photograph or None, "operating_point": operating_point}
    return {name: value for name, value in given.items() if value is not None}


def _new_batch(viewer: Viewer) -> Callable[[Session], str]:
    def make(session: Session) -> str:
        made = Batch(owner_id=viewer.user_id)
        session.add(made)
        session.flush()
        return made.id

    return make


def _batch_out(store: Store, viewer: Viewer, batch_id: str) -> BatchOut:
    found, rows = batch_of(store, viewer, batch_id)
    films = [_film_out(store, row) for row in rows]
    waiting = sum(film.state in ("waiting", "running") for film in films)
    return BatchOut(id=found.id, created_at=found.created_at, open=waiting, films=films)


def _film_out(store: Store, film: Film) -> FilmOut:
    """An image with result and feedback; ``film`` has its jobs and feedback loaded."""
    state, problem = state_of(film)
    result = shown(film)
    record = {} if result is None else result.record
    classes = [name for name in record.get("probabilities") or () if name != "normal"]
    return FilmOut(
        id=film.id,
        study_id=film.study_id,
        batch_id=film.batch_id,
        state=state,
        problem=problem,
        source=film.source,
        received_at=film.created_at,
        facts=film.facts,
        age_years=film.age_years,
        sex=film.sex,
        pixels_kept=not film.pixels_gone,
        silent=film.result is not None and result is None,
        result=None
        if result is None
        else ResultOut(**{**record, "seconds": result.seconds, "created_at": result.created_at}),
        feedback=[_feedback_out(store, row) for row in film.feedback],
        heat_maps=classes if record.get("explanation") and not film.pixels_gone else [],
    )


def _study_out(store: Store, study: Study) -> StudyOut:
    """A study with its images."""
    films = [_film_out(store, film) for film in study.films]
    return StudyOut(
        id=study.id, reference=reference_of(store, study), received_at=study.created_at, films=films
    )


def _feedback_out(store: Store, row: Feedback) -> FeedbackOut:
    """A reader's diagnosis."""
    kept = {key: getattr(row, key) for key in ("diagnosis", "agrees", "consent", "created_at")}
    return FeedbackOut(comment=comment_of(store, row), **kept)


def _bundle_out(row: Activation) -> BundleOut:
    """An activation."""
    return BundleOut(id=row.bundle_id, active_since=row.at, by=row.by, card=row.card)
