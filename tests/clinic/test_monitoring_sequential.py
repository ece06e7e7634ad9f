"""The sequential test: which images fill which window, when it looks, and how rare false alarms are."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, func, select

from pneumoscope_clinic.monitoring.drift import Bound, BundleReference
from pneumoscope_clinic.monitoring.sequential import (
    advance,
    baseline_restarted_at,
    progress,
    restart_baseline,
)
from pneumoscope_clinic.store.database import Store
from pneumoscope_clinic.store.tables import Study, WatchWindow, now
from tests.clinic.stores import BUNDLE, make_store, put_film

WINDOW = 80
NONE = BundleReference(())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = make_store(tmp_path, monitoring__window=WINDOW)
    yield made
    made.close()


class Stream:
    """Images that come in, a minute apart."""

    def __init__(self, store: Store) -> None:
        self.store, self.rng = store, np.random.default_rng(0)
        self.at: datetime = now() - timedelta(days=30)

    def add(self, count: int, *, gamma: float = 1.0, **values: Any) -> None:
        with self.store.write() as session:
            for _ in range(count):
                self.at += timedelta(minutes=1)
                drift = {
                    "mean": float(self.rng.normal(0.5, 0.05)) ** gamma,
                    "contrast": float(self.rng.normal(0.2, 0.02)),
                    "feature_distance": float(self.rng.gamma(50, 0.02)),
                }
                probability = float(self.rng.beta(1, 4))
                put_film(session, self.store, at=self.at, drift=drift, probability=probability, **values)


def test_two_windows_make_the_baseline_and_later_ones_are_compared(store: Store) -> None:
    stream = Stream(store)
    stream.add(WINDOW - 1)
    assert advance(store, BUNDLE, NONE) == []
    assert progress(store, BUNDLE).films_until_baseline == WINDOW + 1
    stream.add(1 + WINDOW)
    first, second = advance(store, BUNDLE, NONE)
    assert first.rows == second.rows == ()
    assert (first.complete, first.n) == (True, WINDOW)
    assert progress(store, BUNDLE).films_until_baseline == 0
    stream.add(WINDOW)
    *interim, look = advance(store, BUNDLE, NONE)
    assert [(one.complete, one.n) for one in interim] == [(False, n * WINDOW // 4) for n in (1, 2, 3)]
    assert look.level == pytest.approx(0.005)
    assert {row.reference_n for row in look.rows if row.quantity == "mean"} == {2 * WINDOW}
    assert not any(row.drifted for row in look.rows)
    assert progress(store, BUNDLE).last == look


def test_a_window_is_closed_once(store: Store) -> None:
    stream = Stream(store)
    stream.add(2 * WINDOW)
    assert len(advance(store, BUNDLE, NONE)) == 2
    assert advance(store, BUNDLE, NONE) == []
    with store.read() as session:
        assert session.scalar(select(func.count()).select_from(WatchWindow)) == 2


def test_quarters_are_looked_at_with_a_sixth_of_the_rate(store: Store) -> None:
    stream = Stream(store)
    stream.add(2 * WINDOW)
    advance(store, BUNDLE, NONE)
    stream.add(WINDOW // 4 - 1, gamma=3.0)
    assert advance(store, BUNDLE, NONE) == []
    stream.add(1, gamma=3.0)
    (look,) = advance(store, BUNDLE, NONE)
    assert (look.complete, look.n) == (False, WINDOW // 4)
    assert look.level == pytest.approx(0.01 / 6)
    assert [row.quantity for row in look.rows if row.drifted] == ["mean"]
    stream.add(5, gamma=3.0)
    assert advance(store, BUNDLE, NONE) == []


def test_the_baseline_is_compared_with_the_bundle_alone(store: Store) -> None:
    stream = Stream(store)
    stream.add(WINDOW)
    (look,) = advance(store, BUNDLE, BundleReference((Bound("feature_distance", 0.5, 4, 521),)))
    (row,) = look.rows
    assert (row.quantity, row.drifted) == ("beyond_feature_distance", True)


def test_a_patient_counts_once_in_a_window(store: Store) -> None:
    stream = Stream(store)
    for _ in range(3):
        stream.add(WINDOW, patient="the same")
    assert advance(store, BUNDLE, NONE) == []
    stream.add(WINDOW - 1)
    (look,) = advance(store, BUNDLE, NONE)
    assert look.n == WINDOW


def test_films_of_one_study_count_once(store: Store) -> None:
    with store.write() as session:
        study = Study()
        session.add(study)
        session.flush()
        for _ in range(WINDOW):
            put_film(session, store, study_id=study.id)
    assert advance(store, BUNDLE, NONE) == []
    assert progress(store, BUNDLE).films_until_window == WINDOW - 1


def test_bundles_have_windows_of_their_own_and_silent_films_count(store: Store) -> None:
    stream = Stream(store)
    stream.add(WINDOW, shadow=True)
    stream.add(WINDOW, bundle_id="other@1")
    assert len(advance(store, BUNDLE, NONE)) == 1
    assert len(advance(store, "other@1", NONE)) == 1


def test_the_baseline_survives_the_deletion_of_its_films(store: Store) -> None:
    stream = Stream(store)
    stream.add(2 * WINDOW)
    advance(store, BUNDLE, NONE)
    with store.write() as session:
        session.execute(delete(Study))
    stream.add(WINDOW, gamma=2.0)
    *_, look = advance(store, BUNDLE, NONE)
    assert "mean" in [row.quantity for row in look.rows if row.drifted]


def test_a_new_baseline_forgets_the_old_one(store: Store) -> None:
    stream = Stream(store)
    stream.add(2 * WINDOW)
    advance(store, BUNDLE, NONE)
    assert baseline_restarted_at(store, BUNDLE) is None
    restart_baseline(store, BUNDLE, "anna")
    assert baseline_restarted_at(store, BUNDLE) is not None
    assert progress(store, BUNDLE) == progress(store, BUNDLE)
    assert progress(store, BUNDLE).films_until_baseline == 2 * WINDOW
    stream.at = now()
    stream.add(2 * WINDOW, gamma=2.0)
    stream.add(WINDOW, gamma=2.0)
    looks = advance(store, BUNDLE, NONE)
    assert [look.complete for look in looks] == [True, True, False, False, False, True]
    assert not any(row.drifted for row in looks[-1].rows)


def test_a_window_that_is_made_smaller_is_closed_with_the_next_film(tmp_path: Path) -> None:
    store = make_store(tmp_path, monitoring__window=WINDOW)
    stream = Stream(store)
    stream.add(WINDOW - 10)
    assert advance(store, BUNDLE, NONE) == []
    store.close()
    store = make_store(tmp_path, monitoring__window=WINDOW // 2)
    stream.store = store
    stream.add(1)
    (look,) = advance(store, BUNDLE, NONE)
    assert (look.complete, look.n) == (True, WINDOW - 9)
    store.close()
