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

from pneumoscope.core.records import Decision, Label
from pneumoscope.evaluation.intervals import proportion_estimate
from pneumoscope_clinic.monitoring.records import Agreement
from pneumoscope_clinic.monitoring.under_way import BLOCK, FEEDBACK, feedback_under_way, forget_part
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Feedback, Result, WatchWindow

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
        reviewed = feedback_under_way(session, bundle_id)
        if reviewed.n < BLOCK:
            return None
        agreed = reviewed.agreed
        p = float(binom.cdf(agreed, BLOCK, settings.min_agreement))
        block = Block(reviewed.until, BLOCK, agreed, p, p <= settings.false_alarm_rate)
        forget_part(session, FEEDBACK, bundle_id)
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
