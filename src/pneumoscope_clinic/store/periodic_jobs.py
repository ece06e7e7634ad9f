"""Periodic jobs: each runs in one process per period, over all machines that share the database."""

from __future__ import annotations

from datetime import datetime, timedelta

from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import PeriodicJob, now


def take_periodic_job(store: Store, name: str, period: timedelta) -> bool:
    """Whether this process is to run a job now; then no process is until ``period`` has passed.

    A process that dies in the middle is followed by another one period later. A time more than two periods
    ahead was written by a wrong clock, and counts as due.
    """
    present = now()
    with store.read() as session:  # what is not due costs no write lock
        if not _is_due(session.get(PeriodicJob, name), present, period):
            return False
    with store.write() as session:
        if not _is_due(session.get(PeriodicJob, name), present, period):  # another process was faster
            return False
        session.merge(PeriodicJob(name=name, due_at=present + period))
    return True


def _is_due(row: PeriodicJob | None, present: datetime, period: timedelta) -> bool:
    # Two periods, since clocks of machines differ a little.
    return row is None or not present < row.due_at <= present + 2 * period
