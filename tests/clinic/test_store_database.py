"""The schema comes from migrations, transactions are whole, and nothing is written half."""

import os
import stat
import threading

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, inspect, select, text

from pneumoscope.core.errors import ConfigError
from pneumoscope_clinic.settings import load_settings
from pneumoscope_clinic.store.database import open_store, upgrade
from pneumoscope_clinic.store.tables import Base, Film, Study, User
from tests.clinic.stores import make_store


def count(store, table):
    with store.read() as session:
        return session.scalar(select(func.count()).select_from(table))


def test_the_migrations_make_the_tables_that_the_code_describes(any_store):
    with any_store.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_go_back_to_an_empty_database(any_store):
    from alembic import command
    from alembic.config import Config

    import pneumoscope_clinic.store.migrations as package

    config = Config()
    config.set_main_option("script_location", package.__path__[0])
    with any_store.engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        connection.commit()
        assert set(inspect(connection).get_table_names()) <= {"alembic_version"}
    upgrade(any_store.engine, any_store.settings.directory)
    assert count(any_store, User) == 0


def test_processes_that_start_together_migrate_once(tmp_path):
    settings = load_settings(None, {"data_dir": str(tmp_path / "data")}, {})
    failures = []

    def start():
        try:
            open_store(settings).close()
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_transaction_that_fails_changes_nothing(any_store):
    def fail():
        with any_store.write() as session:
            session.add(Study(id="0" * 32))
            session.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert count(any_store, Study) == 0


def test_times_come_back_with_their_zone(any_store):
    with any_store.write() as session:
        study = Study(id="1" * 32)
        session.add(study)
    with any_store.read() as session:
        again = session.get_one(Study, "1" * 32)
    assert again.created_at == study.created_at
    assert again.created_at.utcoffset().total_seconds() == 0


def test_deleting_a_study_deletes_its_films(any_store):
    with any_store.write() as session:
        session.add(Film(study=Study(id="2" * 32), source="web", sha256="0" * 64, size=1))
    with any_store.write() as session:
        session.execute(text("DELETE FROM studies"))
    assert count(any_store, Film) == 0


def test_readers_do_not_wait_for_a_writer(any_store):
    with any_store.write() as session:
        session.add(Study(id="3" * 32))
        session.flush()
        assert count(any_store, Study) == 0
    assert count(any_store, Study) == 1


def test_sqlite_keeps_every_commit(tmp_path):
    store = make_store(tmp_path)
    with store.engine.connect() as connection:
        found = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    store.close()
    assert found == ["wal", 2, 1]


def test_the_data_directory_is_its_owners_alone(tmp_path):
    store = make_store(tmp_path)
    directory = store.settings.directory
    store.close()
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(directory / "secret.key").st_mode) == 0o600


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://x@127.0.0.1/x", "names mysql"),
        ("not a url", "is no URL"),
        ("postgresql+psycopg://clinic:geheim@127.0.0.1:9/x", "cannot be used"),
        ("postgresql+nodriver://clinic@127.0.0.1/x", "driver is not installed"),
    ],
)
def test_a_database_that_cannot_be_used_says_so_without_its_password(tmp_path, url, said):
    settings = load_settings(None, {"data_dir": str(tmp_path), "database.url": url}, {})
    with pytest.raises(ConfigError, match=said) as caught:
        open_store(settings)
    assert "geheim" not in str(caught.value)


def test_a_data_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        open_store(load_settings(None, {"data_dir": str(tmp_path / "file" / "data")}, {}))


def test_opening_a_database_again_leaves_the_locks_of_this_process(tmp_path):
    """A closed file descriptor drops all locks of its process (fcntl(2)); opening must not close one."""
    import subprocess
    import sys

    store = make_store(tmp_path)
    # SQLite's shared lock: 510 bytes from 2^30 + 2 (sqlite.org/fileformat2.html, the lock-byte page).
    lock = "fcntl.lockf(open(sys.argv[1], 'rb+'), fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 2**30 + 2)"
    command = [sys.executable, "-c", f"import fcntl, sys; {lock}", store.settings.directory / "clinic.db"]
    with store.read() as session:
        session.execute(text("SELECT 1"))
        make_store(tmp_path).close()
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    store.close()
    assert "BlockingIOError" in found.stderr
