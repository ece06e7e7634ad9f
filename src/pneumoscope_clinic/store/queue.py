"""Durable job queue in the database, with leases: at-least-once execution, exactly-once outcome.

A claim holds for a lease; when a worker dies the lease expires and the job goes to another. A job is finished
in the transaction that stores its outcome, and only by the holder of the lease. Periodic jobs run in one
process per period, over all machines that share the database.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import ColumnElement, CursorResult, and_, func, or_, select, update
from sqlalchemy.orm import Session

from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.notification import notify
from pneumoscope_clinic.store.tables import Job, PeriodicJob, new_id, now

OURS, THE_FILMS = "ours", "input"
"""Values of ``fault`` in the problem of a job."""


class LeaseLostError(Exception):
    """The job went to another worker meanwhile; what was done for it must not be stored."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed job: ``lease`` proves it; ``attempts`` counts this one; ``crashes`` ended a process."""

    job_id: int
    film_id: str
    kind: str
    target: str
    attempts: int
    lease: str
    crashes: int = 0


def add_job(session: Session, film_id: str, kind: str, target: str = "") -> Job:
    """Queue a job within the caller's transaction."""
    job = Job(film_id=film_id, kind=kind, target=target)
    session.add(job)
    return job


def finish(session: Session, claim: Claim) -> None:
    """Mark a job done within the transaction that stores its outcome.

    Raises:
        LeaseLostError: another worker has it now; the transaction must end without a change.
    """
    _settle(session, claim, state="done", finished_at=now(), lease=None, lease_until=None, problem=None)


def fail(session: Session, claim: Claim, problem: dict[str, Any]) -> None:
    """Give a job up within the caller's transaction.

    Raises:
        LeaseLostError: another worker has it now.
    """
    settled = {"finished_at": now(), "lease": None, "lease_until": None}
    _settle(session, claim, state="failed", problem=problem, **settled)


class Queue:
    """Claims of jobs.

    Args:
        store: the database; a lease lasts ``limits.lease_seconds`` of its settings.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lease = timedelta(seconds=store.settings.limits.lease_seconds)

    def claim(self, kinds: Collection[str]) -> Claim | None:
        """The oldest job of ``kinds`` that is due, or whose worker has gone silent; None if there is none."""
        with self._store.read() as session:  # an empty queue costs no write lock
            if session.scalar(_due(kinds).limit(1)) is None:
                return None
        with self._store.write() as session:
            job = session.scalar(_due(kinds).limit(1))
            if job is None:
                return None
            job.state, job.lease, job.lease_until = "running", new_id(), now() + self._lease
            job.attempts += 1
            return Claim(job.id, job.film_id, job.kind, job.target, job.attempts, job.lease, job.crashes)

    def renew(self, claim: Claim) -> None:
        """Extend the lease.

        Raises:
            LeaseLostError: too late.
        """
        with self._store.write() as session:
            _settle(session, claim, lease_until=now() + self._lease)

    def retry(self, claim: Claim, problem: dict[str, Any], pause_s: float, *, crashed: bool = False) -> None:
        """Give a job back for another attempt after ``pause_s`` seconds; ``crashed``: it ended its process.

        Raises:
            LeaseLostError: another worker has it now.
        """
        values = {"due_at": now() + timedelta(seconds=pause_s), "crashes": claim.crashes + crashed}
        released = {"state": "waiting", "lease": None, "lease_until": None}
        with self._store.write() as session:
            _settle(session, claim, problem=problem, **values, **released)

    def fail(self, claim: Claim, problem: dict[str, Any]) -> None:
        """Give a job up, in a transaction of its own; raises as :func:`fail`."""
        with self._store.write() as session:
            fail(session, claim, problem)

    def revive(self, kind: str, actor: str) -> int:
        """Queue jobs again that were given up through a fault of ours; returns how many."""
        with self._store.write() as session:
            given_up = select(Job).where(Job.kind == kind, Job.state == "failed", at_our_fault())
            jobs = session.scalars(given_up).all()
            for job in jobs:
                job.state, job.due_at, job.attempts, job.finished_at = "waiting", now(), 0, None
                job.crashes = 0
                audit_log.append(self._store, session, actor, f"film.{kind}-again", job.film_id)
        if jobs:
            notify(self._store.settings.directory, "work")
        return len(jobs)

    def has_others(self, claim: Claim) -> bool:
        """Whether other jobs of the claim's kind run or wait."""
        is_open = Job.kind == claim.kind, Job.state.in_(("waiting", "running")), Job.id != claim.job_id
        with self._store.read() as session:
            return session.scalar(select(Job.id).where(*is_open).limit(1)) is not None

    def depth(self) -> dict[tuple[str, str], int]:
        """Jobs by (kind, state)."""
        with self._store.read() as session:
            rows = session.execute(select(Job.kind, Job.state, func.count()).group_by(Job.kind, Job.state))
            return {(kind, state): count for kind, state, count in rows}

    def settled(self, film_ids: Sequence[str], kind: str) -> set[str]:
        """Which of ``film_ids`` have no job of ``kind`` open any more."""
        with self._store.read() as session:
            rows = session.scalars(
                select(Job.film_id).where(
                    Job.film_id.in_(film_ids), Job.kind == kind, Job.state.in_(("waiting", "running"))
                )
            )
            return set(film_ids) - set(rows)


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


def at_our_fault() -> ColumnElement[bool]:
    """The job's problem is a fault of ours."""
    return Job.problem["fault"].as_string() == OURS


def _due(kinds: Collection[str]) -> Any:
    present = now()
    waiting = and_(Job.state == "waiting", Job.due_at <= present)
    abandoned = and_(Job.state == "running", Job.lease_until < present)
    return select(Job).where(Job.kind.in_(kinds), or_(waiting, abandoned)).order_by(Job.due_at, Job.id)


def _settle(session: Session, claim: Claim, **values: Any) -> None:
    statement = update(Job).where(Job.id == claim.job_id, Job.lease == claim.lease, Job.state == "running")
    changed = cast("CursorResult[Any]", session.execute(statement.values(**values)))
    if changed.rowcount != 1:
        raise LeaseLostError(f"job {claim.job_id}")
