"""Batch page, and the state of images as server-sent events (HTML Living Standard 9.2)."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from pneumoscope_clinic.store.studies import batch_of, film_of
from pneumoscope_clinic.store.tables import Film
from pneumoscope_clinic.store.viewers import Viewer
from pneumoscope_clinic.web.access import page_viewer, store_of
from pneumoscope_clinic.web.film_view import outcome_of, shown_probability
from pneumoscope_clinic.web.rendering import page, reader_words
from pneumoscope_clinic.web.translation import Words

router = APIRouter(include_in_schema=False)

LOOK_S = 0.5
"""Between two looks at the images of a page that waits."""
LONGEST_S = 120.0
"""Of one stream of events; the browser opens another."""

Reader = Annotated[Viewer, Depends(page_viewer)]
State = dict[str, Any]


@router.get("/batches/{batch_id}")
def batch_page(request: Request, batch_id: str, viewer: Reader) -> Response:
    """The images of a batch and how far they are."""
    store = store_of(request)
    batch, films = batch_of(store, viewer, batch_id)
    of = reader_words(request, viewer)
    return page(request, "batch.html", viewer, here="worklist", batch=batch, state=_shown(films, of))


@router.get("/batches/{batch_id}/state")
def batch_state(request: Request, batch_id: str, viewer: Reader) -> State:
    """How far a batch is."""
    return _state(batch_of(store_of(request), viewer, batch_id)[1], reader_words(request, viewer))


@router.get("/batches/{batch_id}/events")
def batch_events(request: Request, batch_id: str, viewer: Reader) -> Response:
    """How far a batch is, as events."""
    store, of = store_of(request), reader_words(request, viewer)
    batch_of(store, viewer, batch_id)
    return _events(request, lambda: _state(batch_of(store, viewer, batch_id)[1], of))


@router.get("/films/{film_id}")
def film_page(request: Request, film_id: str, viewer: Reader) -> Response:
    """Lead to the study of an image, which may change when its file says so."""
    film = film_of(store_of(request), viewer, film_id)
    return RedirectResponse(f"/studies/{film.study_id}/films/{film.id}", status_code=303)


@router.get("/films/{film_id}/state")
def film_state(request: Request, film_id: str, viewer: Reader) -> State:
    """How far an image is."""
    return _state([film_of(store_of(request), viewer, film_id)], reader_words(request, viewer))


@router.get("/films/{film_id}/events")
def film_events(request: Request, film_id: str, viewer: Reader) -> Response:
    """How far an image is, as events."""
    store, of = store_of(request), reader_words(request, viewer)
    film_of(store, viewer, film_id)
    return _events(request, lambda: _state([film_of(store, viewer, film_id)], of))


def _state(films: Sequence[Film], of: Words) -> State:
    """Plain values: images with their outcome, how many are done, and a sentence."""
    rows = []
    for film in films:
        shown = outcome_of(film, of)
        probability = shown_probability(film, of) or "–"
        rows.append({"id": film.id, "outcome": shown.key, "title": shown.title, "probability": probability})
    done = sum(row["outcome"] not in ("waiting", "running") for row in rows)
    said = of("{done} of {count} images examined").format(done=of.number(done), count=of.number(len(rows)))
    return {"count": len(rows), "done": done, "said": said, "films": rows}


def _shown(films: Sequence[Film], of: Words) -> State:
    state = _state(films, of)
    state["films"] = [
        {**row, "shown": outcome_of(film, of)} for row, film in zip(state["films"], films, strict=True)
    ]
    return state


def _events(request: Request, look: Callable[[], State]) -> Response:
    return StreamingResponse(
        _stream(request, look),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _stream(request: Request, look: Callable[[], State]) -> AsyncIterator[str]:
    """The state whenever it changes, until all images are settled, the reader leaves, or time is up."""
    last = None
    for _ in range(round(LONGEST_S / LOOK_S)):
        if await request.is_disconnected():
            return
        state = await run_in_threadpool(look)
        if state != last:
            yield f"event: progress\ndata: {json.dumps(state)}\n\n"
            last = state
        if state["done"] >= state["count"] > 0:
            return
        await asyncio.sleep(LOOK_S)
