"""What no window holds yet: films and feedback that are there, and what the retention policy has deleted.

Where few films come, a window takes longer to fill than films are kept. So what the policy is about to delete
is taken into the window under way first, as windows keep it: each quantity by itself and sorted. Keyed hashes
of the patients stay beside it until the window is complete, so that none counts twice.

In: sessions of the store. Out: :class:`FilmsUnderWay`, :class:`FeedbackUnderWay`; rows of ``watch_windows``
whose kind ends in ``-part``, at most one a kind and bundle.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from pneumoscope.core.records import Decision
from pneumoscope_clinic.monitoring.quantities import FilmRow, Numbers, numbers_of, pooled
from pneumoscope_clinic.store.tables import Feedback, Film, Result, Study, WatchWindow

FILMS, FEEDBACK = "films", "feedback"
_PART = "-part"

BLOCK = 50
"""Films with feedback in one test: an agreement of 0.65 where 0.85 is wanted is found within one block with a
probability of 0.81 at the level 0.01 (exact binomial)."""

_PATIENTS, _AGREED = "patients", "agreed"
_ROWS = 500  # read at a time


@dataclass(frozen=True, slots=True)
class FilmsUnderWay:
    """``part``: of deleted films, which came first; ``films``: later ones, in the order of their results."""

    part: WatchWindow | None
    films: list[FilmRow]

    @property
    def taken(self) -> int:
        """Films of the part."""
        return 0 if self.part is None else self.part.n

    @property
    def n(self) -> int:
        """All films."""
        return self.taken + len(self.films)

    def numbers(self, count: int) -> Numbers:
        """Of the first ``count`` films, at least :attr:`taken`."""
        parts = [] if self.part is None else [self.part.numbers]
        return pooled([*parts, numbers_of(self.films[: count - self.taken])])

    def until(self, count: int) -> datetime:
        """Time of the last of the first ``count`` films, at least one and at least :attr:`taken`."""
        later = count - self.taken
        return self.part.until if self.part is not None and not later else self.films[later - 1].at


@dataclass(frozen=True, slots=True)
class FeedbackUnderWay:
    """As :class:`FilmsUnderWay`; ``rows``: time and agreement."""

    part: WatchWindow | None
    rows: list[tuple[datetime, bool]]

    @property
    def n(self) -> int:
        """Films with feedback."""
        return (0 if self.part is None else self.part.n) + len(self.rows)

    @property
    def agreed(self) -> int:
        """Films whose reader agreed."""
        before = 0 if self.part is None else int(self.part.numbers[_AGREED])
        return before + sum(agrees for _, agrees in self.rows)

    @property
    def until(self) -> datetime:
        """Time of the last row; there is one, or a part."""
        return self.part.until if self.part is not None and not self.rows else self.rows[-1][0]


def films_under_way(session: Session, bundle_id: str, window: int) -> FilmsUnderWay:
    """The films after the last window, one a patient, at most ``window`` of them."""
    part = _part(session, FILMS, bundle_id)
    known = set() if part is None else set(part.numbers[_PATIENTS])
    missing = window - (0 if part is None else part.n)
    found: dict[str, FilmRow] = {}
    for film in _stream(session, bundle_id, _last(session, FILMS, bundle_id)):
        if len(found) >= missing:
            break
        if film.patient not in known:
            found.setdefault(film.patient, film)
    return FilmsUnderWay(part, list(found.values()))


def feedback_under_way(session: Session, bundle_id: str) -> FeedbackUnderWay:
    """Films with feedback after the last block, at most :data:`BLOCK`; the first word about each counts."""
    part, after = _part(session, FEEDBACK, bundle_id), _last(session, FEEDBACK, bundle_id)
    first = select(func.min(Feedback.id)).group_by(Feedback.film_id)
    statement = (
        select(Feedback.created_at, Feedback.agrees)
        .join(Result, Result.film_id == Feedback.film_id)
        .where(
            Result.bundle_id == bundle_id, Result.decision != Decision.ABSTAIN.value, Feedback.id.in_(first)
        )
        .order_by(Feedback.created_at, Feedback.id)
        .limit(BLOCK - (0 if part is None else part.n))
    )
    if after is not None:
        statement = statement.where(Feedback.created_at > after)
    return FeedbackUnderWay(part, [(at, agrees) for at, agrees in session.execute(statement)])


def take(session: Session, film_ids: Collection[str], window: int) -> None:
    """Take films that are about to be deleted, and what came before them, into what is under way."""
    of_films = select(Result.bundle_id, func.max(Result.created_at)).group_by(Result.bundle_id)
    for bundle_id, latest in session.execute(of_films.where(Result.film_id.in_(film_ids))).all():
        open_films = films_under_way(session, bundle_id, window)
        count = open_films.taken + sum(film.at <= latest for film in open_films.films)
        if count > open_films.taken:
            known = [] if open_films.part is None else open_films.part.numbers[_PATIENTS]
            added = [film.patient for film in open_films.films if film.at <= latest]
            numbers = {**open_films.numbers(count), _PATIENTS: sorted([*known, *added])}
            _keep(session, FILMS, bundle_id, count, open_films.until(count), numbers)
    of_feedback = (
        select(Result.bundle_id, func.max(Feedback.created_at))
        .join(Feedback, Feedback.film_id == Result.film_id)
        .group_by(Result.bundle_id)
    )
    for bundle_id, latest in session.execute(of_feedback.where(Result.film_id.in_(film_ids))).all():
        every = feedback_under_way(session, bundle_id)
        taken = FeedbackUnderWay(every.part, [row for row in every.rows if row[0] <= latest])
        if taken.rows:
            _keep(session, FEEDBACK, bundle_id, taken.n, taken.until, {_AGREED: taken.agreed})


def forget_part(session: Session, kind: str, bundle_id: str) -> None:
    """Forget what was taken: it is in a window now, or no window is to hold it."""
    own = WatchWindow.kind == kind + _PART, WatchWindow.bundle_id == bundle_id
    session.execute(delete(WatchWindow).where(*own))


def _keep(
    session: Session, kind: str, bundle_id: str, n: int, until: datetime, numbers: dict[str, Any]
) -> None:
    forget_part(session, kind, bundle_id)
    row = WatchWindow(kind=kind + _PART, bundle_id=bundle_id, baseline=False, n=n, until=until)
    row.numbers, row.tests = numbers, {}
    session.add(row)


def _part(session: Session, kind: str, bundle_id: str) -> WatchWindow | None:
    own = WatchWindow.kind == kind + _PART, WatchWindow.bundle_id == bundle_id
    return session.scalar(select(WatchWindow).where(*own))


def _last(session: Session, kind: str, bundle_id: str) -> datetime | None:
    """Time of the last row that a window or a part holds; films before it are never looked at again."""
    own = WatchWindow.kind.in_((kind, kind + _PART)), WatchWindow.bundle_id == bundle_id
    return session.scalar(select(func.max(WatchWindow.until)).where(*own))


def _stream(session: Session, bundle_id: str, after: datetime | None) -> Iterator[FilmRow]:
    columns = (
        Result.created_at, Study.patient_key, Study.id, Result.verdict, Result.decision, Result.abstained_by,
        Result.probability, Result.drift, Film.facts, Film.age_years,
    )  # fmt: skip
    statement = (
        select(*columns)
        .join(Film, Film.id == Result.film_id)
        .join(Study, Study.id == Film.study_id)
        .where(Result.bundle_id == bundle_id)
        .order_by(Result.created_at, Result.film_id)
        .execution_options(yield_per=_ROWS)
    )
    if after is not None:
        statement = statement.where(Result.created_at > after)
    for at, patient, study, *rest in session.execute(statement):
        yield FilmRow(at, patient or study, *rest)
