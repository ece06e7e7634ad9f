"""Study page: radiograph, heat maps, result, diagnosis, reports. Results of silent mode are withheld."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy import select
from starlette.concurrency import run_in_threadpool

from pneumoscope.core.errors import NotFoundError
from pneumoscope.inference.overlay import OPACITY, colours
from pneumoscope_clinic.monitoring.dashboard import bundle_document
from pneumoscope_clinic.results.film_report import Feedback as ReportFeedback
from pneumoscope_clinic.results.film_report import Page, film_report_html, film_report_pdf
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.studies import (
    LONGEST_COMMENT,
    FeedbackEntry,
    add_feedback,
    comment_of,
    film_of,
    shown,
    study_of,
)
from pneumoscope_clinic.store.tables import Activation, Film, User
from pneumoscope_clinic.store.viewers import Viewer
from pneumoscope_clinic.web.access import check_csrf, page_viewer, store_of
from pneumoscope_clinic.web.film_view import DIAGNOSES, FilmView, film_view, outcome_of, study_title
from pneumoscope_clinic.web.pictures import drawn, heat_map_png, illustrated_result, picture
from pneumoscope_clinic.web.rendering import page, reader_words
from pneumoscope_clinic.web.translation import Words

router = APIRouter(include_in_schema=False)

N_ = str  # marks messages for the extraction

PRESETS = (
    ("128 256", N_("whole range")),
    ("96 140", N_("lungs")),
    ("176 150", N_("mediastinum and bones")),
    ("128 128", N_("high contrast")),
)
"""Level and width on the image's 256 grey levels. There is no fixed scale like that of a CT: these are our
own choices, made by eye on the Guangzhou images."""
_STOPS = 17
"""Control points of the heat map's scale (``inference.overlay``)."""

Reader = Annotated[Viewer, Depends(page_viewer)]


@router.get("/studies/{study_id}")
def study_page(request: Request, study_id: str, viewer: Reader) -> Response:
    """The first image of a study."""
    study = study_of(store_of(request), viewer, study_id)
    return RedirectResponse(f"/studies/{study.id}/films/{study.films[0].id}", status_code=303)


@router.get("/studies/{study_id}/films/{film_id}")
def film_page(request: Request, study_id: str, film_id: str, viewer: Reader, said: str = "") -> Response:
    """An image with its answer."""
    notice = reader_words(request, viewer)("The diagnosis is saved.") if said == "saved" else ""
    return _page(request, viewer, _film(store_of(request), viewer, study_id, film_id), notice=notice)


@router.get("/studies/{study_id}/films/{film_id}/picture.jpg")
async def film_picture(request: Request, study_id: str, film_id: str, viewer: Reader) -> Response:
    """The image in grey on its original grid."""
    store = store_of(request)
    film = await run_in_threadpool(_film, store, viewer, study_id, film_id)
    await drawn(request, film.id)
    return _kept(await run_in_threadpool(picture, store, film.id), "image/jpeg")


@router.get("/studies/{study_id}/films/{film_id}/heat/{name}.png")
def heat_map(request: Request, study_id: str, film_id: str, name: str, viewer: Reader) -> Response:
    """The heat map of a class, 8-bit grey."""
    store = store_of(request)
    film = _answered(_film(store, viewer, study_id, film_id))
    content = heat_map_png(store, film.id, name)
    if content is None:
        raise NotFoundError("there is no such heat map")
    return _kept(content, "image/png")


@router.get("/studies/{study_id}/films/{film_id}/report")
async def report_page(request: Request, study_id: str, film_id: str, viewer: Reader) -> Response:
    """The one-page report to print; its policy lets nothing but its own style and pictures in."""
    film = _answered(await run_in_threadpool(_film, store_of(request), viewer, study_id, film_id))
    await drawn(request, film.id)
    return await run_in_threadpool(_report_page, request, viewer, film)


def _report_page(request: Request, viewer: Viewer, film: Film) -> Response:
    nonce = secrets.token_urlsafe(16)
    of, parts = _report(request, viewer, film, nonce)
    policy = f"default-src 'none'; img-src data:; style-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"  # noqa: E501
    html = film_report_html(illustrated_result(store_of(request), film.id), of, parts)
    return HTMLResponse(html, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})


@router.get("/studies/{study_id}/films/{film_id}/report.pdf")
async def report_pdf(request: Request, study_id: str, film_id: str, viewer: Reader) -> Response:
    """The one-page report as PDF."""
    film = _answered(await run_in_threadpool(_film, store_of(request), viewer, study_id, film_id))
    await drawn(request, film.id)
    return await run_in_threadpool(_report_pdf, request, viewer, film)


def _report_pdf(request: Request, viewer: Viewer, film: Film) -> Response:
    store = store_of(request)
    of, parts = _report(request, viewer, film, None)
    with store.write() as session:
        audit_log.append(store, session, viewer.actor, "report.downloaded", film.id)
    content = film_report_pdf(illustrated_result(store, film.id), of, parts)
    name = f"pneumoscope-{film.id[:8]}.pdf"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(content, media_type="application/pdf", headers=headers)


@router.post("/studies/{study_id}/films/{film_id}/feedback", dependencies=[Depends(check_csrf)])
def give_diagnosis(
    request: Request,
    study_id: str,
    film_id: str,
    viewer: Reader,
    diagnosis: Annotated[str, Form(max_length=32)] = "",
    comment: Annotated[str, Form(max_length=2 * LONGEST_COMMENT)] = "",
    consent: Annotated[str, Form(max_length=8)] = "",
) -> Response:
    """Store a reader's diagnosis; whether it agrees with the answer follows from it."""
    store, of = store_of(request), reader_words(request, viewer)
    film = _film(store, viewer, study_id, film_id)
    given = {"diagnosis": diagnosis, "comment": comment.replace("\r\n", "\n").strip(), "consent": consent}
    problem = _problem(film, given)
    if problem:
        return _page(request, viewer, film, problem=of(problem), given=given, status=422)
    add_feedback(store, viewer, film.id, FeedbackEntry(diagnosis, given["comment"], consent == "yes"))
    return RedirectResponse(f"/studies/{film.study_id}/films/{film.id}?said=saved", status_code=303)


def _film(store: Store, viewer: Viewer, study_id: str, film_id: str) -> Film:
    film = film_of(store, viewer, film_id)
    if film.study_id != study_id:
        raise NotFoundError("there is no such image")
    return film


def _answered(film: Film) -> Film:
    if shown(film) is None:
        raise NotFoundError("the image has no answer that may be shown")
    return film


def _kept(content: bytes, kind: str) -> Response:
    """A picture that this browser alone may keep for an hour."""
    return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})


def _page(
    request: Request,
    viewer: Viewer,
    film: Film,
    *,
    notice: str = "",
    problem: str = "",
    given: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
    store, of = store_of(request), reader_words(request, viewer)
    study = study_of(store, viewer, film.study_id)
    view = film_view(film, of, _document(store, film))
    films = [
        {"id": one.id, "address": f"/studies/{study.id}/films/{one.id}", "shown": outcome_of(one, of)}
        for one in study.films
    ]
    return page(
        request,
        "study.html",
        viewer,
        status=status,
        here="worklist",
        title=study_title(store, study, of),
        film=view,
        history=_history(store, film, of),
        films=films,
        colours=_scale(),
        opacity=OPACITY,
        presets=[(value, of(name)) for value, name in PRESETS],
        diagnoses=_choices(view, of),
        longest_comment=LONGEST_COMMENT,
        given={"diagnosis": "", "comment": "", "consent": "", **(given or {})},
        notice=notice,
        problem=problem,
    )


def _choices(view: FilmView, of: Words) -> list[tuple[str, list[tuple[str, str]]]]:
    """Diagnoses to choose from: those that agree with the answer first, then those that override it."""
    titles = {value: _capital(of(title)) for value, title in DIAGNOSES.items()}
    if not view.answered:
        return [("", list(titles.items()))]
    groups: list[tuple[str, list[tuple[str, str]]]] = [
        (of("I agree with the answer"), []),
        (of("I override the answer"), []),
    ]
    for value, title in titles.items():
        is_pneumonia = value not in ("normal", "other")
        groups[is_pneumonia != (view.shown.key == "positive")][1].append((value, title))
    return groups


def _history(store: Store, film: Film, of: Words) -> list[dict[str, Any]]:
    """Diagnoses so far, the newest first."""
    answer = shown(film)
    decided = answer is not None and answer.decision in ("POSITIVE", "NEGATIVE")
    with store.read() as session:
        ids = {row.user_id for row in film.feedback}
        users = session.scalars(select(User).where(User.id.in_(ids)))
        names = {user.id: user.name for user in users}
    return [
        {
            "diagnosis": _capital(of(DIAGNOSES[row.diagnosis])),
            "agreement": "" if not decided else of("agrees") if row.agrees else of("disagrees"),
            "consent": row.consent,
            "by": names.get(row.user_id) or of("a former user") if row.user_id else of("a former user"),
            "at": row.created_at,
            "comment": comment_of(store, row),
        }
        for row in reversed(film.feedback)
    ]


def _report(request: Request, viewer: Viewer, film: Film, nonce: str | None) -> tuple[Words, Page]:
    """The reader's language, and what stands on a report beside the result."""
    of = reader_words(request, viewer)
    last = film.feedback[-1] if film.feedback else None
    feedback = None
    if last is not None:
        answer = shown(film)
        decided = answer is not None and answer.decision in ("POSITIVE", "NEGATIVE")
        feedback = ReportFeedback(
            agrees=last.agrees if decided else None,
            diagnosis=DIAGNOSES[last.diagnosis],
            comment=comment_of(store_of(request), last),
            given_at=last.created_at,
        )
    return of, Page(study_id=film.study_id, feedback=feedback, language=of.language, style_nonce=nonce)


def _document(store: Store, film: Film) -> Mapping[str, Any] | None:
    """``bundle.json`` of the bundle that answered, if it is still where it was."""
    if film.result is None:
        return None
    bundle_id = film.result.bundle_id
    with store.read() as session:
        rows = (
            select(Activation.location)
            .where(Activation.bundle_id == bundle_id)
            .order_by(Activation.id.desc())
        )
        location = session.scalar(rows.limit(1))
    document = None if location is None else _opened(location, bundle_id)
    return document if document is not None and document["id"] == bundle_id else None


@lru_cache(maxsize=8)
def _opened(location: str, bundle_id: str) -> Mapping[str, Any] | None:
    del bundle_id  # part of the key: the directory may get another bundle
    return bundle_document(location)


@lru_cache(maxsize=1)
def _scale() -> list[str]:
    """The heat map's colours as hexadecimal codes, at its control points."""
    shades = np.rint(colours(np.linspace(0, 1, _STOPS, dtype=np.float32))).astype(int)
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in shades.tolist()]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _problem(film: Film, given: Mapping[str, str]) -> str:
    """What is wrong with a diagnosis as the form gave it; empty when nothing is."""
    if film.result is None:
        return N_("The image is not examined yet.")
    if given["diagnosis"] not in DIAGNOSES:
        return N_("Choose a final diagnosis.")
    return N_("The comment is too long.") if len(given["comment"]) > LONGEST_COMMENT else ""
