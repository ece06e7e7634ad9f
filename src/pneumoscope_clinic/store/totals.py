"""Totals that never fall: what was received, examined and said, deleted films included.

In: films about to be deleted. Out: totals by label. A total is counted over the rows that are there, and what
was deleted is added; both are read by one statement, so that no deletion comes between.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, cast, func, select, union_all
from sqlalchemy.orm import InstrumentedAttribute, Session

from pneumoscope_clinic.store.tables import Feedback, Film, Result, Total


@dataclass(frozen=True, slots=True)
class Counted:
    """A total: its name, the label of a row, what a row adds (a whole number), and the film it is of."""

    name: str
    label: InstrumentedAttribute[str]
    amount: ColumnElement[int]
    film_id: InstrumentedAttribute[str]


_NANOSECONDS = cast(func.round(Result.seconds * 1_000_000_000), BigInteger)  # whole: sums in any order agree

FILMS = Counted("films", Film.source, func.count(), Film.id)
RESULTS = Counted("results", Result.decision, func.count(), Result.film_id)
FEEDBACK = Counted("feedback", Feedback.diagnosis, func.count(), Feedback.film_id)
EXAMINING = Counted("examining_ns", Result.decision, func.sum(_NANOSECONDS), Result.film_id)


def totals(session: Session, counted: Counted) -> dict[str, int]:
    """The total of each label, in order."""
    gone = select(Total.label.label("label"), Total.amount.label("amount")).where(Total.name == counted.name)
    every = union_all(_present(counted), gone).subquery()
    rows = select(every.c.label, func.sum(every.c.amount)).group_by(every.c.label).order_by(every.c.label)
    return {label: int(amount) for label, amount in session.execute(rows)}


def keep_totals(session: Session, film_ids: Collection[str]) -> None:
    """Add what goes with films to what is gone, within the transaction that deletes them."""
    for counted in (FILMS, RESULTS, FEEDBACK, EXAMINING):
        for label, amount in session.execute(_present(counted).where(counted.film_id.in_(film_ids))).all():
            row = session.get(Total, (counted.name, label))
            if row is None:
                session.add(Total(name=counted.name, label=label, amount=int(amount)))
            else:
                row.amount += int(amount)


def _present(counted: Counted) -> Any:
    columns = counted.label.label("label"), counted.amount.label("amount")
    return select(*columns).select_from(counted.film_id.class_).group_by(counted.label)
