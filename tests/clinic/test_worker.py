"""From a received image to a stored result: once, de-identified, whatever happens on the way."""

import json
import signal
import threading
import time

import numpy as np
import pytest

from pneumoscope.core.errors import BundleError, ConfigError
from pneumoscope_clinic.results.stored_result import heat_maps, load_result, stored_image
from pneumoscope_clinic.settings import LimitSettings
from pneumoscope_clinic.store.bundles import activate, open_active
from pneumoscope_clinic.store.queue import Queue
from pneumoscope_clinic.store.retention import sweep
from pneumoscope_clinic.store.tables import Film, Job, now
from pneumoscope_clinic.worker.intake import Sender, receive
from pneumoscope_clinic.worker.sandbox import Sandbox
from pneumoscope_clinic.worker.worker import FilmHandlers, run_worker
from tests.clinic.films import dicom_film, jpeg_film, pixels, png_film
from tests.clinic.stores import add_user, make_store
from tests.tiny_bundle import write_tiny_bundle

PACS = Sender("dimse:PACS", None, "dimse")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def clinic(tmp_path, bundle):
    store = make_store(tmp_path, bundle=str(bundle.directory), privacy__keep_identities="always")
    films = FilmHandlers(store, threads=1)
    yield store, films
    films.close()
    store.close()


def work(store, films):
    """Do all jobs that are due."""
    over = time.monotonic() + 30
    queue = Queue(store)

    def done():
        open_jobs = [state for _, state in queue.depth() if state in ("waiting", "running")]
        return not open_jobs or time.monotonic() > over

    run_worker(store, films.handlers(), done)


def film_of(store, film_id):
    with store.read() as session:
        film = session.get_one(Film, film_id)
        _ = film.jobs, film.study.films
        return film


def test_a_dicom_film(clinic, bundle):
    store, films = clinic
    content = dicom_film(0.8)
    received = receive(store, content, PACS)
    work(store, films)
    film = film_of(store, received.film_id)
    result = film.result
    assert (result.bundle_id, result.decision, result.verdict) == (bundle.id, "POSITIVE", "ANSWER")
    assert result.probability == result.record["probability"] > 0.7
    assert result.record["file"] == "film"
    assert (film.age_years, film.sex, film.facts["modality"], film.facts["rows"]) == (3.0, "F", "CR", 120)
    assert result.drift["rows"] == 120
    assert 0 < result.drift["exposure_low"] < result.drift["exposure_high"] < 1
    assert film.jobs[0].state == "done"
    assert set(heat_maps(store, film.id)) == {"bacterial", "viral"}
    assert store.blobs.get("received", film.id) is None
    stored = store.blobs.get("films", film.id)
    assert b"anary" not in stored
    header = json.loads(store.cipher.decrypt(film.identity, f"identity/{film.id}"))
    assert header["00100020"]["Value"] == ["CANARY-0815"]
    assert film.study.patient_key == store.cipher.pseudonym("CANARY-0815", "patient")


@pytest.mark.parametrize("content", [jpeg_film(0.2), png_film(0.2)], ids=["jpeg", "png"])
def test_a_picture_has_no_identity(clinic, content):
    store, films = clinic
    film_id = receive(store, content, PACS).film_id
    work(store, films)
    film = film_of(store, film_id)
    assert film.result.decision == "NEGATIVE"
    assert (film.identity, film.age_years, film.study.study_key) == (None, None, None)


def test_options_reach_the_examination(clinic):
    store, films = clinic
    options = {"age_years": 95.0, "operating_point": "sensitive"}
    film_id = receive(store, png_film(0.5), PACS, options=options).film_id
    work(store, films)
    film = film_of(store, film_id)
    assert film.result.record["operating_point"] == "sensitive"
    assert film.age_years == 90.0


@pytest.mark.parametrize(
    ("header", "asked", "age", "noted"),
    [
        ("064Y", 3.0, 64.0, True),
        ("003Y", 3.0, 3.0, False),
        ("018M", 2.0, 1.5, False),
        ("095Y", None, 90.0, False),
        ("", 3.0, 4.0, False),  # by the birth date
    ],
)
def test_the_age_of_the_file_counts(clinic, header, asked, age, noted):
    store, films = clinic
    film_id = receive(store, dicom_film(PatientAge=header), PACS, options={"age_years": asked}).film_id
    work(store, films)
    film = film_of(store, film_id)
    assert film.age_years == age
    assert (
        any("the file says that the patient is" in text for text in film.result.record["warnings"]) is noted
    )
    assert "95" not in str(film.result.record["gate"]["reasons"])


def test_films_of_one_dicom_study_share_a_study(clinic):
    store, films = clinic
    same = {"StudyInstanceUID": "1.2.826.0.1.3680043.8.498.77"}
    owner = add_user(store, "reader")
    ids = [receive(store, dicom_film(mean, **same), PACS).film_id for mean in (0.3, 0.7)]
    own = receive(store, dicom_film(0.4, **same), Sender("user:reader", owner, "web")).film_id
    work(store, films)
    assert film_of(store, ids[0]).study_id == film_of(store, ids[1]).study_id
    assert len(film_of(store, ids[0]).study.films) == 2
    assert film_of(store, own).study_id != film_of(store, ids[0]).study_id


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"no image at all", "this is no image file"),
        (dicom_film()[:2000], "cannot be decoded"),
        (b"\x89PNG", "no image"),
    ],
)
def test_a_film_that_cannot_be_read_fails_with_its_reason_and_is_not_kept(clinic, content, said):
    store, films = clinic
    film_id = receive(store, content, PACS).film_id
    good = receive(store, png_film(), PACS).film_id
    work(store, films)
    film = film_of(store, film_id)
    assert film.result is None
    assert film.jobs[0].state == "failed"
    assert said in film.jobs[0].problem["problem"]
    assert film.jobs[0].problem["fault"] == "input"
    assert store.blobs.get("received", film_id) is None
    assert film_of(store, good).result is not None


def test_destinations_get_a_job_each_with_the_result(tmp_path, bundle):
    destinations = [
        {"name": "pacs", "kind": "dimse", "host": "127.0.0.1", "port": 1, "ae_title": "X"},
        {"name": "fhir", "kind": "fhir", "url": "http://127.0.0.1:1/"},
    ]
    store = make_store(tmp_path, bundle=str(bundle.directory), destinations=destinations)
    films = FilmHandlers(store, threads=1)
    dicom, picture = (receive(store, content, PACS).film_id for content in (dicom_film(), png_film()))
    run_worker(
        store,
        films.handlers(),
        lambda: ("examine", "done") in (d := Queue(store).depth()) and d[("examine", "done")] == 2,
    )
    films.close()
    assert [job.target for job in film_of(store, dicom).jobs] == ["", "pacs", "fhir"]
    assert [job.target for job in film_of(store, picture).jobs] == ["", "fhir"]
    store.close()


def test_in_silent_mode_nothing_is_sent(tmp_path, bundle):
    destinations = [{"name": "fhir", "kind": "fhir", "url": "http://127.0.0.1:1/"}]
    store = make_store(tmp_path, bundle=str(bundle.directory), destinations=destinations, shadow=True)
    films = FilmHandlers(store, threads=1)
    film_id = receive(store, png_film(), PACS).film_id
    work(store, films)
    films.close()
    film = film_of(store, film_id)
    assert film.result.shadow
    assert [job.kind for job in film.jobs] == ["examine"]
    store.close()


@pytest.mark.parametrize(
    ("kept", "sent", "shadow", "is_kept"),
    [
        ("never", True, False, False),
        ("until-delivered", False, False, False),
        ("until-delivered", True, True, False),
        ("until-delivered", True, False, True),
        ("always", False, True, True),
    ],
)
def test_identities_are_kept_as_the_settings_say(tmp_path, bundle, kept, sent, shadow, is_kept):
    pacs = {"name": "pacs", "kind": "dimse", "host": "127.0.0.1", "port": 1, "ae_title": "X"}
    settings = {"privacy__keep_identities": kept, "destinations": [pacs] if sent else [], "shadow": shadow}
    store = make_store(tmp_path, bundle=str(bundle.directory), **settings)
    films = FilmHandlers(store, threads=1)
    film_id = receive(store, dicom_film(), PACS).film_id
    examined = {("examine", "done")}
    run_worker(store, films.handlers(), lambda: bool(examined & set(Queue(store).depth())))
    films.close()
    assert (film_of(store, film_id).identity is not None) == is_kept
    store.close()


def test_pictures_are_drawn_on_the_original_grid(clinic):
    from io import BytesIO

    from PIL import Image

    from pneumoscope_clinic.store.queue import add_job

    store, films = clinic
    film_id = receive(store, dicom_film(0.6), PACS).film_id
    work(store, films)
    with store.write() as session:
        add_job(session, film_id, "picture")
    work(store, films)
    with Image.open(BytesIO(store.blobs.get("pictures", film_id))) as image:
        assert image.size == (160, 120)
        assert np.abs(np.asarray(image).astype(int) - pixels(0.6)).max() <= 6


def test_the_next_film_is_examined_by_the_bundle_that_is_active_then(clinic, bundle, tmp_path):
    store, films = clinic
    first = receive(store, png_film(), PACS).film_id
    work(store, films)
    other = write_tiny_bundle(tmp_path / "other", name="other")
    activate(store, str(other.directory), "admin")
    second = receive(store, png_film(), PACS).film_id
    work(store, films)
    assert film_of(store, first).result.bundle_id == bundle.id
    assert film_of(store, second).result.bundle_id == other.id


def test_a_bundle_that_was_replaced_in_its_directory_examines_nothing_until_it_is_activated(tmp_path):
    folder = tmp_path / "bundle"
    first = write_tiny_bundle(folder, name="first")
    store = make_store(tmp_path, bundle=str(folder))
    films = FilmHandlers(store, threads=1)
    receive(store, png_film(), PACS)
    work(store, films)
    second = write_tiny_bundle(folder, name="second")
    films._sandbox.close()
    film_id = receive(store, png_film(), PACS).film_id
    turns = iter([False, True])
    run_worker(store, films.handlers(), lambda: next(turns))
    [job] = film_of(store, film_id).jobs
    assert (job.state, job.problem["fault"]) == ("waiting", "ours")
    assert second.id in job.problem["problem"]
    assert first.id in job.problem["expected"]
    with pytest.raises(BundleError, match=second.id):
        open_active(store)
    activate(store, str(folder), "admin")
    retry_at_once(store)
    work(store, films)
    films.close()
    assert film_of(store, film_id).result.bundle_id == open_active(store).id == second.id
    store.close()


def test_an_operating_point_that_the_bundle_lacks_loses_no_film(clinic):
    store, films = clinic
    film_id = receive(store, png_film(), PACS, options={"operating_point": "no-such-point"}).film_id
    for _ in range(12):
        turns = iter([False, True])
        run_worker(store, films.handlers(), lambda turns=turns: next(turns))
        retry_at_once(store)
    [job] = film_of(store, film_id).jobs
    assert (job.state, job.attempts, job.problem["fault"]) == ("failed", 12, "ours")
    assert job.problem["problem"].startswith("no operating point")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pneumoscope_clinic.store.retention.ORPHAN_AGE_S", -1)
        assert sweep(store) == 0
    with store.write() as session:
        session.get_one(Film, film_id).options = {}
    assert Queue(store).revive("examine", "admin") == 1
    assert Queue(store).revive("examine", "admin") == 0
    work(store, films)
    assert film_of(store, film_id).result is not None
    assert store.blobs.get("received", film_id) is None


def test_a_bundle_without_the_operating_point_of_the_settings_is_not_activated(tmp_path, bundle):
    store = make_store(tmp_path, operating_point="no-such-point")
    with pytest.raises(ConfigError, match="no-such-point"):
        activate(store, str(bundle.directory), "admin")
    store.close()


def test_crashes_of_the_worker_are_not_counted_as_those_of_the_film(tmp_path, bundle):
    store = make_store(tmp_path, bundle=str(bundle.directory), limits__attempts=2, limits__film_seconds=0.001)
    films = FilmHandlers(store, threads=1)
    film_id = receive(store, dicom_film(), PACS).film_id
    with store.write() as session:  # as after three workers that were killed
        session.query(Job).one().attempts = 3
    turns = iter([False, True])
    run_worker(store, films.handlers(), lambda: next(turns))
    [job] = film_of(store, film_id).jobs
    assert (job.state, job.crashes) == ("waiting", 1)
    work(store, films)
    assert film_of(store, film_id).jobs[0].state == "failed"
    films.close()
    store.close()


def test_a_job_that_goes_to_another_while_it_fails_ends_no_worker(store):
    film_id = receive(store, png_film(), PACS).film_id

    def lose(_):
        with store.write() as session:
            session.query(Job).filter_by(film_id=film_id).one().lease = "another's"
        raise RuntimeError("Canary")

    turns = iter([False, True])
    run_worker(store, {"examine": lose}, lambda: next(turns))
    assert film_of(store, film_id).jobs[0].problem is None


def retry_at_once(store):
    with store.write() as session:
        session.query(Job).filter_by(state="waiting").update({"due_at": now()})


def test_a_film_that_ends_its_process_is_tried_again_and_then_given_up(tmp_path, bundle):
    store = make_store(tmp_path, bundle=str(bundle.directory), limits__attempts=2, limits__film_seconds=0.001)
    films = FilmHandlers(store, threads=1)
    film_id = receive(store, dicom_film(), PACS).film_id
    work(store, films)
    films.close()
    [job] = film_of(store, film_id).jobs
    assert (job.state, job.attempts) == ("failed", 2)
    assert "took longer than 0.001 s" in job.problem["problem"]
    store.close()


def test_a_worker_that_lost_its_lease_stores_nothing(tmp_path, bundle, monkeypatch, clock):
    store = make_store(tmp_path, bundle=str(bundle.directory))
    slow, quick = FilmHandlers(store, threads=1), FilmHandlers(store, threads=1)
    slow.warm_up()
    quick.warm_up()
    film_id = receive(store, png_film(), PACS).film_id
    examine, examined, goes_on = Sandbox.examine, threading.Event(), threading.Event()

    def wait(self, content, options=None, **how):
        found = examine(self, content, options, **how)
        if self is slow._sandbox:
            examined.set()
            assert goes_on.wait(60)
        return found

    monkeypatch.setattr(Sandbox, "examine", wait)
    over = threading.Event()
    thread = threading.Thread(target=run_worker, args=(store, slow.handlers(), over.is_set))
    thread.start()
    assert examined.wait(60)
    clock.advance(store.settings.limits.lease_seconds + 1)
    work(store, quick)
    goes_on.set()
    over.set()
    thread.join()
    film = film_of(store, film_id)
    assert film.result is not None
    assert (film.jobs[0].state, film.jobs[0].attempts) == ("done", 2)
    for handlers in (slow, quick):
        handlers.close()
    store.close()


def test_our_own_fault_is_tried_again_later(store):
    film_id = receive(store, png_film(), PACS).film_id
    queue = Queue(store)

    def fail(_):
        raise RuntimeError("Canary")

    turns = iter([False, True])
    run_worker(store, {"examine": fail}, lambda: next(turns))
    with store.read() as session:
        job = session.query(Job).filter_by(film_id=film_id).one()
        assert (job.state, job.attempts) == ("waiting", 1)
        assert job.problem["problem"] == "an unexpected RuntimeError of ours"
        assert job.due_at.timestamp() > time.time() + 1
    assert queue.claim(["examine"]) is None


def test_a_result_is_put_together_again_for_delivery(clinic, bundle):
    store, films = clinic
    film_id = receive(store, dicom_film(0.8), PACS).film_id
    work(store, films)
    with Sandbox(str(bundle.directory), LimitSettings(), threads=1) as sandbox:
        result = load_result(
            store, film_id, lambda: stored_image(store, film_id, sandbox.picture), identified=True
        )
    np.testing.assert_array_equal(result.image, pixels(0.8))
    assert str(result.header.PatientName) == "Canary^Coalmine"
    assert result.bundle_card["id"] == bundle.id
    assert result.original_size == (120, 160)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_sandbox_that_is_killed_is_started_again(clinic, number):
    store, films = clinic
    films.warm_up()
    films._sandbox._process.send_signal(number)
    films._sandbox._process.wait()
    film_id = receive(store, png_film(), PACS).film_id
    work(store, films)
    assert film_of(store, film_id).result is not None


def test_a_photograph_of_a_film_is_cut_out_and_warned_of(clinic):
    from io import BytesIO

    from PIL import Image

    store, films = clinic
    boxed = np.pad(np.clip(pixels(0.4), 0, 190), 30, constant_values=245)
    out = BytesIO()
    Image.fromarray(np.dstack([boxed, boxed, boxed])).save(out, "JPEG", quality=95)
    ids = [
        receive(store, out.getvalue(), PACS, options={"photograph": said}).film_id for said in (True, False)
    ]
    work(store, films)
    said, unsaid = (film_of(store, film_id) for film_id in ids)
    assert "photograph" in [finding["code"] for finding in said.result.record["findings"]]
    assert unsaid.result.record["warnings"] == []
    assert abs(said.facts["columns"] - 160) <= 4
    assert unsaid.facts["columns"] == 220
