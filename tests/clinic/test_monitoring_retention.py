"""With few images and a short retention, windows and blocks are those that would be without any deletion."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import func, select

from pneumoscope_clinic.monitoring.agreement import BLOCK, Block, advance_agreement
from pneumoscope_clinic.monitoring.drift import BundleReference
from pneumoscope_clinic.monitoring.sequential import Look, advance, progress, restart_baseline
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.retention import apply_retention, delete_study
from pneumoscope_clinic.store.tables import Film, WatchWindow, now
from tests.clinic.stores import BUNDLE, add_feedback, add_film, make_store, new_postgres, put_film

WINDOW, DAYS = 40, 3
NONE = BundleReference(())


@contextmanager
def kept_for(folder: Path, days: int | None, **settings: Any) -> Iterator[Store]:
    store = make_store(folder, privacy__retain_days=days, **{"monitoring__window": WINDOW, **settings})
    try:
        yield store
    finally:
        store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> dict[str, str]:
    if request.param == "sqlite":
        return {}
    return {"database__url": new_postgres(request.getfixturevalue("postgres"))}


def live(store: Store, start: datetime, days: range, patients: int = 1000) -> list[Look]:
    """Five images a day, with a check and a retention run on each; all looks.

    The clock stands still: images of more than :data:`DAYS` ago go in the evening of the day they come.
    """
    looks = []
    for day in days:
        rng = np.random.default_rng(day)
        with store.write() as session:
            for number in range(5):
                drift = {"mean": float(rng.normal(0.5, 0.05))}
                facts = {"manufacturer": f"maker {number % 2}"}
                at, patient = start + timedelta(days=day, seconds=number), str(5 * day % patients + number)
                put_film(session, store, at=at, patient=patient, drift=drift, facts=facts)
        looks += advance(store, BUNDLE, NONE)
        apply_retention(store)
    return looks


def test_windows_are_those_of_films_that_stay(tmp_path: Path, database: dict[str, str]) -> None:
    start, days = now() - timedelta(days=30, minutes=1), range(30)
    with kept_for(tmp_path / "all", None) as every, kept_for(tmp_path / "few", DAYS, **database) as few:
        expected, found = live(every, start, days), live(few, start, days)
        assert found == expected
        assert sum(look.complete for look in found) == 3
        assert any(not look.complete for look in found)
        assert progress(few, BUNDLE) == progress(every, BUNDLE)
        with few.read() as session:
            assert session.scalar(select(func.count()).select_from(Film)) == 5 * (DAYS - 1)
            kinds = session.scalars(select(WatchWindow.kind).order_by(WatchWindow.kind)).all()
        assert kinds == ["films", "films", "films", "films-part"]


def test_a_patient_counts_once_also_when_the_first_film_is_deleted(tmp_path: Path) -> None:
    start, days = now() - timedelta(days=30), range(20)
    with kept_for(tmp_path / "all", None) as every, kept_for(tmp_path / "few", DAYS) as few:
        assert live(few, start, days, patients=20) == live(every, start, days, patients=20) == []
        assert progress(few, BUNDLE) == progress(every, BUNDLE)
        assert progress(few, BUNDLE).films_until_window == WINDOW - 20


def test_a_new_baseline_begins_without_what_was_deleted(tmp_path: Path) -> None:
    with kept_for(tmp_path, DAYS) as store:
        live(store, now() - timedelta(days=30), range(5))
        assert progress(store, BUNDLE).films_until_window == WINDOW - 25
        restart_baseline(store, BUNDLE, "anna")
        assert progress(store, BUNDLE).films_until_window == WINDOW


def test_a_study_that_is_deleted_by_hand_before_it_is_counted_is_not_counted(tmp_path: Path) -> None:
    with kept_for(tmp_path, DAYS) as store:
        film_id = add_film(store)
        with store.read() as session:
            study_id = session.get_one(Film, film_id).study_id
        delete_study(store, study_id, "anna")
        assert progress(store, BUNDLE).films_until_window == WINDOW


def test_films_of_a_look_that_is_over_are_not_looked_at_again(tmp_path: Path) -> None:
    with kept_for(tmp_path, DAYS) as store:
        live(store, now() - timedelta(days=30), range(16))
        old = now() - timedelta(days=DAYS, minutes=1)
        for count, looks in ((25, [20]), (0, []), (5, [30])):
            with store.write() as session:
                for number in range(count):
                    put_film(session, store, at=old + timedelta(seconds=number))
            assert [look.n for look in advance(store, BUNDLE, NONE)] == looks
            apply_retention(store)
            old += timedelta(seconds=30)


def give(store: Store, start: datetime) -> list[Block]:
    """One image with feedback a day; the reader of every fourth one disagrees."""
    blocks = []
    for day in range(BLOCK + 5):
        at = start + timedelta(days=day)
        film_id = add_film(store, at=at)
        add_feedback(store, film_id, agrees=day % 4 != 0, at=at)
        add_feedback(store, film_id, agrees=False, at=at + timedelta(hours=1))  # a second word
        blocks += advance_agreement(store, BUNDLE)
        apply_retention(store)
    return blocks


def test_feedback_fills_blocks_though_its_films_go(tmp_path: Path, database: dict[str, str]) -> None:
    start = now() - timedelta(days=60)
    with kept_for(tmp_path / "all", None) as every, kept_for(tmp_path / "few", DAYS, **database) as few:
        expected, found = give(every, start), give(few, start)
    assert found == expected
    assert [(block.n, block.agreed) for block in found] == [(BLOCK, 37)]
