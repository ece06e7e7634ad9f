"""No patient data where none may be: canaries go in by every door, and are then looked for everywhere."""

import contextlib
import io
import json
import logging
import re
import threading
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import inspect, select

from pneumoscope.core.errors import PneumoscopeError
from pneumoscope_clinic.dicom.node import Node
from pneumoscope_clinic.logs import OURS, QUOTING, log_to_stderr, silence
from pneumoscope_clinic.store.accounts import authenticate
from pneumoscope_clinic.store.tables import Base, Film
from pneumoscope_clinic.store.viewers import create_token
from tests.clinic.canaries import (
    DATES,
    SAID,
    UID_ROOT,
    WORD,
    broken_films,
    compressed_dicom,
    dicom,
    dicom_bytes,
    found_in,
    leaks_at_rest,
    rasters,
)
from tests.clinic.dicom_peers import association
from tests.clinic.test_security_access import account
from tests.clinic.web_clinic import Browser, web_clinic, work

NAME = f"{WORD} John 1933-07-17.dcm"


@pytest.fixture(scope="module")
def films():
    """Images that can be read, by name."""
    good = {
        "DICOM": dicom_bytes(dicom(0.8)),
        "bad DICOM": dicom_bytes(dicom(0.6, bad=True)),
        "JPEG in DICOM": compressed_dicom(),
        **dict(rasters()),
    }
    assert all(found_in(content) for name, content in good.items())
    return good


@pytest.fixture(scope="module")
def clinic(tmp_path_factory, films):
    """A clinic that has seen all of them, its log, and all of its answers."""
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    root = logging.getLogger()
    levels = {logger: logger.level for logger in (root, *map(logging.getLogger, OURS))}
    root.addHandler(handler)
    root.setLevel(logging.WARNING)  # as logs.log_to_stderr sets them
    for package in OURS:
        logging.getLogger(package).setLevel(logging.DEBUG)
    silence()
    try:
        with web_clinic(
            tmp_path_factory.mktemp("canaries"), dicom__port=0, privacy__keep_identities="always"
        ) as made:
            store, handlers = made
            answers = []
            send_by_rest(store, films, answers)
            send_by_page(store, films, answers)
            send_by_dicom(store, answers)
            fail(store, answers)
            work(store, handlers)
            look(store, answers)
            yield store, answers, logged
    finally:
        root.removeHandler(handler)
        for logger, level in levels.items():
            logger.setLevel(level)


def send_by_rest(store, films, answers):
    client, headers = (
        Browser(store),
        {"Authorization": "Bearer " + create_token(store, account(store, "ada"), "t", ["examine", "read"])},
    )
    for name, content in [*films.items(), *broken_films()]:
        answers.append(
            client.post(
                "/v1/examine?wait=false",
                headers={**headers, "Idempotency-Key": f"{WORD}-{name.replace(' ', '-')}"},
                files={"film": (NAME, content, f"image/{WORD}")},
                data={"reference": SAID},
            )
        )
    parts = [("films", (NAME, content)) for content in films.values()]
    answers.append(client.post("/v1/batches", headers=headers, files=parts))


def send_by_page(store, films, answers):
    browser = Browser(store, "ben")
    for content in films.values():
        answers.append(
            browser.post(
                "/upload", data={"csrf": browser.csrf, "reference": SAID}, files={"films": (NAME, content)}
            )
        )
    answers.append(browser.submit("/search", text=WORD))


def send_by_dicom(store, answers):
    with Node(store) as node:
        for film in (dicom(0.4), dicom(0.3, bad=True), dicom(0.2, Rows=60000)):
            with association(node.address[1], film.SOPClassUID) as link:
                status = link.send_c_store(film)
                assert status.Status == 0
                assert not found_in(str(status.get("ErrorComment", "")))


def fail(store, answers):
    """Requests that are refused for every reason, with canaries in every part."""
    stranger, ada = Browser(store), Browser(store, "ada")
    bearer = {"Authorization": f"Bearer {WORD}"}
    for path in (
        f"/{WORD}",
        f"/v1/films/{WORD}",
        f"/studies/{WORD}",
        f"/v1/studies?after={WORD}",
        f"/v1/studies?limit={WORD}",
        f"/v1/{WORD}%0aforged",
        f"/films/{WORD}/state",
        f"/?text={WORD}&said={WORD}",
        f"/assets/{WORD}.js",
    ):
        answers += [
            stranger.get(path, headers=bearer),
            ada.get(path),
            ada.get(path, headers={"Cookie": f"x={WORD}"}),
        ]
    answers.append(
        ada.post(
            "/v1/examine",
            headers={"X-CSRF-Token": ada.csrf},
            data={"film": WORD, "age_years": WORD, "operating_point": WORD},
        )
    )
    answers.append(
        ada.post(
            "/v1/examine",
            headers={"X-CSRF-Token": ada.csrf},
            files={"film": b"x"},
            data={"operating_point": WORD},
        )
    )
    answers.append(
        ada.post(
            "/v1/examine",
            headers={"X-CSRF-Token": ada.csrf},
            files={"film": b"x"},
            data={"reference": WORD * 90},
        )
    )
    answers.append(
        ada.post(
            f"/v1/films/{'0' * 32}/feedback",
            headers={"X-CSRF-Token": ada.csrf},
            json={"diagnosis": WORD, WORD: WORD},
        )
    )
    wants_json = {
        "X-CSRF-Token": ada.csrf,
        "Accept": "application/json",
    }  # a page gives the form back as it was
    answers.append(ada.post("/upload", headers=wants_json, data={"age_years": WORD}, files={"films": b"x"}))
    answers.append(
        stranger.post(
            "/upload",
            content=f"{WORD}".encode() * 9,
            headers={"Content-Type": f"multipart/form-data; boundary={WORD}"},
        )
    )
    with contextlib.suppress(PneumoscopeError):
        authenticate(store, WORD, WORD, "10.0.0.1")


def look(store, answers):
    """Everything that can be asked for about the images."""
    root = Browser(store, "root")
    with store.read() as session:
        ids = [(film.study_id, film.id, film.result is not None) for film in session.scalars(select(Film))]
    assert sum(done for *_, done in ids) >= 20
    for study, film, done in ids:
        answers += [
            root.get(f"/v1/films/{film}"),
            root.get(f"/v1/studies/{study}/fhir"),
            root.get(f"/films/{film}/state"),
        ]
        if done:
            answers.append(root.get(f"/v1/films/{film}/heat-maps/bacterial.png"))
    answers += [
        root.get(path)
        for path in ("/v1/studies?limit=200", "/", "/dashboard", "/audit", "/metrics", "/users")
    ]


def test_every_kind_of_film_was_read_and_every_broken_one_refused(clinic):
    store, _, _ = clinic
    with store.read() as session:
        states = [film.jobs[0].state for film in session.scalars(select(Film))]
    assert states.count("done") >= 22
    assert states.count("failed") >= 12
    assert set(states) == {"done", "failed"}


def test_no_canary_lies_on_disk(clinic):
    store, _, _ = clinic
    store.close()  # what SQLite holds back is written
    assert leaks_at_rest(store) == []


def test_what_lies_on_disk_is_its_owners_alone(clinic):
    store, _, _ = clinic
    kept = [path for path in Path(store.settings.directory).rglob("*") if path.is_file()]
    assert len(kept) > 50
    assert {path.name for path in kept if path.stat().st_mode & 0o077} == set()
    assert Path(store.settings.directory).stat().st_mode & 0o077 == 0


def test_no_canary_is_in_the_database(clinic):
    """Every column as it comes out; what is sealed is not opened."""
    store, _, _ = clinic
    with store.engine.connect() as connection:
        for table in Base.metadata.tables.values():
            for row in connection.execute(table.select()).mappings():
                for column, value in row.items():
                    content = (
                        value
                        if isinstance(value, bytes)
                        else json.dumps(value, default=str, ensure_ascii=False)
                    )
                    assert found_in(content) == [], (table.name, column)
    assert inspect(store.engine).get_table_names()


def test_the_sealed_identity_is_what_results_need(clinic):
    store, _, _ = clinic
    with store.read() as session:
        film = session.scalars(select(Film).where(Film.source == "dimse")).first()
    header = json.loads(store.cipher.decrypt(film.identity, f"identity/{film.id}"))
    assert WORD in str(header["00100010"])
    assert "00091001" not in header


def test_no_canary_is_logged(clinic):
    _, _, logged = clinic
    text = logged.getvalue()
    assert "POST /v1/examine 202" in text
    assert re.search(r"image [0-9a-f]{32} received", text)
    assert found_in(text) == []


def test_no_canary_is_in_an_answer_or_an_address(clinic):
    _, answers, _ = clinic
    assert len(answers) > 150
    for answer in answers:
        # The path that a caller made up comes back to them as the way to log in; ours have no names in them.
        location = answer.headers.get("location", "")
        assert found_in(location) == [] or location.startswith("/login?next=/"), location
        content = (
            answer.content
            if "image" in answer.headers.get("content-type", "")
            else answer.text.replace(SAID, "")
        )
        made_up = [hit for hit in found_in(content) if b'name="next"' not in hit]
        assert made_up == [], (answer.request.method, answer.request.url.path, answer.status_code)


def test_problems_say_what_is_wrong_all_the_same(clinic):
    store, _, _ = clinic
    with store.read() as session:
        problems = {
            film.jobs[0].problem["problem"] for film in session.scalars(select(Film)) if film.jobs[0].problem
        }
    assert len(problems) >= 6
    assert any("frames" in problem for problem in problems)
    assert any("60000 x 60000" in problem for problem in problems)
    assert not any("unexpected" in problem for problem in problems), problems


def test_stored_pictures_have_no_texts(clinic):
    store, _, _ = clinic
    for name, _ in store.blobs.names("films"):
        content = store.blobs.get("films", name)
        if content[128:132] != b"DICM":
            with Image.open(io.BytesIO(content)) as picture:
                picture.load()
                assert set(picture.info) <= {
                    "jfif",
                    "jfif_version",
                    "jfif_unit",
                    "jfif_density",
                    "dpi",
                    "progressive",
                    "progression",
                    "exif",
                    "compression",
                    "adobe",
                    "adobe_transform",
                    "resolution",
                }, picture.info
                assert set(picture.getexif()) <= {0x0112} or picture.format == "TIFF"


@pytest.mark.filterwarnings("error")  # log_to_stderr ignores warnings, for this test alone
def test_the_log_of_an_installation_is_set_up_like_this_one(caplog):
    """What the fixture above does is what a server does."""
    before, hook = [logging.getLogger(package).level for package in OURS], threading.excepthook
    try:
        log_to_stderr()
        thread = threading.Thread(target=lambda: int(WORD))
        thread.start()
        thread.join()
        assert "a thread ended with ValueError at test_canaries.py" in caplog.text
        assert WORD not in caplog.text
        assert {logging.getLogger(package).level for package in OURS} == {logging.INFO}
        assert not any(logging.getLogger(name).propagate for name in QUOTING)
    finally:
        for package, level in zip(OURS, before, strict=True):
            logging.getLogger(package).setLevel(level)
        threading.excepthook = hook


def test_the_search_finds_what_it_seeks():
    for text in (WORD, WORD.lower(), UID_ROOT, *DATES):
        assert found_in(text)
        assert found_in(text.encode("utf-16-le"))
    assert not found_in("nothing")
