"""Backup of an installation while it runs, and restore into an empty place.

A backup is a folder with the database as it was at one moment (a copy of SQLite's file, or ``pg_dump``),
every blob that it names, the key where it is kept with the data, and ``backup.json``, written last. The next
backup into the same folder copies what is new and removes what was deleted meanwhile; one that breaks off
leaves the earlier one as it was. ``installation.json`` says whose the folder is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import make_url, select, text

from pneumoscope import __version__
from pneumoscope.core.errors import InputError, PneumoscopeError
from pneumoscope.core.files import read_json, sha256_file, write_json
from pneumoscope_clinic.settings import ClinicSettings
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.blobs import KINDS
from pneumoscope_clinic.store.database import Store, open_store
from pneumoscope_clinic.store.tables import Film, Job, new_id, now

DOCUMENT, KEY = "backup.json", "secret.key"
_FORMAT = 1
OWNER = "installation.json"
_HELD = ".backup-"
_LEFTOVER_S = 86_400.0
"""A backup that was killed is left alone for a day."""


@dataclass(frozen=True, slots=True)
class Backup:
    """What a backup holds: ``database`` is a file with the hash ``sha256``; ``key``: the key is there."""

    format: int
    pneumoscope: str
    made_at: str
    database: str
    sha256: str
    postgresql: bool
    key: bool
    blobs: int
    audit_rows: int
    audit_head: str


@dataclass(frozen=True, slots=True)
class BackupCheck:
    """What :func:`check` found.

    Attributes:
        films: images whose bytes ought to be there.
        missing: ids of those whose bytes are not, or cannot be decrypted.
        audit_rows: of the audit log.
        audit_problem: empty when its chain is whole.
    """

    films: int
    missing: tuple[str, ...]
    audit_rows: int
    audit_problem: str

    @property
    def good(self) -> bool:
        """Nothing is missing."""
        return not self.missing and not self.audit_problem


def back_up(store: Store, folder: Path, actor: str, *, with_key: bool = True) -> Backup:
    """Write a backup, or bring one up to date, while the installation works on.

    Args:
        store: the clinic's.
        folder: new, empty, or with an earlier backup of this installation; apart from its data.
        actor: for the audit log.
        with_key: include the key; one that lies outside the data directory never is.

    Raises:
        InputError: the folder holds something else or another's backup, or a program is missing.
        PneumoscopeError: PostgreSQL's programs failed.
    """
    take_folder(store, folder)
    settings = store.settings
    with store.write() as session:
        audit_log.append(store, session, actor, "backup.made")
        rows, head = audit_log.head(session)
    key = with_key and settings.key_file.parent == settings.directory
    database = folder / f"database-{new_id()[:8]}"
    with held_folder(settings.directory) as held:
        try:
            dump(store, database, lambda: _hold_received(store.blobs.root, held))
            database.chmod(0o600)
            names = _copy_blobs(store.blobs.root, held, folder / "blobs")
            if key:
                _copy(settings.key_file, folder / KEY)
            os.sync()
        except BaseException:
            database.unlink(missing_ok=True)
            raise
    made = Backup(
        format=_FORMAT,
        pneumoscope=__version__,
        made_at=now().isoformat(timespec="seconds"),
        database=database.name,
        sha256=sha256_file(database),
        postgresql=is_postgresql(settings),
        key=key,
        blobs=len(names),
        audit_rows=rows,
        audit_head=head,
    )
    write_json(folder / DOCUMENT, asdict(made))
    _remove_others(folder, made, names)
    return made


def restore(settings: ClinicSettings, folder: Path, actor: str) -> BackupCheck:
    """Put a backup into an empty data directory (and an empty PostgreSQL database), and check it.

    Raises:
        InputError: the directory is not empty, or the folder holds no whole backup of this kind of database.
        PneumoscopeError: PostgreSQL's programs failed.
    """
    backup = _opened(folder, settings)
    target = settings.directory
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = target / ".restoring"
    if set(target.iterdir()) - {temporary}:
        raise InputError("the data directory is not empty", where=target, remedy="move it away first")
    inside = settings.key_file.parent == target
    if not (backup.key and inside) and not settings.key_file.is_file():
        raise InputError(
            "the key is missing", where=settings.key_file, remedy="put the key file there, then restore"
        )
    shutil.rmtree(temporary, ignore_errors=True)  # of a restore that broke off
    temporary.mkdir(mode=0o700)
    _copy_tree(folder / "blobs", temporary / "blobs")
    if backup.key and inside:
        _copy(folder / KEY, temporary / settings.key_file.name)
    if backup.postgresql:
        load_dump(settings, folder / backup.database)
    else:
        _copy(folder / backup.database, temporary / "clinic.db")
    os.sync()
    for part in temporary.iterdir():
        part.rename(target / part.name)
    temporary.rmdir()
    store = open_store(settings)
    try:
        found = check(store, backup.audit_head)
        with store.write() as session:
            audit_log.append(store, session, actor, "backup.restored", backup.made_at)
    finally:
        store.close()
    return found


def check(store: Store, audit_head: str | None = None) -> BackupCheck:
    """Walk the audit log and decrypt every image that ought to be there.

    Args:
        store: the clinic's.
        audit_head: a hash that must be in the audit log.
    """
    waiting = select(Job.film_id).where(Job.kind == "examine", Job.state.in_(("waiting", "running")))
    failed = select(Job.film_id).where(Job.kind == "examine", Job.state == "failed")
    with store.read() as session:
        open_films = set(session.scalars(waiting))
        kept = select(Film.id).where(Film.pixels_gone.is_(False), Film.id.not_in(failed)).order_by(Film.id)
        films = session.scalars(kept).all()
    kinds = {film: "received" if film in open_films else "films" for film in films}
    missing = [film for film, kind in kinds.items() if not _readable(store, kind, film)]
    verified = audit_log.verify(store, audit_head)
    return BackupCheck(len(films), tuple(missing), verified.rows, verified.reason)


def _readable(store: Store, kind: str, film_id: str) -> bool:
    try:
        return store.blobs.get(kind, film_id) is not None
    except PneumoscopeError:
        return False


def _hold_received(blobs: Path, held: Path) -> None:
    """Keep what was sent and is not examined yet under a second name: the worker removes the first."""
    for file in _names(blobs / "received"):
        try:
            os.link(file, held / file.name)
        except FileNotFoundError:  # its image was examined just before
            continue
        except OSError:  # a file system without links
            shutil.copy2(file, held / file.name)


def _copy_blobs(blobs: Path, held: Path, target: Path) -> set[str]:
    """Copy what is new; returns the names, ``kind/film id``, of all that belong to the backup."""
    names = set()
    for kind in KINDS:
        for file in sorted(held.iterdir()) if kind == "received" else _names(blobs / kind):
            try:
                _copy_new(file, target / kind / file.name[:2] / file.name)
            except FileNotFoundError:  # deleted meanwhile
                continue
            names.add(f"{kind}/{file.name}")
    return names


def _names(folder: Path) -> Iterator[Path]:
    """Blobs of a kind; a writer's temporary file has a dot in its name."""
    return (file for file in sorted(folder.glob("??/*")) if "." not in file.name)


def _copy_new(source: Path, target: Path) -> None:
    """Copy a blob unless it is there; blobs are never changed, so that size and time tell."""
    wanted = source.stat()
    if target.exists():
        there = target.stat()
        if (there.st_size, there.st_mtime_ns) == (wanted.st_size, wanted.st_mtime_ns):
            return
    _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    """Copy a file with its times, readable by its owner alone; ``target`` is whole or not there."""
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = target.with_name(f"{target.name}.part")
    shutil.copy2(source, temporary)
    temporary.chmod(0o600)
    temporary.replace(target)


def _copy_tree(source: Path, target: Path) -> None:
    for kind in KINDS:
        for file in _names(source / kind):
            _copy(file, target / kind / file.name[:2] / file.name)


def _remove_others(folder: Path, made: Backup, names: set[str]) -> None:
    """Remove what belongs to an earlier backup, or to one that broke off."""
    for file in folder.glob("database-*"):
        if file.name != made.database:
            file.unlink()
    if not made.key:
        (folder / KEY).unlink(missing_ok=True)
    for file in (folder / "blobs").glob("*/??/*"):
        if f"{file.parts[-3]}/{file.name}" not in names:
            file.unlink()


def _opened(folder: Path, settings: ClinicSettings) -> Backup:
    """The description of a backup, checked against its database file."""
    try:
        said: dict[str, Any] = read_json(folder / DOCUMENT)
        backup = Backup(**said)
        whole = backup.format == _FORMAT and sha256_file(folder / backup.database) == backup.sha256
    except (OSError, ValueError, TypeError) as error:
        raise InputError("not a backup", where=folder, expected=f"{DOCUMENT} and what it names") from error
    if not whole:
        raise InputError("the backup's database was altered, or is of another format", where=folder)
    if backup.postgresql != is_postgresql(settings):
        kind = "PostgreSQL" if backup.postgresql else "SQLite"
        raise InputError(f"the backup is of {kind}", where=folder, remedy="set database.url accordingly")
    return backup


def take_folder(store: Store, folder: Path) -> None:
    """See that the folder is, or may become, a backup of this installation, and mark it as such.

    Raises:
        InputError: it belongs to the installation itself, or holds something else or another's backup.
    """
    settings, target = store.settings, folder.resolve()
    data = settings.directory.resolve()
    beside_key = settings.key_file.resolve().parent == target
    if target.is_relative_to(data) or data.is_relative_to(target) or beside_key:
        raise InputError(
            "the folder belongs to the installation itself",
            where=folder,
            expected="a folder that neither holds the data directory or the key nor lies within it",
        )
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    installation = store.cipher.pseudonym("installation", "backup")
    if not any(folder.iterdir()):
        write_json(folder / OWNER, {"installation": installation})
        return
    try:
        owner = read_json(folder / OWNER).get("installation")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(
            "the folder holds something else", where=folder, remedy="name a new or empty folder"
        ) from error
    if owner != installation:
        raise InputError(
            "the folder holds the backup of another installation",
            where=folder,
            expected="a backup that was made with the same key",
            remedy="name a new or empty folder",
        )


@contextmanager
def held_folder(directory: Path) -> Iterator[Path]:
    """A folder on the file system of the blobs, locked, and gone afterwards."""
    held = directory / f"{_HELD}{new_id()[:8]}"
    held.mkdir(mode=0o700)
    with _opened_folder(held) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            yield held
        finally:
            shutil.rmtree(held)


def remove_leftovers(store: Store) -> int:
    """Remove what backups that were killed have held in the data directory; how many those were.

    A backup that still runs is not disturbed, however long it takes.
    """
    count = 0
    for held in store.settings.directory.glob(f"{_HELD}*"):
        with contextlib.suppress(FileNotFoundError):  # it has just ended
            if time.time() - held.stat().st_mtime > _LEFTOVER_S and not _in_use(held):
                shutil.rmtree(held)
                count += 1
    return count


def _in_use(held: Path) -> bool:
    """Whether the process that made the folder still runs: its lock ends with it."""
    with _opened_folder(held) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def _opened_folder(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield handle
    finally:
        os.close(handle)


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
