"""Monitoring loop: checks drift, agreement, queue and failures, opens and resolves alarms.

Several processes may run a :class:`Watcher`; one of them does each check (a periodic job).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from threading import Event

from sqlalchemy import select

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope_clinic.monitoring.agreement import Block, advance_agreement
from pneumoscope_clinic.monitoring.alarms import (
    AlarmCause,
    alarm_rows,
    notify,
    open_alarm,
    resolve_alarm,
)
from pneumoscope_clinic.monitoring.dashboard import bundle_document, waiting_minutes
from pneumoscope_clinic.monitoring.drift import SHARE, bundle_reference
from pneumoscope_clinic.monitoring.records import AlarmRow, DriftRow
from pneumoscope_clinic.monitoring.sequential import Look, advance, baseline_restarted_at
from pneumoscope_clinic.store.bundles import activations, active_bundle
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.queue import take_periodic_job
from pneumoscope_clinic.store.retention import Deleted, apply_retention
from pneumoscope_clinic.store.tables import Activation, Job, now

QUEUE_MINUTES = 15.0
"""An image that has been due for so long means that no worker examines."""

FAILURES_HOURS = 24.0
"""Jobs that failed through our fault, or results that reached nobody, raise an alarm for so long."""

DRIFT = "drift:"
"""First part of the kind of an alarm about drift; the quantity follows."""

_RETENTION = timedelta(days=1)
_POLL_S = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Checked:
    """What a pass found: looks at images, blocks of feedback, alarms opened and resolved, messages unsent."""

    looks: tuple[Look, ...]
    blocks: tuple[Block, ...]
    opened: tuple[str, ...]
    resolved: tuple[str, ...]
    unsent: int


class Watcher:
    """Repeats :func:`check` every ``monitoring.check_minutes``, and the retention policy once a day.

    Args:
        store: of the clinic.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def run(self, stop: Event) -> None:
        """Watch until ``stop`` is set. A pass that fails is logged; the next one tries again."""
        period = timedelta(minutes=self._store.settings.monitoring.check_minutes)
        while not stop.is_set():
            self._perform("monitor", period, check)
            self._perform("retention", _RETENTION, retain)
            stop.wait(_POLL_S)

    def _perform(self, name: str, period: timedelta, work: Callable[[Store], object]) -> None:
        try:
            if take_periodic_job(self._store, name, period):
                work(self._store)
        except PneumoscopeError as error:
            _log.error("%s failed: %s", name, error)
        except Exception:  # the watch must outlive one bad pass; the log has the reason
            _log.exception("%s failed", name)


def check(store: Store) -> Checked:
    """One pass: close windows and blocks, open and resolve alarms, tell those who asked.

    Raises:
        BundleError: there is no bundle, and that of the settings cannot be opened.
        ConfigError: the webhook's token cannot be read.
    """
    changes = _Changes(store)
    looks, blocks = _count_new(store, changes)
    changes.settle(_queue_finding(store), "queue")
    changes.settle(_failure_finding(store), "failures")
    return Checked(tuple(looks), tuple(blocks), tuple(changes.opened), tuple(changes.resolved), notify(store))


def retain(store: Store, *, dry_run: bool = False) -> Deleted:
    """Apply the retention policy; images and feedback that no check has counted are counted first."""
    if not dry_run and activations(store, 1):
        _count_new(store, _Changes(store))
    return apply_retention(store, dry_run=dry_run)


def _count_new(store: Store, changes: _Changes) -> tuple[list[Look], list[Block]]:
    """Give all new images and feedback to the sequential tests; open and resolve the alarms that follow."""
    bundle = active_bundle(store)
    looks = advance(store, bundle.bundle_id, bundle_reference(bundle_document(bundle.location)))
    blocks = advance_agreement(store, bundle.bundle_id)
    changes.follow_bundle(bundle)
    for look in looks:
        changes.follow_drift(look)
    for block in blocks:
        changes.settle(_agreement_finding(block, store.settings.monitoring.min_agreement), "agreement")
    return looks, blocks


class _Changes:
    """Opens and resolves alarms, and remembers which."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.opened: list[str] = []
        self.resolved: list[str] = []

    def settle(self, finding: AlarmCause | None, kind: str) -> None:
        """Open what was found; resolve the kind of which nothing was found."""
        if finding is not None:
            if open_alarm(self._store, finding):
                self.opened.append(kind)
        elif resolve_alarm(self._store, kind):
            self.resolved.append(kind)

    def follow_drift(self, look: Look) -> None:
        """Open alarms of what drifted; a complete window resolves those of what did not."""
        found = {_drift_kind(row): _drift_finding(row, look) for row in look.rows if row.drifted}
        for kind, finding in found.items():
            self.settle(finding, kind)
        if look.complete:
            for alarm in self._open_drift_alarms():
                if alarm.kind not in found:
                    self.settle(None, alarm.kind)

    def follow_bundle(self, bundle: Activation) -> None:
        """Resolve alarms about images of an earlier bundle, or against an earlier baseline."""
        restarted = baseline_restarted_at(self._store, bundle.bundle_id)
        start = bundle.at if restarted is None else max(bundle.at, restarted)
        for alarm in self._open_drift_alarms():
            if alarm.created_at < start:
                self.settle(None, alarm.kind)

    def _open_drift_alarms(self) -> list[AlarmRow]:
        with self._store.read() as session:
            return [alarm for alarm in alarm_rows(session) if alarm.kind.startswith(DRIFT)]


def _drift_kind(row: DriftRow) -> str:
    return f"{DRIFT}{row.quantity}"


def _drift_finding(row: DriftRow, look: Look) -> AlarmCause:
    of = "the bundle's validation images" if row.reference == "bundle" else "the baseline"
    if row.reference_value is None or row.present_value is None:
        figures = "another mix than in"
    else:
        present, before = (_figure(row, value) for value in (row.present_value, row.reference_value))
        figures = f"{present} in the last {row.n} images, {before} in"
    message = f"{row.title}: {figures} {of} ({row.test}, p = {row.adjusted:.2g} after correction)"
    return AlarmCause(_drift_kind(row), message, row.adjusted, look.level)


def _figure(row: DriftRow, value: float) -> str:
    return f"{100 * value:.1f} %" if row.kind == SHARE else f"{value:.4g} on average"


def _agreement_finding(block: Block, limit: float) -> AlarmCause | None:
    if not block.alarming:
        return None
    share = block.agreed / block.n
    message = (
        f"Readers agreed with {block.agreed} of {block.n} answers; at least {100 * limit:.0f} % is wanted "
        f"(exact binomial, p = {block.p:.2g})"
    )
    return AlarmCause("agreement", message, share, limit)


def _queue_finding(store: Store) -> AlarmCause | None:
    """Images that are due and not done: no worker runs, or too few, or one died at work."""
    with store.read() as session:
        minutes = waiting_minutes(session).get("examine", 0.0)
    if minutes < QUEUE_MINUTES:
        return None
    message = f"The oldest image has waited for {minutes:.0f} minutes; are the workers running?"
    return AlarmCause("queue", message, minutes, QUEUE_MINUTES)


def _failure_finding(store: Store) -> AlarmCause | None:
    """Results that reached nobody and images that failed through no fault of theirs."""
    since = now() - timedelta(hours=FAILURES_HOURS)
    with store.read() as session:
        rows = session.execute(
            select(Job.kind, Job.problem).where(Job.state == "failed", Job.finished_at >= since)
        ).all()
    ours = [kind for kind, problem in rows if (problem or {}).get("fault") != "input"]
    if not ours:
        return None
    kinds = ", ".join(f"{ours.count(kind)} x {kind}" for kind in sorted(set(ours)))
    return AlarmCause(
        "failures", f"Work was given up in the last {FAILURES_HOURS:.0f} hours: {kinds}", len(ours), 0
    )
