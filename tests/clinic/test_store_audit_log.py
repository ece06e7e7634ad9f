"""The audit log shows every change, on either database."""

import threading

import pytest
from sqlalchemy import delete, select, update

from pneumoscope.core.errors import ConfigError
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.tables import AuditEntry


def fill(store, rows=5):
    for number in range(rows):
        with store.write() as session:
            audit_log.append(store, session, "user:ä", "film.seen", f"{number:032x}", number=number)


def test_an_untouched_log_verifies(any_store):
    assert audit_log.verify(any_store).rows == 0
    fill(any_store)
    found = audit_log.verify(any_store)
    assert (found.rows, found.broken_at) == (5, None)
    with any_store.read() as session:
        assert audit_log.head(session) == (5, found.head)


@pytest.mark.parametrize(
    ("column", "value"),
    [("actor", "user:b"), ("action", "x"), ("object", "y"), ("at", "2020-01-01"), ("detail", {"number": 9})],
)
def test_a_changed_row_shows(store, column, value):
    fill(store)
    with store.write() as session:
        session.execute(update(AuditEntry).where(AuditEntry.id == 3).values({column: value}))
    found = audit_log.verify(store)
    assert (found.broken_at, found.reason) == (3, "the row was altered")


def test_another_key_does_not_fit(any_store, monkeypatch):
    audit_log.check_key(any_store)
    fill(any_store)
    audit_log.check_key(any_store)
    monkeypatch.setattr(any_store.cipher, "audit_key", bytes(32))
    with pytest.raises(ConfigError, match="does not fit"):
        audit_log.check_key(any_store)


def test_a_removed_row_shows(any_store):
    fill(any_store)
    with any_store.write() as session:
        session.execute(delete(AuditEntry).where(AuditEntry.id == 2))
    assert audit_log.verify(any_store).broken_at == 3


def test_rows_that_are_linked_again_without_the_key_show(store):
    fill(store)
    with store.write() as session:
        session.execute(delete(AuditEntry).where(AuditEntry.id == 5))
        fourth = session.get_one(AuditEntry, 4)
        session.add(
            AuditEntry(
                id=5,
                at=fourth.at,
                actor="x",
                action="y",
                object="",
                detail={},
                previous=fourth.hash,
                hash="0" * 64,
            )
        )
    assert audit_log.verify(store).broken_at == 5


def test_rows_cut_off_the_end_show_against_a_noted_head(store):
    fill(store)
    with store.read() as session:
        noted = audit_log.head(session)[1]
    fill(store, 1)
    assert audit_log.verify(store, noted).broken_at is None
    with store.write() as session:
        session.execute(delete(AuditEntry).where(AuditEntry.id >= 4))
    assert audit_log.verify(store).broken_at is None
    assert audit_log.verify(store, noted).broken_at == 4


def test_rows_of_many_writers_make_one_chain(any_store):
    failures = []

    def write():
        try:
            fill(any_store, 10)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert (audit_log.verify(any_store).rows, audit_log.verify(any_store).broken_at) == (50, None)


def test_a_change_and_its_row_come_together(store):
    def fail_after_it():
        with store.write() as session:
            audit_log.append(store, session, "a", "b")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_after_it()
    with store.read() as session:
        assert session.scalars(select(AuditEntry)).all() == []
