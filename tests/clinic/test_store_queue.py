"""Each job is done once, by one worker at a time, on either database; crashes are counted."""

import threading
from collections import Counter

import pytest

from pneumoscope_clinic.settings import LimitSettings
from pneumoscope_clinic.store.queue import Claim, LeaseLostError, Queue, add_job, fail, finish
from pneumoscope_clinic.store.tables import Film, Job, Study, new_id

LEASE_S = LimitSettings().lease_seconds


def queue_films(store, count, kind="examine"):
    ids = []
    with store.write() as session:
        for _ in range(count):
            film = Film(id=new_id(), study=Study(id=new_id()), source="api", sha256="0" * 64, size=1)
            session.add(film)
            session.flush()
            add_job(session, film.id, kind)
            ids.append(film.id)
    return ids


def test_jobs_come_in_order_and_once(any_store):
    ids = queue_films(any_store, 3)
    queue = Queue(any_store)
    claims = [queue.claim(["examine"]) for _ in range(4)]
    assert [claim.film_id for claim in claims[:3]] == ids
    assert claims[3] is None
    assert queue.depth() == {("examine", "running"): 3}
    assert queue.has_others(claims[0])
    for claim in claims[1:3]:
        with any_store.write() as session:
            finish(session, claim)
    assert not queue.has_others(claims[0])


def test_only_the_asked_kinds(store):
    queue_films(store, 1, "deliver")
    queue = Queue(store)
    assert queue.claim(["examine", "picture"]) is None
    assert queue.claim(["deliver"]).kind == "deliver"


def test_finish_needs_the_lease_and_happens_with_the_callers_change(any_store):
    queue_films(any_store, 1)
    queue = Queue(any_store)
    claim = queue.claim(["examine"])
    stranger = Claim(claim.job_id, claim.film_id, "examine", "", 1, "f" * 32)

    def finish_as(whose):
        with any_store.write() as session:
            session.add(Study(id="9" * 32))
            session.flush()
            finish(session, whose)

    with pytest.raises(LeaseLostError):
        finish_as(stranger)
    with any_store.read() as session:
        assert session.get(Study, "9" * 32) is None
    with any_store.write() as session:
        finish(session, claim)
    with pytest.raises(LeaseLostError), any_store.write() as session:
        finish(session, claim)
    with pytest.raises(LeaseLostError):
        queue.renew(claim)


def test_an_abandoned_job_goes_to_another_and_the_first_is_told(store, clock):
    queue_films(store, 1)
    queue = Queue(store)
    first = queue.claim(["examine"])
    assert queue.claim(["examine"]) is None
    clock.advance(LEASE_S + 1)
    second = queue.claim(["examine"])
    assert (second.job_id, second.attempts) == (first.job_id, 2)
    with pytest.raises(LeaseLostError), store.write() as session:
        finish(session, first)
    with store.write() as session:
        finish(session, second)


def test_a_renewed_lease_holds(store, clock):
    queue_films(store, 1)
    queue = Queue(store)
    claim = queue.claim(["examine"])
    for _ in range(4):
        clock.advance(LEASE_S - 1)
        queue.renew(claim)
        assert queue.claim(["examine"]) is None


def test_a_retry_waits_and_says_why(store, clock):
    [film_id] = queue_films(store, 1)
    queue = Queue(store)
    queue.retry(queue.claim(["examine"]), {"problem": "away"}, 10)
    assert queue.claim(["examine"]) is None
    assert queue.settled([film_id], "examine") == set()
    with store.read() as session:
        assert session.query(Job).one().problem == {"problem": "away"}
    clock.advance(9)
    assert queue.claim(["examine"]) is None
    clock.advance(1)
    again = queue.claim(["examine"])
    assert again.attempts == 2
    with store.write() as session:
        fail(session, again, {"problem": "gone"})
    assert queue.settled([film_id], "examine") == {film_id}
    assert queue.depth() == {("examine", "failed"): 1}


def test_crashes_are_counted_and_forgotten_when_the_job_is_revived(store):
    queue_films(store, 1)
    queue = Queue(store)
    for crashes in range(3):
        claim = queue.claim(["examine"])
        assert claim.crashes == crashes
        queue.retry(claim, {"problem": "crashed"}, 0, crashed=True)
    queue.retry(queue.claim(["examine"]), {"problem": "another one"}, 0)
    claim = queue.claim(["examine"])
    assert claim.crashes == 3
    queue.fail(claim, {"problem": "gone", "fault": "ours"})
    assert queue.revive("examine", "test") == 1
    assert queue.claim(["examine"]).crashes == 0


def test_a_job_exists_once_for_each_film_kind_and_target(any_store):
    from sqlalchemy.exc import IntegrityError

    [film_id] = queue_films(any_store, 1)
    with any_store.write() as session:
        add_job(session, film_id, "deliver", "one")
        add_job(session, film_id, "deliver", "two")
    with pytest.raises(IntegrityError), any_store.write() as session:
        add_job(session, film_id, "deliver", "two")


def test_many_workers_do_every_job_once(any_store):
    ids = queue_films(any_store, 60)
    done: Counter[str] = Counter()
    failures = []

    def work():
        queue = Queue(any_store)
        try:
            while (claim := queue.claim(["examine"])) is not None:
                done[claim.film_id] += 1
                with any_store.write() as session:
                    finish(session, claim)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert done == Counter(ids)
