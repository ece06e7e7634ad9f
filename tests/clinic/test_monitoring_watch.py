"""Monitoring loop: alarms open and end with their cause, and one of several processes runs each check."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from pneumoscope_clinic.monitoring import watch
from pneumoscope_clinic.monitoring.alarms import alarm_rows
from pneumoscope_clinic.monitoring.sequential import restart_baseline
from pneumoscope_clinic.monitoring.watch import Watcher, check
from pneumoscope_clinic.store.database import Store, open_store
from pneumoscope_clinic.store.queue import Queue, take_periodic_job
from pneumoscope_clinic.store.tables import Job, PeriodicJob, now
from tests.clinic.stores import BUNDLE, add_bundle, add_feedback, add_film, make_store, put_film
from tests.tiny_bundle import write_tiny_bundle

WINDOW = 40


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = make_store(tmp_path, monitoring__window=WINDOW)
    # The row leads to a bundle that is gone: images are compared with the baseline alone.
    add_bundle(made, at=now() - timedelta(days=40), location=str(tmp_path / "gone"))
    yield made
    made.close()


def kinds(store: Store) -> list[str]:
    with store.read() as session:
        return sorted(row.kind for row in alarm_rows(session))


def add(store: Store, count: int, days_ago: float, gamma: float = 1.0, bundle_id: str = BUNDLE) -> None:
    rng = np.random.default_rng(int(10 * days_ago))
    start = now() - timedelta(days=days_ago)
    with store.write() as session:
        for number in range(count):
            drift = {"mean": float(rng.normal(0.5, 0.05)) ** gamma}
            at = start + timedelta(seconds=number)
            probability = float(rng.beta(1, 4))
            put_film(session, store, at=at, drift=drift, probability=probability, bundle_id=bundle_id)


def test_drift_opens_an_alarm_that_ends_with_it(store: Store) -> None:
    add(store, 2 * WINDOW, 20)
    assert check(store).opened == ()
    add(store, WINDOW, 10, gamma=2.0)
    found = check(store)
    assert found.opened == ("drift:mean",)
    with store.read() as session:
        (alarm,) = alarm_rows(session)
    assert alarm.message.startswith("Mean grey level: 0.25")
    assert "in the last 20 images" in alarm.message  # the first look
    assert alarm.limit == pytest.approx(0.01 / 6)
    assert check(store).opened == ()
    add(store, WINDOW, 5)
    assert check(store).resolved == ("drift:mean",)
    assert kinds(store) == []


def test_a_new_bundle_and_a_new_baseline_end_alarms_about_the_old_one(store: Store) -> None:
    add(store, 2 * WINDOW, 20)
    add(store, WINDOW, 10, gamma=2.0)
    assert check(store).opened == ("drift:mean",)
    restart_baseline(store, BUNDLE, "anna")
    assert check(store).resolved == ("drift:mean",)


def test_unusual_films_are_found_by_the_bundles_own_bound(tmp_path: Path) -> None:
    gate = {"warn_distance": 1.5, "refuse_distance": 3.0, "false_refusal_rate": 0.01, "n": 500}
    bundle = write_tiny_bundle(tmp_path / "bundle", gate=gate)
    store = make_store(tmp_path, monitoring__window=WINDOW, bundle=str(bundle.directory))
    start = now() - timedelta(days=1)
    with store.write() as session:
        for number in range(WINDOW):
            at = start + timedelta(seconds=number)
            drift = {"feature_distance": 2.0 if number % 4 == 0 else 1.0}
            put_film(session, store, at=at, drift=drift, bundle_id=bundle.id)
    assert check(store).opened == ("drift:beyond_feature_distance",)
    store.close()


def test_disagreement_opens_an_alarm(store: Store) -> None:
    start = now() - timedelta(days=1)
    for number in range(50):
        at = start + timedelta(seconds=number)
        add_feedback(store, add_film(store, at=at), agrees=number % 2 == 0, at=at)
    assert check(store).opened == ("agreement",)
    with store.read() as session:
        (alarm,) = alarm_rows(session)
    assert (alarm.value, alarm.limit) == (0.5, 0.85)
    assert "25 of 50" in alarm.message


def test_a_film_that_waits_too_long_opens_an_alarm_until_it_is_done(store: Store) -> None:
    add_film(store, examined=False, at=now() - timedelta(minutes=10))
    assert check(store).opened == ()
    waiting = add_film(store, examined=False, at=now() - timedelta(minutes=20))
    assert check(store).opened == ("queue",)
    with store.write() as session:
        session.query(Job).filter(Job.film_id == waiting).one().state = "done"
    assert check(store).resolved == ("queue",)


def test_a_film_in_the_hands_of_a_dead_worker_waits_too(store: Store) -> None:
    add_film(store, examined=False, at=now() - timedelta(minutes=20))
    assert Queue(store).claim(["examine"]) is not None
    with store.write() as session:
        session.query(Job).one().lease_until = now() - timedelta(minutes=10)
    assert check(store).opened == ("queue",)
    with store.write() as session:  # it has failed, and is put off until later
        job = session.query(Job).one()
        job.state, job.due_at = "waiting", now() + timedelta(minutes=5)
    assert check(store).resolved == ("queue",)


def test_work_that_was_given_up_opens_an_alarm_unless_the_film_was_at_fault(store: Store) -> None:
    with store.write() as session:
        for fault, kind in (("input", "examine"), ("ours", "deliver")):
            film = put_film(session, store)
            session.flush()
            job = Job(film_id=film, kind=kind, target="pacs", state="failed", finished_at=now())
            job.problem = {"fault": fault}
            session.add(job)
    assert check(store).opened == ("failures",)
    with store.read() as session:
        (alarm,) = alarm_rows(session)
    assert alarm.message.endswith(": 1 x deliver")


def test_a_periodic_job_is_taken_once_in_its_period(store: Store) -> None:
    assert take_periodic_job(store, "test", timedelta(hours=1))
    assert not take_periodic_job(store, "test", timedelta(hours=1))
    with store.write() as session:
        session.get_one(PeriodicJob, "test").due_at = now() - timedelta(seconds=1)
    other = open_store(store.settings)
    taken: list[bool] = []
    threads = [
        threading.Thread(target=lambda s=s: taken.append(take_periodic_job(s, "test", timedelta(hours=1))))
        for s in (store, other, store, other)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    other.close()
    assert sorted(taken) == [False, False, False, True]


def test_a_periodic_job_that_a_wrong_clock_put_off_for_years_is_due(store: Store) -> None:
    period = timedelta(hours=1)
    with store.write() as session:
        session.add(PeriodicJob(name="test", due_at=now() + timedelta(days=1500)))
        ahead = now() + timedelta(seconds=5)  # by another machine's clock
        session.add(PeriodicJob(name="other", due_at=ahead + period))
    assert take_periodic_job(store, "test", period)
    assert not take_periodic_job(store, "test", period)
    assert not take_periodic_job(store, "other", period)


def test_of_two_watchers_one_checks_and_applies_the_retention_policy(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    monkeypatch.setattr(watch, "check", lambda store: done.append("check"))
    monkeypatch.setattr(watch, "retain", lambda store: done.append("retention"))
    stop = threading.Event()
    other = open_store(store.settings)
    threads = [threading.Thread(target=Watcher(s).run, args=(stop,)) for s in (store, other)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 10
    while len(done) < 2 and time.monotonic() < end:
        time.sleep(0.02)
    time.sleep(0.1)
    stop.set()
    for thread in threads:
        thread.join()
    other.close()
    assert sorted(done) == ["check", "retention"]


def test_a_pass_that_fails_does_not_end_the_watch(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stop = threading.Event()

    def retention(_: Store) -> None:
        stop.set()

    def broken(_: Store) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr(watch, "check", broken)
    monkeypatch.setattr(watch, "retain", retention)
    Watcher(store).run(stop)
    assert "monitor failed" in caplog.text
