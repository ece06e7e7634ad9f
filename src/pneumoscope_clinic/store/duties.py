"""Duties: what one of all processes does from time to time, whichever comes first.

In: a name and a period. Out: whether this process is the one. The database decides, so it holds for all
machines on it; a process that dies in the middle is followed by another one period later.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Duty, now


def take_duty(store: Store, name: str, period: timedelta) -> bool:
    """Take a duty that is due; true for one process, and then for none until ``period`` has passed.

    What is said to be due later than two periods from now was said by a clock that was wrong, and is due.
    """
    present = now()
    with store.read() as session:  # what is not due costs no write lock
        if not _is_due(session.get(Duty, name), present, period):
            return False
    with store.write() as session:
        if not _is_due(session.get(Duty, name), present, period):  # another process was faster
            return False
        session.merge(Duty(name=name, due_at=present + period))
    return True


def _is_due(row: Duty | None, present: datetime, period: timedelta) -> bool:
    # Two periods, since clocks of machines differ a little.
    return row is None or not present < row.due_at <= present + 2 * period
