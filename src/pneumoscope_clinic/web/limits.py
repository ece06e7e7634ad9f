"""Request limits (401, 408, 413, 503 before a request costs more) and security headers, pure ASGI."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

_log = logging.getLogger(__name__)

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; object-src 'none'"
)
_HEADERS = {
    b"content-security-policy": CONTENT_SECURITY_POLICY.encode(),
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",  # with no-referrer browsers send "Origin: null", even to us
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    b"cache-control": b"no-store",
}
_HSTS = b"max-age=31536000"


_STRANGERS_BYTES = 2**16
"""Of a body whose sender is not known; the longest that they need is the log-in form's."""
_BODIES_AT_ONCE = 4
"""Bodies of the greatest length that a process holds in memory; others come back later."""
_OURS = re.compile(r"[0-9a-f]{32}|[0-9]{1,19}|[a-z][a-z0-9._-]{0,31}|")


class _RefusedError(Exception):
    """The request was answered before the application could."""


class Guard:
    """Limits the length and the time of a request's body, logs the request, and adds headers to the answer.

    The log line has method, path, status and time; queries and headers, which may name people, are not in it,
    nor is the text of an unexpected error.

    Args:
        app: the application.
        max_bytes: of a body.
        seconds: for the whole body to arrive.
        https: the browser sees https, and shall insist on it.
        is_known: whether a request brings a valid token or session; asked before more than a form is read.
    """

    def __init__(
        self, app: ASGIApp, max_bytes: int, seconds: float, https: bool, is_known: Callable[[Scope], bool]
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.seconds = seconds
        self.https = https
        self.is_known = is_known
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer = _Answer(send, self.https)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        started = time.perf_counter()
        if not length.isdigit() or int(length) > self.max_bytes:
            await answer.problem(413, "the body is too large", f"at most {self.max_bytes} bytes")
        else:
            await self._limited(scope, receive, answer)
        seconds = time.perf_counter() - started
        _log.info("%s %s %s %.3f s", _method(scope), shown_path(scope), answer.status, seconds)

    async def _limited(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        body = _Body(self, scope, receive, answer)
        try:
            await self.app(scope, body, answer)
        except _RefusedError:
            pass  # it is answered
        except Exception as error:
            # Its text may quote what was sent; a server that catches it would write it to the log.
            place = traceback.extract_tb(error.__traceback__)[-1]
            kind, file = type(error).__name__, Path(place.filename).name
            _log.error("%s %s: %s at %s:%s", _method(scope), shown_path(scope), kind, file, place.lineno)
            await answer.problem(500, "an unexpected error of ours")
        finally:
            self._held -= body.read

    async def admit(self, scope: Scope, before: int, read: int, answer: _Answer) -> None:
        """Refuse a body that has grown from ``before`` to ``read`` bytes if that is too much.

        Raises:
            _RefusedError: it is, and it is answered.
        """
        self._held += read - before
        if read > self.max_bytes:
            await answer.refuse(413, "the body is too large", f"at most {self.max_bytes} bytes")
        if before <= _STRANGERS_BYTES < read and not await run_in_threadpool(self.is_known, scope):
            await answer.refuse(401, "nobody is logged in", "a valid token or session before a large body")
        if self._held > _BODIES_AT_ONCE * self.max_bytes:
            await answer.refuse(503, "too many images arrive at once", "fewer requests at a time")


class _Body:
    """``receive`` of a request, within limits of time and length."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, answer: _Answer) -> None:
        self._guard = guard
        self._scope = scope
        self._receive = receive
        self._answer = answer
        self._end = time.monotonic() + guard.seconds
        self._whole = False
        self.read = 0

    async def __call__(self) -> Message:
        """The next part of the body."""
        if self._whole:  # what comes after the body is only the client's leaving
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._end - time.monotonic())):
                message = await self._receive()
        except TimeoutError:
            limit = f"all of it within {self._guard.seconds:g} s"
            await self._answer.refuse(408, "the body took too long", limit)
        before, self.read = self.read, self.read + len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        await self._guard.admit(self._scope, before, self.read, self._answer)
        return message


def shown_path(scope: Scope) -> str:
    """The path of a request for the log: segments of our own making; others may be names or forged."""
    parts = scope["path"][:200].split("/")
    return "/".join(part if _OURS.fullmatch(part) else "…" for part in parts)


def _method(scope: Scope) -> str:
    method = scope["method"]
    return method if method.isalpha() and len(method) <= 16 else "?"


class _Answer:
    """Passes the answer on, with the headers."""

    def __init__(self, send: Send, https: bool) -> None:
        self._send = send
        self._https = https
        self._over = False
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if self._over:
            return
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name.lower() for name, _ in message["headers"]}
            extra = [(name, value) for name, value in _HEADERS.items() if name not in given]
            if self._https:
                extra.append((b"strict-transport-security", _HSTS))
            message = {**message, "headers": [*message["headers"], *extra]}
        await self._send(message)

    async def refuse(self, status: int, title: str, expected: str) -> NoReturn:
        """Answer with a problem; what the application says after that goes nowhere."""
        await self.problem(status, title, expected)
        self._over = True
        raise _RefusedError

    async def problem(self, status: int, title: str, expected: str | None = None) -> None:
        """Answer with a problem (RFC 9457), unless an answer has begun."""
        if self.status:
            return
        said = {"type": "about:blank", "title": title, "status": status, "expected": expected}
        body = json.dumps({name: value for name, value in said.items() if value is not None}).encode()
        headers = [
            (b"content-type", b"application/problem+json"),
            (b"content-length", str(len(body)).encode()),
        ]
        headers.append((b"connection", b"close"))
        await self({"type": "http.response.start", "status": status, "headers": headers})
        await self({"type": "http.response.body", "body": body})


class TimedProtocol(H11Protocol):
    """Uvicorn's HTTP, and limits on the time of a request's header and of a client that does not read.

    One clock runs whenever no request is being answered: from the connection, or the end of an answer, to the
    end of the next header. So neither headers that drip in, the first or a later one, nor a body that nobody
    asked for keep a connection (slow-loris).
    """

    header_seconds = 10.0
    reading_seconds = 60.0
    _clock: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the clock of the first request."""
        super().connection_made(transport)
        self._start_clock()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._stop_clock()
        self._stop_reading()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Stop the clock when a header is complete."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_clock()

    def on_response_complete(self) -> None:
        """Start the clock of the next request."""
        self._start_clock()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Start the clock of a client that does not read."""
        super().pause_writing()
        self._stop_reading()
        self._reading = self.loop.call_later(self.reading_seconds, self._too_slow)

    def resume_writing(self) -> None:
        """Stop it."""
        self._stop_reading()
        super().resume_writing()

    def _start_clock(self) -> None:
        self._stop_clock()
        self._clock = self.loop.call_later(self.header_seconds, self._too_slow)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()

    def _stop_reading(self) -> None:
        if self._reading is not None:
            self._reading.cancel()

    def _too_slow(self) -> None:
        self.transport.abort()


def timed_protocol(header_seconds: float, reading_seconds: float = 60.0) -> type[TimedProtocol]:
    """:class:`TimedProtocol` with limits of its own."""
    limits = {"header_seconds": header_seconds, "reading_seconds": reading_seconds}
    return type("TimedProtocol", (TimedProtocol,), limits)
