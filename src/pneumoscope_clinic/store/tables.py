"""The tables of the clinic's database, as SQLAlchemy classes; a test compares them with the migrations.

Identifiers that leave the database (studies, images, batches) are random, so that nobody can guess one. Times
are UTC. What could name a patient is in ``Film.identity`` alone, encrypted.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import uuid4

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

clock: Callable[[], datetime] = partial(datetime.now, UTC)
"""The clock of the store; tests set another one."""


def now() -> datetime:
    """The present, UTC."""
    return clock()


def new_id() -> str:
    """A random identifier of 32 hexadecimal digits."""
    return uuid4().hex


class Utc(TypeDecorator[datetime]):
    """A point in time; SQLite forgets the zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """To UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:
        """As UTC."""
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value


class Base(DeclarativeBase):
    """Base of all tables; constraints have names, which migrations need."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012
        datetime: Utc,
        dict[str, Any]: JSON,
        list[str]: JSON,
        bytes: LargeBinary,
    }


class User(Base):
    """Who may log in. Roles: ``reader``, ``reviewer``, ``admin``."""

    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64), unique=True)
    role: Mapped[str] = mapped_column(String(16))
    password_hash: Mapped[str | None] = mapped_column(String(256))
    oidc_subject: Mapped[str | None] = mapped_column(String(256), unique=True)
    language: Mapped[str | None] = mapped_column(String(16))
    disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)


class WebSession(Base):
    """A browser that is logged in; only the hash of its cookie is kept."""

    __tablename__ = "web_sessions"
    hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    csrf: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=now)
    seen_at: Mapped[datetime] = mapped_column(default=now)
    user: Mapped[User] = relationship(lazy="joined")


class Token(Base):
    """An API token; only its hash is kept. Scopes: ``examine``, ``read``, ``feedback``, ``admin``."""

    __tablename__ = "tokens"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]]
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]
    revoked_at: Mapped[datetime | None]
    user: Mapped[User] = relationship(lazy="joined")


class Attempt(Base):
    """A failed log-in; ``key`` is a keyed hash of the name or of the address."""

    __tablename__ = "attempts"
    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (Index("ix_attempts_key_at", "key", "at"),)


class Activation(Base):
    """A bundle that examines images from ``at`` on; the last row is the one in use."""

    __tablename__ = "activations"
    id: Mapped[int] = mapped_column(primary_key=True)
    bundle_id: Mapped[str] = mapped_column(String(128))
    location: Mapped[str] = mapped_column(Text)
    card: Mapped[dict[str, Any]]
    by: Mapped[str] = mapped_column(String(64))
    at: Mapped[datetime] = mapped_column(default=now)


class Batch(Base):
    """Images that were sent together."""

    __tablename__ = "batches"
    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Study(Base):
    """One or more images of one examination of a patient.

    ``owner_id`` is who sent it; None came from the PACS and is seen by every reader. ``study_key`` and
    ``patient_key`` are keyed hashes of Study Instance UID and Patient ID, None where the image has none.
    ``reference`` is what the sender calls it (a bed, a case number), encrypted.
    """

    __tablename__ = "studies"
    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    owner_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"), index=True)
    study_key: Mapped[str | None] = mapped_column(String(64), index=True)
    patient_key: Mapped[str | None] = mapped_column(String(64), index=True)
    reference: Mapped[bytes | None]
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
    films: Mapped[list[Film]] = relationship(
        back_populates="study", order_by="Film.created_at", cascade="all, delete-orphan"
    )


class Film(Base):
    """One image. Its bytes are a blob named after its id; the columns say nothing that names a patient.

    ``source`` is ``web``, ``api``, ``dimse`` or ``dicomweb``. ``facts`` (format, modality, manufacturer,
    device, view, rows, columns, ...) and the columns after it are known once the image is examined.
    ``identity`` is the encrypted DICOM header that results need (JSON model, PS3.18 F). ``pixels_gone``: the
    retention policy has deleted the blob.
    """

    __tablename__ = "films"
    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=new_id)
    study_id: Mapped[str] = mapped_column(ForeignKey("studies.id", ondelete="CASCADE"), index=True)
    batch_id: Mapped[str | None] = mapped_column(ForeignKey("batches.id", ondelete="SET NULL"), index=True)
    source: Mapped[str] = mapped_column(String(16))
    sha256: Mapped[str] = mapped_column(String(64), index=True)
    size: Mapped[int]
    options: Mapped[dict[str, Any]] = mapped_column(default=dict)
    instance_key: Mapped[str | None] = mapped_column(String(64), index=True)
    facts: Mapped[dict[str, Any]] = mapped_column(default=dict)
    age_years: Mapped[float | None]
    sex: Mapped[str | None] = mapped_column(String(1))
    identity: Mapped[bytes | None]
    pixels_gone: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
    study: Mapped[Study] = relationship(back_populates="films")
    result: Mapped[Result | None] = relationship(
        back_populates="film", cascade="all, delete-orphan", lazy="joined"
    )
    jobs: Mapped[list[Job]] = relationship(cascade="all, delete-orphan", order_by="Job.id")
    feedback: Mapped[list[Feedback]] = relationship(cascade="all, delete-orphan", order_by="Feedback.id")


class Job(Base):
    """Work on an image that must be done once.

    ``kind`` is ``examine``, ``picture`` or ``deliver``; ``target`` is the destination of a delivery, else
    empty. ``state`` is ``waiting``, ``running``, ``done`` or ``failed``. ``crashes``: attempts that ended
    their process.
    """

    __tablename__ = "jobs"
    id: Mapped[int] = mapped_column(primary_key=True)
    film_id: Mapped[str] = mapped_column(ForeignKey("films.id", ondelete="CASCADE"))
    kind: Mapped[str] = mapped_column(String(16))
    target: Mapped[str] = mapped_column(String(64), default="")
    state: Mapped[str] = mapped_column(String(16), default="waiting")
    attempts: Mapped[int] = mapped_column(default=0)
    crashes: Mapped[int] = mapped_column(default=0)
    due_at: Mapped[datetime] = mapped_column(default=now)
    lease: Mapped[str | None] = mapped_column(String(32))
    lease_until: Mapped[datetime | None]
    problem: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(default=now)
    finished_at: Mapped[datetime | None]
    __table_args__ = (
        UniqueConstraint("film_id", "kind", "target"),
        Index("ix_jobs_state_kind_due", "state", "kind", "due_at"),
    )


class Result(Base):
    """The answer about an image; at most one. ``record``: of ``inference.examination``.

    ``drift`` are the numbers that monitoring compares (exposure, size, feature distance). ``shadow``: made in
    silent mode, shown to nobody.
    """

    __tablename__ = "results"
    film_id: Mapped[str] = mapped_column(ForeignKey("films.id", ondelete="CASCADE"), primary_key=True)
    bundle_id: Mapped[str] = mapped_column(String(128), index=True)
    verdict: Mapped[str] = mapped_column(String(32))
    decision: Mapped[str] = mapped_column(String(16), index=True)
    abstained_by: Mapped[str | None] = mapped_column(String(16))
    probability: Mapped[float | None]
    etiology: Mapped[str | None] = mapped_column(String(16))
    record: Mapped[dict[str, Any]]
    drift: Mapped[dict[str, Any]]
    shadow: Mapped[bool] = mapped_column(default=False)
    seconds: Mapped[float]
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
    film: Mapped[Film] = relationship(back_populates="result")


class Feedback(Base):
    """A final diagnosis: ``normal``, ``bacterial``, ``viral``, ``pneumonia-unspecified`` or ``other``.

    Rows are only added; the last one of an image counts. ``consent``: may be used for training.
    """

    __tablename__ = "feedback"
    id: Mapped[int] = mapped_column(primary_key=True)
    film_id: Mapped[str] = mapped_column(ForeignKey("films.id", ondelete="CASCADE"), index=True)
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    agrees: Mapped[bool]
    diagnosis: Mapped[str] = mapped_column(String(32))
    comment: Mapped[bytes | None]
    consent: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)


class Alarm(Base):
    """Something that monitoring found; open until ``resolved_at``."""

    __tablename__ = "alarms"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(32))
    message: Mapped[str] = mapped_column(Text)
    value: Mapped[float | None]
    limit: Mapped[float | None]
    notified_at: Mapped[datetime | None]
    acknowledged_by: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(default=now, index=True)
    resolved_at: Mapped[datetime | None]


class WatchWindow(Base):
    """A stretch of images or of feedback that monitoring has looked at, once.

    ``kind`` is ``films`` or ``feedback``; ``films-part`` and ``feedback-part`` hold what retention deleted
    of the one under way. ``until`` is the time of its last row. ``numbers`` holds each quantity by itself,
    sorted, so that nothing in it is an image any more; ``tests`` what was found. ``baseline``: the reference
    of later ones. A row of no images (``n`` 0) starts a new baseline.
    """

    __tablename__ = "watch_windows"
    id: Mapped[int] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(16))
    bundle_id: Mapped[str] = mapped_column(String(128))
    baseline: Mapped[bool]
    n: Mapped[int]
    until: Mapped[datetime]
    numbers: Mapped[dict[str, Any]]
    tests: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = mapped_column(default=now)
    __table_args__ = (UniqueConstraint("kind", "bundle_id", "until"),)


class PeriodicJob(Base):
    """A periodic job, which one of all processes runs, not before ``due_at``."""

    __tablename__ = "periodic_jobs"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    due_at: Mapped[datetime]


class Total(Base):
    """What is counted of deleted rows, so that totals never fall; ``name`` and ``label`` are of a metric."""

    __tablename__ = "totals"
    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    label: Mapped[str] = mapped_column(String(32), primary_key=True)
    amount: Mapped[int] = mapped_column(BigInteger)


class AuditEntry(Base):
    """Who did what; each row's ``hash`` covers the row before, so that a change shows."""

    __tablename__ = "audit_log"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    at: Mapped[str] = mapped_column(String(40))
    actor: Mapped[str] = mapped_column(String(80))
    action: Mapped[str] = mapped_column(String(64), index=True)
    object: Mapped[str] = mapped_column(String(80), index=True)
    detail: Mapped[dict[str, Any]]
    previous: Mapped[str] = mapped_column(String(64))
    hash: Mapped[str] = mapped_column(String(64))


class Idempotency(Base):
    """The answer that was given to a request with an Idempotency-Key, to be given again."""

    __tablename__ = "idempotency"
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))
    object_id: Mapped[str] = mapped_column(String(32))
    created_at: Mapped[datetime] = mapped_column(default=now)
