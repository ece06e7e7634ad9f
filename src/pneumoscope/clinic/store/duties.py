"""Duties: what one of all processes does from time to time, whichever comes first.

In: a name and a period. Out: whether this process is the one. The database decides, so it holds for all
machines on it; a process that dies in the middle is followed by another one period later.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from sqlalchemy import CursorResult, update
from sqlalchemy.exc import IntegrityError

from pneumoscope.clinic.store.database import Store
from pneumoscope.clinic.store.tables import Duty, now

__all__ = ["take_duty"]


def take_duty(store: Store, name: str, period: timedelta) -> bool:
    """Take a duty that is due; true for one process, and then for none until ``period`` has passed.

    What is said to be due later than two periods from now was said by a clock that was wrong, and is due.
    """
    present = now()
    with store.read() as session:  # what is not due costs no write lock
        row = session.get(Duty, name)
    if row is None:
        try:
            with store.write() as session:
                session.add(Duty(name=name, due_at=present + period))
        except IntegrityError:  # another process was faster
            return False
        return True
    if present < row.due_at <= present + 2 * period:  # two, since clocks of machines differ a little
        return False
    with store.write() as session:
        statement = update(Duty).where(Duty.name == name, Duty.due_at == row.due_at)
        changed = cast("CursorResult[Any]", session.execute(statement.values(due_at=present + period)))
        return changed.rowcount == 1
