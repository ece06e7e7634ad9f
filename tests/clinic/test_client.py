"""The client against a real server, and against a network that fails."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from pneumoscope.core.errors import (
    ConflictError,
    ForbiddenError,
    InputError,
    NotFoundError,
    PneumoscopeError,
    TooManyAttemptsError,
    UnreadableFileError,
)
from pneumoscope_clinic import client as client_module
from pneumoscope_clinic.client import Client
from pneumoscope_clinic.rest_models import FilmOut
from tests.clinic.films import png_film
from tests.clinic.serving import Serving, serving
from tests.tiny_bundle import write_tiny_bundle

NOBODY = "0" * 32


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    folder = tmp_path_factory.mktemp("server")
    bundle = write_tiny_bundle(folder / "tiny")
    arguments = ("--port", "0", "--workers", "1", "--bundle", str(bundle.directory))
    with serving(folder, *arguments, OMP_NUM_THREADS="1") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[Client]:
    assert server.secret is not None
    with Client(server.url, server.secret) as made:
        yield made


@pytest.fixture(scope="module")
def film(client: Client) -> FilmOut:
    return client.examine(png_film(0.8), age_years=3, reference="bed 7", operating_point="sensitive")


def test_examine(client: Client, film: FilmOut) -> None:
    assert film.state == "done"
    assert film.age_years == 3
    result = film.result
    assert result is not None
    assert (result.decision, result.operating_point) == ("POSITIVE", "sensitive")
    assert client.film(film.id) == film


def test_a_file_is_read(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "Canary^Name.png"
    file.write_bytes(png_film(0.2))
    result = client.examine(file).result

    assert result is not None
    assert result.decision == "NEGATIVE"
    with pytest.raises(UnreadableFileError, match="No such file"):
        client.examine(tmp_path / "missing.png")


def test_submit_and_wait(client: Client) -> None:
    taken = client.submit(png_film(0.7))
    film = client.wait(taken.id, seconds=60)

    assert (film.id, film.state) == (taken.id, "done")


def test_a_film_that_cannot_be_read(client: Client) -> None:
    with pytest.raises(UnreadableFileError) as caught:
        client.examine(b"no image")
    assert caught.value.where is not None
    assert client.film(caught.value.where).state == "failed"


def test_a_key_of_ones_own(client: Client) -> None:
    first = client.examine(png_film(0.6), key="mine")

    assert client.examine(png_film(0.6), key="mine") == first
    with pytest.raises(ConflictError, match="used for another request"):
        client.examine(png_film(0.5), key="mine")


def test_a_batch(client: Client) -> None:
    batch = client.batch([png_film(0.2), png_film(0.8)], age_years=2)
    for film in batch.films:
        client.wait(film.id, seconds=60)
    done = client.batch_state(batch.id)

    assert done.open == 0
    assert [film.result and film.result.decision for film in done.films] == [
        "NEGATIVE",
        "POSITIVE",
    ]
    assert {film.age_years for film in done.films} == {2}


def test_studies(client: Client, film: FilmOut) -> None:
    for mean in (0.3, 0.4, 0.45):
        client.examine(png_film(mean))
    everything = list(client.studies())
    by_two = list(client.studies(page=2))

    assert by_two == everything
    assert len({study.id for study in everything}) == len(everything) >= 4
    assert client.study(film.study_id) == next(one for one in everything if one.id == film.study_id)
    assert client.study(film.study_id).reference == "bed 7"
    positive = list(
        client.studies(decision="POSITIVE", feedback=False, since=datetime(2020, 1, 1, tzinfo=UTC))
    )
    assert film.study_id in {study.id for study in positive}
    assert list(client.studies(until=datetime.now(UTC) - timedelta(days=1))) == []


def test_feedback(client: Client, film: FilmOut) -> None:
    given = client.feedback(film.id, "viral", comment="RSV", consent=True, key="f1")

    assert (given.agrees, given.comment, given.consent) == (True, "RSV", True)
    assert client.feedback(film.id, "viral", comment="RSV", consent=True, key="f1") == given
    assert client.film(film.id).feedback == [given]


def test_files(client: Client, film: FilmOut) -> None:
    assert client.report_pdf(film.id).startswith(b"%PDF")
    for content in (client.heat_map(film.id, film.heat_maps[0]), client.picture(film.id)):
        assert Image.open(io.BytesIO(content)).size == (160, 120)
    assert client.fhir(film.study_id)["resourceType"] == "Bundle"
    assert client.bundles()[0].card["intended_use"] == "Tests."


def test_errors(client: Client, server: Serving, film: FilmOut) -> None:
    with pytest.raises(NotFoundError, match="there is no such image"):
        client.film(NOBODY)
    with pytest.raises(InputError, match=r"query\.limit: Input should be less than or equal to 200"):
        list(client.studies(page=999))
    with pytest.raises(InputError, match=r"no such operating point; expected one of balanced, sensitive"):
        client.examine(png_film(), operating_point="none")
    with Client(server.url, "pns_wrong") as stranger, pytest.raises(ForbiddenError, match="make a new one"):
        stranger.film(film.id)


def test_ready(client: Client) -> None:
    assert client.ready() is True
    with Client("http://127.0.0.1:1", "t") as nobody:
        assert nobody.ready() is False


# A network that fails


Answer = Callable[[httpx.Request], httpx.Response]
DONE = {
    "id": NOBODY, "study_id": NOBODY, "batch_id": None, "state": "done", "problem": None, "source": "api",
    "received_at": "2026-01-02T03:04:05Z", "facts": {}, "age_years": None, "sex": None, "pixels_kept": True,
    "silent": True, "result": None, "feedback": [], "heat_maps": [],
}  # fmt: skip


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that the client makes, which take no time."""
    made: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", made.append)
    return made


def scripted(*answers: Any) -> tuple[Client, list[httpx.Request]]:
    """A client whose requests are answered with these, one after the other."""
    asked: list[httpx.Request] = []
    script = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        request.read()
        asked.append(request)
        found = next(script)
        if isinstance(found, Exception):
            raise found
        return found

    return Client("http://server", "pns_x", transport=httpx.MockTransport(answer)), asked


def test_a_request_is_repeated_with_its_key(pauses: list[float]) -> None:
    client, asked = scripted(
        httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.Response(500),
        httpx.Response(503, headers={"Retry-After": "7"}), httpx.Response(200, json=DONE),
    )  # fmt: skip
    client.examine(b"film")

    assert len({request.headers["idempotency-key"] for request in asked}) == 1
    assert len({request.content.split(b"\r\n", 1)[1].rsplit(b"\r\n--", 1)[0] for request in asked}) == 1
    assert [0.25 <= pauses[0] <= 0.5, 0.5 <= pauses[1] <= 1, 1 <= pauses[2] <= 2] == [True] * 3
    assert pauses[3] == 7
    assert asked[0].headers["authorization"] == "Bearer pns_x"


def test_each_request_has_a_key_of_its_own(pauses: list[float]) -> None:
    client, asked = scripted(httpx.Response(200, json=DONE), httpx.Response(200, json=DONE))
    client.examine(b"film")
    client.examine(b"film")

    assert asked[0].headers["idempotency-key"] != asked[1].headers["idempotency-key"]


def test_it_gives_up(pauses: list[float]) -> None:
    client, asked = scripted(*[httpx.ConnectError("refused")] * 5)
    with pytest.raises(
        PneumoscopeError, match=r"http://server: the server cannot be reached \(ConnectError\)"
    ):
        client.film(NOBODY)
    assert (len(asked), len(pauses)) == (5, 4)

    client, _ = scripted(*[httpx.Response(502, text="<html>Bad gateway</html>")] * 5)
    with pytest.raises(PneumoscopeError, match="the server answers 502"):
        client.film(NOBODY)


def test_what_is_wrong_is_not_repeated(pauses: list[float]) -> None:
    kinds = {401: ForbiddenError, 403: ForbiddenError, 404: NotFoundError, 409: ConflictError}
    for status, kind in {**kinds, 400: InputError, 413: InputError, 422: InputError}.items():
        client, asked = scripted(httpx.Response(status))
        with pytest.raises(kind):
            client.film(NOBODY)
        assert len(asked) == 1
    assert pauses == []


def test_too_many_requests(pauses: list[float]) -> None:
    client, _ = scripted(*[httpx.Response(429, headers={"Retry-After": "1000"})] * 5)
    with pytest.raises(TooManyAttemptsError):
        client.film(NOBODY)
    assert pauses == [30.0] * 4


def test_waiting_ends(pauses: list[float]) -> None:
    waiting = {**DONE, "state": "waiting"}
    client, asked = scripted(httpx.Response(202, json=waiting), httpx.Response(200, json=waiting))
    with pytest.raises(PneumoscopeError, match="not examined yet"):
        client.examine(b"film", seconds=0)
    assert [request.url.path for request in asked] == ["/v1/examine", f"/v1/films/{NOBODY}"]


def test_a_film_that_fails_by_our_fault_is_no_input_error(pauses: list[float]) -> None:
    problem = {"kind": "PneumoscopeError", "problem": "an unexpected KeyError of ours", "fault": "ours"}
    failed = {**DONE, "state": "failed", "problem": {**problem, "expected": None, "remedy": None}}
    client, _ = scripted(httpx.Response(200, json=failed))
    with pytest.raises(PneumoscopeError) as caught:
        client.examine(b"film")
    assert not isinstance(caught.value, InputError)


def test_it_needs_httpx_alone() -> None:
    code = (
        "import sys\n"
        "from pneumoscope_clinic.client import Client\n"
        "Client('http://x', 't').close()\n"
        "wrong = {'sqlalchemy', 'fastapi', 'numpy', 'pydicom', 'onnxruntime'} & set(sys.modules)\n"
        "assert not wrong, wrong\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
