"""Stores for the tests of the clinic: on SQLite, and on PostgreSQL where it is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import argon2.profiles
import pytest

from pneumoscope_clinic.store import tables
from pneumoscope_clinic.store.database import Store
from tests.clinic.postgres import postgres_server
from tests.clinic.stores import make_store, new_postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """URL of a PostgreSQL server without a database's name."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session", autouse=True)
def cheap_passwords() -> Iterator[None]:
    """Hashes of passwords that cost nothing."""
    cheap = argon2.Parameters(argon2.Type.ID, 19, 16, 32, time_cost=1, memory_cost=8, parallelism=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argon2.profiles, "RFC_9106_LOW_MEMORY", cheap)
        yield


class Clock:
    """Stands still until it is advanced."""

    def __init__(self) -> None:
        self.present = datetime(2026, 3, 4, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.present

    def advance(self, seconds: float) -> None:
        self.present += timedelta(seconds=seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of all stores, set to a fixed time."""
    clock = Clock()
    monkeypatch.setattr(tables, "clock", clock)
    return clock


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty store on SQLite."""
    opened = make_store(tmp_path)
    yield opened
    opened.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty store on each kind of database."""
    settings = {}
    if request.param == "postgresql":
        settings["database__url"] = new_postgres(request.getfixturevalue("postgres"))
    opened = make_store(tmp_path, **settings)
    yield opened
    opened.close()


@pytest.fixture
def films_folder() -> Path:
    """The folder of real images that PNEUMOSCOPE_DATA names."""
    folder = os.environ.get("PNEUMOSCOPE_DATA")
    if not folder:
        pytest.skip("PNEUMOSCOPE_DATA names no real images")
    return Path(folder)
