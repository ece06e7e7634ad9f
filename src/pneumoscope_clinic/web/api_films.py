"""REST, version 1: films go in, one by one or in batches; answers, pictures and reports come out.

In: films as multipart. Out: JSON, problems, pictures and PDF. A film is durable before the answer says that
it was taken; with an Idempotency-Key a repeated request makes nothing new.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, Path, Query, Request, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from sqlalchemy.orm import Session

from pneumoscope.core.errors import ConfigError, NotFoundError
from pneumoscope.core.files import sha256_bytes
from pneumoscope_clinic.store.bundles import open_active
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.studies import LONGEST_REFERENCE, batch_of, film_of, shown
from pneumoscope_clinic.store.tables import Batch
from pneumoscope_clinic.store.viewers import Viewer
from pneumoscope_clinic.web import pictures
from pneumoscope_clinic.web.access import store_of
from pneumoscope_clinic.web.api_parameters import (
    SENT,
    TAKEN,
    Age,
    Examiner,
    Id,
    Key,
    Photograph,
    Reader,
    fields,
    of_type,
    problems,
)
from pneumoscope_clinic.web.idempotency import Repeatable, once
from pneumoscope_clinic.web.schemas import BatchOut, FilmOut, film_out
from pneumoscope_clinic.worker.intake import Sender, receive

MOST_FILMS = 200
"""Films in one batch request."""

LONGEST_WAIT_S = 60.0
"""A GET waits for a film no longer: proxies close connections that are silent for about as long."""

router = APIRouter()

Reference = Annotated[
    str | None, Form(max_length=LONGEST_REFERENCE, description="what you call the study; kept encrypted")
]
_FILM = "JPEG, PNG, TIFF, BMP or DICOM"


@router.post(
    "/examine",
    tags=["films"],
    response_model=FilmOut,
    response_description="examined, or failed: see `state`",
    responses={202: {"model": FilmOut, "description": "taken, not examined yet", "headers": TAKEN}, **SENT},
    summary="Examine one film",
)
async def examine_film(
    request: Request,
    viewer: Examiner,
    _: Annotated[None, fields("film", "age_years", "photograph", "reference", "operating_point")],
    film: Annotated[UploadFile, File(description=_FILM, json_schema_extra={"minLength": 1})],
    age_years: Age = None,
    photograph: Photograph = False,
    reference: Reference = None,
    operating_point: Annotated[
        str | None, Form(max_length=64, description="of the bundle, such as `balanced` or `screening`")
    ] = None,
    wait: Annotated[bool, Query(description="false: answer at once with 202")] = True,
    key: Key = None,
) -> Response:
    """The answer about a film (200), or where to find it later (202)."""
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
    body = await run_in_threadpool(lambda: film_out(store, film_of(store, viewer, film_id)))
    headers = {"Location": f"/v1/films/{film_id}"}
    if settled:
        return JSONResponse(body.model_dump(mode="json"), 200, headers)
    return JSONResponse(body.model_dump(mode="json"), 202, {**headers, "Retry-After": "1"})


@router.get(
    "/films/{film_id}",
    tags=["films"],
    response_model=FilmOut,
    responses=problems(404, 422),
    summary="A film, its state and its result",
)
async def film(
    request: Request,
    viewer: Reader,
    film_id: Id,
    wait: Annotated[
        float,
        Query(ge=0, le=LONGEST_WAIT_S, description="seconds to wait for a film that is not examined yet"),
    ] = 0,
) -> FilmOut:
    """What is known about a film now, or after ``wait`` seconds at most."""
    store = store_of(request)

    def look() -> FilmOut:
        return film_out(store, film_of(store, viewer, film_id))

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
    summary="The film as grey JPEG",
)
async def film_picture(request: Request, viewer: Reader, film_id: Id) -> Response:
    """The film for the eye, on its original grid, bright where it is dense."""
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
    name: Annotated[str, Path(pattern="^[a-z-]{1,32}$", description="one of the film's `heat_maps`")],
) -> Response:
    """The evidence for a class, 255 the strongest; stretch it over the film."""
    store = store_of(request)
    content = None
    if shown(film_of(store, viewer, film_id)) is not None:
        content = pictures.heat_map_png(store, film_id, name)
    if content is None:
        raise NotFoundError("the film has no such heat map")
    return Response(content, media_type="image/png")


@router.get(
    "/films/{film_id}/report.pdf",
    tags=["films"],
    responses={**of_type("application/pdf"), **problems(404, 422)},
    response_class=Response,
    summary="The one-page report as PDF",
)
async def film_report(request: Request, viewer: Reader, film_id: Id) -> Response:
    """Film, heat map, answer and limits on one page; it names no patient."""
    from pneumoscope_clinic.results.film_report import film_report_pdf

    store = store_of(request)
    if shown(await run_in_threadpool(film_of, store, viewer, film_id)) is None:
        raise NotFoundError("the film has no result")
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
    summary="Examine several films",
)
async def examine_batch(
    request: Request,
    viewer: Examiner,
    _: Annotated[None, fields("age_years", "photograph", many="films")],
    films: Annotated[
        list[UploadFile], File(description=f"each {_FILM}", min_length=1, max_length=MOST_FILMS)
    ],
    age_years: Age = None,
    photograph: Photograph = False,
    key: Key = None,
) -> Response:
    """Films that are examined one after the other, each a study of its own unless DICOM says otherwise."""
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
    summary="A batch and its films",
)
def batch(request: Request, viewer: Reader, batch_id: Id) -> BatchOut:
    """How far a batch is."""
    return _batch_out(store_of(request), viewer, batch_id)


def _options(
    store: Store, age_years: float | None, photograph: bool, operating_point: str | None
) -> dict[str, Any]:
    """Options of an examination; a wrong operating point is the request's fault, not the film's."""
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
    films = [film_out(store, row) for row in rows]
    waiting = sum(film.state in ("waiting", "running") for film in films)
    return BatchOut(id=found.id, created_at=found.created_at, open=waiting, films=films)
