"""The database as one file, as it is at one moment, while others write to it; and back.

In: a store. Out: a file: a copy of SQLite's, or what ``pg_dump`` writes. Needs PostgreSQL's client programs
for the latter.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy import make_url, text

from pneumoscope.core.errors import InputError, PneumoscopeError
from pneumoscope_clinic.settings import ClinicSettings
from pneumoscope_clinic.store.database import Store


def is_postgresql(settings: ClinicSettings) -> bool:
    """Whether the database is one of PostgreSQL; else it is SQLite's file."""
    return make_url(settings.database_url).get_backend_name() == "postgresql"


def dump(store: Store, file: Path, at_that_moment: Callable[[], None]) -> None:
    """Write the database to ``file`` as it is when ``at_that_moment`` is called.

    No job is settled and none is added during that call; otherwise work goes on.

    Raises:
        InputError: PostgreSQL's programs are missing. PneumoscopeError: they failed.
    """
    if is_postgresql(store.settings):
        _dump_postgresql(store, file, at_that_moment)
    else:
        _dump_sqlite(store, file, at_that_moment)


def _dump_sqlite(store: Store, file: Path, at_that_moment: Callable[[], None]) -> None:
    source = make_url(store.settings.database_url).database
    with closing(sqlite3.connect(f"file:{source}?mode=ro", uri=True, isolation_level=None)) as reading:
        with store.write() as session:
            session.execute(text("SELECT 1"))  # takes the write lock
            reading.execute("BEGIN")
            reading.execute("SELECT count(*) FROM jobs").fetchone()  # what it sees is fixed from here on
            at_that_moment()
        with closing(sqlite3.connect(file)) as target:
            reading.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")  # one file, without a log beside it


def _dump_postgresql(store: Store, file: Path, at_that_moment: Callable[[], None]) -> None:
    with store.engine.connect().execution_options(isolation_level="REPEATABLE READ") as reading:
        with store.write():  # nobody else writes meanwhile
            snapshot = reading.scalar(text("SELECT pg_export_snapshot()"))
            at_that_moment()
        _run(
            "pg_dump",
            "--format=custom",
            "--no-owner",
            "--no-privileges",
            f"--snapshot={snapshot}",
            f"--file={file}",
            settings=store.settings,
        )


def load_dump(settings: ClinicSettings, file: Path) -> None:
    """Fill an empty PostgreSQL database from a dump, all of it or nothing.

    Raises:
        InputError: PostgreSQL's programs are missing. PneumoscopeError: they failed, or it is not empty.
    """
    _run(
        "pg_restore",
        "--no-owner",
        "--no-privileges",
        "--exit-on-error",
        "--single-transaction",
        str(file),
        settings=settings,
    )


def _run(program: str, *arguments: str, settings: ClinicSettings) -> None:
    """Run a program of PostgreSQL on the database; its password goes by the environment (libpq, 34.15)."""
    url = make_url(settings.database_url)
    plain = url.set(drivername="postgresql", password=None).render_as_string()
    environment = {**os.environ, "PGPASSWORD": str(url.password)} if url.password else dict(os.environ)
    try:
        done = subprocess.run(  # nosec B603  # no shell, a fixed program
            [program, f"--dbname={plain}", *arguments], env=environment, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise InputError(
            f"{program} is not installed", remedy="install PostgreSQL's client (Debian: postgresql-client)"
        ) from error
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise PneumoscopeError(
            f"{program} failed: {said[0] if said else done.returncode}",
            expected="a server of the same version or an older one, and for a restore an empty database",
        )
