"""Do readers agree? Answers against the readers' diagnoses, with intervals, over time.

Readers choose which films they comment on, and a wrong answer provokes more comments than a right one: these
figures describe the films with feedback, not all films. The share of films with feedback stands beside them.

In: the store. Out: :class:`Agreement` records, and blocks of feedback that do not overlap, each tested once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from scipy.stats import binom
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pneumoscope.clinic.monitoring.records import Agreement
from pneumoscope.clinic.store.database import Store
from pneumoscope.clinic.store.tables import Feedback, Result, WatchWindow
from pneumoscope.core.records import Decision, Label
from pneumoscope.evaluation.intervals import proportion_estimate

__all__ = ["BLOCK", "Block", "Reviewed", "advance_agreement", "agreement", "by_week", "reviewed_films"]

BLOCK = 50
"""Films with feedback in one test: an agreement of 0.65 where 0.85 is wanted is found within one block with a
probability of 0.81 at the level 0.01 (exact binomial)."""

FEEDBACK = "feedback"
_PNEUMONIA = frozenset({Label.BACTERIAL, Label.VIRAL, Label.PNEUMONIA})


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One examined film; ``diagnosis`` and ``agrees`` are the reader's last word, None without one."""

    at: datetime
    decision: str
    diagnosis: str | None = None
    agrees: bool | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """One block of :data:`BLOCK` films with feedback: how many readers agreed with, and what that means.

    ``p`` is the chance of so little agreement, or less, where the true one is the least that is wanted.
    """

    until: datetime
    n: int
    agreed: int
    p: float
    alarming: bool


def reviewed_films(session: Session, since: datetime) -> list[Reviewed]:
    """Films examined since a time, each with the last feedback about it."""
    last = select(func.max(Feedback.id).label("id")).group_by(Feedback.film_id).subquery()
    statement = (
        select(Result.created_at, Result.decision, Feedback.diagnosis, Feedback.agrees)
        .outerjoin(Feedback, (Feedback.film_id == Result.film_id) & Feedback.id.in_(select(last.c.id)))
        .where(Result.created_at >= since)
        .order_by(Result.created_at)
    )
    return [Reviewed(*row) for row in session.execute(statement)]


def agreement(films: Sequence[Reviewed], start: date | None = None) -> Agreement:
    """The figures of some films; a film without an answer counts as abstained and in nothing else."""
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
    """One row a week (Monday to Sunday, UTC) that has films, the oldest first."""
    weeks: dict[date, list[Reviewed]] = defaultdict(list)
    for film in films:
        day = film.at.date()
        weeks[day - timedelta(days=day.weekday())].append(film)
    return tuple(agreement(weeks[start], start) for start in sorted(weeks))


def advance_agreement(store: Store, bundle_id: str) -> list[Block]:
    """Close every block of feedback that is complete; returns the new ones, the oldest first.

    A block is tested once, by the exact binomial test against ``monitoring.min_agreement`` at
    ``monitoring.false_alarm_rate``: the upper Clopper-Pearson limit at twice that rate lies below it.
    """
    blocks = []
    while block := _close_block(store, bundle_id):
        blocks.append(block)
    return blocks


def _close_block(store: Store, bundle_id: str) -> Block | None:
    settings = store.settings.monitoring
    with store.write() as session:
        rows = _next_feedback(session, bundle_id)
        if len(rows) < BLOCK:
            return None
        agreed = sum(agrees for _, agrees in rows)
        p = float(binom.cdf(agreed, BLOCK, settings.min_agreement))
        block = Block(rows[-1][0], BLOCK, agreed, p, p <= settings.false_alarm_rate)
        session.add(
            WatchWindow(
                kind=FEEDBACK,
                bundle_id=bundle_id,
                baseline=False,
                n=BLOCK,
                until=block.until,
                numbers={"agreed": agreed},
                tests={"p": p, "level": settings.false_alarm_rate, "limit": settings.min_agreement},
            )
        )
        return block


def _next_feedback(session: Session, bundle_id: str) -> list[tuple[datetime, bool]]:
    """Time and agreement of the next films with feedback; a film counts with the first word about it."""
    own = (WatchWindow.kind == FEEDBACK, WatchWindow.bundle_id == bundle_id)
    after = session.scalar(select(func.max(WatchWindow.until)).where(*own))
    first = select(func.min(Feedback.id)).group_by(Feedback.film_id)
    statement = (
        select(Feedback.created_at, Feedback.agrees)
        .join(Result, Result.film_id == Feedback.film_id)
        .where(
            Result.bundle_id == bundle_id, Result.decision != Decision.ABSTAIN.value, Feedback.id.in_(first)
        )
        .order_by(Feedback.created_at, Feedback.id)
        .limit(BLOCK)
    )
    if after is not None:
        statement = statement.where(Feedback.created_at > after)
    return [(at, agrees) for at, agrees in session.execute(statement)]
