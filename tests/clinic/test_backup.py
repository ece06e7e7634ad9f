"""A backup that is taken under load, and what is left of an installation when only the backup is left."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import func, select

from pneumoscope.core.errors import InputError
from pneumoscope_clinic.settings import ClinicSettings
from pneumoscope_clinic.store import audit_log, backup
from pneumoscope_clinic.store.backup import back_up, check, dump, held_folder, remove_leftovers, restore
from pneumoscope_clinic.store.database import Store, open_store
from pneumoscope_clinic.store.queue import Queue
from pneumoscope_clinic.store.retention import delete_study
from pneumoscope_clinic.store.tables import AuditEntry, Film, Job
from pneumoscope_clinic.worker.intake import Sender, receive
from pneumoscope_clinic.worker.worker import FilmHandlers, run_worker
from tests.clinic.films import dicom_film, png_film
from tests.clinic.postgres import new_database
from tests.clinic.stores import add_film, make_store, new_postgres
from tests.tiny_bundle import write_tiny_bundle

PACS = Sender("dimse:PACS", None, "dimse")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture(params=["sqlite", "postgresql"])
def clinic(request: pytest.FixtureRequest, tmp_path: Path, bundle: Any) -> Iterator[Store]:
    settings = {"bundle": str(bundle.directory)}
    if request.param == "postgresql":
        if shutil.which("pg_dump") is None:
            pytest.skip("pg_dump is not installed (Debian: postgresql-client)")
        settings["database__url"] = new_postgres(request.getfixturevalue("postgres"))
    store = make_store(tmp_path, **settings)
    yield store
    store.close()


def emptied(store: Store, request: pytest.FixtureRequest) -> ClinicSettings:
    """Settings for an empty place, after everything of the store was destroyed."""
    settings = store.settings
    store.close()
    shutil.rmtree(settings.directory)
    if store.engine.dialect.name == "postgresql":
        url = new_database(request.getfixturevalue("postgres"), uuid4().hex)
        return make_settings(settings, url)
    return settings


def make_settings(settings: ClinicSettings, url: str) -> ClinicSettings:
    return ClinicSettings.model_validate({**settings.model_dump(), "database": {"url": url}})


def work(store: Store, films: FilmHandlers) -> None:
    """Examine all that waits."""
    queue = Queue(store)
    run_worker(store, films.handlers(), lambda: not any(state != "done" for _, state in queue.depth()))


def rows_of(store: Store) -> list[tuple[Any, ...]]:
    with store.read() as session:
        films = session.scalars(select(Film).order_by(Film.id)).all()
        return [
            (film.id, film.sha256, film.facts, None if film.result is None else film.result.record)
            for film in films
        ]


def test_under_load(clinic: Store, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    films = FilmHandlers(clinic, threads=1)
    films.warm_up()
    sent: list[tuple[str, bytes]] = []
    over = threading.Event()

    def send() -> None:
        while not over.is_set():
            content = dicom_film(0.2 + 0.6 * (len(sent) % 10) / 10)
            sent.append((receive(clinic, content, PACS).film_id, content))
            time.sleep(0.05)

    threads = [
        threading.Thread(target=send),
        threading.Thread(target=run_worker, args=(clinic, films.handlers(), over.is_set)),
    ]
    for thread in threads:
        thread.start()
    backups = []
    for number in range(4):  # two into the same folder, twice
        _await_more(sent)
        folder = tmp_path / f"backup-{number % 2}"
        before = [film for film, _ in sent]  # these were taken, and must be in it
        back_up(clinic, folder, "test")
        backups.append((folder, before))
    _await_more(sent)  # these came after it
    over.set()
    for thread in threads:
        thread.join()
    films.close()
    settings = emptied(clinic, request)

    found = restore(settings, backups[2][0], "test")
    assert (found.good, found.missing, found.audit_problem) == (True, (), "")
    store = open_store(settings)
    again = FilmHandlers(store, threads=1)
    there = {row[0] for row in rows_of(store)}
    assert set(backups[2][1]) <= there
    waiting = [film for film in there if store.blobs.get("received", film)]
    contents = dict(sent)
    assert [store.blobs.get("received", film) == contents[film] for film in waiting] == [True] * len(waiting)
    work(store, again)  # what was waiting is examined now
    again.close()
    with store.read() as session:
        assert session.scalar(select(func.count()).select_from(Job).where(Job.state != "done")) == 0
        results = [film.result for film in session.scalars(select(Film))]
    assert len(results) == len(there)
    assert None not in results
    assert check(store).good
    store.close()


def _await_more(sent: list[Any]) -> None:
    enough, end = len(sent) + 3, time.monotonic() + 60
    while len(sent) < enough:
        assert time.monotonic() < end, "nothing is sent any more"
        time.sleep(0.01)


def test_everything_comes_back(clinic: Store, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    films = FilmHandlers(clinic, threads=1)
    for mean in (0.2, 0.8):
        receive(clinic, png_film(mean), PACS)
    work(clinic, films)
    films.close()
    left = receive(clinic, dicom_film(0.5), PACS).film_id
    rows = rows_of(clinic)
    blobs = {(kind, name): clinic.blobs.get(kind, name) for kind in ("films", "maps", "received")
             for name, _ in clinic.blobs.names(kind)}  # fmt: skip
    made = back_up(clinic, tmp_path / "backup", "operator")
    settings = emptied(clinic, request)
    found = restore(settings, tmp_path / "backup", "operator")

    assert (found.films, found.missing, found.audit_problem) == (3, (), "")
    assert found.audit_rows == made.audit_rows
    store = open_store(settings)
    assert rows_of(store) == rows
    assert {key: store.blobs.get(*key) for key in blobs} == blobs
    assert blobs["received", left] == dicom_film_of(store, left)
    assert audit_log.verify(store, made.audit_head).broken_at is None
    with store.read() as session:
        actions = session.scalars(select(AuditEntry.action).order_by(AuditEntry.id)).all()
    assert actions[-2:] == ["backup.made", "backup.restored"]
    store.close()


def dicom_film_of(store: Store, film_id: str) -> bytes | None:
    return store.blobs.get("received", film_id)


def test_the_dump_is_of_that_moment(clinic: Store, tmp_path: Path) -> None:
    def arrives() -> None:
        # The writer waits until the moment is over, and then goes on while the dump is written.
        threads.append(threading.Thread(target=receive, args=(clinic, png_film(0.9), PACS)))
        threads[0].start()
        time.sleep(0.3)
        assert len(rows_of(clinic)) == 1

    threads: list[threading.Thread] = []
    receive(clinic, png_film(0.1), PACS)
    file = tmp_path / "dump"
    dump(clinic, file, arrives)
    threads[0].join()

    assert len(rows_of(clinic)) == 2
    if clinic.engine.dialect.name == "sqlite":
        with sqlite3.connect(file) as connection:
            assert connection.execute("SELECT count(*) FROM films").fetchone() == (1,)
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()


def test_what_was_deleted_leaves_the_backup(tmp_path: Path) -> None:
    store, folder = make_store(tmp_path), tmp_path / "backup"
    kept, gone = (add_film(store, content=content) for content in (b"kept", b"gone"))
    first = back_up(store, folder, "test")
    copied = folder / "blobs" / "films" / kept[:2] / kept
    before = copied.stat()
    with store.read() as session:
        study_id = session.get_one(Film, gone).study_id
    delete_study(store, study_id, "test")
    second = back_up(store, folder, "test")
    store.close()

    assert (first.blobs, second.blobs) == (2, 1)
    assert [file.name for file in (folder / "blobs").rglob("*") if file.is_file()] == [kept]
    assert copied.stat().st_ino == before.st_ino  # it was not copied again
    assert [file.name for file in folder.glob("database-*")] == [second.database]


def test_a_backup_that_breaks_off_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder = make_store(tmp_path), tmp_path / "backup"
    add_film(store, content=b"first")
    back_up(store, folder, "test")
    add_film(store, content=b"second")

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("pneumoscope_clinic.store.backup._copy", full)
        with pytest.raises(OSError, match="no space"):
            back_up(store, folder, "test")
    settings = store.settings
    assert list(settings.directory.glob(".backup-*")) == []
    store.close()
    shutil.rmtree(settings.directory)

    assert restore(settings, folder, "test").films == 1


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    store, folder = make_store(tmp_path), tmp_path / "backup"
    add_film(store, content=b"film")
    back_up(store, folder, "test")
    store.close()

    assert folder.stat().st_mode & 0o777 == 0o700
    for file in folder.rglob("*"):
        if file.is_file() and file.suffix != ".json":
            assert file.stat().st_mode & 0o777 == 0o600, file.name


def test_without_the_key(tmp_path: Path) -> None:
    store, folder = make_store(tmp_path), tmp_path / "backup"
    film = add_film(store, content=b"film")
    key = store.settings.key_file.read_bytes()
    made = back_up(store, folder, "test", with_key=False)
    store.close()
    shutil.rmtree(store.settings.directory)

    assert made.key is False
    assert not (folder / "secret.key").exists()
    with pytest.raises(InputError, match="the key is missing"):
        restore(store.settings, folder, "test")
    elsewhere = tmp_path / "elsewhere.key"
    elsewhere.write_bytes(key)
    privacy = store.settings.privacy.model_copy(update={"key_file": elsewhere})
    settings = store.settings.model_copy(update={"privacy": privacy})
    assert restore(settings, folder, "test").good
    again = open_store(settings)
    assert again.blobs.get("films", film) == b"film"
    assert back_up(again, folder, "test").key is False  # a key outside the data directory stays there
    again.close()


def test_damage_is_found(tmp_path: Path) -> None:
    store, folder = make_store(tmp_path), tmp_path / "backup"
    films = [add_film(store, content=b"image %d" % number) for number in range(3)]
    back_up(store, folder, "test")
    store.close()
    shutil.rmtree(store.settings.directory)
    (folder / "blobs" / "films" / films[0][:2] / films[0]).unlink()
    (folder / "blobs" / "films" / films[1][:2] / films[1]).write_bytes(bytes(100))

    found = restore(store.settings, folder, "test")
    assert (found.good, set(found.missing)) == (False, set(films[:2]))


def test_what_cannot_be_restored(tmp_path: Path) -> None:
    store, folder = make_store(tmp_path), tmp_path / "backup"
    back_up(store, folder, "test")
    settings = store.settings
    with pytest.raises(InputError, match="the data directory is not empty"):
        restore(settings, folder, "test")
    store.close()
    shutil.rmtree(settings.directory)
    with pytest.raises(InputError, match="not a backup"):
        restore(settings, tmp_path / "nothing", "test")
    with pytest.raises(InputError, match="the backup is of SQLite"):
        restore(make_settings(settings, "postgresql+psycopg://nobody@127.0.0.1:1/none"), folder, "test")
    document = json.loads((folder / "backup.json").read_text())
    (folder / document["database"]).write_bytes(b"")
    with pytest.raises(InputError, match="was altered"):
        restore(settings, folder, "test")
    assert not any(settings.directory.glob("*")) if settings.directory.exists() else True


def test_the_installation_itself_is_no_place_for_a_backup(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    directory = store.settings.directory
    film = add_film(store, content=b"film")
    (tmp_path / "link").symlink_to(directory)
    for folder in (directory, directory / "backup", tmp_path, tmp_path / "link"):
        with pytest.raises(InputError, match="belongs to the installation itself"):
            back_up(store, folder, "test", with_key=False)
    assert store.settings.key_file.is_file()
    assert not (directory / "backup").exists()
    assert store.blobs.get("films", film) == b"film"
    store.close()


def test_a_key_elsewhere_is_not_taken_for_one_of_the_backup(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    store = make_store(tmp_path, privacy__key_file=str(folder / "secret.key"))
    with pytest.raises(InputError, match="belongs to the installation itself"):
        back_up(store, folder, "test")
    assert (folder / "secret.key").is_file()
    store.close()


def test_the_backup_of_another_installation_is_not_touched(tmp_path: Path) -> None:
    first, second = make_store(tmp_path / "1"), make_store(tmp_path / "2")
    folder = tmp_path / "backup"
    add_film(first, content=b"film")
    made = back_up(first, folder, "test")
    before = sorted(folder.rglob("*"))
    with pytest.raises(InputError, match="backup of another installation"):
        back_up(second, folder, "test")
    assert sorted(folder.rglob("*")) == before
    assert back_up(first, folder, "test").blobs == made.blobs
    (folder / "installation.json").unlink()
    with pytest.raises(InputError, match="holds something else"):
        back_up(first, folder, "test")
    first.close()
    second.close()


def test_a_restored_installation_goes_on_with_its_backup(tmp_path: Path) -> None:
    store, folder = make_store(tmp_path), tmp_path / "backup"
    back_up(store, folder, "test")
    store.close()
    shutil.rmtree(store.settings.directory)
    restore(store.settings, folder, "test")
    again = open_store(store.settings)
    add_film(again, content=b"film")
    assert back_up(again, folder, "test").blobs == 1
    again.close()


def test_what_a_killed_backup_has_held_is_removed_after_a_day(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    receive(store, png_film(0.5), PACS)
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(store.settings, tmp_path))
    process.start()
    process.join()
    [left] = store.settings.directory.glob(".backup-*")
    assert len(list(left.iterdir())) == 1
    assert remove_leftovers(store) == 0  # it may have been made just now
    os.utime(left, (time.time() - 90_000,) * 2)
    with held_folder(store.settings.directory) as running:
        os.utime(running, (time.time() - 900_000,) * 2)
        assert remove_leftovers(store) == 1
        assert [*store.settings.directory.glob(".backup-*")] == [running]
    assert len([*store.blobs.names("received")]) == 1
    store.close()


def _killed(settings: ClinicSettings, folder: Path) -> None:
    backup._copy_blobs = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    back_up(open_store(settings), folder / "killed", "test")


def test_a_folder_of_something_else_is_not_touched(tmp_path: Path) -> None:
    store = make_store(tmp_path)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "blobs").mkdir()
    (tmp_path / "photos" / "secret.key").touch()
    with pytest.raises(InputError, match="holds something else"):
        back_up(store, tmp_path / "photos", "test", with_key=False)
    assert (tmp_path / "photos" / "secret.key").is_file()
    store.close()
