"""Sequential test for drift, with a controlled rate of false alarms.

A group-sequential two-sample test (Jennison & Turnbull, Group Sequential Methods, 2000). Images under one
bundle, one a patient and in the order of their results, fill windows of ``monitoring.window`` images. The
first two windows are the *baseline*. Every later one is compared with it at four looks, when it is filled to
a quarter, a half, three quarters and whole. The false-alarm rate is spent over the looks: a sixth at each of
the first three, a half at the last (Bonferroni), and each look corrects for its own tests (Holm). So the
chance of any false alarm in a window is at most the rate, and the mean number of windows between false alarms
is at least its inverse. Neither bound needs windows to be independent, and neither depends on how often one
checks.

Each image is counted once, by the first check after its result. Until the next look, only the numbers of its
quantities are kept (each by itself and sorted), and a keyed hash of the patient; so nothing is lost when the
retention policy deletes images before a window is full.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pneumoscope_clinic.monitoring.drift import (
    MIN_FILMS,
    BundleReference,
    FilmRow,
    Numbers,
    compare,
    numbers_of,
    pooled,
)
from pneumoscope_clinic.monitoring.records import DriftRow
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Film, Result, Study, WatchWindow, now

FILMS = "films"
PART = "-part"
"""Ends the kind of the row that holds a window which is not full."""

BASELINE_WINDOWS = 2
"""Twice as many images as in a window: a test of 200 against 400 finds what one of 133 against many would."""

_SHARE_OF_LAST_LOOK = 0.5
_PATIENTS = "patients"
_ROWS = 500  # read at a time


@dataclass(frozen=True, slots=True)
class Look:
    """One look at a window.

    Attributes:
        complete: the window is full.
        until: time of the last image.
        n: images.
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
    """Where monitoring stands: images that the baseline and the present window still lack, the last look."""

    films_until_baseline: int
    films_until_window: int
    last: Look | None


def schedule(window: int, rate: float) -> tuple[tuple[int, float], ...]:
    """The looks at a window: how many images it holds then, and the level; the levels add up to ``rate``."""
    quarter, early = window // 4, rate * (1 - _SHARE_OF_LAST_LOOK) / 3
    return (quarter, early), (2 * quarter, early), (3 * quarter, early), (window, rate * _SHARE_OF_LAST_LOOK)


def advance(store: Store, bundle_id: str, bundle: BundleReference) -> list[Look]:
    """Count all new images; returns the looks that they made due, the oldest first."""
    looks = []
    while _has_new(store, bundle_id):
        with store.write() as session:
            look = _advance_to_next_look(store, session, bundle_id, bundle)
        if look is not None:
            looks.append(look)
    return looks


def progress(store: Store, bundle_id: str) -> Progress:
    """What is missing, and the last complete window."""
    window = store.settings.monitoring.window
    with store.read() as session:
        done = _windows(session, bundle_id)
        part = part_of(session, FILMS, bundle_id)
        films, patients = (0, set()) if part is None else (part.n, set(part.numbers[_PATIENTS]))
        films += len(_next_films(session, bundle_id, patients, max(1, window - films))[0])  # not counted yet
    missing = max(0, BASELINE_WINDOWS * window - sum(row.n for row in done if row.baseline))
    last = None
    if done and done[-1].n:
        rows = tuple(DriftRow(**values) for values in done[-1].tests["rows"])
        last = Look(True, done[-1].until, done[-1].n, done[-1].tests["level"], rows)
    return Progress(max(0, missing - films), max(0, window - films), last)


def baseline_restarted_at(store: Store, bundle_id: str) -> datetime | None:
    """When :func:`restart_baseline` was last asked for; None: never."""
    with store.read() as session:
        own = (WatchWindow.kind == FILMS, WatchWindow.bundle_id == bundle_id, WatchWindow.n == 0)
        return session.scalar(select(WatchWindow.until).where(*own).order_by(WatchWindow.id.desc()).limit(1))


def restart_baseline(store: Store, bundle_id: str, actor: str) -> None:
    """Take the images from now on as the new baseline: after a change that is known and wanted."""
    with store.write() as session:
        _forget_part(session, bundle_id)
        row = WatchWindow(kind=FILMS, bundle_id=bundle_id, baseline=True, n=0, until=now())
        row.numbers, row.tests = {}, {}
        session.add(row)
        audit_log.append(store, session, actor, "monitor.baseline_restarted", bundle_id)


def part_of(session: Session, kind: str, bundle_id: str) -> WatchWindow | None:
    """The row of the window or block that is not full yet."""
    own = WatchWindow.kind == kind + PART, WatchWindow.bundle_id == bundle_id
    return session.scalar(select(WatchWindow).where(*own))


def counted_until(session: Session, kind: str, bundle_id: str) -> datetime | None:
    """Time of the last row that was counted."""
    own = WatchWindow.kind.in_((kind, kind + PART)), WatchWindow.bundle_id == bundle_id
    return session.scalar(select(func.max(WatchWindow.until)).where(*own))


def _has_new(store: Store, bundle_id: str) -> bool:
    with store.read() as session:
        after = counted_until(session, FILMS, bundle_id)
        new = select(Result.film_id).where(Result.bundle_id == bundle_id).limit(1)
        return session.scalar(new if after is None else new.where(Result.created_at > after)) is not None


def _advance_to_next_look(
    store: Store, session: Session, bundle_id: str, bundle: BundleReference
) -> Look | None:
    """Count images up to the next look, or all there are, which may make none due."""
    settings = store.settings.monitoring
    part = part_of(session, FILMS, bundle_id)
    before: dict[str, Any] = {_PATIENTS: []} if part is None else part.numbers
    n = 0 if part is None else part.n
    looks = schedule(settings.window, settings.false_alarm_rate)
    due, level = next((look for look in looks if look[0] > n), (n + 1, 0.0))  # none: the setting was lowered
    films, until = _next_films(session, bundle_id, set(before[_PATIENTS]), due - n)
    if until is None:
        return None
    n += len(films)
    is_full = n >= settings.window
    done = _windows(session, bundle_id)
    _forget_part(session, bundle_id)
    row = WatchWindow(
        kind=FILMS if is_full else FILMS + PART, bundle_id=bundle_id, baseline=False, n=n, until=until
    )
    row.numbers = pooled([*([] if part is None else [before]), numbers_of(films)])
    row.tests = {}
    session.add(row)
    if is_full:
        return _close_window(row, done, bundle, settings.false_alarm_rate)
    patients = sorted([*before[_PATIENTS], *(film.patient for film in films)])
    numbers, row.numbers = row.numbers, {**row.numbers, _PATIENTS: patients}
    baseline = _baseline(done)
    if n != due or n < MIN_FILMS or baseline is None:
        return None
    return Look(False, until, n, level, compare(numbers, baseline, bundle, level))


def _close_window(
    row: WatchWindow, done: Sequence[WatchWindow], bundle: BundleReference, rate: float
) -> Look:
    """Test a full window; the first ones become the baseline, and are compared with the bundle alone."""
    row.baseline = sum(one.baseline and one.n > 0 for one in done) < BASELINE_WINDOWS
    level = rate if row.baseline else rate * _SHARE_OF_LAST_LOOK  # windows of a baseline have one look
    rows = compare(row.numbers, None if row.baseline else _baseline(done), bundle, level)
    row.tests = {"level": level, "rows": [asdict(one) for one in rows]}
    return Look(True, row.until, row.n, level, rows)


def _next_films(
    session: Session, bundle_id: str, patients: set[str], count: int
) -> tuple[list[FilmRow], datetime | None]:
    """At most ``count`` new images, one a patient and none of ``patients``; time of the last one read."""
    films: list[FilmRow] = []
    until = None
    with closing(_stream(session, bundle_id, counted_until(session, FILMS, bundle_id))) as stream:
        for film in stream:
            until = film.at
            if film.patient not in patients:
                patients.add(film.patient)
                films.append(film)
                if len(films) == count:
                    break
    return films, until


def _stream(session: Session, bundle_id: str, after: datetime | None) -> Generator[FilmRow, None, None]:
    columns = (
        Result.created_at, Study.patient_key, Study.id, Result.verdict, Result.decision, Result.abstained_by,
        Result.probability, Result.drift, Film.facts, Film.age_years,
    )  # fmt: skip
    statement = (
        select(*columns)
        .join(Film, Film.id == Result.film_id)
        .join(Study, Study.id == Film.study_id)
        .where(Result.bundle_id == bundle_id)
        .order_by(Result.created_at, Result.film_id)
        .execution_options(yield_per=_ROWS)
    )
    if after is not None:
        statement = statement.where(Result.created_at > after)
    with session.execute(statement) as rows:
        for at, patient, study, *rest in rows:
            yield FilmRow(at, patient or study, *rest)


def _forget_part(session: Session, bundle_id: str) -> None:
    part = part_of(session, FILMS, bundle_id)
    if part is not None:
        session.delete(part)
        session.flush()


def _baseline(done: Sequence[WatchWindow]) -> Numbers | None:
    parts = [row.numbers for row in done if row.baseline and row.n > 0]
    return pooled(parts) if len(parts) == BASELINE_WINDOWS else None


def _windows(session: Session, bundle_id: str) -> list[WatchWindow]:
    """The baseline's windows and the last one since the baseline was last started; the oldest first."""
    own = (WatchWindow.kind == FILMS, WatchWindow.bundle_id == bundle_id)
    start = session.scalar(select(func.max(WatchWindow.id)).where(*own, WatchWindow.n == 0)) or 0
    rows = select(WatchWindow).where(*own, WatchWindow.id >= start)
    first = session.scalars(rows.where(WatchWindow.baseline).order_by(WatchWindow.id)).all()
    last = session.scalar(rows.order_by(WatchWindow.id.desc()).limit(1))
    return [*first, *([last] if last is not None and not last.baseline else [])]
