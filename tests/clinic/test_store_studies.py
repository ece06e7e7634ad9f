"""Who sees which study, in what order, and what readers say about it."""

from datetime import UTC, datetime, timedelta

import pytest

from pneumoscope.core.errors import ConfigError, NotFoundError
from pneumoscope_clinic.store import studies
from pneumoscope_clinic.store.studies import FeedbackEntry, StudyFilter
from pneumoscope_clinic.store.tables import Film, Job, Study
from pneumoscope_clinic.store.viewers import Viewer
from pneumoscope_clinic.worker.intake import Sender, receive
from tests.clinic.stores import add_film, add_user

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def viewers(any_store):
    one, two, three = (add_user(any_store, name) for name in ("one", "two", "three"))
    return Viewer(one, "one", "reader"), Viewer(two, "two", "reader"), Viewer(three, "three", "reviewer")


def ids(page):
    return [film.id for study in page.studies for film in study.films]


def move(store, film_id, minutes):
    with store.write() as session:
        film = session.get_one(Film, film_id)
        film.study.created_at = START + timedelta(minutes=minutes)


def test_readers_see_their_own_and_the_pacs_reviewers_all(any_store, viewers):
    one, two, reviewer = viewers
    own = add_film(any_store, owner_id=one.user_id)
    pacs = add_film(any_store, owner_id=None)
    other = add_film(any_store, owner_id=two.user_id)
    for viewer, seen in ((one, {own, pacs}), (two, {other, pacs}), (reviewer, {own, pacs, other})):
        assert set(ids(studies.list_studies(any_store, viewer, StudyFilter()))) == seen
        for film_id in (own, pacs, other):
            if film_id in seen:
                film = studies.film_of(any_store, viewer, film_id)
                assert studies.study_of(any_store, viewer, film.study_id).films[0].id == film_id
            else:
                with pytest.raises(NotFoundError):
                    studies.film_of(any_store, viewer, film_id)
                with pytest.raises(NotFoundError):
                    studies.add_feedback(any_store, viewer, film_id, FeedbackEntry("normal"))


def test_pages_have_every_study_once_also_when_times_are_equal(any_store, viewers):
    films = [add_film(any_store, owner_id=None) for _ in range(25)]
    for number, film_id in enumerate(films):
        move(any_store, film_id, number // 5)
    for oldest_first in (False, True):
        seen, after = [], None
        while True:
            page = studies.list_studies(
                any_store, viewers[0], StudyFilter(oldest_first=oldest_first), after, 7
            )
            seen += ids(page)
            after = page.next
            if after is None:
                break
            add_film(any_store, owner_id=viewers[1].user_id)  # another's arrivals do not disturb
        assert sorted(seen) == sorted(films)
        times = [films.index(film_id) // 5 for film_id in seen]
        assert times == sorted(times, reverse=not oldest_first)


def test_filters(any_store, viewers):
    viewer = viewers[2]
    negative = add_film(any_store, probability=0.1, owner_id=None)
    positive = add_film(any_store, probability=0.99, owner_id=None)
    refused = add_film(any_store, probability=None, refused=True, owner_id=None)
    waiting = add_film(any_store, examined=False, owner_id=None)
    silent = add_film(any_store, probability=0.99, shadow=True, owner_id=None)
    for number, film_id in enumerate((negative, positive, refused, waiting, silent)):
        move(any_store, film_id, number)
    studies.add_feedback(any_store, viewer, positive, FeedbackEntry("viral"))

    def found(**chosen):
        return set(ids(studies.list_studies(any_store, viewer, StudyFilter(**chosen))))

    assert found(decision="POSITIVE") == {positive}
    assert found(decision="ABSTAIN") == {refused}
    assert found(verdict="REFUSE") == {refused}
    assert found(feedback=True) == {positive}
    assert found(feedback=False) == {negative, refused, waiting, silent}
    assert found(state="waiting") == {waiting}
    assert found(since=START + timedelta(minutes=3)) == {waiting, silent}
    assert found(until=START + timedelta(minutes=1)) == {negative}


def test_the_reference_is_encrypted_and_found(any_store, viewers):
    viewer = viewers[0]
    add_film(any_store, owner_id=viewer.user_id)
    sender = Sender(viewer.actor, viewer.user_id, "api")
    received = receive(any_store, b"film", sender, reference="Bed Ä7")
    film_id, study_id = received.film_id, received.study_id
    with any_store.read() as session:
        stored = session.get_one(Study, study_id)
        assert b"Bed" not in stored.reference
    assert studies.reference_of(any_store, stored) == "Bed Ä7"
    assert ids(studies.list_studies(any_store, viewer, StudyFilter(text="bed ä"))) == [film_id]


@pytest.mark.parametrize(
    ("probability", "diagnosis", "agrees"),
    [
        (0.99, "viral", True),
        (0.99, "pneumonia-unspecified", True),
        (0.99, "normal", False),
        (0.99, "other", False),
        (0.01, "normal", True),
        (0.01, "other", True),
        (0.01, "bacterial", False),
        (None, "normal", False),
        (None, "viral", False),
    ],
)
def test_agreement_is_about_pneumonia(store, probability, diagnosis, agrees):
    viewer = Viewer(add_user(store, "a"), "a", "reader")
    film_id = add_film(store, probability=probability, refused=probability is None, owner_id=viewer.user_id)
    row = studies.add_feedback(store, viewer, film_id, FeedbackEntry(diagnosis, "Überlagert", True))
    assert row.agrees is agrees
    assert studies.comment_of(store, row) == "Überlagert"
    assert b"berlagert" not in row.comment


@pytest.mark.parametrize("entry", [FeedbackEntry("cancer"), FeedbackEntry("normal", "x" * 2001)])
def test_feedback_that_is_none(store, entry):
    viewer = Viewer(add_user(store, "a"), "a", "reader")
    with pytest.raises(ConfigError):
        studies.add_feedback(store, viewer, add_film(store, owner_id=viewer.user_id), entry)


def test_silent_results_are_withheld(store):
    viewer = Viewer(add_user(store, "a"), "a", "admin")
    film = studies.film_of(store, viewer, add_film(store, shadow=True))
    assert film.result is not None
    assert studies.shown(film) is None


def test_batches_are_their_owners(any_store, viewers):
    one, two, reviewer = viewers
    batch = studies.create_batch(any_store, one)
    film_id = add_film(any_store, owner_id=one.user_id, examined=False)
    with any_store.write() as session:
        session.get_one(Film, film_id).batch_id = batch.id
    for viewer in (one, reviewer):
        assert [film.id for film in studies.batch_of(any_store, viewer, batch.id)[1]] == [film_id]
    with pytest.raises(NotFoundError):
        studies.batch_of(any_store, two, batch.id)


def test_the_state_of_a_film(store):
    viewer = Viewer(add_user(store, "a"), "a", "admin")
    film_id = add_film(store, examined=False)
    assert studies.state_of(studies.film_of(store, viewer, film_id)) == ("waiting", None)
    with store.write() as session:
        job = session.query(Job).filter_by(film_id=film_id, kind="examine").one()
        job.state, job.problem = "failed", {"problem": "no image"}
    assert studies.state_of(studies.film_of(store, viewer, film_id)) == ("failed", {"problem": "no image"})


@pytest.mark.parametrize("after", ["x", "Ä", "AAAA", "MjAyNiBhYmM="])
def test_a_place_that_is_none(store, after):
    viewer = Viewer(1, "a", "admin")
    with pytest.raises(ConfigError, match="no place"):
        studies.list_studies(store, viewer, StudyFilter(), after)
