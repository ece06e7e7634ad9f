"""Windows of films: what is compared with what, and when, so that false alarms stay rare.

Films under one bundle, in the order of their results and one a patient, are cut into windows of
``monitoring.window`` films that do not overlap. The first two are the *baseline*. Every later one is looked
at after each of its first three quarters, with a sixth of the false-alarm rate each, and when it is complete,
with a half (a Bonferroni split over the looks; each look corrects for its own tests by Holm). So the chance
of any false alarm in one window is at most the false-alarm rate, and the windows between false alarms are on
average at least its inverse, however often one checks. Windows that share a baseline are not independent,
which neither bound needs.

In: the store. Out: rows of ``watch_windows``, one a complete window, and :class:`Look` records.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pneumoscope_clinic.monitoring.drift import MIN_FILMS, compare
from pneumoscope_clinic.monitoring.quantities import Numbers, pooled
from pneumoscope_clinic.monitoring.records import DriftRow
from pneumoscope_clinic.monitoring.reference import BundleReference
from pneumoscope_clinic.monitoring.under_way import FILMS, FilmsUnderWay, films_under_way, forget_part
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import WatchWindow, now

BASELINE_WINDOWS = 2
"""Twice as many films as in a window: a test of 200 against 400 finds what one of 133 against many would."""

_QUARTERS = 4
_SHARE_OF_LAST_LOOK = 0.5


@dataclass(frozen=True, slots=True)
class Look:
    """One look at films.

    Attributes:
        complete: the window is; otherwise it is a look at its first quarters.
        until: time of the last film.
        n: films.
        level: chance that any row drifted though nothing has changed.
        rows: what was compared.
    """

    complete: bool
    until: datetime
    n: int
    level: float
    rows: tuple[DriftRow, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where monitoring stands: films that the baseline and the window under way still lack, the last look."""

    films_until_baseline: int
    films_until_window: int
    last: Look | None


def advance(store: Store, bundle_id: str, bundle: BundleReference) -> list[Look]:
    """Close every window that is complete; returns the new looks, the oldest first, the interim one last.

    An interim look repeats itself until its quarter is over: the same films give the same figures.
    """
    looks = []
    while look := _close_window(store, bundle_id, bundle):
        looks.append(look)
    with store.read() as session:
        done = _rows(session, bundle_id)
        films = films_under_way(session, bundle_id, store.settings.monitoring.window)
    if interim := _interim(store, done, films, bundle):
        looks.append(interim)
    return looks


def progress(store: Store, bundle_id: str) -> Progress:
    """What is missing, and the last complete window."""
    window = store.settings.monitoring.window
    with store.read() as session:
        done = _rows(session, bundle_id)
        films = films_under_way(session, bundle_id, window).n
    missing = max(0, BASELINE_WINDOWS * window - sum(row.n for row in done if row.baseline))
    last = _look(done[-1]) if done and done[-1].n else None
    return Progress(max(0, missing - films) if missing else 0, max(0, window - films), last)


def baseline_restarted_at(store: Store, bundle_id: str) -> datetime | None:
    """When :func:`restart_baseline` was last asked for; None: never."""
    with store.read() as session:
        own = (WatchWindow.kind == FILMS, WatchWindow.bundle_id == bundle_id, WatchWindow.n == 0)
        return session.scalar(select(WatchWindow.until).where(*own).order_by(WatchWindow.id.desc()).limit(1))


def restart_baseline(store: Store, bundle_id: str, actor: str) -> None:
    """Take the films from now on as the new baseline: after a change that is known and wanted."""
    with store.write() as session:
        row = WatchWindow(
            kind=FILMS, bundle_id=bundle_id, baseline=True, n=0, until=now(), numbers={}, tests={}
        )
        forget_part(session, FILMS, bundle_id)
        session.add(row)
        audit_log.append(store, session, actor, "monitor.baseline_restarted", bundle_id)


def _close_window(store: Store, bundle_id: str, bundle: BundleReference) -> Look | None:
    """Store the next window if its films are there."""
    settings = store.settings.monitoring
    with store.write() as session:
        done = _rows(session, bundle_id)
        films = films_under_way(session, bundle_id, settings.window)
        if films.n < settings.window:
            return None
        numbers = films.numbers(films.n)
        baseline = sum(row.baseline and row.n > 0 for row in done) < BASELINE_WINDOWS
        level = settings.false_alarm_rate * (1 if baseline else _SHARE_OF_LAST_LOOK)
        rows = compare(numbers, None if baseline else _baseline(done), bundle, level)
        window = WatchWindow(
            kind=FILMS,
            bundle_id=bundle_id,
            baseline=baseline,
            n=films.n,
            until=films.until(films.n),
            numbers=numbers,
            tests={"level": level, "rows": [asdict(row) for row in rows]},
        )
        forget_part(session, FILMS, bundle_id)
        session.add(window)
        return Look(True, window.until, window.n, level, rows)


def _interim(
    store: Store, done: Sequence[WatchWindow], films: FilmsUnderWay, bundle: BundleReference
) -> Look | None:
    """The look at the last complete quarter of the window under way; none while the baseline is built.

    None either where films beyond that quarter are deleted: it was looked at while they were there.
    """
    settings = store.settings.monitoring
    quarter = settings.window // _QUARTERS
    count = films.n // quarter * quarter
    baseline = _baseline(done)
    if baseline is None or not max(MIN_FILMS, films.taken) <= count < settings.window:
        return None
    level = settings.false_alarm_rate * (1 - _SHARE_OF_LAST_LOOK) / (_QUARTERS - 1)
    rows = compare(films.numbers(count), baseline, bundle, level)
    return Look(False, films.until(count), count, level, rows)


def _baseline(done: Sequence[WatchWindow]) -> Numbers | None:
    parts = [row.numbers for row in done if row.baseline and row.n > 0]
    return pooled(parts) if len(parts) == BASELINE_WINDOWS else None


def _look(row: WatchWindow) -> Look:
    rows = tuple(DriftRow(**values) for values in row.tests["rows"])
    return Look(True, row.until, row.n, row.tests["level"], rows)


def _rows(session: Session, bundle_id: str) -> list[WatchWindow]:
    """The baseline's windows and the last one, or more, since the baseline was last started; oldest first."""
    own = (WatchWindow.kind == FILMS, WatchWindow.bundle_id == bundle_id)
    start = session.scalar(select(func.max(WatchWindow.id)).where(*own, WatchWindow.n == 0)) or 0
    rows = select(WatchWindow).where(*own, WatchWindow.id >= start)
    first = session.scalars(rows.where(WatchWindow.baseline).order_by(WatchWindow.id)).all()
    last = session.scalar(rows.order_by(WatchWindow.id.desc()).limit(1))
    return [*first, *([last] if last is not None and not last.baseline else [])]
