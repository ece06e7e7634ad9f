"""Worklist: the studies that the reader may see, filtered and paged.

The filter may hold a case number, which belongs in no address or log: the form is posted, and the address
that it leads to holds the text encrypted.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import RedirectResponse, Response

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope.core.records import Decision, Verdict
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.studies import StudyFilter, list_studies, shown
from pneumoscope_clinic.store.tables import Film, Study
from pneumoscope_clinic.store.viewers import Viewer
from pneumoscope_clinic.web.access import check_csrf, page_viewer, store_of
from pneumoscope_clinic.web.film_view import (
    DIAGNOSES,
    film_outcome,
    outcome_of,
    shown_probability,
    study_title,
    verdict_title,
)
from pneumoscope_clinic.web.rendering import page, reader_words
from pneumoscope_clinic.web.translation import Words

router = APIRouter(include_in_schema=False)

STUDIES = 50
"""On one page."""
LONGEST_TEXT = 200
_KEYS = ("text", "since", "until", "decision", "verdict", "state", "feedback", "sort")
_PURPOSE = "worklist/text"

Reader = Annotated[Viewer, Depends(page_viewer)]
Chosen = dict[str, str]


@router.get("/")
def worklist(request: Request, viewer: Reader, after: str | None = None) -> Response:
    """Studies, the newest first unless asked otherwise."""
    store, of = store_of(request), reader_words(request, viewer)
    chosen = {key: request.query_params.get(key, "")[:2000] for key in _KEYS}
    chosen["text"] = _unsealed(store, chosen["text"])
    found = list_studies(store, viewer, _filter(chosen), after, STUDIES)
    address = {key: value for key, value in chosen.items() if value and key != "text"}
    if chosen["text"]:
        address["text"] = request.query_params["text"]
    return page(
        request,
        "worklist.html",
        viewer,
        here="worklist",
        rows=[_row(store, study, of) for study in found.studies],
        chosen=chosen,
        filtered=any(chosen[key] for key in _KEYS if key != "sort"),
        options=_options(of),
        summary=_summary(chosen["sort"], of),
        first_page="/?" + urlencode(address) if after else None,
        next_page=None if found.next is None else "/?" + urlencode({**address, "after": found.next}),
    )


@router.post("/search", dependencies=[Depends(check_csrf)])
async def search(request: Request, _: Reader) -> Response:
    """Lead to the worklist with a filter whose text nobody can read in the address."""
    form = await request.form()
    chosen = {key: str(form.get(key, "")).strip()[:LONGEST_TEXT] for key in _KEYS}
    if chosen["text"]:
        sealed = store_of(request).cipher.encrypt(chosen["text"].encode(), _PURPOSE)
        chosen["text"] = base64.urlsafe_b64encode(sealed).decode()
    query = urlencode({key: value for key, value in chosen.items() if value})
    return RedirectResponse(f"/?{query}" if query else "/", status_code=303)


def _unsealed(store: Store, text: str) -> str:
    """The text of a filter; what was not made here is no filter."""
    try:
        return store.cipher.decrypt(base64.urlsafe_b64decode(text), _PURPOSE).decode() if text else ""
    except (binascii.Error, ValueError, PneumoscopeError):
        return ""


def _filter(chosen: Chosen) -> StudyFilter:
    """What the address asks for; what it says wrongly is passed over."""
    return StudyFilter(
        since=_day(chosen["since"]),
        until=_day(chosen["until"], after=1),
        decision=_one(chosen["decision"], Decision),
        verdict=_one(chosen["verdict"], Verdict),
        state=_one(chosen["state"], ("waiting", "done", "failed")),
        feedback={"yes": True, "no": False}.get(chosen["feedback"]),
        text=chosen["text"] or None,
        oldest_first=chosen["sort"] == "oldest",
    )


def _one(value: str, known: Any) -> str | None:
    return value if value in list(map(str, known)) else None


def _day(text: str, after: int = 0) -> datetime | None:
    """Start of a day in the machine's time zone, or of a day some days ``after`` it; None is no limit."""
    try:
        day = date.fromisoformat(text) + timedelta(days=after)  # one of 23 or 25 hours, now and then
        return datetime.combine(day, time()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _options(of: Words) -> Mapping[str, list[tuple[str, str]]]:
    whatever = ("", of("all"))
    return {
        "decision": [
            whatever,
            ("POSITIVE", of("Pneumonia likely")),
            ("NEGATIVE", of("Pneumonia unlikely")),
            ("ABSTAIN", of("No answer or refused")),
        ],
        "verdict": [whatever, *((str(verdict), verdict_title(verdict, of)) for verdict in Verdict)],
        "state": [
            whatever,
            ("waiting", of("Waiting")),
            ("done", of("Examined")),
            ("failed", of("Not readable")),
        ],
        "feedback": [whatever, ("yes", of("yes")), ("no", of("no"))],
        "sort": [("", of("newest first")), ("oldest", of("oldest first"))],
    }


def _summary(sort: str, of: Words) -> str:
    return of("The oldest studies first.") if sort == "oldest" else of("The newest studies first.")


def _row(store: Store, study: Study, of: Words) -> dict[str, Any]:
    """A study in one line: that of its image which needs looking at most."""
    film = min(study.films, key=_urgency)
    result = shown(film)
    last = film.feedback[-1] if film.feedback else None
    return {
        "address": f"/studies/{study.id}/films/{film.id}",
        "title": study_title(store, study, of),
        "films": len(study.films),
        "outcome": outcome_of(film, of),
        "probability": shown_probability(film, of),
        "gate": None if result is None else verdict_title(result.verdict, of),
        "received_at": study.created_at,
        "diagnosis": None if last is None else of(DIAGNOSES[last.diagnosis]),
    }


def _urgency(film: Film) -> int:
    order = ("positive", "abstained", "refused", "failed", "waiting", "running", "negative", "withheld")
    return order.index(film_outcome(film))
