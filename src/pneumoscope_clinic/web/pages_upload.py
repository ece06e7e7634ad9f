"""Upload by browser: one image by a plain form, many by drag and drop. File names are not looked at."""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, RedirectResponse, Response
from starlette.datastructures import FormData, UploadFile

from pneumoscope.core.errors import InputError, NotFoundError
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.studies import LONGEST_REFERENCE, batch_of, create_batch
from pneumoscope_clinic.store.viewers import Viewer
from pneumoscope_clinic.web.access import check_csrf, page_viewer, store_of
from pneumoscope_clinic.web.rendering import page, reader_words
from pneumoscope_clinic.worker.intake import Sender, receive

router = APIRouter(include_in_schema=False)

OLDEST = 130.0
"""Years; as the command line has it (``predict --age-years``)."""

Reader = Annotated[Viewer, Depends(page_viewer)]


@router.get("/upload")
def upload_page(request: Request, viewer: Reader) -> Response:
    """The form."""
    return _form(request, viewer)


@router.post("/batches", dependencies=[Depends(check_csrf)])
def new_batch(request: Request, viewer: Reader) -> JSONResponse:
    """A batch that images are then sent to."""
    return JSONResponse({"batch": create_batch(store_of(request), viewer).id}, status_code=201)


@router.post("/upload", dependencies=[Depends(check_csrf)])
async def upload(request: Request, viewer: Reader) -> Response:
    """Take the images of a form; a browser is led on, the page's script gets JSON."""
    form = await request.form()
    wants_json = request.headers.get("accept", "").startswith("application/json")
    try:
        address, film_id = await _taken(request, viewer, form)
    except InputError as error:
        if wants_json:
            return JSONResponse({"detail": error.problem}, status_code=422)
        return await run_in_threadpool(_form, request, viewer, form, error.problem)
    finally:
        await form.close()
    if wants_json:
        return JSONResponse({"film": film_id}, status_code=201)
    return RedirectResponse(address, status_code=303)


async def _taken(request: Request, viewer: Viewer, form: FormData) -> tuple[str, str]:
    """Keep the images of a form; returns where they are followed, and the id of the last.

    Raises:
        InputError: there is none, or the age is none; in the reader's language.
    """
    of = reader_words(request, viewer)
    parts = [await part.read() for part in form.getlist("films") if isinstance(part, UploadFile)]
    contents = [content for content in parts if content]
    if not contents:
        raise InputError(of("The file is empty, or none was chosen."))
    age = _age(form, of("The age is a number of years from 0 to 130."))
    return await run_in_threadpool(_take, store_of(request), viewer, contents, form, age)


def _form(request: Request, viewer: Viewer, form: FormData | None = None, problem: str = "") -> Response:
    megabytes = store_of(request).settings.server.max_upload_mb
    given = {key: _text(form, key) for key in ("age_years", "reference", "photograph")}
    return page(
        request,
        "upload.html",
        viewer,
        status=422 if problem else 200,
        here="upload",
        limit_bytes=round(megabytes * 1e6),
        limit_megabytes=f"{megabytes:g}",
        problem=problem,
        age_problem="",
        **given,
    )


def _text(form: FormData | None, key: str) -> str:
    value = None if form is None else form.get(key)
    return value.strip() if isinstance(value, str) else ""


def _age(form: FormData, problem: str) -> float | None:
    text = _text(form, "age_years").replace(",", ".")
    if not text:
        return None
    try:
        age = float(text)
    except ValueError as error:
        raise InputError(problem) from error
    if not (math.isfinite(age) and 0 <= age <= OLDEST):
        raise InputError(problem)
    return age


def _take(
    store: Store, viewer: Viewer, contents: list[bytes], form: FormData, age: float | None
) -> tuple[str, str]:
    """Keep the images; returns where they are followed, and the id of the last."""
    batch_id = _batch(store, viewer, _text(form, "batch"), len(contents))
    sender = Sender(actor=viewer.actor, owner_id=viewer.user_id, source="web")
    reference = _text(form, "reference")[:LONGEST_REFERENCE] or None
    options: dict[str, Any] = {"photograph": True} if _text(form, "photograph") else {}
    if age is not None:
        options["age_years"] = age
    for content in contents:
        received = receive(store, content, sender, reference=reference, batch_id=batch_id, options=options)
    address = f"/batches/{batch_id}" if len(contents) > 1 else f"/films/{received.film_id}"
    return address, received.film_id


def _batch(store: Store, viewer: Viewer, given: str, count: int) -> str | None:
    """The viewer's own batch of that id; a new one for several images without."""
    if given:
        batch, _ = batch_of(store, viewer, given)
        if batch.owner_id != viewer.user_id:
            raise NotFoundError("there is no such batch")
        return batch.id
    return create_batch(store, viewer).id if count > 1 else None
