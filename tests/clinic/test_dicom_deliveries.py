"""Deliveries: retried, given up, and never forgotten; with clients that do what a test tells them."""

import logging
import random
import threading
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from pneumoscope.core.errors import DeliveryError, InputError
from pneumoscope_clinic.dicom import circuit_breaker, deliveries
from pneumoscope_clinic.dicom.circuit_breaker import LONGEST_PAUSE_S, pause_after
from pneumoscope_clinic.dicom.deliveries import Deliverer, client_of, retry_now
from pneumoscope_clinic.dicom.http_clients import FhirClient, StowClient
from pneumoscope_clinic.dicom.storage_client import StorageClient
from pneumoscope_clinic.store.queue import LeaseLostError, Queue, add_job
from pneumoscope_clinic.store.retention import delete_study
from pneumoscope_clinic.store.tables import AuditEntry, Film, Job, now
from tests.clinic.film_results import film_result, header
from tests.clinic.stores import add_film, make_store, new_postgres

PACS = {"name": "pacs", "kind": "dimse", "host": "127.0.0.1", "port": 1, "ae_title": "PACS"}
WEB = {"name": "web", "kind": "stow", "url": "http://127.0.0.1:1"}
RECORDS = {"name": "records", "kind": "fhir", "url": "http://127.0.0.1:1"}


class FakeClient:
    """Takes results, or raises what ``errors`` says next, and status 500 for the images in ``bad``."""

    def __init__(self):
        self.asked = []
        self.taken = []
        self.errors = []
        self.bad = set()

    def deliver(self, study):
        film_id = study.films[0].film_id
        self.asked.append(film_id)
        if film_id in self.bad:
            raise DeliveryError.down("the server answered 500")
        if self.errors:
            raise self.errors.pop(0)
        self.taken.append(study)
        return 2

    def check(self):
        pass


@pytest.fixture(autouse=True)
def results(monkeypatch):
    """Results without pixels to decode; the identity decides whether there is a header."""

    def load(store, film_id, image, *, identified):
        with store.read() as session:
            identified = session.get_one(Film, film_id).identity is not None
        return replace(film_result(header() if identified else None), film_id=film_id)

    monkeypatch.setattr(deliveries, "load_result", load)
    monkeypatch.setattr(Deliverer, "_ready", lambda self: None)


@pytest.fixture
def client():
    return FakeClient()


@pytest.fixture(params=["sqlite"])
def clinic(request, tmp_path):
    """Makes a store with destinations; closed at the end."""
    opened = []

    def make(*destinations, **settings):
        if request.param == "postgresql":
            url = new_postgres(request.getfixturevalue("postgres"))
            settings["database__url"] = url
        opened.append(make_store(tmp_path, destinations=list(destinations) or [PACS], **settings))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


on_each_database = pytest.mark.parametrize("clinic", ["sqlite", "postgresql"], indirect=True)


@pytest.fixture
def clock(clock, monkeypatch):
    """The clock of stores, also for circuit breakers; jitter is the same each time."""
    random.seed(1)
    standing = SimpleNamespace(monotonic=lambda: clock().timestamp())
    monkeypatch.setattr(circuit_breaker, "time", standing)
    return clock


def queued(store, *targets, identity=b"sealed"):
    """An image with its result and deliveries; its id."""
    film_id = add_film(store, identity=identity)
    with store.write() as session:
        for target in targets or ("pacs",):
            add_job(session, film_id, "deliver", target)
    return film_id


def job(store, film_id, target="pacs"):
    with store.read() as session:
        return session.scalars(select(Job).where(Job.film_id == film_id, Job.target == target)).one()


def identity(store, film_id):
    with store.read() as session:
        return session.get_one(Film, film_id).identity


def work(store, deliver, most=50):
    """Do what is due; how many jobs that were."""
    queue, done = Queue(store), 0
    while done < most and (claim := queue.claim(["deliver"])):
        deliver(claim)
        done += 1
    return done


def make_due(store):
    with store.write() as session:
        session.query(Job).filter_by(state="waiting").update({"due_at": now() - timedelta(seconds=1)})


def deliverer(store, client):
    return Deliverer(store, lambda settings, destination: client)


@on_each_database
def test_a_result_is_delivered_once_and_the_identity_goes(clinic, client):
    store = clinic()
    film_id = queued(store)

    assert work(store, deliverer(store, client)) == 1
    assert work(store, deliverer(store, client)) == 0

    ((film,),) = [study.films for study in client.taken]
    assert film.film_id == film_id
    assert film.header is not None
    assert job(store, film_id).state == "done"
    assert identity(store, film_id) is None
    with store.read() as session:
        entry = session.scalars(select(AuditEntry).order_by(AuditEntry.id.desc())).first()
    assert (entry.action, entry.object, entry.detail) == (
        "result.delivered",
        film_id,
        {"to": "pacs", "objects": 2},
    )


@on_each_database
def test_the_identity_stays_until_the_last_destination_has_its_results(clinic, client):
    store = clinic(PACS, WEB)
    film_id = queued(store, "pacs", "web")
    client.errors = [DeliveryError("refused")]
    deliver = deliverer(store, client)

    work(store, deliver)
    assert {job(store, film_id, name).state for name in ("pacs", "web")} == {"done", "waiting"}
    assert identity(store, film_id) == b"sealed"

    make_due(store)
    work(store, deliver)
    assert identity(store, film_id) is None


def test_identities_are_kept_where_the_configuration_says_so(clinic, client):
    store = clinic(privacy__keep_identities="always")
    film_id = queued(store)
    work(store, deliverer(store, client))
    assert identity(store, film_id) == b"sealed"


@on_each_database
def test_a_failure_is_tried_again_after_a_pause_that_grows(clinic, client, caplog):
    store = clinic()
    film_id = queued(store)
    client.errors = [DeliveryError("refused", remedy="allow it") for _ in range(4)]
    deliver, pauses = deliverer(store, client), []
    for _ in range(4):
        make_due(store)
        before = now()
        assert work(store, deliver) == 1
        pauses.append((job(store, film_id).due_at - before).total_seconds())
    waiting = job(store, film_id)
    assert (waiting.state, waiting.attempts) == ("waiting", 4)
    assert waiting.problem["problem"] == "refused"
    assert waiting.problem["remedy"] == "allow it"
    for number, pause in enumerate(pauses):
        assert 0.5 * 2**number <= pause <= 2**number + 1

    make_due(store)
    work(store, deliver)
    assert job(store, film_id).state == "done"
    assert job(store, film_id).problem is None
    assert len(client.taken) == 1


def test_the_pause_has_an_upper_limit_and_chance_in_it():
    assert [pause_after(attempts, lambda: 1.0) for attempts in (1, 2, 5)] == [1, 2, 16]
    assert pause_after(2, lambda: 0.0) == 1.0
    assert pause_after(10_000, lambda: 1.0) == LONGEST_PAUSE_S


@on_each_database
def test_a_destination_that_is_down_is_asked_by_one_film_and_all_follow_when_it_is_back(clinic, client):
    store = clinic()
    films = [queued(store) for _ in range(5)]
    client.errors = [DeliveryError.down("nobody there") for _ in range(5)]
    deliver = deliverer(store, client)

    assert work(store, deliver) == 5
    assert len(client.errors) == 4  # one asked
    assert {job(store, film).problem["problem"] for film in films} == {"nobody there"}
    assert {job(store, film).state for film in films} == {"waiting"}

    client.errors = []
    deliver._states["pacs"].until = 0
    with store.write() as session:  # one is due, the others would wait for an hour
        session.query(Job).update({"due_at": now() + timedelta(hours=1)})
        session.query(Job).filter_by(film_id=films[0], kind="deliver").update({"due_at": now()})
    assert work(store, deliver) == 5
    assert len(client.taken) == 5


@pytest.mark.parametrize("bad", [1, 4])
def test_a_result_that_fails_alone_holds_up_nothing_but_itself(clinic, client, clock, bad):
    store = clinic()
    films = [queued(store) for _ in range(bad + 5)]
    client.bad = set(films[:bad])  # they are the first in the queue
    deliver = deliverer(store, client)

    seconds = 0
    while len(client.taken) < 5:
        work(store, deliver)
        clock.advance(1)
        seconds += 1
        assert seconds <= 2 + 2 ** (bad + 1)

    for _ in range(600):
        clock.advance(1)
        work(store, deliver)
    new = []
    for _ in range(60):  # ten minutes
        new.append(queued(store))
        for _ in range(3):  # a new one leaves within that
            work(store, deliver)
            clock.advance(1)
        assert job(store, new[-1]).state == "done"
        clock.advance(7)
    assert {job(store, film).state for film in films[:bad]} == {"waiting"}
    for film in films[:bad]:  # the fault may go away, and then they are taken, too
        assert 3 <= client.asked.count(film) <= 30
    client.bad = set()
    make_due(store)
    work(store, deliver)
    assert len(client.taken) == bad + 5 + len(new)


def test_another_job_asks_each_time_and_all_follow_when_the_destination_is_back(clinic, client, clock):
    store = clinic()
    queued(store)
    deliver = deliverer(store, client)
    work(store, deliver)
    assert len(client.taken) == 1

    films = [queued(store) for _ in range(4)]
    client.bad = set(films)
    for _ in range(30):  # the destination is away
        work(store, deliver)
        clock.advance(1)
    first, *asked = client.asked[1:]
    others = [film for film in asked if film != first]
    assert set(others[:3]) == set(films) - {first}
    assert len(others) <= 8

    client.bad = set()
    for _ in range(40):
        if client.taken[1:]:
            break
        clock.advance(1)
        work(store, deliver)
    assert len(client.taken) >= 4  # all but, perhaps, the one that failed where another got through


def test_one_destination_that_is_down_holds_no_other_up(clinic, client):
    store = clinic(PACS, WEB)
    film_id = queued(store, "pacs", "web")
    down = FakeClient()
    down.errors = [DeliveryError.down("nobody there")]
    deliver = Deliverer(store, lambda settings, destination: down if destination.name == "pacs" else client)

    work(store, deliver)

    assert job(store, film_id, "pacs").state == "waiting"
    assert job(store, film_id, "web").state == "done"


@on_each_database
def test_what_is_too_old_is_given_up_and_can_be_sent_all_the_same(clinic, client, caplog):
    store = clinic(deliver_days=2)
    film_id = queued(store)
    deliver = deliverer(store, client)
    client.errors = [DeliveryError("refused")] * 2
    with store.write() as session:
        session.query(Job).filter_by(kind="deliver").update({"created_at": now() - timedelta(days=1.9)})
    work(store, deliver)
    assert job(store, film_id).state == "waiting"
    with store.write() as session:
        session.query(Job).filter_by(kind="deliver").update({"created_at": now() - timedelta(days=2.1)})
    make_due(store)
    work(store, deliver)
    assert job(store, film_id).state == "failed"
    assert job(store, film_id).problem["problem"] == "refused"
    assert identity(store, film_id) == b"sealed"  # otherwise it could not be sent any more
    assert "given up for pacs: refused" in caplog.text

    assert retry_now(store, "test") == 1
    assert work(store, deliver) == 1
    assert (job(store, film_id).state, identity(store, film_id)) == ("done", None)


def test_retry_now_is_for_one_destination_or_all_and_leaves_the_rest(clinic, client):
    store = clinic(PACS, WEB)
    first, second = queued(store, "pacs", "web"), queued(store, "pacs")
    with store.write() as session:
        session.query(Job).filter_by(kind="deliver").update(
            {"due_at": now() + timedelta(hours=1), "attempts": 9}
        )
        session.query(Job).filter_by(film_id=second, kind="deliver").update({"state": "done"})

    assert retry_now(store, "test", "pacs") == 1
    assert (job(store, first, "pacs").attempts, job(store, first, "web").attempts) == (0, 9)
    assert retry_now(store, "test") == 2
    assert job(store, second).state == "done"
    with store.read() as session:
        entries = session.scalars(select(AuditEntry).where(AuditEntry.action == "deliveries.retried")).all()
    assert [(entry.actor, entry.object, entry.detail) for entry in entries] == [
        ("test", "pacs", {"jobs": 1}),
        ("test", "", {"jobs": 2}),
    ]


def test_nothing_leaves_in_shadow_mode(clinic, client):
    store = clinic(shadow=True)
    film_id = queued(store)
    work(store, deliverer(store, client))
    assert client.taken == []
    assert job(store, film_id).state == "waiting"
    assert job(store, film_id).problem["problem"] == "nothing is delivered in shadow mode"


def test_a_film_without_a_study_in_a_pacs_goes_to_fhir_alone(clinic, client):
    store = clinic(PACS, WEB, RECORDS)
    film_id = queued(store, "records", identity=None)
    work(store, deliverer(store, client))
    assert job(store, film_id, "records").state == "done"
    ((film,),) = [study.films for study in client.taken]
    assert film.header is None


@on_each_database
@pytest.mark.parametrize("target", ["pacs", "web"])
def test_a_result_whose_study_was_erased_is_given_up_with_a_reason(clinic, client, target):
    store = clinic(PACS, WEB)
    film_id = queued(store, target)
    with store.write() as session:
        session.get_one(Film, film_id).identity = None
        session.query(Job).filter_by(film_id=film_id, kind="deliver").update({"state": "failed"})

    assert retry_now(store, "test") == 1
    work(store, deliverer(store, client))

    found = job(store, film_id, target)
    assert (found.state, client.asked) == ("failed", [])
    assert found.problem["problem"] == "patient and study of the image are not kept any more"
    assert found.problem["remedy"] == "send the image again"
    with store.read() as session:
        entry = session.scalars(select(AuditEntry).order_by(AuditEntry.id.desc())).first()
    assert (entry.action, entry.object, entry.detail) == ("result.given-up", film_id, {"to": target})


def test_a_result_of_a_study_that_was_deleted_meanwhile_is_nobodys(clinic, client):
    store = clinic()
    film_id = queued(store)
    claim = Queue(store).claim(["deliver"])
    with store.read() as session:
        study_id = session.get_one(Film, film_id).study_id
    client.deliver = lambda study: delete_study(store, study_id, "test") and 1
    with pytest.raises(LeaseLostError):
        deliverer(store, client)(claim)


def test_a_destination_that_is_configured_no_more_is_waited_for(clinic, client):
    store = clinic()
    film_id = queued(store, "elsewhere")
    work(store, deliverer(store, client))
    assert job(store, film_id, "elsewhere").state == "waiting"
    assert "no destination is called elsewhere" in job(store, film_id, "elsewhere").problem["problem"]


def test_an_error_of_ours_names_its_kind_and_nothing_else(clinic, client, caplog):
    store = clinic()
    film_id = queued(store)
    client.errors = [KeyError("CANARY^NAME")]
    with caplog.at_level(logging.DEBUG):
        work(store, deliverer(store, client))
    found = job(store, film_id)
    assert found.state == "waiting"
    assert found.problem["error"] == "KeyError"
    assert "CANARY" not in caplog.text + str(found.problem)


def test_who_lost_the_lease_or_the_database_says_so(clinic, client):
    store = clinic()
    queued(store)
    claim = Queue(store).claim(["deliver"])
    deliver = deliverer(store, client)
    for error in (LeaseLostError("x"), OperationalError("x", {}, Exception())):
        client.errors = [error]
        with pytest.raises(type(error)):
            deliver(claim)
    with store.write() as session:
        session.query(Job).filter_by(kind="deliver").update({"lease": "another"})
    with pytest.raises(LeaseLostError):
        deliver(claim)


def test_a_slow_destination_keeps_its_claim(clinic, client, clock, monkeypatch):
    store = clinic(limits__lease_seconds=0.3)
    renewed, renew = threading.Event(), Queue.renew

    def renew_and_tell(queue, claim):
        renew(queue, claim)
        renewed.set()

    monkeypatch.setattr(Queue, "renew", renew_and_tell)
    film_id = queued(store)
    others = []

    def slow(study):
        for _ in range(3):  # three times two thirds of a lease
            clock.advance(0.2)
            renewed.clear()
            assert renewed.wait(60)
        others.append(Queue(store).claim(["deliver"]))
        return 1

    client.deliver = slow
    work(store, deliverer(store, client))
    assert others == [None]
    assert job(store, film_id).state == "done"


@pytest.mark.parametrize(
    ("destination", "kind"), [(PACS, StorageClient), (WEB, StowClient), (RECORDS, FhirClient)]
)
def test_each_kind_of_destination_has_its_client(clinic, destination, kind):
    settings = clinic(destination).settings
    assert isinstance(client_of(settings, settings.destinations[0]), kind)


@pytest.mark.parametrize(
    ("bad", "missing"),
    [
        ({"kind": "dimse", "host": "h"}, "port and ae_title"),
        ({"kind": "stow"}, "url"),
        ({"kind": "fhir"}, "url"),
    ],
)
def test_a_destination_that_is_not_complete_is_no_configuration(clinic, bad, missing):
    with pytest.raises(InputError, match=f"needs {missing}"):
        clinic({"name": "x", **bad})
