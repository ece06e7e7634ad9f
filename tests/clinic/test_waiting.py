"""Waiting for jobs: woken by a notification, and without it before long."""

import asyncio
import time

import pytest

from pneumoscope_clinic.store.notification import notify
from pneumoscope_clinic.store.queue import Queue, finish
from pneumoscope_clinic.web import waiting
from pneumoscope_clinic.web.waiting import Waiting
from tests.clinic.stores import add_film, make_store


def settle(store, film_id):
    queue = Queue(store)
    claim = queue.claim(["examine"])
    assert claim.film_id == film_id
    with store.write() as session:
        finish(session, claim)


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path)


@pytest.fixture
def film_id(store):
    return add_film(store, examined=False)


async def until_settled(store, film_id, rings):
    waits = Waiting(store)
    who = [asyncio.create_task(waits.settled(film_id, "examine", 30)) for _ in range(3)]
    listeners = store.settings.directory / "notifications" / "done"
    while len(waits) < 3 or not list(listeners.glob("*")):
        await asyncio.sleep(0.01)
    await asyncio.to_thread(settle, store, film_id)
    started = time.monotonic()
    if rings:
        notify(store.settings.directory, "done")
    assert await asyncio.gather(*who) == [True] * 3
    seconds = time.monotonic() - started
    assert len(waits) == 0
    await waits._loop
    assert not list(listeners.iterdir())
    return seconds


def test_a_notification_wakes_all_who_wait(store, film_id, monkeypatch):
    monkeypatch.setattr(waiting, "_LOOK_S", 20)
    assert asyncio.run(until_settled(store, film_id, rings=True)) < 10


def test_a_job_that_is_settled_without_a_ring_is_seen_too(store, film_id):
    assert asyncio.run(until_settled(store, film_id, rings=False)) < 10


def test_a_job_that_was_settled_before_is_seen_at_once(store, film_id, monkeypatch):
    monkeypatch.setattr(waiting, "_LOOK_S", 20)
    settle(store, film_id)
    started = time.monotonic()
    assert asyncio.run(Waiting(store).settled(film_id, "examine", 15))
    assert time.monotonic() - started < 10


def test_who_waits_long_enough_hears_that_it_is_not_settled(store, film_id):
    assert not asyncio.run(Waiting(store).settled(film_id, "examine", 0.3))
