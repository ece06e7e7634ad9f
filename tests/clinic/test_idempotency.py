"""What a repeated request makes, on both kinds of database: nothing, also at the same moment."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from pneumoscope.core.errors import ConflictError
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.idempotency import Repeatable, once
from pneumoscope_clinic.store.tables import Batch, Idempotency
from tests.clinic.stores import add_user


def make(session: Session) -> str:
    batch = Batch()
    session.add(batch)
    session.flush()
    return batch.id


def rows(store: Store) -> tuple[int, int]:
    with store.read() as session:
        counts = [session.scalar(select(func.count()).select_from(table)) for table in (Batch, Idempotency)]
    return counts[0] or 0, counts[1] or 0


def test_at_the_same_moment(any_store: Store) -> None:
    user = add_user(any_store, "ada")
    starting = threading.Barrier(4)

    def slowly(session: Session) -> str:
        made = make(session)
        inside.append(made)
        threading.Event().wait(0.2)
        return made

    def ask(_: int) -> str:
        starting.wait()
        return once(any_store, Repeatable(user, "key", "f"), slowly)

    inside: list[str] = []
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, range(4)))

    assert len(set(answers)) == 1
    assert rows(any_store) == (1, 1)
    assert len(inside) == 1


def test_without_a_key_each_makes_its_own(any_store: Store) -> None:
    user = add_user(any_store, "ada")
    made = {once(any_store, Repeatable(user, None, "f"), make) for _ in range(2)}

    assert len(made) == 2
    assert rows(any_store) == (2, 0)


def test_another_request_with_the_key(any_store: Store) -> None:
    user = add_user(any_store, "ada")
    first = once(any_store, Repeatable(user, "key", "one"), make)

    assert once(any_store, Repeatable(user, "key", "one"), make) == first
    with pytest.raises(ConflictError):
        once(any_store, Repeatable(user, "key", "two"), make)
    assert rows(any_store) == (1, 1)


def test_what_fails_leaves_no_key(any_store: Store) -> None:
    user = add_user(any_store, "ada")

    def fails(session: Session) -> str:
        make(session)
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        once(any_store, Repeatable(user, "key", "f"), fails)
    assert rows(any_store) == (0, 0)
    assert once(any_store, Repeatable(user, "key", "f"), make)
