"""The database of a clinic: SQLite in the data directory, or PostgreSQL by URL.

Reading transactions never block. Writing ones are serialised: each takes the write lock at its start (BEGIN
IMMEDIATE of SQLite, an advisory lock of PostgreSQL), so that what it has read stays true until it commits.
They are short, and nearly all of them append to the one audit log.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from pneumoscope.core.errors import ConfigError
from pneumoscope_clinic.settings import ClinicSettings
from pneumoscope_clinic.store.blobs import Blobs
from pneumoscope_clinic.store.encryption import open_cipher

_BUSY_MS = 30_000
_MIGRATION_LOCK = 0x706E6575  # numbers of our own for pg_advisory_lock ("pneu")
_WRITE_LOCK = _MIGRATION_LOCK + 1


class Store:
    """Transactions on the database, and the blobs beside it.

    Attributes:
        settings: of the clinic.
        engine: for reading; see :meth:`read` and :meth:`write`.
        cipher, blobs: what is encrypted.
    """

    def __init__(self, settings: ClinicSettings, engine: Engine) -> None:
        self.settings = settings
        self.engine = engine
        self.cipher = open_cipher(settings.key_file)
        self.blobs = Blobs(settings.directory / "blobs", self.cipher)
        self._writing = engine.execution_options(pneumoscope_write=True)

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading; what is loaded stays usable afterwards."""
        with Session(self.engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session that commits at the end of the block, or changes nothing when it raises."""
        with Session(self._writing, expire_on_commit=False) as session, session.begin():
            if self.engine.dialect.name == "postgresql":
                session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITE_LOCK})
            yield session

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()


def open_store(settings: ClinicSettings) -> Store:
    """Open the database, make or update its schema, and make the data directory where it is missing.

    Raises:
        ConfigError: the directory cannot be made, the database cannot be reached, or the key is gone.
    """
    directory = settings.directory
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise ConfigError(
            f"the data directory cannot be made: {error.strerror}",
            where=directory,
            remedy="set data_dir to a folder that may be written",
        ) from error
    engine = _engine(settings.database_url)
    try:
        upgrade(engine, directory)
    except DBAPIError as error:
        engine.dispose()
        raise ConfigError(
            f"the database cannot be used ({type(error.orig).__name__})",
            where=make_url(settings.database_url).render_as_string(hide_password=True),
            remedy="check that it runs, and the URL, user and password in database.url",
        ) from error
    try:
        _require_key(settings, engine)
        return Store(settings, engine)
    except BaseException:
        engine.dispose()
        raise


def _require_key(settings: ClinicSettings, engine: Engine) -> None:
    """Make no new key for a database that is in use: what it holds would be lost with the old one."""
    with engine.connect() as connection:
        is_used = connection.scalar(text("SELECT 1 FROM audit_log LIMIT 1")) is not None
    if is_used and not settings.key_file.exists():
        raise ConfigError(
            "the key of this installation is missing; without it what is stored cannot be read",
            where=settings.key_file,
            remedy="restore it from the backup, or correct privacy.key_file",
        )


def upgrade(engine: Engine, directory: Path) -> None:
    """Bring the schema to the newest migration; of several processes that start together one does it."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).resolve().parent / "migrations"))
    lock = os.open(directory / ".migration.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with engine.connect() as connection, _locked(connection):
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            connection.commit()
    finally:
        os.close(lock)


@contextmanager
def _locked(connection: Connection) -> Iterator[None]:
    """Hold off the migrations of other machines on the same PostgreSQL."""
    if connection.dialect.name == "sqlite":
        yield
        return
    connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
    connection.commit()
    try:
        yield
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": _MIGRATION_LOCK})
        connection.commit()


def _engine(url: str) -> Engine:
    try:
        dialect = make_url(url).get_backend_name()
    except ArgumentError as error:
        raise ConfigError("database.url is no URL", expected="postgresql+psycopg://user@host/name") from error
    if dialect not in ("sqlite", "postgresql"):
        raise ConfigError(f"database.url names {dialect}", expected="sqlite or postgresql+psycopg")
    try:
        engine = create_engine(url, pool_pre_ping=dialect == "postgresql", hide_parameters=True)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise ConfigError(
            "the database's driver is not installed", expected="postgresql+psycopg://user@host/name"
        ) from error
    if dialect == "sqlite":
        _make_private(engine.url.database)
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
    return engine


def _make_private(file: str | None) -> None:
    """Make the database's file for its owner alone; SQLite gives its companions the same permissions.

    A file that is there is not opened: to close it again would drop the locks that this process holds on it,
    and other writers would damage it (sqlite.org/howtocorrupt.html, section 2.2).
    """
    if file and file != ":memory:":
        with contextlib.suppress(OSError):  # connecting says better what is wrong
            os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    """Write-ahead log, foreign keys, every commit on disk; BEGIN is said by :func:`_begin_sqlite`."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "secure_delete=ON",  # what is deleted or replaced is overwritten with zeros
        f"busy_timeout={_BUSY_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("pneumoscope_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")
