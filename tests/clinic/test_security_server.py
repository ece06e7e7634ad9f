"""The server as it listens: clients that are slow, endless, many or rude."""

import asyncio
import contextlib
import socket
import threading
import time

import pytest
import uvicorn

from pneumoscope_clinic.store.viewers import create_token
from pneumoscope_clinic.web.app import create_app
from pneumoscope_clinic.web.limits import Guard, timed_protocol
from tests.clinic.test_security_access import account
from tests.clinic.web_clinic import web_clinic

HEADER_S, BODY_S, READING_S = 0.6, 1.0, 0.6
FILM_PART = b'--b\r\nContent-Disposition: form-data; name="film"; filename="f"\r\n\r\n'


@contextlib.contextmanager
def listening(app, **settings):
    """Uvicorn in a thread, as ``web.server.serve`` sets it up."""
    config = uvicorn.Config(
        app,
        http=timed_protocol(HEADER_S, READING_S),
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=1,
        lifespan="on",
        **settings,
    )
    server = uvicorn.Server(config)
    wire = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [wire]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield wire.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        wire.close()


@pytest.fixture(scope="module")
def clinic(tmp_path_factory):
    settings = {"server__max_upload_mb": 0.5, "server__request_seconds": BODY_S}
    with web_clinic(tmp_path_factory.mktemp("server"), **settings) as (store, _):
        yield store


@pytest.fixture(scope="module")
def port(clinic):
    with listening(create_app(clinic), limit_concurrency=50) as number:
        yield number


@pytest.fixture(scope="module")
def token(clinic):
    return create_token(clinic, account(clinic, "ada"), "t", ["examine", "read"])


def connect(port):
    wire = socket.create_connection(("127.0.0.1", port), timeout=10)
    wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return contextlib.closing(wire)


def drip(wire, content, pause=0.1, longest=4):
    """Send a byte at a time until the server hangs up; returns the seconds, None when it did not."""
    started, number = time.monotonic(), 0
    wire.settimeout(pause)
    while time.monotonic() - started < longest:
        try:
            wire.sendall(content[number % len(content)].encode())
            number += 1
            while wire.recv(65536):  # what is left of an answer
                pass
            return time.monotonic() - started
        except TimeoutError:
            continue
        except OSError:
            return time.monotonic() - started
    return None


def answer(wire):
    wire.settimeout(10)
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := wire.recv(65536):
            found += piece
    return found


def post(path, token="", length=None, more=""):
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    size = "Transfer-Encoding: chunked\r\n" if length is None else f"Content-Length: {length}\r\n"
    return (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"{authorization}{size}{more}\r\n"
    ).encode()


def works(port):
    with connect(port) as wire:
        wire.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return answer(wire).startswith(b"HTTP/1.1 200")


def test_a_header_that_drips_in(port):
    with connect(port) as wire:
        wire.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
        assert HEADER_S * 0.8 < drip(wire, "X-Slow: yes\r\n") < HEADER_S + 1
    assert works(port)


def test_a_second_header_that_drips_in(port):
    """The clock starts again after each answer."""
    with connect(port) as wire:
        wire.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert wire.recv(65536).startswith(b"HTTP/1.1 200")
        assert drip(wire, "GET / HTTP/1.1\r\nX-Slow: ") < HEADER_S + 1


def test_a_connection_that_says_nothing(port):
    with connect(port) as wire:
        started = time.monotonic()
        assert answer(wire) == b""
        assert time.monotonic() - started < HEADER_S + 1


def test_several_requests_of_one_connection(port):
    """Pipelined, and one after the other for longer than a header may take."""
    request = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with connect(port) as wire:
        wire.sendall(request * 3)
        for _ in range(4):
            time.sleep(HEADER_S / 3)
            wire.sendall(request)
        wire.sendall(request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert answer(wire).count(b"HTTP/1.1 200") == 8


def test_a_body_that_drips_in(port, token):
    with connect(port) as wire:
        wire.sendall(post("/v1/examine", token, 1000) + FILM_PART)
        started = time.monotonic()
        for _ in range(40):
            wire.sendall(b"x")
            time.sleep(0.05)
            if time.monotonic() - started > BODY_S:
                break
        assert answer(wire).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - started < BODY_S + 2


def test_a_body_that_nobody_asked_for(port):
    """The answer is given before the body is there; what drips in afterwards keeps no connection."""
    with connect(port) as wire:
        wire.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        assert wire.recv(65536).startswith(b"HTTP/1.1 404")
        assert drip(wire, "x") is not None


def test_a_body_that_is_said_to_be_too_large(port, token):
    with connect(port) as wire:
        wire.sendall(post("/v1/examine", token, 10**12))
        said = answer(wire)
        assert said.startswith(b"HTTP/1.1 413")
        assert b"x-frame-options: DENY" in said
    for length in ("-1", "1e9", "٣", "0x10", "1 1"):
        with connect(port) as wire:
            wire.sendall(post("/v1/examine", token, length))
            assert answer(wire)[9:12] in (b"400", b"413"), length


def test_a_body_without_a_length_that_is_too_large(tmp_path):
    with (
        web_clinic(tmp_path, server__max_upload_mb=0.5) as (store, _),
        listening(create_app(store)) as port,
        connect(port) as wire,
    ):
        token = create_token(store, account(store, "ada"), "t", ["examine"])
        wire.sendall(post("/v1/examine", token) + b"10000\r\n" + FILM_PART.ljust(65536, b"x") + b"\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                wire.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        assert answer(wire).startswith(b"HTTP/1.1 413")
        assert works(port)


@pytest.mark.parametrize("path", ["/v1/examine", "/v1/batches", "/login", "/language"])
def test_a_stranger_may_not_fill_the_memory(port, path):
    """Before anything large is kept it must be known who sends it."""
    for token in ("", "pns_" + "x" * 43):
        with connect(port) as wire:
            wire.sendall(post(path, token, 500_000) + FILM_PART)
            with contextlib.suppress(ConnectionError):
                wire.sendall(b"x" * 300_000)
            assert answer(wire).startswith(b"HTTP/1.1 401"), (path, token)


def test_a_known_sender_may(port, token):
    body = FILM_PART + b"x" * 300_000 + b"\r\n--b--\r\n"
    with connect(port) as wire:
        wire.sendall(post("/v1/examine?wait=false", token, len(body), "Connection: close\r\n") + body)
        assert answer(wire).startswith(b"HTTP/1.1 202")


def test_a_client_that_does_not_read(clinic):
    """An answer that nobody takes does not keep its connection."""

    async def endless(scope, receive, send):
        if scope["type"] == "lifespan":
            await receive()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await send({"type": "lifespan.shutdown.complete"})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2000):
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    with listening(endless) as number, connect(number) as wire:
        wire.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(READING_S + 1)
        assert len(answer(wire)) < 2000 * 65536


def test_many_connections(port):
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(connect(port)) for _ in range(80)]
        last = wires[-1]
        last.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert answer(last).startswith(b"HTTP/1.1 503")
    time.sleep(0.2)
    assert works(port)


def test_rude_requests(port):
    for request in (
        b"\x00\xff\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET\r\n\r\n",
        b"A" * 100_000,
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 70_000 + b"\r\n\r\n",
        b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\nInjected: b\r\n\x00\r\n\r\n",
    ):
        with connect(port) as wire:
            with contextlib.suppress(ConnectionError):
                wire.sendall(request)
            assert answer(wire)[9:12] in (b"400", b"303", b""), request[:40]
    assert works(port)


def test_smuggled_requests_are_not_seen(port):
    """Both a length and chunks: the chunks count (RFC 9112 section 6.3), and nothing is left over."""
    with connect(port) as wire:
        wire.sendall(
            b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        found = answer(wire)
    assert found.count(b"HTTP/1.1 200") <= 1
    assert found[9:12] in (b"404", b"400")


def test_bodies_at_once_are_limited():
    """Four of the greatest length are held; the fifth is asked to come back."""
    held, release = [], asyncio.Event()

    async def app(scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        held.append(1)
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    guard = Guard(app, max_bytes=1000, seconds=5, https=False, is_known=lambda scope: True)

    async def one():
        said = []

        async def receive():
            return {"type": "http.request", "body": b"x" * 1000, "more_body": False}

        async def send(message):
            said.append(message)

        await guard({"type": "http", "method": "POST", "path": "/", "headers": []}, receive, send)
        return said[0]["status"]

    async def all_of_them():
        waiting = [asyncio.create_task(one()) for _ in range(4)]
        while len(held) < 4:
            await asyncio.sleep(0)
        refused = await one()
        release.set()
        return refused, await asyncio.gather(*waiting), await one()

    assert asyncio.run(all_of_them()) == (503, [200] * 4, 200)
