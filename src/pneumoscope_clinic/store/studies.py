"""Queries of studies, images and feedback, limited to what the viewer may see by role.

What is not the viewer's is reported as missing, so that an id tells nothing. Results of silent mode are
withheld here, in one place (:func:`shown`).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Select, and_, exists, or_, select
from sqlalchemy.orm import Session, selectinload

from pneumoscope.core.errors import ConfigError, NotFoundError
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Batch, Feedback, Film, Job, Result, Study
from pneumoscope_clinic.store.viewers import Viewer

DIAGNOSES = ("normal", "bacterial", "viral", "pneumonia-unspecified", "other")
"""``other``: no pneumonia, but not normal either."""

LONGEST_REFERENCE, LONGEST_COMMENT = 100, 2000
_BLOCK = 100
_ID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class StudyFilter:
    """Which studies; None is any. ``state``: waiting, done, failed; ``text``: part of the reference."""

    since: datetime | None = None
    until: datetime | None = None
    decision: str | None = None
    verdict: str | None = None
    state: str | None = None
    feedback: bool | None = None
    text: str | None = None
    oldest_first: bool = False


@dataclass(frozen=True, slots=True)
class StudyPage:
    """A part of a list, and where the next begins; None at the end."""

    studies: list[Study]
    next: str | None


@dataclass(frozen=True, slots=True)
class FeedbackEntry:
    """A reader's final diagnosis: one of DIAGNOSES; ``consent``: the image may be used for training."""

    diagnosis: str
    comment: str = ""
    consent: bool = False


def list_studies(
    store: Store, viewer: Viewer, chosen: StudyFilter, after: str | None = None, limit: int = 50
) -> StudyPage:
    """Studies that the viewer may see, by time of arrival.

    Args:
        store: the clinic's.
        viewer: who asks.
        chosen: which.
        after: ``StudyPage.next`` of the page before.
        limit: studies on a page, 1 to 200.

    Raises:
        ConfigError: ``after`` is no place in a list.
    """
    place = None if after is None else _place(after)
    found: list[Study] = []
    with store.read() as session:
        for study in _matching(session, _chosen(viewer, chosen), chosen.oldest_first, place):
            if chosen.text and chosen.text.casefold() not in reference_of(store, study).casefold():
                continue
            if len(found) == limit:
                last = found[-1]
                mark = f"{last.created_at.isoformat()} {last.id}"
                return StudyPage(found, base64.urlsafe_b64encode(mark.encode()).decode())
            found.append(study)
    return StudyPage(found, None)


def study_of(store: Store, viewer: Viewer, study_id: str) -> Study:
    """A study with images, results, jobs and feedback.

    Raises:
        NotFoundError: it is not there, or not the viewer's.
    """
    with store.read() as session:
        study = session.scalar(_whole(select(Study).where(Study.id == study_id, _visible(viewer))))
    if study is None:
        raise NotFoundError("there is no such study")
    return study


def film_of(store: Store, viewer: Viewer, film_id: str) -> Film:
    """An image with its study, result, jobs and feedback.

    Raises:
        NotFoundError: it is not there, or not the viewer's.
    """
    with store.read() as session:
        found = session.scalar(
            select(Film)
            .join(Study)
            .where(Film.id == film_id, _visible(viewer))
            .options(selectinload(Film.jobs), selectinload(Film.feedback), selectinload(Film.study))
        )
    if found is None:
        raise NotFoundError("there is no such image")
    return found


def create_batch(store: Store, viewer: Viewer) -> Batch:
    """A batch for images that will be sent together."""
    with store.write() as session:
        batch = Batch(owner_id=viewer.user_id)
        session.add(batch)
    return batch


def batch_of(store: Store, viewer: Viewer, batch_id: str) -> tuple[Batch, list[Film]]:
    """A batch and its images in the order of arrival.

    Raises:
        NotFoundError: it is not there, or another user's (a reviewer sees all).
    """
    with store.read() as session:
        batch = session.get(Batch, batch_id)
        if batch is None or not (viewer.has_role("reviewer") or batch.owner_id == viewer.user_id):
            raise NotFoundError("there is no such batch")
        films = select(Film).where(Film.batch_id == batch_id).order_by(Film.created_at, Film.id)
        loaded = films.options(selectinload(Film.jobs), selectinload(Film.feedback))
        return batch, list(session.scalars(loaded))


def add_feedback(store: Store, viewer: Viewer, film_id: str, entry: FeedbackEntry) -> Feedback:
    """Keep a reader's final diagnosis; whether it agrees is decided here, by the answer at its operating
    point.

    Raises:
        NotFoundError: no such image, or not the viewer's. ConfigError: not a diagnosis, or too long a
            comment.
    """
    with store.write() as session:
        return put_feedback(store, session, viewer, film_id, entry)


def put_feedback(
    store: Store, session: Session, viewer: Viewer, film_id: str, entry: FeedbackEntry
) -> Feedback:
    """:func:`add_feedback` within the caller's writing transaction; the row has its id."""
    if entry.diagnosis not in DIAGNOSES or len(entry.comment) > LONGEST_COMMENT:
        raise ConfigError(
            "not a final diagnosis",
            expected=f"one of {', '.join(DIAGNOSES)}, and a comment of at most {LONGEST_COMMENT} characters",
        )
    film = session.scalar(select(Film).join(Study).where(Film.id == film_id, _visible(viewer)))
    if film is None:
        raise NotFoundError("there is no such image")
    row = Feedback(
        film_id=film.id,
        user_id=viewer.user_id,
        agrees=_agrees(film.result, entry.diagnosis),
        diagnosis=entry.diagnosis,
        comment=store.cipher.encrypt(entry.comment.encode(), f"comment/{film.id}") if entry.comment else None,
        consent=entry.consent,
    )
    session.add(row)
    detail = {"diagnosis": entry.diagnosis, "consent": entry.consent}
    audit_log.append(store, session, viewer.actor, "feedback", film.id, **detail)
    return row


def comment_of(store: Store, feedback: Feedback) -> str:
    """A reader's comment, empty where there is none."""
    if feedback.comment is None:
        return ""
    return store.cipher.decrypt(feedback.comment, f"comment/{feedback.film_id}").decode()


def reference_of(store: Store, study: Study) -> str:
    """What the sender calls a study, empty where it says nothing."""
    return (
        ""
        if study.reference is None
        else store.cipher.decrypt(study.reference, f"reference/{study.id}").decode()
    )


def shown(film: Film) -> Result | None:
    """The result that people and programs may see: none in silent mode."""
    return None if film.result is None or film.result.shadow else film.result


def state_of(film: Film) -> tuple[str, dict[str, Any] | None]:
    """``waiting``, ``running``, ``done`` or ``failed``, and what the problem is."""
    job = next((job for job in film.jobs if job.kind == "examine"), None)
    return ("done", None) if job is None else (job.state, job.problem if job.state == "failed" else None)


def _agrees(result: Result | None, diagnosis: str) -> bool:
    """Whether the answer and the diagnosis say the same; an abstention agrees with neither."""
    if result is None:
        return False
    is_pneumonia = diagnosis in ("bacterial", "viral", "pneumonia-unspecified")
    return result.decision == ("POSITIVE" if is_pneumonia else "NEGATIVE")


def _visible(viewer: Viewer) -> Any:
    if viewer.has_role("reviewer"):
        return Study.id.is_not(None)
    return or_(Study.owner_id == viewer.user_id, Study.owner_id.is_(None))


def _chosen(viewer: Viewer, chosen: StudyFilter) -> Select[Study]:
    conditions = [_visible(viewer)]
    if chosen.since is not None:
        conditions.append(Study.created_at >= chosen.since)
    if chosen.until is not None:
        conditions.append(Study.created_at < chosen.until)
    film = [Film.study_id == Study.id]
    answered = exists().where(*film, Result.film_id == Film.id, Result.shadow.is_(False))
    if chosen.decision is not None:
        conditions.append(answered.where(Result.decision == chosen.decision))
    if chosen.verdict is not None:
        conditions.append(answered.where(Result.verdict == chosen.verdict))
    if chosen.state is not None:
        states = ("waiting", "running") if chosen.state == "waiting" else (chosen.state,)
        job = and_(Job.film_id == Film.id, Job.kind == "examine", Job.state.in_(states))
        conditions.append(exists().where(*film, job))
    if chosen.feedback is not None:
        given = exists().where(*film, Feedback.film_id == Film.id)
        conditions.append(given if chosen.feedback else ~given)
    return _whole(select(Study).where(*conditions))


def _whole(statement: Select[Study]) -> Select[Study]:
    films = selectinload(Study.films)
    return statement.options(films, films.selectinload(Film.jobs), films.selectinload(Film.feedback))


def _matching(
    session: Session, statement: Select[Study], oldest_first: bool, place: tuple[datetime, str] | None
) -> Iterator[Study]:
    """Studies in order, a block at a time, after ``place``."""
    time, key = Study.created_at, Study.id
    order = (time, key) if oldest_first else (time.desc(), key.desc())
    while True:
        block = statement
        if place is not None:
            later = (time > place[0]) if oldest_first else (time < place[0])
            beyond = (key > place[1]) if oldest_first else (key < place[1])
            block = statement.where(or_(later, and_(time == place[0], beyond)))
        studies = session.scalars(block.order_by(*order).limit(_BLOCK)).all()
        yield from studies
        if len(studies) < _BLOCK:
            return
        place = studies[-1].created_at, studies[-1].id


def _place(after: str) -> tuple[datetime, str]:
    try:
        time, _, key = base64.urlsafe_b64decode(after.encode("ascii")).decode("ascii").partition(" ")
        if not _ID.fullmatch(key):
            raise ValueError(key)
        return datetime.fromisoformat(time).astimezone(UTC), key
    except (ValueError, OverflowError, binascii.Error) as error:
        raise ConfigError("'after' is no place in the list", remedy="take it from the page before") from error
