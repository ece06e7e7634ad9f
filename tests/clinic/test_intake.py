"""An image is on disk and in the queue before it is acknowledged; a repetition makes nothing new."""

import threading
from contextlib import contextmanager

import pytest
from sqlalchemy import func, select

from pneumoscope.core.errors import ConflictError, UnreadableFileError
from pneumoscope_clinic.store import audit_log
from pneumoscope_clinic.store.retention import sweep
from pneumoscope_clinic.store.studies import reference_of
from pneumoscope_clinic.store.tables import Film, Job, Study
from pneumoscope_clinic.worker.intake import Sender, receive
from tests.clinic.stores import add_user

PACS = Sender("dimse:PACS", None, "dimse")


def count(store, table):
    with store.read() as session:
        return session.scalar(select(func.count()).select_from(table))


def test_a_film_is_kept_queued_and_noted(any_store):
    received = receive(any_store, b"bytes", PACS, reference="bed 3", options={"age_years": 3.0})
    assert any_store.blobs.get("received", received.film_id) == b"bytes"
    with any_store.read() as session:
        film = session.get_one(Film, received.film_id)
        assert (film.source, film.size, film.options) == ("dimse", 5, {"age_years": 3.0})
        assert reference_of(any_store, film.study) == "bed 3"
        assert [job.kind for job in film.jobs] == ["examine"]
    assert audit_log.verify(any_store).rows == 1


def test_no_bytes(store):
    with pytest.raises(UnreadableFileError, match="empty"):
        receive(store, b"", PACS)
    assert count(store, Film) == 0


def test_an_instance_that_is_sent_again_is_the_same_film(any_store):
    first = receive(any_store, b"bytes", PACS, instance_uid="1.2.3")
    again = receive(any_store, b"bytes", PACS, instance_uid="1.2.3")
    assert (again.film_id, again.again) == (first.film_id, True)
    assert receive(any_store, b"bytes", PACS, instance_uid="1.2.4").again is False
    assert count(any_store, Film) == 2
    assert count(any_store, Job) == 2
    assert len(list(any_store.blobs.names("received"))) == 2


def test_an_instance_with_other_content_is_another_film(any_store):
    first = receive(any_store, b"bytes", PACS, instance_uid="1.2.3")
    corrected = receive(any_store, b"corrected", PACS, instance_uid="1.2.3")
    assert (corrected.film_id != first.film_id, corrected.again) == (True, False)
    assert receive(any_store, b"corrected", PACS, instance_uid="1.2.3").film_id == corrected.film_id
    assert receive(any_store, b"bytes", PACS, instance_uid="1.2.3").film_id == first.film_id


def test_an_instance_that_could_not_be_examined_is_tried_anew(store):
    first = receive(store, b"damaged", PACS, instance_uid="1.2.3")
    with store.write() as session:
        session.query(Job).filter_by(film_id=first.film_id).one().state = "failed"
    again = receive(store, b"whole", PACS, instance_uid="1.2.3")
    assert (again.film_id != first.film_id, again.again) == (True, False)


def test_owners_do_not_share_instances(store):
    one, two = (Sender("x", add_user(store, name), "api") for name in ("one", "two"))
    first = receive(store, b"bytes", one, instance_uid="1.2.3")
    assert receive(store, b"bytes", two, instance_uid="1.2.3").film_id != first.film_id
    assert receive(store, b"bytes", one, instance_uid="1.2.3").film_id == first.film_id


def test_a_request_that_is_repeated_makes_nothing_new(any_store):
    sender = Sender("x", add_user(any_store, "one"), "api")
    first = receive(any_store, b"bytes", sender, idempotency_key="k")
    again = receive(any_store, b"bytes", sender, idempotency_key="k")
    assert (again.film_id, again.again) == (first.film_id, True)
    with pytest.raises(ConflictError):
        receive(any_store, b"other", sender, idempotency_key="k")
    with pytest.raises(ConflictError):
        receive(any_store, b"bytes", sender, idempotency_key="k", options={"force": True})
    assert count(any_store, Film) == count(any_store, Study) == 1
    assert len(list(any_store.blobs.names("received"))) == 1


def test_the_same_request_at_the_same_moment(any_store):
    sender = Sender("x", add_user(any_store, "one"), "api")
    received, failures = [], []

    def send():
        try:
            received.append(receive(any_store, b"bytes", sender, idempotency_key="k").film_id)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(set(received)) == 1
    assert count(any_store, Film) == 1
    assert len(list(any_store.blobs.names("received"))) == 1


def test_the_same_instance_at_the_same_moment(any_store):
    received = []

    def send():
        received.append(receive(any_store, b"bytes", PACS, instance_uid="1.2.3").film_id)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(received), len(set(received))) == (8, 1)
    assert count(any_store, Film) == count(any_store, Job) == 1


def test_an_instance_whose_pixels_were_deleted_is_taken_anew(store):
    first = receive(store, b"bytes", PACS, instance_uid="1.2.3")
    with store.write() as session:
        session.get_one(Film, first.film_id).pixels_gone = True
    again = receive(store, b"bytes", PACS, instance_uid="1.2.3")
    assert (again.film_id != first.film_id, again.again) == (True, False)
    assert store.blobs.get("received", again.film_id) == b"bytes"


def test_an_error_after_the_commit_loses_nothing(store, monkeypatch):
    write = store.write

    @contextmanager
    def interrupted():
        with write() as session:
            yield session
        raise RuntimeError("the answer of the database was lost")

    monkeypatch.setattr(store, "write", interrupted)
    with pytest.raises(RuntimeError):
        receive(store, b"bytes", PACS, instance_uid="1.2.3")
    monkeypatch.undo()
    again = receive(store, b"bytes", PACS, instance_uid="1.2.3")
    assert again.again
    assert store.blobs.get("received", again.film_id) == b"bytes"


def test_a_database_that_fails_keeps_no_film(store, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("away")

    monkeypatch.setattr("pneumoscope_clinic.worker.intake.add_job", fail)
    with pytest.raises(RuntimeError):
        receive(store, b"bytes", PACS)
    assert count(store, Film) == 0
    monkeypatch.setattr("pneumoscope_clinic.store.retention.ORPHAN_AGE_S", -1)
    assert sweep(store) == 1
    assert list(store.blobs.names("received")) == []


def test_ages_that_name_people_are_not_kept(store):
    film_id = receive(store, b"bytes", PACS, options={"age_years": 101.5}).film_id
    with store.read() as session:
        assert session.get_one(Film, film_id).options == {"age_years": 90.0}
