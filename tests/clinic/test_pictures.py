"""Pictures are drawn again when that may help, and not at every request."""

from datetime import timedelta

import pytest

from pneumoscope_clinic.store.queue import OURS, THE_FILMS, Queue
from pneumoscope_clinic.store.tables import Job, now
from pneumoscope_clinic.web.pictures import _ask
from tests.clinic.stores import add_film


@pytest.mark.parametrize(
    ("fault", "seconds", "again"), [(OURS, 61, True), (OURS, 50, False), (THE_FILMS, 3600, False)]
)
def test_a_drawing_that_failed_is_tried_again_after_a_pause_unless_the_film_is_at_fault(
    any_store, fault, seconds, again
):
    film_id, queue = add_film(any_store), Queue(any_store)
    assert _ask(any_store, film_id)
    queue.fail(queue.claim(["picture"]), {"fault": fault})
    assert _ask(any_store, film_id)
    assert queue.claim(["picture"]) is None
    with any_store.write() as session:
        job = session.query(Job).filter(Job.kind == "picture").one()
        job.finished_at = now() - timedelta(seconds=seconds)
    assert _ask(any_store, film_id)
    claim = queue.claim(["picture"])
    assert (claim is not None) == again
    assert claim is None or claim.attempts == 1
