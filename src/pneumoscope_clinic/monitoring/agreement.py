"""Agreement of results with readers' diagnoses, over time, and its sequential test.

Readers choose which images they comment on, and a wrong answer provokes more comments than a right one: these
figures describe the images with feedback, not all images. The share of images with feedback stands beside
them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import scipy
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from pneumoscope.core.records import Decision, Label
from pneumoscope.evaluation.intervals import proportion_estimate
from pneumoscope_clinic.monitoring.records import Agreement
from pneumoscope_clinic.monitoring.sequential import PART, counted_until, part_of
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Feedback, Result, WatchWindow

FEEDBACK = "feedback"

BLOCK = 50
"""Images with feedback in one test: an agreement of 0.65 where 0.85 is wanted is found within one block with
a probability of 0.81 at the level 0.01 (exact binomial)."""

_PNEUMONIA = frozenset({Label.BACTERIAL, Label.VIRAL, Label.PNEUMONIA})


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One examined image; ``diagnosis`` and ``agrees`` are the reader's last word, None without one."""

    at: datetime
    decision: str
    diagnosis: str | None = None
    agrees: bool | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """One block of :data:`BLOCK` images with feedback: how many readers agreed with, and what that means.

    ``p`` is the chance of so little agreement, or less, where the true one is the least that is wanted.
    """

    until: datetime
    n: int
    agreed: int
    p: float
    alarming: bool


def reviewed_films(session: Session, since: datetime) -> list[Reviewed]:
    """Images examined since a time, each with the last feedback about it."""
    last = select(func.max(Feedback.id).label("id")).group_by(Feedback.film_id).subquery()
    statement = (
        select(Result.created_at, Result.decision, Feedback.diagnosis, Feedback.agrees)
        .outerjoin(Feedback, (Feedback.film_id == Result.film_id) & Feedback.id.in_(select(last.c.id)))
        .where(Result.created_at >= since)
        .order_by(Result.created_at)
    )
    return [Reviewed(*row) for row in session.execute(statement)]


def agreement(films: Sequence[Reviewed], start: date | None = None) -> Agreement:
    """The figures of some images; an image without an answer counts as abstained and in nothing else."""
    reviewed = [film for film in films if film.diagnosis is not None]
    answered = [film for film in reviewed if film.decision != Decision.ABSTAIN]
    ill = [film for film in answered if film.diagnosis in _PNEUMONIA]
    well = [film for film in answered if film.diagnosis not in _PNEUMONIA]
    return Agreement(
        start=start,
        films=len(films),
        reviewed=len(reviewed),
        abstained=len(reviewed) - len(answered),
        agreement=proportion_estimate(sum(bool(film.agrees) for film in answered), len(answered)),
        sensitivity=proportion_estimate(sum(f.decision == Decision.POSITIVE for f in ill), len(ill)),
        specificity=proportion_estimate(sum(f.decision == Decision.NEGATIVE for f in well), len(well)),
    )


def by_week(films: Iterable[Reviewed]) -> tuple[Agreement, ...]:
    """One row a week (Monday to Sunday, UTC) that has images, the oldest first."""
    weeks: dict[date, list[Reviewed]] = defaultdict(list)
    for film in films:
        day = film.at.date()
        weeks[day - timedelta(days=day.weekday())].append(film)
    return tuple(agreement(weeks[start], start) for start in sorted(weeks))


def advance_agreement(store: Store, bundle_id: str) -> list[Block]:
    """Count all new feedback, the first about each image; returns the blocks that it completes, oldest first.

    A block is tested once, by the exact binomial test against ``monitoring.min_agreement`` at
    ``monitoring.false_alarm_rate``: the upper Clopper-Pearson limit at twice that rate lies below it.
    """
    blocks = []
    while _new_feedback(store, bundle_id):
        with store.write() as session:
            block = _advance_block(store, session, bundle_id)
        if block is not None:
            blocks.append(block)
    return blocks


def _new_feedback(store: Store, bundle_id: str) -> bool:
    with store.read() as session:
        return session.execute(_feedback_after(session, bundle_id).limit(1)).first() is not None


def _feedback_after(session: Session, bundle_id: str) -> Select[datetime, bool]:
    """Time and agreement of the first feedback about each answered image, as far as it is not counted yet."""
    after = counted_until(session, FEEDBACK, bundle_id)
    first = select(func.min(Feedback.id)).group_by(Feedback.film_id)
    statement = (
        select(Feedback.created_at, Feedback.agrees)
        .join(Result, Result.film_id == Feedback.film_id)
        .where(Result.bundle_id == bundle_id, Result.decision != Decision.ABSTAIN, Feedback.id.in_(first))
        .order_by(Feedback.created_at, Feedback.id)
    )
    return statement if after is None else statement.where(Feedback.created_at > after)


def _advance_block(store: Store, session: Session, bundle_id: str) -> Block | None:
    settings = store.settings.monitoring
    part = part_of(session, FEEDBACK, bundle_id)
    n, agreed = (0, 0) if part is None else (part.n, part.numbers["agreed"])
    rows = session.execute(_feedback_after(session, bundle_id).limit(BLOCK - n)).all()
    if not rows:
        return None
    until = rows[-1][0]
    n, agreed = n + len(rows), agreed + sum(agrees for _, agrees in rows)
    if part is not None:
        session.delete(part)
        session.flush()
    kind = FEEDBACK if n == BLOCK else FEEDBACK + PART
    window = WatchWindow(kind=kind, bundle_id=bundle_id, baseline=False, n=n, until=until)
    window.numbers, window.tests = {"agreed": agreed}, {}
    session.add(window)
    if n < BLOCK:
        return None
    p = float(scipy.stats.binom.cdf(agreed, BLOCK, settings.min_agreement))
    window.tests = {"p": p, "level": settings.false_alarm_rate, "limit": settings.min_agreement}
    return Block(until, BLOCK, agreed, p, p <= settings.false_alarm_rate)
