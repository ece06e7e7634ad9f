"""Deletion: by policy, of one study on request, and of what a crash left behind.

A row goes before its blob: what a crash leaves in between is a blob without a row, which :func:`sweep`
removes. Everything may be repeated and ends the same. Blobs are encrypted files: what a disk keeps of a
deleted one is readable with the key alone. SQLite overwrites deleted rows (``secure_delete``); PostgreSQL
does so when its autovacuum has passed and the space is used again.

Totals (images received, results, feedback) never fall: what a deletion takes away is added to table
``totals`` in the same transaction.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, cast, delete, exists, func, select, union_all, update
from sqlalchemy.orm import InstrumentedAttribute, Session

from pneumoscope.core.errors import InputError
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.backup import remove_leftovers
from pneumoscope_clinic.store.blobs import KINDS
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.queue import at_our_fault
from pneumoscope_clinic.store.tables import (
    Batch,
    Feedback,
    Film,
    Idempotency,
    Job,
    Result,
    Study,
    Total,
    now,
)

POLICY = "retention"
"""The actor in the audit log."""

ORPHAN_AGE_S = 3600.0
"""A blob without a row that is younger may belong to an image that is being received."""

_REPEATED_WITHIN = timedelta(days=30)
"""How long a request with an Idempotency-Key may be repeated."""

_FILLED_WITHIN = timedelta(days=1)
"""A batch without images that is younger may get its first one yet."""

GIVEN_UP_DAYS = 7.0

_BLOCK = 100  # studies in one transaction: nobody waits long for the write lock


@dataclass(frozen=True, slots=True)
class Deleted:
    """Counts: studies with their images, images whose pixels went, identities erased, blobs without a row."""

    studies: int = 0
    films: int = 0
    pixels: int = 0
    identities: int = 0
    orphans: int = 0


def apply_retention(store: Store, *, dry_run: bool = False) -> Deleted:
    """Delete what ``privacy`` says is over, and sweep; with ``dry_run`` only count.

    A study counts from when it was received. Open work on it is no reason to keep it longer.
    """
    studies, films = _expire_studies(store, dry_run)
    deleted = Deleted(
        studies=studies,
        films=films,
        pixels=_expire_pixels(store, dry_run),
        identities=_erase_identities(store, dry_run),
        orphans=sweep(store, dry_run=dry_run),
    )
    if not dry_run:
        _forget_leftovers(store)
        remove_leftovers(store)
    if not dry_run and any(asdict(deleted).values()):
        with store.write() as session:
            audit_log.append(store, session, POLICY, "retention.applied", **asdict(deleted))
        _forget(store)
    return deleted


def _forget_leftovers(store: Store) -> None:
    """Forget Idempotency-Keys that nobody will repeat any more, and batches without images."""
    has_films = exists().where(Film.batch_id == Batch.id)
    with store.write() as session:
        session.execute(delete(Idempotency).where(Idempotency.created_at < now() - _REPEATED_WITHIN))
        session.execute(delete(Batch).where(~has_films, Batch.created_at < now() - _FILLED_WITHIN))


def delete_study(store: Store, study_id: str, actor: str) -> Deleted:
    """Delete a study with its images, results and feedback, now.

    Raises:
        InputError: there is no such study.
    """
    with store.write() as session:
        study = session.get(Study, study_id)
        if study is None:
            raise InputError("there is no such study", where=study_id)
        film_ids = _delete(store, session, [study], actor)
    _discard(store, film_ids)
    _forget(store)
    return Deleted(studies=1, films=len(film_ids))


def sweep(store: Store, *, dry_run: bool = False) -> int:
    """Remove blobs that no row knows, temporary files of writers that died among them; returns how many."""
    latest = time.time() - ORPHAN_AGE_S
    count = 0
    for kind in KINDS:
        old = [name for name, changed in store.blobs.names(kind) if changed < latest]
        for start in range(0, len(old), _BLOCK):
            block = old[start : start + _BLOCK]
            with store.read() as session:
                known = set(session.scalars(select(Film.id).where(Film.id.in_(block), _wanted(kind))))
            for name in set(block) - known:
                count += 1
                if not dry_run:
                    store.blobs.discard(kind, name)
    return count


def _wanted(kind: str) -> ColumnElement[bool]:
    """Images that keep their blob of a kind: received ones until examined or given up, others until over."""
    if kind != "received":
        return Film.pixels_gone.is_(False)
    put_off = (Job.film_id == Film.id) & (Job.kind == "examine") & (Job.state == "failed") & at_our_fault()
    return _open_job("examine") | exists().where(put_off)


def _open_job(*kinds: str) -> ColumnElement[bool]:
    """The image has a job of one of ``kinds`` (none: of any) that is not settled."""
    found = (Job.film_id == Film.id) & Job.state.in_(("waiting", "running"))
    return exists().where(found & Job.kind.in_(kinds) if kinds else found)


def _expire_studies(store: Store, dry_run: bool) -> tuple[int, int]:
    days = store.settings.privacy.retain_days
    if days is None:
        return 0, 0
    over = Study.created_at < now() - timedelta(days=days)
    if dry_run:
        with store.read() as session:
            films = select(func.count()).select_from(Film).join(Study).where(over)
            return _count(session, Study, over), session.scalar(films) or 0
    studies = films_gone = 0
    for film_ids in _in_blocks(store, over):
        studies, films_gone = studies + film_ids[0], films_gone + film_ids[1]
    return studies, films_gone


def _in_blocks(store: Store, over: ColumnElement[bool]) -> Iterator[tuple[int, int]]:
    """Delete the studies that are over, a block a transaction; yields studies and images of each block."""
    while True:
        with store.write() as session:
            block = session.scalars(select(Study).where(over).order_by(Study.id).limit(_BLOCK)).all()
            gone = _delete(store, session, block, POLICY)
        if not block:
            return
        _discard(store, gone)
        yield len(block), len(gone)


def _delete(store: Store, session: Session, studies: Sequence[Study], actor: str) -> list[str]:
    """Delete the rows of studies within the caller's transaction; returns their images."""
    film_ids = [film.id for study in studies for film in study.films]
    keep_totals(session, film_ids)
    for study in studies:
        audit_log.append(store, session, actor, "study.deleted", study.id, films=len(study.films))
        session.delete(study)
    return film_ids


def _discard(store: Store, film_ids: Sequence[str]) -> None:
    for film_id in film_ids:
        for kind in KINDS:
            store.blobs.delete(kind, film_id)


def _expire_pixels(store: Store, dry_run: bool) -> int:
    """Delete what shows the image (its bytes, its picture, its heat maps); the answer stays."""
    days = store.settings.privacy.retain_film_days
    if days is None:
        return 0
    over = (Film.created_at < now() - timedelta(days=days)) & Film.pixels_gone.is_(False) & ~_open_job()
    if dry_run:
        with store.read() as session:
            return _count(session, Film, over)
    count = 0
    while True:
        with store.write() as session:
            film_ids = session.scalars(select(Film.id).where(over).limit(_BLOCK)).all()
            session.execute(update(Film).where(Film.id.in_(film_ids)).values(pixels_gone=True))
            for film_id in film_ids:
                audit_log.append(store, session, POLICY, "film.pixels_deleted", film_id)
        if not film_ids:
            return count
        _discard(store, film_ids)
        count += len(film_ids)


def _erase_identities(store: Store, dry_run: bool) -> int:
    """Forget identities that the policy does not keep: all, or those of images whose results are delivered.

    A delivery that was given up leaves :data:`GIVEN_UP_DAYS` to put the destination right and send again.
    """
    policy = store.settings.privacy.keep_identities
    if policy == "always":
        return 0
    over: ColumnElement[bool] = Film.identity.is_not(None)
    if policy == "until-delivered":
        latest = now() - timedelta(days=GIVEN_UP_DAYS)
        given_up = (Job.film_id == Film.id) & (Job.kind == "deliver") & (Job.state == "failed")
        over &= ~_open_job() & ~exists().where(given_up & (Job.finished_at > latest))
    if dry_run:
        with store.read() as session:
            return _count(session, Film, over)
    with store.write() as session:
        film_ids = session.scalars(select(Film.id).where(over)).all()
        for start in range(0, len(film_ids), _BLOCK):
            block = film_ids[start : start + _BLOCK]
            session.execute(update(Film).where(Film.id.in_(block)).values(identity=None))
        if film_ids:
            audit_log.append(store, session, POLICY, "identities.erased", films=len(film_ids))
    return len(film_ids)


def _count(session: Session, table: type[Film] | type[Study], where: ColumnElement[bool]) -> int:
    return session.scalar(select(func.count()).select_from(table).where(where)) or 0


def _forget(store: Store) -> None:
    """Empty SQLite's write-ahead log, which still has what was overwritten in the database."""
    if store.engine.dialect.name == "sqlite":
        connection = store.engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            connection.close()


@dataclass(frozen=True, slots=True)
class Counted:
    """A total: its name, the label of a row, what a row adds (a whole number), and the image it is of."""

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
    """Add what goes with images to what is gone, within the transaction that deletes them."""
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
